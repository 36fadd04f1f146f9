//! `doctor`: what it finds on machines that lack something, and that a run says the same.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use ipfs_exec_tests::{Environment, Outcome};
use serde_json::Value;

use crate::machine::{EMPTY, Machine, with_own_mounts};

fn findings(outcome: &Outcome) -> Vec<Value> {
    let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[track_caller]
fn find<'f>(findings: &'f [Value], check: &str) -> &'f Value {
    let mut found = findings.iter().filter(|finding| finding["check"] == check);
    found
        .next()
        .unwrap_or_else(|| panic!("no {check} in {findings:?}"))
}

/// A directory for the `PATH` in which bubblewrap is this script.
fn bubblewrap(environment: &Environment, script: &str) -> String {
    let path = environment.write("tools/bwrap", script);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.parent().unwrap().to_str().unwrap().to_owned()
}

/// The same, with one that makes no sandbox and says why.
fn failing_bubblewrap(environment: &Environment, message: &str) -> String {
    let script = format!(
        "#!/bin/sh\n[ \"$1\" != --version ] || {{ echo bubblewrap 0.8.0; exit; }}\n\
         echo \"bwrap: {message}\" >&2\nexit 1\n"
    );
    bubblewrap(environment, &script)
}

#[test]
fn a_machine_that_runs_programs() {
    let machine = Machine::new();
    let outcome = machine
        .environment
        .ipfs_exec(["doctor", "--json"])
        .succeeds();
    let found = findings(&outcome);
    for check in [
        "kernel",
        "bubblewrap",
        "namespaces",
        "seccomp",
        "landlock",
        "fuse",
        "fusermount3",
        "cgroups",
        "disk",
        "repository",
        "limits",
    ] {
        let finding = find(&found, check);
        assert_ne!(finding["status"], "error", "{finding}");
        assert_eq!(
            finding["remedy"].is_null(),
            finding["status"] == "ok",
            "{finding}"
        );
    }
    let told = machine.environment.ipfs_exec(["doctor"]).succeeds();
    let text = String::from_utf8(told.stdout).unwrap();
    assert_eq!(
        text.lines().filter(|line| !line.starts_with(' ')).count(),
        found.len()
    );
    assert!(text.starts_with("ok      kernel: Linux"), "{text}");
}

/// What it advises is the hint of a run that fails for the same reason.
#[test]
fn a_run_gives_the_remedy_of_the_doctor() {
    let machine = Machine::new();
    let environment = &machine.environment;
    let run = || environment.ipfs_exec(["run", &machine.rootfs, EMPTY, "true"]);
    let nothing = environment
        .directory("nothing")
        .to_str()
        .unwrap()
        .to_owned();
    let old = bubblewrap(environment, "#!/bin/sh\necho bubblewrap 0.4.1\n");
    for path in [nothing, old] {
        let doctor = environment
            .ipfs_exec(["doctor", "--json"])
            .variable("PATH", &path);
        let outcome = doctor.run();
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let found = findings(&outcome);
        let finding = find(&found, "bubblewrap");
        assert_eq!(finding["status"], "error");
        let remedy = finding["remedy"].as_str().unwrap();
        run().variable("PATH", &path).fails(125, &[remedy]);
    }
}

#[test]
fn a_sandbox_that_cannot_be_made() {
    let environment = Environment::new();
    let path = failing_bubblewrap(&environment, "No permissions to create new namespace");
    let outcome = environment
        .ipfs_exec(["doctor", "--json"])
        .variable("PATH", &path)
        .run();
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let found = findings(&outcome);
    let finding = find(&found, "namespaces");
    assert_eq!(finding["status"], "error");
    assert!(
        finding["message"]
            .as_str()
            .unwrap()
            .contains("No permissions"),
        "{finding}"
    );
    assert!(!finding["remedy"].as_str().unwrap().is_empty());
}

/// All failures of bubblewrap once got the hint for Docker.
#[test]
fn each_failure_of_bubblewrap_has_its_own_hint() {
    let machine = Machine::new();
    let environment = &machine.environment;
    for (message, hint) in [
        ("Can't fork: Resource temporarily unavailable", "ulimit -u"),
        ("pivot_root: Invalid argument", "initramfs"),
        (
            "Can't mount proc on /newroot/proc: Operation not permitted",
            "systempaths=unconfined",
        ),
        ("Can't find source path /nowhere", "ipfs-exec doctor"),
    ] {
        let path = failing_bubblewrap(environment, message);
        let run = machine.run(["true"]).variable("PATH", &path);
        let outcome = run.ends_with(125);
        for word in [message, hint] {
            assert!(outcome.stderr.contains(word), "{word}: {outcome:?}");
        }
        assert_eq!(
            outcome.stderr.contains("docker"),
            hint.starts_with("systempaths")
        );
    }
}

