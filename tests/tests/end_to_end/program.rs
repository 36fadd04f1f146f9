//! How a program is started: its path, working directory, standard input, environment and modes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use ipfs_exec_tests::{Archive, Environment, requirement};

use crate::machine::{EMPTY, Machine, compile, without_fuse};

/// A run with options before the root file system.
fn run(machine: &Machine, options: &[&str], arguments: &[&str]) -> ipfs_exec_tests::Invocation {
    machine
        .environment
        .ipfs_exec(["run"])
        .arguments(options)
        .arguments([&machine.rootfs, EMPTY])
        .arguments(arguments)
}

/// As process 1 a program does not get the signals that end any other one.
#[test]
fn an_entrypoint_is_not_process_1() {
    let machine = Machine::new();
    let shell = |script: &str| run(&machine, &["--entrypoint", "/bin/sh"], &["-c", script]);
    let said = |script: &str| {
        let script = format!("{{ {script}\n}} > /output/said");
        let cid = shell(&script).succeeds().line();
        String::from_utf8(machine.environment.cat(&format!("{cid}/said"))).unwrap()
    };
    assert_eq!(said("echo $$ $0"), "2 /bin/sh\n");
    assert_eq!(said("cat /proc/1/comm; ls /proc/1/fd | wc -l"), "init\n0\n");
    assert!(said("tr -d '\\0' < /proc/1/cmdline").starts_with("init"));
    // Orphans are reaped.
    let orphan =
        "(sleep 0.01 &) ; while pgrep sleep > /dev/null; do :; done; ps -o stat | grep -c Z";
    assert_eq!(said(&format!("{orphan}; :")), "0\n");
    for (signal, code) in [("TERM", 143), ("KILL", 137), ("ABRT", 134)] {
        shell(&format!("kill -{signal} $$")).ends_with(code);
    }
    shell("exit 7").ends_with(7);
    // What is sent to process 1 gets to the program.
    let handled =
        "trap 'echo got > /output/got; exit 3' USR1; kill -USR1 1; while :; do sleep 1; done";
    let outcome = shell(handled).ends_with(3);
    assert_eq!(
        machine.environment.cat(&format!("{}/got", outcome.line())),
        b"got\n"
    );
    // It is one of the processes that the limit allows, and ours is not.
    run(&machine, &["--pids", "1", "--entrypoint", "/bin/true"], &[]).succeeds();
}

#[test]
fn an_entrypoint_must_be_there() {
    let machine = Machine::new();
    let with = |path| run(&machine, &["--entrypoint", path], &[]);
    with("/bin/none").fails(127, &["/bin/none"]);
    with("/bin").fails(126, &["/bin", "no file"]);
    with("/proc/self/exe").fails(126, &["/proc"]);
    with("bin/true").fails(125, &["bin/true", "absolute"]);
    with("").fails(125, &["absolute"]);
}

/// A root file system needs no `/sbin/init` then, and one with a service manager there is of use.
#[test]
fn a_service_manager_is_told() {
    let image = Archive::busybox_without_init().symlink("sbin/init", "../bin/busybox");
    let machine = Machine::with(&image);
    let outcome = run(&machine, &["--timeout", "1s"], &["true"]).run();
    assert!(outcome.stderr.contains("--entrypoint"), "{outcome:?}");
    let outcome = run(&machine, &["--entrypoint", "/bin/true"], &[]).succeeds();
    assert_eq!(outcome.stderr, "");
}

#[test]
fn a_working_directory_is_entered() {
    let machine = Machine::new();
    for directory in ["/", "/tmp", "/output", "/bin"] {
        let script = "pwd > /output/pwd; echo $PWD >> /output/pwd";
        let outcome = run(&machine, &["--workdir", directory], &["sh", "-c", script]).succeeds();
        let said = machine.environment.cat(&format!("{}/pwd", outcome.line()));
        assert_eq!(said, format!("{directory}\n{directory}\n").as_bytes());
    }
    run(&machine, &["--workdir", "/none"], &["true"]).fails(125, &["/none"]);
    run(&machine, &["--workdir", "tmp"], &["true"]).fails(125, &["absolute"]);
}

/// A program took the list that a shell loop reads.
#[test]
fn standard_input_is_a_part_of_the_job() {
    let machine = Machine::new();
    let environment = &machine.environment;
    let file = environment.write("words", "one\ntwo\n");
    let cid = environment.add(&file);
    let wanted = run(
        &machine,
        &["--stdin", &cid],
        &["sh", "-c", "cat > /output/x"],
    );
    let wanted = wanted.succeeds().line();
    assert_eq!(environment.cat(&format!("{wanted}/x")), b"one\ntwo\n");
    let copy = |source: &str| {
        run(
            &machine,
            &["--json", "--stdin", source],
            &["sh", "-c", "cat > /output/x"],
        )
    };
    for invocation in [copy(file.to_str().unwrap()), copy("-").input("one\ntwo\n")] {
        let told = invocation.succeeds().json();
        assert_eq!(told[0]["cid"], wanted.as_str());
        assert_eq!(told[0]["repeatable"], true);
    }
    // Nothing is taken that was not declared.
    let without = run(&machine, &["--json"], &["sh", "-c", "cat > /output/x"]).input("more");
    let told = without.succeeds().json();
    assert_eq!(told[0]["repeatable"], true);
    assert_eq!(
        environment.cat(&format!("{}/x", told[0]["cid"].as_str().unwrap())),
        b""
    );
    let passed = run(
        &machine,
        &["--json", "-i"],
        &["sh", "-c", "cat > /output/x"],
    );
    let told = passed.input("one\ntwo\n").succeeds().json();
    assert_eq!(told[0]["cid"], wanted.as_str());
    assert_eq!(told[0]["repeatable"], false);
    // More than any pipe holds, of which the program takes nothing.
    let large = environment.write("large", vec![b'x'; 3 << 20]);
    run(&machine, &["--stdin", large.to_str().unwrap()], &["true"]).succeeds();
    run(&machine, &["--stdin", EMPTY], &["true"]).fails(125, &[EMPTY, "standard input"]);
    run(&machine, &["-i", "--stdin", &cid], &["true"]).fails(125, &["--stdin"]);
}

