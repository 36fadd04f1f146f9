//! State of a fetch: the blocks on their way, and the readers that wait for them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::exchange::{Exchange, Routes};
use super::queue::Queue;
use super::sources::Sources;
use super::{FetchError, Fetched};
use crate::block::{Cid, Multihash};

#[derive(Default)]
pub(super) struct State {
    pub(super) exchange: Option<Arc<Exchange>>,
    pub(super) sources: Option<Sources>,
    pub(super) routes: Routes,
    pub(super) queue: Queue,
    /// Roots whose DAGs are fetched as soon as anything is missing.
    pub(super) roots: Vec<Cid>,
    /// All of those so far.
    pub(super) expected: HashSet<Cid>,
    /// Whether blocks that are here are read even where nothing is below them.
    pub(super) verify: bool,
    /// Blocks that readers wait for, how many of them, and the data once it is there.
    pub(super) awaited: HashMap<Multihash, Awaited>,
    /// Whether some thread takes in what comes.
    pub(super) working: bool,
    pub(super) failed: Option<Arc<FetchError>>,
    pub(super) fetched: Fetched,
    pub(super) unflushed_since: Option<Instant>,
}

/// A block that readers wait for.
pub(super) struct Awaited {
    pub(super) cid: Cid,
    pub(super) readers: usize,
    /// How many blocks were asked for before it.
    pub(super) order: u64,
    /// When somebody began to wait for it, or one of those came.
    pub(super) since: Instant,
    pub(super) outcome: Option<Result<Bytes, Arc<FetchError>>>,
}

impl State {
    /// Forgets a failure that everybody who waited was told: later reads try again. Not while
    /// somebody is at work with what there is.
    pub(super) fn start_over(&mut self) {
        if self.working || !self.awaited.is_empty() {
            return;
        }
        self.failed = None;
        self.exchange = None;
        self.sources = None;
        self.routes = Routes::default();
        self.queue = Queue::default();
    }

    /// A reader waits for `cid`, which is on its way or has just been.
    pub(super) fn wait_for(&mut self, cid: &Cid) {
        let order = self.queue.order(cid.hash()).unwrap_or_default();
        let awaited = self.awaited.entry(*cid.hash());
        let awaited = awaited.or_insert_with(|| Awaited {
            cid: *cid,
            readers: 0,
            order,
            since: Instant::now(),
            outcome: None,
        });
        awaited.readers += 1;
    }

    /// A block that is on its way came: time begins anew for those who asked later, and had to wait
    /// for it.
    pub(super) fn progressed(&mut self, hash: &Multihash, now: Instant) {
        let Some(order) = self.queue.order(hash) else {
            return;
        };
        for awaited in self.awaited.values_mut() {
            if awaited.order >= order {
                awaited.since = now;
            }
        }
    }

    /// Nobody waits any longer for a block that was wanted for itself.
    pub(super) fn give_up(&mut self, cid: &Cid) {
        let hash = cid.hash();
        if self.queue.is_deep(hash) || !self.queue.is_under_way(hash) {
            return;
        }
        self.queue.end(hash);
        if let Some(exchange) = &self.exchange {
            exchange.give_up(&mut self.routes, cid);
        }
        if let Some(sources) = &mut self.sources {
            sources.forget(cid);
        }
    }

    /// A reader no longer waits.
    pub(super) fn leave(&mut self, cid: &Cid) {
        if let Some(awaited) = self.awaited.get_mut(cid.hash()) {
            awaited.readers -= 1;
            if awaited.readers == 0 {
                self.awaited.remove(cid.hash());
                self.give_up(cid);
            }
        }
    }
}
