//! Limits of what a program may use, each attacked.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use serde_json::Value;

use ipfs_exec_tests::Archive;
use ipfs_exec_tests::environment::binary;

use crate::machine::{EMPTY, Machine, compile, with_own_mounts};

/// Runs a script that never ends by itself, and checks that `limit` ends it soon after `after` seconds.
#[track_caller]
pub(crate) fn assert_ends(
    machine: &Machine,
    options: &[&str],
    script: &str,
    limit: &str,
    after: f64,
) -> Value {
    let begun = Instant::now();
    let outcome = machine
        .environment
        .ipfs_exec(["run", "--json"])
        .arguments(options)
        .arguments([&machine.rootfs, EMPTY, "sh", "-c", script])
        .run();
    let took = begun.elapsed().as_secs_f64();
    let code = if ["timeout", "cpu-time"].contains(&limit) {
        124
    } else {
        137
    };
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    let said: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    assert_eq!(said["limit"], limit, "{outcome:?}");
    assert_eq!(said["exit_code"], code);
    assert!(said["cid"].is_null());
    assert!(
        outcome.stderr.contains(&format!("--{limit}")),
        "{outcome:?}"
    );
    let used = said["usage"]["wall_seconds"].as_f64().unwrap();
    // Seconds are for a machine that is busy with other tests: the program would go on for a minute.
    assert!(used < after + 5.0, "{script}: {used} s, {took} s in all");
    machine.environment.assert_clean();
    assert_no_groups();
    said
}

/// Keeps the tests apart that take memory which the kernel counts for the machine only: one may be taken for
/// the other's.
pub(crate) fn alone() -> fs::File {
    let user = rustix::process::geteuid().as_raw();
    let path = std::env::temp_dir().join(format!("ipfs-exec-test-memory-{user}"));
    let file = fs::File::create(path).unwrap();
    file.lock().unwrap();
    file
}

/// No control group of a process that has ended is left.
fn assert_no_groups() {
    let mut pending = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name
                .strip_prefix("ipfs-exec-")
                // Those are systemd's, and go when it has seen that they are empty.
                .filter(|rest| !rest.ends_with(".scope"))
                .and_then(|rest| rest.split('-').next());
            if let Some(owner) = owner {
                assert!(
                    fs::exists(format!("/proc/{owner}")).unwrap(),
                    "{name} is left"
                );
            }
            pending.push(entry.path());
        }
    }
}

#[test]
fn time_is_limited() {
    let machine = Machine::new();
    assert_ends(&machine, &["--timeout", "1s"], "sleep 60", "timeout", 1.0);
    // Deaf, stopped, and in a session of its own.
    let script =
        "trap '' HUP INT TERM QUIT; setsid sleep 654321 & sleep 654321 & kill -STOP $$; sleep 60";
    assert_ends(&machine, &["--timeout", "500ms"], script, "timeout", 0.5);
    // No process is left that another could meet.
    let children = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let is_ours = entry
            .metadata()
            .is_ok_and(|entry| entry.uid() == rustix::process::geteuid().as_raw());
        is_ours && arguments.starts_with(b"sleep\x00654321\0")
    });
    assert_eq!(children.count(), 0);
}

#[test]
fn computing_is_limited() {
    let machine = Machine::new();
    let spin = "while :; do :; done";
    assert_ends(&machine, &["--cpu-time", "1s"], spin, "cpu-time", 1.0);
    // Two of them are done twice as fast; what sleeps does not count.
    let both = format!("({spin}) & ({spin}) & wait");
    assert_ends(&machine, &["--cpu-time", "1s"], &both, "cpu-time", 1.0);
    machine
        .environment
        .ipfs_exec([
            "run",
            "--cpu-time",
            "1s",
            &machine.rootfs,
            EMPTY,
            "sleep",
            "2",
        ])
        .succeeds();
}

