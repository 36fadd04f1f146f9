//! How one talks to the program: help, wrong usage, where the repository is.

use std::fs;

use ipfs_exec_tests::Environment;

use crate::machine::EMPTY;

#[test]
fn help_and_version_are_data() {
    let environment = Environment::new();
    let version = environment.ipfs_exec(["--version"]).succeeds().line();
    assert!(version.starts_with("ipfs-exec "), "{version}");
    let help = environment.ipfs_exec(["--help"]).succeeds();
    for command in [
        "run", "add", "cat", "get", "ls", "stat", "mkdir", "pin", "import", "export", "verify",
        "repo", "gc", "fetch", "serve", "provide", "peers", "id",
    ] {
        assert!(
            help.text().contains(command),
            "no word about {command}\n{help:?}"
        );
        let own = environment.ipfs_exec([command, "--help"]).succeeds();
        assert!(own.text().contains("Usage:"), "{own:?}");
    }
    assert!(
        !environment.repository().join("repo.db").exists(),
        "help makes no repository"
    );
}

#[test]
fn wrong_usage_is_code_2() {
    let environment = Environment::new();
    for arguments in [
        vec![],
        vec!["frobnicate"],
        vec!["add"],
        vec!["add", "--frobnicate", "x"],
        vec!["add", "--cid-version", "7", "x"],
        vec!["add", "--profile", "none-such", "x"],
        vec!["add", "--chunker", "rabin", "x"],
        vec!["add", "--mode", "99999", "x"],
        vec!["cat"],
        vec!["pin"],
        vec!["pin", "frobnicate"],
        vec!["mkdir", "odd"],
    ] {
        let outcome = environment.ipfs_exec(&arguments).ends_with(2);
        assert!(outcome.stdout.is_empty(), "{outcome:?}");
        assert!(!outcome.stderr.is_empty(), "{arguments:?}");
    }
}

/// Any code below 125 may be that of the program.
#[test]
fn wrong_usage_of_run_is_code_125() {
    let environment = Environment::new();
    for arguments in [
        vec!["run"],
        vec!["run", "rootfs"],
        vec!["run", "--frobnicate", "rootfs", "input"],
        vec!["run", "--env", "novalue", "rootfs", "input"],
        vec![
            "--offline",
            "run",
            "--profile",
            "none-such",
            "rootfs",
            "input",
        ],
    ] {
        let outcome = environment.ipfs_exec(&arguments).ends_with(125);
        assert!(outcome.stdout.is_empty(), "{outcome:?}");
        assert!(!outcome.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_cid_that_does_not_parse_is_named() {
    let environment = Environment::new();
    for text in [
        "nonsense",
        "/ipfs/nonsense/a",
        "Qm0000000000000000000000000000000000000000000000",
    ] {
        let word = text.trim_start_matches("/ipfs/").split('/').next().unwrap();
        for command in [
            vec!["cat"],
            vec!["ls"],
            vec!["stat"],
            vec!["get"],
            vec!["pin", "add"],
        ] {
            environment
                .ipfs_exec(command)
                .argument(text)
                .fails(1, &[word]);
        }
    }
}

#[test]
fn offline_is_accepted_everywhere() {
    let environment = Environment::new();
    environment.write("file", "hello world");
    let cid = environment
        .ipfs_exec(["--offline", "add", "file"])
        .succeeds()
        .line();
    for arguments in [
        vec!["cat", "--offline", &cid],
        vec!["--offline", "stat", &cid],
        vec!["mkdir", "--offline"],
        vec!["pin", "ls", "--offline"],
        vec!["verify", "--offline"],
        vec!["repo", "stat", "--offline"],
        vec!["export", "--offline", &cid],
    ] {
        environment.ipfs_exec(arguments).succeeds();
    }
}

#[test]
fn the_repository_is_found_and_made() {
    let environment = Environment::new();
    let plain = || {
        ipfs_exec_tests::Invocation::new(ipfs_exec_tests::environment::binary())
            .variable("HOME", environment.home())
            .variable("TMPDIR", environment.temporary())
            .working_directory(environment.home())
    };
    assert_eq!(plain().argument("mkdir").succeeds().line(), EMPTY);
    assert!(
        environment
            .home()
            .join(".local/share/ipfs-exec/repo.db")
            .is_file()
    );

    let data = environment.file("data");
    plain()
        .variable("XDG_DATA_HOME", &data)
        .argument("mkdir")
        .succeeds();
    assert!(data.join("ipfs-exec/repo.db").is_file());

    let (by_variable, by_option) = (environment.file("variable"), environment.file("a/b/option"));
    plain()
        .variable("IPFS_EXEC_PATH", &by_variable)
        .argument("mkdir")
        .succeeds();
    assert!(by_variable.join("repo.db").is_file());
    plain()
        .variable("IPFS_EXEC_PATH", environment.file("unused"))
        .argument("--repo")
        .argument(&by_option)
        .argument("mkdir")
        .succeeds();
    assert!(by_option.join("repo.db").is_file());
    assert!(!environment.file("unused").exists());
}

#[test]
fn a_repository_that_cannot_be_made_is_named() {
    let environment = Environment::new();
    let file = environment.write("file", "not a directory");
    environment
        .ipfs_exec(["--repo", "file", "mkdir"])
        .fails(1, &["file"]);
    environment
        .ipfs_exec(["--repo", "file/below", "mkdir"])
        .fails(1, &["file"]);
    assert_eq!(fs::read(file).unwrap(), b"not a directory");
}

#[test]
fn messages_are_plain_text_without_a_terminal() {
    let environment = Environment::new();
    environment.write("file", vec![3; 20_000_000]);
    let added = environment.ipfs_exec(["add", "file"]).succeeds();
    assert_eq!(added.stderr, "", "progress without a terminal");
    let failed = environment.ipfs_exec(["cat", "nonsense"]).ends_with(1);
    assert!(!failed.stderr.contains('\u{1b}'), "{failed:?}");
}
