//! A tree on disk as files of a mount: read-only, sorted, and with inodes of the mount's own.
//!
//! It shows an unpacked root file system where no overlay can. The invariant: whatever is opened is found
//! below the top of the tree, by descriptor and never through a link. The tree does not change while it is
//! shown, so that what was read once stays true.
//!
//! Attributes are those that an overlay shows, so that a program cannot tell the two apart by them: modes
//! without set-id bits, user 0, the times of the archive, and the space that the disk takes. The top looks
//! as that of an overlay whose upper layer is an empty `tmpfs`.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ipfs_exec_node::Cancel;
use ipfs_exec_node::limits::MAX_NAME_BYTES;
use ipfs_exec_node::path::escape;
use rustix::fs::{AtFlags, FileType, Stat, fstat, readlinkat, statat};
use rustix::io::{Errno, pread};

use super::files::{
    DIRECTORY_MODE_MASK, FILE_MODE_MASK, Failure, Files, LINK_MODE, MAX_NODES_LISTED,
    TYPE_DIRECTORY, TYPE_FILE, TYPE_LINK, TYPES, lock,
};
use super::inodes::{self, Body, Inode, Inodes};
use super::lru::Lru;
use super::names::{Name, Names};
use super::protocol::{Attributes, Listed, ListedEntry};
use crate::beneath;
use crate::layout::MOUNT_POINTS;
use crate::process::open_with_all_rights;

/// Files that are kept open, and as many directories.
const MAX_OPEN: usize = 64;

/// Memory of the names of directories, in bytes.
const NAMES_BYTES: usize = 16 << 20;

/// Size of an empty directory of a `tmpfs`, and what an entry adds to it.
const TOP_BYTES: u64 = 40;
const TOP_ENTRY_BYTES: u64 = 20;

/// Mode of the empty file that hides a directory.
const COVER_MODE: u32 = 0o444;

/// Entries that every listing begins with: `.` and `..`.
const OWN_ENTRIES: u64 = 2;

/// A tree to show.
#[derive(Debug)]
pub(crate) struct Tree {
    /// The top.
    pub(crate) directory: OwnedFd,
    /// The name of the tree in errors.
    pub(crate) name: String,
    /// Bytes of all that is in it.
    pub(crate) bytes: u64,
    /// The directory of the top in whose place an empty file is shown, to mount a file on.
    pub(crate) covered: Option<&'static str>,
}

/// The files of a directory on disk, as the FUSE server asks for them.
pub(super) struct Local {
    tree: Tree,
    inodes: Inodes,
    /// By path, as are the next two.
    directories: Mutex<Lru<Vec<u8>, Arc<OwnedFd>>>,
    files: Mutex<Lru<Vec<u8>, Arc<OwnedFd>>>,
    names: Mutex<Lru<Vec<u8>, Arc<Names>>>,
    /// Held while names are read: one directory at a time, which bounds the memory that this takes.
    reading_names: Mutex<()>,
    /// Cancelled when the mount is no longer served.
    ended: Cancel,
    failure: Mutex<Option<Failure>>,
}

impl Local {
    /// Looks at the top alone.
    pub(super) fn new(tree: Tree, ended: Cancel) -> Result<Local, Errno> {
        let covers = u64::from(tree.covered.is_some());
        let top = Attributes {
            size: TOP_BYTES + covers * TOP_ENTRY_BYTES,
            sectors: 0,
            links: 1,
            ..attributes_of(&fstat(&tree.directory)?)
        };
        Ok(Local {
            tree,
            inodes: Inodes::new(Body::OnDisk, top),
            directories: Mutex::new(Lru::new(MAX_OPEN)),
            files: Mutex::new(Lru::new(MAX_OPEN)),
            names: Mutex::new(Lru::new(NAMES_BYTES)),
            reading_names: Mutex::default(),
            ended,
            failure: Mutex::default(),
        })
    }

    /// The error that a program gets. A failure of the disk is remembered.
    fn failed(&self, path: &[u8], errno: Errno) -> Errno {
        if matches!(errno, Errno::NOTDIR | Errno::INVAL | Errno::INTR) {
            return errno;
        }
        let failure = Failure {
            root: self.tree.name.clone(),
            path: escape(path),
            source: std::io::Error::from(errno).into(),
        };
        tracing::info!(error = %failure, cause = %failure.source, "a read has failed");
        lock(&self.failure).get_or_insert(failure);
        Errno::IO
    }

    fn is_covered(&self, directory: &Inode, name: &[u8]) -> bool {
        let covered = self.tree.covered.map(str::as_bytes);
        directory.parent.is_none() && covered == Some(name)
    }

