//! Covering what of `/proc` tells of the host, from outside, once bubblewrap has mounted it.
//!
//! The supervisor has all capabilities over the sandbox's namespaces, since they are below its own. It
//! enters the mount namespace of the sandbox while the stub waits, and comes back. One mount takes some
//! microseconds there; bubblewrap reads all mounts again for each.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::stage::{BOOT_ID, EMPTY_DIRECTORY, EMPTY_FILE, detached};
use super::{borrow, check};

/// Where the identity of the boot stands.
const BOOT_ID_PATH: &CStr = c"/proc/sys/kernel/random/boot_id";

/// Entries of `/proc` that are covered: absolute paths, none of which leads through a link.
#[derive(Clone, Debug, Default)]
pub(crate) struct Covered {
    pub(crate) files: Vec<CString>,
    pub(crate) directories: Vec<CString>,
}

/// What covers them: copies of an empty file, an empty directory and a boot identity.
pub(super) struct Covers {
    file: OwnedFd,
    directory: OwnedFd,
    boot_id: OwnedFd,
    own_namespace: OwnedFd,
}

impl Covers {
    /// Takes them from the stage, which is the working directory.
    pub(super) fn take() -> io::Result<Covers> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(Covers {
            file: detached(EMPTY_FILE)?,
            directory: detached(EMPTY_DIRECTORY)?,
            boot_id: detached(BOOT_ID)?,
            own_namespace: open(c"/proc/thread-self/ns/mnt", flags, Mode::empty())?,
        })
    }

    /// Descriptors that must stay open.
    pub(super) fn descriptors(&self) -> [RawFd; 4] {
        let all = [
            &self.file,
            &self.directory,
            &self.boot_id,
            &self.own_namespace,
        ];
        all.map(AsRawFd::as_raw_fd)
    }

    /// Covers `covered` in the mount namespace of `process`, which waits meanwhile.
    pub(super) fn put_on(&self, process: Pid, covered: &Covered) -> io::Result<()> {
        let descriptor = pidfd_open(process, PidfdFlags::empty())?;
        enter(descriptor.as_raw_fd())?;
        let done = cover(&self.file, &covered.files)
            .and_then(|()| cover(&self.directory, &covered.directories))
            .and_then(|()| ignore_missing(attach(&self.boot_id, BOOT_ID_PATH)).map(drop));
        enter(self.own_namespace.as_raw_fd()).and(done)
    }
}

fn enter(namespace: RawFd) -> io::Result<()> {
    // SAFETY: takes integers. Memory stays as it is; this process has one thread.
    check(unsafe { libc::setns(namespace, libc::CLONE_NEWNS) }.into())
}

/// Attaches `cover` at the first path that is there, and binds it from there at all others.
fn cover(cover: &OwnedFd, paths: &[CString]) -> io::Result<()> {
    let mut first: Option<&CStr> = None;
    for path in paths {
        let is_covered = match first {
            None => ignore_missing(attach(cover, path))?,
            Some(first) => ignore_missing(bind(first, path))?,
        };
        if is_covered {
            first = first.or(Some(path));
        }
    }
    Ok(())
}

fn attach(tree: &OwnedFd, at: &CStr) -> io::Result<()> {
    let tree = borrow(tree.as_raw_fd());
    // SAFETY: both paths end in NUL.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            at.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
}

fn bind(from: &CStr, at: &CStr) -> io::Result<()> {
    let none = ptr::null();
    // SAFETY: all pointers are null or end in NUL.
    let bound =
        unsafe { libc::mount(from.as_ptr(), at.as_ptr(), none, libc::MS_BIND, ptr::null()) };
    check(bound.into())
}

/// Whether there was something to cover.
fn ignore_missing(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        result => result.map(|()| true),
    }
}
