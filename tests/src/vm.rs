//! A virtual machine with a kernel of its own: for what depends on how a machine was set up.
//!
//! It boots from a file system in memory that is made here, runs a script as its first process, and is
//! gone when that ends. Slow, since no processor helps: seconds to boot, and several times as long as
//! here for all else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::requirement;

/// After this time it is ended, whatever it does.
const PATIENCE: Duration = Duration::from_secs(300);

/// What runs before the script: programs cannot change the root of the file system that a kernel boots
/// from, so all moves into another one.
const INIT: &str = r"#!/bin/busybox sh
/bin/busybox mkdir -p /new
/bin/busybox mount -t tmpfs -o mode=755 none /new
for entry in /*; do
    [ $entry = /new ] || /bin/busybox cp -a $entry /new
done
exec /bin/busybox switch_root /new /second
";

const SECOND: &str = r"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
mkdir -p /proc /sys /dev /tmp /root
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t cgroup2 none /sys/fs/cgroup
chmod 1777 /tmp
echo 'root:x:0:0::/root:/bin/sh' > /etc/passwd
echo 'user:x:1000:1000::/tmp:/bin/sh' >> /etc/passwd
echo 'user:x:1000:' > /etc/group
# The console says more than the script.
sh /script 2>&1 | sed 's/^/vm: /'
poweroff -f
";

/// What a script printed that ran as root of a virtual machine, in which `programs` are in the `PATH`.
///
/// # Panics
/// If it cannot be started, or does not end.
pub fn run(script: &str, programs: &[(&str, &Path)], files: &[(&str, &[u8])]) -> String {
    let place = tempfile::tempdir().expect("there is room for temporary files");
    let root = place.path().join("root");
    for directory in ["bin", "etc"] {
        fs::create_dir_all(root.join(directory)).expect("the place is ours");
    }
    for (name, text) in [("init", INIT), ("second", SECOND), ("script", script)] {
        write(&root.join(name), text.as_bytes());
    }
    for (name, content) in files {
        write(&root.join(name), content);
    }
    let busybox = requirement::busybox();
    for (name, program) in [("busybox", &*busybox)].iter().chain(programs) {
        copy(program, &root.join("bin").join(name));
        for library in libraries(program) {
            copy(
                &library,
                &root.join(library.strip_prefix("/").expect("it is absolute")),
            );
        }
    }
    let archive = place.path().join("root.cpio");
    pack(&root, &archive);
    boot(&archive)
}

fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().expect("it is in a directory")).expect("the place is ours");
    fs::write(path, content).expect("the place is ours");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().expect("it is in a directory")).expect("the place is ours");
    fs::copy(from, to).unwrap_or_else(|error| panic!("cannot copy {}: {error}", from.display()));
}

/// The libraries that a program loads, and what loads them.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let listed = Command::new("ldd")
        .arg(program)
        .output()
        .expect("`ldd` comes with the C library");
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    words.map(PathBuf::from).collect()
}

fn pack(root: &Path, archive: &Path) {
    let file = fs::File::create(archive).expect("the place is ours");
    let script = "find . | cpio --quiet --create --format=newc --owner=+0:+0";
    requirement::tool("cpio", "cpio");
    let packed = Command::new("sh")
        .args(["-c", script])
        .current_dir(root)
        .stdout(file)
        .status();
    assert!(packed.is_ok_and(|status| status.success()), "cpio failed");
}

fn boot(archive: &Path) -> String {
    let machine = match std::env::consts::ARCH {
        "x86_64" => "pc",
        other => panic!("no virtual machine was set up for {other}"),
    };
    let seconds = PATIENCE.as_secs().to_string();
    let output = Command::new(requirement::tool("timeout", "coreutils"))
        .args(["--signal=KILL", &seconds])
        .arg(requirement::tool("qemu-system-x86_64", "qemu-system-x86"))
        .args([
            "-machine", machine, "-accel", "tcg", "-m", "1024", "-smp", "2",
        ])
        .args([
            "-nodefaults",
            "-no-reboot",
            "-display",
            "none",
            "-serial",
            "stdio",
        ])
        .arg("-kernel")
        .arg(kernel())
        .arg("-initrd")
        .arg(archive)
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .stdin(Stdio::null())
        .output()
        .expect("the programs are there");
    let console = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "the machine did not end\n{console}"
    );
    let lines = console
        .lines()
        .filter_map(|line| line.trim_end().strip_prefix("vm: "));
    let said: Vec<_> = lines.collect();
    assert!(!said.is_empty(), "the script said nothing\n{console}");
    said.join("\n") + "\n"
}

/// The kernel in `IPFS_EXEC_VM`, which `tests/run.sh` sets.
fn kernel() -> PathBuf {
    let directory = std::env::var_os("IPFS_EXEC_VM").unwrap_or_else(|| {
        panic!("IPFS_EXEC_VM is not set; `tests/vm/install.sh DIR` makes such a directory")
    });
    PathBuf::from(directory).join("vmlinuz")
}
