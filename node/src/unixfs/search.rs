//! Searches by name in directories of one block or many.
//!
//! The caller loads nodes, and so may keep them decoded: many searches in one directory pass the
//! same ones.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::Arc;

use super::UnixfsError;
use super::directory::{Branch, Entry, expand};
use super::hamt;
use super::node::Node;
use crate::block::{Cid, ReadBlocks};
use crate::path::{EntryName, escape};

/// One node of a directory, decoded and checked.
#[derive(Clone, Debug)]
pub struct DirectoryNode {
    entries: HashMap<Box<[u8]>, Target>,
    /// The shards below.
    below: Vec<Branch>,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
struct Target {
    cid: Cid,
    cumulative_size: u64,
}

impl DirectoryNode {
    /// Reads the node at `branch`.
    ///
    /// # Errors
    /// [`UnixfsError::NotDirectory`], [`UnixfsError::DuplicateEntry`], and where the block is missing
    /// or malformed.
    pub fn load(blocks: &dyn ReadBlocks, branch: &Branch) -> Result<DirectoryNode, UnixfsError> {
        let node = Node::load(blocks, &branch.cid)?;
        let (listed, below) = expand(&node, branch)?;
        let mut entries = HashMap::with_capacity(listed.len());
        for entry in listed {
            let target = Target {
                cid: entry.cid,
                cumulative_size: entry.cumulative_size,
            };
            match entries.entry(entry.name) {
                Slot::Vacant(slot) => slot.insert(target),
                Slot::Occupied(slot) => {
                    return Err(UnixfsError::DuplicateEntry {
                        directory: branch.cid,
                        name: escape(slot.key()),
                    });
                }
            };
        }
        Ok(DirectoryNode { entries, below })
    }

    /// About what it takes in memory, in bytes.
    pub fn memory(&self) -> usize {
        let names: usize = self.entries.keys().map(|name| name.len() + 16).sum();
        let entry = size_of::<(Box<[u8]>, Target)>() + 1;
        names + self.entries.capacity() * 8 / 7 * entry + self.below.len() * size_of::<Branch>()
    }
}

/// Finds the entry `name` of the directory `cid`; reads one block a HAMT level.
///
/// # Errors
/// [`UnixfsError::NotFound`], [`UnixfsError::NotDirectory`], or where a block is missing or
/// malformed.
pub fn lookup(blocks: &dyn ReadBlocks, cid: &Cid, name: &EntryName) -> Result<Entry, UnixfsError> {
    lookup_with(cid, name, &mut |branch| {
        DirectoryNode::load(blocks, branch).map(Arc::new)
    })
}

/// The same, with nodes from `load`.
///
/// # Errors
/// [`UnixfsError::NotFound`], and those of `load`.
pub fn lookup_with(
    cid: &Cid,
    name: &EntryName,
    load: &mut dyn FnMut(&Branch) -> Result<Arc<DirectoryNode>, UnixfsError>,
) -> Result<Entry, UnixfsError> {
    let hash = hamt::hash_name(name.as_bytes());
    let mut next = Branch::root(*cid);
    loop {
        let node = load(&next)?;
        if let Some(target) = node.entries.get(name.as_bytes()) {
            return Ok(Entry {
                name: name.as_bytes().into(),
                cid: target.cid,
                cumulative_size: target.cumulative_size,
            });
        }
        let mut below = node.below.iter();
        let Some(shard) = below.find(|shard| shard.trail.leads_to(hash)) else {
            return Err(UnixfsError::NotFound {
                directory: *cid,
                name: name.to_string(),
            });
        };
        next = *shard;
    }
}
