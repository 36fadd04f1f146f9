//! Reading tar archives that nobody vouches for.
//!
//! [`unpack`] writes below one directory and nowhere else. Nothing that it makes belongs to
//! somebody else, has a set-id bit, or is a device. What an archive may not contain is refused
//! with the entry's name; nothing is repaired, because two readers that repair differently see two
//! different trees.
//!
//! ```text
//! bytes -> compression -> stream -> members -> placement
//!          told by the    counted   headers    below a
//!          first bytes    bounded   joined     descriptor
//! ```
//!
//! [`import`] makes a UnixFS directory of the same members, by `planting` in place of `placement`.
//!
//! What is left when unpacking fails is the caller's to remove.

mod bounds;
mod compression;
mod error;
mod member;
mod path;
mod pax;
mod placement;
mod planting;
mod record;
mod sparse;
mod stream;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io::Read;
use std::os::fd::BorrowedFd;

use ipfs_exec_node::block::Blocks;
use ipfs_exec_node::path::escape;
use ipfs_exec_node::profile::Profile;
use ipfs_exec_node::progress::{Event, Reporter};
use ipfs_exec_node::unixfs::Imported;
use rustix::fs::Timespec;
use serde::{Deserialize, Serialize};

pub use error::{ArchiveError, Refusal};

use member::{Member, MemberKind, Members};
use path::EntryPath;
use placement::Placement;
use planting::Planting;
use sparse::Layout;
use stream::Stream;

/// Bounds on one archive.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct UnpackOptions {
    /// Most bytes of the decompressed archive, headers, padding and skipped entries included, plus
    /// the holes of sparse files.
    pub max_bytes: u64,
    /// Most entries.
    pub max_entries: u64,
}

impl UnpackOptions {
    /// 16 GiB: several times the largest images that people run.
    pub const DEFAULT_MAX_BYTES: u64 = 16 << 30;

    /// 4 million: ten times the files of a full desktop system; more would be made to exhaust
    /// inodes.
    pub const DEFAULT_MAX_ENTRIES: u64 = 4_000_000;
}

impl Default for UnpackOptions {
    fn default() -> UnpackOptions {
        UnpackOptions {
            max_bytes: UnpackOptions::DEFAULT_MAX_BYTES,
            max_entries: UnpackOptions::DEFAULT_MAX_ENTRIES,
        }
    }
}

/// What an archive held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Unpacked {
    /// Entries, skipped ones included.
    pub entries: u64,
    /// Bytes, counted as [`UnpackOptions::max_bytes`] counts them.
    pub bytes: u64,
    /// What was left out: the first [`Unpacked::MAX_WARNINGS`] of it.
    pub warnings: Vec<Warning>,
    /// How many further warnings there were.
    pub more_warnings: u64,
}

impl Unpacked {
    /// Most warnings kept: more than anybody reads, and few enough to store.
    pub const MAX_WARNINGS: usize = 100;

    fn warn(&mut self, warning: Warning) {
        if self.warnings.len() < Unpacked::MAX_WARNINGS {
            self.warnings.push(warning);
        } else {
            self.more_warnings += 1;
        }
    }
}

/// An entry that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Warning {
    /// The entry's name, escaped.
    pub name: String,
    /// What it is, with its article.
    pub kind: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "skipped `{}` of the rootfs archive: it is {}",
            self.name, self.kind
        )
    }
}

/// Unpacks `archive` below `directory`, which is empty.
///
/// Owners are dropped, set-id bits cleared, other mode bits and modification times kept.
/// Directories that the archive implies get mode 0755 and time 0. Reports an
/// [`Event::Entry`] for each entry.
///
/// # Errors
/// [`ArchiveError`]; what was unpacked so far stays.
pub fn unpack(
    archive: impl Read + Send,
    directory: BorrowedFd<'_>,
    options: &UnpackOptions,
    reporter: &dyn Reporter,
) -> Result<Unpacked, ArchiveError> {
    let mut placement = Placement::new(directory);
    let unpacked = place_all(archive, &mut placement, options, reporter)?;
    placement.finish()?;
    Ok(unpacked)
}

/// Imports the tree in `archive` as a UnixFS directory, without unpacking it to disk. Modes and times
/// are recorded as [`unpack`] would set them, so that the directory, mounted, shows the same.
///
/// # Errors
/// [`ArchiveError`]; blocks of what was imported so far may stay.
pub fn import(
    archive: impl Read + Send,
    blocks: &dyn Blocks,
    profile: &Profile,
    options: &UnpackOptions,
    reporter: &dyn Reporter,
) -> Result<(Imported, Unpacked), ArchiveError> {
    let mut planting = Planting::new(blocks, profile, reporter);
    let unpacked = place_all(archive, &mut planting, options, reporter)?;
    Ok((planting.finish()?, unpacked))
}

/// Where members go. All refuse names that stand already, and paths through anything but
/// directories.
trait Destination {
    /// Makes a directory, or describes one that is there.
    fn directory(
        &mut self,
        path: &EntryPath,
        mode: u32,
        mtime: Timespec,
    ) -> Result<(), ArchiveError>;

    /// Makes a file with the content of the current member.
    fn file<R: Read + Send>(
        &mut self,
        path: &EntryPath,
        mode: u32,
        mtime: Timespec,
        layout: &Layout,
        members: &mut Members<'_, R>,
    ) -> Result<(), ArchiveError>;

    /// Makes a symbolic link. Its target is nobody's business but the sandbox's.
    fn symlink(
        &mut self,
        path: &EntryPath,
        target: &[u8],
        mtime: Timespec,
    ) -> Result<(), ArchiveError>;

    /// Gives a file or symbolic link that was unpacked a second name.
    fn hard_link(&mut self, path: &EntryPath, target: &[u8]) -> Result<(), ArchiveError>;
}

fn place_all(
    archive: impl Read + Send,
    destination: &mut impl Destination,
    options: &UnpackOptions,
    reporter: &dyn Reporter,
) -> Result<Unpacked, ArchiveError> {
    let reader = compression::decompress(archive)?;
    let mut members = Members::new(Stream::new(reader, options.max_bytes, reporter));
    let mut unpacked = Unpacked::default();
    while let Some(member) = members.next()? {
        unpacked.entries += 1;
        if unpacked.entries > options.max_entries {
            return Err(ArchiveError::TooLarge {
                limit: options.max_entries,
                unit: "entries",
            });
        }
        place(&member, &mut members, destination, &mut unpacked)?;
        reporter.report(Event::Entry);
    }
    unpacked.bytes = members.finish()?;
    Ok(unpacked)
}

fn place<R: Read + Send>(
    member: &Member,
    members: &mut Members<'_, R>,
    destination: &mut impl Destination,
    unpacked: &mut Unpacked,
) -> Result<(), ArchiveError> {
    let path = EntryPath::new(&member.path)?;
    let (mode, mtime) = (member.mode, member.mtime);
    match &member.kind {
        MemberKind::Directory => destination.directory(&path, mode, mtime),
        MemberKind::File(layout) => destination.file(&path, mode, mtime, layout, members),
        MemberKind::Symlink { target } => destination.symlink(&path, target, mtime),
        MemberKind::HardLink { target } => destination.hard_link(&path, target),
        MemberKind::Special(kind) => {
            unpacked.warn(Warning {
                name: escape(&member.path),
                kind: (*kind).to_owned(),
            });
            Ok(())
        }
    }
}