    /// A descriptor of a directory, by which its entries are found.
    fn directory(&self, inode: &Inode) -> Result<Arc<OwnedFd>, Errno> {
        let path = if inode.parent.is_some() {
            inode.path()
        } else {
            b".".to_vec()
        };
        if let Some(directory) = lock(&self.directories).get(&path) {
            return Ok(Arc::clone(directory));
        }
        let opened = beneath::look_up_without_links(self.tree.directory.as_fd(), &path)?;
        let directory = Arc::new(opened);
        lock(&self.directories).insert(path, Arc::clone(&directory), 1);
        Ok(directory)
    }

    /// A descriptor of a file, to read from.
    fn file(&self, inode: &Inode) -> Result<Arc<OwnedFd>, Errno> {
        let path = inode.path();
        if let Some(file) = lock(&self.files).get(&path) {
            return Ok(Arc::clone(file));
        }
        let parent = inode.parent.as_ref().ok_or(Errno::ISDIR)?;
        let directory = self.directory(parent)?;
        let open = || beneath::open_file(directory.as_fd(), &inode.name);
        let opened = match open() {
            // A program may execute a file that even its owner may not read.
            Err(Errno::ACCESS) => {
                let opened = open_with_all_rights(|| Ok(open()?));
                opened.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::ACCESS))?
            }
            opened => opened?,
        };
        let file = Arc::new(opened);
        lock(&self.files).insert(path, Arc::clone(&file), 1);
        Ok(file)
    }

    /// The node of an entry, to which the kernel gets a reference more.
    fn enter(&self, directory: &Arc<Inode>, name: &[u8]) -> Result<Arc<Inode>, Errno> {
        let (body, attributes) = if self.is_covered(directory, name) {
            (Body::MountPoint, cover())
        } else {
            let parent = self.directory(directory)?;
            let status = statat(&*parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            (Body::OnDisk, attributes_of(&status))
        };
        Ok(self.inodes.enter(directory, name, body, attributes))
    }

    fn read_all(&self, inode: &Inode, range: &Range<u64>) -> Result<Vec<u8>, Errno> {
        let end = range.end.min(inode.attributes.size);
        let length = end.saturating_sub(range.start);
        if length == 0 {
            return Ok(Vec::new());
        }
        let file = self.file(inode)?;
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| Errno::INVAL)?];
        let mut filled = 0;
        while filled < bytes.len() {
            match pread(&*file, &mut bytes[filled..], range.start + filled as u64) {
                // It is shorter than it was when the mount began.
                Ok(0) => return Err(Errno::IO),
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(bytes)
    }

    /// The part of the names of a directory in which the name with this number is, or the last one.
    fn names(&self, directory: &Inode, number: u64) -> Result<Arc<Names>, Errno> {
        let path = directory.path();
        let kept = || lock(&self.names).get(&path).map(Arc::clone);
        if let Some(names) = kept().filter(|names| names.decides(number)) {
            return Ok(names);
        }
        let _reading = lock(&self.reading_names);
        let mut part = kept().filter(|names| names.is_before(number));
        loop {
            match part {
                Some(names) if names.decides(number) => return Ok(names),
                _ if self.ended.is_cancelled() => return Err(Errno::INTR),
                before => {
                    let top = self.tree.directory.as_fd();
                    let opened = beneath::open_directory(top, &path)?;
                    let names = Arc::new(Names::read(opened, before.as_deref())?);
                    let memory = names.memory + path.len();
                    lock(&self.names).insert(path.clone(), Arc::clone(&names), memory);
                    part = Some(names);
                }
            }
        }
    }

    fn list_some(&self, directory: &Arc<Inode>, offset: u64, part: &mut Part) -> Result<(), Errno> {
        let own: [(&[u8], u64); OWN_ENTRIES as usize] =
            [(b".", directory.number), (b"..", directory.parent_number())];
        let mut at = offset;
        for (name, number) in own
            .into_iter()
            .skip(usize::try_from(at).unwrap_or(usize::MAX))
        {
            at += 1;
            if !part.has_room(name) {
                return Ok(());
            }
            let entry = ListedEntry {
                inode: number,
                offset: at,
                kind: TYPE_DIRECTORY,
                name,
            };
            part.push(entry, None);
        }
        loop {
            let names = self.names(directory, at - OWN_ENTRIES)?;
            for name in names.from(at - OWN_ENTRIES) {
                at += 1;
                if !part.has_room(&name.bytes) {
                    return Ok(());
                }
                self.put(directory, name, at, part);
            }
            if names.is_end {
                return Ok(());
            }
        }
    }

    fn put(&self, directory: &Arc<Inode>, name: &Name, offset: u64, part: &mut Part) {
        let may_enter = part.with_nodes && self.inodes.len() < MAX_NODES_LISTED;
        let node = may_enter.then(|| self.enter(directory, &name.bytes));
        let node = node.and_then(|node| {
            // The kernel asks again, and is told the error.
            node.inspect_err(|errno| tracing::debug!(%errno, "an entry is listed without its node"))
                .ok()
        });
        let entry = ListedEntry {
            inode: node.as_ref().map_or_else(
                || inodes::number_of(directory.number, &name.bytes),
                |node| node.number,
            ),
            offset,
            kind: if self.is_covered(directory, &name.bytes) {
                TYPE_FILE
            } else {
                name.kind
            },
            name: &name.bytes,
        };
        part.push(entry, node);
    }
}

