//! Who builds an entry, who uses it, who removes it.
//!
//! All locks are `flock`s: they belong to open descriptors, so they end with the process, and two
//! threads of one process exclude each other as two processes do. A name may be removed while
//! somebody waits for its lock; after locking, the inode is therefore compared with the one that
//! has the name now.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use ipfs_exec_node::progress::Reporter;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

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
        block_on(&directory, FlockOperation::LockShared)?;
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
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            result => result?,
        }
        Ok(has_name(&directory, path)?.then_some(EvictionLock(directory)))
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
    /// Locks `path`, made on demand. `None` if the caller lost interest while another one held the
    /// lock: `cancel` became readable, or a signal arrived and `reporter` says so.
    pub(super) fn acquire(
        path: &Path,
        cancel: Option<BorrowedFd<'_>>,
        reporter: &dyn Reporter,
    ) -> io::Result<Option<BuildLock>> {
        loop {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(PRIVATE)
                .open(path)?;
            if !lock_unless_cancelled(&file, cancel, reporter)? {
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

fn block_on(file: impl AsFd, operation: FlockOperation) -> io::Result<()> {
    loop {
        match flock(&file, operation) {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Waits for the exclusive lock on `file`; gives false if the caller lost interest first.
///
/// `flock` can neither be waited for together with something else nor be relied on to return when
/// a signal arrives. So a thread waits for it, through a descriptor of its own on the same open
/// file, and tells through a pipe. When the caller leaves, that thread stays until the lock comes,
/// and gives it up at once.
fn lock_unless_cancelled(
    file: &File,
    cancel: Option<BorrowedFd<'_>>,
    reporter: &dyn Reporter,
) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {}
        result => return Ok(result.map(|()| true)?),
    }
    let (done, finished) = pipe_with(PipeFlags::CLOEXEC)?;
    let waiting = file.try_clone()?;
    let thread = thread::Builder::new()
        .name("rootfs-lock".into())
        .spawn(move || {
            let result = block_on(&waiting, FlockOperation::LockExclusive);
            // Closing the pipe tells that the lock is here.
            drop(finished);
            result
        })?;
    if !wait_for(done.as_fd(), cancel, reporter)? {
        return Ok(false);
    }
    thread
        .join()
        .map_err(|_| io::Error::other("the thread that waits for a lock panicked"))??;
    Ok(true)
}

/// Waits until `done` is readable or closed; gives false if the caller lost interest first.
fn wait_for(
    done: BorrowedFd<'_>,
    cancel: Option<BorrowedFd<'_>>,
    reporter: &dyn Reporter,
) -> io::Result<bool> {
    let mut events = vec![PollFd::from_borrowed_fd(done, PollFlags::IN)];
    events.extend(cancel.map(|cancel| PollFd::from_borrowed_fd(cancel, PollFlags::IN)));
    loop {
        match poll(&mut events, None) {
            Err(Errno::INTR) => {}
            result => _ = result?,
        }
        if !events[0].revents().is_empty() {
            return Ok(true);
        }
        if events[1..].iter().any(|event| !event.revents().is_empty()) || reporter.interrupted() {
            return Ok(false);
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
