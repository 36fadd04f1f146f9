//! Walks a DAG depth first, each block once.
//!
//! Iterative and bounded: the stack holds the pending links of one path, and the set of blocks
//! already seen takes 16 bytes of their digests each.

use std::collections::HashMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::{DagError, links};
use crate::block::{
    BlockError, Cid, DAG_CBOR, DAG_PB, IDENTITY, Multihash, RAW, ReadBlocks, ReadBlocksExt,
    sha2_256,
};
use crate::limits;

/// One block as a walk meets it.
#[derive(Debug)]
pub struct Visit<'a> {
    /// The block.
    pub cid: &'a Cid,
    /// Its verified data, or why it could not be had. The walk goes on without what is below a
    /// block that could not be had.
    pub data: Result<&'a Bytes, BlockError>,
}

/// Which blocks a walk has met. Blocks count as the same where hash and codec are, since the codec
/// decides which links they have.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    codecs: HashMap<[u8; 16], u8>,
}

impl Seen {
    /// Adds the block; false if it was there.
    pub(crate) fn insert(&mut self, cid: &Cid) -> bool {
        let codec = match cid.codec() {
            RAW => 1,
            DAG_PB => 2,
            DAG_CBOR => 4,
            _ => 8,
        };
        let codecs = self.codecs.entry(Seen::key(cid.hash())).or_default();
        let fresh = *codecs & codec == 0;
        *codecs |= codec;
        fresh
    }

    /// Adds the block as one whose links were not followed.
    pub(crate) fn insert_alone(&mut self, cid: &Cid) {
        self.codecs.entry(Seen::key(cid.hash())).or_default();
    }

    /// Whether a block of this hash was added, under any codec.
    pub(crate) fn contains(&self, hash: &Multihash) -> bool {
        self.codecs.contains_key(&Seen::key(hash))
    }

    fn key(hash: &Multihash) -> [u8; 16] {
        let mut key = [0; 16];
        if hash.code() == IDENTITY {
            // Inline data is no hash: much of it may share a prefix.
            key.copy_from_slice(&sha2_256(&[hash.digest()]).digest()[..16]);
        } else {
            let length = hash.digest().len().min(key.len());
            key[..length].copy_from_slice(&hash.digest()[..length]);
        }
        key
    }
}

/// Visits every block of the DAG below `root`, `root` first, each once, parents before children
/// and the first link's subtree before the second's. `visit` may end the walk with `Break`.
///
/// # Errors
/// A block that is there and malformed, a codec without known links, and a DAG too deep. A block
/// that cannot be had is no error here: `visit` is told.
pub fn walk<T>(
    blocks: &dyn ReadBlocks,
    root: &Cid,
    visit: &mut dyn FnMut(Visit<'_>) -> ControlFlow<T>,
) -> Result<ControlFlow<T>, DagError> {
    walk_unseen(blocks, root, &mut Seen::default(), visit)
}

/// As [`walk`], leaving out what `seen` holds and adding to it.
pub(crate) fn walk_unseen<T>(
    blocks: &dyn ReadBlocks,
    root: &Cid,
    seen: &mut Seen,
    visit: &mut dyn FnMut(Visit<'_>) -> ControlFlow<T>,
) -> Result<ControlFlow<T>, DagError> {
    let mut stack = vec![(*root, 0)];
    while let Some((cid, depth)) = stack.pop() {
        if !seen.insert(&cid) {
            continue;
        }
        let data = blocks.get(&cid);
        let below = match &data {
            Ok(data) => links(&cid, data)?,
            Err(_) => Vec::new(),
        };
        let visited = match data {
            Ok(data) => visit(Visit {
                cid: &cid,
                data: Ok(&data),
            }),
            Err(error) => visit(Visit {
                cid: &cid,
                data: Err(error),
            }),
        };
        if visited.is_break() {
            return Ok(visited);
        }
        if depth >= limits::MAX_DAG_DEPTH && !below.is_empty() {
            return Err(DagError::TooDeep { root: *root });
        }
        stack.extend(below.into_iter().rev().map(|link| (link, depth + 1)));
    }
    Ok(ControlFlow::Continue(()))
}

/// The first block of the DAG below `root` that cannot be had, with the reason; `None` when the
/// DAG is complete.
///
/// # Errors
/// As [`walk`].
pub fn first_missing(blocks: &dyn ReadBlocks, root: &Cid) -> Result<Option<BlockError>, DagError> {
    let outcome = walk(blocks, root, &mut |visit| match visit.data {
        Ok(_) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    })?;
    Ok(outcome.break_value())
}
