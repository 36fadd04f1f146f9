//! Many processes on one repository.

use std::collections::HashSet;

use ipfs_exec_tests::random::Random;
use ipfs_exec_tests::{Archive, Environment, Running, requirement, tree};

use crate::machine::Machine;

/// How many processes start at once.
const PROCESSES: u64 = 64;

#[test]
fn many_runs_at_once_on_an_empty_repository() {
    requirement::bubblewrap();
    let environment = Environment::new();
    environment.write("rootfs.tar.gz", Archive::busybox().gzip());
    environment.write("input/hello", "hello\n");
    let script = "tr a-z A-Z < /input/hello > /output/shout";
    let running: Vec<Running> = (0..PROCESSES)
        .map(|_| {
            let run = ["run", "rootfs.tar.gz", "input", "sh", "-c", script];
            environment.ipfs_exec(run).start()
        })
        .collect();
    let mut cids = HashSet::new();
    for running in running {
        let outcome = running.wait();
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        cids.insert(outcome.line());
    }
    assert_eq!(cids.len(), 1, "{cids:?}");
    let cid = cids.into_iter().next().unwrap();
    assert_eq!(environment.cat(&format!("{cid}/shout")), b"HELLO\n");
    environment.assert_clean();
    let unpacked = ipfs_exec_tests::environment::entries(&environment.repository().join("rootfs"));
    assert_eq!(
        unpacked.len(),
        1,
        "the archive was unpacked more than once: {unpacked:?}"
    );
}

#[test]
fn many_adds_at_once() {
    let environment = Environment::new();
    environment.write("shared", Random::new(99).bytes(1_000_000));
    for number in 0..PROCESSES {
        let mut random = Random::new(number);
        environment.write(format!("{number}/large"), random.bytes(700_000));
        environment.write(format!("{number}/sub/small"), random.bytes(100));
        // The same in all of them.
        let shared = environment.file(format!("{number}/shared"));
        std::fs::copy(environment.file("shared"), shared).unwrap();
    }
    let running: Vec<Running> = (0..PROCESSES)
        .map(|number| {
            environment
                .ipfs_exec(["add", "-Q", &number.to_string()])
                .start()
        })
        .collect();
    let mut cids = Vec::new();
    for running in running {
        let outcome = running.wait();
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        cids.push(outcome.line());
    }
    environment.assert_clean();
    environment.ipfs_exec(["gc"]).succeeds();
    environment.assert_clean();
    for (number, cid) in cids.iter().enumerate() {
        let back = environment.file(format!("{number} again"));
        environment
            .ipfs_exec(["get", cid, "-o"])
            .argument(&back)
            .succeeds();
        let before = tree::snapshot(&environment.file(number.to_string()));
        assert!(
            tree::snapshot(&back) == before,
            "tree {number} came back changed"
        );
    }
}

#[test]
fn gc_leaves_blocks_of_a_run() {
    let machine = Machine::new();
    let environment = &machine.environment;
    environment.write("input/hello", "hello\n");
    let unpinned = |path: &str| {
        environment
            .ipfs_exec(["add", "-Q", "--pin=false", path])
            .succeeds()
            .line()
    };
    environment
        .ipfs_exec(["pin", "rm", &machine.rootfs])
        .succeeds();
    environment.ipfs_exec(["gc"]).succeeds();
    let (rootfs, input) = (unpinned("rootfs.tar"), unpinned("input"));
    let script = "echo ready >&2; sleep 1; cat /input/hello > /output/copy";
    let mut running = environment
        .ipfs_exec(["run", &rootfs, &input, "sh", "-c", script])
        .start();
    running.wait_for("ready");
    environment.ipfs_exec(["gc"]).succeeds();
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    environment.ipfs_exec(["gc"]).succeeds();
    assert_eq!(
        environment.cat(&format!("{}/copy", outcome.line())),
        b"hello\n"
    );
    environment.ipfs_exec(["stat", &input]).ends_with(1);
    environment.assert_clean();
}

#[test]
fn readers_writers_and_gc_at_once() {
    let environment = Environment::new();
    environment.write("kept", Random::new(7).bytes(5_000_000));
    let kept = environment.add("kept");
    let mut running = Vec::new();
    for number in 0..24 {
        environment.write(
            format!("new{number}"),
            Random::new(1000 + number).bytes(2_000_000),
        );
        running.push(
            environment
                .ipfs_exec(["add", "-Q", &format!("new{number}")])
                .start(),
        );
        running.push(environment.ipfs_exec(["cat", &kept]).start());
        if number % 4 == 0 {
            running.push(environment.ipfs_exec(["gc"]).start());
            running.push(environment.ipfs_exec(["verify"]).start());
        }
    }
    for running in running {
        let outcome = running.wait();
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
    environment.assert_clean();
    assert_eq!(environment.statistic("pins"), 25);
    for number in 0..24 {
        let again = environment.add(environment.file(format!("new{number}")));
        assert_eq!(environment.cat(&again).len(), 2_000_000);
    }
}