#[test]
fn memory_is_limited() {
    let _alone = alone();
    let machine = Machine::new();
    let options = ["--memory", "64MiB", "--timeout", "60s"];
    // `tail` keeps the last line, which has no end. Alone, and shared between several.
    for script in [
        "tail -n 1 /dev/zero",
        "for i in 1 2 3 4; do tail -c 30000000 /dev/zero & done; wait",
        "dd if=/dev/zero of=/dev/shm/file bs=1M; sleep 60",
        "for i in 1 2 3 4; do dd if=/dev/zero of=/dev/shm/$i bs=1M count=30; done; sleep 60",
    ] {
        assert_ends(&machine, &options, script, "memory", 5.0);
    }
    // What is below goes on.
    let script = "dd if=/dev/zero of=/dev/shm/file bs=1M count=20; tail -c 10000000 /input/../bin/busybox > /tmp/x";
    machine
        .environment
        .ipfs_exec([
            "run",
            "--memory",
            "64MiB",
            &machine.rootfs,
            EMPTY,
            "sh",
            "-c",
            script,
        ])
        .succeeds();
}

#[test]
fn processes_are_limited() {
    let machine = Machine::new();
    let bomb = "f() { f | f & }; f; sleep 60";
    assert_ends(
        &machine,
        &["--pids", "50", "--timeout", "60s"],
        bomb,
        "pids",
        1.0,
    );
    // Without a word of the user: thousands of them, which do not let go of the machine at once.
    assert_ends(&machine, &["--timeout", "60s"], bomb, "pids", 10.0);
    let few = "for i in 1 2 3 4 5; do sleep 1 & done; wait";
    machine
        .environment
        .ipfs_exec([
            "run",
            "--pids",
            "20",
            &machine.rootfs,
            EMPTY,
            "sh",
            "-c",
            few,
        ])
        .succeeds();
}

#[test]
fn disk_is_limited_while_the_program_runs() {
    let machine = Machine::new();
    let timeout = ["--timeout", "60s"];
    let with =
        |option: &'static str, value: &'static str| [&timeout[..], &[option, value]].concat();
    let fill = |path: &str| format!("dd if=/dev/zero of={path} bs=1M; sleep 60");
    assert_ends(
        &machine,
        &with("--output-size", "20MiB"),
        &fill("/output/file"),
        "output-size",
        5.0,
    );
    // A hole is content, too.
    let hole = "dd if=/dev/zero of=/output/file bs=1M seek=1000000 count=1; sleep 60";
    assert_ends(
        &machine,
        &with("--output-size", "20MiB"),
        hole,
        "output-size",
        1.0,
    );
    assert_ends(
        &machine,
        &with("--tmp-size", "20MiB"),
        &fill("/tmp/file"),
        "tmp-size",
        5.0,
    );
    // Without a name, and out of sight.
    let nameless = "exec 5> /tmp/file; rm /tmp/file; dd if=/dev/zero bs=1M >&5; sleep 60";
    assert_ends(
        &machine,
        &with("--tmp-size", "20MiB"),
        nameless,
        "tmp-size",
        5.0,
    );
    let hidden = "mkdir /tmp/closed; chmod 300 /tmp/closed; dd if=/dev/zero of=/tmp/closed/file bs=1M; sleep 60";
    assert_ends(
        &machine,
        &with("--tmp-size", "20MiB"),
        hidden,
        "tmp-size",
        5.0,
    );
    let many = |directory| format!("cd {directory}; seq 1000000 | xargs -n 100 touch; sleep 60");
    assert_ends(
        &machine,
        &with("--output-files", "500"),
        &many("/output"),
        "output-files",
        20.0,
    );
    assert_ends(
        &machine,
        &with("--tmp-size", "2MiB"),
        &many("/tmp"),
        "tmp-size",
        20.0,
    );
}

