//! The files of a server, from either source: a DAG ([`View`](super::view::View)) or a tree on disk
//! ([`Local`](super::local::Local)).

use std::error::Error;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::io::Errno;

use super::inodes::{Inode, Inodes, MOST_NODES};
use super::protocol::{Attributes, ROOT};

/// The bits of a mode that are the type.
pub(super) const TYPES: u32 = 0o170_000;
/// Types in a mode.
pub(super) const TYPE_FILE: u32 = 0o100_000;
pub(super) const TYPE_DIRECTORY: u32 = 0o040_000;
pub(super) const TYPE_LINK: u32 = 0o120_000;

/// The bits of recorded modes that are shown, the same as when an archive is unpacked: no set-id bits, and the
/// sticky bit of directories only.
pub(super) const FILE_MODE_MASK: u32 = 0o777;
pub(super) const DIRECTORY_MODE_MASK: u32 = 0o1777;
/// Mode of symbolic links, which is that of every link.
pub(super) const LINK_MODE: u32 = 0o777;

/// Nodes above which a listing gives no more of them along: the kernel asks when it wants to know.
pub(super) const MAX_NODES_LISTED: usize = MOST_NODES / 2;

/// Locks what stays whole when a thread panics.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The reason why a program could not read part of a tree.
#[derive(Debug, thiserror::Error)]
#[error("cannot read `{path}` of {root}")]
pub struct Failure {
    /// The top of the tree.
    pub root: String,
    /// Where, below the top.
    pub path: String,
    /// Why: what UnixFS says of content, and the kernel of a tree on disk.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

/// Files that a server can show. Methods are called from many threads at once; numbers are those of nodes
/// that the kernel holds.
pub(super) trait Files: Send + Sync {
    /// The nodes that the kernel holds.
    fn inodes(&self) -> &Inodes;

    /// The entry `name` of the directory `parent`, to which the kernel gets a reference more; `None` where
    /// there is none and never will be.
    fn entry(&self, parent: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>, Errno>;

    /// The target of a symbolic link.
    fn read_link(&self, number: u64) -> Result<Vec<u8>, Errno>;

    /// The bytes of a file in `range`, in pieces; short at its end.
    fn read(&self, number: u64, range: Range<u64>) -> Result<Vec<Bytes>, Errno>;

    /// The same, if it takes no time.
    fn read_kept(&self, _number: u64, _range: Range<u64>) -> Option<Vec<Bytes>> {
        None
    }

    /// A part of the listing of a directory from `offset` on, of up to `size` bytes; with the nodes
    /// themselves, as far as they are at hand, where that is asked for. And the numbers of those, to
    /// each of which the kernel gets a reference more.
    fn list(
        &self,
        number: u64,
        offset: u64,
        size: u32,
        with_nodes: bool,
    ) -> Result<(Vec<u8>, Vec<u64>), Errno>;

    /// The value of an extended attribute.
    fn extended(&self, _number: u64, _name: &[u8]) -> Result<Vec<u8>, Errno> {
        Err(Errno::NODATA)
    }

    /// The names of all extended attributes, each with a NUL behind it.
    fn extended_names(&self, _number: u64) -> Result<Vec<u8>, Errno> {
        Ok(Vec::new())
    }

    /// Bytes of all that is shown, as far as that is known.
    fn bytes(&self) -> u64;

    /// Whether something may be mounted on this node. The kernel would unmount it if it dropped the node.
    fn carries_mount(&self, inode: &Inode) -> bool;

    /// Reads ahead, until [`Files::end`].
    fn read_ahead(&self) {}

    /// Ends all waiting: nothing will be asked for any more.
    fn end(&self) {
        self.inodes().end();
    }

    /// The first failure, if there was one.
    fn take_failure(&self) -> Option<Failure>;

    /// The node of that number.
    fn inode(&self, number: u64) -> Result<Arc<Inode>, Errno> {
        self.inodes().get(number).ok_or(Errno::STALE)
    }

    /// The entry `name` of a directory, once there is room for one node more; see [`Files::entry`].
    fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<Arc<Inode>>, Errno> {
        if !self.inodes().await_room() {
            return Err(Errno::NFILE);
        }
        self.entry(&self.inode(parent)?, name)
    }

    /// Attributes of a node, as `stat` shows them.
    fn attributes(&self, number: u64) -> Result<Attributes, Errno> {
        Ok(self.inode(number)?.attributes)
    }

    /// The type bits of the mode of the top.
    fn top_type(&self) -> u32 {
        let root = self.inodes().get(ROOT);
        root.map_or(0, |root| root.attributes.mode & TYPES)
    }

    /// How many nodes the kernel holds.
    fn nodes(&self) -> usize {
        self.inodes().len()
    }

    /// The kernel gives up `count` references.
    fn forget(&self, number: u64, count: u64) {
        self.inodes().forget(number, count);
    }

    /// Waits until the kernel holds too many nodes, and gives some that it may drop. `None` at the end.
    fn await_surplus(&self) -> Option<Vec<Arc<Inode>>> {
        let mut surplus = self.inodes().await_surplus()?;
        surplus.retain(|inode| !self.carries_mount(inode));
        Some(surplus)
    }
}
