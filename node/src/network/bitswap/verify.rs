//! Hashing of received blocks, away from the swarm's task where it takes time.
//!
//! Bytes that are not verified yet hold a share of a budget. It is taken before a message is read
//! and given back when its blocks have been handed over, so slow hashing slows the reading.

use std::sync::Arc;

use futures::channel::mpsc::UnboundedSender;
use libp2p::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::message::Payload;
use super::workers::Workers;
use crate::block::Block;
use crate::limits;

/// Threads that hash. SHA-256 runs at 1.7 GB/s a core, beyond what one connection decrypts.
const VERIFY_THREADS: usize = 2;

/// So much is hashed at once where it came: that takes less time than waking a thread, not to speak of
/// starting one for the first block.
const SMALL_BYTES: usize = 16 << 10;

/// The share of the budget that one message holds, of its connection and of all together.
#[derive(Debug)]
pub(crate) struct Share {
    _of_connection: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// The blocks of one message, hashed.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) peer: PeerId,
    pub(crate) blocks: Vec<Block>,
    /// Multihash codes of blocks that could not be hashed.
    pub(crate) unsupported: Vec<u64>,
    pub(crate) _share: Arc<Share>,
}

/// Takes in what peers send.
#[derive(Clone)]
pub(crate) struct Verifier {
    workers: Workers,
    budget: Arc<Semaphore>,
    results: UnboundedSender<Verified>,
}

impl Verifier {
    pub(crate) fn new(results: UnboundedSender<Verified>) -> Verifier {
        Verifier {
            workers: Workers::new("bitswap-verify", VERIFY_THREADS),
            budget: Arc::new(Semaphore::new(limits::MAX_UNVERIFIED_BYTES)),
            results,
        }
    }

    /// Waits until `length` more bytes, at most [`limits::MAX_MESSAGE_BYTES`], may be read.
    /// Nothing is taken when the future is dropped.
    pub(crate) async fn reserve(&self, connection: &Arc<Semaphore>, length: usize) -> Share {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let closed = "the budget is never closed";
        let of_connection = Arc::clone(connection).acquire_many_owned(length).await;
        let of_all = Arc::clone(&self.budget).acquire_many_owned(length).await;
        Share {
            _of_connection: of_connection.expect(closed),
            _of_all: of_all.expect(closed),
        }
    }

    /// Hashes `payloads` and hands the blocks over, all at once.
    pub(crate) fn submit(&self, peer: PeerId, payloads: Vec<Payload>, share: Arc<Share>) {
        let results = self.results.clone();
        let bytes: usize = payloads.iter().map(|payload| payload.data.len()).sum();
        let hash = move || {
            let verified = hash_all(peer, payloads, share);
            if results.unbounded_send(verified).is_err() {
                tracing::debug!(%peer, "blocks came after the end of bitswap");
            }
        };
        if bytes <= SMALL_BYTES {
            hash();
        } else {
            self.workers.run(hash);
        }
    }
}

fn hash_all(peer: PeerId, payloads: Vec<Payload>, share: Arc<Share>) -> Verified {
    let mut verified = Verified {
        peer,
        blocks: Vec::with_capacity(payloads.len()),
        unsupported: Vec::new(),
        _share: share,
    };
    for Payload { prefix, data } in payloads {
        let hash = (prefix.hash_code, prefix.digest_length);
        match Block::hashed(prefix.version, prefix.codec, hash, data) {
            Some(block) => verified.blocks.push(block),
            None => verified.unsupported.push(prefix.hash_code),
        }
    }
    verified
}
