//! Two processes that know each other by address, on loopback.

use std::fs;

use ipfs_exec_tests::random::Random;
use ipfs_exec_tests::{Environment, Served, tree};

use crate::machine::{EMPTY, Machine};

/// A directory with `test` holding `blabla\n`.
const BLABLA: &str = "QmeugpFaBp7aafV2uN7GC3E2GbAycnEU3c2Q3FS7mSLbo4";

/// A file of several levels, small files, and a HAMT.
fn fill(environment: &Environment) -> String {
    environment.write("tree/large", Random::new(40).bytes(50 << 20));
    for number in 0..300 {
        environment.write(format!("tree/small/{number}"), number.to_string());
    }
    let added = environment.ipfs_exec(["add", "-Q", "--hamt-threshold=1000", "tree"]);
    added.succeeds().line()
}

#[test]
fn content_goes_from_one_repository_to_another() {
    let giver = Environment::new();
    let cid = fill(&giver);
    let served = Served::start(&giver);
    for address in [&served.tcp, &served.quic] {
        let taker = Environment::new();
        let fetched = taker.ipfs_exec(["fetch", "--peer", address, &cid]);
        assert_eq!(fetched.succeeds().line(), cid);
        taker
            .ipfs_exec(["get", "--offline", &cid, "-o", "out"])
            .succeeds();
        assert!(tree::snapshot(&taker.file("out")) == tree::snapshot(&giver.file("tree")));
        let pins = taker.ipfs_exec(["pin", "ls", "--type=recursive"]);
        assert_eq!(pins.succeeds().line(), format!("{cid} recursive"));
        taker.assert_clean();
    }
    served.end();
}

#[test]
fn commands_fetch_only_blocks_that_they_read() {
    let giver = Environment::new();
    let cid = fill(&giver);
    let served = Served::start(&giver);
    let taker = Environment::new();
    let with_peer = |arguments: &[&str]| {
        taker
            .ipfs_exec(["--peer", &served.tcp])
            .arguments(arguments)
            .succeeds()
    };
    let part = format!("{cid}/large");
    let range = with_peer(&["cat", "-o", "20000000", "-l", "1000", &part]);
    let large = fs::read(giver.file("tree/large")).unwrap();
    assert!(range.stdout == large[20_000_000..20_001_000]);
    let blocks = taker.statistic("blocks");
    assert!(blocks < 10, "{blocks} blocks for a kilobyte");
    let listed = with_peer(&["ls", &format!("{cid}/small")]);
    assert_eq!(listed.lines().len(), 300);
    with_peer(&["get", &cid, "-o", "out"]);
    assert!(tree::snapshot(&taker.file("out")) == tree::snapshot(&giver.file("tree")));
    with_peer(&["export", &cid, "-o", "out.car"]);
    with_peer(&["pin", "add", &cid]);
    taker.assert_clean();
    served.end();
}

/// The way to a part of a DAG is no reason to fetch, or to miss, what lies beside it.
#[test]
fn a_part_comes_from_a_peer_that_has_only_the_part() {
    let giver = Environment::new();
    let cid = fill(&giver);
    let part = format!("{cid}/small");
    let served = Served::start(&giver);
    let second = Environment::new();
    second
        .ipfs_exec(["fetch", "--peer", &served.tcp, &part])
        .succeeds();
    served.end();
    let whole = giver.statistic("blocks");
    let some = second.statistic("blocks");
    assert!(some < whole - 50, "{some} of {whole} blocks");
    let served = Served::start(&second);
    for arguments in [&["fetch", &part][..], &["get", &part, "-o", "out"]] {
        let taker = Environment::new();
        taker
            .ipfs_exec(["--peer", &served.tcp])
            .arguments(arguments)
            .succeeds();
    }
    let taker = Environment::new();
    taker
        .ipfs_exec(["fetch", "--peer", &served.tcp, &cid])
        .fails(1, &["block"]);
    served.end();
}

#[test]
fn blocks_of_other_processes_are_served() {
    let giver = Environment::new();
    let served = Served::start(&giver);
    giver.write("late", "added while it is served");
    let cid = giver.add("late");
    let taker = Environment::new();
    let read = taker.ipfs_exec(["cat", "--peer", &served.tcp, &cid]);
    assert_eq!(read.succeeds().stdout, b"added while it is served");
    served.end();
}

#[test]
fn a_run_takes_its_image_and_input_from_a_peer() {
    let giver = Machine::new();
    giver.environment.write("input/word", "blabla\n");
    let input = giver.environment.add("input");
    let served = Served::start(&giver.environment);
    let taker = Environment::new();
    let run = taker.ipfs_exec(["run", "--peer", &served.tcp, &giver.rootfs, &input]);
    let outcome = run
        .arguments(["sh", "-c", "cp /input/word /output/test"])
        .succeeds();
    assert_eq!(outcome.line(), BLABLA);
    taker.assert_clean();
    served.end();
}

#[test]
fn a_block_without_provider_is_reported_with_the_cause() {
    let giver = Environment::new();
    let served = Served::start(&giver);
    let taker = Environment::new();
    let missing = |address: &str| {
        let fetch = taker.ipfs_exec(["fetch", "--peer", address, BLABLA]);
        fetch.fails(1, &[BLABLA])
    };
    let refused = missing(&served.tcp);
    assert!(refused.stderr.contains("does not have it"), "{refused:?}");
    let address = served.tcp.clone();
    served.end();
    let gone = missing(&address);
    assert!(gone.stderr.contains("Connection refused"), "{gone:?}");
    taker
        .ipfs_exec(["cat", "--offline", "--peer", &address, BLABLA])
        .fails(1, &[BLABLA, "is not in the repository"]);
    taker.assert_nothing_left();
}

#[test]
fn one_process_at_a_time_serves_a_repository() {
    let giver = Environment::new();
    let served = Served::start(&giver);
    let id = giver.ipfs_exec(["id"]).succeeds().line();
    assert!(served.tcp.ends_with(&id), "{id}");
    giver.ipfs_exec(["serve"]).fails(1, &[&id]);
    served.end();
    assert_eq!(giver.ipfs_exec(["id"]).succeeds().line(), id);
}

/// With peers named, too: nothing is missing.
#[test]
fn local_work_opens_no_socket() {
    let machine = Machine::new();
    let environment = &machine.environment;
    let trace = environment.file("trace");
    let address = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWPbfB128mL3TkHzL5RZdVXCBoti9azoiQiV5LGoe3xD8N";
    environment
        .program("strace")
        .arguments(["-f", "-e", "trace=socket", "-o"])
        .argument(&trace)
        .argument(ipfs_exec_tests::environment::binary())
        .arguments(["run", "--peer", address, &machine.rootfs, EMPTY, "true"])
        .succeeds();
    let trace = fs::read_to_string(trace).unwrap();
    // bubblewrap brings the loopback interface of the sandbox up, by netlink and a local socket.
    let sockets: Vec<_> = trace
        .lines()
        .filter(|line| line.contains("AF_INET"))
        .collect();
    assert!(
        trace.contains("socket("),
        "bubblewrap is traced as well\n{trace}"
    );
    assert!(sockets.is_empty(), "{sockets:?}");
}
