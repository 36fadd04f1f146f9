//! The balanced tree of a file, built while its leaves come.
//!
//! A level holds the children of the node that is being filled there. A full level becomes a node
//! one level up when a further child comes, so that the last node of each level may be partly
//! filled and all leaves are equally deep: the layout of Kubo's `balanced` builder.

use super::super::UnixfsError;
use super::super::data::{self, Metadata};
use super::Imported;
use crate::block::{Block, Cid, DAG_PB};
use crate::dag::pb::PbWriter;
use crate::profile::Profile;

/// A finished node of the tree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Child {
    pub(super) cid: Cid,
    /// Bytes of content below.
    pub(super) bytes: u64,
    /// Bytes of blocks below.
    pub(super) cumulative_bytes: u64,
}

#[derive(Debug)]
pub(super) struct TreeBuilder<'p> {
    profile: &'p Profile,
    levels: Vec<Vec<Child>>,
}

type Put<'a> = dyn FnMut(Block) -> Result<(), UnixfsError> + 'a;

impl<'p> TreeBuilder<'p> {
    pub(super) fn new(profile: &'p Profile) -> TreeBuilder<'p> {
        TreeBuilder {
            profile,
            levels: Vec::new(),
        }
    }

    /// Adds the next leaf.
    pub(super) fn push(&mut self, leaf: Child, put: &mut Put<'_>) -> Result<(), UnixfsError> {
        self.push_at(0, leaf, put)
    }

    fn push_at(
        &mut self,
        mut level: usize,
        mut child: Child,
        put: &mut Put<'_>,
    ) -> Result<(), UnixfsError> {
        loop {
            if level == self.levels.len() {
                self.levels.push(Vec::new());
            }
            if self.levels[level].len() < self.profile.links_per_node {
                self.levels[level].push(child);
                return Ok(());
            }
            let full = std::mem::replace(&mut self.levels[level], vec![child]);
            child = self.node(&full, &Metadata::default(), put)?;
            level += 1;
        }
    }

    /// Ends the file. With one leaf, that leaf is the file: it must have got the metadata itself.
    pub(super) fn finish(
        mut self,
        metadata: &Metadata,
        put: &mut Put<'_>,
    ) -> Result<Imported, UnixfsError> {
        let mut level = 0;
        loop {
            let children = std::mem::take(&mut self.levels[level]);
            let top = level + 1 == self.levels.len();
            let root = match &children[..] {
                [root] if top => *root,
                _ if top => self.node(&children, metadata, put)?,
                _ => {
                    let child = self.node(&children, &Metadata::default(), put)?;
                    self.push_at(level + 1, child, put)?;
                    level += 1;
                    continue;
                }
            };
            return Ok(Imported {
                cid: root.cid,
                bytes: root.bytes,
                cumulative_bytes: root.cumulative_bytes,
            });
        }
    }

    fn node(
        &self,
        children: &[Child],
        metadata: &Metadata,
        put: &mut Put<'_>,
    ) -> Result<Child, UnixfsError> {
        let mut node = PbWriter::default();
        for child in children {
            node.link(&child.cid, b"", child.cumulative_bytes);
        }
        let message = data::branch(children.iter().map(|child| child.bytes), metadata);
        let block = Block::new(
            self.profile.cid_version,
            DAG_PB,
            node.finish(&message).into(),
        );
        let below: u64 = children.iter().map(|child| child.cumulative_bytes).sum();
        let child = Child {
            cid: *block.cid(),
            bytes: children.iter().map(|child| child.bytes).sum(),
            cumulative_bytes: below + block.data().len() as u64,
        };
        put(block)?;
        Ok(child)
    }
}
