//! A DAG as a tree of files: what each request of the kernel gets. It knows nothing of devices and
//! of how requests come.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ipfs_exec_node::block::{self, BlockError, RAW, ReadBlocks};
use ipfs_exec_node::path::{EntryName, escape};
use ipfs_exec_node::unixfs::{
    self, Branch, DirectoryNode, Entry, Listing, Node, NodeKind, UnixfsError,
};
use ipfs_exec_node::{Cancel, Cid, limits};
use rustix::io::Errno;

use super::ahead::Ahead;
use super::cache::BlockCache;
use super::files::{
    DIRECTORY_MODE_MASK, FILE_MODE_MASK, Failure, Files, LINK_MODE, MAX_NODES_LISTED,
    TYPE_DIRECTORY, TYPE_FILE, TYPE_LINK, TYPES, lock,
};
use super::inodes::{self, Body, Inode, Inodes};
use super::lru::Lru;
use super::observer::{Access, Learnt, Observer};
use super::protocol::{Attributes, Listed, ListedEntry, sectors};
use super::recorded::Recorded;

/// Mode of files that record none, on the host. It does not depend on the caller's umask.
pub(super) const HOST_FILE_MODE: u32 = 0o444;
/// The same in a sandbox: scripts and compiled programs can be executed, as on a file system without modes.
pub(crate) const FILE_MODE: u32 = 0o555;
/// Mode of directories that record none.
pub(crate) const DIRECTORY_MODE: u32 = 0o555;
/// Mode of the directory of everything: it can be passed, not listed.
const EVERYTHING_MODE: u32 = 0o111;

/// What every program may do with the root of its file system, whatever is recorded.
const LEAST_ROOT_MODE: u32 = 0o755;

/// Memory of decoded inner nodes of files, and of decoded nodes of directories, each in bytes.
const DECODED_BYTES: usize = 16 << 20;

/// About what a link takes in memory, once decoded.
const DECODED_LINK_BYTES: usize = 256;

/// What a place in a listing takes in memory by itself, in entries.
const CURSOR_ENTRIES: usize = 4;

/// Files whose readers are remembered.
const MAX_READERS: usize = 256;

/// Blocks that are asked for ahead of one reader at a time.
const MAX_BLOCKS_AHEAD: usize = 128;

/// The most that is asked for ahead of a reader, in bytes.
const MAX_AHEAD_BYTES: u64 = 16 << 20;

/// Name of the extended attribute that every node has.
const CID_ATTRIBUTE: &[u8] = b"ipfs.cid";

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Top<'t> {
    /// One DAG.
    Dag(&'t Cid),
    /// A directory, with empty directories to mount something at where it has no such entries.
    DagWith(&'t Cid, &'t [&'t str]),
    /// A directory in which every CID is a name, and which cannot be listed.
    Everything,
}

/// What no DAG records, or not every one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unrecorded {
    /// Who owns the files.
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Mode of files that record none.
    pub(super) file_mode: u32,
}

/// The files of a DAG, as the FUSE server asks for them.
pub(super) struct View<'b> {
    blocks: BlockCache<'b>,
    top: Option<NodeKind>,
    inodes: Inodes,
    mount_points: Vec<String>,
    unrecorded: Unrecorded,
    observer: &'b dyn Observer,
    inner_nodes: Mutex<Lru<Cid, Arc<Node>>>,
    directories: Mutex<Lru<Branch, Arc<DirectoryNode>>>,
    /// By directory and offset.
    listings: Mutex<Lru<(u64, u64), Cursor>>,
    /// Blocks that are read before they are asked for.
    ahead: Ahead,
    /// Where readers stopped and for how long they went straight on, by file.
    readers: Mutex<Lru<u64, Reader>>,
    failure: Mutex<Option<Failure>>,
}

/// A reader of a file.
#[derive(Clone, Copy, Debug, Default)]
struct Reader {
    end: u64,
    /// Bytes read without a jump.
    run: u64,
    /// Up to where blocks were asked for ahead.
    ahead: u64,
}

