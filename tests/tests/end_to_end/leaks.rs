//! Leaks: a program must not see or reach its caller, other runs or the machine.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Seek, Write, pipe};

use std::path::Path;
use std::process::{Command, Stdio};

use ipfs_exec_executor::security::{VISIBLE_DEVICES, VISIBLE_PROC};
use ipfs_exec_tests::Archive;
use ipfs_exec_tests::environment::{SEARCH_PATH, binary};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::machine::{EMPTY, Machine, compile, without_fuse};

/// A run whose streams the test chooses.
fn run(machine: &Machine, options: &[&str], script: &str) -> Command {
    let repository = machine.environment.repository();
    run_by(&[], repository, machine, options, script)
}

/// The same by a command that starts others, on another repository.
pub(crate) fn run_by(
    before: &[String],
    repository: &Path,
    machine: &Machine,
    options: &[&str],
    script: &str,
) -> Command {
    let program = binary();
    let words = before.iter().map(AsRef::as_ref);
    let words: Vec<&OsStr> = words.chain([program.as_os_str()]).collect();
    let mut command = Command::new(words[0]);
    command
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .args(&words[1..])
        .arg("--repo")
        .arg(repository)
        .arg("run")
        .args(options)
        .args([&machine.rootfs, EMPTY, "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// The `-i` of each test: with it and without.
const MODES: [&[&str]; 2] = [&[], &["-i"]];

/// A shell of the host that reads its script from the same pipe would execute what a program put there.
#[test]
fn nothing_gets_into_the_pipe_that_input_comes_from() {
    let machine = Machine::new();
    for options in MODES {
        let (mut reader, writer) = pipe().unwrap();
        let script =
            "for name in /proc/self/fd/0 /dev/stdin /proc/1/fd/0; do echo evil > $name; done";
        let mut command = run(&machine, options, script);
        assert!(
            command
                .stdin(reader.try_clone().unwrap())
                .status()
                .unwrap()
                .success()
        );
        // Another reader, such as that shell, is next.
        drop(writer);
        let mut left = String::new();
        reader.read_to_string(&mut left).unwrap();
        assert_eq!(left, "", "{options:?}");
    }
}

/// The pipe that takes the host's log has a reader already.
#[test]
fn nothing_is_read_from_the_pipe_that_output_goes_to() {
    let machine = Machine::new();
    for options in MODES {
        let (mut reader, writer) = pipe().unwrap();
        (&writer).write_all(b"a line of the host\n").unwrap();
        let script = "for name in 1 2; do timeout 1 cat /proc/self/fd/$name > /tmp/$name; done; \
                      cat /tmp/1 /tmp/2 > /output/stolen; echo said";
        let mut command = run(&machine, options, script);
        command.stdout(Stdio::piped()).stderr(writer);
        let output = command.output().unwrap();
        drop(command);
        let cid = String::from_utf8(output.stdout).unwrap();
        let stolen = machine.environment.cat(&format!("{}/stolen", cid.trim()));
        assert!(
            !String::from_utf8_lossy(&stolen).contains("host"),
            "{options:?}"
        );
        let mut log = String::new();
        reader.read_to_string(&mut log).unwrap();
        assert!(
            log.contains("a line of the host\n") && log.contains("said\n"),
            "{log}"
        );
    }
}

/// Modes of an open file description belong to all that share it.
#[test]
fn modes_of_the_callers_descriptors_stay() {
    const SOURCE: &str = r#"
        #include <fcntl.h>
        int main(void) {
            for (int fd = 0; fd < 3; fd++) fcntl(fd, F_SETFL, O_NONBLOCK | O_APPEND | O_ASYNC);
            return 0;
        }
    "#;
    let image = Archive::busybox().file("bin/modes", 0o755, compile(SOURCE));
    let machine = Machine::with(&image);
    for options in MODES {
        let (reader, writer) = pipe().unwrap();
        let before = [fcntl_getfl(&reader).unwrap(), fcntl_getfl(&writer).unwrap()];
        let mut command = run(&machine, options, "modes");
        command
            .stdin(reader.try_clone().unwrap())
            .stderr(writer.try_clone().unwrap());
        assert!(command.status().unwrap().success());
        let after = [fcntl_getfl(&reader).unwrap(), fcntl_getfl(&writer).unwrap()];
        assert_eq!(before, after, "{options:?}");
    }
}

/// An event loop above us may have made them so: 53,469 of 60,000 lines were lost, with exit code 0.
#[test]
fn a_log_that_does_not_block_loses_nothing() {
    let machine = Machine::new();
    let (reader, writer) = pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    let mut command = run(&machine, &[], "seq 60000");
    let mut child = command.stderr(writer).spawn().unwrap();
    drop(command);
    let lines = BufReader::new(reader).lines().map(|line| line.unwrap());
    assert_eq!(lines.count(), 60_000);
    assert!(child.wait().unwrap().success());
}

/// `while read` loops lost their lines to the first program.
#[test]
fn untaken_input_stays_for_the_next_reader() {
    let machine = Machine::new();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(
        &(0..50_000)
            .flat_map(|n: u32| n.to_be_bytes())
            .collect::<Vec<_>>(),
    )
    .unwrap();
    for (options, script, taken) in [
        (&[][..], "cat > /dev/null", 0),
        (&["-i"], "dd bs=1 count=10 of=/dev/null 2>/dev/null", 10),
        (
            &["-i"],
            "dd bs=70000 count=2 iflag=fullblock of=/dev/null 2>/dev/null",
            140_000,
        ),
        (&["-i"], "cat > /dev/null", 200_000),
        (&["-i"], "exec <&-; sleep 0.1", 0),
    ] {
        file.rewind().unwrap();
        let mut command = run(&machine, options, script);
        assert!(
            command
                .stdin(file.try_clone().unwrap())
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(file.stream_position().unwrap(), taken, "{script}");
    }
}

/// Takes locks on a file of the root file system, and watches it.
const SHARES: &str = r#"
    #define _GNU_SOURCE
    #include <errno.h>
    #include <fcntl.h>
    #include <poll.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/file.h>
    #include <sys/inotify.h>
    #include <unistd.h>
    int main(int count, char **arguments) {
        int file = open("/bin/busybox", O_RDONLY), watch = inotify_init();
        struct flock lock = { .l_type = F_RDLCK };
        if (inotify_add_watch(watch, "/bin/busybox", IN_ALL_EVENTS) < 0) return 2;
        if (inotify_add_watch(watch, "/bin", IN_ALL_EVENTS) < 0) return 3;
        printf("flock %d lock %d\n", flock(file, LOCK_EX | LOCK_NB), fcntl(file, F_SETLK, &lock));
        if (count == 1) return 0;
        puts("ready");
        fflush(stdout);
        char byte;
        while (read(0, &byte, 1) > 0) continue;
        struct pollfd events = { watch, POLLIN };
        printf("events %d\n", poll(&events, 1, 0));
        return 0;
    }
"#;

/// A root file system with a program that takes such locks.
pub(crate) fn sharing() -> Machine {
    Machine::with(&Archive::busybox().file("bin/shares", 0o755, compile(SHARES)))
}

/// Jobs that share an unpacked root file system locked each other out, and saw what the other opened.
#[test]
fn runs_share_no_locks_and_no_watches() {
    let machine = sharing();
    // Unpacked before, so that both use one tree.
    machine.shell("true");
    assert_nothing_is_shared(|options, script| run(&machine, options, script));
}

/// Checks that two runs at the same time have locks and watches of their own. Each is a script that `run`
/// starts with some options, in a root file system that is [`sharing`].
#[track_caller]
pub(crate) fn assert_nothing_is_shared(run: impl Fn(&[&str], &str) -> Command) {
    let mut command = run(&["-i"], "shares hold");
    let (held, hold) = pipe().unwrap();
    let mut first = command.stdin(held).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let mut said = BufReader::new(first.stderr.take().unwrap())
        .lines()
        .map(|line| line.unwrap());
    assert_eq!(said.next().unwrap(), "flock 0 lock 0");
    assert_eq!(said.next().unwrap(), "ready");
    let second = run(&[], "shares; busybox true").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&second.stderr), "flock 0 lock 0\n");
    drop(hold);
    assert_eq!(said.next().unwrap(), "events 0");
    assert!(first.wait().unwrap().success());
}

/// The program could read where the repository is, and which process runs it.
#[test]
fn mounts_tell_nothing_of_the_host() {
    let machine = Machine::new();
    let told = machine.says("cat /proc/self/mountinfo /proc/self/mounts /proc/self/mountstats");
    let place = machine.environment.repository().to_str().unwrap();
    for secret in [
        place,
        "ipfs-exec-test",
        "/run/",
        "repository",
        "boot_id_",
        "/home",
    ] {
        assert!(!told.contains(secret), "{secret}: {told}");
    }
    if rustix::process::geteuid().is_root() {
        assert!(!told.contains("devtmpfs"), "{told}");
        assert!(!told.contains(",uid="), "{told}");
    }
    let sizes = machine.says("stat -f -c '%s %b %f %a %c %d' /");
    assert_eq!(
        sizes,
        Machine::new().says("stat -f -c '%s %b %f %a %c %d' /")
    );
}

/// The list in the documentation, and nothing else: also with a kernel that has more.
#[test]
fn proc_shows_only_documented_entries() {
    let machine = Machine::new();
    let script = "cd /proc; for name in *; do case $name in [0-9]*) continue;; esac; \
                  if [ -L $name ]; then echo $name; \
                  elif [ -d $name ]; then [ -z \"$(ls -A $name)\" ] || echo $name; \
                  elif [ \"$(head -c 1 $name 2>/dev/null | wc -c)\" != 0 ]; then echo $name; fi; done";
    let mut seen: Vec<_> = machine
        .says(script)
        .lines()
        .map(ToOwned::to_owned)
        .collect();
    seen.sort();
    let documented: Vec<_> = VISIBLE_PROC
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(seen, documented);
    // What the host shows to root alone is empty for root, too.
    let closed = machine.says(
        "find /proc/sys -path /proc/sys/net -prune -o -type f ! -perm -004 -print | while read name; do \
         [ -z \"$(head -c 1 $name 2>/dev/null)\" ] || echo $name; done",
    );
    assert_eq!(closed, "");
}

#[test]
fn dev_shows_only_documented_entries() {
    let machine = Machine::new();
    let seen = machine.says("cd /dev; ls -A1");
    let documented: Vec<_> = VISIBLE_DEVICES.iter().map(|(name, _)| *name).collect();
    assert_eq!(seen.lines().collect::<Vec<_>>(), documented);
}

/// A mask that is the host's `/dev/null` tells whoever watches it when the host uses that.
#[test]
fn masks_are_no_files_of_the_host() {
    let machine = Machine::new();
    let seen = machine
        .says("stat -c '%t:%T %F %s' /proc/keys /proc/kcore /proc/cmdline 2>/dev/null | sort -u");
    assert_eq!(seen, "0:0 regular empty file 0\n");
}

/// Programs size tables by them, and a machine's memory or its administrator decides over them.
#[test]
fn limits_of_processes_are_the_same_everywhere() {
    let machine = Machine::new();
    let limits = "cut -c 1-66 /proc/self/limits | sed 's/ *$//'";
    let wanted = "\
Limit                     Soft Limit           Hard Limit
Max cpu time              unlimited            unlimited
Max file size             unlimited            unlimited
Max data size             unlimited            unlimited
Max stack size            8388608              unlimited
Max core file size        1                    1
Max resident set          unlimited            unlimited
Max processes             5120                 5120
Max open files            1024                 4096
Max locked memory         65536                65536
Max address space         unlimited            unlimited
Max file locks            unlimited            unlimited
Max pending signals       8192                 8192
Max msgqueue size         819200               819200
Max nice priority         0                    0
Max realtime priority     0                    0
Max realtime timeout      unlimited            unlimited
";
    assert_eq!(machine.says(limits), wanted);
}

/// A user has 128 instances of inotify by default, and each of his sandboxes could take all of them.
#[test]
fn pools_of_the_kernel_are_bounded() {
    const SOURCE: &str = r#"
        #define _GNU_SOURCE
        #include <signal.h>
        #include <stdio.h>
        #include <sys/inotify.h>
        #include <unistd.h>
        int main(void) {
            int instances = 0, signals = 0;
            while (inotify_init() >= 0) instances++;
            sigset_t all;
            sigfillset(&all);
            sigprocmask(SIG_BLOCK, &all, 0);
            union sigval value = { 0 };
            while (signals < 100000 && sigqueue(getpid(), SIGRTMIN, value) == 0) signals++;
            printf("%d %d\n", instances, signals <= 8192);
            return 0;
        }
    "#;
    let image = Archive::busybox().file("bin/pools", 0o755, compile(SOURCE));
    assert_eq!(Machine::with(&image).says("pools"), "64 1\n");
}

/// Bubblewrap takes 9,000 arguments, the stub as many as the kernel.
#[test]
fn arguments_and_variables_may_be_many() {
    let machine = Machine::new();
    let mut words = vec!["sh".to_owned(), "-c".to_owned()];
    words.push("echo $# ${10000} $V19 > /output/said".to_owned());
    words.extend((0..20_000).map(|number| number.to_string()));
    let mut options = vec!["run".to_owned()];
    for number in 0..20 {
        options.extend(["--env".to_owned(), format!("V{number}={}", number * 2)]);
    }
    options.extend([machine.rootfs.clone(), EMPTY.to_owned()]);
    let cid = machine
        .environment
        .ipfs_exec(options)
        .arguments(words)
        .succeeds()
        .line();
    let said = machine.environment.cat(&format!("{cid}/said"));
    assert_eq!(String::from_utf8(said).unwrap(), "19999 10000 38\n");
}

/// A copy on disk is another input for a program that looks at inodes; `--json` says so.
#[test]
fn an_input_that_is_written_out_is_marked() {
    let machine = Machine::new();
    let environment = &machine.environment;
    environment.write("input/file", "content");
    let input = environment.add("input");
    let words = [
        "run",
        "--json",
        &machine.rootfs,
        &input,
        "cp",
        "/input/file",
        "/output",
    ];
    let copied = without_fuse(environment, words).succeeds();
    assert_eq!(copied.json()[0]["isolation"]["input"], "copy");
    for mode in ["mount", "copy"] {
        let words = [&words[..2], &["--input-mode", mode], &words[2..]].concat();
        let shown = environment.ipfs_exec(words).succeeds();
        assert_eq!(shown.json()[0]["isolation"]["input"], "fuse", "{mode}");
        assert_eq!(shown.json()[0]["cid"], copied.json()[0]["cid"]);
    }
}

/// What is written for nobody else is not synced either.
#[test]
fn files_of_the_run_are_its_own() {
    let machine = Machine::new();
    let rows = machine.says("for name in / /output /tmp; do stat -f -c %T $name; done");
    assert_eq!(rows.lines().count(), 3, "{rows}");
    let json = machine
        .environment
        .ipfs_exec(["run", "--json", &machine.rootfs, EMPTY, "true"]);
    let isolation = json.succeeds().json()[0]["isolation"].clone();
    for part in ["root", "output", "tmp"] {
        assert_eq!(isolation[part], "overlay", "{isolation}");
    }
    assert_eq!(isolation["input"], "fuse", "{isolation}");
    let devices = if rustix::process::geteuid().is_root() {
        "own"
    } else {
        "host"
    };
    assert_eq!(isolation["devices"], devices, "{isolation}");
}
