//! The entries in which two directories differ.
//!
//! Shards of the same CID are skipped, so that two directories of 100,000 entries that differ in one are
//! compared by a few blocks.

use std::collections::BTreeMap;

use super::super::UnixfsError;
use super::super::directory::{Branch, Entry, expand};
use super::super::node::{Content, Node};
use crate::block::{Cid, ReadBlocks};

/// A name that stands for different content in two directories, or is in one of them only.
pub(super) type Pair = (Option<Entry>, Option<Entry>);

/// Entries by their names.
type Entries = BTreeMap<Box<[u8]>, Entry>;

/// The entries in which the directories `from` and `to` differ, by their names.
///
/// # Errors
/// Where a node that must be read is missing or malformed.
pub(super) fn differing(
    blocks: &dyn ReadBlocks,
    from: &Cid,
    to: &Cid,
) -> Result<BTreeMap<Box<[u8]>, Pair>, UnixfsError> {
    let (mut left, mut right) = (Entries::new(), Entries::new());
    let mut pending = vec![(Branch::root(*from), Branch::root(*to))];
    while let Some((one, other)) = pending.pop() {
        if one == other {
            continue;
        }
        let (node, counterpart) = (
            Node::load(blocks, one.cid())?,
            Node::load(blocks, other.cid())?,
        );
        if !have_same_shape(&node, &counterpart) {
            take_all(blocks, one, &mut left)?;
            take_all(blocks, other, &mut right)?;
            continue;
        }
        let (entries, shards) = expand(&node, &one)?;
        add(&mut left, entries);
        let (entries, counterparts) = expand(&counterpart, &other)?;
        add(&mut right, entries);
        let mut counterparts: Vec<Option<Branch>> = counterparts.into_iter().map(Some).collect();
        for shard in shards {
            let same_place = |other: &&mut Option<Branch>| {
                other
                    .as_ref()
                    .is_some_and(|other| other.trail == shard.trail)
            };
            match counterparts
                .iter_mut()
                .find(same_place)
                .and_then(Option::take)
            {
                Some(counterpart) => pending.push((shard, counterpart)),
                None => take_all(blocks, shard, &mut left)?,
            }
        }
        for shard in counterparts.into_iter().flatten() {
            take_all(blocks, shard, &mut right)?;
        }
    }
    let mut pairs: BTreeMap<Box<[u8]>, Pair> = BTreeMap::new();
    for (name, entry) in left {
        let counterpart = right.remove(&name);
        let is_same = counterpart
            .as_ref()
            .is_some_and(|counterpart| counterpart.cid == entry.cid);
        if !is_same {
            pairs.insert(name, (Some(entry), counterpart));
        }
    }
    let added = right
        .into_iter()
        .map(|(name, entry)| (name, (None, Some(entry))));
    pairs.extend(added);
    Ok(pairs)
}

fn have_same_shape(one: &Node, other: &Node) -> bool {
    match (&one.content, &other.content) {
        (Content::Shard(one), Content::Shard(other)) => one == other,
        (one, other) => !matches!(one, Content::Shard(_)) && !matches!(other, Content::Shard(_)),
    }
}

/// Adds all entries in and below a node of a directory.
fn take_all(
    blocks: &dyn ReadBlocks,
    branch: Branch,
    entries: &mut Entries,
) -> Result<(), UnixfsError> {
    let mut pending = vec![branch];
    while let Some(branch) = pending.pop() {
        let (found, shards) = expand(&Node::load(blocks, branch.cid())?, &branch)?;
        add(entries, found);
        pending.extend(shards);
    }
    Ok(())
}

fn add(entries: &mut Entries, found: Vec<Entry>) {
    entries.extend(found.into_iter().map(|entry| (entry.name.clone(), entry)));
}
