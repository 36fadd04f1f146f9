//! Writing members below a directory.
//!
//! The invariant: every name is created relative to a descriptor of its parent, which was opened
//! beneath the root without passing a link, and with flags that fail where something stands
//! already. Links of the archive are resolved before, to a path without links ([`follow`]). What stands
//! at the path of a later entry is removed first, so that nothing is written through a hard link.
//! Directories stay writable for their owner until [`TreeWriter::finish`], which gives them their modes
//! and times, deepest first.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use ipfs_exec_node::budget::Spending;
use ipfs_exec_node::path::escape;
use ipfs_exec_node::tree;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, fchmod, futimens, linkat, mkdirat,
    openat, readlinkat, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::Destination;
use super::bounds::MAX_DIRECTORY_BYTES;
use super::error::{ArchiveError, Refusal};
use super::follow::{self, Standing, Tree, follow};
use super::member::{Members, NO_TIME};
use super::path::{self, EntryPath};
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

pub(super) struct TreeWriter<'d> {
    root: BorrowedFd<'d>,
    spending: &'d Spending<'d>,
    /// The directory that the last entry went to, by its path in the archive: most entries follow a
    /// sibling.
    parent: Option<(Vec<u8>, Parent)>,
    /// Modes and times still to be set, by path.
    directories: BTreeMap<Vec<u8>, Attributes>,
    directory_bytes: usize,
}

/// A directory in which entries are made.
#[derive(Clone)]
struct Parent {
    /// Without links.
    path: EntryPath,
    directory: Rc<OwnedFd>,
}

/// Where an entry is made.
struct Spot<'p> {
    directory: Rc<OwnedFd>,
    name: &'p [u8],
    /// Its path, without links.
    path: EntryPath,
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

impl<'d> TreeWriter<'d> {
    pub(super) fn new(root: BorrowedFd<'d>, spending: &'d Spending<'d>) -> TreeWriter<'d> {
        let directories = BTreeMap::from([(Vec::new(), IMPLIED)]);
        TreeWriter {
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

    /// Where the entry `path` is made; directories on the way are made where they are missing.
    fn spot<'p>(&mut self, path: &'p EntryPath) -> Result<Spot<'p>, ArchiveError> {
        let (parent, name) = path.split().ok_or_else(|| path.refused(Refusal::NoName))?;
        let parent = self.parent(path, parent)?;
        Ok(Spot {
            path: parent
                .path
                .join(name)
                .map_err(|reason| path.refused(reason))?,
            directory: parent.directory,
            name,
        })
    }

    /// The directory `parent`, in which `path` lies; made where it is missing.
    fn parent(&mut self, path: &EntryPath, parent: &[u8]) -> Result<Parent, ArchiveError> {
        if let Some((last, found)) = &self.parent
            && last == parent
        {
            return Ok(found.clone());
        }
        let found = match beneath::open_directory(self.root, parent) {
            Err(Errno::NOENT | Errno::LOOP) => {
                let parent = follow(self, parent).map_err(|stray| stray.of(path))?;
                let directory = Rc::new(self.imply(path, parent.as_bytes())?);
                Parent {
                    path: parent,
                    directory,
                }
            }
            result => Parent {
                path: EntryPath::parse(parent).map_err(|reason| path.refused(reason))?,
                directory: Rc::new(result.map_err(|errno| failed(path, errno))?),
            },
        };
        self.parent = Some((parent.to_owned(), found.clone()));
        Ok(found)
    }

    /// Opens the directory `parent`, a path without links. Makes it, and those above it, where they are
    /// missing.
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

    /// Makes an entry by `make`, after what an earlier entry left in its place is removed.
    fn make<T>(
        &mut self,
        path: &EntryPath,
        spot: &Spot<'_>,
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, ArchiveError> {
        let make = || make(spot.directory.as_fd(), spot.name);
        match make() {
            Err(Errno::EXIST) => {
                self.remove(path, spot)?;
                make()
            }
            result => result,
        }
        .map_err(|errno| failed(path, errno))
    }

    /// Removes what an earlier entry left. The work is that of making it, at most.
    fn remove(&mut self, path: &EntryPath, spot: &Spot<'_>) -> Result<(), ArchiveError> {
        tree::remove_tree(spot.directory.as_fd(), spot.name)
            .map_err(|error| path.unwritten(io::Error::other(error)))?;
        // It may have been a directory on the way to the last entry.
        self.parent = None;
        let gone = self.directories.range(path::below(spot.path.as_bytes()));
        let gone = gone.map(|(path, _)| path.clone());
        for directory in gone
            .chain([spot.path.as_bytes().to_vec()])
            .collect::<Vec<_>>()
        {
            if self.directories.remove(&directory).is_some() {
                self.directory_bytes -= directory.len() + DIRECTORY_OVERHEAD_BYTES;
            }
        }
        Ok(())
    }

    /// Memory that the directories take, in bytes, roughly.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.directory_bytes
    }

    /// Keeps what [`TreeWriter::finish`] sets on `directory`.
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
            return Err(path.refused(Refusal::TooManyDirectories));
        }
        Ok(())
    }
}

