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

    /// Adds `count` leaves that are all the same. Takes time in proportion to the depth of the tree:
    /// subtrees that are the same are made once.
    pub(super) fn push_run(
        &mut self,
        leaf: Child,
        count: u64,
        put: &mut Put<'_>,
    ) -> Result<(), UnixfsError> {
        let width = self.profile.links_per_node as u64;
        let (mut level, mut child, mut count) = (0, leaf, count);
        while count > 0 {
            if level == self.levels.len() {
                self.levels.push(Vec::new());
            }
            let children = &mut self.levels[level];
            let taken = count.min(width - children.len() as u64);
            children.extend(std::iter::repeat_n(child, taken as usize));
            count -= taken;
            if count == 0 {
                break;
            }
            // The level is full, and further children come. Those of the run that fill nodes of their own
            // become a run one level up. The last ones stay: a full level waits for a further child.
            let nodes = (count - 1) / width;
            let last = vec![child; (count - nodes * width) as usize];
            let full = std::mem::replace(&mut self.levels[level], last);
            let node = self.node(&full, &Metadata::default(), put)?;
            self.push_at(level + 1, node, put)?;
            if nodes > 0 {
                let full = vec![child; width as usize];
                child = self.node(&full, &Metadata::default(), put)?;
            }
            (level, count) = (level + 1, nodes);
        }
        Ok(())
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
            return Ok(root.into());
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
        let size = block.data().len() as u64;
        let cumulative = children
            .iter()
            .try_fold(size, |sum, child| sum.checked_add(child.cumulative_bytes));
        let child = Child {
            cid: *block.cid(),
            bytes: children.iter().map(|child| child.bytes).sum(),
            cumulative_bytes: cumulative.ok_or(UnixfsError::SizeOverflow)?,
        };
        put(block)?;
        Ok(child)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::RAW;
    use proptest::prelude::*;

    fn leaf(content: &[u8]) -> Child {
        let block = Block::new(cid::Version::V1, RAW, content.to_vec().into());
        Child {
            cid: *block.cid(),
            bytes: content.len() as u64,
            cumulative_bytes: content.len() as u64,
        }
    }

    /// Builds a tree of runs, each leaf by itself or all of a run at once; gives the blocks put, too.
    fn build(profile: &Profile, runs: &[(u8, u64)], at_once: bool) -> (Imported, Vec<Cid>) {
        let mut tree = TreeBuilder::new(profile);
        let mut blocks = Vec::new();
        let mut put = |block: Block| {
            blocks.push(*block.cid());
            Ok(())
        };
        for (content, count) in runs {
            let leaf = leaf(&[*content]);
            if at_once {
                tree.push_run(leaf, *count, &mut put).unwrap();
            } else {
                for _ in 0..*count {
                    tree.push_run(leaf, 1, &mut put).unwrap();
                }
            }
        }
        let imported = tree.finish(&Metadata::default(), &mut put).unwrap();
        blocks.sort_unstable();
        blocks.dedup();
        (imported, blocks)
    }

    fn profile(links_per_node: usize) -> Profile {
        Profile {
            links_per_node,
            ..Profile::default()
        }
    }

    #[test]
    fn a_run_is_its_leaves_at_the_edges_of_every_level() {
        for width in [2, 3, 174] {
            let mut edges = vec![1];
            for power in [width, width * width, width * width * width] {
                edges.extend([power - 1, power, power + 1]);
            }
            for count in edges.into_iter().filter(|count| *count < 40_000) {
                let profile = profile(width);
                let runs = [(0, count as u64)];
                let by_one = build(&profile, &runs, false);
                assert_eq!(build(&profile, &runs, true), by_one, "{count} of {width}");
            }
        }
    }

    #[test]
    fn a_run_of_the_largest_file_takes_a_moment() {
        const CHUNK: u64 = 256 * 1024;
        let chunks = i64::MAX as u64 / CHUNK;
        for width in [2, 174, 1024] {
            let profile = profile(width);
            let mut tree = TreeBuilder::new(&profile);
            let mut blocks = 0;
            let mut put = |_| {
                blocks += 1;
                Ok(())
            };
            let leaf = Child {
                bytes: CHUNK,
                cumulative_bytes: CHUNK,
                ..leaf(b"x")
            };
            tree.push_run(leaf, chunks, &mut put).unwrap();
            let imported = tree.finish(&Metadata::default(), &mut put).unwrap();
            assert_eq!(imported.bytes, chunks * CHUNK);
            assert!(blocks < 200, "{blocks} blocks");
        }
    }

    #[test]
    fn sizes_of_more_than_64_bits_are_refused() {
        let profile = profile(174);
        let mut tree = TreeBuilder::new(&profile);
        let leaf = Child {
            cumulative_bytes: 1 << 60,
            ..leaf(b"x")
        };
        let outcome = tree
            .push_run(leaf, 16, &mut |_| Ok(()))
            .and_then(|()| tree.finish(&Metadata::default(), &mut |_| Ok(())));
        assert!(matches!(outcome, Err(UnixfsError::SizeOverflow)));
    }

    proptest! {
        #[test]
        fn runs_are_their_leaves(
            width in 2usize..6,
            runs in proptest::collection::vec((0u8..2, 1u64..300), 1..6),
        ) {
            let profile = profile(width);
            prop_assert_eq!(build(&profile, &runs, true), build(&profile, &runs, false));
        }
    }
}
