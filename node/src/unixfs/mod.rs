//! UnixFS: files, directories and symbolic links as DAGs, as of the [UnixFS specification].
//!
//! Reading trusts nothing: node types, declared sizes, entry names, HAMT fanouts and depths are
//! checked where they are met, every walk is iterative and bounded. Importing writes the very nodes
//! that Kubo writes.
//!
//! [UnixFS specification]: https://specs.ipfs.tech/unixfs/

mod data;
mod diff;
mod directory;
mod entries;
mod export;
mod hamt;
mod hamt_writer;
mod import;
mod merge;
mod node;
mod range;
mod read;
mod resolve;
mod search;
mod tasks;
mod walk;

pub use data::{Metadata, Mtime};
pub use diff::{Change, Changed, Difference, diff};
pub use directory::{Branch, BuiltDirectory, DirectoryBuilder, Entry, Listing, list};
pub use export::{ExportOptions, export};
pub use import::{
    Filter, ImportOptions, Imported, ImportedEntry, import_path, import_stream, import_symlink,
};
pub use merge::merge;
pub use node::{Node, NodeKind};
pub use range::{blocks_from, read_range};
pub use read::FileReader;
pub use resolve::resolve;
pub use search::{DirectoryNode, lookup, lookup_with};
pub use walk::{Visitor, walk};

use std::io;
use std::path::{Path, PathBuf};

use crate::block::{BlockError, Cid};
use crate::budget::BudgetError;
use crate::dag::pb::PbError;
use crate::limits;
use crate::path::PathError;

/// Why a UnixFS operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnixfsError {
    /// A block could not be had or kept.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The block is no dag-pb.
    #[error("block {cid} is not valid dag-pb")]
    InvalidPb {
        /// The block.
        cid: Cid,
        /// What is wrong.
        #[source]
        source: PbError,
    },
    /// The block is dag-pb, and what it holds is not UnixFS or contradicts itself.
    #[error("block {cid} is not valid UnixFS: {reason}")]
    Invalid {
        /// The block.
        cid: Cid,
        /// What is wrong.
        reason: &'static str,
    },
    /// The codec has no files and directories.
    #[error("{cid} has codec 0x{codec:x}, which is not UnixFS")]
    NotUnixfs {
        /// The node.
        cid: Cid,
        /// Its multicodec.
        codec: u64,
    },
    /// A part of a file does not have the size that its parent or itself declares.
    #[error("block {cid} of a file has {actual} bytes of content, but {declared} are declared")]
    SizeMismatch {
        /// The block.
        cid: Cid,
        /// Bytes declared.
        declared: u64,
        /// Bytes found, or declared by the block itself.
        actual: u64,
    },
    /// A directory was needed.
    #[error("{cid} is a {kind}, not a directory")]
    NotDirectory {
        /// The node.
        cid: Cid,
        /// What it is.
        kind: NodeKind,
    },
    /// A file was needed.
    #[error("{cid} is a {kind}, not a file")]
    NotFile {
        /// The node.
        cid: Cid,
        /// What it is.
        kind: NodeKind,
    },
    /// A directory has no entry of that name.
    #[error("{directory} has no entry `{name}`")]
    NotFound {
        /// The directory.
        directory: Cid,
        /// The name, escaped.
        name: String,
    },
    /// A directory holds an entry with a name that no file system may see.
    #[error("directory {directory} holds an entry with a forbidden name")]
    EntryName {
        /// The directory.
        directory: Cid,
        /// What is wrong with which name.
        #[source]
        source: PathError,
    },
    /// Two entries of a directory have the same name.
    #[error("directory {directory} holds two entries `{name}`")]
    DuplicateEntry {
        /// The directory.
        directory: Cid,
        /// The name, escaped.
        name: String,
    },
    /// The same name was given to two entries of a new directory.
    #[error("two entries have the name `{name}`")]
    DuplicateName {
        /// The name, escaped.
        name: String,
    },
    /// Directories or file nodes are nested too deeply.
    #[error("{cid} is nested more than {limit} levels deep")]
    TooDeep {
        /// Where the limit was met.
        cid: Cid,
        /// The limit.
        limit: usize,
    },
    /// An export takes more than it may.
    #[error("cannot export {cid}")]
    ExportBudget {
        /// The root of the export.
        cid: Cid,
        /// Which bound was reached.
        #[source]
        source: BudgetError,
    },
    /// An import takes more than it may.
    #[error("cannot import {}", path.display())]
    ImportBudget {
        /// The root of the import.
        path: PathBuf,
        /// Which bound was reached.
        #[source]
        source: BudgetError,
    },
    /// The sizes of all blocks below a node, summed, do not fit 64 bits, which UnixFS has for them.
    #[error("the blocks of a file or directory have more than 2^64 bytes together")]
    SizeOverflow,
    /// A directory does not fit a block and may not be sharded.
    #[error(
        "a directory of {entries} entries does not fit a block of {} bytes",
        limits::MAX_BLOCK_BYTES
    )]
    DirectoryTooLarge {
        /// How many entries it has.
        entries: usize,
    },
    /// The names of a HAMT directory collide in all 64 bits of their hashes.
    #[error("the entry `{name}` collides with another in every bit of its hash")]
    HashCollision {
        /// The name, escaped.
        name: String,
    },
    /// The name of a local file cannot be the name of an entry.
    #[error("cannot import {}", path.display())]
    LocalName {
        /// The file.
        path: PathBuf,
        /// What is wrong with the name.
        #[source]
        source: PathError,
    },
    /// A local file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A local file is neither a file, a directory nor a symbolic link.
    #[error("{} is a {kind}; only files, directories and symbolic links can be imported", path.display())]
    SpecialFile {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The filter of an import refuses the directory that is to be imported.
    #[error("{} cannot be imported: the filter of the import leaves it out", path.display())]
    RootLeftOut {
        /// The directory.
        path: PathBuf,
    },
    /// A local file became shorter while it was read.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Local directories are nested too deeply.
    #[error("{} is nested more than {} directories deep", path.display(), limits::MAX_DIRECTORY_DEPTH)]
    LocalTooDeep {
        /// The directory.
        path: PathBuf,
    },
    /// The path starts with a mutable name, which must be resolved first.
    #[error("the name /ipns/{name} cannot be resolved here")]
    UnresolvedName {
        /// The name, escaped.
        name: String,
    },
    /// The reporter asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// The work needs a thread that could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

impl UnixfsError {
    /// The bound of a [`Budget`](crate::Budget) that was reached, if that is what ended the operation.
    pub fn budget(&self) -> Option<&BudgetError> {
        match self {
            UnixfsError::ExportBudget { source, .. }
            | UnixfsError::ImportBudget { source, .. }
            | UnixfsError::Block(BlockError::NoRoom { source, .. }) => Some(source),
            _ => None,
        }
    }

    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> UnixfsError {
        move |source| UnixfsError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    fn errno(action: &'static str, path: &Path) -> impl FnOnce(rustix::io::Errno) -> UnixfsError {
        move |source| UnixfsError::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}
