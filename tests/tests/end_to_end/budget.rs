//! Bounds on disk and time: no archive, DAG or file, however small, fills a disk or takes time without end.

use std::fs;
use std::time::Duration;

use ipfs_exec_tests::dag::{Blocks, Link};
use ipfs_exec_tests::environment::{binary, entries};
use ipfs_exec_tests::random::Random;
use ipfs_exec_tests::{Archive, Environment, Outcome, archive, requirement};
use rustix::process::Signal;

use crate::machine::{EMPTY, Machine, without_fuse};

/// Runs a script with a disk of its own, in a mount namespace.
fn on_a_small_disk(environment: &Environment, script: &str) -> Outcome {
    requirement::tool("unshare", "util-linux");
    let disk = environment.directory("disk");
    environment
        .program("unshare")
        .arguments(["--user", "--map-root-user", "--mount", "sh", "-ec", script])
        .variable("IPFS_EXEC", binary())
        .variable("DISK", &disk)
        .succeeds()
}

/// Starts a script with this: `lowest` writes the least that was free, in bytes, while a command runs.
const LOWEST: &str = r#"
export IPFS_EXEC_PATH="$DISK/repository"
lowest() {
    name=$1; shift
    least=$(($(stat -f -c '%a * %S' "$DISK")))
    echo $least > $name.least
    while :; do
        free=$(($(stat -f -c '%a * %S' "$DISK")))
        if [ "$free" -lt "$least" ]; then
            least=$free
            echo $least > $name.new
            # Complete at any time: the loop is killed.
            mv $name.new $name.least
        fi
        sleep 0.005
    done &
    looker=$!
    code=0
    "$@" > $name.out 2> $name.err || code=$?
    kill $looker
    echo $code > $name.code
}
"#;

/// What a script of [`LOWEST`] wrote about the command `name`: code, error, least free bytes.
fn told(environment: &Environment, name: &str) -> (String, String, u64) {
    let read = |what: &str| fs::read_to_string(environment.file(format!("{name}.{what}"))).unwrap();
    let least = read("least").trim().parse().unwrap();
    (read("code").trim().to_owned(), read("err"), least)
}

#[track_caller]
fn assert_stopped(environment: &Environment, name: &str, code: &str, words: &[&str], kept: u64) {
    let (found, error, least) = told(environment, name);
    assert_eq!(found, code, "{name}: {error}");
    for word in words.iter().chain(&["would stay free", "--keep-free"]) {
        assert!(error.contains(word), "{name} does not say {word}: {error}");
    }
    assert!(
        least >= kept,
        "{name}: {least} bytes were free, less than {kept}"
    );
}

/// 40 MB of archive took all of the disk while it was unpacked.
#[test]
fn unpacking_leaves_some_of_the_disk_free() {
    requirement::bubblewrap();
    let environment = Environment::new();
    environment.write("bomb.tar.gz", archive::bomb(2 << 30, archive::gzip));
    let script = r#"
        mount -t tmpfs -o size=200m none "$DISK"
        bomb=$("$IPFS_EXEC" add -Q bomb.tar.gz)
        empty=$("$IPFS_EXEC" mkdir)
        free=$(stat -f -c %a "$DISK")
        lowest default "$IPFS_EXEC" run $bomb $empty true
        lowest asked "$IPFS_EXEC" run --keep-free 100MiB $bomb $empty true
        echo $(($free - $(stat -f -c %a "$DISK"))) > lost
        ls -A "$IPFS_EXEC_PATH/run" "$IPFS_EXEC_PATH/rootfs" > left
    "#;
    let _ = on_a_small_disk(&environment, &[LOWEST, script].concat());
    // SQLite takes a little while the run notes what it does.
    assert_stopped(
        &environment,
        "default",
        "125",
        &["cannot unpack rootfs"],
        9 << 20,
    );
    assert_stopped(
        &environment,
        "asked",
        "125",
        &["cannot unpack rootfs"],
        99 << 20,
    );
    let left = fs::read_to_string(environment.file("left")).unwrap();
    assert!(
        !left.contains("/run:\nR") && !left.contains("tree"),
        "{left}"
    );
    let lost = fs::read_to_string(environment.file("lost")).unwrap();
    assert!(
        lost.trim().parse::<i64>().unwrap() < 1024,
        "{lost} pages are lost"
    );
}

