//! Locks of the rootfs cache: one process builds an entry, others use it, one removes it.
//!
//! All locks are `flock`s. A lock belongs to an open descriptor, so it ends with its process, and two threads
//! of one process exclude each other as two processes do. A process may remove a name while another one waits
//! for its lock. So, after locking, a process compares the locked inode with the inode that has the name now.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ipfs_exec_node::Cancel;
use ipfs_exec_node::lock::{Lock, lock, lock_while, try_lock};
use rustix::io::Errno;

use crate::beneath;

/// Mode of a lock file: a user who can open it can hold it.
const PRIVATE: u32 = 0o600;

/// A shared lock on the directory of an entry.
#[derive(Debug)]
pub(super) struct UseLock(OwnedFd);

impl UseLock {
    /// Locks the entry `path`; `None` if there is none. Waits at most for a rename.
    pub(super) fn acquire(path: &Path) -> io::Result<Option<UseLock>> {
        loop {
            let directory = match beneath::open_root(path) {
                Err(Errno::NOENT) => return Ok(None),
                result => result?,
            };
            let lock = UseLock::of(directory)?;
            if has_name(&lock.0, path)? {
                return Ok(Some(lock));
            }
        }
    }

    /// Locks an entry that nobody else can have locked exclusively for long.
    pub(super) fn of(directory: OwnedFd) -> io::Result<UseLock> {
        lock(&directory, Lock::Shared)?;
        Ok(UseLock(directory))
    }

    /// The locked directory.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An exclusive lock on the directory of an entry that nobody uses.
#[derive(Debug)]
pub(super) struct EvictionLock(#[expect(dead_code, reason = "held, not read")] OwnedFd);

impl EvictionLock {
    /// Locks the entry `path`; `None` if there is none or it is in use.
    pub(super) fn try_acquire(path: &Path) -> io::Result<Option<EvictionLock>> {
        let directory = match beneath::open_root(path) {
            Err(Errno::NOENT) => return Ok(None),
            result => result?,
        };
        let is_held = try_lock(&directory, Lock::Exclusive)? && has_name(&directory, path)?;
        Ok(is_held.then_some(EvictionLock(directory)))
    }
}

/// The exclusive right to build an entry.
#[derive(Debug)]
pub(super) struct BuildLock {
    /// The name, until it is removed.
    path: Option<PathBuf>,
    _file: File,
}

impl BuildLock {
    /// Locks `path`, made on demand. `None` if `cancel` ended the wait for another one.
    pub(super) fn acquire(path: &Path, cancel: &Cancel) -> io::Result<Option<BuildLock>> {
        loop {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(PRIVATE)
                .open(path)?;
            if !lock_while(&file, Lock::Exclusive, cancel)? {
                return Ok(None);
            }
            if has_name(&file, path)? {
                return Ok(Some(BuildLock {
                    path: Some(path.to_owned()),
                    _file: file,
                }));
            }
        }
    }

    /// Removes the lock's name, then unlocks. Who waits for it finds the name gone or taken, and
    /// starts again.
    pub(super) fn release(mut self) -> io::Result<()> {
        self.path.take().map_or(Ok(()), fs::remove_file)
    }
}

impl Drop for BuildLock {
    fn drop(&mut self) {
        if let Some(path) = self.path.take()
            && let Err(error) = fs::remove_file(&path)
        {
            // An unlocked file of no bytes: the next builder of the entry takes it over.
            tracing::debug!(path = %path.display(), %error, "cannot remove a lock");
        }
    }
}

/// Whether `file` is what `path` names now.
fn has_name(file: impl AsFd, path: &Path) -> io::Result<bool> {
    let named = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        result => result?,
    };
    let held = rustix::fs::fstat(file)?;
    Ok((held.st_dev, held.st_ino) == (named.dev(), named.ino()))
}
