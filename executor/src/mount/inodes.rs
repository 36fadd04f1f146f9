//! The nodes that the kernel knows, by number.
//!
//! A number is the hash of the place in the tree, so it is the same in every mount of the same DAG. If two
//! places collide, the second gets the next free number. The table holds the nodes to which the kernel holds
//! references, and no others.
//!
//! A tree may have more places than fit into memory. The kernel holds all places that a program has seen
//! until its own memory is short. So above [`MOST_NODES`] the server asks the kernel to drop the oldest ones,
//! and above [`MAX_NODES`] a lookup fails.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipfs_exec_node::Cid;

use super::protocol::{Attributes, ROOT};

/// Nodes above which the kernel is asked to drop some. One takes about 400 bytes here, and 1 KiB in the kernel.
pub(super) const MOST_NODES: usize = 40 * 1024;

/// Nodes above which a lookup fails. Only programs that hold as many files open at a time reach it.
const MAX_NODES: usize = 64 * 1024;

/// The first nodes, which the kernel is never asked to drop. Among them are the program, its libraries and its
/// working directory.
const KEPT_NODES: usize = 4096;

/// Nodes that the kernel is asked to drop at a time.
const SURPLUS_NODES: usize = 512;

/// How long a lookup waits until the kernel drops other nodes.
const PATIENCE: Duration = Duration::from_secs(2);

/// What stands at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Content(Kept),
    /// A directory in which every CID is a name.
    Everything,
    /// A place to mount something at, which the content does not have: a directory or a file.
    MountPoint,
    /// The entry of a tree on disk at that place.
    OnDisk,
}

impl Body {
    pub(super) fn cid(&self) -> Option<Cid> {
        match self {
            Body::Content(cid) => Some(cid.get()),
            Body::Everything | Body::MountPoint | Body::OnDisk => None,
        }
    }

    pub(super) fn content(cid: &Cid) -> Body {
        Body::Content(Kept::new(cid))
    }
}

/// A CID in its binary form, which is less than half as long as the decoded one: there may be millions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept(Box<[u8]>);

impl Kept {
    fn new(cid: &Cid) -> Kept {
        Kept(cid.to_bytes().into())
    }

    pub(super) fn get(&self) -> Cid {
        Cid::try_from(&*self.0).expect("it was made of a CID")
    }
}

/// One node.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) number: u64,
    /// The directory that it is in; none at the top.
    pub(super) parent: Option<Arc<Inode>>,
    pub(super) name: Box<[u8]>,
    /// How many directories are above.
    pub(super) depth: usize,
    pub(super) body: Body,
    /// With `number` in them.
    pub(super) attributes: Attributes,
}

