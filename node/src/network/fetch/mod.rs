//! Fetching what is not here: one block when it is read, and what is below it meanwhile.
//!
//! A [`Fetcher`] is the [`Blocks`] of a repository, and behind them those of peers. The first
//! block that is missing starts the node; a process that misses nothing opens no socket. Whoever
//! waits for a block does the work for all: takes in what came, keeps it, and asks for what those
//! blocks link to. So nothing is fetched faster than it can be kept, and while nobody waits no
//! more than a window of blocks is on its way.
//!
//! ```text
//! read(cid) ─ here ─▶ data
//!     └─ missing ─▶ queue ──wants──▶ bitswap ──blocks──▶ session of the repository
//!                     ▲                                          │
//!                     └────────────────links─────────────────────┘
//! ```

mod error;
mod queue;
mod sources;
mod starter;

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, select};

pub use self::error::{DialProblem, FetchError};
pub use self::starter::LazyNetwork;

use self::queue::{Queue, Task};
use self::sources::Sources;
use super::bitswap::{self, SessionEvent};
use super::{Network, NetworkEvent};
use crate::block::{self, Block, BlockError, Blocks, Cid, Multihash};
use crate::dag::{self, DagError, pb};
use crate::limits;
use crate::progress::{Event, Reporter};
use crate::repo::{RepoError, Repository, Session};

/// How often a wait looks whether it was interrupted or has lasted too long.
const TICK: Duration = Duration::from_millis(100);

/// Blocks taken in at a time, and their bytes, before others get their turn.
const MAX_BATCH_BLOCKS: usize = 512;
const MAX_BATCH_BYTES: usize = 4 << 20;

/// What has arrived becomes durable after this time at the latest, however slowly it comes.
const FLUSH_AFTER: Duration = Duration::from_secs(5);

/// How a fetch goes about it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FetchOptions {
    /// A fetch that gets no block for this long has failed.
    pub idle_timeout: Duration,
    /// Whether what a missing block links to is fetched at once, since it will be read too.
    pub deep: bool,
}

