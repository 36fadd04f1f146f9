//! Inputs that are read as the program reads them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use ipfs_exec_tests::dag::{Blocks, Link};
use ipfs_exec_tests::environment::assert_bounded;
use ipfs_exec_tests::random::Random;
use ipfs_exec_tests::{Environment, Served, requirement};
use rustix::process::Signal;
use serde_json::Value;

use crate::machine::Machine;

fn machine() -> Machine {
    requirement::fuse();
    Machine::new()
}

/// What a program can find out about a tree.
const SURVEY: &str = "cd /input; find . | sort; find . -type f | sort | xargs md5sum; \
                      find . | sort | xargs stat -c '%n %F %a %Y %u %g'; readlink link; \
                      find . -type f | sort | xargs stat -c '%n %s'";

#[test]
fn both_modes_show_the_same() {
    let machine = machine();
    let environment = &machine.environment;
    environment.write("input/large", Random::new(70).bytes(3_000_000));
    environment.write("input/sub/deep/small", "small");
    environment.directory("input/empty");
    std::os::unix::fs::symlink("sub", environment.file("input/link")).unwrap();
    let arguments = ["add", "-Q", "--preserve-mode", "--preserve-mtime"];
    for arguments in [&arguments[..2], &arguments] {
        let input = environment
            .ipfs_exec(arguments)
            .argument("input")
            .succeeds()
            .line();
        let survey = format!("{{ {SURVEY}; }} > /output/survey");
        let run = |mode| {
            let run = environment.ipfs_exec(["run", "--input-mode", mode, &machine.rootfs, &input]);
            run.arguments(["sh", "-c", &survey]).succeeds().line()
        };
        let (mounted, copied) = (run("mount"), run("copy"));
        let said =
            |cid: &str| String::from_utf8(environment.cat(&format!("{cid}/survey"))).unwrap();
        assert_eq!(said(&mounted), said(&copied));
        assert!(said(&mounted).contains("sub/deep/small"));
    }
    environment.assert_clean();
}

#[test]
fn an_input_can_be_one_file() {
    let machine = machine();
    let content = Random::new(71).bytes(1_000_000);
    machine.environment.write("file", &content);
    let input = machine.environment.add("file");
    let run = machine.run_on(&input, ["sh", "-c", "cat /input > /output/copy"]);
    let output = run.succeeds().line();
    assert!(machine.environment.cat(&format!("{output}/copy")) == content);
}

#[test]
fn the_input_cannot_be_written_in_either_mode() {
    let machine = machine();
    machine.environment.write("input/file", "");
    let input = machine.environment.add("input");
    for mode in ["mount", "copy"] {
        let run = machine
            .environment
            .ipfs_exec(["run", "--input-mode", mode, &machine.rootfs]);
        let script = "echo x > /input/file || touch /input/new || rm /input/file";
        run.arguments([&*input, "sh", "-c", script]).ends_with(1);
    }
}

/// The host sees no mount, while the program does, and none stays when all are killed.
#[test]
fn a_run_that_is_killed_leaves_no_mount() {
    let machine = machine();
    machine.environment.write("input/file", "content");
    let input = machine.environment.add("input");
    let mut random = Random::new(72);
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let repository = machine
        .environment
        .repository()
        .to_str()
        .unwrap()
        .to_owned();
    for _ in 0..50 {
        let script = "while :; do cat /input/file /input/file > /output/copy; done";
        let running = machine.run_on(&input, ["sh", "-c", script]).start();
        std::thread::sleep(std::time::Duration::from_millis(u64::from(
            random.bytes(1)[0],
        )));
        running.signal(Signal::KILL);
        running.wait();
        assert!(!mounts().contains(&repository), "{}", mounts());
    }
    let after = machine.run_on(&input, ["cat", "/input/file"]).succeeds();
    assert_eq!(after.stderr, "content");
    machine.environment.assert_clean();
}

