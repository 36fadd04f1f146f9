//! Eviction of entries, which keeps the cache under its cap.
//!
//! An entry loses its name before it is deleted. From then on no process finds the entry, and a crash leaves
//! only scratch.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use ipfs_exec_node::repo::{Repository, RootfsEntry, Session};
use rustix::fs::renameat;
use rustix::io::Errno;

use super::lock::{EvictionLock, UseLock};
use super::seal::Seal;
use super::{RootfsError, cache_error, io_error};
use ipfs_exec_node::tree;

use crate::beneath;

/// Name of an entry in scratch, while it is deleted.
const EVICTED: &str = "evicted";

/// Unpacked root file systems that were removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// How many.
    pub entries: u64,
    /// Bytes of their content.
    pub bytes: u64,
}

/// Removes entries, least recently used first, until at most `cap_bytes` are kept.
pub(super) fn evict(
    repository: &Repository,
    session: &Session<'_>,
    cap_bytes: u64,
) -> Result<Evicted, RootfsError> {
    let directory = repository.rootfs_directory();
    record_strays(repository, &directory)?;
    let entries = entries(repository)?;
    let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
    let mut evicted = Evicted::default();
    for entry in entries {
        if total <= cap_bytes {
            break;
        }
        if remove(repository, session, &directory, &entry.key)? {
            total -= entry.bytes;
            evicted.entries += 1;
            evicted.bytes += entry.bytes;
        }
    }
    Ok(evicted)
}

fn entries(repository: &Repository) -> Result<Vec<RootfsEntry>, RootfsError> {
    repository.rootfs_entries().map_err(RootfsError::Repository)
}

/// Records entries that a process named and then did not live to record.
fn record_strays(repository: &Repository, directory: &Path) -> Result<(), RootfsError> {
    let known: BTreeSet<String> = entries(repository)?
        .into_iter()
        .map(|entry| entry.key)
        .collect();
    for entry in fs::read_dir(directory).map_err(io_error(directory))? {
        let entry = entry.map_err(io_error(directory))?;
        let Ok(key) = entry.file_name().into_string() else {
            continue;
        };
        let path = entry.path();
        if known.contains(&key) || !path.is_dir() {
            continue;
        }
        let Some(lock) = UseLock::acquire(&path).map_err(io_error(&path))? else {
            continue;
        };
        match Seal::read(lock.directory()) {
            Ok(seal) => {
                let bytes = seal.unpacked.bytes;
                repository
                    .record_rootfs(&key, bytes)
                    .map_err(RootfsError::Repository)?;
            }
            // Of another version of the layout, perhaps a later one's: not ours to remove.
            Err(error) => tracing::debug!(key, %error, "an entry has no seal that can be read"),
        }
    }
    Ok(())
}

/// Removes the entry `key` unless it is in use; gives whether it is gone.
fn remove(
    repository: &Repository,
    session: &Session<'_>,
    directory: &Path,
    key: &str,
) -> Result<bool, RootfsError> {
    let path = directory.join(key);
    let Some(lock) = EvictionLock::try_acquire(&path).map_err(io_error(&path))? else {
        let gone = !path.exists();
        if gone {
            repository
                .forget_rootfs(key)
                .map_err(RootfsError::Repository)?;
        }
        return Ok(gone);
    };
    let scratch = beneath::open_root(session.scratch())
        .map_err(|errno| cache_error(session.scratch(), errno))?;
    take_away(directory, key, &scratch).map_err(|errno| cache_error(&path, errno))?;
    // Who waits to use the entry need not wait for its deletion.
    drop(lock);
    repository
        .forget_rootfs(key)
        .map_err(RootfsError::Repository)?;
    tree::remove_tree(scratch.as_fd(), EVICTED.as_bytes()).map_err(|source| {
        RootfsError::CleanUp {
            path: session.scratch().to_owned(),
            source,
            first: None,
        }
    })?;
    Ok(true)
}

fn take_away(directory: &Path, key: &str, scratch: &OwnedFd) -> Result<(), Errno> {
    let directory = beneath::open_root(directory)?;
    renameat(&directory, key, scratch, EVICTED)
}