#[test]
fn unpacking_leaves_some_inodes_free() {
    requirement::bubblewrap();
    let environment = Environment::new();
    let files = (0..3000).fold(Archive::busybox(), |archive, number| {
        archive.file(&format!("files/{number}"), 0o644, "x")
    });
    environment.write("many.tar", files.tar());
    let script = r#"
        export IPFS_EXEC_PATH="$DISK/repository"
        mount -t tmpfs -o size=200m,nr_inodes=2000 none "$DISK"
        many=$("$IPFS_EXEC" add -Q many.tar)
        empty=$("$IPFS_EXEC" mkdir)
        "$IPFS_EXEC" run $many $empty true 2> few.err && exit 1
        touch "$DISK/touched"
        stat -f -c %d "$DISK" > few.free
        umount "$DISK"
        # Such a file system does not count inodes.
        mount -t tmpfs -o size=200m,nr_inodes=0 none "$DISK"
        many=$("$IPFS_EXEC" add -Q many.tar)
        empty=$("$IPFS_EXEC" mkdir)
        "$IPFS_EXEC" run $many $empty true > uncounted.out
    "#;
    let _ = on_a_small_disk(&environment, script);
    let read = |name: &str| fs::read_to_string(environment.file(name)).unwrap();
    let error = read("few.err");
    assert!(
        error.contains("inodes of the disk would stay free"),
        "{error}"
    );
    assert!(error.contains("hint: "), "{error}");
    assert!(read("few.free").trim().parse::<u64>().unwrap() > 1000);
    assert_eq!(read("uncounted.out").trim(), EMPTY);
}

/// Every command that writes much stops in time.
#[test]
fn commands_leave_some_of_the_disk_free() {
    let environment = Environment::new();
    environment.write("small", "x");
    environment.write("large", Random::new(71).bytes(60_000_000));
    let large = environment.add("large");
    environment
        .ipfs_exec(["export", &large, "-o", "large.car"])
        .succeeds();
    let tar = Archive::new().file("large", 0o644, Random::new(72).bytes(60_000_000));
    environment.write("large.tar", tar.tar());
    let script = r#"
        mount -t tmpfs -o size=50m none "$DISK"
        small=$("$IPFS_EXEC" add -Q small)
        lowest add "$IPFS_EXEC" add -Q large
        lowest stdin sh -c '"$IPFS_EXEC" add -Q - < large'
        lowest import "$IPFS_EXEC" import large.car
        lowest image "$IPFS_EXEC" image unpack large.tar
        lowest get "$IPFS_EXEC" --repo "$FULL" get --offline "$LARGE" -o "$DISK/large"
        lowest asked "$IPFS_EXEC" add -Q --keep-free 40MiB large
        test "$("$IPFS_EXEC" cat $small)" = x
        "$IPFS_EXEC" verify >&2
        ls -A "$IPFS_EXEC_PATH/run" > left
        ls -A "$DISK" > names
        rm -r "$IPFS_EXEC_PATH"
        lowest configured sh -c 'mkdir -m 700 $DISK/repository
            printf "[limits]\nkeep-free = \"45MiB\"\n" > "$DISK/repository/config.toml"
            "$IPFS_EXEC" add -Q large'
    "#
    .replace("$FULL", &environment.repository().display().to_string())
    .replace("$LARGE", &large);
    let _ = on_a_small_disk(&environment, &[LOWEST, &script].concat());
    // A twentieth is kept, of which the database takes a little.
    let kept = 3 << 19;
    let blocks = "cannot put blocks into";
    assert_stopped(&environment, "add", "1", &[blocks], kept);
    assert_stopped(&environment, "stdin", "1", &[blocks], kept);
    assert_stopped(&environment, "import", "1", &[blocks, "large.car"], kept);
    assert_stopped(&environment, "image", "1", &[blocks, "large.tar"], kept);
    assert_stopped(&environment, "get", "1", &["cannot export", &large], kept);
    assert_stopped(&environment, "asked", "1", &[blocks], 39 << 20);
    assert_stopped(&environment, "configured", "1", &[blocks], 44 << 20);
    assert_eq!(fs::read_to_string(environment.file("left")).unwrap(), "");
    assert_eq!(
        fs::read_to_string(environment.file("names")).unwrap(),
        "repository\n"
    );
}

/// 60 levels with two links each: 2^60 paths in 61 blocks.
fn endless(environment: &Environment) -> String {
    let mut blocks = Blocks::new();
    let mut root = blocks.directory(&[]);
    for _ in 0..60 {
        root = blocks.directory(&[Link::new("a", root, 1), Link::new("b", root, 1)]);
    }
    let car = environment.write("endless.car", blocks.car(&[root]));
    environment.ipfs_exec(["import"]).argument(car).succeeds();
    root.to_string()
}

