//! The blocks that one request takes, which a trace of the program shows.

use std::collections::HashSet;
use std::sync::Mutex;

use bytes::Bytes;
use ipfs_exec_node::block::{self, BlockError, ReadBlocks};
use ipfs_exec_node::{Cancel, Cid};

use super::cache::BlockCache;
use super::files::lock;

/// The blocks of one request, with a record of which those are.
pub(super) struct Recorded<'v, 'b> {
    cache: &'v BlockCache<'b>,
    taken: Mutex<HashSet<Cid>>,
}

impl<'v, 'b> Recorded<'v, 'b> {
    pub(super) fn new(cache: &'v BlockCache<'b>) -> Recorded<'v, 'b> {
        Recorded {
            cache,
            taken: Mutex::default(),
        }
    }

    /// Notes a block that the request uses without reading it here.
    pub(super) fn note(&self, cid: &Cid) {
        if block::inline_data(cid).is_none() {
            lock(&self.taken).insert(*cid);
        }
    }

    /// The blocks that were taken so far.
    pub(super) fn taken(&self) -> Vec<Cid> {
        lock(&self.taken).iter().copied().collect()
    }
}

impl ReadBlocks for Recorded<'_, '_> {
    fn read(&self, cid: &Cid, cancel: &Cancel) -> Result<Bytes, BlockError> {
        self.note(cid);
        self.cache.read(cid, cancel)
    }

    fn has(&self, cid: &Cid) -> Result<bool, BlockError> {
        self.cache.has(cid)
    }

    fn size(&self, cid: &Cid) -> Result<Option<u64>, BlockError> {
        self.cache.size(cid)
    }

    fn expect(&self, cids: &[Cid]) {
        self.cache.expect(cids);
    }

    fn expect_all(&self, root: &Cid) {
        self.cache.expect_all(root);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::contract;
    use ipfs_exec_node::WriteBlocksExt;
    use ipfs_exec_node::block::MemoryBlocks;
    use ipfs_exec_node::cancel::NEVER;

    #[test]
    fn it_hands_on_what_it_is_asked() {
        contract::hands_on(|blocks, check| {
            let cache = BlockCache::new(blocks, Cancel::default());
            check(&Recorded::new(&cache));
        });
    }

    #[test]
    fn each_block_is_noted_once() {
        let blocks = MemoryBlocks::default();
        blocks.put(&contract::samples()).unwrap();
        let cache = BlockCache::new(&blocks, Cancel::default());
        let recorded = Recorded::new(&cache);
        let cid = *contract::samples()[0].cid();
        for _ in 0..2 {
            recorded.read(&cid, &NEVER).unwrap();
        }
        assert_eq!(recorded.taken(), [cid]);
    }
}
