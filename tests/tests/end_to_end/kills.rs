//! `kill -9` at random moments.

use std::time::{Duration, Instant};
use std::{fs, thread};

use ipfs_exec_tests::random::Random;
use ipfs_exec_tests::{Environment, tree};
use rustix::process::Signal;

/// How many times an import is killed, unless `IPFS_EXEC_KILLS` says otherwise.
const KILLS: u64 = 200;

/// A seed of its own for each series: `IPFS_EXEC_SEED` repeats one that failed.
fn seed() -> u64 {
    std::env::var("IPFS_EXEC_SEED").map_or(20_260_801, |seed| seed.parse().unwrap())
}

/// Writes a tree that no other number gives: mostly a few megabytes, sometimes more than one batch.
fn write_tree(environment: &Environment, number: u64, random: &mut Random) -> u64 {
    let bytes = match random.below(20) {
        0 => 90_000_000,
        1..=4 => 16_000_000,
        _ => 2_000_000,
    };
    environment.write("tree/large", random.bytes(bytes));
    for index in 0..20 {
        environment.write(format!("tree/sub/{index}"), format!("{number} {index}"));
    }
    bytes as u64
}

#[test]
fn killed_adds_cost_nothing() {
    let kills = std::env::var("IPFS_EXEC_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    println!("IPFS_EXEC_SEED={} IPFS_EXEC_KILLS={kills}", seed());
    let mut random = Random::new(seed());
    let environment = Environment::new();
    environment.write("kept", random.bytes(3_000_000));
    let kept = environment.add("kept");
    let (mut killed, mut finished) = (0, 0);
    // Nanoseconds a byte, learned from those that end by themselves.
    let mut pace = 5.0;
    for number in 0..kills {
        let bytes = write_tree(&environment, number, &mut random);
        let expected = 8_000_000.0 + pace * bytes as f64;
        let delay = random.below(1000) as f64 / 1000.0 * 1.2 * expected;
        let started = Instant::now();
        let running = environment.ipfs_exec(["add", "-Q", "tree"]).start();
        thread::sleep(Duration::from_nanos(delay as u64));
        running.signal(Signal::KILL);
        let outcome = running.wait();
        if outcome.code == Some(0) {
            finished += 1;
            pace = 0.7 * pace + 0.3 * started.elapsed().as_nanos() as f64 / bytes as f64;
            let cid = outcome.line();
            let stat = environment
                .ipfs_exec(["stat", &format!("{cid}/large")])
                .run();
            assert_eq!(
                stat.code,
                Some(0),
                "an add that ended well is lost\n{stat:?}"
            );
            environment.ipfs_exec(["pin", "rm", &cid]).succeeds();
        } else {
            assert_eq!(outcome.signal, Some(9), "{outcome:?}");
            killed += 1;
            // It may have committed before it died.
            for line in environment
                .ipfs_exec(["pin", "ls", "--json"])
                .succeeds()
                .json()
            {
                let cid = line["cid"].as_str().unwrap();
                let root = line["type"] == "recursive";
                if root && cid != kept {
                    environment
                        .ipfs_exec(["cat", &format!("{cid}/large")])
                        .succeeds();
                    environment.ipfs_exec(["pin", "rm", cid]).succeeds();
                }
            }
        }
        if number % 20 == 19 {
            environment.ipfs_exec(["verify"]).succeeds();
            environment.ipfs_exec(["gc"]).succeeds();
        }
        fs::remove_dir_all(environment.file("tree")).unwrap();
    }
    println!("{killed} killed, {finished} finished first");
    assert!(
        killed * 4 >= kills,
        "only {killed} of {kills} were killed in time"
    );

    environment.ipfs_exec(["verify"]).succeeds();
    environment.ipfs_exec(["gc"]).succeeds();
    environment.assert_clean();
    assert_eq!(environment.cat(&kept).len(), 3_000_000);
    let used = tree::disk_usage(&environment.repository().join("blocks"));
    assert!(
        used < 3_000_000 + 4_000_000,
        "{used} bytes are taken by 3 MB of pinned data"
    );
}

#[test]
fn killed_writers_leave_the_data_of_others() {
    let environment = Environment::new();
    let mut random = Random::new(seed() ^ 1);
    for round in 0..5_u64 {
        let mut running = Vec::new();
        for number in 0..8_u64 {
            let name = format!("{round}-{number}");
            environment.write(&name, random.bytes(4_000_000));
            running.push(environment.ipfs_exec(["add", "-Q", &name]).start());
        }
        thread::sleep(Duration::from_millis(random.below(60)));
        for running in running.iter().step_by(2) {
            running.signal(Signal::KILL);
        }
        for (number, running) in running.into_iter().enumerate() {
            let outcome = running.wait();
            if number % 2 == 1 {
                assert_eq!(outcome.code, Some(0), "{outcome:?}");
                assert_eq!(environment.cat(&outcome.line()).len(), 4_000_000);
            }
        }
        // The next writer removes the scratch of the dead.
        environment.ipfs_exec(["mkdir"]).succeeds();
        environment.assert_clean();
    }
}