/// Where files in memory cannot be executed, which the kernel can be told for each process namespace.
#[test]
fn a_program_that_cannot_be_confined() {
    let has_setting = std::path::Path::new("/proc/sys/vm/memfd_noexec").exists();
    if !has_setting || !rustix::process::geteuid().is_root() {
        eprintln!("only root can forbid it, and since Linux 6.3");
        return;
    }
    let machine = Machine::new();
    let forbid = "echo 2 > /proc/sys/vm/memfd_noexec && exec \"$0\" \"$@\"";
    let in_namespace = |arguments: &[&str]| {
        machine
            .environment
            .program("/usr/bin/unshare")
            .arguments(["--pid", "--fork", "--mount-proc", "/bin/sh", "-c", forbid])
            .argument(ipfs_exec_tests::environment::binary())
            .arguments(arguments)
            .run()
    };
    let doctor = in_namespace(&["doctor", "--json"]);
    assert_eq!(doctor.code, Some(1), "{doctor:?}");
    let found = findings(&doctor);
    let finding = find(&found, "confinement");
    assert_eq!(finding["status"], "error");
    let remedy = finding["remedy"].as_str().unwrap();
    assert!(remedy.contains("vm.memfd_noexec"), "{finding}");
    let run = in_namespace(&["run", &machine.rootfs, EMPTY, "true"]);
    assert_eq!(run.code, Some(125), "{run:?}");
    assert!(run.stderr.contains(remedy), "{run:?}");
}

#[test]
fn repositories_that_are_not_there_or_not_usable() {
    let environment = Environment::new();
    let doctor = |path: &str| {
        environment
            .ipfs_exec(["--repo", path, "doctor", "--json"])
            .run()
    };
    let outcome = doctor("sub/new");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(!environment.file("sub").exists(), "looking makes nothing");
    // A file where a directory should be.
    environment.write("file", "");
    for path in ["file", "file/below"] {
        let outcome = doctor(path);
        assert_eq!(outcome.code, Some(1), "{path}: {outcome:?}");
        assert_eq!(
            find(&findings(&outcome), "repository")["status"],
            "error",
            "{path}"
        );
    }
}

/// A broken configuration ended the doctor with an error message and no finding, and a repository that
/// could only be read was all right.
#[test]
fn repositories_that_no_run_can_use() {
    let environment = Environment::new();
    environment.ipfs_exec(["mkdir"]).succeeds();
    let read_only = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && exec \"$@\"";
    let outcome = with_own_mounts(&environment, read_only)
        .argument(environment.repository())
        .argument(ipfs_exec_tests::environment::binary())
        .arguments(["doctor", "--json"])
        .ends_with(1);
    let found = findings(&outcome);
    let finding = find(&found, "repository");
    assert_eq!(finding["status"], "error", "{finding}");
    assert!(
        finding["message"]
            .as_str()
            .unwrap()
            .contains("cannot be written"),
        "{finding}"
    );

    environment.configure("nonsense = true\n");
    let outcome = environment.ipfs_exec(["doctor", "--json"]).ends_with(1);
    let found = findings(&outcome);
    let finding = find(&found, "configuration");
    assert_eq!(finding["status"], "error", "{finding}");
    assert!(
        finding["message"].as_str().unwrap().contains("nonsense"),
        "{finding}"
    );
    // All other checks are made all the same.
    assert_eq!(find(&found, "repository")["status"], "ok");
    assert_eq!(find(&found, "seccomp")["status"], "ok");
}

/// `fusermount3` was there, so that `mount` was said to work, also where nobody may open the device.
#[test]
fn a_device_that_cannot_be_opened_is_not_ok() {
    let environment = Environment::new();
    let outcome = crate::machine::without_fuse(&environment, ["doctor", "--json"]).run();
    let found = findings(&outcome);
    for check in ["fuse", "fusermount3"] {
        let finding = find(&found, check);
        assert_eq!(finding["status"], "warning", "{finding}");
        assert!(!finding["remedy"].as_str().unwrap().is_empty(), "{finding}");
    }
}

#[test]
fn each_limit_is_told_by_its_name() {
    let environment = Environment::new();
    let outcome = environment.ipfs_exec(["doctor", "--json"]).run();
    let found = findings(&outcome);
    let message = find(&found, "cgroups")["message"].as_str().unwrap();
    for option in ["--memory", "--cpus", "--cpu-time", "--pids"] {
        assert!(message.contains(&format!("`{option}` by ")), "{message}");
    }
}

#[test]
fn the_network_is_looked_at_when_asked() {
    let environment = Environment::new();
    let served = ipfs_exec_tests::Served::start(&environment);
    let other = Environment::new();
    let doctor = |arguments: &[&str]| {
        let doctor = other.ipfs_exec(["--no-mdns", "doctor", "--json", "--network"]);
        findings(&doctor.arguments(arguments).succeeds())
    };
    let found = doctor(&["--peer", &served.tcp]);
    assert_eq!(find(&found, "network")["status"], "ok");
    served.end();
    let found = doctor(&[]);
    assert_eq!(find(&found, "network")["status"], "warning");
}

/// Limits of the configuration that cannot be held make every run fail.
#[test]
fn limits_of_the_configuration_are_looked_at() {
    let machine = Machine::new();
    machine.environment.configure("[limits]\ncpus = 0.5\n");
    let doctor = machine.environment.ipfs_exec(["doctor", "--json"]).run();
    let found = findings(&doctor);
    let fails = find(&found, "limits")["status"] == "error";
    let run = machine
        .environment
        .ipfs_exec(["run", &machine.rootfs, EMPTY, "true"])
        .run();
    assert_eq!(
        run.code,
        Some(if fails { 125 } else { 0 }),
        "{run:?}\n{found:?}"
    );
    assert_eq!(doctor.code, Some(i32::from(fails)), "{found:?}");
}
