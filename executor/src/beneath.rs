//! Opening what lies below a directory, and nothing else.
//!
//! The invariant: no function here follows a symbolic link or leaves the directory it was given,
//! whatever the tree below holds. Relative paths are resolved by `openat2` in one step, so a tree
//! that changes meanwhile gains nothing either.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat, openat2};
use rustix::io::{Errno, Result};

/// Never through a link, never out.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// A path for system calls, relative to a descriptor.
pub(crate) type RelativePath = [u8];

/// Opens the directory `path` of our own, for use as the start of everything below. Links in
/// `path` are followed: it is the caller's, not the tree's.
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd> {
    open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Opens the directory `path` below `root`; the empty path is `root` itself. Fails with `ELOOP`
/// where a link stands in the way, also as the last component.
pub(crate) fn open_directory(root: BorrowedFd<'_>, path: &RelativePath) -> Result<OwnedFd> {
    let path = if path.is_empty() {
        b".".as_slice()
    } else {
        path
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    retry(|| openat2(root, path, flags, Mode::empty(), BENEATH))
}

/// Opens the directory entry `name` of `parent` for reading.
pub(crate) fn open_entry(parent: impl AsFd, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Looks `path` up as a process whose root directory is `root` would: links are followed, but only
/// inside.
pub(crate) fn look_up_inside(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    retry(|| openat2(root, path, flags, Mode::empty(), inside))
}

/// Opens the regular file `path` for reading, found as [`look_up_inside`] finds it. What is no file
/// must have been ruled out before, since opening may have effects.
pub(crate) fn open_file_inside(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    retry(|| openat2(root, path, flags, Mode::empty(), inside))
}

/// Opens the file `path` below `root` for reading. Fails with `ELOOP` as soon as it meets a link, and waits
/// for nothing that is no file.
pub(crate) fn open_file(root: BorrowedFd<'_>, path: &RelativePath) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    retry(|| openat2(root, path, flags, Mode::empty(), BENEATH))
}

/// Looks `path` up below `root` and fails with `ELOOP` as soon as it meets a link.
pub(crate) fn look_up_without_links(root: BorrowedFd<'_>, path: &RelativePath) -> Result<OwnedFd> {
    retry(|| {
        openat2(
            root,
            path,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            BENEATH,
        )
    })
}

/// `openat2` gives up with `EAGAIN` when something anywhere is renamed while it resolves; the
/// manual page asks to try again.
fn retry(mut call: impl FnMut() -> Result<OwnedFd>) -> Result<OwnedFd> {
    const ATTEMPTS: usize = 1000;
    for _ in 1..ATTEMPTS {
        match call() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    call()
}
