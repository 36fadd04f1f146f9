//! Paths of archive entries, relative to the tree.

use std::io;
use std::ops::{Bound, RangeBounds};

use ipfs_exec_node::limits;
use ipfs_exec_node::path::escape;

use super::error::{ArchiveError, Refusal};

/// A path relative to the tree: components that are no `.` or `..`, joined by single slashes.
/// Empty for the tree itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EntryPath(Vec<u8>);

impl EntryPath {
    /// Takes a name as it stands in an archive. A leading `/` and components `.` mean nothing, as
    /// in every tar.
    pub(super) fn new(name: &[u8]) -> Result<EntryPath, ArchiveError> {
        EntryPath::parse(name).map_err(|reason| ArchiveError::Refused {
            name: escape(name),
            reason,
        })
    }

    /// As [`EntryPath::new`], without the name in the error.
    pub(super) fn parse(name: &[u8]) -> Result<EntryPath, Refusal> {
        if name.contains(&0) {
            return Err(Refusal::NulByte);
        }
        let mut path = Vec::with_capacity(name.len());
        let mut depth = 0;
        for part in name.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return Err(Refusal::LeavesTree),
                _ if part.len() > limits::MAX_NAME_BYTES => return Err(Refusal::LongName),
                _ => {}
            }
            depth += 1;
            if depth > 1 {
                path.push(b'/');
            }
            path.extend_from_slice(part);
        }
        if depth > limits::MAX_DIRECTORY_DEPTH {
            return Err(Refusal::TooDeep);
        }
        if path.len() > limits::MAX_SYMLINK_BYTES {
            return Err(Refusal::LongPath);
        }
        Ok(EntryPath(path))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The directory's path and the name in it; `None` for the tree itself.
    pub(super) fn split(&self) -> Option<(&[u8], &[u8])> {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => Some((&self.0[..slash], &self.0[slash + 1..])),
            None if self.0.is_empty() => None,
            None => Some((&[], &self.0)),
        }
    }

    /// The path of the entry `name` of this directory.
    pub(super) fn join(&self, name: &[u8]) -> Result<EntryPath, Refusal> {
        EntryPath::parse(&[self.as_bytes(), b"/", name].concat())
    }

    /// Whether it lies below `directory`.
    pub(super) fn is_below(&self, directory: &EntryPath) -> bool {
        let rest = self.0.strip_prefix(directory.as_bytes());
        rest.is_some_and(|rest| rest.starts_with(b"/"))
    }

    /// Checks the target of a symbolic link at this path: 1 to [`limits::MAX_SYMLINK_BYTES`] bytes without NUL.
    ///
    /// # Errors
    /// [`Refusal::InvalidTarget`].
    pub(super) fn check_target(&self, target: &[u8]) -> Result<(), ArchiveError> {
        if target.is_empty() || target.len() > limits::MAX_SYMLINK_BYTES || target.contains(&0) {
            return Err(self.refused(Refusal::InvalidTarget));
        }
        Ok(())
    }

    /// The error of an entry with this path that may not be unpacked.
    pub(super) fn refused(&self, reason: Refusal) -> ArchiveError {
        ArchiveError::Refused {
            name: escape(self.as_bytes()),
            reason,
        }
    }

    /// The error of an entry with this path that could not be written.
    pub(super) fn unwritten(&self, source: io::Error) -> ArchiveError {
        ArchiveError::Write {
            name: escape(self.as_bytes()),
            source,
        }
    }
}

/// The paths below `directory`, in their order as bytes.
pub(super) fn below(directory: &[u8]) -> impl RangeBounds<Vec<u8>> + use<> {
    // No path starts with a slash: below the top is everything but the top.
    let end = [directory, b"0"].concat();
    let start = [directory, b"/"].concat();
    (Bound::Excluded(start), Bound::Excluded(end))
}