#[test]
fn unreadable_content_fails_the_run() {
    let machine = machine();
    let mut blocks = Blocks::new();
    let (here, gone) = (blocks.file(b"here"), blocks.file(b"gone"));
    let sub = blocks.directory(&[Link::new("gone", gone, 10)]);
    let root = blocks.directory(&[Link::new("here", here, 10), Link::new("sub", sub, 10)]);
    blocks.forget(&gone);
    machine.environment.write("some.car", blocks.car(&[root]));
    machine
        .environment
        .ipfs_exec(["import", "--pin-roots=false", "some.car"])
        .succeeds();
    let run = |script| machine.run_on(&root.to_string(), ["sh", "-c", script]);
    // What it does not need, it does not miss.
    run("cat /input/here").succeeds();
    // Whatever it makes of it.
    let failed = run("cat /input/sub/gone; exit 0");
    failed.fails(125, &["sub/gone", &root.to_string(), &gone.to_string()]);
    machine.environment.assert_clean();
}

/// One megabyte is wanted in the middle of a file that a peer has.
#[test]
fn a_job_fetches_only_the_blocks_that_it_reads() {
    let giver = Environment::new();
    giver.write("part", Random::new(73).bytes(64 << 20));
    let part = giver.add("part");
    let served = Served::start(&giver);
    let machine = machine();
    let script = "dd if=/input of=/output/middle bs=65536 skip=500 count=16 2>/dev/null";
    let mut arguments = vec![
        "run",
        "--peer",
        &served.tcp,
        "--stats",
        &machine.rootfs,
        &part,
    ];
    arguments.extend(["sh", "-c", script]);
    let outcome = machine.environment.ipfs_exec(arguments).succeeds();
    let middle = machine
        .environment
        .cat(&format!("{}/middle", outcome.line()));
    let part = fs::read(giver.file("part")).unwrap();
    assert!(middle == part[500 << 16..516 << 16]);
    let stored = machine.environment.statistic("bytes");
    assert!(stored < 10 << 20, "{stored}");
    served.end();
}

/// A trace holds what was touched and nothing else, and is enough to do it again.
#[test]
fn a_trace_lists_the_dependencies_of_a_job() {
    let machine = machine();
    let environment = &machine.environment;
    let mut blocks = Blocks::new();
    let [first, unread, second, third] =
        ["1", "never", "2", "3"].map(|content| blocks.file(content.as_bytes()));
    let sub = blocks.directory(&[Link::new("second", second, 9)]);
    let listed = blocks.directory(&[Link::new("third", third, 9)]);
    let root = blocks.directory(&[
        Link::new("first", first, 9),
        Link::new("listed", listed, 9),
        Link::new("sub", sub, 9),
        Link::new("unread", unread, 9),
    ]);
    environment.write("all.car", blocks.car(&[root]));
    environment.ipfs_exec(["import", "all.car"]).succeeds();
    let input = root.to_string();
    let script = "cat /input/first /input/sub/second > /output/o; \
                  ls /input/listed >> /output/o; [ -e /input/missing ]; :";
    let mut arguments = vec![
        "run",
        "--trace",
        "trace",
        "--stats",
        &machine.rootfs,
        &input,
    ];
    arguments.extend(["/bin/sh", "-c", script]);
    let outcome = environment.ipfs_exec(arguments.clone()).succeeds();
    assert!(outcome.stderr.contains("input: "), "{outcome:?}");
    let trace = fs::read_to_string(environment.file("trace")).unwrap();
    let lines: Vec<Value> = trace
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut touched: Vec<_> = lines
        .iter()
        .map(|line| {
            format!(
                "{} {}",
                line["access"].as_str().unwrap(),
                line["path"].as_str().unwrap()
            )
        })
        .filter(|line| !line.starts_with("attributes"))
        .collect();
    touched.sort();
    assert_eq!(
        touched,
        [
            "absence missing",
            "content first",
            "content sub/second",
            "names listed"
        ]
    );
    assert!(!trace.contains("unread"), "{trace}");
    // With these blocks alone the same comes out elsewhere.
    let other = Environment::new();
    let traced: Vec<&str> = lines
        .iter()
        .flat_map(|line| line["blocks"].as_array().unwrap())
        .map(|cid| cid.as_str().unwrap())
        .collect();
    for cid in [first, unread, second, third, sub, listed, root] {
        if !traced.contains(&&*cid.to_string()) {
            blocks.forget(&cid);
        }
    }
    assert!(blocks.get(&unread).is_none() && blocks.get(&first).is_some());
    other.write("subset.car", blocks.car(&[root]));
    other.ipfs_exec(["import", "subset.car"]).run();
    let rootfs = other.add(environment.file("rootfs.tar"));
    let mut arguments = vec!["run", "--offline", &rootfs, &input];
    arguments.extend(["/bin/sh", "-c", script]);
    assert_eq!(other.ipfs_exec(arguments).succeeds().line(), outcome.line());
}

