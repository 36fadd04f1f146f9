//! Verified blocks, kept for the next request.
//!
//! The kernel asks for a block in several requests, often at the same time: the first one reads it,
//! the others wait for that.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ipfs_exec_node::block::{BlockError, Multihash, ReadBlocks};
use ipfs_exec_node::cancel::NEVER;
use ipfs_exec_node::{Cancel, Cid};

use super::lru::Lru;

/// Bytes of blocks that are kept. The kernel keeps what it was given; this only has to last from one
/// request to the next.
const CACHE_BYTES: usize = 32 << 20;

/// Blocks that could not be read that are remembered, for those who wait for them.
const MAX_FAILED: usize = 1024;

/// How often a reader that waits for another one looks whether it was cancelled.
const TICK: Duration = Duration::from_millis(100);

/// What an entry costs beside its data.
const ENTRY_BYTES: usize = 256;

/// Verified blocks, each read once for all requests that need it.
pub(super) struct BlockCache<'b> {
    blocks: &'b dyn ReadBlocks,
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
    pub(super) fn new(blocks: &'b dyn ReadBlocks, ended: Cancel) -> BlockCache<'b> {
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

    /// Waits until another reader has ended; only for a moment if the wait may be cancelled.
    fn wait<'s>(&self, state: MutexGuard<'s, State>, cancel: &Cancel) -> MutexGuard<'s, State> {
        if cancel.is_never() {
            let waited = self.loaded.wait(state);
            return waited.unwrap_or_else(PoisonError::into_inner);
        }
        let waited = self.loaded.wait_timeout(state, TICK);
        waited.unwrap_or_else(PoisonError::into_inner).0
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
        if let Err(error) = self.read(cid, &NEVER) {
            // Who asks for it learns it, too.
            tracing::debug!(%cid, %error, "cannot read ahead");
        }
    }
}

impl ReadBlocks for BlockCache<'_> {
    fn read(&self, cid: &Cid, cancel: &Cancel) -> Result<Bytes, BlockError> {
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
            if cancel.is_cancelled() {
                return Err(BlockError::Missing { cid: *cid });
            }
            if state.loading.insert(hash) {
                break;
            }
            state = self.wait(state, cancel);
        }
        drop(state);
        let read = self.blocks.read(cid, &self.ended.or(cancel));
        let mut state = self.lock();
        state.loading.remove(&hash);
        match &read {
            // A cancelled read is no failure of the block: one of the waiting readers goes on.
            Err(_) if cancel.is_cancelled() => {}
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
    use crate::testing::contract;
    use ipfs_exec_node::CancelSource;
    use ipfs_exec_node::block::{Block, RAW, sha2_256};
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Counting {
        block: Block,
        reads: AtomicUsize,
        readers: Barrier,
    }

    impl ReadBlocks for Counting {
        fn read(&self, _: &Cid, _: &Cancel) -> Result<Bytes, BlockError> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            self.readers.wait();
            Ok(self.block.data().clone())
        }

        fn has(&self, _: &Cid) -> Result<bool, BlockError> {
            Ok(true)
        }

        fn size(&self, _: &Cid) -> Result<Option<u64>, BlockError> {
            Ok(Some(self.block.data().len() as u64))
        }

        fn expect(&self, _: &[Cid]) {}

        fn expect_all(&self, _: &Cid) {}
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
                scope.spawn(|| assert_eq!(cache.read(&cid, &NEVER).unwrap(), "data"));
            }
            blocks.readers.wait();
        });
        assert_eq!(blocks.reads.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn it_hands_on_what_it_is_asked() {
        contract::hands_on(|blocks, check| check(&BlockCache::new(blocks, Cancel::default())));
    }

    #[test]
    fn the_end_of_the_mount_ends_reads() {
        let (endless, begun) = contract::Endless::new();
        let ended = CancelSource::new().unwrap();
        let cache = BlockCache::new(&endless, ended.token());
        let cid = Cid::new_v1(RAW, sha2_256(&[b"data"]));
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| cache.read(&cid, &NEVER));
            begun.recv().unwrap();
            ended.cancel();
            assert!(reader.join().unwrap().is_err());
        });
    }

    #[test]
    fn a_reader_that_gives_up_does_not_end_the_others() {
        let cid = Cid::new_v1(RAW, sha2_256(&[b"data"]));
        let (endless, begun) = contract::Endless::new();
        let cache = BlockCache::new(&endless, Cancel::default());
        let [first, second] = [(); 2].map(|()| CancelSource::new().unwrap());
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| cache.read(&cid, &first.token()));
            begun.recv().unwrap();
            let waiting = scope.spawn(|| cache.read(&cid, &second.token()));
            first.cancel();
            assert!(reader.join().unwrap().is_err());
            // The second one reads by itself now.
            begun.recv().unwrap();
            second.cancel();
            assert!(waiting.join().unwrap().is_err());
        });
    }
}
