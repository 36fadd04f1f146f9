//! How one talks to the program: help, wrong usage, where the repository is.

use std::fs;
use std::time::Duration;

use ipfs_exec_tests::{Environment, Invocation};

use crate::machine::{EMPTY, Machine};

/// The message began in the middle of the line.
#[test]
fn an_error_begins_on_a_line_of_its_own() {
    let machine = Machine::new();
    let script = "printf unfinished; exec sleep 60";
    let words = [
        "--timeout",
        "1s",
        &machine.rootfs,
        EMPTY,
        "sh",
        "-c",
        script,
    ];
    let run = machine.environment.ipfs_exec(["run"]).arguments(words);
    let outcome = run.ends_with(124);
    assert!(
        outcome.stderr.contains("unfinished\nerror: "),
        "{outcome:?}"
    );
    // Without a message nothing is added.
    let outcome = machine.run(["printf", "unfinished"]).succeeds();
    assert_eq!(outcome.stderr, "unfinished");
}

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
    let alone = environment.ipfs_exec([""; 0]).ends_with(2);
    assert!(alone.stderr.contains("Commands:"), "no help\n{alone:?}");
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
        vec!["--frobnicate", "run", "rootfs", "input"],
        vec!["--idle-timeout", "0", "run", "rootfs", "input"],
        vec!["run", "--memroy", "1G", "rootfs", "input"],
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

/// These ended with 1, as a program may: a script could not tell that nothing had run.
#[test]
fn whatever_stops_run_before_the_program_is_code_125() {
    let environment = Environment::new();
    let run = || environment.ipfs_exec(["run", "rootfs", "input"]);
    environment.write("file", "");
    run()
        .variable("IPFS_EXEC_PATH", "file")
        .fails(125, &["file"]);
    run().argument("--json").fails(125, &["rootfs"]);
    let limited = |limit: &str| {
        environment
            .program("/bin/sh")
            .arguments(["-c", &format!("ulimit {limit}; exec \"$@\""), "sh"])
            .argument(ipfs_exec_tests::environment::binary())
            .arguments(["run", "rootfs", "input"])
    };
    for limit in ["-n 4", "-n 6", "-n 8"] {
        limited(limit).ends_with(125);
    }
    environment.configure("nonsense = true\n");
    run().fails(125, &["config.toml", "nonsense"]);
}

/// Runs a script in which `$0` and its arguments are the program under test.
fn script(environment: &Environment, script: &str, arguments: &[&str]) -> Invocation {
    environment
        .program("/bin/sh")
        .arguments(["-c", script])
        .argument(ipfs_exec_tests::environment::binary())
        .arguments(arguments)
}

/// The standard library opens `/dev/null` in place of a closed standard output, so that `add` did its
/// work, said that it had, and the CID was lost.
#[test]
fn a_closed_standard_output_is_an_error_before_the_work() {
    let environment = Environment::new();
    environment.write("file", "content");
    let closed = |arguments: &[&str]| script(&environment, "exec \"$0\" \"$@\" >&-", arguments);
    closed(&["add", "file"]).fails(1, &["standard output is closed"]);
    closed(&["run", "rootfs", "input"]).fails(125, &["standard output is closed"]);
    assert!(!environment.repository().join("repo.db").exists());
    // Output that is dropped on purpose is not missed.
    for redirection in [">/dev/null", "<&- >/dev/null", "<>/dev/null >&0 2>&0"] {
        let call = format!("exec \"$0\" \"$@\" {redirection}");
        script(&environment, &call, &["add", "file"]).succeeds();
    }
}

/// A message that could not be written was a panic: exit code 101, and the result was lost.
#[test]
fn a_standard_error_that_cannot_be_written_costs_only_the_message() {
    let environment = Environment::new();
    environment.write("file", "content");
    let expected = environment.add("file");
    for redirection in ["2>&-", "2>/dev/full", "2>/dev/null"] {
        let call = format!("exec \"$0\" \"$@\" {redirection}");
        script(&environment, &call, &["cat", "nonsense"]).ends_with(1);
        script(&environment, &call, &["run", "rootfs"]).ends_with(125);
        let added = script(&environment, &call, &["add", "file"]).succeeds();
        assert!(added.text().starts_with(&expected), "{added:?}");
    }
}

/// A reader of standard error that had stopped held the command for ever.
#[test]
fn a_standard_error_without_reads_delays_a_command_by_seconds() {
    let environment = Environment::new();
    let full = "mkfifo pipe; exec 3<>pipe; dd if=/dev/zero of=pipe bs=65536 count=1 2>/dev/null; \
                exec \"$0\" \"$@\" 2>&3";
    let outcome = script(&environment, full, &["cat", "nonsense"]).ends_with(1);
    assert!(outcome.elapsed >= Duration::from_secs(4), "{outcome:?}");
    assert!(outcome.elapsed < Duration::from_secs(60), "{outcome:?}");
}

/// An error and its hint were two writes, between which other processes wrote theirs.
#[test]
fn errors_of_parallel_processes_stay_whole() {
    const PROCESSES: usize = 30;
    let environment = Environment::new();
    let many = format!(
        "n=0; while [ $n -lt {PROCESSES} ]; do \"$0\" \"$@\" 2>> log & n=$((n + 1)); done; wait"
    );
    script(&environment, &many, &["cat", "nonsense"]).succeeds();
    let log = fs::read_to_string(environment.file("log")).unwrap();
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines.len(), 2 * PROCESSES, "{log}");
    for pair in lines.chunks(2) {
        assert!(pair[0].starts_with("error: "), "{log}");
        assert!(pair[1].starts_with("hint: "), "{log}");
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
