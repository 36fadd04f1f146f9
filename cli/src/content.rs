//! Content paths of the command line, and where content goes to.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ipfs_exec_node::{Cid, ContentPath, EntryName, ReadBlocks, unixfs};

use crate::error::{CommandError, LocalError};

/// Reads content paths. Not left to the parser of the command line: a CID that does not parse is
/// bad input, not wrong usage.
pub(crate) fn content_paths(arguments: &[String]) -> Result<Vec<ContentPath>, CommandError> {
    arguments
        .iter()
        .map(|argument| Ok(argument.parse()?))
        .collect()
}

/// Resolves a content path; the error names the whole path.
pub(crate) fn resolve(blocks: &dyn ReadBlocks, path: &ContentPath) -> Result<Cid, CommandError> {
    unixfs::resolve(blocks, path).map_err(|error| {
        let failed = CommandError::from(error);
        if path.segments.is_empty() {
            failed
        } else {
            failed.about(&format!("cannot resolve {path}"))
        }
    })
}

/// Opens the directory that is to hold `path`, with the name that it gets there.
pub(crate) fn destination(path: &Path) -> Result<(OwnedFd, EntryName), CommandError> {
    let name = path.file_name().ok_or_else(|| {
        CommandError::usage(format!(
            "{} does not name a new file or directory",
            path.display()
        ))
    })?;
    let name = EntryName::new(name.as_bytes())?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = File::open(parent).map_err(|source| LocalError {
        action: "open the directory",
        path: parent.to_owned(),
        source,
    })?;
    Ok((directory.into(), name))
}
