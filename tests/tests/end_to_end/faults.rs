//! Disks that lie and disks that are full.

use std::fs;
use std::path::{Path, PathBuf};

use ipfs_exec_tests::Environment;
use ipfs_exec_tests::environment::{binary, entries};
use ipfs_exec_tests::random::Random;

use crate::machine::{Machine, with_own_mounts};

/// A peer at which nothing listens.
pub(crate) const NOBODY: &str =
    "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

/// The segment that holds `payload`, and where.
fn find_payload(repository: &Path, payload: &[u8]) -> (PathBuf, usize) {
    let blocks = repository.join("blocks");
    for name in entries(&blocks) {
        let path = blocks.join(name);
        let bytes = fs::read(&path).unwrap();
        if let Some(offset) = bytes
            .windows(payload.len())
            .position(|window| window == payload)
        {
            return (path, offset);
        }
    }
    panic!("no segment of {} holds the payload", repository.display());
}

/// Flips one bit of `payload` on disk.
pub(crate) fn damage(repository: &Path, payload: &[u8]) {
    let (path, offset) = find_payload(repository, payload);
    let mut bytes = fs::read(&path).unwrap();
    bytes[offset + payload.len() / 2] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// The kernel ended the command without a word (SIGXFSZ).
#[test]
fn a_limit_on_the_size_of_files_is_an_error() {
    let machine = Machine::new();
    let environment = &machine.environment;
    environment.write("large", Random::new(5).bytes(3 << 20));
    let limited = |command: &str| {
        let script = format!("ulimit -f 2000; exec \"$0\" {command}");
        environment
            .program("sh")
            .arguments(["-c", &script])
            .argument(binary())
            .variable("IPFS_EXEC_PATH", environment.repository())
    };
    let words = ["File too large", "ulimit -f", ".car"];
    limited("add -Q large").fails(1, &words);
    let cid = environment.add("large");
    limited(&format!("get {cid} -o out")).fails(1, &["File too large", "out"]);
    environment.assert_clean();
    environment.ipfs_exec(["verify"]).succeeds();
}

#[test]
fn a_damaged_block_is_reported_and_never_used() {
    let machine = Machine::new();
    let environment = &machine.environment;
    let payload = Random::new(31).bytes(1000);
    environment.write("tree/damaged", &payload);
    environment.write("tree/sound", "sound");
    let root = environment.add("tree");
    let stat = environment
        .ipfs_exec(["stat", "--json", &format!("{root}/damaged")])
        .succeeds();
    let damaged = stat.json()[0]["cid"].as_str().unwrap().to_owned();
    damage(environment.repository(), &payload);

    environment
        .ipfs_exec(["cat", &format!("{root}/damaged")])
        .fails(1, &[&damaged]);
    environment
        .ipfs_exec(["cat", &damaged])
        .fails(1, &[&damaged]);
    let place = environment.directory("place");
    environment
        .ipfs_exec(["get", &root, "-o", "place/out"])
        .fails(1, &[&damaged]);
    assert!(entries(&place).is_empty());
    let exported = environment.ipfs_exec(["export", &root, "-o", "place/out.car"]);
    exported.fails(1, &[&damaged]);
    assert!(entries(&place).is_empty());
    machine
        .run_on(&root, ["cat", "/input/damaged"])
        .fails(125, &[&damaged, "damaged"]);
    assert_eq!(environment.cat(&format!("{root}/sound")), b"sound");

    let verified = environment.ipfs_exec(["verify"]).ends_with(1);
    let told = format!(
        "{}{}",
        String::from_utf8_lossy(&verified.stdout),
        verified.stderr
    );
    assert!(
        told.contains(&damaged),
        "verify does not name the block\n{verified:?}"
    );
    environment.assert_nothing_left();

    // Whoever has the content mends it.
    assert_eq!(environment.add("tree"), root);
    assert_eq!(environment.cat(&format!("{root}/damaged")), payload);
    environment.assert_clean();
}

/// A damaged block was reported as one that is not here, unless `--offline` was given.
#[test]
fn a_damaged_block_that_no_peer_gives_is_reported_as_damaged() {
    let environment = Environment::new();
    environment.write("tree/file", "content to be damaged");
    let root = environment.add("tree");
    damage(environment.repository(), b"content to be damaged");
    for command in [
        &["cat", &format!("{root}/file")][..],
        &["fetch", &root],
        &["export", &root, "-o", "out.car"],
    ] {
        let refused = environment
            .ipfs_exec(command)
            .arguments(["--peer", NOBODY])
            .fails(1, &["is damaged on disk", "hint: add or import"]);
        assert!(
            !refused.stderr.contains("is not in the repository"),
            "{refused:?}"
        );
    }
}

#[test]
fn a_damaged_root_file_system_does_not_run() {
    let machine = Machine::new();
    let payload = b"exec /bin/busybox";
    damage(machine.environment.repository(), payload);
    machine.run(["true"]).ends_with(125);
    machine.environment.assert_nothing_left();
}

#[test]
fn a_segment_that_was_cut_is_reported() {
    let environment = Environment::new();
    let payload = Random::new(32).bytes(1000);
    environment.write("file", &payload);
    let cid = environment.add("file");
    let (path, offset) = find_payload(environment.repository(), &payload);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..offset + 10]).unwrap();
    environment.ipfs_exec(["cat", &cid]).fails(1, &[&cid]);
    environment.ipfs_exec(["verify"]).ends_with(1);
}

