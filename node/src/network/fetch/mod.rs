//! Fetching of missing blocks: one block when it is read, and the blocks below it meanwhile.
//!
//! A [`Fetcher`] is the [`ReadBlocks`] of a repository, and behind them the blocks of peers. The first
//! missing block starts the node. A process that misses no block opens no socket. One of the threads
//! that wait for blocks does the work for all: it takes in the blocks that came, keeps them, and asks
//! for the blocks that they link to. So blocks are not fetched faster than they can be kept. While no
//! thread waits, at most one window of blocks is on its way.
//!
//! ```text
//! read(cid) ─ here ─▶ data
//!     └─ missing ─▶ queue ──wants──▶ exchange ──blocks──▶ session of the repository
//!                     ▲            (bitswap, HTTP)                │
//!                     └────────────────links──────────────────────┘
//! ```

mod error;
mod exchange;
mod queue;
mod sources;
mod starter;
mod state;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use self::error::{DialProblem, FetchError};
pub use self::starter::LazyNetwork;

use self::exchange::{Arrival, Arrived, Exchange};
use self::queue::Task;
use self::sources::{Prospects, Sources, Verdict};
use self::state::State;
use super::bitswap::SessionEvent;
use super::event::{NetworkEvent, Role};
use super::http::gateway::GatewayEvent;
use super::options::Mdns;
use crate::block::{self, Block, BlockError, Cid, ReadBlocks, WriteBlocks};
use crate::budget::KeepFree;
use crate::cancel::{Cancel, NEVER};
use crate::dag::{self, DagError, pb};
use crate::limits;
use crate::progress::{Event, Reporter};
use crate::repo::{RepoError, Repository, Session};

/// How often a wait looks whether it was interrupted or has lasted too long.
const TICK: Duration = Duration::from_millis(100);

/// What has arrived becomes durable after this time at the latest, however slowly it comes.
const FLUSH_AFTER: Duration = Duration::from_secs(5);

/// How a fetch goes about it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FetchOptions {
    /// A fetch that gets no block for this long has failed.
    pub idle_timeout: Duration,
    /// What stays free on the disk of the repository.
    pub keep_free: KeepFree,
}

impl Default for FetchOptions {
    fn default() -> FetchOptions {
        FetchOptions {
            idle_timeout: Duration::from_secs(30),
            keep_free: KeepFree::NOTHING,
        }
    }
}

