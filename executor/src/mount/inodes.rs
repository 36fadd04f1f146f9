//! The nodes that the kernel knows, by number.
//!
//! A number is the hash of the place in the tree, so it is the same in every mount of the same DAG;
//! where two places collide, the second gets the next number that is free. The table holds what the
//! kernel holds references to, and nothing else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipfs_exec_node::Cid;

use super::protocol::{Attributes, ROOT};

/// What stands at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Content(Kept),
    /// A directory in which every CID is a name.
    Everything,
    /// A place to mount something at, which the content does not have: a directory or a file.
    MountPoint,
}

impl Body {
    pub(super) fn cid(&self) -> Option<Cid> {
        match self {
            Body::Content(cid) => Some(cid.get()),
            Body::Everything | Body::MountPoint => None,
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
    parent: Option<Arc<Inode>>,
    name: Box<[u8]>,
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

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Inodes {
    held: Mutex<HashMap<u64, (Arc<Inode>, u64)>>,
    root: Arc<Inode>,
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
            held: Mutex::default(),
            root,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, (Arc<Inode>, u64)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are beside the top.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// The node of that number, if the kernel was given it.
    pub(super) fn get(&self, number: u64) -> Option<Arc<Inode>> {
        if number == ROOT {
            return Some(Arc::clone(&self.root));
        }
        let held = self.lock();
        held.get(&number).map(|(inode, _)| Arc::clone(inode))
    }

    /// The entry `name` of `parent`, to which the kernel gets a reference more.
    pub(super) fn enter(
        &self,
        parent: &Arc<Inode>,
        name: &[u8],
        body: Body,
        attributes: Attributes,
    ) -> Arc<Inode> {
        let mut held = self.lock();
        let mut number = number_of(parent.number, name);
        loop {
            match held.get_mut(&number) {
                Some((inode, references)) if inode.body == body && inode.is_at(parent, name) => {
                    *references += 1;
                    return Arc::clone(inode);
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
        held.insert(number, (Arc::clone(&inode), 1));
        inode
    }

    /// The kernel gives up `count` references.
    pub(super) fn forget(&self, number: u64, count: u64) {
        let mut held = self.lock();
        if let Some((_, references)) = held.get_mut(&number) {
            *references = references.saturating_sub(count);
            if *references == 0 {
                held.remove(&number);
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

    #[test]
    fn numbers_are_those_of_the_place() {
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
