//! Writing members below a directory.
//!
//! The invariant: every name is created relative to a descriptor of its parent, which was opened
//! beneath the root without passing a link, and with flags that fail where something stands
//! already. Directories stay writable for their owner until [`Placement::finish`], which gives
//! them their modes and times, deepest first.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ipfs_exec_node::budget::Spending;
use ipfs_exec_node::limits;
use ipfs_exec_node::path::escape;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, fchmod, futimens, linkat, mkdirat,
    openat, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::Destination;
use super::bounds::MAX_DIRECTORY_BYTES;
use super::error::{ArchiveError, Refusal};
use super::member::{Members, NO_TIME};
use super::path::EntryPath;
use super::sparse::{Layout, Region};
use crate::beneath;

/// Memory that a directory takes beside its path, in bytes, roughly.
const DIRECTORY_OVERHEAD_BYTES: usize = 64;

/// Mode of directories that no entry describes.
pub(super) const IMPLIED_MODE: u32 = 0o755;

/// What is kept of a file's mode: no set-id, no sticky bit.
pub(super) const FILE_MODE_MASK: u32 = 0o777;

/// What is kept of a directory's mode: no set-id bits.
pub(super) const DIRECTORY_MODE_MASK: u32 = 0o1777;

/// Mode of directories while they are being filled.
const FILLING_MODE: Mode = Mode::RWXU;

pub(super) struct Placement<'d> {
    root: BorrowedFd<'d>,
    spending: &'d Spending<'d>,
    /// The directory that the last entry went to: most entries follow a sibling.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Modes and times still to be set, by path.
    directories: BTreeMap<Vec<u8>, Attributes>,
    directory_bytes: usize,
}

#[derive(Clone, Copy)]
struct Attributes {
    mode: u32,
    mtime: Timespec,
}

const IMPLIED: Attributes = Attributes {
    mode: IMPLIED_MODE,
    mtime: NO_TIME,
};

impl<'d> Placement<'d> {
    pub(super) fn new(root: BorrowedFd<'d>, spending: &'d Spending<'d>) -> Placement<'d> {
        let directories = BTreeMap::from([(Vec::new(), IMPLIED)]);
        Placement {
            root,
            spending,
            parent: None,
            directories,
            directory_bytes: 0,
        }
    }

    /// Gives all directories their modes and times: what lies deeper sorts after its parent.
    pub(super) fn finish(self) -> Result<(), ArchiveError> {
        for (path, attributes) in self.directories.iter().rev() {
            beneath::open_directory(self.root, path)
                .and_then(|directory| {
                    futimens(&directory, &times(attributes.mtime))?;
                    fchmod(&directory, Mode::from_raw_mode(attributes.mode))
                })
                .map_err(|errno| ArchiveError::Write {
                    name: escape(path),
                    source: errno.into(),
                })?;
        }
        Ok(())
    }

    /// The parent and the name of an entry that is no directory.
    fn place<'p>(
        &mut self,
        path: &'p EntryPath,
    ) -> Result<(BorrowedFd<'_>, &'p [u8]), ArchiveError> {
        let (parent, name) = path.split().ok_or_else(|| refused(path, Refusal::NoName))?;
        Ok((self.parent(path, parent)?, name))
    }

    /// The directory `parent`, in which `path` lies; made where it is missing.
    fn parent(&mut self, path: &EntryPath, parent: &[u8]) -> Result<BorrowedFd<'_>, ArchiveError> {
        if self.parent.as_ref().is_none_or(|(last, _)| last != parent) {
            let directory = match beneath::open_directory(self.root, parent) {
                Err(Errno::NOENT) => self.imply(path, parent)?,
                result => result.map_err(|errno| failed(path, errno))?,
            };
            self.parent = Some((parent.to_owned(), directory));
        }
        let (_, directory) = self.parent.as_ref().expect("the parent was set above");
        Ok(directory.as_fd())
    }

    /// Makes the directory `parent` and those above it that are missing.
    fn imply(&mut self, path: &EntryPath, parent: &[u8]) -> Result<OwnedFd, ArchiveError> {
        let fail = |errno| failed(path, errno);
        let mut directory = beneath::open_directory(self.root, b"").map_err(fail)?;
        let mut done = 0;
        for name in parent.split(|byte| *byte == b'/') {
            done += name.len();
            directory = match beneath::open_directory(directory.as_fd(), name) {
                Err(Errno::NOENT) => {
                    self.spending.take_inode(&directory)?;
                    mkdirat(&directory, name, FILLING_MODE).map_err(fail)?;
                    self.describe(path, &parent[..done], IMPLIED)?;
                    beneath::open_directory(directory.as_fd(), name).map_err(fail)?
                }
                result => result.map_err(fail)?,
            };
            done += 1;
        }
        Ok(directory)
    }

    /// Keeps what [`Placement::finish`] sets on `directory`.
    fn describe(
        &mut self,
        path: &EntryPath,
        directory: &[u8],
        attributes: Attributes,
    ) -> Result<(), ArchiveError> {
        if self
            .directories
            .insert(directory.to_owned(), attributes)
            .is_none()
        {
            self.directory_bytes += directory.len() + DIRECTORY_OVERHEAD_BYTES;
        }
        if self.directory_bytes > MAX_DIRECTORY_BYTES {
            return Err(refused(path, Refusal::TooManyDirectories));
        }
        Ok(())
    }
}

