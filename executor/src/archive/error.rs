//! Errors of reading and unpacking an archive.

use std::io;

use ipfs_exec_node::budget::BudgetError;
use ipfs_exec_node::limits;
use ipfs_exec_node::unixfs::UnixfsError;

use super::bounds::{MAX_DIRECTORY_BYTES, MAX_REGIONS};
use super::image::Image;
use crate::links::MAX_LINKS;

/// Why an archive could not be unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The bytes are neither a tar archive nor a compressed one.
    #[error("it is no tar archive")]
    NotAnArchive,
    /// The bytes end before the archive does.
    #[error("the archive is truncated")]
    Truncated,
    /// The source of the bytes or the decompressor failed.
    #[error("cannot read the archive")]
    Read {
        /// The reader's own error.
        #[source]
        source: io::Error,
    },
    /// A header contradicts the format.
    #[error("the archive is malformed near byte {offset}: {reason}")]
    Malformed {
        /// Where, in decompressed bytes.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// An entry that may not be unpacked.
    #[error("archive entry `{name}` is refused: {reason}")]
    Refused {
        /// The entry's name, escaped.
        name: String,
        /// Why.
        reason: Refusal,
    },
    /// The archive holds the layers of an image.
    #[error("it is {image}: it holds the layers of an image, not the files of a root file system")]
    Image {
        /// The program that writes such archives.
        image: Image,
    },
    /// The archive takes more than it may.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The tree could not be written.
    #[error("cannot unpack archive entry `{name}`")]
    Write {
        /// The entry's name, escaped.
        name: String,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The DAG could not be kept.
    #[error("cannot import archive entry `{name}`")]
    Keep {
        /// The entry's name, escaped.
        name: String,
        /// What UnixFS says.
        #[source]
        source: Box<UnixfsError>,
    },
    /// The reporter asked to stop.
    #[error("unpacking was interrupted")]
    Interrupted,
}

impl ArchiveError {
    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            ArchiveError::Image { .. } => Some(
                "make an archive of the files of the image: \
                 `docker export $(docker create IMAGE sh) > rootfs.tar`",
            ),
            _ => None,
        }
    }
}

/// What is wrong with a single entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A component is `..`.
    #[error("its path leads out of the tree")]
    LeavesTree,
    /// Nothing is left of the name, and the entry is no directory.
    #[error("it has no name")]
    NoName,
    /// The name holds a NUL byte.
    #[error("its name holds a NUL byte")]
    NulByte,
    /// A component is longer than a file name may be.
    #[error("its name has a part of more than {} bytes", limits::MAX_NAME_BYTES)]
    LongName,
    /// The path is longer than any program could open.
    #[error("its path has more than {} bytes", limits::MAX_SYMLINK_BYTES)]
    LongPath,
    /// The path has too many components.
    #[error("it lies more than {} directories deep", limits::MAX_DIRECTORY_DEPTH)]
    TooDeep,
    /// A component of the path became a symbolic link while it was unpacked.
    #[error("it goes through a symbolic link")]
    ThroughLink,
    /// The symbolic links of the path form a loop, or are too many.
    #[error("it goes through more than {MAX_LINKS} symbolic links")]
    TooManyLinks,
    /// A component of the path is something else than a directory.
    #[error("it goes through an entry that is no directory")]
    ThroughFile,
    /// The target of a symbolic link is empty, too long or holds a NUL byte.
    #[error("its link target is empty, too long or holds a NUL byte")]
    InvalidTarget,
    /// The target of a hard link was not unpacked before.
    #[error("it is a hard link to an entry that is not there")]
    MissingTarget,
    /// The target of a hard link is a directory.
    #[error("it is a hard link to a directory")]
    DirectoryTarget,
    /// The target of a hard link cannot be told for one of the reasons above.
    #[error("it is a hard link to a path outside the tree")]
    TargetOutside,
    /// The hard link would replace the directory that holds its target.
    #[error("it is a hard link in place of the directory that holds its target")]
    TargetReplaced,
    /// The entry has content though its type has none.
    #[error("it has content, which its type cannot have")]
    UnexpectedContent,
    /// The type is known to no tar or not supported.
    #[error("its type is not supported")]
    UnknownType,
    /// The map of a sparse file contradicts itself or its content.
    #[error("its sparse map is malformed")]
    InvalidSparseMap,
    /// The map of a sparse file is too long.
    #[error("its sparse map has more than {} regions", MAX_REGIONS)]
    LongSparseMap,
    /// The names of all directories together are too long.
    #[error(
        "the names of all directories have more than {} bytes",
        MAX_DIRECTORY_BYTES
    )]
    TooManyDirectories,
}
