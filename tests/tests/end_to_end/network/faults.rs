//! Peers that die, disks that fill and lie, while something is fetched.

use std::fs;
use std::time::Duration;

use ipfs_exec_tests::environment::binary;
use ipfs_exec_tests::random::Random;
use ipfs_exec_tests::{Environment, Running, Served, requirement};
use rustix::process::Signal;

use crate::faults::damage;

/// Waits until this many bytes of segments are on disk.
fn await_bytes(taker: &Environment, bytes: u64) {
    let blocks = taker.repository().join("blocks");
    let size = || {
        let found = fs::read_dir(&blocks).into_iter().flatten();
        let sizes = found.map(|entry| entry.unwrap().metadata().unwrap().len());
        sizes.sum::<u64>()
    };
    while size() < bytes {
        std::thread::yield_now();
    }
}

/// The number in `fetched N blocks`.
fn fetched_blocks(stderr: &str) -> u64 {
    let line = stderr.lines().find(|line| line.starts_with("fetched "));
    let number = line.and_then(|line| line.split(' ').nth(1));
    number.unwrap().parse().unwrap()
}

/// What arrived before the peer died is kept, and a second call fetches the rest alone.
#[test]
fn a_fetch_goes_on_where_it_was_when_its_peer_died() {
    let giver = Environment::new();
    giver.write("file", Random::new(41).bytes(300 << 20));
    let cid = giver.add("file");
    let served = Served::start(&giver);
    let taker = Environment::new();
    let arguments = ["fetch", "--idle-timeout=2", "--peer", &served.tcp, &cid];
    let fetch = taker.ipfs_exec(arguments).start();
    await_bytes(&taker, 20 << 20);
    served.running.signal(Signal::KILL);
    let outcome = fetch.wait();
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("lost"), "{outcome:?}");
    let before = taker.statistic("blocks");
    assert!(before > 50, "{before} blocks were kept");

    let again = Served::start(&giver);
    let outcome = taker
        .ipfs_exec(["fetch", "--peer", &again.tcp, &cid])
        .succeeds();
    let fetched = fetched_blocks(&outcome.stderr);
    assert_eq!(fetched + before, taker.statistic("blocks"), "{outcome:?}");
    taker.assert_clean();
    again.end();
}

/// With another provider at hand the fetch does not even fail.
#[test]
fn a_second_provider_goes_on_where_the_first_died() {
    let (first, second) = (Environment::new(), Environment::new());
    let content = Random::new(42).bytes(200 << 20);
    let mut cid = String::new();
    for giver in [&first, &second] {
        giver.write("file", &content);
        cid = giver.add("file");
    }
    let (dying, staying) = (Served::start(&first), Served::start(&second));
    let taker = Environment::new();
    let fetch = taker
        .ipfs_exec(["fetch", "--peer", &dying.tcp, "--peer", &staying.quic, &cid])
        .start();
    await_bytes(&taker, 20 << 20);
    dying.running.signal(Signal::KILL);
    let outcome = fetch.wait();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(taker.cat(&cid) == content);
    taker.assert_clean();
    staying.end();
}

/// A peer that is there and says nothing more, as when its machine hangs.
#[test]
fn silence_ends_after_the_idle_time() {
    let giver = Environment::new();
    giver.write("file", Random::new(43).bytes(300 << 20));
    let cid = giver.add("file");
    let served = Served::start(&giver);
    let taker = Environment::new();
    let fetch = taker
        .ipfs_exec(["fetch", "--idle-timeout=2", "--peer", &served.tcp, &cid])
        .start();
    await_bytes(&taker, 10 << 20);
    served.running.signal(Signal::STOP);
    let outcome = fetch.wait();
    served.running.signal(Signal::CONT);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(
        outcome.stderr.contains("no data arrived for 2 s"),
        "{outcome:?}"
    );
    assert!(outcome.elapsed < Duration::from_secs(20), "{outcome:?}");
    assert!(taker.statistic("blocks") > 20);
    served.end();
}

#[test]
fn a_damaged_block_is_healed_by_a_peer() {
    let (giver, taker) = (Environment::new(), Environment::new());
    let payload = Random::new(44).bytes(3000);
    let mut cid = String::new();
    for environment in [&giver, &taker] {
        environment.write("tree/damaged", &payload);
        environment.write("tree/sound", "sound");
        cid = environment.add("tree");
    }
    damage(taker.repository(), &payload);
    let served = Served::start(&giver);
    let fetched = taker
        .ipfs_exec(["fetch", "--peer", &served.tcp, &cid])
        .succeeds();
    assert_eq!(fetched_blocks(&fetched.stderr), 1, "{fetched:?}");
    served.end();
    assert_eq!(taker.cat(&format!("{cid}/damaged")), payload);
    taker.assert_clean();
}

#[test]
fn a_disk_that_fills_during_a_fetch_loses_nothing() {
    requirement::tool("unshare", "util-linux");
    let giver = Environment::new();
    giver.write("small", Random::new(45).bytes(1_000_000));
    giver.write("large", Random::new(46).bytes(60_000_000));
    let (small, large) = (giver.add("small"), giver.add("large"));
    let served = Served::start(&giver);
    let taker = Environment::new();
    let disk = taker.directory("disk");
    let script = r#"
        set -e
        mount -t tmpfs -o size=40m none "$DISK"
        export IPFS_EXEC_PATH="$DISK/repository"
        fetch() { "$IPFS_EXEC" fetch --no-mdns --peer "$PEER" "$1"; }
        fetch "$SMALL"
        if fetch "$LARGE" > full.out 2> full.err; then echo 0; else echo $?; fi > full.code
        "$IPFS_EXEC" cat --offline "$SMALL" > small.out
        "$IPFS_EXEC" verify >&2
        ls -A "$IPFS_EXEC_PATH/run" > left
    "#;
    let outcome = taker
        .program("unshare")
        .arguments(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .variable("IPFS_EXEC", binary())
        .variable("DISK", &disk)
        .variable("PEER", &served.tcp)
        .variable("SMALL", &small)
        .variable("LARGE", &large)
        .run();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let read = |name: &str| fs::read(taker.file(name)).unwrap();
    assert_eq!(read("full.code"), b"1\n", "{outcome:?}");
    assert!(read("full.out").is_empty());
    let error = String::from_utf8(read("full.err")).unwrap();
    assert!(error.contains("would stay free"), "{error}");
    assert!(read("small.out") == fs::read(giver.file("small")).unwrap());
    assert!(read("left").is_empty());
    served.end();
}

/// Each of many processes fetches the same from one peer into one repository.
#[test]
fn many_fetches_at_once_into_one_repository() {
    let giver = Environment::new();
    for number in 0..100 {
        giver.write(format!("tree/{number}"), Random::new(number).bytes(20_000));
    }
    let cid = giver.add("tree");
    let served = Served::start(&giver);
    let taker = Environment::new();
    let fetch = || {
        taker
            .ipfs_exec(["fetch", "--peer", &served.tcp, &cid])
            .start()
    };
    let running: Vec<Running> = (0..16).map(|_| fetch()).collect();
    for fetch in running {
        assert_eq!(fetch.wait().code, Some(0));
    }
    taker.assert_clean();
    served.end();
}
