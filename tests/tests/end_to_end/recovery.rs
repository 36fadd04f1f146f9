//! Repositories with a lost or damaged database, and those of other users.

use std::fs;
use std::path::Path;

use ipfs_exec_tests::environment::entries;
use ipfs_exec_tests::served::Served;
use ipfs_exec_tests::{Environment, requirement};
use rustix::process::geteuid;

fn remove_database(repository: &Path) {
    for name in ["repo.db", "repo.db-wal", "repo.db-shm"] {
        fs::remove_file(repository.join(name)).unwrap();
    }
}

/// `rm repo.db*`, then `add`: the content was gone, and the exit code was 0.
#[test]
fn a_repository_without_its_database_is_refused_and_rebuilt() {
    let environment = Environment::new();
    let repository = environment.repository();
    environment.write("kept", "kept");
    environment.write("other", "other");
    let kept = environment.add("kept");
    remove_database(repository);
    let before = fs::read(repository.join("blocks/1.car")).unwrap();
    for command in [&["add", "other"][..], &["gc"], &["cat", &kept]] {
        environment
            .ipfs_exec(command)
            .fails(1, &["has no database", "hint: ", "repo reindex"]);
    }
    let examined = environment.ipfs_exec(["doctor"]).ends_with(1);
    assert!(examined.text().contains("repo reindex"), "{examined:?}");
    assert_eq!(fs::read(repository.join("blocks/1.car")).unwrap(), before);

    let reindexed = environment
        .ipfs_exec(["repo", "reindex", "--json"])
        .succeeds();
    assert_eq!(reindexed.json()[0]["recovered_pins"], 1);
    environment.ipfs_exec(["gc"]).succeeds();
    assert_eq!(environment.cat(&kept), b"kept");
    let pins = environment.ipfs_exec(["pin", "ls", "--json"]).succeeds();
    assert_eq!(pins.json()[0]["name"], "recovered");
    environment.assert_clean();
}

/// Errors of SQLite said their cause twice, and had no hint.
#[test]
fn a_damaged_database_is_told_once_with_a_hint() {
    let environment = Environment::new();
    environment.write("kept", "kept");
    let kept = environment.add("kept");
    remove_database(environment.repository());
    fs::write(environment.repository().join("repo.db"), "x".repeat(5000)).unwrap();
    let refused = environment
        .ipfs_exec(["cat", &kept])
        .fails(1, &["is damaged", "hint: ", "repo reindex"]);
    assert_eq!(
        refused.stderr.matches("not a database").count(),
        1,
        "{refused:?}"
    );
    let reindexed = environment.ipfs_exec(["repo", "reindex"]).succeeds();
    assert!(reindexed.stderr.contains("repo.db.old-1"), "{reindexed:?}");
    assert_eq!(environment.cat(&kept), b"kept");
    environment.assert_clean();
}

#[test]
fn a_repository_that_is_served_is_not_rebuilt() {
    let environment = Environment::new();
    environment.write("kept", "kept");
    environment.add("kept");
    let served = Served::start(&environment);
    environment
        .ipfs_exec(["repo", "reindex"])
        .fails(1, &["another process uses", "hint: end "]);
    served.end();
    environment.ipfs_exec(["repo", "reindex"]).succeeds();
}

/// Root made files in the repository of a user, who could no longer run anything in it.
#[test]
fn root_does_not_open_the_repository_of_another_user() {
    let environment = Environment::new();
    let repository = environment.repository();
    environment.write("file", "content");
    let cid = environment.add("file");
    if !geteuid().is_root() {
        // Only root can give files away: here it is enough that no file counts as foreign.
        environment.assert_clean();
        return;
    }
    requirement::tool("chown", "coreutils");
    let chown = |owner: &str, path: &Path| {
        environment
            .program("chown")
            .arguments(["-R", owner])
            .argument(path)
            .succeeds();
    };
    chown("65534", repository);
    let before = entries(&repository.join("rootfs"));
    for (command, code) in [
        (&["add", "file"][..], 1),
        (&["cat", &cid], 1),
        (&["repo", "reindex"], 1),
        (&["run", "file", "file"], 125),
    ] {
        environment
            .ipfs_exec(command)
            .fails(code, &["belongs to the user", "hint: ", "sudo -u"]);
    }
    assert_eq!(entries(&repository.join("rootfs")), before);
    chown("0", repository);
    chown("65534", &repository.join("blocks/1.car"));
    let verified = environment.ipfs_exec(["verify"]).ends_with(1);
    assert!(verified.text().contains("blocks/1.car belongs to the user"));
    let examined = environment.ipfs_exec(["doctor"]).ends_with(1);
    assert!(examined.text().contains("blocks/1.car"), "{examined:?}");
}
