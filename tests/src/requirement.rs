//! Requirements of a test on the machine. If one is missing, the test fails and says what to install. No test
//! passes silently.

use std::path::PathBuf;
use std::process::Command;

use crate::environment::SEARCH_PATH;

/// The static busybox that test images are made of: `IPFS_EXEC_BUSYBOX`, or the installed one.
///
/// # Panics
/// If there is none.
pub fn busybox() -> PathBuf {
    std::env::var_os("IPFS_EXEC_BUSYBOX")
        .map_or_else(|| tool("busybox", "busybox-static"), PathBuf::from)
}

/// Checks that bubblewrap can make a sandbox here.
///
/// # Panics
/// If it cannot.
pub fn bubblewrap() {
    let program = tool("bwrap", "bubblewrap");
    let probe = Command::new(&program)
        .args(["--unshare-all", "--ro-bind", "/", "/", "true"])
        .output()
        .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
    assert!(
        probe.status.success(),
        "bubblewrap cannot make a sandbox here; allow user namespaces (sysctl \
         kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0): {}",
        String::from_utf8_lossy(&probe.stderr)
    );
}

/// Checks that file systems can be mounted here.
///
/// # Panics
/// If they cannot.
pub fn fuse() {
    let device = "/dev/fuse";
    let opened = std::fs::File::options().read(true).write(true).open(device);
    if let Err(error) = opened {
        panic!("cannot open {device}; load the module and let users open it (mode 0666): {error}");
    }
    tool("fusermount3", "fuse3");
}

/// The path of a tool.
///
/// # Panics
/// If it is not installed.
pub fn tool(name: &str, package: &str) -> PathBuf {
    SEARCH_PATH
        .split(':')
        .map(|directory| PathBuf::from(directory).join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("`{name}` is missing; install it: apt-get install {package}"))
}
