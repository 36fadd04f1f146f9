//! Reading tar archives from untrusted sources.
//!
//! [`unpack`] writes below one directory and nowhere else. No file that it makes belongs to another user, has
//! a set-id bit, or is a device. It refuses an entry that leads out of the tree, and the error names the
//! entry. It reads the archives that tar and containerd accept in the same way as they do: the last of
//! several entries with one path counts. A path through a symbolic link of the archive leads to the same
//! place as for a process whose root directory is the tree.
//!
//! ```text
//! bytes -> compression -> stream -> members -> tree_writer
//!          told by the    counted   headers    below a
//!          first bytes    bounded   joined     descriptor
//! ```
//!
//! [`import`] makes a UnixFS directory of the same members, by `dag_writer` in place of `tree_writer`.
//!
//! If unpacking fails, the caller removes the files that are already there.

mod bounds;
mod compression;
mod dag_writer;
mod error;
mod follow;
mod image;
mod member;
mod path;
mod pax;
mod peek;
mod record;
mod sparse;
mod stream;
mod tree_writer;
mod warning;

#[cfg(test)]
mod tests;

use std::io::Read;
use std::os::fd::BorrowedFd;

use ipfs_exec_node::block::WriteBlocks;
use ipfs_exec_node::budget::{Budget, Spending};
use ipfs_exec_node::profile::Profile;
use ipfs_exec_node::progress::{Event, Reporter};
use ipfs_exec_node::unixfs::Imported;
use rustix::fs::Timespec;

pub use error::{ArchiveError, Refusal};
pub use image::Image;
pub use warning::{Unpacked, Warning};

use dag_writer::DagWriter;
use image::Marks;
use member::{Member, MemberKind, Members};
use path::EntryPath;
use sparse::Layout;
use stream::Stream;
use tree_writer::TreeWriter;

/// What one archive may take, unless the caller says otherwise. Bytes are those of the decompressed
/// archive, headers, padding and skipped entries included, plus the holes of sparse files.
///
/// 16 GiB are several times the largest images that people run. 4 million entries are ten times the files
/// of a full desktop system; directories that the archive implies take further inodes.
pub const DEFAULT_BUDGET: Budget = Budget {
    max_bytes: 16 << 30,
    max_entries: 4_000_000,
    max_inodes: 5_000_000,
    ..Budget::UNLIMITED
};

/// Unpacks `archive` below `directory`, which is empty.
///
/// Owners are dropped, set-id bits cleared, other mode bits and modification times kept.
/// Directories that the archive implies get mode 0755 and time 0. Reports an
/// [`Event::Entry`] for each entry.
///
/// # Errors
/// [`ArchiveError`], [`ArchiveError::Budget`] when it takes more than it may; what was unpacked so far
/// stays.
pub fn unpack(
    archive: impl Read + Send,
    directory: BorrowedFd<'_>,
    budget: &Budget,
    reporter: &dyn Reporter,
) -> Result<Unpacked, ArchiveError> {
    let spending = Spending::new(budget);
    let mut tree_writer = TreeWriter::new(directory, &spending);
    let unpacked = place_all(archive, &mut tree_writer, &spending, reporter)?;
    tree_writer.finish()?;
    Ok(unpacked)
}

/// Imports the tree in `archive` as a UnixFS directory, without unpacking it to disk. Modes and times
/// are recorded as [`unpack`] would set them, so that the directory, mounted, shows the same.
///
/// # Errors
/// [`ArchiveError`]; blocks of what was imported so far may stay.
pub fn import(
    archive: impl Read + Send,
    blocks: &dyn WriteBlocks,
    profile: &Profile,
    budget: &Budget,
    reporter: &dyn Reporter,
) -> Result<(Imported, Unpacked), ArchiveError> {
    let spending = Spending::new(budget);
    let mut dag_writer = DagWriter::new(blocks, profile, budget, reporter);
    let unpacked = place_all(archive, &mut dag_writer, &spending, reporter)?;
    Ok((dag_writer.finish()?, unpacked))
}

/// Where members go. Links of the archive are followed on the way to a member, inside the tree; what
/// stands in the place of a member is replaced, unless both are directories.
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
    spending: &Spending<'_>,
    reporter: &dyn Reporter,
) -> Result<Unpacked, ArchiveError> {
    let reader = compression::decompress(archive)?;
    let mut members = Members::new(Stream::new(reader, spending, reporter));
    let mut unpacked = Unpacked::default();
    let mut marks = Marks::default();
    while let Some(member) = members.next()? {
        spending.take_entry()?;
        place(
            &member,
            &mut members,
            destination,
            &mut unpacked,
            &mut marks,
        )?;
        reporter.report(Event::Entry);
    }
    if let Some(image) = marks.image() {
        return Err(ArchiveError::Image { image });
    }
    let reader;
    (unpacked.bytes, reader) = members.finish()?;
    if reader.has_trailing_bytes() {
        unpacked.warn(Warning::trailing_bytes(reader.format()));
    }
    unpacked.entries = spending.entries();
    Ok(unpacked)
}

fn place<R: Read + Send>(
    member: &Member,
    members: &mut Members<'_, R>,
    destination: &mut impl Destination,
    unpacked: &mut Unpacked,
    marks: &mut Marks,
) -> Result<(), ArchiveError> {
    let path = EntryPath::new(&member.path)?;
    marks.note(path.as_bytes());
    let (mode, mtime) = (member.mode, member.mtime);
    match &member.kind {
        MemberKind::Directory => destination.directory(&path, mode, mtime),
        MemberKind::File(layout) => destination.file(&path, mode, mtime, layout, members),
        MemberKind::Symlink { target } => destination.symlink(&path, target, mtime),
        MemberKind::HardLink { target } => destination.hard_link(&path, target),
        MemberKind::Special(kind) => {
            unpacked.warn(Warning::skipped(&member.path, kind));
            Ok(())
        }
    }
}
