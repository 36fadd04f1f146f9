//! `kill -9` at random moments.

use std::time::Duration;
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

/// Sizes of the trees that are added, and how many of twenty have each: mostly a few megabytes,
/// sometimes more than one batch.
const SIZES: [(usize, u64); 3] = [(2_000_000, 14), (16_000_000, 5), (90_000_000, 1)];

/// The index of a size.
fn draw_size(random: &mut Random) -> usize {
    let mut draw = random.below(SIZES.iter().map(|(_, share)| share).sum());
    let chosen = SIZES.iter().position(|(_, share)| {
        let found = draw < *share;
        draw = draw.saturating_sub(*share);
        found
    });
    chosen.unwrap()
}

/// Writes a tree that no other number gives.
fn write_tree(environment: &Environment, number: u64, bytes: usize, random: &mut Random) {
    environment.write("tree/large", random.bytes(bytes));
    for index in 0..20 {
        environment.write(format!("tree/sub/{index}"), format!("{number} {index}"));
    }
}

/// Reads what is pinned beside `kept`, and unpins it.
fn check_and_unpin(environment: &Environment, kept: &str) {
    for line in environment
        .ipfs_exec(["pin", "ls", "--json"])
        .succeeds()
        .json()
    {
        let cid = line["cid"].as_str().unwrap();
        if line["type"] == "recursive" && cid != kept {
            environment
                .ipfs_exec(["cat", &format!("{cid}/large")])
                .succeeds();
            environment.ipfs_exec(["pin", "rm", cid]).succeeds();
        }
    }
}

#[test]
fn killed_adds_cost_nothing() {
    let kills = std::env::var("IPFS_EXEC_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    println!("IPFS_EXEC_SEED={} IPFS_EXEC_KILLS={kills}", seed());
    let mut random = Random::new(seed());
    let environment = Environment::new();
    environment.write("kept", random.bytes(3_000_000));
    let kept = environment.add("kept");
    let add = || environment.ipfs_exec(["add", "-Q", "tree"]);

    // How long an add of each size takes: measured once, then corrected by what happens, so that
    // most are killed, at moments all over their time.
    let mut spans = SIZES.map(|(bytes, _)| {
        write_tree(&environment, u64::MAX, bytes, &mut random);
        add().succeeds().elapsed
    });
    check_and_unpin(&environment, &kept);

    let (mut killed, mut number) = (0, 0);
    while killed < kills {
        let size = draw_size(&mut random);
        write_tree(&environment, number, SIZES[size].0, &mut random);
        let running = add().start();
        thread::sleep(spans[size].mul_f64(random.below(1000) as f64 / 1000.0));
        running.signal(Signal::KILL);
        let outcome = running.wait();
        if outcome.signal == Some(9) {
            killed += 1;
            spans[size] = spans[size].mul_f64(1.01);
        } else {
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
            spans[size] = spans[size].mul_f64(0.95);
            let path = format!("{}/large", outcome.line());
            let stat = environment.ipfs_exec(["stat", &path]).run();
            assert_eq!(
                stat.code,
                Some(0),
                "an add that ended well is lost\n{stat:?}"
            );
        }
        // Also one that was killed may have committed before.
        check_and_unpin(&environment, &kept);
        if number % 20 == 19 {
            environment.ipfs_exec(["verify"]).succeeds();
            environment.ipfs_exec(["gc"]).succeeds();
        }
        fs::remove_dir_all(environment.file("tree")).unwrap();
        number += 1;
        assert!(
            number < 10 * kills,
            "only {killed} of {number} were killed in time"
        );
    }
    println!("{killed} of {number} were killed");

    environment.ipfs_exec(["verify"]).succeeds();
    environment.ipfs_exec(["gc"]).succeeds();
    // The next writer removes the scratch of the dead.
    environment.ipfs_exec(["mkdir"]).succeeds();
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

/// A rebuild that is killed at any moment loses nothing and can be done again.
#[test]
fn killed_rebuilds_lose_nothing() {
    const ROUNDS: u64 = 40;
    let environment = Environment::new();
    let mut random = Random::new(seed() ^ 2);
    write_tree(&environment, 0, 8_000_000, &mut random);
    let cid = environment.add("tree");
    let pins = || {
        environment
            .ipfs_exec(["pin", "ls"])
            .succeeds()
            .text()
            .to_owned()
    };
    let before = pins();
    let reindex = || environment.ipfs_exec(["repo", "reindex"]);
    let span = reindex().succeeds().elapsed;
    let mut killed = 0;
    for _ in 0..ROUNDS {
        let running = reindex().start();
        thread::sleep(span.mul_f64(random.below(1000) as f64 / 1000.0));
        running.signal(Signal::KILL);
        killed += u64::from(running.wait().signal == Some(9));
        assert_eq!(pins(), before);
    }
    assert!(killed > ROUNDS / 4, "only {killed} of {ROUNDS} were killed");
    reindex().succeeds();
    assert_eq!(pins(), before);
    environment.ipfs_exec(["gc"]).succeeds();
    assert_eq!(environment.cat(&format!("{cid}/large")).len(), 8_000_000);
    environment.assert_clean();
}
