//! Which other users may read a repository.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ipfs_exec_tests::environment::{binary, entries};
use ipfs_exec_tests::{Environment, Invocation, requirement};
use rustix::process::geteuid;

use crate::machine::Machine;

/// The user and group that other users are shown by.
const OTHER_USER: &str = "65534";

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Checks that no bit is for other users, but for what a program of a root file system sees.
#[track_caller]
fn assert_private(directory: &Path) {
    for name in entries(directory) {
        let path = directory.join(name);
        assert_eq!(mode(&path) & 0o077, 0, "{} is too open", path.display());
        if path.is_dir() && !path.ends_with("rootfs") {
            assert_private(&path);
        }
    }
    for name in entries(&directory.join("rootfs")) {
        let path = directory.join("rootfs").join(name);
        assert_eq!(mode(&path) & 0o077, 0, "{} is too open", path.display());
    }
}

#[test]
fn a_repository_is_private_whatever_directory_and_umask_were() {
    let machine = Machine::new();
    let environment = &machine.environment;
    environment.directory("input");
    let repository = environment.file("repository");
    fs::create_dir(&repository).unwrap();
    fs::write(repository.join("config.toml"), "mdns = false").unwrap();
    fs::write(repository.join("swarm.key"), "").unwrap();
    for path in ["config.toml", "swarm.key", ""] {
        set_mode(&repository.join(path), 0o777);
    }
    let script = r#"
        set -e
        umask 0
        "$IPFS_EXEC" add -Q rootfs.tar
        "$IPFS_EXEC" id > /dev/null
        "$IPFS_EXEC" run rootfs.tar input true > /dev/null
    "#;
    let outcome = environment
        .program("sh")
        .arguments(["-c", script])
        .variable("IPFS_EXEC", binary())
        .variable("IPFS_EXEC_PATH", &repository)
        .succeeds();
    assert_eq!(
        outcome.stderr, "",
        "nothing was there that others could read"
    );
    assert_eq!(mode(&repository), 0o700);
    assert_eq!(entries(&repository.join("keys")), ["self"]);
    assert_eq!(entries(&repository.join("rootfs")).len(), 1);
    assert_private(&repository);
}

/// A umask that takes rights from the owner made repositories which nobody could use.
#[test]
fn a_umask_takes_nothing_from_the_owner() {
    let machine = Machine::new();
    let environment = &machine.environment;
    environment.directory("input");
    for umask in ["0277", "0777"] {
        let repository = environment.file(format!("repository-{umask}"));
        let script = r#"
            set -e
            umask "$1"
            "$IPFS_EXEC" add -Q rootfs.tar
            "$IPFS_EXEC" run rootfs.tar input sh -c 'mkdir /output/d; echo x > /output/d/f; umask'
            "$IPFS_EXEC" gc --rootfs
            "$IPFS_EXEC" id > /dev/null
        "#;
        let outcome = environment
            .program("sh")
            .arguments(["-c", script, "sh", umask])
            .variable("IPFS_EXEC", binary())
            .variable("IPFS_EXEC_PATH", &repository)
            .succeeds();
        assert!(outcome.stderr.contains("0022"), "{outcome:?}");
        assert_eq!(mode(&repository), 0o700);
        assert_private(&repository);
    }
}

#[test]
fn a_repository_that_was_open_is_closed_with_a_warning() {
    let environment = Environment::new();
    environment.write("file", "content");
    environment.add("file");
    let repository = environment.repository();
    for path in ["repo.db", "repo.db-wal", "repo.db-shm", "run", "blocks", ""] {
        let path = repository.join(path);
        set_mode(&path, if path.is_dir() { 0o755 } else { 0o644 });
    }
    let listed = environment.ipfs_exec(["pin", "ls"]).succeeds();
    assert!(listed.stderr.contains("other users"), "{listed:?}");
    assert_eq!(mode(repository), 0o700);
    assert_private(repository);
    let again = environment.ipfs_exec(["pin", "ls"]).succeeds();
    assert_eq!(again.stderr, "");
}

/// A call of the program as another user. Only the root of this machine can make one.
fn as_other_user(environment: &Environment, arguments: &[&str]) -> Invocation {
    requirement::tool("setpriv", "util-linux");
    environment
        .program("setpriv")
        .arguments(["--reuid", OTHER_USER, "--regid", OTHER_USER])
        .arguments(["--clear-groups", "--no-new-privs"])
        .argument(environment.file("ipfs-exec"))
        .arguments(arguments)
}

#[test]
fn other_users_read_shared_files_and_write_nothing() {
    let environment = Environment::new();
    environment.write("file", "content");
    environment.configure("mdns = false\nshared = \"all\"\n");
    let cid = environment.add("file");
    let repository = environment.repository();
    for (name, wanted) in [
        ("", 0o755),
        ("blocks", 0o755),
        ("repo.db", 0o644),
        ("repo.db-wal", 0o644),
        ("repo.db-shm", 0o644),
        ("run", 0o700),
        ("rootfs", 0o700),
    ] {
        assert_eq!(mode(&repository.join(name)), wanted, "{name}");
    }
    // An ordinary user cannot become another one: the modes are all that such a user can see.
    if geteuid().is_root() {
        set_mode(repository.parent().unwrap(), 0o755);
        fs::copy(binary(), environment.file("ipfs-exec")).unwrap();
        for arguments in [
            &["cat", &*cid][..],
            &["ls", &cid],
            &["pin", "ls"],
            &["verify"],
        ] {
            as_other_user(&environment, arguments).succeeds();
        }
        let read = as_other_user(&environment, &["cat", &cid]).succeeds();
        assert_eq!(read.text(), "content");
        for arguments in [&["add", "file"][..], &["pin", "rm", &cid], &["gc"]] {
            as_other_user(&environment, arguments).fails(1, &["cannot", "hint: "]);
        }
        environment.configure("mdns = false\n");
        environment.ipfs_exec(["pin", "ls"]).succeeds();
        as_other_user(&environment, &["cat", &cid]).fails(1, &["Permission denied", "hint: "]);
    } else {
        environment.configure("mdns = false\n");
        environment.ipfs_exec(["pin", "ls"]).succeeds();
    }
    assert_eq!(mode(repository), 0o700);
    assert_private(repository);
}
