//! Leaving entries of a local tree out of an import.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::io::Errno;

/// Decides which entries of a local tree are imported.
///
/// The walk asks twice: by name before it opens anything, and with the open descriptor of each
/// directory before it reads its entries. The descriptor cannot be exchanged for another directory
/// between the answer and the walk.
pub trait Filter: fmt::Debug + Send + Sync {
    /// Whether the entry at `path` is imported. The path is relative to the imported root; the root
    /// itself is not asked for.
    fn takes_entry(&self, _path: &Path, _is_directory: bool) -> bool {
        true
    }

    /// Whether the open `directory` is imported. `path` is the place of the directory as the caller of
    /// the import named it. For the root, an answer of `false` is an error.
    ///
    /// # Errors
    /// Where the directory cannot be examined, which ends the import.
    fn takes_directory(&self, _path: &Path, _directory: BorrowedFd<'_>) -> Result<bool, Errno> {
        Ok(true)
    }
}