impl Default for FetchOptions {
    fn default() -> FetchOptions {
        FetchOptions {
            idle_timeout: Duration::from_secs(30),
            deep: true,
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

#[derive(Default)]
struct State {
    link: Option<Arc<Link>>,
    sources: Option<Sources>,
    queue: Queue,
    /// Roots whose DAGs are fetched as soon as anything is missing.
    roots: Vec<Cid>,
    /// Blocks that readers wait for, how many of them, and the data once it is there.
    awaited: HashMap<Multihash, Awaited>,
    /// Whether some thread takes in what comes.
    working: bool,
    failed: Option<Arc<FetchError>>,
    fetched: Fetched,
    unflushed_since: Option<Instant>,
}

#[derive(Default)]
struct Awaited {
    readers: usize,
    data: Option<Bytes>,
}

/// The connection to a running node.
struct Link {
    session: bitswap::Session,
    events: Receiver<NetworkEvent>,
    /// Kept running for as long as something is fetched.
    _network: Arc<Network>,
}

/// What came in one go.
#[derive(Default)]
struct Arrived {
    blocks: Vec<Block>,
    bytes: usize,
    session: Vec<SessionEvent>,
    network: Vec<NetworkEvent>,
    ended: bool,
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

    /// Says that all below `root` will be read: once a block is missing, everything that is
    /// missing there is fetched, in the order of the DAG.
    pub fn expect(&self, root: &Cid) {
        let mut state = self.lock();
        if state.link.is_some() {
            state.queue.push([root_task(*root)].into_iter());
        } else {
            state.roots.push(*root);
        }
    }

    /// Fetches whatever of the DAG below `root` is missing.
    ///
    /// # Errors
    /// [`FetchError`]. On success nothing is missing.
    pub fn complete(&self, root: &Cid) -> Result<Fetched, Arc<FetchError>> {
        match dag::first_missing(self.blocks(), root) {
            Ok(None) => return Ok(Fetched::default()),
            Ok(Some(_))
            | Err(DagError::Block(BlockError::Missing { .. } | BlockError::Damaged { .. })) => {}
            Err(error) => return Err(Arc::new(error.into())),
        }
        let mut state = self.lock();
        self.connect(&mut state, root)?;
        state.queue.push([root_task(*root)].into_iter());
        loop {
            if let Some(error) = &state.failed {
                return Err(Arc::clone(error));
            }
            if !state.working && state.queue.is_done() {
                return Ok(state.fetched);
            }
            state = self.work_or_wait(state);
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
    fn blocks(&self) -> &dyn Blocks {
        match self.kept.get() {
            Some(session) => session,
            None => self.repository,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the node, if this has not been done, for the sake of block `cid`.
    fn connect(&self, state: &mut State, cid: &Cid) -> Result<Arc<Link>, Arc<FetchError>> {
        if let Some(link) = &state.link {
            return Ok(Arc::clone(link));
        }
        let network = self.network.get().map_err(|source| {
            let cid = *cid;
            Arc::new(FetchError::Network { cid, source })
        })?;
        let session = self
            .repository
            .session()
            .map_err(|error| Arc::new(FetchError::Store(error.into())))?;
        // Readers look here from now on. Only the thread that holds the lock gets this far.
        if self.kept.set(session).is_err() {
            tracing::debug!("the session was opened twice");
        }
        let link = Arc::new(Link {
            session: network.bitswap().session(),
            events: network.subscribe(),
            _network: Arc::clone(&network),
        });
        let now = Instant::now();
        state.sources = Some(Sources::new(
            self.options.idle_timeout,
            self.network.named(),
            self.network.discovery(),
            now,
        ));
        let roots = std::mem::take(&mut state.roots);
        network.find_providers(roots.first().unwrap_or(cid));
        state.queue.push(roots.into_iter().map(root_task));
        state.link = Some(Arc::clone(&link));
        Ok(link)
    }

    /// Gets the block `cid`, which is not here.
    fn obtain(&self, cid: &Cid) -> Result<Bytes, Arc<FetchError>> {
        let hash = cid.hash();
        let mut state = self.lock();
        if let Some(error) = &state.failed {
            return Err(Arc::clone(error));
        }
        let link = self.connect(&mut state, cid)?;
        if state.queue.is_under_way(hash) {
            state.awaited.entry(*hash).or_default().readers += 1;
        } else {
            // It may have come between the caller's look and this one.
            if let Ok(data) = self.blocks().read(cid) {
                return Ok(data);
            }
            state.awaited.entry(*hash).or_default().readers += 1;
            let deep = self.options.deep;
            let task = Task {
                deep,
                ..root_task(*cid)
            };
            if state.queue.begin(task) {
                let working = state.working;
                if let Some(sources) = state.sources.as_mut().filter(|_| !working) {
                    sources.resumed(Instant::now());
                }
                link.session.want(&[*cid]);
            }
        }
        loop {
            let data = state.awaited.get(hash).and_then(|found| found.data.clone());
            let outcome = match (data, &state.failed) {
                (Some(data), _) => Some(Ok(data)),
                (None, Some(error)) => Some(Err(Arc::clone(error))),
                (None, None) => None,
            };
            if let Some(outcome) = outcome {
                state.leave(hash);
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
        let Some(link) = state.link.clone() else {
            return state;
        };
        state.working = true;
        if let Err(error) = self.ask(&mut state, &link) {
            state.failed.get_or_insert_with(|| Arc::new(error));
        }
        if state.failed.is_none() && !state.queue.is_done() {
            drop(state);
            let arrived = receive(&link);
            let kept = self.keep(&arrived.blocks);
            state = self.lock();
            let taken = kept.and_then(|()| self.take_in(&mut state, &link, arrived));
            if let Err(error) = taken {
                state.failed.get_or_insert_with(|| Arc::new(error));
            }
        }
        state.working = false;
        self.changed.notify_all();
        state
    }

    /// Asks for the next blocks that are missing, as many as there is room for.
    fn ask(&self, state: &mut State, link: &Link) -> Result<(), FetchError> {
        let mut wants = Vec::new();
        while let Some(task) = state.queue.pop() {
            match self.find_here(&task)? {
                Here::Leaf => state.fetched.local_blocks += 1,
                Here::Node(data) => {
                    state.fetched.local_blocks += 1;
                    state.queue.push(below(&task, &data)?.into_iter());
                }
                Here::Missing if state.queue.begin(task) => wants.push(task.cid),
                Here::Missing => {}
            }
        }
        if !wants.is_empty() {
            link.session.want(&wants);
        }
        Ok(())
    }

    fn find_here(&self, task: &Task) -> Result<Here, FetchError> {
        let blocks = self.blocks();
        if let Some(data) = block::inline_data(&task.cid) {
            return Ok(Here::Node(data));
        }
        if !blocks.has(&task.cid).map_err(FetchError::Store)? {
            return Ok(Here::Missing);
        }
        if task.cid.codec() == block::RAW || !task.deep {
            return Ok(Here::Leaf);
        }
        match blocks.read(&task.cid) {
            Ok(data) => Ok(Here::Node(data)),
            Err(BlockError::Missing { .. } | BlockError::Damaged { .. }) => Ok(Here::Missing),
            Err(error) => Err(FetchError::Store(error)),
        }
    }

    fn keep(&self, blocks: &[Block]) -> Result<(), FetchError> {
        match self.kept.get() {
            Some(session) if !blocks.is_empty() => session.put(blocks).map_err(FetchError::Store),
            _ => Ok(()),
        }
    }

    /// Takes note of what came, which is kept already.
    fn take_in(&self, state: &mut State, link: &Link, arrived: Arrived) -> Result<(), FetchError> {
        let now = Instant::now();
        let state = &mut *state;
        let sources = state.sources.as_mut().expect("it came with the link");
        if arrived.ended {
            let cid = state.queue.any_under_way().unwrap_or_default();
            return Err(FetchError::Ended { cid });
        }
        for event in &arrived.network {
            sources.network_event(event, now);
            match event {
                NetworkEvent::Connected {
                    peer, named: true, ..
                }
                | NetworkEvent::Provider { peer, .. } => link.session.add_provider(*peer),
                _ => {}
            }
        }
        for event in &arrived.session {
            sources.session_event(event);
        }
        if !arrived.blocks.is_empty() {
            sources.progressed(now);
            if state.unflushed_since.is_none() {
                state.unflushed_since = Some(now);
            }
        }
        for block in arrived.blocks {
            let hash = block.cid().hash();
            if let Some(awaited) = state.awaited.get_mut(hash) {
                awaited.data = Some(block.data().clone());
            }
            state.fetched.blocks += 1;
            state.fetched.bytes += block.data().len() as u64;
            self.reporter.report(Event::Advanced {
                bytes: block.data().len() as u64,
            });
            for task in state.queue.end(hash) {
                let tasks = below(&task, block.data())?;
                if task.depth == 0 {
                    let bytes = tasks.iter().map(|task| task.size).sum();
                    self.reporter.report(Event::Total { bytes });
                }
                state.queue.push(tasks.into_iter());
            }
        }
        self.flush(&mut state.unflushed_since, now)?;
        if self.reporter.interrupted() {
            return Err(FetchError::Interrupted);
        }
        let sources = state.sources.as_ref().expect("it came with the link");
        let verdict = state
            .queue
            .any_under_way()
            .and_then(|cid| sources.verdict(cid, |cid| state.queue.is_under_way(cid.hash()), now));
        verdict.map_or(Ok(()), Err)
    }

    /// Makes what has arrived durable, if the oldest of it has waited long enough.
    fn flush(&self, since: &mut Option<Instant>, now: Instant) -> Result<(), FetchError> {
        let due = since.is_some_and(|since| now.saturating_duration_since(since) >= FLUSH_AFTER);
        if let Some(session) = self.kept.get().filter(|_| due) {
            *since = None;
            session
                .flush()
                .map_err(|error| FetchError::Store(error.into()))?;
        }
        Ok(())
    }
}

impl State {
    /// A reader no longer waits.
    fn leave(&mut self, hash: &Multihash) {
        if let Some(awaited) = self.awaited.get_mut(hash) {
            awaited.readers -= 1;
            if awaited.readers == 0 {
                self.awaited.remove(hash);
            }
        }
    }
}

impl Blocks for Fetcher<'_> {
    fn read(&self, cid: &Cid) -> Result<Bytes, BlockError> {
        match self.blocks().read(cid) {
            Err(BlockError::Missing { .. } | BlockError::Damaged { .. }) => {
                self.obtain(cid).map_err(|source| BlockError::Unavailable {
                    cid: *cid,
                    source: Box::new(source),
                })
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

    fn put(&self, batch: &[Block]) -> Result<(), BlockError> {
        self.blocks().put(batch)
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

/// Waits for something to come, for [`TICK`] at most, and takes what else is there.
fn receive(link: &Link) -> Arrived {
    let mut arrived = Arrived::default();
    select! {
        recv(link.session.events()) -> event => match event {
            Ok(event) => arrived.add(link.session.taken(event)),
            Err(_) => arrived.ended = true,
        },
        recv(link.events) -> event => match event {
            Ok(event) => arrived.network.push(event),
            Err(_) => arrived.ended = true,
        },
        default(TICK) => {}
    }
    while arrived.blocks.len() < MAX_BATCH_BLOCKS && arrived.bytes < MAX_BATCH_BYTES {
        match link.session.try_recv() {
            Ok(event) => arrived.add(event),
            Err(_) => break,
        }
    }
    arrived
        .network
        .extend(link.events.try_iter().take(MAX_BATCH_BLOCKS));
    arrived
}

impl Arrived {
    fn add(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Block { block, .. } => {
                self.bytes += block.data().len();
                self.blocks.push(block);
            }
            event => self.session.push(event),
        }
    }
}
