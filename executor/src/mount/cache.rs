//! Verified blocks, kept for the next request.
//!
//! The kernel asks for a block in several requests, often at the same time: the first one reads it,
//! the others wait for that.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ipfs_exec_node::block::{Block, BlockError, Blocks, Multihash};
use ipfs_exec_node::{Cancel, Cid};

use super::lru::Lru;

/// Bytes of blocks that are kept. The kernel keeps what it was given; this only has to last from one
/// request to the next.
const CACHE_BYTES: usize = 32 << 20;

/// Blocks that could not be read that are remembered, for those who wait for them.
const MAX_FAILED: usize = 1024;

/// What an entry costs beside its data.
const ENTRY_BYTES: usize = 256;

/// See the [module](self).
pub(super) struct BlockCache<'b> {
    blocks: &'b dyn Blocks,
    state: Mutex<State>,
    loaded: Condvar,
    /// Cancelled when the mount is no longer served.
    ended: Cancel,
}

struct State {
    kept: Lru<Multihash, Bytes>,
    loading: HashSet<Multihash>,
    /// Reads that have failed, counted, and the last of each block.
    failures: u64,
    failed: Lru<Multihash, u64>,
}

impl<'b> BlockCache<'b> {
    /// Reads from `blocks` until `ended` cancels that.
    pub(super) fn new(blocks: &'b dyn Blocks, ended: Cancel) -> BlockCache<'b> {
        BlockCache {
            blocks,
            state: Mutex::new(State {
                kept: Lru::new(CACHE_BYTES),
                loading: HashSet::new(),
                failures: 0,
                failed: Lru::new(MAX_FAILED),
            }),
            loaded: Condvar::new(),
            ended,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block, if it is kept here.
    pub(super) fn kept(&self, cid: &Cid) -> Option<Bytes> {
        self.lock().kept.get(cid.hash()).cloned()
    }
}

impl BlockCache<'_> {
    /// Reads a block that will be asked for, if it is at hand and nobody reads it already.
    pub(super) fn warm(&self, cid: &Cid) {
        let is_known = {
            let mut state = self.lock();
            state.loading.contains(cid.hash()) || state.kept.get(cid.hash()).is_some()
        };
        if is_known || !matches!(self.blocks.has(cid), Ok(true)) {
            return;
        }
        if let Err(error) = self.read(cid) {
            // Who asks for it learns it, too.
            tracing::debug!(%cid, %error, "cannot read ahead");
        }
    }
}

impl Blocks for BlockCache<'_> {
    fn read(&self, cid: &Cid) -> Result<Bytes, BlockError> {
        let hash = *cid.hash();
        let mut state = self.lock();
        let failures = state.failures;
        loop {
            if let Some(data) = state.kept.get(&hash) {
                return Ok(data.clone());
            }
            // Whoever waited for it has waited as long as the one who failed.
            if state
                .failed
                .get(&hash)
                .is_some_and(|number| *number > failures)
            {
                return Err(BlockError::Missing { cid: *cid });
            }
            if state.loading.insert(hash) {
                break;
            }
            state = self
                .loaded
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        let is_wanted = || !self.ended.is_cancelled();
        let read = self.blocks.read_while(cid, &is_wanted);
        let mut state = self.lock();
        state.loading.remove(&hash);
        match &read {
            Ok(data) => {
                let weight = data.len() + ENTRY_BYTES;
                state.kept.insert(hash, data.clone(), weight);
                state.failed.take(&hash);
            }
            Err(_) => {
                state.failures += 1;
                let number = state.failures;
                state.failed.insert(hash, number, 1);
            }
        }
        drop(state);
        self.loaded.notify_all();
        read
    }

    fn has(&self, cid: &Cid) -> Result<bool, BlockError> {
        self.blocks.has(cid)
    }

    fn size(&self, cid: &Cid) -> Result<Option<u64>, BlockError> {
        self.blocks.size(cid)
    }

    fn put(&self, batch: &[Block]) -> Result<(), BlockError> {
        self.blocks.put(batch)
    }

    fn expect(&self, cids: &[Cid]) {
        self.blocks.expect(cids);
    }

    fn expect_all(&self, root: &Cid) {
        self.blocks.expect_all(root);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipfs_exec_node::block::{RAW, sha2_256};
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Counting {
        block: Block,
        reads: AtomicUsize,
        readers: Barrier,
    }

    impl Blocks for Counting {
        fn read(&self, _: &Cid) -> Result<Bytes, BlockError> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            self.readers.wait();
            Ok(self.block.data().clone())
        }

        fn has(&self, _: &Cid) -> Result<bool, BlockError> {
            Ok(true)
        }

        fn put(&self, _: &[Block]) -> Result<(), BlockError> {
            Ok(())
        }
    }

    #[test]
    fn a_block_is_read_once_however_many_ask() {
        let cid = Cid::new_v1(RAW, sha2_256(&[b"data"]));
        let block = Block::verified(cid, "data".into()).unwrap();
        let blocks = Counting {
            block,
            reads: AtomicUsize::new(0),
            // The one who reads, and the test.
            readers: Barrier::new(2),
        };
        let cache = BlockCache::new(&blocks, Cancel::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(cache.read(&cid).unwrap(), "data"));
            }
            blocks.readers.wait();
        });
        assert_eq!(blocks.reads.load(Ordering::Relaxed), 1);
    }
}
