//! The gate between uncommitted batches and the deleting step of garbage collection.
//!
//! A batch relies on blocks that are here already. No other process knows of that before the batch
//! is committed. So every uncommitted batch holds the gate as a shared lock, and a collection closes the
//! gate as an exclusive lock. Two directories of the repository lend their locks; no files are needed.
//! Both directories are never shared with other users, because any user with access to a directory can
//! lock it.

use std::fs::File;
use std::path::PathBuf;

use super::RepoError;
use super::layout::Layout;
use super::wait::{Lock, Waiting, try_lock};

/// The right to have an uncommitted batch. Many hold it at once; collection closes it for the
/// moment in which it deletes.
#[derive(Debug)]
pub(super) struct Gate {
    /// Holds the lock.
    _lock: File,
}

impl Gate {
    /// Enters, after collections that wait already.
    pub(super) fn enter(layout: &Layout, waiting: &Waiting) -> Result<Gate, RepoError> {
        // A collection holds the turnstile before it closes the gate, so that a stream of writers
        // cannot keep it out.
        let turnstile = open(layout, Door::Turnstile)?;
        turnstile.lock(Lock::Shared, waiting)?;
        Gate::pass(layout, waiting)
    }

    /// Enters unless a collection waits or works.
    pub(super) fn try_enter(layout: &Layout, waiting: &Waiting) -> Result<Option<Gate>, RepoError> {
        let turnstile = open(layout, Door::Turnstile)?;
        if try_lock(&turnstile.directory, Lock::Shared, &turnstile.path)? {
            Gate::pass(layout, waiting).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Enters; the caller holds the turnstile.
    fn pass(layout: &Layout, waiting: &Waiting) -> Result<Gate, RepoError> {
        let gate = open(layout, Door::Gate)?;
        gate.lock(Lock::Shared, waiting)?;
        Ok(Gate {
            _lock: gate.directory,
        })
    }

    /// Waits for every batch to be committed, and keeps new ones out.
    pub(super) fn close(layout: &Layout, waiting: &Waiting) -> Result<(File, File), RepoError> {
        let turnstile = open(layout, Door::Turnstile)?;
        turnstile.lock(Lock::Exclusive, waiting)?;
        let gate = open(layout, Door::Gate)?;
        gate.lock(Lock::Exclusive, waiting)?;
        Ok((turnstile.directory, gate.directory))
    }
}

/// Which directory's lock plays which part.
#[derive(Clone, Copy)]
enum Door {
    Turnstile,
    Gate,
}

/// A directory that lends its lock.
struct Lender {
    directory: File,
    path: PathBuf,
}

impl Lender {
    fn lock(&self, lock: Lock, waiting: &Waiting) -> Result<(), RepoError> {
        waiting.lock(&self.directory, lock, &self.path)
    }
}

fn open(layout: &Layout, door: Door) -> Result<Lender, RepoError> {
    let path = match door {
        Door::Turnstile => layout.rootfs(),
        Door::Gate => layout.run(),
    };
    let directory = File::open(&path).map_err(RepoError::io("open", &path))?;
    Ok(Lender { directory, path })
}
