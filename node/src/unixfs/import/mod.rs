//! Turns local files and directories into UnixFS DAGs.
//!
//! ```text
//! walker thread      reads directories, queues a step for every entry     (source)
//! worker threads     open, read and hash files and chunks, in parallel    (work)
//! calling thread     takes the results in order, builds the trees         (assemble)
//!                    and puts the blocks
//! ```
//!
//! Memory is that of the chunks in flight, and of the entries of the directories on one path. Holes of
//! sparse files are not read, and cost no more than the depth of the file's tree.

mod assemble;
mod filter;
mod holes;
mod root;
mod source;
mod tree;
mod work;

use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use filter::Filter;

use super::{Metadata, Mtime, UnixfsError};
use crate::block::{Cid, WriteBlocks};
use crate::budget::{Budget, KeepFree};
use crate::limits;
use crate::profile::Profile;
use crate::progress::Reporter;

/// How files and directories are imported.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// What decides the CIDs. Where metadata is recorded, leaves are dag-pb whatever the profile
    /// says, since a raw block has no place for it; Kubo does the same.
    pub profile: Profile,
    /// Records the permission bits of files and directories.
    pub preserve_mode: bool,
    /// Records the modification time of every entry.
    pub preserve_mtime: bool,
    /// Records this mode in files and directories.
    pub mode: Option<u32>,
    /// Records this time in every entry.
    pub mtime: Option<Mtime>,
    /// Gives the owner the right to read what lacks it, after its mode was noted, where the
    /// alternative is to fail.
    pub make_readable: bool,
    /// Imports the tree of a root file system as an archive of it holds it. Modes are recorded without
    /// set-id bits, and times in whole seconds. Devices, FIFOs, sockets and the content of other file
    /// systems that are mounted in the tree are left out, and the reporter is told.
    pub root_file_system: bool,
    /// What the import may take. Where the disk has too little room for its blocks, that is
    /// [`BlockError::NoRoom`](crate::block::BlockError::NoRoom).
    pub budget: Budget,
    /// Leaves entries of a local tree out; without it everything is imported.
    pub filter: Option<Arc<dyn Filter>>,
}

impl ImportOptions {
    fn records_metadata(&self) -> bool {
        self.root_file_system
            || self.preserve_mode
            || self.preserve_mtime
            || self.mode.is_some()
            || self.mtime.is_some()
    }

    /// The profile with the leaves that the options need.
    fn effective_profile(&self) -> Profile {
        let mut profile = self.profile.clone();
        profile.raw_leaves &= !self.records_metadata();
        profile.chunk_bytes = profile.chunk_bytes.clamp(1, limits::MAX_CHUNK_BYTES);
        profile.links_per_node = profile.links_per_node.clamp(2, limits::MAX_FILE_LINKS);
        profile
    }

    /// What is recorded of an entry with this mode, its type included, and time. A fixed value stands for
    /// all entries that are not preserved from disk.
    fn metadata(&self, mode: u32, mtime: Mtime) -> Metadata {
        if self.root_file_system {
            return root::metadata(mode, mtime);
        }
        Metadata {
            mode: if self.preserve_mode {
                Some(mode & super::data::MODE_BITS)
            } else {
                self.mode
            },
            mtime: if self.preserve_mtime {
                Some(mtime)
            } else {
                self.mtime
            },
        }
    }
}

/// The root of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The root's CID.
    pub cid: Cid,
    /// Bytes of content of all files below.
    pub bytes: u64,
    /// Bytes of all blocks, repeated ones counted each time.
    pub cumulative_bytes: u64,
}

impl From<tree::Child> for Imported {
    fn from(child: tree::Child) -> Imported {
        let tree::Child {
            cid,
            bytes,
            cumulative_bytes,
        } = child;
        Imported {
            cid,
            bytes,
            cumulative_bytes,
        }
    }
}

/// One file, directory or link of an import, told when it is complete; children come before
/// their directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedEntry {
    /// The path below the imported root, which has the empty path.
    pub path: PathBuf,
    /// What it became.
    pub imported: Imported,
    /// The target of a symbolic link.
    pub target: Option<Vec<u8>>,
}

/// Imports the file, directory tree or symbolic link `name`, a path relative to `directory`.
/// Symbolic links are imported, not followed; the path's parents may hold links.
///
/// # Errors
/// Where a file cannot be read, is of another kind, or changes meanwhile, or blocks cannot be
/// kept. [`UnixfsError::ImportBudget`] when it takes more than it may; a large file is then not read.
/// [`UnixfsError::Interrupted`] when the reporter says so.
pub fn import_path(
    blocks: &dyn WriteBlocks,
    directory: BorrowedFd<'_>,
    name: &Path,
    options: &ImportOptions,
    reporter: &dyn Reporter,
    on_entry: &mut dyn FnMut(ImportedEntry),
) -> Result<Imported, UnixfsError> {
    assemble::import_path(blocks, directory, name, options, reporter, on_entry)
}

/// Imports a symbolic link. Its target has 1 to [`limits::MAX_SYMLINK_BYTES`] bytes, none of them NUL.
///
/// # Errors
/// Where the block cannot be kept.
pub fn import_symlink(
    blocks: &dyn WriteBlocks,
    target: &[u8],
    mtime: Option<Mtime>,
    version: cid::Version,
    keep_free: &KeepFree,
) -> Result<Imported, UnixfsError> {
    let (block, imported) = assemble::symlink(target, mtime, version);
    blocks.put_within(&[block], keep_free)?;
    Ok(imported)
}

/// Imports what `stream` gives as one file.
///
/// # Errors
/// As [`import_path`].
pub fn import_stream(
    blocks: &dyn WriteBlocks,
    stream: &mut (dyn Read + Send),
    options: &ImportOptions,
    reporter: &dyn Reporter,
) -> Result<Imported, UnixfsError> {
    assemble::import_stream(blocks, stream, options, reporter)
}