impl Destination for Placement<'_> {
    fn directory(
        &mut self,
        path: &EntryPath,
        mode: u32,
        mtime: Timespec,
    ) -> Result<(), ArchiveError> {
        if let Some((parent, name)) = path.split() {
            let fail = |errno| failed(path, errno);
            let spending = self.spending;
            let parent = self.parent(path, parent)?;
            spending.take_inode(parent)?;
            match mkdirat(parent, name, FILLING_MODE) {
                Err(Errno::EXIST) if is_directory(parent, name).map_err(fail)? => {}
                result => result.map_err(fail)?,
            }
        }
        let mode = mode & DIRECTORY_MODE_MASK;
        self.describe(path, path.as_bytes(), Attributes { mode, mtime })
    }

    fn file<R: Read + Send>(
        &mut self,
        path: &EntryPath,
        mode: u32,
        mtime: Timespec,
        layout: &Layout,
        members: &mut Members<'_, R>,
    ) -> Result<(), ArchiveError> {
        let spending = self.spending;
        let (parent, name) = self.place(path)?;
        spending.take_inode(parent)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
        let file = openat(
            parent,
            name,
            flags | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        )
        .map_err(|errno| failed(path, errno))?;
        let mut file = File::from(file);
        for region in &layout.regions {
            copy(path, &mut file, region, members, spending)?;
        }
        if layout.hole_bytes() > 0 {
            file.set_len(layout.size)
                .map_err(|source| unwritten(path, source))?;
        }
        fchmod(&file, Mode::from_raw_mode(mode & FILE_MODE_MASK))
            .and_then(|()| futimens(&file, &times(mtime)))
            .map_err(|errno| failed(path, errno))
    }

    fn symlink(
        &mut self,
        path: &EntryPath,
        target: &[u8],
        mtime: Timespec,
    ) -> Result<(), ArchiveError> {
        if target.is_empty() || target.len() > limits::MAX_SYMLINK_BYTES || target.contains(&0) {
            return Err(refused(path, Refusal::InvalidTarget));
        }
        let spending = self.spending;
        let (parent, name) = self.place(path)?;
        spending.take_inode(parent)?;
        symlinkat(target, parent, name)
            .and_then(|()| utimensat(parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW))
            .map_err(|errno| failed(path, errno))
    }

    fn hard_link(&mut self, path: &EntryPath, target: &[u8]) -> Result<(), ArchiveError> {
        let refuse = |reason| refused(path, reason);
        let target = EntryPath::parse(target).map_err(|_| refuse(Refusal::TargetOutside))?;
        let (target_parent, target_name) =
            target.split().ok_or(refuse(Refusal::DirectoryTarget))?;
        let target_parent =
            beneath::open_directory(self.root, target_parent).map_err(|errno| match errno {
                Errno::NOENT | Errno::NOTDIR => refuse(Refusal::MissingTarget),
                Errno::LOOP => refuse(Refusal::TargetOutside),
                errno => failed(path, errno),
            })?;
        match is_directory(target_parent.as_fd(), target_name) {
            Ok(false) => {}
            Ok(true) => return Err(refuse(Refusal::DirectoryTarget)),
            Err(Errno::NOENT) => return Err(refuse(Refusal::MissingTarget)),
            Err(errno) => return Err(failed(path, errno)),
        }
        let (parent, name) = self.place(path)?;
        linkat(target_parent, target_name, parent, name, AtFlags::empty())
            .map_err(|errno| failed(path, errno))
    }
}

/// Copies one region of the current member.
fn copy<R: Read>(
    path: &EntryPath,
    file: &mut File,
    region: &Region,
    members: &mut Members<'_, R>,
    spending: &Spending<'_>,
) -> Result<(), ArchiveError> {
    if region.offset > 0 {
        file.seek(SeekFrom::Start(region.offset))
            .map_err(|source| unwritten(path, source))?;
    }
    let mut left = region.length;
    while left > 0 {
        let part = members.content(left)?;
        let length = part.len();
        spending.take_disk(&*file, length as u64)?;
        file.write_all(part)
            .map_err(|source| unwritten(path, source))?;
        members.take_content(length);
        left -= length as u64;
    }
    Ok(())
}

fn is_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Errno> {
    let status = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(status.st_mode) == FileType::Directory)
}

fn times(mtime: Timespec) -> Timestamps {
    Timestamps {
        last_access: mtime,
        last_modification: mtime,
    }
}

pub(super) fn refused(path: &EntryPath, reason: Refusal) -> ArchiveError {
    ArchiveError::Refused {
        name: escape(path.as_bytes()),
        reason,
    }
}

fn unwritten(path: &EntryPath, source: std::io::Error) -> ArchiveError {
    ArchiveError::Write {
        name: escape(path.as_bytes()),
        source,
    }
}

/// What it means that a name could not be made.
fn failed(path: &EntryPath, errno: Errno) -> ArchiveError {
    match errno {
        Errno::EXIST => refused(path, Refusal::Collision),
        Errno::LOOP => refused(path, Refusal::ThroughLink),
        Errno::NOTDIR => refused(path, Refusal::ThroughFile),
        errno => unwritten(path, errno.into()),
    }
}
