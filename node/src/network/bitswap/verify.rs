//! Hashing of received blocks. Long hashing runs on other threads than the swarm's task.
//!
//! Bytes that are not verified yet hold a share of a budget. The share is taken before a message is
//! read, and given back when the blocks of the message are handed over. So slow hashing slows the
//! reading. Peers that were asked for blocks have one budget, and all other peers have another. A peer
//! that sends slowly loses its share to peers that wait. A connection always has room for small
//! messages. So wants are received even while many peers send large messages.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::channel::mpsc::UnboundedSender;
use futures::future::select;
use libp2p::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::message::Payload;
use super::pace::MemoryWaiters;
use super::workers::Workers;
use crate::block::Block;
use crate::limits;

/// Threads that hash. SHA-256 runs at 1.7 GB/s a core, beyond what one connection decrypts.
const VERIFY_THREADS: usize = 2;

/// So much is hashed at once where it came: that takes less time than waking a thread, not to speak of
/// starting one for the first block.
const SMALL_BYTES: usize = 16 << 10;

/// How long a peer counts as one that was asked for blocks. A want is asked for again within a minute.
const ASKED: Duration = Duration::from_secs(120);

/// A budget, and those who wait for it.
#[derive(Clone, Debug)]
struct Budget {
    bytes: Arc<Semaphore>,
    waiters: MemoryWaiters,
}

impl Budget {
    fn new(bytes: usize) -> Budget {
        Budget {
            bytes: Arc::new(Semaphore::new(bytes)),
            waiters: MemoryWaiters::default(),
        }
    }
}

/// What one connection may hold, and what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Allowance {
    peer: PeerId,
    /// Of the budget of all connections.
    shared: Arc<Semaphore>,
    /// Beside that, for small messages that find no room there.
    own: Arc<Semaphore>,
    /// Bytes that have come.
    received: Arc<AtomicU64>,
}

impl Allowance {
    pub(crate) fn new(peer: PeerId) -> Allowance {
        Allowance {
            peer,
            shared: Arc::new(Semaphore::new(limits::MAX_UNVERIFIED_BYTES_PER_CONNECTION)),
            own: Arc::new(Semaphore::new(limits::MAX_SMALL_MESSAGE_BYTES)),
            received: Arc::default(),
        }
    }

    /// So many bytes have come.
    pub(crate) fn receive(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How many have come in all.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn available(&self) -> usize {
        self.shared.available_permits()
    }
}

/// What one message holds of the allowance of its connection, and of a budget of all unless it is a
/// small one.
#[derive(Debug)]
pub(crate) struct Share {
    _permit: OwnedSemaphorePermit,
    of_all: Option<(OwnedSemaphorePermit, MemoryWaiters)>,
}

impl Share {
    /// Those who wait for what it holds.
    pub(crate) fn waiters(&self) -> Option<&MemoryWaiters> {
        self.of_all.as_ref().map(|(_, waiters)| waiters)
    }
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
    /// Peers that were asked for blocks, and when they were last.
    asked: Arc<Mutex<HashMap<PeerId, Instant>>>,
    /// Of those.
    of_asked: Budget,
    /// Of all others, who must not hold up those.
    of_unasked: Budget,
    results: UnboundedSender<Verified>,
}

impl Verifier {
    pub(crate) fn new(results: UnboundedSender<Verified>) -> Verifier {
        Verifier {
            workers: Workers::new("bitswap-verify", VERIFY_THREADS),
            asked: Arc::default(),
            of_asked: Budget::new(limits::MAX_UNVERIFIED_BYTES - limits::MAX_UNASKED_BYTES),
            of_unasked: Budget::new(limits::MAX_UNASKED_BYTES),
            results,
        }
    }

    fn asked_peers(&self) -> MutexGuard<'_, HashMap<PeerId, Instant>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The peer is asked for blocks.
    pub(crate) fn asked(&self, peer: PeerId) {
        self.asked_peers().insert(peer, Instant::now());
    }

    /// The peer has gone.
    pub(crate) fn disconnected(&self, peer: &PeerId) {
        self.asked_peers().remove(peer);
    }

    fn was_asked(&self, peer: &PeerId) -> bool {
        let asked = self.asked_peers().get(peer).copied();
        asked.is_some_and(|asked| asked.elapsed() < ASKED)
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
            of_all: None,
        });
        select(pin!(shared), pin!(own)).await.factor_first().0
    }

    async fn reserve_shared(&self, connection: &Allowance, length: u32) -> Share {
        let of_connection = acquire(&connection.shared, length).await;
        let budget = match self.was_asked(&connection.peer) {
            true => &self.of_asked,
            false => &self.of_unasked,
        };
        let of_all = match Arc::clone(&budget.bytes).try_acquire_many_owned(length) {
            Ok(of_all) => of_all,
            Err(_) => {
                let _waiting = budget.waiters.wait();
                acquire(&budget.bytes, length).await
            }
        };
        Share {
            _permit: of_connection,
            of_all: Some((of_all, budget.waiters.clone())),
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
