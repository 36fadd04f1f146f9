//! Scratch directories of living processes.
//!
//! A process locks its scratch directory (flock) for as long as it lives. Another process that gets the
//! lock knows that the owner is dead, and removes the directory. So no directory stays behind for good,
//! even after kill -9.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::RepoError;
use super::wait::{Lock, try_lock};
use crate::tree::{TreeError, remove_tree};

/// A directory that goes away with its guard.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
}

impl Scratch {
    /// Makes a new directory `PID-RAND` below `run`, after removing those of the dead.
    pub(super) fn create(run: &Path) -> Result<Scratch, RepoError> {
        remove_dead(run)?;
        loop {
            let path = run.join(unique_name());
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(RepoError::io("create", &path)(error)),
            }
            // Between creation and lock another process may take it for dead and remove it.
            if let Some(lock) = lock_existing(&path)? {
                return Ok(Scratch { path, _lock: lock });
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The name that a lease gives as its holder.
    pub(super) fn name(&self) -> &str {
        self.path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("the name was made of ASCII")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_entry(&self.path) {
            // The next process removes it.
            tracing::debug!(path = %self.path.display(), %error, "scratch directory stays behind");
        }
    }
}

/// Whether the process that owns the scratch directory `name` below `run` lives.
pub(super) fn is_alive(run: &Path, name: &str) -> Result<bool, RepoError> {
    let path = run.join(name);
    match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(RepoError::io("open", &path)(error)),
        Ok(directory) => Ok(!try_lock(&directory, Lock::Exclusive, &path)?),
    }
}

/// Removes the scratch directory `path`.
fn remove_entry(path: &Path) -> Result<(), RepoError> {
    let failed = |error: TreeError| RepoError::io("remove", path)(io::Error::other(error));
    let (Some(run), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let directory = File::open(run).map_err(RepoError::io("open", run))?;
    remove_tree(directory.as_fd(), name.as_bytes()).map_err(failed)
}

/// Removes the scratch directories of processes that are dead.
pub(super) fn remove_dead(run: &Path) -> Result<(), RepoError> {
    for entry in fs::read_dir(run).map_err(RepoError::io("read", run))? {
        let path = entry.map_err(RepoError::io("read", run))?.path();
        let Some(_lock) = lock_existing(&path)? else {
            continue;
        };
        if let Err(error) = remove_entry(&path) {
            tracing::debug!(path = %path.display(), %error, "cannot remove a dead scratch directory");
        }
    }
    Ok(())
}

/// Locks the directory; `None` when somebody holds it or it is gone.
fn lock_existing(path: &Path) -> Result<Option<File>, RepoError> {
    let directory = match File::open(path) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(RepoError::io("open", path)(error)),
    };
    if !try_lock(&directory, Lock::Exclusive, path)? {
        return Ok(None);
    }
    let held = directory.metadata().map_err(RepoError::io("stat", path))?;
    match fs::symlink_metadata(path) {
        Ok(found) if found.ino() == held.ino() && found.dev() == held.dev() => Ok(Some(directory)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RepoError::io("stat", path)(error)),
    }
}

/// `PID-RAND`: the number is for people, the rest makes it unique.
fn unique_name() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u64(COUNTER.fetch_add(1, Ordering::Relaxed));
    format!("{}-{:016x}", std::process::id(), hasher.finish())
}
