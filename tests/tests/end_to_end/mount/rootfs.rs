//! Root file systems that are directories, shown as they are.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use ipfs_exec_tests::{Environment, Served, requirement};

use crate::machine::{EMPTY, Machine, with_own_mounts};

/// Busybox as a tree: what the archive of the other tests holds.
fn tree(environment: &Environment) -> PathBuf {
    let init = environment.write(
        "rootfs/sbin/init",
        "#!/bin/busybox sh\nexec /bin/busybox \"$@\"\n",
    );
    let busybox = environment.write(
        "rootfs/bin/busybox",
        fs::read(requirement::busybox()).unwrap(),
    );
    for program in [&init, &busybox] {
        fs::set_permissions(program, PermissionsExt::from_mode(0o755)).unwrap();
    }
    environment.write("rootfs/usr/share/large", vec![7; 20 << 20]);
    environment.file("rootfs")
}

fn add(environment: &Environment, arguments: &[&str]) -> String {
    let added = environment.ipfs_exec(["add", "-Q"]).arguments(arguments);
    added.argument("rootfs").succeeds().line()
}

#[test]
fn a_directory_is_a_root_file_system() {
    let machine = Machine::new();
    requirement::fuse();
    let environment = &machine.environment;
    tree(environment);
    symlink("../bin/busybox", environment.file("rootfs/sbin/link")).unwrap();
    let rootfs = add(environment, &["--preserve-mode"]);
    environment.write("input/hello", "hello\n");
    let input = environment.add("input");
    let script = "tr a-z A-Z < /input/hello > /output/shout; ls / > /output/top; \
                  touch /new 2> /dev/null || echo read-only > /output/said; echo x > /tmp/x";
    let run = |rootfs: &str| {
        let run = environment.ipfs_exec(["run", rootfs, &input, "sh", "-c", script]);
        run.succeeds().line()
    };
    let output = run(&rootfs);
    let read = |name| String::from_utf8(environment.cat(&format!("{output}/{name}"))).unwrap();
    assert_eq!(read("shout"), "HELLO\n");
    assert_eq!(read("said"), "read-only\n");
    assert_eq!(
        read("top"),
        "bin\ndev\ninput\noutput\nproc\nsbin\ntmp\nusr\n"
    );
    // Also where the input is a file, so that the root is put together of its entries.
    let file = environment.add("input/hello");
    let said = environment.ipfs_exec(["run", &rootfs, &file, "cat", "/input"]);
    assert_eq!(said.succeeds().stderr, "hello\n");
    environment.assert_clean();
}

#[test]
fn an_archive_and_a_directory_give_the_same_output() {
    let machine = Machine::new();
    let environment = &machine.environment;
    tree(environment);
    let rootfs = add(environment, &["--preserve-mode"]);
    let script = "echo $PATH $HOME > /output/environment; id > /output/id; pwd > /output/pwd; \
                  echo $1 > /output/argument";
    let arguments = ["sh", "-c", script, "x", "y"];
    let run = |rootfs: &str| {
        let run = environment
            .ipfs_exec(["run", rootfs, EMPTY])
            .arguments(arguments);
        run.succeeds().line()
    };
    assert_eq!(run(&machine.rootfs), run(&rootfs));
}

#[test]
fn a_start_reads_only_touched_files() {
    let giver = Environment::new();
    tree(&giver);
    let rootfs = add(&giver, &["--preserve-mode"]);
    let served = Served::start(&giver);
    requirement::bubblewrap();
    let taker = Environment::new();
    let empty = taker.ipfs_exec(["mkdir"]).succeeds().line();
    taker
        .ipfs_exec(["run", "--peer", &served.tcp, &rootfs, &empty, "true"])
        .succeeds();
    let bytes = taker.statistic("bytes");
    assert!(bytes < 5 << 20, "{bytes}");
    served.end();
}

#[test]
fn directories_that_cannot_be_started_say_why() {
    let machine = Machine::new();
    let environment = &machine.environment;
    let run = |rootfs: &str| environment.ipfs_exec(["run", rootfs, EMPTY, "true"]);
    run(EMPTY).fails(127, &[EMPTY, "/sbin/init"]);
    let place = tree(environment);
    // Modes that were not recorded are no reason.
    run(&add(environment, &[])).succeeds();
    fs::set_permissions(place.join("sbin/init"), PermissionsExt::from_mode(0o644)).unwrap();
    run(&add(environment, &["--preserve-mode"])).fails(126, &["may not execute"]);
    fs::remove_file(place.join("sbin/init")).unwrap();
    symlink("init", place.join("sbin/init")).unwrap();
    run(&add(environment, &["--preserve-mode"])).fails(126, &["loop"]);
    // Where the sandbox mounts, no link may stand: not to the host either.
    symlink("/etc", place.join("output")).unwrap();
    run(&add(environment, &["--preserve-mode"])).fails(125, &["/output", "symlink"]);
    environment.assert_clean();
}

