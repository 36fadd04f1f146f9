//! Carries out what a [`Planner`] decides: the disk, the node, and the threads that wait.
//!
//! One of the threads that wait for blocks does the work for all. It looks up which blocks are here, takes in
//! the blocks that came, keeps them, and asks for the blocks that they link to. So blocks are not fetched
//! faster than they can be kept. While no thread waits, at most one window of blocks is on its way. The state
//! is not locked while the disk is read or written, or while the node starts.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::action::Action;
use super::error::FetchError;
use super::exchange::{Arrived, Exchange};
use super::planner::{Arrival, Looked, Planner, Reading};
use super::queue::Task;
use super::sources::Prospects;
use super::{FetchOptions, Fetched, LazyNetwork};
use crate::block::{self, Block, BlockError, Cid, ReadBlocks, WriteBlocks};
use crate::cancel::{Cancel, NEVER};
use crate::network::Mdns;
use crate::network::http::gateway::GatewayEvent;
use crate::progress::{Event, Reporter};
use crate::repo::{RepoError, Repository, Session};

/// How often a wait looks whether it was cancelled or has lasted too long.
const TICK: Duration = Duration::from_millis(100);

/// What has arrived becomes durable after this time at the latest, however slowly it comes.
const FLUSH_AFTER: Duration = Duration::from_secs(5);

/// The blocks of a repository, and behind them those of peers.
///
/// What arrives is kept under a lease, becomes durable every few seconds, and stays after
/// [`Fetcher::finish`], whether or not all of it came.
///
/// A DAG that was named by [`Fetcher::complete`] or [`ReadBlocks::expect_all`] comes or fails as a whole. Each
/// other read stands for itself: one that failed leaves the next as it would have been.
pub struct Fetcher<'r> {
    repository: &'r Repository,
    network: &'r LazyNetwork,
    reporter: &'r dyn Reporter,
    options: FetchOptions,
    /// Opened with the first miss.
    kept: OnceLock<Session<'r>>,
    state: Mutex<State>,
    changed: Condvar,
    /// Locked while actions are carried out, so that they keep their order. It is locked before `state`.
    exchange: Mutex<Option<Arc<Exchange>>>,
    /// When the oldest block arrived that may not be durable.
    unflushed_since: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct State {
    planner: Planner,
    /// Whether some thread takes in what comes.
    is_working: bool,
}