/// A part of a listing.
struct Part {
    listed: Listed,
    with_nodes: bool,
    /// Numbers of the nodes that the kernel gets.
    entered: Vec<u64>,
}

impl Part {
    fn has_room(&self, name: &[u8]) -> bool {
        Listed::length(name, self.with_nodes) <= self.listed.room()
    }

    fn push(&mut self, entry: ListedEntry<'_>, node: Option<Arc<Inode>>) {
        if self.with_nodes {
            let number = node.as_ref().map_or(0, |node| node.number);
            let attributes = node.as_ref().map(|node| &node.attributes);
            self.listed.push_node(entry, number, attributes);
        } else {
            self.listed.push(entry);
        }
        self.entered.extend(node.map(|node| node.number));
    }
}

impl Files for Local {
    fn inodes(&self) -> &Inodes {
        &self.inodes
    }

    fn entry(&self, parent: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>, Errno> {
        if name.len() > MAX_NAME_BYTES {
            return Err(Errno::NAMETOOLONG);
        }
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return Err(Errno::INVAL);
        }
        match self.enter(parent, name) {
            Ok(inode) => Ok(Some(inode)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed(&parent.path_of(name), errno)),
        }
    }

    fn read_link(&self, number: u64) -> Result<Vec<u8>, Errno> {
        let inode = self.inode(number)?;
        let parent = inode.parent.as_ref().ok_or(Errno::INVAL)?;
        let target = self
            .directory(parent)
            .and_then(|directory| readlinkat(&*directory, &*inode.name, Vec::new()));
        match target {
            Ok(target) => Ok(target.into_bytes()),
            Err(errno) => Err(self.failed(&inode.path(), errno)),
        }
    }

    fn read(&self, number: u64, range: Range<u64>) -> Result<Vec<Bytes>, Errno> {
        let inode = self.inode(number)?;
        match self.read_all(&inode, &range) {
            Ok(bytes) => Ok(vec![bytes.into()]),
            Err(errno) => Err(self.failed(&inode.path(), errno)),
        }
    }

    fn list(
        &self,
        number: u64,
        offset: u64,
        size: u32,
        with_nodes: bool,
    ) -> Result<(Vec<u8>, Vec<u64>), Errno> {
        let directory = self.inode(number)?;
        let mut part = Part {
            listed: Listed::new(size),
            with_nodes,
            entered: Vec::new(),
        };
        match self.list_some(&directory, offset, &mut part) {
            Ok(()) => Ok((part.listed.into_bytes(), part.entered)),
            Err(errno) => {
                // The kernel never learns of these.
                for number in part.entered {
                    self.forget(number, 1);
                }
                Err(self.failed(&directory.path(), errno))
            }
        }
    }

    fn bytes(&self) -> u64 {
        self.tree.bytes
    }

    fn carries_mount(&self, inode: &Inode) -> bool {
        let mut points = MOUNT_POINTS.iter();
        inode.depth == 1 && points.any(|point| *point.as_bytes() == *inode.name)
    }

    fn end(&self) {
        self.inodes.end();
    }

    fn take_failure(&self) -> Option<Failure> {
        lock(&self.failure).take()
    }
}

/// The empty file that hides a directory.
fn cover() -> Attributes {
    Attributes {
        inode: 0,
        size: 0,
        sectors: 0,
        links: 1,
        mtime: (0, 0),
        mode: TYPE_FILE | COVER_MODE,
        uid: 0,
        gid: 0,
    }
}

fn attributes_of(status: &Stat) -> Attributes {
    let mode = match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory => TYPE_DIRECTORY | status.st_mode & DIRECTORY_MODE_MASK,
        FileType::Symlink => TYPE_LINK | LINK_MODE,
        _ => status.st_mode & (TYPES | FILE_MODE_MASK),
    };
    Attributes {
        inode: 0,
        size: status.st_size.cast_unsigned(),
        sectors: status.st_blocks.cast_unsigned(),
        links: status.st_nlink as u32,
        mtime: (status.st_mtime, status.st_mtime_nsec as u32),
        mode,
        uid: 0,
        gid: 0,
    }
}

#[cfg(test)]
mod tests;