/// A place in a listing.
#[derive(Debug)]
struct Cursor {
    /// How many of `.` and `..` are behind it.
    own: usize,
    listing: Option<Listing>,
    /// How many mount points are behind it.
    mount_points: usize,
    /// The next one, if it was taken already.
    held: Option<Item>,
}

/// What is listed.
#[derive(Debug)]
enum Item {
    Entry(Entry),
    /// One that is a directory in any case.
    Directory {
        name: String,
        number: u64,
    },
}

impl Item {
    fn name(&self) -> &[u8] {
        match self {
            Item::Entry(entry) => &entry.name,
            Item::Directory { name, .. } => name.as_bytes(),
        }
    }
}

impl<'b> View<'b> {
    /// Reads the top alone. Blocks are read until `ended` cancels that.
    pub(super) fn new(
        blocks: &'b dyn ReadBlocks,
        top: Top<'_>,
        unrecorded: Unrecorded,
        observer: &'b dyn Observer,
        ended: Cancel,
    ) -> Result<View<'b>, UnixfsError> {
        let cache = BlockCache::new(blocks, ended);
        let (body, mount_points) = match top {
            Top::Dag(cid) => (Body::content(cid), &[][..]),
            Top::DagWith(cid, names) => (Body::content(cid), names),
            Top::Everything => (Body::Everything, &[][..]),
        };
        let root = body.cid();
        let node = root.map(|cid| Node::load(&cache, &cid)).transpose()?;
        let attributes = match &node {
            Some(node) => attributes_of(node, unrecorded),
            None => plain_directory(EVERYTHING_MODE, unrecorded),
        };
        let attributes = Attributes {
            mode: attributes.mode
                | if mount_points.is_empty() {
                    0
                } else {
                    LEAST_ROOT_MODE
                },
            ..attributes
        };
        let view = View {
            blocks: cache,
            top: node.map(|node| node.kind()),
            inodes: Inodes::new(body, attributes),
            mount_points: mount_points.iter().map(ToString::to_string).collect(),
            unrecorded,
            observer,
            inner_nodes: Mutex::new(Lru::new(DECODED_BYTES)),
            directories: Mutex::new(Lru::new(DECODED_BYTES)),
            listings: Mutex::new(Lru::new(DECODED_BYTES)),
            ahead: Ahead::default(),
            readers: Mutex::new(Lru::new(MAX_READERS)),
            failure: Mutex::default(),
        };
        if let Some(cid) = root {
            view.tell(b"", Some(cid), Learnt::Attributes, &[cid]);
        }
        Ok(view)
    }

    /// What is at the top; none where that is no content.
    pub(super) fn top_kind(&self) -> Option<NodeKind> {
        self.top
    }

    fn recorded(&self) -> Recorded<'_, 'b> {
        Recorded::new(&self.blocks)
    }

    fn tell(&self, path: &[u8], cid: Option<Cid>, what: Learnt, blocks: &[Cid]) {
        self.observer.accessed(&Access {
            path,
            cid,
            what,
            blocks,
        });
    }

    /// The error that a program gets. A fault of the content, or a missing block, is remembered.
    fn failed(&self, path: &[u8], error: UnixfsError) -> Errno {
        match error {
            UnixfsError::NotFound { .. } => return Errno::NOENT,
            UnixfsError::NotDirectory { .. } => return Errno::NOTDIR,
            _ => {}
        }
        let root = self.inodes.get(super::protocol::ROOT);
        let root = root.and_then(|root| root.body.cid());
        let path = escape(path);
        let failure = Failure {
            root: root.map_or_else(|| "the tree".to_owned(), |cid| cid.to_string()),
            path,
            source: error.into(),
        };
        tracing::info!(error = %failure, cause = %failure.source, "a read has failed");
        // Once nobody is left who could notice, it does not matter.
        if !self.ahead.has_ended() {
            lock(&self.failure).get_or_insert(failure);
        }
        Errno::IO
    }

    fn is_mount_point(&self, directory: &Inode, name: &[u8]) -> bool {
        directory.number == super::protocol::ROOT && self.has_mount_point(name)
    }

    fn has_mount_point(&self, name: &[u8]) -> bool {
        let mut points = self.mount_points.iter();
        points.any(|point| point.as_bytes() == name)
    }

    fn find(
        &self,
        blocks: &Recorded<'_, '_>,
        directory: &Cid,
        name: &[u8],
    ) -> Result<Entry, UnixfsError> {
        let not_found = || UnixfsError::NotFound {
            directory: *directory,
            name: escape(name),
        };
        let checked = EntryName::new(name).map_err(|_| not_found())?;
        unixfs::lookup_with(directory, &checked, &mut |branch| {
            self.directory_node(blocks, branch)
        })
    }

    /// A node of a directory. They are kept decoded, since each search passes them.
    fn directory_node(
        &self,
        blocks: &Recorded<'_, '_>,
        branch: &Branch,
    ) -> Result<Arc<DirectoryNode>, UnixfsError> {
        if let Some(node) = lock(&self.directories).get(branch) {
            blocks.note(branch.cid());
            return Ok(Arc::clone(node));
        }
        let node = Arc::new(DirectoryNode::load(blocks, branch)?);
        lock(&self.directories).insert(*branch, Arc::clone(&node), node.memory());
        Ok(node)
    }

    /// What `stat` says of `cid`, of which a link says that `size` bytes are below.
    fn load_attributes(
        &self,
        blocks: &dyn ReadBlocks,
        cid: &Cid,
        size: u64,
    ) -> Result<Attributes, UnixfsError> {
        // Larger ones the kernel does not take, and no file has.
        let is_told = size > 0 && i64::try_from(size).is_ok();
        if cid.codec() == RAW && is_told && block::inline_data(cid).is_none() {
            return Ok(Attributes {
                inode: 0,
                size,
                sectors: sectors(size),
                links: 1,
                mtime: (0, 0),
                mode: TYPE_FILE | self.unrecorded.file_mode,
                uid: self.unrecorded.uid,
                gid: self.unrecorded.gid,
            });
        }
        Ok(attributes_of(&Node::load(blocks, cid)?, self.unrecorded))
    }

    fn tell_content(&self, inode: &Inode, start: u64, pieces: &[Bytes], blocks: &Recorded<'_, '_>) {
        let length: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let content = Learnt::Content(start..start + length);
        self.tell(&inode.path(), inode.body.cid(), content, &blocks.taken());
    }

    /// A node of a file, if its block is kept.
    fn kept_node(&self, cid: &Cid) -> Option<Arc<Node>> {
        if let Some(node) = lock(&self.inner_nodes).get(cid) {
            return Some(Arc::clone(node));
        }
        let node = Arc::new(Node::decode(cid, self.blocks.kept(cid)?).ok()?);
        self.keep_node(&node);
        Some(node)
    }

    /// Keeps a node decoded, if it is an inner one.
    fn keep_node(&self, node: &Arc<Node>) {
        if node.links() > 0 {
            let weight = node.links() * DECODED_LINK_BYTES + node.block_bytes();
            lock(&self.inner_nodes).insert(*node.cid(), Arc::clone(node), weight);
        }
    }

    fn read_from(
        &self,
        blocks: &Recorded<'_, '_>,
        inode: &Inode,
        cid: &Cid,
        range: Range<u64>,
    ) -> Result<Vec<Bytes>, UnixfsError> {
        let root = self.file_node(blocks, cid)?;
        let declared = inode.attributes.size;
        if root.size() != declared {
            return Err(UnixfsError::SizeMismatch {
                cid: *cid,
                declared,
                actual: root.size(),
            });
        }
        if root.links() > 0 {
            self.look_ahead(inode.number, &root, &range);
        }
        unixfs::read_range(&root, range, &mut |cid| self.file_node(blocks, cid))
    }

    /// A node of a file. Inner ones are kept decoded, since each read passes them.
    fn file_node(&self, blocks: &Recorded<'_, '_>, cid: &Cid) -> Result<Arc<Node>, UnixfsError> {
        if let Some(node) = lock(&self.inner_nodes).get(cid) {
            blocks.note(cid);
            return Ok(Arc::clone(node));
        }
        let node = Arc::new(Node::load(blocks, cid)?);
        self.keep_node(&node);
        Ok(node)
    }

    /// Asks for what a reader that goes straight on will need: as much as it has read so far, so that
    /// one who jumps gets little that it does not want.
    fn look_ahead(&self, number: u64, root: &Node, range: &Range<u64>) {
        let mut readers = lock(&self.readers);
        let before = readers.get(&number).copied().unwrap_or_default();
        // The kernel's own reading ahead comes in pieces that may arrive in any order.
        let slack = range.end - range.start;
        let goes_on = range.start <= before.end + slack && range.end + slack >= before.end;
        let mut reader = if goes_on {
            Reader {
                end: before.end.max(range.end),
                run: before.run + slack,
                ahead: before.ahead,
            }
        } else {
            Reader {
                end: range.end,
                run: slack,
                ahead: range.end,
            }
        };
        let until = reader.end + reader.run.min(MAX_AHEAD_BYTES);
        let from = reader.ahead.max(range.start);
        // In large steps: each costs a walk.
        let is_due = range.end >= from || until - from >= MAX_AHEAD_BYTES / 4;
        if is_due {
            reader.ahead = until.max(from);
        }
        readers.insert(number, reader, 1);
        drop(readers);
        if is_due && until > range.start {
            let mut known = |cid: &Cid| lock(&self.inner_nodes).get(cid).map(Arc::clone);
            let (from, most) = (range.start, MAX_BLOCKS_AHEAD);
            let next = unixfs::blocks_from(root, from, until - from, most, &mut known);
            let current = unixfs::blocks_from(root, from, slack, most, &mut known);
            let current: HashSet<Cid> = current.into_iter().collect();
            self.ahead
                .add(next.into_iter().filter(|cid| !current.contains(cid)));
        }
    }

    fn list_some(
        &self,
        blocks: &Recorded<'_, '_>,
        directory: &Arc<Inode>,
        offset: u64,
        size: u32,
        with_nodes: bool,
    ) -> Result<(Vec<u8>, Vec<u64>), UnixfsError> {
        let kept = lock(&self.listings).take(&(directory.number, offset));
        let mut cursor = match kept {
            Some(cursor) => cursor,
            None => self.cursor_at(blocks, directory, offset)?,
        };
        let mut listed = Listed::new(size);
        let mut room = listed.room();
        let mut batch = Vec::new();
        while let Some(item) = self.next_item(blocks, directory, &mut cursor)? {
            let length = Listed::length(item.name(), with_nodes);
            if length > room {
                cursor.held = Some(item);
                break;
            }
            room -= length;
            batch.push(item);
        }
        if with_nodes {
            self.expect_nodes(&batch);
        }
        let mut at = offset;
        let mut entered = Vec::new();
        for item in &batch {
            at += 1;
            entered.extend(self.put_item(directory, item, at, &mut listed, with_nodes));
        }
        // After an empty part the kernel asks for no more.
        if !batch.is_empty() {
            let held = cursor.listing.as_ref().map_or(0, Listing::held);
            let weight = (held + CURSOR_ENTRIES) * DECODED_LINK_BYTES;
            lock(&self.listings).insert((directory.number, at), cursor, weight);
        }
        Ok((listed.into_bytes(), entered))
    }

    /// The place in a listing before which `offset` items are.
    fn cursor_at(
        &self,
        blocks: &Recorded<'_, '_>,
        directory: &Inode,
        offset: u64,
    ) -> Result<Cursor, UnixfsError> {
        if let Some(cid) = directory.body.cid() {
            // Refuses a directory in which a name stands twice.
            self.directory_node(blocks, &Branch::root(cid))?;
        }
        let mut cursor = Cursor {
            own: 0,
            listing: directory.body.cid().map(Listing::new),
            mount_points: 0,
            held: None,
        };
        for _ in 0..offset {
            if self.next_item(blocks, directory, &mut cursor)?.is_none() {
                break;
            }
        }
        Ok(cursor)
    }

    fn next_item(
        &self,
        blocks: &Recorded<'_, '_>,
        directory: &Inode,
        cursor: &mut Cursor,
    ) -> Result<Option<Item>, UnixfsError> {
        if let Some(item) = cursor.held.take() {
            return Ok(Some(item));
        }
        let own = [(".", directory.number), ("..", directory.parent_number())];
        if let Some((name, number)) = own.get(cursor.own) {
            cursor.own += 1;
            return Ok(Some(Item::Directory {
                name: (*name).to_owned(),
                number: *number,
            }));
        }
        let (Some(listing), Some(cid)) = (&mut cursor.listing, directory.body.cid()) else {
            return Ok(None);
        };
        if let Some(entry) = listing.next(blocks)? {
            entry.checked_name(&cid)?;
            return Ok(Some(Item::Entry(entry)));
        }
        while let Some(name) = self.mount_points.get(cursor.mount_points) {
            cursor.mount_points += 1;
            let is_missing = self.is_mount_point(directory, name.as_bytes())
                && matches!(
                    self.find(blocks, &cid, name.as_bytes()),
                    Err(UnixfsError::NotFound { .. })
                );
            if is_missing {
                return Ok(Some(Item::Directory {
                    name: name.clone(),
                    number: inodes::number_of(directory.number, name.as_bytes()),
                }));
            }
        }
        Ok(None)
    }

    fn put_item(
        &self,
        directory: &Arc<Inode>,
        item: &Item,
        offset: u64,
        listed: &mut Listed,
        with_nodes: bool,
    ) -> Option<u64> {
        let (entry, node) = match item {
            Item::Directory { name, number } => {
                let entry = ListedEntry {
                    inode: *number,
                    offset,
                    kind: TYPE_DIRECTORY,
                    name: name.as_bytes(),
                };
                (entry, None)
            }
            Item::Entry(entry) => {
                let may_enter = with_nodes && self.inodes.len() < MAX_NODES_LISTED;
                let node = may_enter
                    .then(|| self.enter_listed(directory, entry))
                    .flatten();
                let number = || inodes::number_of(directory.number, &entry.name);
                let listed = ListedEntry {
                    inode: node.as_ref().map_or_else(number, |node| node.number),
                    offset,
                    kind: match &node {
                        Some(node) => node.attributes.mode & TYPES,
                        None if entry.cid.codec() == RAW => TYPE_FILE,
                        None => 0,
                    },
                    name: &entry.name,
                };
                (listed, node)
            }
        };
        if with_nodes {
            let number = node.as_ref().map_or(0, |node| node.number);
            listed.push_node(entry, number, node.as_ref().map(|node| &node.attributes));
        } else {
            listed.push(entry);
        }
        node.map(|node| node.number)
    }

    fn expect_nodes(&self, batch: &[Item]) {
        let unknown = |item: &Item| match item {
            Item::Entry(entry) if entry.cid.codec() != RAW || entry.cumulative_size == 0 => {
                Some(entry.cid)
            }
            _ => None,
        };
        let wanted: Vec<Cid> = batch.iter().filter_map(unknown).collect();
        if !wanted.is_empty() {
            self.blocks.expect(&wanted);
        }
    }

    /// The node of an entry that is listed; none where it cannot be had: whoever asks for it learns
    /// why.
    fn enter_listed(&self, directory: &Arc<Inode>, entry: &Entry) -> Option<Arc<Inode>> {
        let is_at_hand = directory.depth < limits::MAX_DIRECTORY_DEPTH
            && (entry.cid.codec() == RAW && entry.cumulative_size > 0
                || block::inline_data(&entry.cid).is_some()
                || self.blocks.kept(&entry.cid).is_some()
                || matches!(self.blocks.has(&entry.cid), Ok(true)));
        if !is_at_hand {
            return None;
        }
        let blocks = self.recorded();
        match self.load_attributes(&blocks, &entry.cid, entry.cumulative_size) {
            Ok(attributes) => {
                let path = directory.path_of(&entry.name);
                self.tell(&path, Some(entry.cid), Learnt::Attributes, &blocks.taken());
                let body = Body::content(&entry.cid);
                Some(self.inodes.enter(directory, &entry.name, body, attributes))
            }
            Err(error) => {
                tracing::debug!(cid = %entry.cid, %error, "an entry is listed without its node");
                None
            }
        }
    }
}

