//! Small private files that are written as a whole.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Only the user may read keys, and records unless the repository is shared.
const PRIVATE_DIRECTORY: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;

/// A file or directory that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct FileError {
    /// What was tried.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What the system says.
    #[source]
    pub source: io::Error,
}

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError {
        action,
        path,
        source,
    }
}

/// Makes the directory, if it is missing.
pub(super) fn ensure_directory(path: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_DIRECTORY)
        .create(path)
        .map_err(failed("create", path))
}

/// Writes a file that gets its name later. A file of this name can only be left of a process that was
/// killed.
pub(super) fn write_unfinished(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(PRIVATE_FILE)
            .open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(failed("write", path))
}

/// Brings the names in a directory to the disk.
pub(super) fn sync_directory(path: &Path) -> Result<(), FileError> {
    let directory = File::open(path).map_err(failed("open", path))?;
    directory.sync_all().map_err(failed("sync", path))
}
