//! Locks on files, by `flock`, and waiting for them.
//!
//! A thread cannot wait for `flock` together with something else, and `flock` need not return when a
//! signal arrives. So a separate thread waits for the lock, and reports through a pipe that it has the
//! lock. If the caller gives up first, the thread stays until it gets the lock, and releases it at once.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::thread;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::cancel::Cancel;

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

/// Locks `file`; false if another one holds a lock that excludes this one, and `cancel` ends the wait.
///
/// # Errors
/// Those of flock(2), and where no thread can be started.
pub fn lock_while(file: &File, kind: Lock, cancel: &Cancel) -> io::Result<bool> {
    if cancel.is_never() {
        return lock(file, kind).map(|()| true);
    }
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
    if !cancel.wait_readable(&done)? {
        return Ok(false);
    }
    thread
        .join()
        .map_err(|_| io::Error::other("the thread that waits for a lock panicked"))??;
    Ok(true)
}