impl Files for View<'_> {
    fn inodes(&self) -> &Inodes {
        &self.inodes
    }

    fn entry(&self, parent: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>, Errno> {
        let blocks = self.recorded();
        let path = || parent.path_of(name);
        if parent.depth >= limits::MAX_DIRECTORY_DEPTH {
            let cid = parent.body.cid().unwrap_or_default();
            let limit = limits::MAX_DIRECTORY_DEPTH;
            return Err(self.failed(&path(), UnixfsError::TooDeep { cid, limit }));
        }
        let found = match &parent.body {
            Body::MountPoint | Body::OnDisk => None,
            Body::Everything => parse_cid(name).map(|cid| (Body::content(&cid), 0)),
            Body::Content(cid) => match self.find(&blocks, &cid.get(), name) {
                Ok(entry) => Some((Body::content(&entry.cid), entry.cumulative_size)),
                Err(UnixfsError::NotFound { .. }) if self.is_mount_point(parent, name) => {
                    Some((Body::MountPoint, 0))
                }
                Err(UnixfsError::NotFound { .. } | UnixfsError::EntryName { .. }) => None,
                Err(error) => return Err(self.failed(&path(), error)),
            },
        };
        let Some((body, size)) = found else {
            self.tell(&path(), None, Learnt::Absence, &blocks.taken());
            return Ok(None);
        };
        let attributes = match body.cid() {
            Some(cid) => self.load_attributes(&blocks, &cid, size),
            None => Ok(plain_directory(DIRECTORY_MODE, self.unrecorded)),
        };
        let attributes = attributes.map_err(|error| self.failed(&path(), error))?;
        self.tell(&path(), body.cid(), Learnt::Attributes, &blocks.taken());
        Ok(Some(self.inodes.enter(parent, name, body, attributes)))
    }

    fn read_link(&self, number: u64) -> Result<Vec<u8>, Errno> {
        let inode = self.inode(number)?;
        let cid = inode.body.cid().ok_or(Errno::INVAL)?;
        let blocks = self.recorded();
        let node = Node::load(&blocks, &cid).map_err(|error| self.failed(&inode.path(), error))?;
        let target = node.symlink_target().ok_or(Errno::INVAL)?.to_vec();
        self.tell(&inode.path(), Some(cid), Learnt::Target, &blocks.taken());
        Ok(target)
    }

    fn read(&self, number: u64, range: Range<u64>) -> Result<Vec<Bytes>, Errno> {
        let inode = self.inode(number)?;
        let cid = inode.body.cid().ok_or(Errno::ISDIR)?;
        let blocks = self.recorded();
        let read = self.read_from(&blocks, &inode, &cid, range.clone());
        let pieces = read.map_err(|error| self.failed(&inode.path(), error))?;
        self.tell_content(&inode, range.start, &pieces, &blocks);
        Ok(pieces)
    }

    fn read_kept(&self, number: u64, range: Range<u64>) -> Option<Vec<Bytes>> {
        let inode = self.inode(number).ok()?;
        let cid = inode.body.cid()?;
        let blocks = self.recorded();
        let mut kept = |cid: &Cid| {
            let missing = || UnixfsError::Block(BlockError::Missing { cid: *cid });
            blocks.note(cid);
            self.kept_node(cid).ok_or_else(missing)
        };
        let root = kept(&cid).ok()?;
        if root.size() != inode.attributes.size {
            return None;
        }
        let pieces = unixfs::read_range(&root, range.clone(), &mut kept).ok()?;
        if root.links() > 0 {
            self.look_ahead(number, &root, &range);
        }
        self.tell_content(&inode, range.start, &pieces, &blocks);
        Some(pieces)
    }

    fn list(
        &self,
        number: u64,
        offset: u64,
        size: u32,
        with_nodes: bool,
    ) -> Result<(Vec<u8>, Vec<u64>), Errno> {
        let directory = self.inode(number)?;
        if directory.body == Body::Everything {
            return Err(Errno::ACCESS);
        }
        let blocks = self.recorded();
        let listing = self.list_some(&blocks, &directory, offset, size, with_nodes);
        let listing = listing.map_err(|error| self.failed(&directory.path(), error))?;
        let cid = directory.body.cid();
        self.tell(&directory.path(), cid, Learnt::Names, &blocks.taken());
        Ok(listing)
    }

    fn extended(&self, number: u64, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let inode = self.inode(number)?;
        match inode.body.cid() {
            Some(cid) if name == CID_ATTRIBUTE => {
                self.tell(&inode.path(), Some(cid), Learnt::Cid, &[]);
                Ok(cid.to_string().into_bytes())
            }
            _ => Err(Errno::NODATA),
        }
    }

    fn extended_names(&self, number: u64) -> Result<Vec<u8>, Errno> {
        let names = match self.inode(number)?.body.cid() {
            Some(_) => [CID_ATTRIBUTE, b"\0"].concat(),
            None => Vec::new(),
        };
        Ok(names)
    }

    fn bytes(&self) -> u64 {
        let root = self.inodes.get(super::protocol::ROOT);
        let cid = root.and_then(|root| root.body.cid());
        cid.and_then(|cid| Node::load(&self.blocks, &cid).ok())
            .map_or(0, |node| node.cumulative_size())
    }

    fn carries_mount(&self, inode: &Inode) -> bool {
        inode.depth == 1 && self.has_mount_point(&inode.name)
    }

    fn read_ahead(&self) {
        while let Some((next, new)) = self.ahead.next() {
            if !new.is_empty() {
                self.blocks.expect(&new);
            }
            self.blocks.warm(&next);
        }
    }

    fn end(&self) {
        self.ahead.end();
        self.inodes.end();
    }

    fn take_failure(&self) -> Option<Failure> {
        lock(&self.failure).take()
    }
}

