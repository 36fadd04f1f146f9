//! The gate between uncommitted batches and the deleting step of garbage collection.
//!
//! A batch relies on blocks that are here already, which is known to nobody until it is committed.
//! So every uncommitted batch holds the gate, shared, and collection closes it, exclusively. Two
//! directories of the repository lend their locks; no files are needed.

use std::fs::File;
use std::io;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::RepoError;
use super::layout::Layout;

/// The right to have an uncommitted batch. Many hold it at once; collection closes it for the
/// moment in which it deletes.
#[derive(Debug)]
pub(super) struct Gate {
    /// Holds the lock.
    _lock: File,
}

impl Gate {
    /// Enters, after collections that wait already.
    pub(super) fn enter(layout: &Layout) -> Result<Gate, RepoError> {
        // Whoever closes the gate holds the turnstile first, so that a stream of writers cannot
        // keep it out.
        let turnstile = lock_directory(layout, Door::Turnstile, FlockOperation::LockShared)?;
        let gate = lock_directory(layout, Door::Gate, FlockOperation::LockShared)?;
        drop(turnstile);
        Ok(Gate { _lock: gate })
    }

    /// Enters unless a collection waits or works.
    pub(super) fn try_enter(layout: &Layout) -> Result<Option<Gate>, RepoError> {
        match lock_directory(
            layout,
            Door::Turnstile,
            FlockOperation::NonBlockingLockShared,
        ) {
            Ok(turnstile) => {
                let gate = lock_directory(layout, Door::Gate, FlockOperation::LockShared)?;
                drop(turnstile);
                Ok(Some(Gate { _lock: gate }))
            }
            Err(RepoError::Io { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits for every batch to be committed, and keeps new ones out.
    pub(super) fn close(layout: &Layout) -> Result<(File, File), RepoError> {
        let turnstile = lock_directory(layout, Door::Turnstile, FlockOperation::LockExclusive)?;
        let gate = lock_directory(layout, Door::Gate, FlockOperation::LockExclusive)?;
        Ok((turnstile, gate))
    }
}

/// Which directory's lock plays which part; no files are needed for it.
#[derive(Clone, Copy)]
enum Door {
    Turnstile,
    Gate,
}

fn lock_directory(
    layout: &Layout,
    door: Door,
    operation: FlockOperation,
) -> Result<File, RepoError> {
    let path = match door {
        Door::Turnstile => layout.rootfs(),
        Door::Gate => layout.blocks(),
    };
    let directory = File::open(&path).map_err(RepoError::io("open", &path))?;
    loop {
        match rustix::fs::flock(&directory, operation) {
            Ok(()) => return Ok(directory),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(RepoError::errno("lock", &path)(errno)),
        }
    }
}