/// On a disk of its own, in a mount namespace: which limit ended each run, with its exit code, or what it
/// said.
const ON_A_SMALL_DISK: &str = r#"
set -e
mount -t tmpfs -o size=400m none "$DISK"
export IPFS_EXEC_PATH="$DISK/repository"
rootfs=$("$IPFS_EXEC" add -Q rootfs.tar)
empty=$("$IPFS_EXEC" mkdir)
attempt() {
    name=$1 options=$2 script=$3
    code=0
    "$IPFS_EXEC" run --json --timeout 60s $options $rootfs $empty sh -c "$script" > out 2> err || code=$?
    echo "$name $code $(sed 's/.*"limit":"\([^"]*\)","limits".*/\1/; s/.*"cid":.*/done/' out)" \
        "$(grep error: err || :) $(grep full err || :)"
}
fill='dd if=/dev/zero bs=1M count=250'
keep='--keep-free 200MiB'
attempt plain "$keep" "$fill of=/output/file; sleep 60"
attempt hidden "$keep" "mkdir /tmp/d; chmod 300 /tmp/d; $fill of=/tmp/d/file; sleep 60"
attempt nameless "$keep" "exec 5> /output/file; rm /output/file; $fill >&5; sleep 60"
attempt mapped "$keep" "hide map /output/file 250"
attempt sent "$keep --tmp-size 100MiB" "hide send /tmp/file 250"
attempt unasked '' "$fill count=390 of=/output/file; sleep 60"
attempt small "$keep" 'echo x > /output/file'
attempt large '--keep-free 1GiB' 'true'
attempt content '--keep-free 1GiB --best-effort-limits' 'true'
# Idle first, as if it would stay so.
attempt burst '--keep-free 50MiB' 'sleep 3; burst bytes'

# Others fill the disk while a program holds a little of it, where nobody sees it.
mkfifo ready go
exec 7<> ready 8<> go
others() {
    read line <&7
    dd if=/dev/zero of="$DISK/ballast" bs=1M count=250 2> /dev/null
    echo >&8
}
others &
waits='mkdir /output/d; dd if=/dev/zero of=/output/d/file bs=1k count=500 2> /dev/null; chmod 0 /output/d; echo ready; \
       read line; sleep 1'
code=0
"$IPFS_EXEC" run -i --json $keep --output-size 1MiB --tmp-size 1MiB $rootfs $empty sh -c "$waits" \
    <&8 > out 2>&7 || code=$?
wait
echo "innocent $code $(sed 's/.*"limit":"\([^"]*\)","limits".*/\1/; s/.*"cid":.*/done/' out)"
"#;

/// The same where inodes are few.
const ON_A_DISK_OF_FEW_INODES: &str = r#"
set -e
mount -t tmpfs -o size=400m,nr_inodes=50000 none "$DISK"
export IPFS_EXEC_PATH="$DISK/repository"
rootfs=$("$IPFS_EXEC" add -Q rootfs.tar)
empty=$("$IPFS_EXEC" mkdir)
attempt() {
    name=$1 options=$2 script=$3
    code=0
    "$IPFS_EXEC" run --json --timeout 60s $options $rootfs $empty sh -c "$script" > out 2> err || code=$?
    touch "$DISK/host"
    full=$(grep -c full err || :)
    echo "$name $code $full $(sed 's/.*"limit":"\([^"]*\)","limits".*/\1/; s/.*"cid":.*/done/' out)"
}
attempt plain '' 'burst inodes /output; sleep 60'
attempt late '' 'sleep 3; burst inodes /output; sleep 60'
attempt hidden '' 'mkdir /tmp/d; chmod 300 /tmp/d; burst inodes /tmp/d; sleep 60'
attempt nameless '' 'burst nameless /tmp; sleep 60'
attempt few '' 'touch /output/1 /output/2'
attempt linked '' 'touch /output/x; i=0; while [ $i -lt 2000 ]; do ln /output/x /output/$i; i=$((i + 1)); done'

mkfifo ready go
exec 7<> ready 8<> go
others() {
    read line <&7
    mkdir "$DISK/ballast"
    (cd "$DISK/ballast"; seq 46500 | xargs touch)
    echo >&8
}
others &
code=0
"$IPFS_EXEC" run -i --json $rootfs $empty sh -c 'touch /output/1 /output/2; echo ready; read line; sleep 1' \
    <&8 > out 2>&7 || code=$?
wait
echo "innocent $code 0 $(sed 's/.*"limit":"\([^"]*\)","limits".*/\1/; s/.*"cid":.*/done/' out)"
"#;

/// Fills a disk as fast as possible, and says so if it is full.
const BURST: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

int main(int count, char **arguments) {
    static char bytes[1 << 20];
    char name[64];
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (!strcmp(arguments[1], "bytes")) {
        int file = open("/output/file", O_WRONLY | O_CREAT, 0600);
        while (write(file, bytes, sizeof bytes) > 0) {}
    } else {
        int is_nameless = !strcmp(arguments[1], "nameless");
        if (chdir(arguments[2])) return 1;
        for (int number = 0;; number++) {
            snprintf(name, sizeof name, "%d-%d", getpid(), number);
            int file = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
            if (file >= 0 && is_nameless) unlink(name);
            if (file >= 0 && !is_nameless) close(file);
            if (file < 0 && errno == EMFILE && fork() > 0) for (;;) pause();
            if (file < 0 && errno == EMFILE) { for (int each = 3; each < 4096; each++) close(each); continue; }
            if (file < 0) break;
        }
    }
    if (errno == ENOSPC) fprintf(stderr, "full\n");
    for (;;) pause();
}
"#;

/// Holds so many mebibytes of a file that has no name any more: by a mapping, or by having sent them.
const HIDE: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **arguments) {
    int file = open(arguments[2], O_RDWR | O_CREAT, 0600);
    unlink(arguments[2]);
    static char part[1 << 20];
    for (int index = 0; index < atoi(arguments[3]); index++)
        if (write(file, part, sizeof part) != sizeof part) return 1;
    if (!strcmp(arguments[1], "map")) {
        mmap(0, 4096, PROT_READ, MAP_SHARED, file, 0);
    } else {
        int ends[2];
        socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
        char space[CMSG_SPACE(sizeof(int))] = {0};
        struct iovec byte = {"x", 1};
        struct msghdr message = {.msg_iov = &byte, .msg_iovlen = 1, .msg_control = space,
                                 .msg_controllen = sizeof(space)};
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &file, sizeof(int));
        if (sendmsg(ends[0], &message, 0) != 1) return 2;
    }
    close(file);
    sleep(60);
    return 3;
}
"#;

/// A program does not fill the disk, however it hides what it takes; one that has little of it is not to
/// blame for what others do.
#[test]
fn some_of_the_disk_stays_free() {
    let said = said_on_a_disk(ON_A_SMALL_DISK);
    let starts = [
        "plain 137 keep-free error: ",
        "hidden 137 keep-free error: ",
        "nameless 137 keep-free error: ",
        "mapped 137 keep-free error: ",
        "sent 137 tmp-size error: ",
        "unasked 137 keep-free error: ",
        "small 0 done",
        "large 125 done error: cannot run the program: cannot keep 1 GiB of the disk free",
        "content 0 done",
        "burst 137 keep-free error: ",
        "innocent 0 done",
    ];
    assert_starts(&said, &starts);
    assert!(!said.contains("full"), "{said}");
}

/// Nor does it take all inodes, of which the disk may have few.
#[test]
fn some_inodes_stay_free() {
    let said = said_on_a_disk(ON_A_DISK_OF_FEW_INODES);
    let starts = [
        "plain 137 0 keep-free",
        "late 137 0 keep-free",
        "hidden 137 0 keep-free",
        "nameless 137 0 keep-free",
        "few 0 0 done",
        "linked 0 0 done",
        "innocent 0 0 done",
    ];
    assert_starts(&said, &starts);
}

/// The output of a script that mounts a disk of its own and runs programs that fill it.
#[track_caller]
fn said_on_a_disk(script: &str) -> String {
    let image = Archive::busybox()
        .file("bin/hide", 0o755, compile(HIDE))
        .file("bin/burst", 0o755, compile(BURST));
    let machine = Machine::with(&image);
    let environment = &machine.environment;
    let disk = environment.directory("disk");
    let outcome = with_own_mounts(environment, script)
        .variable("IPFS_EXEC", binary())
        .variable("DISK", &disk)
        .succeeds();
    String::from_utf8_lossy(&outcome.stdout).into_owned()
}

/// That each line starts as it should.
#[track_caller]
fn assert_starts(said: &str, starts: &[&str]) {
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), starts.len(), "{said}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{start}\n{said}");
    }
}

/// Where memory ends, the program does, and not its host.
#[test]
fn programs_go_first_where_memory_ends() {
    let machine = Machine::new();
    let script = "cat /proc/self/oom_score_adj; echo 0 > /proc/self/oom_score_adj; \
                  cat /proc/self/oom_score_adj";
    let outcome = machine.run(["sh", "-c", script]).run();
    let kept = outcome
        .stderr
        .lines()
        .filter(|line| *line == "1000")
        .count();
    assert_eq!(kept, 2, "{outcome:?}");
}

/// What is too much in the end is too much, though nobody saw it while the program ran.
#[test]
fn an_output_that_is_too_large_is_none() {
    let machine = Machine::new();
    let script = "echo too much > /output/file";
    assert_ends(
        &machine,
        &["--output-size", "5"],
        script,
        "output-size",
        0.0,
    );
    assert_ends(
        &machine,
        &["--output-files", "0"],
        script,
        "output-files",
        0.0,
    );
    let fits = ["--output-size", "9", "--output-files", "1"];
    machine
        .environment
        .ipfs_exec(["run"])
        .arguments(fits)
        .arguments([&machine.rootfs, EMPTY, "sh", "-c", script])
        .succeeds();
}

/// What is within its limits is what it is without them, closed directories and their modes included.
#[test]
fn limits_change_no_result() {
    let machine = Machine::new();
    let script = "mkdir /output/d; echo x > /output/d/f; chmod 0 /output/d /output";
    let run = |limits: &[&str]| {
        let run = machine.environment.ipfs_exec(["run", "--preserve-mode"]);
        let run = run.arguments(limits);
        run.arguments([&machine.rootfs, EMPTY, "sh", "-c", script])
            .succeeds()
            .line()
    };
    let limited = run(&[
        "--output-size",
        "1MiB",
        "--output-files",
        "10",
        "--tmp-size",
        "1MiB",
    ]);
    assert_eq!(limited, run(&[]));
}

#[test]
fn the_log_is_limited() {
    let machine = Machine::new();
    let options = ["--log-size", "10000", "--timeout", "60s"];
    assert_ends(&machine, &options, "yes", "log-size", 1.0);
    let outcome = machine
        .environment
        .ipfs_exec(["run", "--log-size", "10000", &machine.rootfs, EMPTY, "yes"])
        .run();
    let printed = outcome.stderr.find("error:").unwrap();
    assert_eq!(printed, 10_000);
}

/// The number of processors is what was asked for, and cannot be changed from inside.
#[test]
fn processors_are_limited() {
    let machine = Machine::new();
    let run = |script: &str| {
        let run = machine
            .environment
            .ipfs_exec(["run", "--cpus", "1", &machine.rootfs, EMPTY]);
        run.arguments(["sh", "-c", script]).succeeds()
    };
    assert_eq!(run("nproc").stderr, "1\n");
    let outcome = run("taskset -p ffff $$ 2>&1 > /dev/null; nproc");
    assert!(outcome.stderr.ends_with("1\n"), "{outcome:?}");
}

/// What cannot be held is an error before the program starts, or left out where that was asked for.
#[test]
fn a_limit_is_held_or_refused() {
    let machine = Machine::new();
    let run = |options: &[&str]| {
        let run = machine
            .environment
            .ipfs_exec(["run", "--json", "--cpus", "0.5"]);
        run.arguments(options)
            .arguments([&machine.rootfs, EMPTY, "true"])
    };
    let outcome = run(&["--best-effort-limits"]).succeeds();
    let said: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    let limits = said["limits"].as_array().unwrap();
    let cpus = limits
        .iter()
        .find(|limit| limit["limit"] == "cpus")
        .unwrap();
    if cpus["held_by"] == "none" {
        let outcome = run(&[]).ends_with(125);
        let said = &outcome.stderr;
        assert!(
            said.contains("--cpus") && said.contains("--best-effort-limits"),
            "{said}"
        );
    } else {
        run(&[]).succeeds();
    }
}

/// Also what computed and went, faster than anybody could look, without anybody waiting for it.
#[test]
fn processor_time_of_unwaited_children_is_counted() {
    const SOURCE: &str = r"
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **arguments) {
    signal(SIGCHLD, SIG_IGN);
    for (int i = 0; i < 50 || count > 1; i++) {
        if (fork() == 0) {
            while (clock() < CLOCKS_PER_SEC / 100) {}
            return 0;
        }
        wait(NULL);
    }
    return 0;
}
";
    let image = Archive::busybox().file("bin/compute", 0o755, compile(SOURCE));
    let machine = Machine::with(&image);
    let run = machine
        .environment
        .ipfs_exec(["run", "--json", "--cpu-time=1h", &machine.rootfs, EMPTY])
        .arguments(["sh", "-c", "exec compute"]);
    let said: Value = serde_json::from_slice(&run.succeeds().stdout).unwrap();
    let seconds = |name: &str| said["usage"][name].as_f64().unwrap();
    let seconds = seconds("user_seconds") + seconds("system_seconds");
    let held_by = said["limits"][0]["held_by"].as_str().unwrap();
    assert_eq!(said["limits"][0]["limit"], "cpu-time", "{said}");
    let may_count = rustix::process::geteuid().is_root()
        || fs::read_to_string("/proc/sys/kernel/perf_event_paranoid")
            .is_ok_and(|paranoid| paranoid.trim().parse::<i32>().unwrap() <= 2);
    if held_by == "supervision" && !may_count {
        eprintln!("nothing counts here what nobody waits for");
        return;
    }
    assert!(
        ["cgroup-v1", "cgroup-v2", "perf"].contains(&held_by),
        "{said}"
    );
    assert!(seconds > 0.3, "{said}");
    assert_ends(
        &machine,
        &["--cpu-time", "1s", "--timeout", "60s"],
        "exec compute again and again",
        "cpu-time",
        4.0,
    );
}

/// What a run used is told, in words and in JSON.
#[test]
fn usage_is_told() {
    let machine = Machine::new();
    let script = "dd if=/dev/zero of=/output/file bs=1k count=1000; sleep 0.2; i=0; \
                  while [ $i -lt 20000 ]; do i=$((i + 1)); done";
    let run = machine
        .environment
        .ipfs_exec(["run", "--json", "--stats", &machine.rootfs, EMPTY]);
    let outcome = run.arguments(["sh", "-c", script]).succeeds();
    let said: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    let usage = &said["usage"];
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{said}"));
    assert!(number(&usage["wall_seconds"]) > 0.2);
    assert!(number(&usage["user_seconds"]) > 0.0);
    assert!(number(&usage["peak_memory_bytes"]) > 100_000.0);
    assert!(number(&usage["read_bytes"]) >= 1_024_000.0);
    assert!(number(&usage["written_bytes"]) >= 1_024_000.0);
    assert_eq!(
        (number(&said["files"]), number(&said["size"])),
        (1.0, 1_024_000.0)
    );
    for word in [
        "time:",
        "memory:",
        "io:",
        "output: 1 files, 1024000 bytes",
        "fetched: 0 blocks",
    ] {
        assert!(
            outcome.stderr.contains(word),
            "{word} in {}",
            outcome.stderr
        );
    }
    assert!(Duration::from_secs_f64(number(&usage["wall_seconds"])) < Duration::from_secs(60));
}

/// What the program closed to others is looked at when it has ended.
#[test]
fn an_output_cannot_be_hidden() {
    let machine = Machine::new();
    let script = "mkdir /output/d; touch /output/d/1 /output/d/2 /output/d/3; chmod 0 /output/d";
    assert_ends(
        &machine,
        &["--output-files", "3"],
        script,
        "output-files",
        0.0,
    );
    let script =
        "mkdir /output/d; dd if=/dev/zero of=/output/d/f bs=1 seek=1G count=1; chmod 0 /output/d";
    assert_ends(
        &machine,
        &["--output-size", "1MiB"],
        script,
        "output-size",
        0.0,
    );
}