/// The most memory of ours, for any tree.
const MEMORY_BYTES: u64 = 128 << 20;

/// A tree of 10^12 names in four blocks, of which a program looks at as many as it can in some seconds.
#[test]
fn a_tree_without_end_takes_bounded_memory() {
    let machine = machine();
    let mut blocks = Blocks::new();
    let mut below = blocks.file(b"x");
    for _ in 0..4 {
        let names = (0..1000).map(|number| format!("{number:0>40}"));
        let links: Vec<_> = names.map(|name| Link::new(name, below, 10)).collect();
        below = blocks.directory(&links);
    }
    let environment = &machine.environment;
    environment.write("tree.car", blocks.car(&[below]));
    environment.ipfs_exec(["import", "tree.car"]).succeeds();
    let tree = below.to_string();
    // Names alone, all that is known of each, and in several places at once.
    for script in [
        "find /input > /dev/null",
        "find /input -size +100",
        "for i in 0 1 2 3; do ls -lR /input/*$i > /dev/null & done; wait",
    ] {
        let arguments = [
            "run",
            "--timeout",
            "12s",
            &machine.rootfs,
            &tree,
            "sh",
            "-c",
        ];
        let outcome = environment.ipfs_exec(arguments).argument(script).run();
        assert_eq!(outcome.code, Some(124), "{outcome:?}");
        assert!(!outcome.stderr.contains("find: "), "{outcome:?}");
        assert_bounded(&outcome, MEMORY_BYTES);
    }
    environment.assert_clean();
}

/// Files in use keep their names while a program looks at more files than the table holds.
#[test]
fn nodes_in_use_are_kept() {
    let machine = machine();
    let mut blocks = Blocks::new();
    let file = blocks.file(b"content");
    let names = (0..300).map(|number| format!("{number:0>3}"));
    let links: Vec<_> = names.map(|name| Link::new(name, file, 10)).collect();
    let many = blocks.directory(&links);
    let names = (0..300).map(|number| format!("{number:0>3}"));
    let links: Vec<_> = names.map(|name| Link::new(name, many, 10)).collect();
    let all = blocks.directory(&links);
    let root = blocks.directory(&[Link::new("all", all, 10), Link::new("work", many, 10)]);
    let environment = &machine.environment;
    environment.write("tree.car", blocks.car(&[root]));
    environment.ipfs_exec(["import", "tree.car"]).succeeds();
    let script = "cd /input/work; exec 5< 007; find /input/all -size +100; find /input/all -size +100; \
                  pwd; readlink /proc/self/fd/5; cat <&5; ls ../work | wc -l; cat 299";
    let run = machine.run_on(&root.to_string(), ["sh", "-c", script]);
    let said = run.succeeds().stderr;
    assert_eq!(said, "/input/work\n/input/work/007\ncontent300\ncontent");
}

/// Programs of a mounted input give no rights of their owner.
#[test]
fn set_id_bits_are_not_shown() {
    let machine = machine();
    let environment = &machine.environment;
    environment.write("input/program", "");
    environment.directory("input/shared");
    environment.directory("input/group");
    for (name, mode) in [("program", 0o6755), ("shared", 0o1777), ("group", 0o2755)] {
        let path = environment.file(format!("input/{name}"));
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    let added = environment.ipfs_exec(["add", "-Q", "--preserve-mode", "input"]);
    let input = added.succeeds().line();
    let script = "cd /input; stat -c '%n %a' *";
    let run = machine.run_on(&input, ["sh", "-c", script]);
    let said = run.succeeds().stderr;
    assert_eq!(said, "group 755\nprogram 755\nshared 1777\n");
}
