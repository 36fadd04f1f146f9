//! Runs that end before their time.

use std::thread;
use std::time::{Duration, Instant};

use ipfs_exec_tests::environment::entries;
use ipfs_exec_tests::random::Random;
use ipfs_exec_tests::{Environment, Outcome, Running};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;

use crate::machine::{EMPTY, Machine};
use crate::sandbox::processes_with;

/// A duration for `sleep` that no other process on this machine has.
fn marker(number: u32) -> String {
    format!("7{number}{}", std::process::id())
}

/// Starts a program that would sleep for years.
fn sleeper(machine: &Machine, marker: &str) -> Running {
    // A shell handles SIGINT, and ends by itself; `sleep` handles nothing.
    let script =
        format!("echo x > /output/x; echo ready >&2; sleep {marker} & exec sleep {marker}");
    let mut running = machine.run(["sh", "-c", &script]).process_group().start();
    running.wait_for("ready");
    let deadline = Instant::now() + Duration::from_secs(60);
    let sleeps = |line: &String| line.starts_with("sleep ");
    while processes_with(marker)
        .iter()
        .filter(|line| sleeps(line))
        .count()
        < 2
    {
        assert!(Instant::now() < deadline, "the shell does not sleep");
        thread::sleep(Duration::from_millis(5));
    }
    running
}

#[test]
fn an_interrupt_ends_the_program_and_cleans_up() {
    let machine = Machine::new();
    for (number, signal) in [(1, Signal::INT), (2, Signal::TERM), (3, Signal::HUP)] {
        let marker = marker(number);
        let running = sleeper(&machine, &marker);
        running.signal(signal);
        let outcome = running.wait();
        // As shells expect of a command in a loop.
        assert_eq!(outcome.signal, Some(signal.as_raw()), "{outcome:?}");
        assert!(
            outcome.stdout.is_empty(),
            "an interrupted run has no output\n{outcome:?}"
        );
        assert!(outcome.elapsed < Duration::from_secs(30), "{outcome:?}");
        assert_eq!(processes_with(&marker), Vec::<String>::new());
        machine.environment.assert_clean();
    }
}

#[test]
fn an_interrupt_of_the_whole_group_does_the_same() {
    let machine = Machine::new();
    let marker = marker(4);
    let running = sleeper(&machine, &marker);
    running.signal_group(Signal::INT);
    let outcome = running.wait();
    assert_eq!(outcome.signal, Some(2), "{outcome:?}");
    assert_eq!(processes_with(&marker), Vec::<String>::new());
    machine.environment.assert_clean();
}

/// The soft kill of a batch system: the program saves what it has, and that is the result.
#[test]
fn a_program_that_handles_a_signal_may_end_by_itself() {
    let machine = Machine::new();
    let script = "trap 'echo saved > /output/saved; exit 5' TERM HUP; \
                  trap 'echo told >> /output/told' USR1 USR2; \
                  echo ready >&2; while :; do sleep 0.1; done";
    for signal in [Signal::TERM, Signal::HUP] {
        let mut running = machine.run(["sh", "-c", script]).start();
        running.wait_for("ready");
        running.signal(signal);
        let outcome = running.wait();
        assert_eq!(outcome.code, Some(5), "{outcome:?}");
        let saved = format!("{}/saved", outcome.line());
        assert_eq!(machine.environment.cat(&saved), b"saved\n");
    }
    // Other signals are for the program alone.
    let script = "trap 'echo one > /output/1' USR1; trap 'echo two > /output/2; exit 0' USR2; \
                  echo ready >&2; while :; do sleep 0.1; done";
    let mut running = machine.run(["sh", "-c", script]).start();
    running.wait_for("ready");
    running.signal(Signal::USR1);
    running.signal(Signal::USR2);
    let cid = running.wait().line();
    assert!(machine.environment.names(&cid).contains(&"2".to_owned()));
    machine.environment.assert_clean();
}

/// Ctrl-C ends a loop over runs, also where the program ends by itself.
#[test]
fn a_loop_over_runs_ends() {
    let machine = Machine::new();
    let script = "trap 'exit 0' INT; echo ready >&2; while :; do sleep 0.1; done";
    let mut running = machine.run(["sh", "-c", script]).start();
    running.wait_for("ready");
    running.signal(Signal::INT);
    let outcome = running.wait();
    assert_eq!(outcome.signal, Some(2), "{outcome:?}");
    assert!(outcome.text().starts_with("Qm"), "{outcome:?}");
}

/// A run with these options and arguments of its program that gets SIGTERM once the program is ready.
#[track_caller]
fn terminated(machine: &Machine, options: &[&str], arguments: &[&str]) -> Outcome {
    let call = machine.environment.ipfs_exec(["run"]).arguments(options);
    let call = call
        .arguments([&machine.rootfs, EMPTY])
        .arguments(arguments);
    let mut running = call.start();
    running.wait_for("ready");
    running.signal(Signal::TERM);
    running.wait()
}

/// A program that handles the signal and goes on is killed when its time is over.
#[test]
fn a_program_that_does_not_end_is_killed() {
    let machine = Machine::new();
    let script = "trap : TERM; echo ready >&2; while :; do sleep 0.1; done";
    let options = ["--stop-timeout", "1s"];
    let outcome = terminated(&machine, &options, &["sh", "-c", script]);
    assert_eq!(outcome.signal, Some(15), "{outcome:?}");
    assert!(outcome.stdout.is_empty(), "{outcome:?}");
    machine.environment.assert_clean();
}