impl<'r> Fetcher<'r> {
    /// Reads from `repository`, and from the peers of `network` what is missing there.
    pub fn new(
        repository: &'r Repository,
        network: &'r LazyNetwork,
        options: FetchOptions,
        reporter: &'r dyn Reporter,
    ) -> Fetcher<'r> {
        Fetcher {
            repository,
            network,
            reporter,
            options,
            kept: OnceLock::new(),
            state: Mutex::default(),
            changed: Condvar::new(),
            exchange: Mutex::default(),
            unflushed_since: Mutex::default(),
        }
    }

    /// Fetches whatever of the DAG below `root` is missing.
    ///
    /// # Errors
    /// [`FetchError`]. On success nothing is missing: every block was read here and verified, or
    /// came and was verified.
    pub fn complete(&self, root: &Cid) -> Result<Fetched, Arc<FetchError>> {
        let mut state = self.lock();
        state.planner.complete(root);
        loop {
            if let Some(error) = state.planner.failure() {
                let error = Arc::clone(error);
                drop(state);
                return Err(self.explain(error));
            }
            if !state.is_working && state.planner.is_done() {
                return Ok(state.planner.fetched());
            }
            state = self.work_or_wait(state);
        }
    }

    /// Counts the blocks that were fetched so far.
    pub fn fetched(&self) -> Fetched {
        self.lock().planner.fetched()
    }

    /// Keeps what has arrived.
    ///
    /// # Errors
    /// Where disk or database fail.
    pub fn finish(mut self) -> Result<Fetched, RepoError> {
        let fetched = self.fetched();
        if let Some(session) = self.kept.take() {
            session.commit(&[])?;
        }
        Ok(fetched)
    }

    /// Where blocks are looked up here.
    fn blocks(&self) -> &dyn ReadBlocks {
        match self.kept.get() {
            Some(session) => session,
            None => self.repository,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Says that the block that did not come is here and damaged, where it is.
    fn explain(&self, error: Arc<FetchError>) -> Arc<FetchError> {
        match error.lacking() {
            Some(cid) if self.is_damaged(cid) => Arc::new(FetchError::Damaged {
                cid: *cid,
                source: error,
            }),
            _ => error,
        }
    }

    fn is_damaged(&self, cid: &Cid) -> bool {
        matches!(
            self.blocks().read(cid, &NEVER),
            Err(BlockError::Damaged { .. })
        )
    }

    /// The error of a reader of `cid`, which could not be fetched.
    fn unavailable(&self, cid: &Cid, error: Arc<FetchError>) -> BlockError {
        let cid = *cid;
        if error.lacking() == Some(&cid) && self.is_damaged(&cid) {
            let source = Box::new(error);
            return BlockError::Irreplaceable { cid, source };
        }
        let source = Box::new(self.explain(error));
        BlockError::Unavailable { cid, source }
    }

    /// Gets the block `cid`, which is not here.
    fn obtain(&self, cid: &Cid, cancel: &Cancel) -> Result<Bytes, Arc<FetchError>> {
        let mut state = self.lock();
        let is_resumed = !state.is_working;
        if let Reading::IsNew(task) = state.planner.read(cid, is_resumed, Instant::now())? {
            drop(state);
            // It may have come between the caller's look and this one.
            let found = self.blocks().read(cid, &NEVER).ok();
            self.lock().planner.looked_again(task, found);
            self.act();
            state = self.lock();
        }
        loop {
            let interrupted = || Err(Arc::new(FetchError::Interrupted));
            let outcome = state.planner.outcome(cid);
            let outcome = outcome.or_else(|| cancel.is_cancelled().then(interrupted));
            if let Some(outcome) = outcome {
                state.planner.leave(cid);
                if outcome.is_err() && !state.is_working {
                    state.planner.start_over();
                }
                drop(state);
                self.act();
                return outcome;
            }
            state = self.work_or_wait(state);
        }
    }

    /// Does a step of the work that all wait for, or waits for the thread that does.
    fn work_or_wait<'s>(&'s self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        if state.is_working {
            let waited = self.changed.wait(state);
            return waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.is_working = true;
        drop(state);
        self.work();
        let mut state = self.lock();
        state.is_working = false;
        self.changed.notify_all();
        state
    }

    /// Asks for what is missing, and takes in and keeps what comes within a moment.
    fn work(&self) {
        self.look();
        self.act();
        let state = self.lock();
        if state.planner.failure().is_some() || state.planner.is_done() {
            return;
        }
        if !state.planner.is_started() {
            // Another reader is about to start the node, or to find its block here.
            drop(self.changed.wait_timeout(state, TICK));
            return;
        }
        drop(state);
        let Some(exchange) = lock(&self.exchange).clone() else {
            return;
        };
        let arrived = exchange.receive(TICK);
        let accepted = self.take_in(&exchange, arrived);
        self.act();
        // Also where the fetch has failed: what came is kept.
        if let Err(error) = self.keep(&accepted) {
            self.lock().planner.fail(error);
        }
    }

    /// Looks whether the next blocks are here, for as many as there is room to ask for.
    fn look(&self) {
        loop {
            let mut state = self.lock();
            let verifies = state.planner.verifies();
            let Some(task) = state.planner.next() else {
                return;
            };
            drop(state);
            let found = self.find_here(&task, verifies);
            let mut state = self.lock();
            match found {
                Ok(found) => state.planner.looked(task, found),
                Err(error) => state.planner.fail(FetchError::Store(error)),
            }
            if state.planner.failure().is_some() {
                return;
            }
        }
    }

    fn find_here(&self, task: &Task, verifies: bool) -> Result<Looked, BlockError> {
        let blocks = self.blocks();
        if let Some(data) = block::inline_data(&task.cid) {
            return Ok(Looked::Node(data));
        }
        let is_leaf = task.cid.codec() == block::RAW || !task.deep;
        if is_leaf && !verifies {
            let found = blocks.has(&task.cid)?;
            return Ok(if found { Looked::Leaf } else { Looked::Missing });
        }
        match blocks.read(&task.cid, &NEVER) {
            Ok(data) => Ok(Looked::Node(data)),
            Err(BlockError::Missing { .. } | BlockError::Damaged { .. }) => Ok(Looked::Missing),
            Err(error) => Err(error),
        }
    }

    /// Carries out what was decided.
    fn act(&self) {
        let mut exchange = lock(&self.exchange);
        loop {
            let actions = self.lock().planner.take_actions();
            if actions.is_empty() {
                return;
            }
            for action in actions {
                match (action, &*exchange) {
                    (Action::Start(cid), _) => match self.start(cid) {
                        Ok(started) => *exchange = Some(started),
                        Err(error) => self.lock().planner.fail(error),
                    },
                    (Action::Stop, _) => *exchange = None,
                    (action, Some(exchange)) => exchange.act(action),
                    // The node could not be started.
                    (action, None) => tracing::trace!(?action, "nobody can be asked"),
                }
            }
            self.changed.notify_all();
        }
    }

    /// Starts the node, for the sake of block `cid`.
    fn start(&self, cid: Cid) -> Result<Arc<Exchange>, FetchError> {
        let network = self.network.get();
        let network = network.map_err(|source| FetchError::Network { cid, source })?;
        if self.kept.get().is_none() {
            let failed = |error: RepoError| FetchError::Store(error.into());
            let session = self.repository.session().map_err(failed)?;
            // While peers are being dialled.
            session.prepare().map_err(failed)?;
            // Readers look here from now on. Only the thread that carries out actions gets this far.
            if self.kept.set(session).is_err() {
                tracing::debug!("the session was opened twice");
            }
        }
        let exchange = Arc::new(Exchange::new(network, self.options.idle_timeout));
        let prospects = Prospects {
            idle_timeout: self.options.idle_timeout,
            has_persistent: self.network.has_persistent(),
            may_discover: self.network.mdns() != Mdns::Off,
            has_gateways: exchange.has_gateways(),
        };
        self.lock().planner.started(cid, prospects, Instant::now());
        Ok(exchange)
    }

    /// Tells the planner what came, and returns the blocks that are to be kept.
    fn take_in(&self, exchange: &Exchange, arrived: Arrived) -> Vec<Block> {
        let now = Instant::now();
        let mut state = self.lock();
        for event in &arrived.network {
            state.planner.network_event(event, now);
        }
        for event in &arrived.session {
            state.planner.session_event(event, now);
        }
        drop(state);
        let mut accepted = Vec::new();
        for arrival in arrived.blocks {
            let is_wanted = self.take_block(exchange, &arrival.block);
            if let Some(stream) = arrival.stream {
                stream.judge(&arrival.block, is_wanted);
            }
            if is_wanted {
                accepted.push(arrival.block);
            }
        }
        let mut state = self.lock();
        if arrived.ended {
            state.planner.ended();
        }
        // After the blocks: the end of a stream comes behind what it brought, unless it was left.
        for event in arrived.gateway {
            match event {
                GatewayEvent::Failed { cid, error } => state.planner.gateways_refused(cid, error),
                GatewayEvent::Ended { root } => state.planner.stream_ended(&root),
                GatewayEvent::Block { .. } => {}
            }
        }
        if self.reporter.cancel().is_cancelled() {
            state.planner.fail(FetchError::Interrupted);
        }
        state.planner.judge(now);
        accepted
    }

    /// Whether a block was missing that came.
    fn take_block(&self, exchange: &Exchange, block: &Block) -> bool {
        let arrived = || self.lock().planner.arrived(block, Instant::now());
        let mut arrival = arrived();
        // A stream brings blocks before their turn to be asked for has come.
        if arrival == Arrival::Unwanted && exchange.has_gateways() {
            self.look();
            arrival = arrived();
        }
        let Arrival::Wanted { below } = arrival else {
            tracing::debug!(cid = %block.cid(), "a block came that is not missing");
            return false;
        };
        let bytes = block.data().len() as u64;
        self.reporter.report(Event::Advanced { bytes });
        if let Some(bytes) = below {
            self.reporter.report(Event::Total { bytes });
        }
        true
    }

    /// Keeps blocks; makes them and those before durable, if the oldest of them has waited long
    /// enough.
    fn keep(&self, blocks: &[Block]) -> Result<(), FetchError> {
        let Some(session) = self.kept.get() else {
            return Ok(());
        };
        if !blocks.is_empty() {
            let keep_free = &self.options.keep_free;
            session
                .put_within(blocks, keep_free)
                .map_err(FetchError::Store)?;
        }
        let now = Instant::now();
        let mut since = lock(&self.unflushed_since);
        if since.is_none() && !blocks.is_empty() {
            *since = Some(now);
        }
        if since.is_none_or(|since| now.saturating_duration_since(since) < FLUSH_AFTER) {
            return Ok(());
        }
        *since = None;
        drop(since);
        session
            .flush()
            .map_err(|error| FetchError::Store(error.into()))
    }
}

impl ReadBlocks for Fetcher<'_> {
    fn read(&self, cid: &Cid, cancel: &Cancel) -> Result<Bytes, BlockError> {
        match self.blocks().read(cid, cancel) {
            Err(BlockError::Missing { .. } | BlockError::Damaged { .. }) => {
                let obtained = self.obtain(cid, cancel);
                obtained.map_err(|error| self.unavailable(cid, error))
            }
            outcome => outcome,
        }
    }

    fn has(&self, cid: &Cid) -> Result<bool, BlockError> {
        self.blocks().has(cid)
    }

    fn size(&self, cid: &Cid) -> Result<Option<u64>, BlockError> {
        self.blocks().size(cid)
    }

    fn expect(&self, cids: &[Cid]) {
        let is_missing = |cid: &&Cid| {
            block::inline_data(cid).is_none() && matches!(self.blocks().has(cid), Ok(false))
        };
        let missing: Vec<_> = cids.iter().filter(is_missing).copied().collect();
        self.lock().planner.expect(&missing);
    }

    /// Once a block is missing, everything that is missing below `root` is fetched.
    fn expect_all(&self, root: &Cid) {
        self.lock().planner.expect_all(root);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