#[test]
fn a_small_dag_of_endless_paths_is_bounded() {
    let machine = Machine::new();
    let environment = &machine.environment;
    let root = endless(environment);
    let place = environment.directory("place");
    let got = environment
        .ipfs_exec(["get", "--max-entries", "1000", &root, "-o", "place/out"])
        .fails(
            1,
            &[&root, "more than 1000 entries", "hint: ", "--max-entries"],
        );
    assert!(entries(&place).is_empty(), "{got:?}");
    without_fuse(environment, ["run", "--max-input-entries", "1000"])
        .arguments([&machine.rootfs, &root, "true"])
        .fails(
            125,
            &[&root, "more than 1000 entries", "--max-input-entries"],
        );
    let listed = environment
        .ipfs_exec(["ls", "-r", "--max-entries", "1000", &root])
        .ends_with(1);
    assert_eq!(listed.lines().len(), 1000);
    assert!(
        listed.stderr.contains("more than 1000 entries"),
        "{listed:?}"
    );
    assert!(listed.stderr.contains(&root), "{listed:?}");
    environment
        .ipfs_exec(["run", "--max-rootfs-entries", "2"])
        .arguments([&machine.rootfs, EMPTY, "true"])
        .fails(
            125,
            &[
                &machine.rootfs,
                "more than 2 entries",
                "--max-rootfs-entries",
            ],
        );
    environment.assert_clean();
}

#[test]
fn work_on_endless_paths_can_be_interrupted() {
    let machine = Machine::new();
    let environment = &machine.environment;
    let root = endless(environment);
    let place = environment.directory("place");
    let get = ["get", &root, "-o", "place/out"];
    let copy = ["run", &machine.rootfs, &root, "true"];
    for arguments in [&get[..], &copy[..], &["ls", "-r", &root]] {
        let running = match arguments[0] {
            "run" => without_fuse(environment, arguments).start(),
            _ => environment.ipfs_exec(arguments).start(),
        };
        std::thread::sleep(Duration::from_millis(700));
        running.signal(Signal::INT);
        let ended = running.wait();
        assert_eq!(ended.signal, Some(2), "{}", ended.stderr);
        assert!(entries(&place).is_empty(), "{arguments:?}");
        environment.assert_nothing_left();
    }
}

/// A program makes a file of any size in a moment; its import takes no longer.
#[test]
fn a_huge_file_with_holes_is_an_output_like_others() {
    let machine = Machine::new();
    let script = "for place in 1000000 4000000; do \
                  echo data | dd of=/output/file bs=1M seek=$place conv=notrunc 2> /dev/null; done";
    let outcome = machine.run(["sh", "-c", script]).succeeds();
    assert!(outcome.elapsed < Duration::from_secs(10), "{outcome:?}");
    let file = format!("{}/file", outcome.line());
    let stat = machine
        .environment
        .ipfs_exec(["stat", "--json", &file])
        .succeeds();
    assert_eq!(
        stat.json()[0]["size"].as_u64(),
        Some((4_000_000 << 20) + 5),
        "{stat:?}"
    );
    machine.environment.assert_clean();
}

/// Each part of a run has its time, and the error says which part it was.
#[test]
fn time_runs_out_in_every_part() {
    let machine = Machine::new();
    let environment = &machine.environment;
    let run = |options: &[&str], rootfs: &str, script: &str| {
        let words = [rootfs, EMPTY, "sh", "-c", script];
        environment
            .ipfs_exec(["run"])
            .arguments(options)
            .arguments(words)
    };
    let slow = "sleep 60";
    let hit = |option: &str, outcome: Outcome, part: &str| {
        assert!(outcome.elapsed < Duration::from_secs(20), "{outcome:?}");
        for word in [part, option, "hint: "] {
            assert!(outcome.stderr.contains(word), "{word}: {outcome:?}");
        }
        assert_eq!(outcome.text(), "");
    };
    let program = run(&["--timeout", "1s"], &machine.rootfs, slow).ends_with(124);
    hit("--timeout", program, "it ran for more than 1 s");
    let program = run(&["--total-timeout", "1s"], &machine.rootfs, slow).ends_with(124);
    hit("--total-timeout", program, "the program ran");
    // An archive that takes long to unpack.
    let zeros = Archive::busybox().file("zeros", 0o644, vec![0; 512 << 20]);
    let packed = environment.write("zeros.tar.gz", zeros.gzip());
    let large = environment.add(packed);
    let unpacking = run(&["--total-timeout", "100ms"], &large, "true").ends_with(124);
    hit(
        "--total-timeout",
        unpacking,
        "it prepared the root file system",
    );
    environment.assert_nothing_left();
}