impl Inode {
    /// Its place below the top.
    pub(super) fn path(&self) -> Vec<u8> {
        let mut names = Vec::new();
        let mut next = self;
        while let Some(parent) = &next.parent {
            names.push(&*next.name);
            next = parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// That of an entry.
    pub(super) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// The number of the directory that it is in; its own at the top.
    pub(super) fn parent_number(&self) -> u64 {
        self.parent
            .as_ref()
            .map_or(self.number, |parent| parent.number)
    }

    fn is_at(&self, parent: &Inode, name: &[u8]) -> bool {
        let own = self.parent.as_ref().map(|parent| parent.number);
        own == Some(parent.number) && *self.name == *name
    }
}

/// The inodes that the kernel knows, by number.
#[derive(Debug)]
pub(super) struct Inodes {
    table: Mutex<Table>,
    /// Notified when the table becomes too large, gets room again, or is not needed any more.
    changed: Condvar,
    root: Arc<Inode>,
}

#[derive(Debug, Default)]
struct Table {
    held: HashMap<u64, Held>,
    /// Numbers with their tickets, the oldest first. Numbers of dropped nodes stay until their turn comes.
    queue: VecDeque<(u64, u64)>,
    next_ticket: u64,
    has_ended: bool,
}

/// A node that the kernel holds.
#[derive(Debug)]
struct Held {
    inode: Arc<Inode>,
    references: u64,
    /// Differs each time that the number is entered.
    ticket: u64,
}

impl Table {
    fn insert(&mut self, number: u64, inode: Arc<Inode>) {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        if self.held.len() >= KEPT_NODES {
            if self.queue.len() > 2 * self.held.len() {
                let held = &self.held;
                let is_held = |(number, ticket): &_| is_held(held, *number, *ticket);
                self.queue.retain(is_held);
            }
            self.queue.push_back((number, ticket));
        }
        let held = Held {
            inode,
            references: 1,
            ticket,
        };
        self.held.insert(number, held);
    }

    /// Some of the oldest nodes without children in the table.
    fn oldest(&mut self) -> Vec<Arc<Inode>> {
        let mut oldest = Vec::new();
        for _ in 0..self.queue.len() {
            let Some((number, ticket)) = self.queue.pop_front() else {
                break;
            };
            if !is_held(&self.held, number, ticket) {
                continue;
            }
            // Its turn comes again if the kernel keeps it.
            self.queue.push_back((number, ticket));
            let held = self.held.get(&number);
            oldest.extend(
                held.filter(|held| Arc::strong_count(&held.inode) == 1)
                    .map(|held| Arc::clone(&held.inode)),
            );
            if oldest.len() == SURPLUS_NODES {
                break;
            }
        }
        oldest
    }
}

fn is_held(held: &HashMap<u64, Held>, number: u64, ticket: u64) -> bool {
    held.get(&number).is_some_and(|held| held.ticket == ticket)
}

impl Inodes {
    pub(super) fn new(body: Body, attributes: Attributes) -> Inodes {
        let root = Arc::new(Inode {
            number: ROOT,
            parent: None,
            name: Box::default(),
            depth: 0,
            body,
            attributes: Attributes {
                inode: ROOT,
                ..attributes
            },
        });
        Inodes {
            table: Mutex::default(),
            changed: Condvar::new(),
            root,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are beside the top.
    pub(super) fn len(&self) -> usize {
        self.lock().held.len()
    }

    /// Waits until there are too many nodes, and gives some that the kernel may drop; the list may be empty.
    /// `None` at the end.
    pub(super) fn await_surplus(&self) -> Option<Vec<Arc<Inode>>> {
        let mut table = self.lock();
        while !table.has_ended && table.held.len() <= MOST_NODES {
            let woken = self.changed.wait(table);
            table = woken.unwrap_or_else(PoisonError::into_inner);
        }
        (!table.has_ended).then(|| table.oldest())
    }

    /// Waits until there is room for one more node; false if there is none in time.
    pub(super) fn await_room(&self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut table = self.lock();
        while !table.has_ended && table.held.len() >= MAX_NODES {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.changed.wait_timeout(table, left);
            table = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Ends all waiting.
    pub(super) fn end(&self) {
        self.lock().has_ended = true;
        self.changed.notify_all();
    }

    /// The node of that number, if the kernel was given it.
    pub(super) fn get(&self, number: u64) -> Option<Arc<Inode>> {
        if number == ROOT {
            return Some(Arc::clone(&self.root));
        }
        let table = self.lock();
        let held = table.held.get(&number);
        held.map(|held| Arc::clone(&held.inode))
    }

    /// The entry `name` of `parent`, to which the kernel gets a reference more.
    pub(super) fn enter(
        &self,
        parent: &Arc<Inode>,
        name: &[u8],
        body: Body,
        attributes: Attributes,
    ) -> Arc<Inode> {
        let mut table = self.lock();
        let mut number = number_of(parent.number, name);
        loop {
            match table.held.get_mut(&number) {
                Some(held) if held.inode.body == body && held.inode.is_at(parent, name) => {
                    held.references += 1;
                    return Arc::clone(&held.inode);
                }
                Some(_) => number = next_number(number),
                None => break,
            }
        }
        let inode = Arc::new(Inode {
            number,
            parent: Some(Arc::clone(parent)),
            name: name.into(),
            depth: parent.depth + 1,
            body,
            attributes: Attributes {
                inode: number,
                ..attributes
            },
        });
        table.insert(number, Arc::clone(&inode));
        if table.held.len() > MOST_NODES {
            self.changed.notify_all();
        }
        inode
    }

    /// The kernel gives up `count` references.
    pub(super) fn forget(&self, number: u64, count: u64) {
        let mut table = self.lock();
        let Some(held) = table.held.get_mut(&number) else {
            return;
        };
        held.references = held.references.saturating_sub(count);
        if held.references == 0 {
            table.held.remove(&number);
            if table.held.len() + 1 == MAX_NODES {
                self.changed.notify_all();
            }
        }
    }
}

/// The number that an entry has unless another has it.
pub(super) fn number_of(parent: u64, name: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&parent.to_le_bytes()).update(name);
    let mut number = [0; 8];
    hasher.finalize_xof().fill(&mut number);
    // Some programs take numbers for signed.
    (u64::from_le_bytes(number) >> 1).max(ROOT + 1)
}

fn next_number(number: u64) -> u64 {
    ((number + 1) & (u64::MAX >> 1)).max(ROOT + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes() -> Attributes {
        Attributes {
            inode: 0,
            size: 0,
            sectors: 0,
            links: 1,
            mtime: (0, 0),
            mode: 0o040_555,
            uid: 0,
            gid: 0,
        }
    }

    fn table() -> Inodes {
        Inodes::new(Body::MountPoint, attributes())
    }

    #[test]
    fn nodes_stay_as_long_as_the_kernel_holds_them() {
        let table = table();
        let root = table.get(ROOT).unwrap();
        let enter = || table.enter(&root, b"a", Body::MountPoint, attributes());
        let inode = enter();
        let child = table.enter(&inode, b"b", Body::MountPoint, attributes());
        assert_eq!(enter().number, inode.number);
        assert_eq!(child.path(), b"a/b");
        assert_eq!(child.path_of(b"c"), b"a/b/c");
        table.forget(inode.number, 1);
        assert!(table.get(inode.number).is_some());
        table.forget(inode.number, 1);
        assert!(table.get(inode.number).is_none());
        // Its child still knows where it is.
        assert_eq!(table.get(child.number).unwrap().path(), b"a/b");
        assert_eq!(table.len(), 1);
        table.forget(ROOT, 5);
        assert!(table.get(ROOT).is_some());
    }

    /// The oldest come first, without the first ones of all and without parents of others.
    #[test]
    fn surplus_nodes_are_given_up() {
        let table = table();
        let root = table.get(ROOT).unwrap();
        let enter = |parent: &Arc<Inode>, name: String| {
            table.enter(parent, name.as_bytes(), Body::MountPoint, attributes())
        };
        for number in 0..MOST_NODES {
            enter(&root, number.to_string());
        }
        let name = |inode: &Arc<Inode>| String::from_utf8(inode.name.to_vec()).unwrap();
        let directory = enter(&root, "directory".to_owned());
        let number = directory.number;
        drop(directory);
        let first = table.await_surplus().unwrap();
        assert_eq!(first.len(), SURPLUS_NODES);
        assert_eq!(name(&first[0]), KEPT_NODES.to_string());
        for inode in &first {
            table.forget(inode.number, 1);
        }
        assert!(table.len() <= MOST_NODES);
        let directory = table.get(number).unwrap();
        for number in table.len()..MAX_NODES {
            enter(&directory, format!("below {number}"));
        }
        drop(directory);
        let mut seen = 0;
        while seen < table.len() - KEPT_NODES - SURPLUS_NODES {
            let surplus = table.await_surplus().unwrap();
            assert!(!surplus.iter().any(|inode| inode.number == number));
            seen += surplus.len();
        }
        assert!(!table.await_room());
        table.forget(table.await_surplus().unwrap()[0].number, 1);
        assert!(table.await_room());
        table.end();
        assert!(table.await_surplus().is_none());
    }

    /// A node that comes and goes all the time does not fill the queue.
    #[test]
    fn the_queue_is_bounded_by_held_nodes() {
        let table = table();
        let root = table.get(ROOT).unwrap();
        let enter = |number: usize| {
            let name = number.to_string();
            table.enter(&root, name.as_bytes(), Body::MountPoint, attributes())
        };
        for number in 0..=KEPT_NODES {
            enter(number);
        }
        for _ in 0..20 * KEPT_NODES {
            let number = enter(KEPT_NODES + 1).number;
            table.forget(number, 1);
        }
        assert!(table.lock().queue.len() <= 2 * KEPT_NODES + 3);
    }

    #[test]
    fn inode_numbers_follow_from_the_path() {
        let (one, other) = (table(), table());
        let enter = |table: &Inodes| {
            let root = table.get(ROOT).unwrap();
            table
                .enter(&root, b"a", Body::MountPoint, attributes())
                .number
        };
        assert_eq!(enter(&one), enter(&other));
        assert_eq!(enter(&one), number_of(ROOT, b"a"));
    }
}
