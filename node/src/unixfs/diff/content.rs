//! The first byte range in which two files differ, found by comparing their DAGs.
//!
//! ```text
//! from   [ A          ][ B     ]      A is skipped: both have it at this offset
//! to     [ A          ][ C ][ D ]     B and C are read, up to the first byte that differs
//! ```

use std::ops::Range;

use bytes::Bytes;

use super::super::UnixfsError;
use super::super::node::{Content, FilePart, Node};
use super::super::range::check_part;
use crate::block::ReadBlocks;
use crate::limits;
use crate::progress::Reporter;

/// The first bytes in which the files `from` and `to` differ; none if they have the same content. Where one file
/// ends, the rest of the other differs.
///
/// # Errors
/// Where a node that must be read is missing or malformed, and [`UnixfsError::Interrupted`].
pub(super) fn first_difference(
    blocks: &dyn ReadBlocks,
    from: &Node,
    to: &Node,
    reporter: &dyn Reporter,
) -> Result<Option<Range<u64>>, UnixfsError> {
    let (mut one, mut other) = (Cursor::new(blocks, from), Cursor::new(blocks, to));
    let mut offset = 0_u64;
    let mut start = None;
    loop {
        if reporter.cancel().is_cancelled() {
            return Err(UnixfsError::Interrupted);
        }
        if let Some(size) = same_part(&one, &other) {
            if let Some(start) = start {
                return Ok(Some(start..offset));
            }
            one.pending.pop();
            other.pending.pop();
            offset += size;
            continue;
        }
        match (one.next_size(), other.next_size()) {
            (None, None) => return Ok(start.map(|start| start..offset)),
            (None, Some(_)) => return Ok(Some(start.unwrap_or(offset)..to.size())),
            (Some(_), None) => return Ok(Some(start.unwrap_or(offset)..from.size())),
            (Some(size), Some(counterpart)) => {
                // Parts that begin together may contain the same one.
                if one.leaf.is_empty() && (size >= counterpart || !other.leaf.is_empty()) {
                    one.expand()?;
                }
                if other.leaf.is_empty() && (counterpart >= size || !one.leaf.is_empty()) {
                    other.expand()?;
                }
            }
        }
        let length = one.leaf.len().min(other.leaf.len());
        let pairs = one.leaf.iter().zip(&other.leaf);
        for (index, (byte, counterpart)) in pairs.enumerate() {
            let at = offset + index as u64;
            match start {
                None if byte != counterpart => start = Some(at),
                Some(start) if byte == counterpart => return Ok(Some(start..at)),
                _ => {}
            }
        }
        offset += length as u64;
        one.leaf = one.leaf.split_off(length);
        other.leaf = other.leaf.split_off(length);
    }
}

/// The size of the part that both have next, if that is the same one.
fn same_part(one: &Cursor<'_>, other: &Cursor<'_>) -> Option<u64> {
    if !one.leaf.is_empty() || !other.leaf.is_empty() {
        return None;
    }
    let (next, counterpart) = (one.pending.last()?.part, other.pending.last()?.part);
    (next == counterpart).then_some(next.size)
}

/// A place in a file.
struct Cursor<'b> {
    blocks: &'b dyn ReadBlocks,
    /// Parts that follow the leaf, the next one last.
    pending: Vec<Placed>,
    /// What is left of a leaf.
    leaf: Bytes,
}

#[derive(Clone, Copy)]
struct Placed {
    part: FilePart,
    depth: usize,
}

impl<'b> Cursor<'b> {
    fn new(blocks: &'b dyn ReadBlocks, root: &Node) -> Cursor<'b> {
        let mut cursor = Cursor {
            blocks,
            pending: Vec::new(),
            leaf: Bytes::new(),
        };
        cursor.enter(root, 1);
        cursor
    }

    /// Bytes of the leaf or part that is next; none at the end.
    fn next_size(&self) -> Option<u64> {
        match self.leaf.len() {
            0 => self.pending.last().map(|next| next.part.size),
            length => Some(length as u64),
        }
    }

    /// Reads the next part.
    fn expand(&mut self) -> Result<(), UnixfsError> {
        let Some(next) = self.pending.pop() else {
            return Ok(());
        };
        if next.depth > limits::MAX_FILE_DEPTH {
            return Err(UnixfsError::TooDeep {
                cid: next.part.cid,
                limit: limits::MAX_FILE_DEPTH,
            });
        }
        let node = Node::load(self.blocks, &next.part.cid)?;
        check_part(&next.part, &node)?;
        self.enter(&node, next.depth + 1);
        Ok(())
    }

    fn enter(&mut self, node: &Node, depth: usize) {
        if let Content::File { inline, parts } = &node.content {
            self.leaf = inline.clone();
            // Parts without content are not read: their number may be made to grow without end.
            let parts = parts.iter().rev().filter(|part| part.size > 0);
            self.pending
                .extend(parts.map(|part| Placed { part: *part, depth }));
        }
    }
}
