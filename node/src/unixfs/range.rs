//! Reads any part of a file, and says what comes after it.
//!
//! The caller loads nodes, and so may keep the inner ones: a reader that jumps meets them again and
//! again.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::node::{Content, FilePart, Node};
use super::{NodeKind, UnixfsError};
use crate::block::Cid;
use crate::limits;

/// Pieces of less than one in this many bytes of their block are copied.
const SMALL_PART: usize = 8;

/// Most nodes that one read visits. Chunks of a few bytes are made to cost time.
const MAX_NODES_A_READ: usize = 64 * 1024;

/// A part of a file, where it begins in the file and how deep below the root it is.
#[derive(Clone, Copy, Debug)]
struct Placed {
    part: FilePart,
    start: u64,
    depth: usize,
}

/// The content of the file `root` in `range`, in pieces that are slices of its blocks; short where
/// the file ends before. `load` gives the nodes below the root.
///
/// # Errors
/// [`UnixfsError::NotFile`], where a part is none or not of the size that its parent declares, and
/// those of `load`.
pub fn read_range(
    root: &Node,
    range: Range<u64>,
    load: &mut dyn FnMut(&Cid) -> Result<Arc<Node>, UnixfsError>,
) -> Result<Vec<Bytes>, UnixfsError> {
    if root.kind() != NodeKind::File {
        return Err(UnixfsError::NotFile {
            cid: *root.cid(),
            kind: root.kind(),
        });
    }
    let mut pieces = Vec::new();
    let mut pending = Vec::new();
    let mut visited = 0;
    take_overlap(root, 0, 1, &range, &mut pieces, &mut pending);
    while let Some(next) = pending.pop() {
        visited += 1;
        if next.depth > limits::MAX_FILE_DEPTH || visited > MAX_NODES_A_READ {
            return Err(UnixfsError::TooDeep {
                cid: next.part.cid,
                limit: limits::MAX_FILE_DEPTH,
            });
        }
        let node = load(&next.part.cid)?;
        check_part(&next.part, &node)?;
        let depth = next.depth + 1;
        take_overlap(&node, next.start, depth, &range, &mut pieces, &mut pending);
    }
    Ok(pieces)
}

/// Takes what `node`, which begins at `start`, has of `range`: its own bytes at once, its parts in
/// turn, the first on top.
fn take_overlap(
    node: &Node,
    start: u64,
    depth: usize,
    range: &Range<u64>,
    pieces: &mut Vec<Bytes>,
    pending: &mut Vec<Placed>,
) {
    let Content::File { inline, parts } = &node.content else {
        return;
    };
    let from = range.start.saturating_sub(start).min(inline.len() as u64);
    let to = range.end.saturating_sub(start).min(inline.len() as u64);
    if from < to {
        let piece = inline.slice(from as usize..to as usize);
        // A slice keeps the whole block in memory, which has to be worth it.
        let is_small = piece.len() * SMALL_PART < node.block_bytes();
        pieces.push(if is_small {
            Bytes::copy_from_slice(&piece)
        } else {
            piece
        });
    }
    let first = pending.len();
    let mut start = start + inline.len() as u64;
    for part in parts {
        let end = start + part.size;
        // Parts of no bytes are left out: there is nothing to read in them, however deep they go.
        if part.size > 0 && start < range.end && end > range.start {
            pending.push(Placed {
                part: *part,
                start,
                depth,
            });
        }
        start = end;
    }
    pending[first..].reverse();
}

/// The blocks that a reader at `offset` of the file `root` needs next, up to `bytes` of content, `most` of
/// them. An inner node that `known` does not give stands for all below it.
pub fn blocks_from(
    root: &Node,
    offset: u64,
    bytes: u64,
    most: usize,
    known: &mut dyn FnMut(&Cid) -> Option<Arc<Node>>,
) -> Vec<Cid> {
    let range = offset..offset.saturating_add(bytes);
    let mut needed = Vec::new();
    let mut pending = Vec::new();
    take_overlap(root, 0, 1, &range, &mut Vec::new(), &mut pending);
    while needed.len() < most
        && let Some(next) = pending.pop()
    {
        match known(&next.part.cid) {
            Some(node) if next.depth <= limits::MAX_FILE_DEPTH => {
                let depth = next.depth + 1;
                take_overlap(
                    &node,
                    next.start,
                    depth,
                    &range,
                    &mut Vec::new(),
                    &mut pending,
                );
            }
            _ => needed.push(next.part.cid),
        }
    }
    needed
}

/// Checks that `node` is a part of a file, of the declared size.
pub(super) fn check_part(part: &FilePart, node: &Node) -> Result<(), UnixfsError> {
    if node.kind() != NodeKind::File {
        return Err(UnixfsError::NotFile {
            cid: part.cid,
            kind: node.kind(),
        });
    }
    if node.size() != part.size {
        return Err(UnixfsError::SizeMismatch {
            cid: part.cid,
            declared: part.size,
            actual: node.size(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::MemoryBlocks;
    use crate::progress::Silent;
    use crate::unixfs::{ImportOptions, import_stream};

    /// Three levels of small chunks.
    fn file(content: &[u8]) -> (MemoryBlocks, Node) {
        let blocks = MemoryBlocks::default();
        let mut options = ImportOptions::default();
        options.profile.chunk_bytes = 10;
        options.profile.links_per_node = 3;
        let imported = import_stream(&blocks, &mut &*content, &options, &Silent).unwrap();
        let root = Node::load(&blocks, &imported.cid).unwrap();
        (blocks, root)
    }

    #[test]
    fn any_range_is_that_of_the_content() {
        let content: Vec<u8> = (0..187).collect();
        let (blocks, root) = file(&content);
        for start in 0..200 {
            for end in start..200 {
                let mut load = |cid: &Cid| Node::load(&blocks, cid).map(Arc::new);
                let pieces = read_range(&root, start..end, &mut load).unwrap();
                let clipped = (start.min(187) as usize)..(end.min(187) as usize);
                assert_eq!(pieces.concat(), content[clipped], "{start}..{end}");
            }
        }
    }

    #[test]
    fn a_read_loads_the_nodes_on_its_way_alone() {
        let (blocks, root) = file(&[7; 187]);
        let mut loaded = 0;
        let mut load = |cid: &Cid| {
            loaded += 1;
            Node::load(&blocks, cid).map(Arc::new)
        };
        read_range(&root, 95..96, &mut load).unwrap();
        assert_eq!(loaded, 3);
    }

    #[test]
    fn known_blocks_that_follow_are_reported() {
        let content: Vec<u8> = (0..187).collect();
        let (blocks, root) = file(&content);
        let mut known = |cid: &Cid| {
            let node = Node::load(&blocks, cid).unwrap();
            (node.links() > 0).then(|| Arc::new(node))
        };
        let leaves = blocks_from(&root, 85, 20, 99, &mut known);
        let read: Vec<u8> = leaves
            .iter()
            .flat_map(|cid| {
                let leaf = Node::load(&blocks, cid).unwrap();
                let mut nothing = |_: &Cid| unreachable!("a leaf has no parts");
                read_range(&leaf, 0..10, &mut nothing).unwrap().concat()
            })
            .collect();
        assert_eq!(read, content[80..110]);
        assert_eq!(blocks_from(&root, 0, 187, 99, &mut |_| None).len(), 3);
        assert!(blocks_from(&root, 187, 100, 99, &mut |_| None).is_empty());
    }
}
