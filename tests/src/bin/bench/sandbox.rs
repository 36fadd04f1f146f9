//! A run of a program that does nothing, beside bubblewrap doing the same to the same tree.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ipfs_exec_tests::Archive;

use crate::measure::{self, Contender, Work};

/// What a run may take above bare bubblewrap.
const ABOVE: Duration = Duration::from_millis(15);
/// Memory that anything may take.
const PEAK_BYTES: u64 = 128 << 20;

/// What separates a run from the host.
const SEPARATION: &str = "
    --unshare-user --unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup
    --disable-userns --hostname sandbox --uid 0 --gid 0 --cap-drop ALL
    --die-with-parent --new-session --as-pid-1
    --clearenv --setenv PATH /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    --setenv HOME /tmp --setenv TMPDIR /tmp --setenv TZ UTC --setenv LC_ALL C
    --setenv SOURCE_DATE_EPOCH 0";
/// The file systems of the kernel in a run.
const KERNEL_MOUNTS: &str = "
    --proc /proc --remount-ro /proc
    --dev /dev --perms 1777 --tmpfs /dev/shm --remount-ro /dev";

pub(crate) fn run_true(binary: &Path, place: &Path) -> Work {
    let archive = place.join("rootfs.tar");
    Archive::busybox().write(&archive);
    let (repository, input) = (place.join("repository"), place.join("input"));
    fs::create_dir(&input).expect("the place is ours");
    let call = |arguments: &[&str]| {
        let mut command = Command::new(binary);
        command.arg("--repo").arg(&repository).args(arguments);
        command
    };
    let add = |path: &Path| {
        let added = call(&["add", "-Q"])
            .arg(path)
            .output()
            .expect("the program can be started");
        assert!(
            added.status.success(),
            "{}",
            String::from_utf8_lossy(&added.stderr)
        );
        String::from_utf8(added.stdout)
            .expect("a CID is text")
            .trim()
            .to_owned()
    };
    let (rootfs, empty) = (add(&archive), add(&input));
    let mut run = call(&["run", &rootfs, &empty, "true"]);
    let ours = Contender::new("ours", move || measure::command(&mut run));

    let mut bare = bare_bubblewrap(place, &archive, &input);
    let bare = Contender::new("bare `bwrap`", move || measure::command(&mut bare));
    Work {
        title: "run `true`, root file system cached",
        bytes: None,
        ours,
        peers: vec![bare],
        samples_a_round: 20,
        target: "`bwrap` + 15 ms, 128 MiB",
        met: |ours, bare, peak| ours <= bare + ABOVE && peak <= PEAK_BYTES,
    }
}

/// Bubblewrap on the unpacked archive, with the arguments that a run gives it.
fn bare_bubblewrap(place: &Path, archive: &Path, input: &Path) -> Command {
    let tree = place.join("tree");
    let (output, temporary) = (place.join("bare-output"), place.join("bare-tmp"));
    for directory in ["", "input", "output", "tmp", "proc", "dev"] {
        fs::create_dir_all(tree.join(directory)).expect("the place is ours");
    }
    fs::create_dir(&output).expect("the place is ours");
    fs::create_dir(&temporary).expect("the place is ours");
    let mut tar = Command::new("tar");
    measure::command(tar.arg("-xf").arg(archive).arg("-C").arg(&tree));

    let mut bwrap = Command::new("bwrap");
    bwrap
        .args(SEPARATION.split_whitespace())
        .args(["--ro-bind", path(&tree), "/"])
        .args(KERNEL_MOUNTS.split_whitespace())
        .args(["--ro-bind", path(input), "/input"])
        .args(["--bind", path(&output), "/output"])
        .args(["--bind", path(&temporary), "/tmp"])
        .args(["--chdir", "/", "--", "/sbin/init", "true"]);
    bwrap
}

/// A path as an argument.
fn path(path: &Path) -> &str {
    path.to_str()
        .expect("temporary directories have plain names")
}
