//! Directories: listed, searched and built, of one block or many.

use std::ops::ControlFlow;

use super::UnixfsError;
use super::data::{self, InvalidData, Metadata};
use super::entries::EntryTable;
use super::hamt::{self, ShardShape, Trail};
use super::hamt_writer;
use super::node::{Content, Node};
use crate::block::{Block, Cid, DAG_PB, ReadBlocks};
use crate::dag::pb::{PbLink, PbWriter};
use crate::dag::varint_length;
use crate::limits;
use crate::path::{EntryName, escape};
use crate::profile::{Profile, ShardThreshold};

/// One entry of a directory, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name, unchecked: see [`Entry::checked_name`].
    pub name: Box<[u8]>,
    /// What it points to.
    pub cid: Cid,
    /// Bytes of all blocks below, as the directory says; 0 where it does not say.
    pub cumulative_size: u64,
}

impl Entry {
    /// The name, if a file system may see it.
    ///
    /// # Errors
    /// [`UnixfsError::EntryName`], which names `directory`.
    pub fn checked_name(&self, directory: &Cid) -> Result<EntryName, UnixfsError> {
        EntryName::new(&self.name).map_err(|source| UnixfsError::EntryName {
            directory: *directory,
            source,
        })
    }
}

/// Calls `visit` for every entry of the directory `cid`, in the order of its blocks: by name for a
/// directory of one block, by hash for a HAMT. `visit` may end the listing with `Break`.
///
/// # Errors
/// [`UnixfsError::NotDirectory`], where a block is missing or malformed, and those of `visit`.
pub fn list(
    blocks: &dyn ReadBlocks,
    cid: &Cid,
    visit: &mut dyn FnMut(Entry) -> Result<ControlFlow<()>, UnixfsError>,
) -> Result<(), UnixfsError> {
    let mut listing = Listing::new(*cid);
    while let Some(entry) = listing.next(blocks)? {
        if visit(entry)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// A place in the listing of a directory, in the order of [`list`]. Memory is that of one block and
/// of the shards beside the path to it.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The next one last.
    pending: Vec<Branch>,
    entries: std::vec::IntoIter<Entry>,
    /// Entries that there is memory for: those of one node, until the last of them was taken.
    capacity: usize,
}

impl Listing {
    /// The beginning of the directory `cid`.
    pub fn new(cid: Cid) -> Listing {
        Listing {
            pending: vec![Branch::root(cid)],
            entries: Vec::new().into_iter(),
            capacity: 0,
        }
    }

    /// Entries and shards that memory is held for.
    pub fn held(&self) -> usize {
        self.capacity + self.pending.capacity()
    }

    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// As [`list`]. The place stays where it was.
    pub fn next(&mut self, blocks: &dyn ReadBlocks) -> Result<Option<Entry>, UnixfsError> {
        loop {
            if let Some(entry) = self.entries.next() {
                if self.entries.len() == 0 {
                    self.entries = Vec::new().into_iter();
                    self.capacity = 0;
                }
                return Ok(Some(entry));
            }
            let Some(next) = self.pending.last() else {
                self.pending = Vec::new();
                return Ok(None);
            };
            let node = Node::load(blocks, &next.cid)?;
            let (entries, shards) = expand(&node, next)?;
            self.pending.pop();
            if !shards.is_empty() {
                let below: Vec<Cid> = shards.iter().map(|shard| shard.cid).collect();
                blocks.expect(&below);
            }
            self.pending.extend(shards.into_iter().rev());
            self.capacity = entries.capacity();
            self.entries = entries.into_iter();
        }
    }
}

/// A node of a directory that is still to be read, and the way to it, which decides what may be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Branch {
    pub(super) cid: Cid,
    /// That of the shard above.
    fanout: Option<ShardShape>,
    pub(super) trail: Trail,
}

impl Branch {
    /// The first node of the directory `cid`.
    pub fn root(cid: Cid) -> Branch {
        Branch {
            cid,
            fanout: None,
            trail: Trail::default(),
        }
    }

    /// The block of the node.
    pub fn cid(&self) -> &Cid {
        &self.cid
    }
}

/// The entries in one node of a directory, and its shards below.
pub(super) fn expand(node: &Node, from: &Branch) -> Result<(Vec<Entry>, Vec<Branch>), UnixfsError> {
    let pb = node.pb();
    match &node.content {
        Content::Directory if from.fanout.is_none() => {
            let entries = pb?.links.iter().map(|link| entry(link, 0)).collect();
            Ok((entries, Vec::new()))
        }
        Content::Shard(shape) if from.fanout.is_none_or(|above| above == *shape) => {
            expand_shard(node, *shape, from)
        }
        _ if from.fanout.is_some() => Err(UnixfsError::Invalid {
            cid: *node.cid(),
            reason: "it is no shard like the one above it",
        }),
        _ => Err(UnixfsError::NotDirectory {
            cid: *node.cid(),
            kind: node.kind(),
        }),
    }
}

