//! The directories on which the sandbox mounts.
//!
//! They are made here, as real directories of the sealed tree, because bubblewrap before 0.12
//! follows links of the root file system when it makes them (CVE-2026-87766).

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{
    AtFlags, FileType, Mode, Timespec, Timestamps, chmodat, fchmod, fstat, futimens, mkdirat,
    statat, utimensat,
};
use rustix::io::Errno;

use crate::layout::MOUNT_POINTS;

/// Mode of a mount point. What is mounted on it brings its own.
const MODE: u32 = 0o755;

/// Least mode of `/` itself: every program must be able to list and pass it.
const LEAST_ROOT_MODE: u32 = 0o755;

/// Why a tree cannot hold a mount point.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountPointError {
    /// Something stands there already.
    #[error("`/{name}` is {kind}; it must be a directory or absent")]
    Occupied {
        /// Its name.
        name: &'static str,
        /// What stands there, with its article.
        kind: &'static str,
    },
    /// The mount point could not be made.
    #[error("cannot make `/{name}`")]
    Io {
        /// Its name.
        name: &'static str,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
}

/// Makes what is missing below `tree`, and `/` usable. Times are as if all had been in the
/// archive, so that equal archives give equal trees.
pub(super) fn prepare(tree: BorrowedFd<'_>) -> Result<(), MountPointError> {
    let fail = |errno: Errno| MountPointError::Io {
        name: "",
        source: errno.into(),
    };
    let status = fstat(tree).map_err(fail)?;
    let mode = Mode::from_raw_mode(status.st_mode) | Mode::from_raw_mode(LEAST_ROOT_MODE);
    fchmod(tree, mode).map_err(fail)?;
    for name in MOUNT_POINTS {
        make(tree, name)?;
    }
    let mtime = Timespec {
        tv_sec: status.st_mtime,
        tv_nsec: status.st_mtime_nsec as _,
    };
    futimens(
        tree,
        &Timestamps {
            last_access: mtime,
            last_modification: mtime,
        },
    )
    .map_err(fail)
}

fn make(tree: BorrowedFd<'_>, name: &'static str) -> Result<(), MountPointError> {
    let fail = |errno: Errno| MountPointError::Io {
        name,
        source: errno.into(),
    };
    match mkdirat(tree, name, Mode::RWXU) {
        Err(Errno::EXIST) => return check(tree, name),
        result => result.map_err(fail)?,
    }
    const EPOCH: Timespec = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: EPOCH,
        last_modification: EPOCH,
    };
    // Just made, so no link: nobody else changes the tree.
    chmodat(tree, name, Mode::from_raw_mode(MODE), AtFlags::empty())
        .and_then(|()| utimensat(tree, name, &times, AtFlags::SYMLINK_NOFOLLOW))
        .map_err(fail)
}

/// Accepts a directory only, and no link to one.
fn check(tree: BorrowedFd<'_>, name: &'static str) -> Result<(), MountPointError> {
    let status =
        statat(tree, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| MountPointError::Io {
            name,
            source: errno.into(),
        })?;
    let kind = match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory => return Ok(()),
        FileType::Symlink => "a symlink",
        FileType::RegularFile => "a file",
        _ => "no directory",
    };
    Err(MountPointError::Occupied { name, kind })
}
