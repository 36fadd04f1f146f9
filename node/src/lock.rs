//! Locks on files, by `flock`, and waiting for them.
//!
//! A thread cannot wait for `flock` together with something else, and `flock` need not return when a
//! signal arrives. So a separate thread waits for the lock, and reports through a pipe that it has the
//! lock. If the caller gives up first, the thread stays until it gets the lock, and releases it at once.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// A kind of lock on a file. It belongs to the open file description: it ends with the process, and two
/// threads that have opened the file exclude each other as two processes do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Any number at a time.
    Shared,
    /// No other lock beside it.
    Exclusive,
}

impl Lock {
    fn wait(self) -> FlockOperation {
        match self {
            Lock::Shared => FlockOperation::LockShared,
            Lock::Exclusive => FlockOperation::LockExclusive,
        }
    }

    fn no_wait(self) -> FlockOperation {
        match self {
            Lock::Shared => FlockOperation::NonBlockingLockShared,
            Lock::Exclusive => FlockOperation::NonBlockingLockExclusive,
        }
    }
}

/// When a caller gives up waiting for a lock.
#[derive(Clone, Copy)]
pub struct Patience<'p> {
    /// Becomes readable when the caller gives up.
    pub cancel: Option<BorrowedFd<'p>>,
    /// Whether the caller gave up; asked when a signal arrives.
    pub is_over: &'p dyn Fn() -> bool,
    /// When the caller gives up in any case.
    pub deadline: Option<Instant>,
}

/// Locks `file`; false where another one holds a lock that excludes this one.
///
/// # Errors
/// Those of flock(2).
pub fn try_lock(file: impl AsFd, lock: Lock) -> io::Result<bool> {
    match flock(file, lock.no_wait()) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Locks `file`, however long that takes.
///
/// # Errors
/// Those of flock(2).
pub fn lock(file: impl AsFd, lock: Lock) -> io::Result<()> {
    loop {
        match flock(&file, lock.wait()) {
            Err(Errno::INTR) => {}
            outcome => return Ok(outcome?),
        }
    }
}

/// Locks `file`; false where the caller gave up first.
///
/// # Errors
/// Those of flock(2), and where no thread can be started.
pub fn lock_patiently(file: &File, kind: Lock, patience: Patience<'_>) -> io::Result<bool> {
    if try_lock(file, kind)? {
        return Ok(true);
    }
    let (done, finished) = io::pipe()?;
    let waiting = file.try_clone()?;
    let thread = thread::Builder::new()
        .name("repository-lock".to_owned())
        .spawn(move || {
            let outcome = lock(&waiting, kind);
            // The closed pipe tells that the lock is here.
            drop(finished);
            outcome
        })?;
    if !wait_for(done.as_fd(), patience)? {
        return Ok(false);
    }
    thread
        .join()
        .map_err(|_| io::Error::other("the thread that waits for a lock panicked"))??;
    Ok(true)
}

/// Waits until `done` is closed; false where the caller gave up first.
fn wait_for(done: BorrowedFd<'_>, patience: Patience<'_>) -> io::Result<bool> {
    let mut events = vec![PollFd::from_borrowed_fd(done, PollFlags::IN)];
    let cancel = patience.cancel;
    events.extend(cancel.map(|cancel| PollFd::from_borrowed_fd(cancel, PollFlags::IN)));
    loop {
        let left = patience
            .deadline
            .map(|end| end.saturating_duration_since(Instant::now()));
        let timeout = left.map(Timespec::try_from).transpose();
        match poll(&mut events, timeout.map_err(io::Error::other)?.as_ref()) {
            Err(Errno::INTR) => {}
            outcome => _ = outcome?,
        }
        if !events[0].revents().is_empty() {
            return Ok(true);
        }
        let is_cancelled = events[1..].iter().any(|event| !event.revents().is_empty());
        let is_late = patience
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline);
        if is_cancelled || is_late || (patience.is_over)() {
            return Ok(false);
        }
    }
}