/// A program that is not process 1 dies of the signal: that is an interruption, not an end by itself.
#[test]
fn an_entrypoint_that_dies_of_the_signal_has_no_output() {
    let machine = Machine::new();
    let script = "echo ready >&2; while :; do sleep 0.1; done";
    let options = ["--entrypoint", "/bin/sh"];
    let outcome = terminated(&machine, &options, &["-c", script]);
    assert_eq!(outcome.signal, Some(15), "{outcome:?}");
    assert!(outcome.stdout.is_empty(), "{outcome:?}");
    assert!(outcome.elapsed < Duration::from_secs(9), "{outcome:?}");
}

/// A run whose output nobody reads did not end at its time, nor when it was told to.
#[test]
fn a_reader_that_does_not_read_keeps_no_run() {
    let machine = Machine::new();
    let script = "head -c 1000000 /dev/zero; sleep 60";
    let call = |options: &[&str]| {
        let mut call = std::process::Command::new(ipfs_exec_tests::environment::binary());
        call.arg("--repo")
            .arg(machine.environment.repository())
            .arg("run")
            .args(options)
            .args([&machine.rootfs, EMPTY, "sh", "-c", script])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped());
        call
    };
    for option in ["--timeout", "--total-timeout"] {
        let started = Instant::now();
        let mut child = call(&[option, "1s"]).spawn().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(124), "{option}");
        assert!(started.elapsed() < Duration::from_secs(20), "{option}");
    }
}

#[test]
fn a_killed_run_takes_its_program_along() {
    let machine = Machine::new();
    let marker = marker(5);
    let running = sleeper(&machine, &marker);
    running.signal(Signal::KILL);
    let outcome = running.wait();
    assert_eq!(outcome.signal, Some(9), "{outcome:?}");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !processes_with(&marker).is_empty() {
        assert!(Instant::now() < deadline, "the program outlived its parent");
        thread::sleep(Duration::from_millis(10));
    }
    // The next command removes what the dead one left.
    machine.shell("true");
    machine.environment.assert_clean();
}

#[test]
fn gc_removes_files_of_a_killed_run() {
    let machine = Machine::new();
    let marker = marker(6);
    let running = sleeper(&machine, &marker);
    running.signal(Signal::KILL);
    assert_eq!(running.wait().signal, Some(9));
    let deadline = Instant::now() + Duration::from_secs(10);
    while !processes_with(&marker).is_empty() {
        assert!(Instant::now() < deadline, "the program outlived its parent");
        thread::sleep(Duration::from_millis(10));
    }
    machine.environment.ipfs_exec(["gc"]).succeeds();
    machine.environment.assert_clean();
}

#[test]
fn an_interrupted_add_leaves_nothing() {
    let environment = Environment::new();
    let source = environment.write("large", Random::new(11).bytes(200_000_000));
    for delay in [5, 50, 150] {
        let running = environment.ipfs_exec(["add"]).argument(&source).start();
        thread::sleep(Duration::from_millis(delay));
        running.signal(Signal::INT);
        let outcome = running.wait();
        if outcome.code == Some(0) {
            // It was faster.
            continue;
        }
        assert!(outcome.stdout.is_empty(), "{outcome:?}");
        assert!(
            matches!(outcome.code, Some(1 | 130)) || outcome.signal == Some(2),
            "{outcome:?}"
        );
        environment.assert_clean();
    }
    environment.add(&source);
    environment.assert_clean();
}

#[test]
fn an_interrupted_get_leaves_nothing() {
    let environment = Environment::new();
    let source = environment.write("large", Random::new(12).bytes(200_000_000));
    let cid = environment.add(&source);
    let place = environment.directory("place");
    for delay in [5, 50] {
        let running = environment
            .ipfs_exec(["get", &cid, "-o", "place/out"])
            .start();
        thread::sleep(Duration::from_millis(delay));
        running.signal(Signal::INT);
        let outcome = running.wait();
        if outcome.code == Some(0) {
            std::fs::remove_file(place.join("out")).unwrap();
        } else {
            assert!(entries(&place).is_empty(), "{outcome:?}");
        }
    }
}

/// Another process that holds a lock, and does not let go, must not hold the user too.
#[test]
fn an_interrupt_ends_the_wait_for_another_process() {
    let environment = Environment::new();
    environment.write("file", "content");
    let wait_for = |held: &std::path::Path, command: &[&str], signal: Signal| {
        let holder = std::fs::File::open(held).unwrap();
        flock(&holder, FlockOperation::LockExclusive).unwrap();
        let running = environment.ipfs_exec(command).start();
        thread::sleep(Duration::from_millis(300));
        running.signal(signal);
        let outcome = running.wait();
        assert_eq!(outcome.signal, Some(signal.as_raw()), "{outcome:?}");
        assert_eq!(outcome.errors(), ["error: interrupted"]);
        assert!(outcome.stdout.is_empty(), "{outcome:?}");
        assert!(outcome.elapsed < Duration::from_secs(10), "{outcome:?}");
    };
    let repository = environment.repository();
    wait_for(repository, &["add", "file"], Signal::TERM);
    environment.add("file");
    environment.write("file", "other content");
    for held in ["rootfs", "run"] {
        for signal in [Signal::INT, Signal::TERM] {
            let held = repository.join(held);
            wait_for(&held, &["add", "file"], signal);
            wait_for(&held, &["mkdir"], signal);
            wait_for(&held, &["gc"], signal);
        }
    }
    environment.add("file");
    environment.assert_clean();
}
