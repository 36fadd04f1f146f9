//! Merging directory trees: later ones win, directories of the same name are merged.
//!
//! Only directories with one path in several trees are read. Everything else is taken as a whole, by its
//! link, so that its blocks need not be here.

use std::collections::BTreeMap;

use super::directory::{BuiltDirectory, DirectoryBuilder, Entry, Listing};
use super::{Metadata, Node, UnixfsError};
use crate::block::{Block, Cid, ReadBlocks};
use crate::limits;
use crate::path::EntryName;
use crate::profile::Profile;
use crate::progress::Reporter;

/// Directories with one path, which become one directory.
struct Merging {
    name: Option<EntryName>,
    /// Entries of these directories by their names, in the order of the trees; those that are still to be added.
    entries: BTreeMap<EntryName, Vec<Entry>>,
    builder: DirectoryBuilder,
}

/// Merges the directories `trees`, of which there is at least one. A file of a later tree replaces a directory of an earlier one. The merged
/// directories record the metadata of the last tree that records any. New blocks go to `put`; `profile` says when
/// a directory is sharded.
///
/// # Errors
/// [`UnixfsError::NotDirectory`] for a tree that is a file, [`UnixfsError::TooDeep`],
/// [`UnixfsError::Interrupted`], where a block that is needed is missing, and those of `put`.
///
/// # Panics
/// Without a tree.
pub fn merge(
    blocks: &dyn ReadBlocks,
    trees: &[Cid],
    profile: &Profile,
    reporter: &dyn Reporter,
    put: &mut dyn FnMut(Block) -> Result<(), UnixfsError>,
) -> Result<BuiltDirectory, UnixfsError> {
    let roots: Vec<Node> = trees
        .iter()
        .map(|tree| Node::load(blocks, tree))
        .collect::<Result<_, _>>()?;
    if let Some(root) = roots.iter().find(|root| !root.kind().is_directory()) {
        let (cid, kind) = (*root.cid(), root.kind());
        return Err(UnixfsError::NotDirectory { cid, kind });
    }
    let (first, others) = roots.split_first().expect("there is a tree");
    if others.iter().all(|root| root.cid() == first.cid()) {
        return Ok(BuiltDirectory {
            cid: *first.cid(),
            cumulative_size: first.cumulative_size(),
        });
    }
    let mut open = vec![Merging::new(blocks, None, &roots)?];
    loop {
        if reporter.cancel().is_cancelled() {
            return Err(UnixfsError::Interrupted);
        }
        let top = open
            .last_mut()
            .expect("the root is open until it is returned");
        if let Some((name, same)) = top.entries.pop_first() {
            let directories = directories_at_end(blocks, &same)?;
            if directories.len() < 2 {
                let last = same.last().expect("a name has an entry");
                top.builder.add(&name, &last.cid, last.cumulative_size);
                continue;
            }
            if open.len() >= limits::MAX_DIRECTORY_DEPTH {
                let limit = limits::MAX_DIRECTORY_DEPTH;
                let cid = trees[trees.len() - 1];
                return Err(UnixfsError::TooDeep { cid, limit });
            }
            open.push(Merging::new(blocks, Some(name), &directories)?);
            continue;
        }
        let done = open.pop().expect("the top was there");
        let built = done.builder.finish(profile, put)?;
        match (open.last_mut(), done.name) {
            (Some(parent), Some(name)) => {
                parent.builder.add(&name, &built.cid, built.cumulative_size);
            }
            _ => return Ok(built),
        }
    }
}

/// The different directories at the end of a list of entries with one name: a file replaces what is before it.
/// Nothing is read where all entries are the same.
fn directories_at_end(
    blocks: &dyn ReadBlocks,
    entries: &[Entry],
) -> Result<Vec<Node>, UnixfsError> {
    let mut directories: Vec<Node> = Vec::new();
    let is_same = entries.iter().all(|entry| entry.cid == entries[0].cid);
    if is_same {
        return Ok(directories);
    }
    for entry in entries.iter().rev() {
        // Data of another kind is taken as a whole, as a file is.
        let node = Node::load_if_unixfs(blocks, &entry.cid)?;
        let Some(node) = node.filter(|node| node.kind().is_directory()) else {
            break;
        };
        if directories.iter().all(|known| known.cid() != node.cid()) {
            directories.push(node);
        }
    }
    directories.reverse();
    Ok(directories)
}

impl Merging {
    fn new(
        blocks: &dyn ReadBlocks,
        name: Option<EntryName>,
        directories: &[Node],
    ) -> Result<Merging, UnixfsError> {
        let mut entries: BTreeMap<EntryName, Vec<Entry>> = BTreeMap::new();
        for directory in directories {
            let cid = *directory.cid();
            let mut listing = Listing::new(cid);
            while let Some(entry) = listing.next(blocks)? {
                let name = entry.checked_name(&cid)?;
                entries.entry(name).or_default().push(entry);
            }
        }
        let recorded = directories.iter().rev().map(Node::metadata);
        let metadata = recorded
            .into_iter()
            .find(|metadata| **metadata != Metadata::default());
        Ok(Merging {
            name,
            entries,
            builder: DirectoryBuilder::new(metadata.copied().unwrap_or_default()),
        })
    }
}