/// What a fetch has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fetched {
    /// Blocks that came from peers.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks that the fetch met and that were here already.
    pub local_blocks: u64,
}

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
        }
    }

    /// Fetches whatever of the DAG below `root` is missing.
    ///
    /// # Errors
    /// [`FetchError`]. On success nothing is missing: every block was read here and verified, or
    /// came and was verified.
    pub fn complete(&self, root: &Cid) -> Result<Fetched, Arc<FetchError>> {
        let mut state = self.lock();
        state.verify = true;
        self.expect_below(&mut state, root);
        state.queue.push([root_task(*root)].into_iter());
        loop {
            if let Some(error) = &state.failed {
                return Err(self.explain(Arc::clone(error)));
            }
            if !state.working && state.queue.is_done() {
                return Ok(state.fetched);
            }
            state = self.work_or_wait(state);
        }
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

    /// Everything below `root` is wanted, from those who have it.
    fn expect_below(&self, state: &mut State, root: &Cid) {
        state.expected.insert(*root);
        match (&state.exchange, &mut state.sources) {
            (Some(exchange), Some(sources)) if sources.may_search(root) => {
                if matches!(self.blocks().has(root), Ok(false)) {
                    exchange.find_providers(root);
                    sources.searching(*root);
                }
            }
            (Some(_), _) => {}
            (None, _) => state.roots.push(*root),
        }
    }

    /// What was fetched so far.
    pub fn fetched(&self) -> Fetched {
        self.lock().fetched
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the node, if this has not been done, for the sake of block `cid`.
    fn connect(&self, state: &mut State, cid: &Cid) -> Result<Arc<Exchange>, Arc<FetchError>> {
        if let Some(exchange) = &state.exchange {
            return Ok(Arc::clone(exchange));
        }
        let network = self.network.get().map_err(|source| {
            let cid = *cid;
            Arc::new(FetchError::Network { cid, source })
        })?;
        if self.kept.get().is_none() {
            let failed = |error: RepoError| Arc::new(FetchError::Store(error.into()));
            let session = self.repository.session().map_err(failed)?;
            // While peers are being dialled.
            session.prepare().map_err(failed)?;
            // Readers look here from now on. Only the thread that holds the lock gets this far.
            if self.kept.set(session).is_err() {
                tracing::debug!("the session was opened twice");
            }
        }
        let exchange = Arc::new(Exchange::new(
            Arc::clone(&network),
            self.options.idle_timeout,
        ));
        let mut sources = Sources::new(
            Prospects {
                idle_timeout: self.options.idle_timeout,
                has_standing: self.network.has_standing(),
                may_discover: self.network.mdns() != Mdns::Off,
                has_gateways: exchange.has_gateways(),
            },
            Instant::now(),
        );
        if !self.network.has_standing() {
            exchange.discover();
            sources.discovering(Instant::now());
        }
        let roots = std::mem::take(&mut state.roots);
        let searched = *roots.first().unwrap_or(cid);
        exchange.find_providers(&searched);
        sources.searching(searched);
        state.sources = Some(sources);
        state.queue.push(roots.into_iter().map(root_task));
        state.exchange = Some(Arc::clone(&exchange));
        Ok(exchange)
    }

    /// Gets the block `cid`, which is not here, unless that is cancelled before.
    fn obtain(&self, cid: &Cid, cancel: &Cancel) -> Result<Bytes, Arc<FetchError>> {
        let hash = cid.hash();
        let mut state = self.lock();
        if let Some(error) = &state.failed {
            return Err(Arc::clone(error));
        }
        let exchange = self.connect(&mut state, cid)?;
        if !state.queue.is_under_way(hash) && !state.awaited.contains_key(hash) {
            // It may have come between the caller's look and this one.
            if let Ok(data) = self.blocks().read(cid, &NEVER) {
                return Ok(data);
            }
            let deep = state.expected.contains(cid);
            let task = Task {
                deep,
                ..root_task(*cid)
            };
            state.queue.begin(task);
            let working = state.working;
            if let Some(sources) = state.sources.as_mut().filter(|_| !working) {
                sources.resumed(Instant::now());
            }
            exchange.want(&mut state.routes, &[task]);
        }
        state.wait_for(cid);
        loop {
            let awaited = state.awaited.get(hash);
            let outcome = awaited.and_then(|awaited| awaited.outcome.clone());
            let outcome = outcome.or_else(|| state.failed.clone().map(Err));
            let interrupted = || Err(Arc::new(FetchError::Interrupted));
            let outcome = outcome.or_else(|| cancel.is_cancelled().then(interrupted));
            if let Some(outcome) = outcome {
                state.leave(cid);
                if outcome.is_err() {
                    state.start_over();
                }
                return outcome;
            }
            state = self.work_or_wait(state);
        }
    }

    /// Does a step of the work that all wait for, or waits for the thread that does.
    fn work_or_wait<'s>(&'s self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        if state.working {
            return self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.working = true;
        if let Err(error) = self.ask(&mut state) {
            state.failed.get_or_insert(error);
        }
        let busy = state.failed.is_none() && !state.queue.is_done();
        if let Some(exchange) = state.exchange.clone().filter(|_| busy) {
            drop(state);
            let arrived = exchange.receive(TICK);
            state = self.lock();
            let mut accepted = Vec::new();
            let taken = self.take_in(&mut state, &exchange, arrived, &mut accepted);
            drop(state);
            // Also where the fetch has failed: what came is kept.
            let kept = self.keep(&accepted);
            state = self.lock();
            if let Err(error) = taken.and(kept.map_err(Arc::new)) {
                state.failed.get_or_insert(error);
            }
        }
        state.working = false;
        self.changed.notify_all();
        state
    }

    /// Asks for the next blocks that are missing, as many as there is room for.
    fn ask(&self, state: &mut State) -> Result<(), Arc<FetchError>> {
        let mut wants = Vec::new();
        while let Some(task) = state.queue.pop() {
            match self.find_here(&task, state.verify)? {
                Here::Leaf => state.fetched.local_blocks += 1,
                Here::Node(data) => {
                    state.fetched.local_blocks += 1;
                    let tasks = below(&task, &data).map_err(FetchError::from)?;
                    state.queue.push(tasks.into_iter());
                }
                Here::Missing if state.queue.begin(task) => wants.push(task),
                Here::Missing => {}
            }
        }
        if let Some(first) = wants.first() {
            let exchange = self.connect(state, &first.cid)?;
            exchange.want(&mut state.routes, &wants);
        }
        Ok(())
    }

    fn find_here(&self, task: &Task, verify: bool) -> Result<Here, FetchError> {
        let blocks = self.blocks();
        if let Some(data) = block::inline_data(&task.cid) {
            return Ok(Here::Node(data));
        }
        let is_leaf = task.cid.codec() == block::RAW || !task.deep;
        if is_leaf && !verify {
            let found = blocks.has(&task.cid).map_err(FetchError::Store)?;
            return Ok(if found { Here::Leaf } else { Here::Missing });
        }
        match blocks.read(&task.cid, &NEVER) {
            Ok(data) => Ok(Here::Node(data)),
            Err(BlockError::Missing { .. } | BlockError::Damaged { .. }) => Ok(Here::Missing),
            Err(error) => Err(FetchError::Store(error)),
        }
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
        let mut state = self.lock();
        let since = &mut state.unflushed_since;
        if since.is_none() && !blocks.is_empty() {
            *since = Some(now);
        }
        if since.is_none_or(|since| now.saturating_duration_since(since) < FLUSH_AFTER) {
            return Ok(());
        }
        *since = None;
        drop(state);
        session
            .flush()
            .map_err(|error| FetchError::Store(error.into()))
    }

    /// Takes note of what came; blocks that were asked for are `accepted`.
    fn take_in(
        &self,
        state: &mut State,
        exchange: &Exchange,
        arrived: Arrived,
        accepted: &mut Vec<Block>,
    ) -> Result<(), Arc<FetchError>> {
        let now = Instant::now();
        let sources = state.sources.as_mut().expect("it came with the exchange");
        for event in &arrived.network {
            sources.network_event(event, now);
            match event {
                NetworkEvent::Connected {
                    peer,
                    role: Role::Named,
                    ..
                }
                | NetworkEvent::Provider { peer, .. } => exchange.bitswap.add_provider(*peer),
                _ => {}
            }
        }
        for event in &arrived.session {
            let is_old = matches!(event, SessionEvent::NotFound { cid, .. }
                if !state.queue.is_under_way(cid.hash()));
            if !is_old {
                sources.session_event(event, now);
            }
        }
        // All of them, also behind one whose links cannot be followed: what came is kept.
        let mut taken = Ok(());
        for Arrival { block, stream } in arrived.blocks {
            let before = accepted.len();
            taken = taken.and(self.take_block(state, exchange, &block, accepted));
            if let Some(stream) = stream {
                stream.judge(&block, accepted.len() > before);
            }
        }
        taken?;
        if arrived.ended {
            let cid = state.queue.under_way().next().unwrap_or_default();
            return Err(FetchError::Ended { cid }.into());
        }
        // After the blocks: the end of a stream comes behind what it brought, unless it was left.
        let sources = state.sources.as_mut().expect("it came with the exchange");
        for event in arrived.gateway {
            match event {
                GatewayEvent::Failed { cid, error } => sources.refused(cid, error),
                GatewayEvent::Ended { root } => exchange.stream_ended(&mut state.routes, &root),
                GatewayEvent::Block { .. } => {}
            }
        }
        if self.reporter.cancel().is_cancelled() {
            return Err(FetchError::Interrupted.into());
        }
        self.judge(state, exchange, now)
    }

    /// Takes a block in, if it is one that is missing.
    fn take_block(
        &self,
        state: &mut State,
        exchange: &Exchange,
        block: &Block,
        accepted: &mut Vec<Block>,
    ) -> Result<(), Arc<FetchError>> {
        let hash = block.cid().hash();
        // A stream brings blocks before their turn to be asked for has come.
        if !state.queue.is_under_way(hash) && exchange.has_gateways() {
            self.ask(state)?;
        }
        if !state.queue.is_under_way(hash) {
            tracing::debug!(cid = %block.cid(), "a block came that is not missing");
            return Ok(());
        }
        exchange.settled(&mut state.routes, block.cid());
        let now = Instant::now();
        if let Some(sources) = &mut state.sources {
            sources.progressed(block.cid(), now);
        }
        state.progressed(hash, now);
        if let Some(awaited) = state.awaited.get_mut(hash) {
            awaited.outcome = Some(Ok(block.data().clone()));
        }
        let bytes = block.data().len() as u64;
        state.fetched.blocks += 1;
        state.fetched.bytes += bytes;
        self.reporter.report(Event::Advanced { bytes });
        accepted.push(block.clone());
        for task in state.queue.end(hash) {
            let tasks = below(&task, block.data()).map_err(FetchError::from)?;
            if task.depth == 0 {
                let bytes = tasks.iter().map(|task| task.size).sum();
                self.reporter.report(Event::Total { bytes });
            }
            state.queue.push(tasks.into_iter());
        }
        Ok(())
    }

    /// Goes on, tries further sources, or gives up.
    fn judge(
        &self,
        state: &mut State,
        exchange: &Exchange,
        now: Instant,
    ) -> Result<(), Arc<FetchError>> {
        let sources = state.sources.as_mut().expect("it came with the exchange");
        for cid in sources.take_unanswered(now) {
            if state.queue.is_under_way(cid.hash()) {
                exchange.ask_gateways(&mut state.routes, &cid);
            }
        }
        // A DAG comes as a whole or fails as a whole; what is read for itself does so for itself. What
        // is on its way only because it may be next decides nothing.
        let mut must_discover = false;
        let mut must_search = None;
        let is_deep = |cid: &Cid| state.queue.is_deep(cid.hash());
        if let Some(cid) = state.queue.under_way().find(is_deep) {
            match sources.verdict(cid, is_deep, sources.last_block(), now) {
                Verdict::Wait => {}
                Verdict::Search(cid) => must_search = Some(cid),
                Verdict::Discover => must_discover = true,
                Verdict::Fail(error) => return Err(Arc::from(error)),
            }
        }
        let mut given_up = Vec::new();
        for (hash, awaited) in &state.awaited {
            if awaited.outcome.is_some() || state.queue.is_deep(hash) {
                continue;
            }
            let is_it = |cid: &Cid| cid.hash() == hash;
            match sources.verdict(awaited.cid, is_it, awaited.since, now) {
                Verdict::Wait => {}
                Verdict::Search(cid) => must_search = Some(cid),
                Verdict::Discover => must_discover = true,
                Verdict::Fail(error) => given_up.push((awaited.cid, Arc::from(error))),
            }
        }
        if let Some(cid) = must_search {
            exchange.find_providers(&cid);
            sources.searching(cid);
        }
        if must_discover {
            exchange.discover();
            sources.discovering(now);
        }
        for (cid, error) in given_up {
            if let Some(awaited) = state.awaited.get_mut(cid.hash()) {
                awaited.outcome = Some(Err(error));
            }
            state.give_up(&cid);
        }
        Ok(())
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
        let missing = cids.iter().filter(is_missing).map(|cid| Task {
            cid: *cid,
            depth: 1,
            size: 0,
            deep: false,
        });
        let missing: Vec<_> = missing.collect();
        self.lock().queue.push(missing.into_iter());
    }

    /// Once a block is missing, everything that is missing below `root` is fetched.
    fn expect_all(&self, root: &Cid) {
        let mut state = self.lock();
        self.expect_below(&mut state, root);
        if state.exchange.is_some() {
            state.queue.push([root_task(*root)].into_iter());
        }
    }
}

/// Whether a block is here.
enum Here {
    /// And links to nothing that is to be fetched.
    Leaf,
    /// And this is its data.
    Node(Bytes),
    Missing,
}

fn root_task(cid: Cid) -> Task {
    Task {
        cid,
        depth: 0,
        size: 0,
        deep: true,
    }
}

/// The tasks for what the block of `task` links to.
fn below(task: &Task, data: &[u8]) -> Result<Vec<Task>, DagError> {
    if !task.deep {
        return Ok(Vec::new());
    }
    let depth = task.depth + 1;
    if depth > limits::MAX_DAG_DEPTH {
        return Err(DagError::TooDeep { root: task.cid });
    }
    let deep = true;
    let make = |cid, size| Task {
        cid,
        depth,
        size,
        deep,
    };
    if task.cid.codec() == block::DAG_PB {
        let cid = task.cid;
        let node = pb::decode(data).map_err(|source| DagError::InvalidPb { cid, source })?;
        Ok(node
            .links
            .iter()
            .map(|link| make(link.cid, link.size))
            .collect())
    } else {
        let links = dag::links(&task.cid, data)?;
        Ok(links.into_iter().map(|cid| make(cid, 0)).collect())
    }
}
