//! Which files of a local directory are imported.

use std::fs;
use std::os::unix::fs::symlink;

use ipfs_exec_tests::{Environment, Outcome};

use crate::machine::Machine;

/// An environment whose repository lies in its directory `files`, with a key.
fn repository_in_the_way() -> (Environment, String) {
    let environment = Environment::new();
    environment.write("kept", "content");
    let repository = environment.file("hidden/.repository");
    let repository = repository.to_str().unwrap().to_owned();
    call(&environment, &repository, &["mkdir"]);
    call(&environment, &repository, &["id"]);
    assert!(environment.file("hidden/.repository/keys/self").is_file());
    (environment, repository)
}

#[track_caller]
fn call(environment: &Environment, repository: &str, arguments: &[&str]) -> Outcome {
    environment
        .ipfs_exec(["--repo", repository])
        .arguments(arguments)
        .succeeds()
}

/// `cd ~; ipfs-exec add .` added the repository itself: the live database, and the private key.
#[test]
fn the_repository_in_use_is_left_out_and_said_so_once() {
    let (environment, repository) = repository_in_the_way();
    let added = call(&environment, &repository, &["add", "-Q", "."]);
    let cid = added.line();
    let listed = call(&environment, &repository, &["ls", "-r", "--json", &cid]).json();
    let mut paths: Vec<_> = listed
        .iter()
        .map(|entry| entry["path"].as_str().unwrap())
        .collect();
    paths.sort_unstable();
    assert_eq!(paths, ["hidden", "kept"]);
    assert_eq!(added.stderr.matches("left out").count(), 1, "{added:?}");
    assert!(added.stderr.contains("hidden/.repository"), "{added:?}");
    // Nothing else changes: it is the CID of the tree without the repository.
    let hashed = environment.ipfs_exec(["add", "-n", "-Q", "."]).succeeds();
    assert_eq!(hashed.line(), cid);
}

/// A repository that is not in use gives its key away just as well, also one that has lost its index.
#[test]
fn every_other_repository_is_left_out() {
    let (environment, _) = repository_in_the_way();
    let second = environment.file("second");
    call(&environment, second.to_str().unwrap(), &["id"]);
    for name in ["repo.db", "repo.db-wal", "repo.db-shm"] {
        // Not all of them need to exist.
        let _ = fs::remove_file(second.join(name));
    }
    let other = environment.ipfs_exec(["add", "."]).succeeds();
    assert!(other.stderr.contains("1 more"), "{other:?}");
    let listed = environment
        .ipfs_exec(["ls", "-r"])
        .argument(last(&other))
        .succeeds();
    assert!(!listed.text().contains("self"), "{listed:?}");
    assert!(!listed.text().contains("second"), "{listed:?}");
}

fn last(outcome: &Outcome) -> String {
    outcome.lines().pop().unwrap()
}

/// Where the argument itself is a repository, leaving it out would leave nothing.
#[test]
fn an_argument_in_a_repository_is_an_error() {
    let (environment, _) = repository_in_the_way();
    symlink("hidden/.repository", environment.file("link")).unwrap();
    for path in [
        "hidden/.repository",
        "hidden/.repository/",
        "hidden/../hidden/.repository",
        "hidden/.repository/keys",
        "hidden/.repository/keys/self",
        "link/blocks",
        "link/",
    ] {
        let outcome = environment.ipfs_exec(["add", path]).ends_with(1);
        assert!(
            outcome.stderr.contains("repository of ipfs-exec"),
            "{path}: {outcome:?}"
        );
        assert!(outcome.stderr.contains("hint: "), "{path}: {outcome:?}");
        environment.ipfs_exec(["add", "-n", path]).ends_with(1);
    }
    // The link alone holds nothing of it.
    environment.ipfs_exec(["add", "link"]).succeeds();
}

/// A program that was given `.` as its input could read the private key.
#[test]
fn a_program_does_not_see_the_repository() {
    let machine = Machine::new();
    let environment = &machine.environment;
    environment.write("tree/kept", "content");
    let second = environment.file("tree/second");
    call(environment, second.to_str().unwrap(), &["id"]);
    let script = "find /input | sort > /output/seen";
    let run = environment
        .ipfs_exec(["run", &machine.rootfs, "tree", "sh", "-c", script])
        .succeeds();
    let seen = environment.cat(&format!("{}/seen", run.line()));
    assert_eq!(seen, b"/input\n/input/kept\n");
    assert_eq!(run.stderr.matches("left out").count(), 1, "{run:?}");
    let repository = environment.repository();
    for path in [
        second.join("keys"),
        second,
        repository.to_owned(),
        repository.join("blocks"),
    ] {
        let outcome = environment
            .ipfs_exec(["run", &machine.rootfs])
            .argument(&path)
            .argument("true")
            .ends_with(125);
        assert!(
            outcome.stderr.contains("repository of ipfs-exec"),
            "{outcome:?}"
        );
    }
}

#[test]
fn rules_leave_entries_out() {
    let environment = Environment::new();
    for name in [
        "a.log",
        "b.text",
        "sub/c.log",
        "sub/kept.log",
        ".hidden/d",
        "build/e",
    ] {
        environment.write(format!("tree/{name}"), name);
    }
    environment.write("rules", "# comment\n*.log\nbuild/\n");
    for name in ["b.text", "sub/kept.log"] {
        environment.write(format!("expected/{name}"), name);
    }
    let ignoring = [
        "add",
        "-Q",
        "--ignore-rules-path",
        "rules",
        "--ignore",
        "!kept.log",
        "--ignore",
        ".*",
    ];
    let cid = environment
        .ipfs_exec(ignoring)
        .argument("tree")
        .succeeds()
        .line();
    assert_eq!(cid, environment.add("expected"));
    // A rule is about entries, and never about the argument itself.
    let all = environment.add("tree");
    let named = environment.ipfs_exec(["add", "-Q", "--ignore", "tree", "tree"]);
    assert_eq!(named.succeeds().line(), all);

    environment
        .ipfs_exec(["add", "--ignore", "[z-a]", "tree"])
        .fails(2, &["[z-a]"]);
    environment
        .ipfs_exec(["add", "--ignore-rules-path", "missing", "tree"])
        .fails(1, &["missing"]);
    environment
        .ipfs_exec(["add", "--ignore-rules-path", "/dev/zero", "tree"])
        .fails(1, &["/dev/zero", "bytes"]);
}
