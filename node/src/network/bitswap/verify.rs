//! Hashing of received blocks, away from the swarm's task where it takes time.
//!
//! Bytes that are not verified yet hold a share of a budget. It is taken before a message is read
//! and given back when its blocks have been handed over, so slow hashing slows the reading. Whoever
//! sends slowly loses it to those who wait; and a connection always has room for small messages, so
//! that wants are heard however many send large ones.

use std::pin::pin;
use std::sync::Arc;

use futures::FutureExt;
use futures::channel::mpsc::UnboundedSender;
use futures::future::select;
use libp2p::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::message::Payload;
use super::pace::Crowd;
use super::workers::Workers;
use crate::block::Block;
use crate::limits;

/// Threads that hash. SHA-256 runs at 1.7 GB/s a core, beyond what one connection decrypts.
const VERIFY_THREADS: usize = 2;

/// So much is hashed at once where it came: that takes less time than waking a thread, not to speak of
/// starting one for the first block.
const SMALL_BYTES: usize = 16 << 10;

/// What one connection may hold.
#[derive(Clone, Debug)]
pub(crate) struct Allowance {
    /// Of the budget of all connections.
    shared: Arc<Semaphore>,
    /// Beside that, for small messages that find no room there.
    own: Arc<Semaphore>,
}

impl Allowance {
    pub(crate) fn new() -> Allowance {
        Allowance {
            shared: Arc::new(Semaphore::new(limits::MAX_UNVERIFIED_BYTES_PER_CONNECTION)),
            own: Arc::new(Semaphore::new(limits::MAX_SMALL_MESSAGE_BYTES)),
        }
    }

    #[cfg(test)]
    pub(crate) fn available(&self) -> usize {
        self.shared.available_permits()
    }
}

/// What one message holds of the allowance of its connection, and of the budget of all unless it is
/// a small one.
#[derive(Debug)]
pub(crate) struct Share {
    _permit: OwnedSemaphorePermit,
    _of_all: Option<OwnedSemaphorePermit>,
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
    crowd: Crowd,
    results: UnboundedSender<Verified>,
}

impl Verifier {
    pub(crate) fn new(results: UnboundedSender<Verified>) -> Verifier {
        Verifier {
            workers: Workers::new("bitswap-verify", VERIFY_THREADS),
            budget: Arc::new(Semaphore::new(limits::MAX_UNVERIFIED_BYTES)),
            crowd: Crowd::default(),
            results,
        }
    }

    /// Those who wait for the budget.
    pub(crate) fn crowd(&self) -> &Crowd {
        &self.crowd
    }

    /// Waits until `length` more bytes, at most [`limits::MAX_MESSAGE_BYTES`], may be read.
    /// Nothing is taken when the future is dropped.
    pub(crate) async fn reserve(&self, connection: &Allowance, length: usize) -> Share {
        let is_small = length <= limits::MAX_SMALL_MESSAGE_BYTES;
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let shared = self.reserve_shared(connection, length);
        if !is_small {
            return shared.await;
        }
        let own = acquire(&connection.own, length).map(|own| Share {
            _permit: own,
            _of_all: None,
        });
        select(pin!(shared), pin!(own)).await.factor_first().0
    }

    async fn reserve_shared(&self, connection: &Allowance, length: u32) -> Share {
        let of_connection = acquire(&connection.shared, length).await;
        let of_all = match Arc::clone(&self.budget).try_acquire_many_owned(length) {
            Ok(of_all) => of_all,
            Err(_) => {
                let _waiting = self.crowd.wait();
                acquire(&self.budget, length).await
            }
        };
        Share {
            _permit: of_connection,
            _of_all: Some(of_all),
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

async fn acquire(budget: &Arc<Semaphore>, length: u32) -> OwnedSemaphorePermit {
    let permit = Arc::clone(budget).acquire_many_owned(length).await;
    permit.expect("the budget is never closed")
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
