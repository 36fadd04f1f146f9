//! Writes HAMT directories.

use super::UnixfsError;
use super::data::{self, Metadata};
use super::entries::EntryTable;
use super::hamt::{hash_name, position, prefix};
use crate::block::{Block, Cid, DAG_PB};
use crate::dag::pb::PbWriter;
use crate::path::escape;

/// A shard that was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct WrittenShard {
    pub(super) cid: Cid,
    /// Bytes of the shard and everything below.
    pub(super) cumulative_bytes: u64,
}

/// Writes the HAMT of `entries`, handing each block to `put`, children before parents.
pub(super) fn write(
    entries: &EntryTable,
    fanout: u64,
    version: cid::Version,
    metadata: &Metadata,
    put: &mut dyn FnMut(Block) -> Result<(), UnixfsError>,
) -> Result<WrittenShard, UnixfsError> {
    let mut order: Vec<(u64, u32)> = (0..entries.len())
        .map(|index| (hash_name(entries.get(index).name), index as u32))
        .collect();
    // Entries of one shard stand together: the order of hashes is that of a walk through the trie.
    order.sort_unstable();
    let writer = TrieWriter {
        entries,
        fanout,
        version,
    };
    writer.shard(&order, 0, metadata, put)
}

struct TrieWriter<'a> {
    entries: &'a EntryTable,
    fanout: u64,
    version: cid::Version,
}

impl TrieWriter<'_> {
    /// Writes the shard of the entries in `order`, which share their hash bits above `level`.
    /// Recursion goes at most as deep as the hash has bits: 22 levels.
    fn shard(
        &self,
        order: &[(u64, u32)],
        level: u32,
        metadata: &Metadata,
        put: &mut dyn FnMut(Block) -> Result<(), UnixfsError>,
    ) -> Result<WrittenShard, UnixfsError> {
        let bits = self.fanout.trailing_zeros();
        let mut node = PbWriter::default();
        let mut bitfield = vec![0u8; (self.fanout / 8) as usize];
        let mut below = 0u64;
        let mut rest = order;
        while let Some((hash, index)) = rest.first() {
            let here = position(*hash, level, bits).ok_or_else(|| self.collision(order, *index))?;
            let count =
                rest.partition_point(|(hash, _)| position(*hash, level, bits) <= Some(here));
            let (group, others) = rest.split_at(count);
            rest = others;
            // Big-endian: position 0 is the lowest bit of the last byte.
            let byte = bitfield.len() - 1 - (here / 8) as usize;
            bitfield[byte] |= 1 << (here % 8);
            let mut name = prefix(here, self.fanout).into_bytes();
            let (cid, size) = if let [(_, index)] = group {
                let entry = self.entries.get(*index as usize);
                name.extend_from_slice(entry.name);
                (entry.cid, entry.size)
            } else {
                let shard = self.shard(group, level + 1, &Metadata::default(), put)?;
                (shard.cid, shard.cumulative_bytes)
            };
            node.link(&cid, &name, size);
            below += size;
        }
        let significant = bitfield
            .iter()
            .position(|byte| *byte != 0)
            .unwrap_or(bitfield.len());
        let message = data::shard(&bitfield[significant..], self.fanout, metadata);
        let block = Block::new(self.version, DAG_PB, node.finish(&message).into());
        let written = WrittenShard {
            cid: *block.cid(),
            cumulative_bytes: below + block.data().len() as u64,
        };
        put(block)?;
        Ok(written)
    }

    /// The error for entries that no bit of their hashes tells apart.
    fn collision(&self, order: &[(u64, u32)], index: u32) -> UnixfsError {
        let named = self.entries.get(index as usize).name;
        let same = order
            .iter()
            .filter(|(_, other)| self.entries.get(*other as usize).name == named);
        let name = escape(named);
        if same.count() > 1 {
            UnixfsError::DuplicateName { name }
        } else {
            UnixfsError::HashCollision { name }
        }
    }
}