impl Destination for TreeWriter<'_> {
    fn directory(
        &mut self,
        path: &EntryPath,
        mode: u32,
        mtime: Timespec,
    ) -> Result<(), ArchiveError> {
        let attributes = Attributes {
            mode: mode & DIRECTORY_MODE_MASK,
            mtime,
        };
        if path.split().is_none() {
            return self.describe(path, b"", attributes);
        }
        let spot = self.spot(path)?;
        self.spending.take_inode(&*spot.directory)?;
        self.make(path, &spot, |parent, name| {
            match mkdirat(parent, name, FILLING_MODE) {
                Err(Errno::EXIST) if is_directory(parent, name)? => Ok(()),
                result => result,
            }
        })?;
        self.describe(path, spot.path.as_bytes(), attributes)
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
        let spot = self.spot(path)?;
        spending.take_inode(&*spot.directory)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
        let file = self.make(path, &spot, |parent, name| {
            let mode = Mode::RUSR | Mode::WUSR;
            openat(parent, name, flags | OFlags::CLOEXEC, mode)
        })?;
        let mut file = File::from(file);
        for region in &layout.regions {
            copy(path, &mut file, region, members, spending)?;
        }
        if layout.hole_bytes() > 0 {
            file.set_len(layout.size)
                .map_err(|source| path.unwritten(source))?;
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
        path.check_target(target)?;
        let spot = self.spot(path)?;
        self.spending.take_inode(&*spot.directory)?;
        self.make(path, &spot, |parent, name| {
            symlinkat(target, parent, name)?;
            utimensat(parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    fn hard_link(&mut self, path: &EntryPath, target: &[u8]) -> Result<(), ArchiveError> {
        let target = follow::target(self, target).map_err(|stray| stray.of(path))?;
        let refuse = |reason| path.refused(reason);
        let (parent, name) = target.split().ok_or(refuse(Refusal::DirectoryTarget))?;
        let parent = beneath::open_directory(self.root, parent).map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR => refuse(Refusal::MissingTarget),
            errno => failed(path, errno),
        })?;
        match is_directory(parent.as_fd(), name) {
            Ok(false) => {}
            Ok(true) => return Err(refuse(Refusal::DirectoryTarget)),
            Err(Errno::NOENT) => return Err(refuse(Refusal::MissingTarget)),
            Err(errno) => return Err(failed(path, errno)),
        }
        let spot = self.spot(path)?;
        if spot.path == target {
            return Ok(());
        }
        if target.is_below(&spot.path) {
            return Err(refuse(Refusal::TargetReplaced));
        }
        self.make(path, &spot, |place, own| {
            linkat(&parent, name, place, own, AtFlags::empty())
        })
    }
}

impl Tree for TreeWriter<'_> {
    fn look(&self, path: &[u8]) -> Result<Standing, Errno> {
        let status = match statat(self.root, path, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Standing::Nothing),
            Err(Errno::NOTDIR) => return Ok(Standing::Other),
            status => status?,
        };
        Ok(match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => Standing::Directory,
            FileType::Symlink => {
                Standing::Link(readlinkat(self.root, path, Vec::new())?.into_bytes())
            }
            _ => Standing::Other,
        })
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
            .map_err(|source| path.unwritten(source))?;
    }
    let mut left = region.length;
    while left > 0 {
        let part = members.content(left)?;
        let length = part.len();
        spending.take_disk(&*file, length as u64)?;
        file.write_all(part)
            .map_err(|source| path.unwritten(source))?;
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

/// What it means that a name could not be made.
fn failed(path: &EntryPath, errno: Errno) -> ArchiveError {
    match errno {
        Errno::LOOP => path.refused(Refusal::ThroughLink),
        Errno::NOTDIR => path.refused(Refusal::ThroughFile),
        errno => path.unwritten(errno.into()),
    }
}
