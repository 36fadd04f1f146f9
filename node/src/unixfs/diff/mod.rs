//! Differences between two trees: entries that were added, removed or changed.
//!
//! Subtrees of the same CID are not read. Where a file has another CID, its content is compared: the same bytes
//! in other chunks are told from a change.

mod content;
mod entries;

use std::ops::Range;

use super::{Node, NodeKind, UnixfsError};
use crate::block::{Cid, ReadBlocks};
use crate::limits;
use crate::path::EntryName;
use crate::progress::Reporter;

/// One difference, at a path below the roots; that of the roots themselves is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Names of entries, separated by `/`.
    pub path: Vec<u8>,
    /// What differs.
    pub change: Change,
}

/// What differs at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the second tree has the entry, with all below it.
    Added(Cid),
    /// Only the first tree has the entry, with all below it.
    Removed(Cid),
    /// Both have an entry that is no directory in both, or directories whose metadata differ.
    Changed(Changed),
}

/// How an entry differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its content in the first and in the second tree.
    pub cids: [Cid; 2],
    /// What it is in both; none for data that is no file, directory or link.
    pub kinds: [Option<NodeKind>; 2],
    /// For two files, the first bytes in which they differ.
    pub first_difference: Option<Range<u64>>,
    /// Whether mode or modification time differ.
    pub has_other_metadata: bool,
}

impl Changed {
    /// Whether two files have the same bytes, in other chunks or with other metadata.
    pub fn has_same_bytes(&self) -> bool {
        self.kinds == [Some(NodeKind::File); 2] && self.first_difference.is_none()
    }
}

/// Two directories that are still to be compared.
struct Below {
    path: Vec<u8>,
    depth: usize,
    cids: [Cid; 2],
}

/// Calls `visit` for each difference between the trees `from` and `to`: directory by directory, and by name in each.
///
/// # Errors
/// Where a node that must be read is missing or malformed, [`UnixfsError::TooDeep`],
/// [`UnixfsError::Interrupted`], and those of `visit`.
pub fn diff(
    blocks: &dyn ReadBlocks,
    from: &Cid,
    to: &Cid,
    reporter: &dyn Reporter,
    visit: &mut dyn FnMut(Difference) -> Result<(), UnixfsError>,
) -> Result<(), UnixfsError> {
    let mut pending = Vec::new();
    compare(
        blocks,
        [*from, *to],
        Vec::new(),
        0,
        reporter,
        visit,
        &mut pending,
    )?;
    while let Some(directory) = pending.pop() {
        if directory.depth > limits::MAX_DIRECTORY_DEPTH {
            return Err(UnixfsError::TooDeep {
                cid: directory.cids[1],
                limit: limits::MAX_DIRECTORY_DEPTH,
            });
        }
        let [from, to] = &directory.cids;
        let mut below = Vec::new();
        for (name, pair) in entries::differing(blocks, from, to)? {
            let name = EntryName::new(&name).map_err(|source| UnixfsError::EntryName {
                directory: directory.cids[usize::from(pair.1.is_some())],
                source,
            })?;
            let mut path = directory.path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            let change = match pair {
                (Some(from), Some(to)) => {
                    let (cids, depth) = ([from.cid, to.cid], directory.depth);
                    compare(blocks, cids, path, depth, reporter, visit, &mut below)?;
                    continue;
                }
                (Some(entry), None) => Change::Removed(entry.cid),
                (None, Some(entry)) => Change::Added(entry.cid),
                (None, None) => continue,
            };
            visit(Difference { path, change })?;
        }
        pending.extend(below.into_iter().rev());
    }
    Ok(())
}

/// Compares two nodes; two directories are left for later.
fn compare(
    blocks: &dyn ReadBlocks,
    cids: [Cid; 2],
    path: Vec<u8>,
    depth: usize,
    reporter: &dyn Reporter,
    visit: &mut dyn FnMut(Difference) -> Result<(), UnixfsError>,
    below: &mut Vec<Below>,
) -> Result<(), UnixfsError> {
    if reporter.cancel().is_cancelled() {
        return Err(UnixfsError::Interrupted);
    }
    if cids[0] == cids[1] {
        return Ok(());
    }
    blocks.expect(&cids);
    let [from, to] = &cids;
    let nodes = [
        Node::load_if_unixfs(blocks, from)?,
        Node::load_if_unixfs(blocks, to)?,
    ];
    let kinds = nodes.each_ref().map(|node| node.as_ref().map(Node::kind));
    let are_directories = kinds
        .iter()
        .all(|kind| kind.is_some_and(NodeKind::is_directory));
    let (mut has_other_metadata, mut first_difference) = (false, None);
    if let [Some(from), Some(to)] = &nodes {
        has_other_metadata = from.metadata() != to.metadata();
        if kinds == [Some(NodeKind::File); 2] {
            first_difference = content::first_difference(blocks, from, to, reporter)?;
        }
    }
    if are_directories {
        below.push(Below {
            path: path.clone(),
            depth: depth + 1,
            cids,
        });
    }
    if !are_directories || has_other_metadata {
        let change = Change::Changed(Changed {
            cids,
            kinds,
            first_difference,
            has_other_metadata,
        });
        visit(Difference { path, change })?;
    }
    Ok(())
}
