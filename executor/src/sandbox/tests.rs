//! The promises of the sandbox, attacked from inside.
//!
//! The root file system of these tests holds the host's static busybox. They need bubblewrap, user
//! namespaces and busybox, and fail where one is missing.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipfs_exec_node::Cid;
use ipfs_exec_node::{Cancel, CancelSource};
use tempfile::TempDir;

use super::plan::{TopEntry, TopEntryKind};
use super::*;
use crate::layout::MOUNT_POINTS;
use crate::limits::Limits;

/// Evaluates `sh -c SCRIPT NAME ARG...` in process 1 itself.
const INIT: &str = r#"#!/bin/busybox sh
script=$3
shift $(( $# > 4 ? 4 : $# ))
eval "$script"
"#;

/// A root file system on the host, with what is mounted in it.
struct Host {
    directory: TempDir,
    file_input: bool,
}

impl Host {
    fn new() -> Host {
        let host = Host {
            directory: tempfile::tempdir().unwrap(),
            file_input: false,
        };
        for name in MOUNT_POINTS {
            fs::create_dir_all(host.path("tree").join(name)).unwrap();
        }
        for name in [
            "tree/bin",
            "tree/sbin",
            "tree/etc",
            "input",
            "output",
            "tmp",
        ] {
            fs::create_dir_all(host.path(name)).unwrap();
        }
        write_executable(
            &host.path("tree/bin/busybox"),
            &fs::read(busybox()).unwrap(),
        );
        host.write_init(INIT);
        fs::write(host.path("tree/etc/passwd"), "root:x:0:0::/tmp:/bin/sh\n").unwrap();
        fs::write(host.path("input/file"), "content of the input\n").unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write_init(&self, script: &str) {
        write_executable(&self.path("tree/sbin/init"), script.as_bytes());
    }

    /// The entries of the tree, as the rootfs cache would list them.
    fn entries(&self) -> Vec<TopEntry> {
        let mut entries: Vec<_> = fs::read_dir(self.path("tree"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| !MOUNT_POINTS.contains(&entry.file_name().to_str().unwrap()))
            .map(|entry| TopEntry {
                name: entry.file_name(),
                kind: match fs::read_link(entry.path()) {
                    Ok(target) => TopEntryKind::Symlink {
                        target: target.into(),
                    },
                    Err(_) if entry.path().is_dir() => TopEntryKind::Directory,
                    Err(_) => TopEntryKind::File,
                },
            })
            .collect();
        entries.sort();
        entries
    }

    fn execute(&self, arguments: &[&str], cancel: Option<&Cancel>) -> Result<Exit, SandboxError> {
        let arguments = arguments.iter().map(OsString::from).collect();
        let job = Job::new(Cid::default(), Cid::default(), arguments, []).unwrap();
        let (tree, entries) = (self.path("tree"), self.entries());
        let work = ["work", "stage", "lower"].map(|name| self.path(name));
        for directory in &work {
            // What a run before has left there is no layer of another one.
            fs::remove_dir_all(directory).or_else(if_missing).unwrap();
            fs::create_dir(directory).unwrap();
        }
        let paths = HostPaths {
            stage: &work[1],
            root: RootSource::Unpacked {
                tree: &tree,
                entries: self.file_input.then_some(&entries),
                stand_in: None,
            },
            input: InputSource::Exported(&self.path(if self.file_input {
                "input/file"
            } else {
                "input"
            })),
            writable: self.directory.path(),
            work: &work[0],
            lower: &work[2],
        };
        let limits = Limits::default();
        execute(
            &Bubblewrap::find().unwrap(),
            &job,
            &paths,
            &[],
            &limits,
            None,
            &Conduct {
                stdin: StandardInput::default(),
                caller: cancel.map(|cancel| cancel as &dyn Caller),
                stop_timeout: Duration::ZERO,
            },
        )
        .map(|ended| ended.exit)
    }

    /// Runs a shell in both layouts of the root, and gives what it wrote to `/output/result`.
    fn shell(&mut self, script: &str) -> String {
        let mut results = Vec::new();
        for file_input in [false, true] {
            self.file_input = file_input;
            let script = format!("exec > /output/result 2>&1; {script}");
            self.execute(&["sh", "-c", &script], None).unwrap();
            results.push(fs::read_to_string(self.path("output/result")).unwrap());
        }
        assert_eq!(results[0], results[1], "the layouts differ");
        results.remove(0)
    }
}

use crate::caller::Caller;
use crate::job::Job;

fn if_missing(error: std::io::Error) -> std::io::Result<()> {
    match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

/// Has another process write a program: were it this one, a child that another test forks would
/// hold the file open for a moment, and the kernel executes no file that somebody may write to.
fn write_executable(path: &Path, content: &[u8]) {
    let mut writer = Command::new("/bin/sh")
        .args(["-c", "cat > \"$1\" && chmod 755 \"$1\"", "sh"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    writer.stdin.take().unwrap().write_all(content).unwrap();
    assert!(writer.wait().unwrap().success());
}

/// The static busybox of the host.
fn busybox() -> PathBuf {
    ["/bin/busybox", "/usr/bin/busybox"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.exists())
        .expect("busybox is installed (`apt-get install busybox-static`)")
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn exit_codes() {
    let host = Host::new();
    for (script, code, signal) in [
        ("true", 0, None),
        ("exit 7", 7, None),
        ("exit 255", 255, None),
        ("exit 127", 127, None),
        // Process 1 is deaf to its own signals, but not to those that the kernel forces on it.
        ("trap 'exit 9' TERM; kill -TERM $$; sleep 9", 9, None),
        ("busybox sh -c 'kill -KILL $$'", 137, Some(9)),
    ] {
        let exit = host.execute(&["sh", "-c", script], None).unwrap();
        assert_eq!((exit.code(), exit.signal()), (code, signal), "{script}");
        assert_eq!(exit.success(), code == 0);
    }
}

#[test]
fn arguments_arrive_as_they_are() {
    let host = Host::new();
    let script = r#"for word; do printf '[%s]' "$word"; done > /output/result"#;
    let words = [
        "", " ", "a  b", "'", "\"", "--bind", "-", "--", "\n", "\\", "$HOME", "*", "\u{e4}",
    ];
    let arguments = [&["sh", "-c", script, "sh"], &words[..]].concat();
    host.execute(&arguments, None).unwrap();
    let wanted: String = words.map(|word| format!("[{word}]")).concat();
    assert_eq!(
        fs::read_to_string(host.path("output/result")).unwrap(),
        wanted
    );
}

#[test]
fn environment() {
    let listed =
        Host::new().shell("/bin/busybox tr '\\0' '\\n' < /proc/1/environ | /bin/busybox sort");
    let wanted = [
        "FORCE_SOURCE_DATE=1",
        "HOME=/tmp",
        "KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970",
        "LC_ALL=C",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PERL_HASH_SEED=0",
        "PWD=/",
        "PYTHONHASHSEED=0",
        "QT_HASH_SEED=0",
        "SOURCE_DATE_EPOCH=0",
        "TMPDIR=/tmp",
        "TZ=UTC",
        "ZERO_AR_DATE=1",
    ];
    assert_eq!(lines(&listed), wanted);
}

#[test]
fn identity() {
    let listed = Host::new().shell(
        "busybox id -u; busybox id -g; busybox hostname; busybox pwd; umask; echo $$; \
         busybox ls -1 /proc/self/fd",
    );
    // Descriptor 3 is the directory that `ls` reads.
    let wanted = ["0", "0", "sandbox", "/", "0022", "1", "0", "1", "2", "3"];
    assert_eq!(lines(&listed), wanted);
}

#[test]
fn no_capabilities_and_no_way_to_get_any() {
    let listed = Host::new().shell(
        "busybox grep -E '^(Cap|NoNewPrivs|SigBlk)' /proc/1/status; \
         busybox unshare -U true && echo ESCAPED; busybox unshare -r id && echo ESCAPED; \
         busybox mount -t tmpfs none /tmp && echo ESCAPED; busybox chroot / true && echo ESCAPED; \
         busybox mknod /tmp/null c 1 3 && echo ESCAPED; busybox hostname x && echo ESCAPED",
    );
    assert!(!listed.contains("ESCAPED"), "{listed}");
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigBlk"] {
        assert!(
            listed.contains(&format!("{name}:\t0000000000000000")),
            "{name}: {listed}"
        );
    }
    assert!(listed.contains("NoNewPrivs:\t1"), "{listed}");
}

#[test]
fn only_writable_places_accept_writes() {
    let mut host = Host::new();
    let listed = host.shell(
        "for path in /x /etc/x /etc/passwd /sbin/init /input/x /input/file /input /dev/x /proc/x \
         /proc/sys/kernel/hostname /proc/sysrq-trigger /output/x /tmp/x /dev/shm/x; do \
         (echo x >> $path) 2>/dev/null && echo $path; done; \
         for path in $(busybox find /proc/sys -type f); do \
         (: >> $path) 2>/dev/null && echo $path; done; \
         busybox touch / /etc /input 2>/dev/null && echo touched; \
         busybox chmod 777 / 2>/dev/null && echo changed; \
         busybox mkdir /dev/pts/x 2>/dev/null && echo made",
    );
    assert_eq!(lines(&listed), ["/output/x", "/tmp/x", "/dev/shm/x"]);
    assert_eq!(
        fs::read_to_string(host.path("input/file")).unwrap(),
        "content of the input\n"
    );
}

#[test]
fn devices() {
    let listed = Host::new().shell(
        "busybox ls -1 /dev; echo x > /dev/null && echo null; \
         busybox head -c 4 /dev/zero | busybox wc -c; busybox head -c 4 /dev/urandom | busybox wc -c; \
         busybox stat -c %a /dev/shm /tmp /output; \
         busybox mkdir /dev/shm/d && echo x > /dev/shm/d/x && busybox cat /dev/shm/d/x; \
         exec 5<>/dev/ptmx && busybox ls /dev/pts",
    );
    for name in [
        "null", "zero", "full", "random", "urandom", "tty", "shm", "pts", "ptmx", "fd",
    ] {
        assert!(lines(&listed).contains(&name), "{name}: {listed}");
    }
    assert!(listed.contains("null\n4\n4\n1777\n755\n755\n"), "{listed}");
    assert!(listed.contains("\nx\n0\nptmx\n"), "{listed}");
}

#[test]
fn nothing_of_the_host() {
    let mut host = Host::new();
    let listed = host.shell(
        "busybox ls -A /; busybox ip link 2>/dev/null | busybox grep -c ': '; \
         busybox ls -A /tmp; busybox ls /proc > /tmp/list; busybox grep -c '^[0-9]*$' /tmp/list; \
         busybox rm /tmp/list; busybox ls -d /oldroot /newroot 2>&1",
    );
    let names = [
        "bin", "dev", "etc", "input", "output", "proc", "sbin", "tmp",
    ];
    assert_eq!(lines(&listed)[..8], names, "{listed}");
    // One interface, `lo`. Nothing in `/tmp`. Two processes: the shell and `ls`.
    assert_eq!(lines(&listed)[8..10], ["1", "2"], "{listed}");
    let mounts = host.shell("busybox cut -d' ' -f2 /proc/mounts | busybox grep -c old");
    assert_eq!(mounts, "0\n");
}

#[test]
fn input_as_directory_and_as_file() {
    let mut host = Host::new();
    for (file_input, path) in [(false, "/input/file"), (true, "/input")] {
        host.file_input = file_input;
        let script = format!("busybox cp {path} /output/copy; echo x >> {path} && exit 1; exit 0");
        assert!(
            host.execute(&["sh", "-c", &script], None)
                .unwrap()
                .success()
        );
        let copy = fs::read_to_string(host.path("output/copy")).unwrap();
        assert_eq!(copy, "content of the input\n");
        fs::remove_file(host.path("output/copy")).unwrap();
    }
}

/// bubblewrap before 0.12 follows links of the root file system while it sets up
/// (CVE-2026-87766); with links into `/oldroot`, where it keeps the host meanwhile, they lead out.
#[test]
fn links_into_the_host_do_no_harm() {
    let mut host = Host::new();
    let victim = tempfile::tempdir().unwrap();
    fs::remove_dir_all(host.path("tree/etc")).unwrap();
    let outside = format!("/oldroot{}", victim.path().display());
    for (name, target) in [
        ("etc", "/oldroot/tmp".to_owned()),
        ("usr", outside.clone()),
        ("var", format!("..{outside}")),
        ("run", format!("/newroot{outside}")),
        ("oldroot", victim.path().display().to_string()),
        ("newroot", "/".to_owned()),
    ] {
        symlink(target, host.path("tree").join(name)).unwrap();
    }
    for name in ["dev", "proc", "input"] {
        for below in ["shm", "pts", "sys", "null"] {
            symlink(&outside, host.path("tree").join(name).join(below)).unwrap();
        }
    }
    let listed = host.shell(
        "for name in etc usr var run oldroot newroot; do busybox ls /$name/ >/dev/null 2>&1 && \
         echo $name; echo x 2>/dev/null > /$name/x && echo ESCAPED; done",
    );
    assert_eq!(lines(&listed), ["newroot"]);
    assert_eq!(fs::read_dir(victim.path()).unwrap().count(), 0);
    assert!(!Path::new("/tmp/x").exists());
}

#[test]
fn a_program_that_cannot_be_executed() {
    let mut host = Host::new();
    let init = host.path("tree/sbin/init");
    for file_input in [false, true] {
        host.file_input = file_input;
        host.write_init("#!/no/such/interpreter\n");
        let error = host.execute(&[], None).unwrap_err();
        assert!(matches!(error, SandboxError::NotExecuted(_)), "{error:?}");
        fs::set_permissions(&init, fs::Permissions::from_mode(0o644)).unwrap();
        let error = host.execute(&[], None).unwrap_err();
        assert!(matches!(error, SandboxError::NotExecuted(_)), "{error:?}");
    }
    fs::remove_file(&init).unwrap();
    let error = host.execute(&[], None).unwrap_err();
    assert!(matches!(error, SandboxError::NotExecuted(_)), "{error:?}");
}

#[test]
fn a_sandbox_that_cannot_be_set_up() {
    let host = Host::new();
    fs::remove_dir(host.path("tree/output")).unwrap();
    let error = host.execute(&["true"], None).unwrap_err();
    assert!(matches!(error, SandboxError::SetUp { .. }), "{error:?}");
}

#[test]
fn cancelling_kills_everything() {
    let host = Host::new();
    let source = CancelSource::new().unwrap();
    let ready = host.path("output/ready");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ready.exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            source.cancel();
        });
        let script = "trap '' TERM INT; (trap '' TERM; while :; do echo x >> /output/grows; done) & \
                      while [ ! -s /output/grows ]; do :; done; \
                      echo > /output/ready; while :; do busybox sleep 1; done";
        let started = Instant::now();
        let error = host
            .execute(&["sh", "-c", script], Some(&source.token()))
            .unwrap_err();
        assert!(matches!(error, SandboxError::Interrupted), "{error:?}");
        assert!(started.elapsed() < Duration::from_secs(20));
    });
    let size = || fs::metadata(host.path("output/grows")).unwrap().len();
    let before = size();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(size(), before, "a process of the sandbox lives on");
}

/// Root of the host owns its device files also inside.
#[test]
fn device_files_of_the_host_cannot_be_changed() {
    let names = ["null", "zero", "full", "random", "urandom", "tty"];
    let modes = || names.map(|name| fs::metadata(format!("/dev/{name}")).unwrap().mode());
    let before = modes();
    let listed = Host::new().shell(
        "for name in null zero full random urandom tty; do \
         busybox chmod 600 /dev/$name && echo ESCAPED; busybox rm /dev/$name && echo ESCAPED; \
         done; for descriptor in 0 1 2; do busybox chmod 600 /proc/1/fd/$descriptor; done; exit 0",
    );
    assert!(!listed.contains("ESCAPED"), "{listed}");
    assert_eq!(before, modes());
}

/// A cancellation that was there before the program began, at every moment of the set-up.
#[test]
fn cancelling_at_once() {
    let host = Host::new();
    let source = CancelSource::new().unwrap();
    source.cancel();
    for _ in 0..20 {
        let script = "busybox sleep 60; echo > /output/ran";
        let error = host
            .execute(&["sh", "-c", script], Some(&source.token()))
            .unwrap_err();
        assert!(matches!(error, SandboxError::Interrupted), "{error:?}");
    }
    assert!(!host.path("output/ran").exists());
}

/// Processes that outlive process 1 do not: nothing may write to `/output` after its end.
#[test]
fn processes_left_running_die_with_the_program() {
    let host = Host::new();
    let script = "(trap '' HUP TERM; while :; do echo x >> /output/grows; done) & \
                  while [ ! -s /output/grows ]; do :; done; exit 3";
    assert_eq!(host.execute(&["sh", "-c", script], None).unwrap().code(), 3);
    let size = || fs::metadata(host.path("output/grows")).unwrap().len();
    let before = size();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(size(), before);
}

/// Somebody kills bubblewrap: the program must be dead when that is reported.
#[test]
fn bubblewrap_killed_from_outside() {
    let host = Host::new();
    let ready = host.path("output/ready");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ready.exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            let monitor = monitor_of(host.directory.path());
            rustix::process::kill_process(monitor, rustix::process::Signal::KILL).unwrap();
        });
        let script = "echo x > /output/grows; echo > /output/ready; \
                      while :; do echo x >> /output/grows; done";
        let error = host.execute(&["sh", "-c", script], None).unwrap_err();
        assert!(matches!(error, SandboxError::NoStatus), "{error:?}");
    });
    let size = || fs::metadata(host.path("output/grows")).unwrap().len();
    let before = size();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(size(), before, "the program lives on");
}

/// The bubblewrap that works on `directory`. Its sandbox no longer carries its name.
fn monitor_of(directory: &Path) -> rustix::process::Pid {
    let name = directory.to_str().unwrap();
    let find = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.ok()?.path();
        let command = fs::read(path.join("cmdline")).ok()?;
        let number = path.file_name()?.to_str()?.parse().ok()?;
        let found = String::from_utf8_lossy(&command).contains(name);
        found
            .then(|| rustix::process::Pid::from_raw(number))
            .flatten()
    };
    fs::read_dir("/proc")
        .unwrap()
        .find_map(find)
        .expect("bubblewrap runs")
}