/// A local directory never worked: its modes were not recorded, and `--preserve-mode` was ignored. It is
/// the same root file system as that which `image unpack` makes of an archive of the directory.
#[test]
fn a_local_directory_is_a_root_file_system() {
    let machine = Machine::new();
    requirement::fuse();
    requirement::tool("tar", "tar");
    let environment = &machine.environment;
    let place = tree(environment);
    symlink("../bin/busybox", place.join("sbin/link")).unwrap();
    for (path, mode) in [
        ("bin/set-id", 0o6750),
        ("usr/share/secret", 0o400),
        ("sbin", 0o2711),
    ] {
        match path {
            "sbin" => {}
            path => drop(environment.write(format!("rootfs/{path}"), "x")),
        }
        fs::set_permissions(place.join(path), PermissionsExt::from_mode(mode)).unwrap();
    }
    for fifo in ["usr/share/fifo", "fifo"] {
        environment
            .program("mkfifo")
            .argument(place.join(fifo))
            .succeeds();
    }
    let _socket = std::os::unix::net::UnixListener::bind(place.join("socket")).unwrap();
    let pack =
        environment
            .program("tar")
            .arguments(["-c", "-f", "packed.tar", "-C", "rootfs", "."]);
    pack.succeeds();
    let packed = environment
        .ipfs_exec(["image", "unpack", "packed.tar"])
        .succeeds();
    let packed = packed.line();
    let script = "stat -c '%n %a %Y' /bin/* /sbin /sbin/* /usr/share/* > /output/stat";
    let local = environment
        .ipfs_exec(["run", "./rootfs", EMPTY, "sh", "-c", script])
        .succeeds();
    for left_out in [
        "usr/share/fifo",
        "rootfs/fifo",
        "a FIFO",
        "rootfs/socket",
        "a socket",
    ] {
        assert!(local.stderr.contains(left_out), "{}", local.stderr);
    }
    let run = environment.ipfs_exec(["run", &packed, EMPTY, "sh", "-c", script]);
    assert_eq!(run.succeeds().line(), local.line());
    // The directory that was imported for the run is the one that was unpacked: nothing is new.
    let blocks = environment.statistic("blocks");
    environment
        .ipfs_exec(["run", "rootfs", EMPTY, "sh", "-c", script])
        .succeeds();
    assert_eq!(environment.statistic("blocks"), blocks);
    environment.assert_clean();
}

/// A chroot that is in use has `/proc` and more mounted, and files that only its owner may read.
#[test]
fn unusable_local_directories_are_errors() {
    let machine = Machine::new();
    requirement::fuse();
    let environment = &machine.environment;
    tree(environment);
    for name in ["proc", "sys/fs"] {
        environment.directory(format!("rootfs/{name}"));
    }
    let script = "mount -t tmpfs none rootfs/sys/fs && echo x > rootfs/sys/fs/hidden && \
                  mount --rbind /proc rootfs/proc && exec \"$@\"";
    let run = with_own_mounts(environment, script)
        .argument("sh")
        .argument(ipfs_exec_tests::environment::binary())
        .argument("--repo")
        .argument(environment.repository())
        .arguments([
            "run",
            "rootfs",
            EMPTY,
            "sh",
            "-c",
            "ls -a /sys/fs; stat -c '%a %Y' /sys/fs >&2",
        ]);
    let outcome = run.succeeds();
    for words in [
        "rootfs/proc` of the root file system: it is another file system",
        "sys/fs`",
    ] {
        assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    }
    assert!(!outcome.stderr.contains("hidden"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("755 0\n"), "{}", outcome.stderr);
    let run = |arguments: &[&str]| {
        let run = environment.ipfs_exec(["run"]).arguments(arguments);
        run.arguments(["rootfs", EMPTY, "true"])
    };
    run(&["--max-rootfs-size", "1MiB"]).fails(125, &["rootfs", "--max-rootfs-size"]);
    run(&["--max-rootfs-entries", "3"]).fails(125, &["rootfs", "--max-rootfs-entries"]);
    let secret = environment.write("rootfs/usr/secret", "x");
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o000)).unwrap();
    if fs::read(&secret).is_err() {
        run(&[]).fails(125, &["rootfs/usr/secret", "ermission denied"]);
    }
    environment.assert_clean();
}

/// Without files in between, the same directory as by unpacking and adding.
#[test]
fn an_archive_becomes_a_directory() {
    let machine = Machine::new();
    let environment = &machine.environment;
    let unpack = |archive: &str| environment.ipfs_exec(["image", "unpack", archive]);
    let rootfs = unpack("rootfs.tar").succeeds().line();
    assert_eq!(unpack(&machine.rootfs).succeeds().line(), rootfs);
    let script = "echo $PATH > /output/path; stat -c '%n %a %Y' /bin/* /sbin/* > /output/stat";
    let run = |rootfs: &str| {
        let run = environment.ipfs_exec(["run", rootfs, EMPTY, "sh", "-c", script]);
        run.succeeds().line()
    };
    assert_eq!(run(&rootfs), run(&machine.rootfs));
    environment.write("nonsense", "no archive");
    unpack("nonsense").fails(1, &["nonsense", "no tar archive"]);
    let pins = environment.ipfs_exec(["pin", "ls"]).succeeds();
    assert!(pins.text().contains(&rootfs), "{pins:?}");
    environment.assert_clean();
}