fn parse_cid(name: &[u8]) -> Option<Cid> {
    std::str::from_utf8(name).ok()?.parse().ok()
}

fn plain_directory(mode: u32, unrecorded: Unrecorded) -> Attributes {
    Attributes {
        inode: 0,
        size: 0,
        sectors: 0,
        links: 1,
        mtime: (0, 0),
        mode: TYPE_DIRECTORY | mode,
        uid: unrecorded.uid,
        gid: unrecorded.gid,
    }
}

fn attributes_of(node: &Node, unrecorded: Unrecorded) -> Attributes {
    let metadata = node.metadata();
    let mode = match node.kind() {
        NodeKind::Symlink => TYPE_LINK | LINK_MODE,
        kind if kind.is_directory() => {
            TYPE_DIRECTORY | metadata.mode.unwrap_or(DIRECTORY_MODE) & DIRECTORY_MODE_MASK
        }
        _ => TYPE_FILE | metadata.mode.unwrap_or(unrecorded.file_mode) & FILE_MODE_MASK,
    };
    let mtime = metadata.mtime.unwrap_or_default();
    Attributes {
        inode: 0,
        size: node.size(),
        sectors: sectors(node.size()),
        links: 1,
        mtime: (mtime.seconds, mtime.nanoseconds),
        mode,
        uid: unrecorded.uid,
        gid: unrecorded.gid,
    }
}