/// Scripts of a local input could not be executed, nor what a run before had compiled.
#[test]
fn inputs_without_modes_can_be_executed() {
    let machine = Machine::new();
    let environment = &machine.environment;
    environment.write("in/script", "#!/bin/sh\necho ran > /output/ran\n");
    let tree = environment.add("in");
    let script = "stat -c %a /input/script > /output/mode; /input/script";
    let mounted = machine
        .run_on(&tree, ["sh", "-c", script])
        .succeeds()
        .line();
    assert_eq!(environment.cat(&format!("{mounted}/mode")), b"555\n");
    assert_eq!(environment.cat(&format!("{mounted}/ran")), b"ran\n");
    let copied = without_fuse(
        environment,
        ["run", &machine.rootfs, &tree, "sh", "-c", script],
    );
    assert_eq!(copied.succeeds().line(), mounted);
    // Recorded modes win.
    let path = environment.file("in/script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let recorded = environment.ipfs_exec(["add", "-Q", "--preserve-mode", "in"]);
    let recorded = recorded.succeeds().line();
    let script = "stat -c %a /input/script > /output/mode; ! /input/script";
    let outcome = machine.run_on(&recorded, ["sh", "-c", script]).succeeds();
    assert_eq!(
        environment.cat(&format!("{}/mode", outcome.line())),
        b"640\n"
    );
}

/// The output of a run is the root file system of the next one, and the input of a third.
#[test]
fn runs_can_be_chained() {
    requirement::bubblewrap();
    let machine = Machine::new();
    let environment = &machine.environment;
    let source = r#"#include <stdio.h>
        int main(int count, char **names) { puts(names[count - 1]); return 0; }"#;
    environment.write("built/say", compile(source));
    let built = environment.add("built");
    let make = "mkdir -p /output/bin && cp /input/say /output/bin/say";
    let first = machine.run_on(&built, ["sh", "-c", make]).succeeds().line();
    let second = environment.ipfs_exec(["run", "--entrypoint", "/bin/say", &first, EMPTY, "hello"]);
    let outcome = second.succeeds();
    assert_eq!(outcome.stderr, "hello\n");
    let third = machine.run_on(&first, ["sh", "-c", "/input/bin/say hi > /output/x"]);
    let third = third.succeeds().line();
    assert_eq!(environment.cat(&format!("{third}/x")), b"hi\n");
}

/// The caller's kind of terminal is told to a program at a terminal alone.
#[test]
fn the_kind_of_terminal_is_no_part_of_a_job() {
    let machine = Machine::new();
    let outcome = run(&machine, &[], &["sh", "-c", "echo ${TERM-none}"]).variable("TERM", "dumb");
    assert_eq!(outcome.succeeds().stderr, "none\n");
}

/// Of the attributes that a process inherits, none is the caller's but its courtesy.
#[test]
fn attributes_of_the_caller_stay_outside() {
    let machine = Machine::new();
    let environment: &Environment = &machine.environment;
    let said = "cat /proc/self/coredump_filter; cat /proc/self/timerslack_ns 2>/dev/null; \
                grep -E '^THP_enabled' /proc/self/status; \
                cat /proc/sys/kernel/domainname; sed 's/.*) //' /proc/self/stat | cut -d' ' -f17";
    let script = format!("{{ {said}; }} > /output/said");
    let plain = machine.shell(&script);
    let changed = "echo 0x7f > /proc/self/coredump_filter; exec nice -n 3 \"$@\"";
    let call = environment
        .program("sh")
        .arguments(["-c", changed, "sh"])
        .argument(ipfs_exec_tests::environment::binary())
        .arguments(["--repo", environment.repository().to_str().unwrap()])
        .arguments(["run", &machine.rootfs, EMPTY, "sh", "-c", &script]);
    let cid = call.succeeds().line();
    let said = |cid: &str| {
        let said = environment.cat(&format!("{cid}/said"));
        let said = String::from_utf8(said).unwrap();
        let mut lines: Vec<_> = said.lines().map(ToOwned::to_owned).collect();
        let nice = lines.pop().unwrap();
        (lines, nice)
    };
    let (attributes, nice) = said(&cid);
    assert_eq!(attributes, said(&plain).0);
    assert_eq!(nice, "3");
}