/// Refuses what a search by name would not find: links out of order, and names in a shard where
/// their hash does not lead. A directory then lists what can be looked up, and nothing else.
fn expand_shard(
    node: &Node,
    shape: ShardShape,
    from: &Branch,
) -> Result<(Vec<Entry>, Vec<Branch>), UnixfsError> {
    let invalid = |InvalidData(reason)| UnixfsError::Invalid {
        cid: *node.cid(),
        reason,
    };
    // Nobody writes such a shard; many links to it would make a search of one that has no end.
    if from.fanout.is_some() && node.links() == 0 {
        return Err(invalid(InvalidData("it is an empty shard below another")));
    }
    let mut entries = Vec::new();
    let mut shards = Vec::new();
    let mut before = None;
    for link in &node.pb()?.links {
        let (position, name) = shape.split_name(link.name).map_err(invalid)?;
        if before.replace(position) >= Some(position) {
            return Err(invalid(InvalidData("its HAMT links are not in order")));
        }
        let trail = from.trail.down(shape, position);
        let trail = trail.ok_or(UnixfsError::TooDeep {
            cid: link.cid,
            limit: limits::MAX_HAMT_DEPTH,
        })?;
        if name.is_empty() {
            shards.push(Branch {
                cid: link.cid,
                fanout: Some(shape),
                trail,
            });
        } else if trail.leads_to(hamt::hash_name(name)) {
            entries.push(entry(link, link.name.len() - name.len()));
        } else {
            return Err(invalid(InvalidData(
                "a HAMT link is not where the hash of its name leads",
            )));
        }
    }
    Ok((entries, shards))
}

fn entry(link: &PbLink<'_>, prefix: usize) -> Entry {
    Entry {
        name: link.name[prefix..].into(),
        cid: link.cid,
        cumulative_size: link.size,
    }
}

/// Builds one directory node, entry by entry in any order.
#[derive(Clone, Debug, Default)]
pub struct DirectoryBuilder {
    entries: EntryTable,
    metadata: Metadata,
    /// Sum of the lengths of names and CIDs.
    link_bytes: u64,
    /// Length of the encoded links.
    block_bytes: u64,
}

/// A directory that was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuiltDirectory {
    /// Its root.
    pub cid: Cid,
    /// Bytes of all its blocks and of what its entries point to.
    pub cumulative_size: u64,
}

impl DirectoryBuilder {
    /// An empty directory that records `metadata`.
    pub fn new(metadata: Metadata) -> DirectoryBuilder {
        DirectoryBuilder {
            metadata,
            ..DirectoryBuilder::default()
        }
    }

    /// Adds an entry. `cumulative_size` is that of all blocks below `cid`.
    pub fn add(&mut self, name: &EntryName, cid: &Cid, cumulative_size: u64) {
        let cid_length = cid.encoded_len();
        let name_length = name.as_bytes().len();
        let field = |length: usize| 1 + varint_length(length as u64) + length;
        let link = field(cid_length) + field(name_length) + 1 + varint_length(cumulative_size);
        self.link_bytes += (cid_length + name_length) as u64;
        self.block_bytes += field(link) as u64;
        self.entries.push(name.as_bytes(), cid, cumulative_size);
    }

    /// Writes the directory to `put`, in one block or as a HAMT, as `profile` says.
    ///
    /// # Errors
    /// [`UnixfsError::DuplicateName`], where the directory cannot be written in this profile,
    /// and those of `put`.
    pub fn finish(
        self,
        profile: &Profile,
        put: &mut dyn FnMut(Block) -> Result<(), UnixfsError>,
    ) -> Result<BuiltDirectory, UnixfsError> {
        let message = data::directory(&self.metadata);
        let data_field = 1 + varint_length(message.len() as u64) + message.len();
        let block_bytes = self.block_bytes + data_field as u64;
        let sharded = match profile.shard_threshold {
            ShardThreshold::LinkBytes(threshold) => self.link_bytes > threshold,
            ShardThreshold::BlockBytes(threshold) => block_bytes > threshold,
            ShardThreshold::Never => false,
        };
        if sharded {
            let shard = hamt_writer::write(
                &self.entries,
                profile.hamt_fanout,
                profile.cid_version,
                &self.metadata,
                put,
            )?;
            return Ok(BuiltDirectory {
                cid: shard.cid,
                cumulative_size: shard.cumulative_bytes,
            });
        }
        if block_bytes > limits::MAX_BLOCK_BYTES as u64 {
            return Err(UnixfsError::DirectoryTooLarge {
                entries: self.entries.len(),
            });
        }
        self.finish_flat(&message, profile, put)
    }

    fn finish_flat(
        self,
        message: &[u8],
        profile: &Profile,
        put: &mut dyn FnMut(Block) -> Result<(), UnixfsError>,
    ) -> Result<BuiltDirectory, UnixfsError> {
        let mut order: Vec<usize> = (0..self.entries.len()).collect();
        order.sort_by(|a, b| self.entries.get(*a).name.cmp(self.entries.get(*b).name));
        let mut node = PbWriter::default();
        let mut below = 0u64;
        let mut before: Option<&[u8]> = None;
        for index in order {
            let entry = self.entries.get(index);
            if before == Some(entry.name) {
                return Err(duplicate(entry.name));
            }
            before = Some(entry.name);
            node.link(&entry.cid, entry.name, entry.size);
            below = below.saturating_add(entry.size);
        }
        let block = Block::new(profile.cid_version, DAG_PB, node.finish(message).into());
        let built = BuiltDirectory {
            cid: *block.cid(),
            cumulative_size: below.saturating_add(block.data().len() as u64),
        };
        put(block)?;
        Ok(built)
    }
}

fn duplicate(name: &[u8]) -> UnixfsError {
    UnixfsError::DuplicateName { name: escape(name) }
}