#[test]
fn a_full_disk_loses_nothing() {
    let environment = Environment::new();
    environment.write("small", Random::new(33).bytes(1_000_000));
    environment.write("large", Random::new(34).bytes(24_000_000));
    let disk = environment.directory("disk");
    // In a mount namespace of its own, so that neither root nor a user changes the machine.
    let script = r#"
        set -e
        mount -t tmpfs -o size=40m none "$DISK"
        export IPFS_EXEC_PATH="$DISK/repository"
        small=$("$IPFS_EXEC" add -Q small)
        head -c 20000000 /dev/zero > "$DISK/ballast"
        if "$IPFS_EXEC" add -Q large > full.out 2> full.err; then echo 0; else echo $?; fi > full.code
        "$IPFS_EXEC" cat "$small" | cmp - small
        "$IPFS_EXEC" verify >&2
        rm "$DISK/ballast"
        large=$("$IPFS_EXEC" add -Q large)
        "$IPFS_EXEC" cat "$large" | cmp - large
        "$IPFS_EXEC" cat "$small" | cmp - small
        "$IPFS_EXEC" verify >&2
        ls -A "$IPFS_EXEC_PATH/run" > left
    "#;
    let outcome = with_own_mounts(&environment, script)
        .variable("IPFS_EXEC", binary())
        .variable("DISK", &disk)
        .run();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let read = |name: &str| fs::read_to_string(environment.file(name)).unwrap();
    assert_eq!(read("full.code"), "1\n", "{outcome:?}");
    assert_eq!(read("full.out"), "");
    let error = read("full.err");
    assert!(
        error.starts_with("error: ") && error.contains("would stay free"),
        "{error}"
    );
    assert_eq!(read("left"), "");
}

/// The run itself has room, the import of what it wrote has not.
#[test]
fn a_disk_that_fills_while_an_output_is_imported_loses_nothing() {
    let machine = Machine::new();
    let environment = &machine.environment;
    environment.write("large", Random::new(35).bytes(24_000_000));
    let disk = environment.directory("disk");
    let script = r#"
        set -e
        mount -t tmpfs -o size=140m none "$DISK"
        export IPFS_EXEC_PATH="$DISK/repository"
        rootfs=$("$IPFS_EXEC" add -Q rootfs.tar)
        input=$("$IPFS_EXEC" add -Q large)
        "$IPFS_EXEC" run "$rootfs" "$input" true > /dev/null
        copy() { "$IPFS_EXEC" run --input-mode copy "$rootfs" "$input" sh -c 'cat /input /input > /output/copy'; }
        free=$(stat -f -c '%a * %S' "$DISK")
        # What the program writes, 48 MB, fits in what is left, and not the next 24.
        head -c $(($free - 56000000)) /dev/zero > "$DISK/ballast"
        if copy > full.out 2> full.err; then echo 0; else echo $?; fi > full.code
        ls -A "$IPFS_EXEC_PATH/run" > left
        "$IPFS_EXEC" cat "$input" | cmp - large
        "$IPFS_EXEC" verify >&2
        truncate -s 1000000 large
        small=$("$IPFS_EXEC" add -Q large)
        input=$small
        copied=$(copy)
        "$IPFS_EXEC" cat "$copied/copy" | cmp -n 1000000 - large
        "$IPFS_EXEC" verify >&2
        ls -A "$IPFS_EXEC_PATH/run" >> left
    "#;
    with_own_mounts(environment, script)
        .variable("IPFS_EXEC", binary())
        .variable("DISK", &disk)
        .succeeds();
    let read = |name: &str| fs::read_to_string(environment.file(name)).unwrap();
    assert_eq!(read("full.code"), "125\n");
    assert_eq!(read("full.out"), "");
    let error = read("full.err");
    assert!(
        error.contains("error: ") && error.contains("would stay free"),
        "{error}"
    );
    assert_eq!(read("left"), "");
}

#[test]
fn a_read_only_repository_can_be_read() {
    let environment = Environment::new();
    environment.write("file", "content");
    let cid = environment.add("file");
    let script = r#"
        set -e
        mount --bind "$REPOSITORY" "$REPOSITORY"
        mount -o remount,bind,ro "$REPOSITORY"
        "$IPFS_EXEC" add small 2> error && exit 9
        exit 0
    "#;
    environment.write("small", "other");
    with_own_mounts(&environment, script)
        .variable("IPFS_EXEC", binary())
        .variable("REPOSITORY", environment.repository())
        .succeeds();
    let error = fs::read_to_string(environment.file("error")).unwrap();
    assert!(error.starts_with("error: "), "{error}");
    assert_eq!(environment.cat(&cid), b"content");
    environment.assert_clean();
}
