//! What a fetch does next, and when it gives up. Pure: it reads no clock, no disk and no socket.
//!
//! The driver tells it what was asked for and what came, and carries out its [`Action`]s. Whether a block is
//! here is a question as well: [`Planner::next`] names the block, and [`Planner::looked`] takes the answer.
//!
//! ```text
//! read, complete, expect ──▶ queue ──next──▶ (is it here?) ──looked──▶ wanted ──▶ Action::Want
//!                              ▲                  │ yes                   │
//!                              └──────links───────┴──────── arrived ◀─────┘
//! ```
//!
//! A DAG comes as a whole or fails as a whole. A block that is read for itself comes or fails by itself.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::Fetched;
use super::action::Action;
use super::error::FetchError;
use super::queue::{Queue, Task};
use super::routes::Routes;
use super::sources::{Prospects, Sources, Verdict};
use crate::block::{self, Block, Cid, Multihash};
use crate::dag::{self, DagError, pb};
use crate::limits;
use crate::network::bitswap::SessionEvent;
use crate::network::http::gateway::GatewayError;
use crate::network::{NetworkEvent, Role};

/// The answer to [`Planner::next`].
#[derive(Clone, Debug)]
pub(super) enum Looked {
    /// The block is here and links to nothing that is to be fetched.
    Leaf,
    /// The block is here, and this is its data.
    Node(Bytes),
    /// The block is not here, or damaged.
    Missing,
}

/// How a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// The block is on its way.
    Waits,
    /// The block was not asked for yet. The reader looks whether it has come meanwhile, and answers by
    /// [`Planner::looked_again`].
    IsNew(Task),
}

/// The verdict on a block that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It is to be kept. For the root of a DAG with the bytes below it, as its links say.
    Wanted { below: Option<u64> },
    /// It was not asked for.
    Unwanted,
}

/// A block that readers wait for.
#[derive(Debug)]
struct Awaited {
    cid: Cid,
    readers: usize,
    /// How many blocks were asked for before it.
    order: u64,
    /// When somebody began to wait for it, or one of those came.
    since: Instant,
    outcome: Option<Result<Bytes, Arc<FetchError>>>,
}

#[derive(Debug, Default)]
pub(super) struct Planner {
    /// Known once the node was started.
    sources: Option<Sources>,
    is_starting: bool,
    routes: Routes,
    queue: Queue,
    /// Roots whose DAGs are fetched as soon as anything is missing.
    roots: Vec<Cid>,
    /// All of those so far.
    expected: HashSet<Cid>,
    verifies: bool,
    awaited: HashMap<Multihash, Awaited>,
    failed: Option<Arc<FetchError>>,
    fetched: Fetched,
    actions: Vec<Action>,
}

impl Planner {
    /// All of the DAG `root` is to be had, and what is here is to be verified.
    pub(super) fn complete(&mut self, root: &Cid) {
        self.verifies = true;
        self.expect_all(root);
        self.queue.push([Task::root(*root)].into_iter());
    }

    /// Everything below `root` is fetched, once something is missing.
    pub(super) fn expect_all(&mut self, root: &Cid) {
        self.expected.insert(*root);
        match self.sources {
            Some(_) => self.queue.push([Task::root(*root)].into_iter()),
            None => self.roots.push(*root),
        }
    }

    /// These blocks, which are missing, will be read.
    pub(super) fn expect(&mut self, missing: &[Cid]) {
        let tasks = missing.iter().map(|cid| Task {
            depth: 1,
            deep: false,
            ..Task::root(*cid)
        });
        self.queue.push(tasks);
    }

    /// A reader waits for `cid` from now on, until [`Planner::leave`]. `is_resumed` tells that no thread has
    /// waited for any block before.
    ///
    /// # Errors
    /// Where the fetch has failed as a whole. The reader then does not wait.
    pub(super) fn read(
        &mut self,
        cid: &Cid,
        is_resumed: bool,
        now: Instant,
    ) -> Result<Reading, Arc<FetchError>> {
        if let Some(error) = &self.failed {
            return Err(Arc::clone(error));
        }
        let hash = cid.hash();
        let is_known = self.queue.is_under_way(hash) || self.awaited.contains_key(hash);
        let task = Task {
            deep: self.expected.contains(cid),
            ..Task::root(*cid)
        };
        if !is_known {
            self.queue.begin(task);
            if let Some(sources) = self.sources.as_mut().filter(|_| is_resumed) {
                sources.resumed(now);
            }
        }
        let order = self.queue.order(hash).unwrap_or_default();
        let awaited = self.awaited.entry(*hash).or_insert_with(|| Awaited {
            cid: *cid,
            readers: 0,
            order,
            since: now,
            outcome: None,
        });
        awaited.readers += 1;
        Ok(match is_known {
            true => Reading::Waits,
            false => Reading::IsNew(task),
        })
    }

    /// Whether the block of a new read is here after all. Others may wait for it by now.
    pub(super) fn looked_again(&mut self, task: Task, found: Option<Bytes>) {
        let hash = task.cid.hash();
        match found {
            // This read alone does not want the blocks below.
            Some(data) => {
                self.queue.end(hash);
                self.settle(hash, &data);
            }
            None => self.want(task),
        }
    }

    fn settle(&mut self, hash: &Multihash, data: &Bytes) {
        if let Some(awaited) = self.awaited.get_mut(hash) {
            awaited.outcome = Some(Ok(data.clone()));
        }
    }

    /// The outcome of a read of `cid`; `None` while the block may still come.
    pub(super) fn outcome(&self, cid: &Cid) -> Option<Result<Bytes, Arc<FetchError>>> {
        let awaited = self.awaited.get(cid.hash());
        let outcome = awaited.and_then(|awaited| awaited.outcome.clone());
        outcome.or_else(|| self.failed.clone().map(Err))
    }

    /// A reader no longer waits.
    pub(super) fn leave(&mut self, cid: &Cid) {
        let Some(awaited) = self.awaited.get_mut(cid.hash()) else {
            return;
        };
        awaited.readers -= 1;
        if awaited.readers == 0 {
            self.awaited.remove(cid.hash());
            self.abandon(cid);
        }
    }

    /// The last reader of a block that was wanted for itself has left.
    fn abandon(&mut self, cid: &Cid) {
        let hash = cid.hash();
        if self.queue.is_deep(hash) || !self.queue.is_under_way(hash) {
            return;
        }
        self.queue.end(hash);
        self.cancel(cid);
        if let Some(sources) = &mut self.sources {
            sources.forget(cid);
        }
    }

    fn cancel(&mut self, cid: &Cid) {
        self.actions.push(Action::Cancel(*cid));
        self.actions.extend(self.routes.leave(cid));
    }

    /// The next block of which it has to be known whether it is here, as long as there is room for it.
    pub(super) fn next(&mut self) -> Option<Task> {
        self.queue.pop()
    }

    /// Answers [`Planner::next`].
    pub(super) fn looked(&mut self, task: Task, found: Looked) {
        match found {
            Looked::Leaf => self.fetched.local_blocks += 1,
            Looked::Node(data) => {
                self.fetched.local_blocks += 1;
                self.follow(&task, &data);
            }
            Looked::Missing if self.queue.begin(task) => self.want(task),
            Looked::Missing => {}
        }
    }

    /// Queues what the block of `task` links to, and returns how many bytes that is.
    fn follow(&mut self, task: &Task, data: &[u8]) -> u64 {
        match below(task, data) {
            Ok(tasks) => {
                let bytes = tasks.iter().map(|task| task.size).sum();
                self.queue.push(tasks.into_iter());
                bytes
            }
            Err(error) => {
                self.fail(error.into());
                0
            }
        }
    }

    /// Asks for a block that is missing and on its way from now on.
    fn want(&mut self, task: Task) {
        let cid = task.cid;
        if self.sources.is_none() && !self.is_starting {
            self.is_starting = true;
            self.actions.push(Action::Start(cid));
        }
        self.routes.wanted(&task);
        match self.actions.last_mut() {
            Some(Action::Want(cids)) => cids.push(cid),
            _ => self.actions.push(Action::Want(vec![cid])),
        }
        if task.depth == 0 && task.deep && self.expected.contains(&cid) {
            self.search(cid);
        }
    }

    /// Looks for those who have `cid`, as far as it was not done and may help.
    fn search(&mut self, cid: Cid) {
        if let Some(sources) = &mut self.sources
            && sources.may_search(&cid)
        {
            sources.searching(cid);
            self.actions.push(Action::FindProviders(cid));
        }
    }

    /// The node was started for the sake of `cid`.
    pub(super) fn started(&mut self, cid: Cid, prospects: Prospects, now: Instant) {
        let mut sources = Sources::new(prospects, now);
        if !prospects.has_persistent {
            sources.discovering(now);
            self.actions.push(Action::Discover);
        }
        self.is_starting = false;
        self.sources = Some(sources);
        let roots = std::mem::take(&mut self.roots);
        self.search(*roots.first().unwrap_or(&cid));
        self.queue.push(roots.into_iter().map(Task::root));
    }

    /// Whether the node was started.
    pub(super) fn is_started(&self) -> bool {
        self.sources.is_some()
    }

    /// Whether blocks that are here are to be read even where nothing is below them.
    pub(super) fn verifies(&self) -> bool {
        self.verifies
    }

    /// The fetch cannot go on. The first reason is the one that counts.
    pub(super) fn fail(&mut self, error: FetchError) {
        self.failed.get_or_insert(Arc::new(error));
    }

    /// Why the fetch cannot go on.
    pub(super) fn failure(&self) -> Option<&Arc<FetchError>> {
        self.failed.as_ref()
    }

    /// Whether all that was asked for is here or has failed.
    pub(super) fn is_done(&self) -> bool {
        self.queue.is_done()
    }

    /// Counts the blocks that were fetched so far.
    pub(super) fn fetched(&self) -> Fetched {
        self.fetched
    }

    /// The actions to carry out, in this order.
    pub(super) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Forgets a failure after all readers were told, so that later reads try again. No thread may be at work.
    pub(super) fn start_over(&mut self) {
        if !self.awaited.is_empty() {
            return;
        }
        *self = Planner {
            expected: std::mem::take(&mut self.expected),
            roots: std::mem::take(&mut self.roots),
            verifies: self.verifies,
            fetched: self.fetched,
            actions: vec![Action::Stop],
            ..Planner::default()
        };
    }

    /// Takes an event of the node.
    pub(super) fn network_event(&mut self, event: &NetworkEvent, now: Instant) {
        if let Some(sources) = &mut self.sources {
            sources.network_event(event, now);
        }
        match event {
            NetworkEvent::Connected {
                peer,
                role: Role::Named,
                ..
            }
            | NetworkEvent::Provider { peer, .. } => {
                self.actions.push(Action::AddProvider(*peer));
            }
            _ => {}
        }
    }

    /// Takes an event of bitswap that is no block.
    pub(super) fn session_event(&mut self, event: &SessionEvent, now: Instant) {
        let is_old = matches!(event, SessionEvent::NotFound { cid, .. }
            if !self.queue.is_under_way(cid.hash()));
        if let Some(sources) = self.sources.as_mut().filter(|_| !is_old) {
            sources.session_event(event, now);
        }
    }

    /// No gateway gave a block.
    pub(super) fn gateways_refused(&mut self, cid: Cid, error: Arc<GatewayError>) {
        if let Some(sources) = &mut self.sources {
            sources.refused(cid, error);
        }
    }

    /// The stream of a DAG from a gateway has ended.
    pub(super) fn stream_ended(&mut self, root: &Cid) {
        self.actions.extend(self.routes.stream_ended(root));
    }

    /// The node has ended.
    pub(super) fn ended(&mut self) {
        let cid = self.queue.under_way().next().unwrap_or_default();
        self.fail(FetchError::Ended { cid });
    }

    /// A block came, verified. It is kept also where its links cannot be followed, which is a failure.
    pub(super) fn arrived(&mut self, block: &Block, now: Instant) -> Arrival {
        let hash = block.cid().hash();
        if !self.queue.is_under_way(hash) {
            return Arrival::Unwanted;
        }
        if let Some(sources) = &mut self.sources {
            sources.progressed(block.cid(), now);
            // Bitswap and gateways may both be asked. Bitswap alone knows by itself that it came.
            if sources.has_gateways() {
                self.cancel(block.cid());
            }
        }
        self.progressed(hash, now);
        self.settle(hash, block.data());
        self.fetched.blocks += 1;
        self.fetched.bytes += block.data().len() as u64;
        let mut below = None;
        for task in self.queue.end(hash) {
            let bytes = self.follow(&task, block.data());
            if task.depth == 0 {
                below = Some(bytes);
            }
        }
        Arrival::Wanted { below }
    }

    /// A block that is on its way came: time begins anew for those who asked later, and had to wait for it.
    fn progressed(&mut self, hash: &Multihash, now: Instant) {
        let Some(order) = self.queue.order(hash) else {
            return;
        };
        for awaited in self.awaited.values_mut() {
            if awaited.order >= order {
                awaited.since = now;
            }
        }
    }

    /// Tries further sources of what does not come, or gives it up.
    pub(super) fn judge(&mut self, now: Instant) {
        let Some(sources) = &mut self.sources else {
            return;
        };
        for cid in sources.take_unanswered(now) {
            if self.queue.is_under_way(cid.hash()) {
                self.actions.extend(self.routes.ask_gateways(&cid));
            }
        }
        // A block that is only expected to be read decides nothing.
        let is_deep = |cid: &Cid| self.queue.is_deep(cid.hash());
        let mut verdicts = Vec::new();
        let awaits_dag = self.queue.under_way().find(is_deep);
        if let Some(cid) = awaits_dag {
            match sources.verdict(cid, is_deep, sources.last_block(), now) {
                Verdict::Fail(error) => return self.fail(*error),
                verdict => verdicts.push((cid, verdict)),
            }
        }
        for (hash, awaited) in &self.awaited {
            if awaited.outcome.is_some() || self.queue.is_deep(hash) {
                continue;
            }
            let is_it = |cid: &Cid| cid.hash() == hash;
            let verdict = sources.verdict(awaited.cid, is_it, awaited.since, now);
            verdicts.push((awaited.cid, verdict));
        }
        for (cid, verdict) in verdicts {
            match verdict {
                Verdict::Wait => {}
                Verdict::Search(cid) => self.search(cid),
                Verdict::Discover => self.discover(now),
                Verdict::Fail(error) => {
                    if let Some(awaited) = self.awaited.get_mut(cid.hash()) {
                        awaited.outcome = Some(Err(Arc::from(error)));
                    }
                    self.abandon(&cid);
                }
            }
        }
    }

    fn discover(&mut self, now: Instant) {
        if let Some(sources) = &mut self.sources
            && sources.can_discover()
        {
            sources.discovering(now);
            self.actions.push(Action::Discover);
        }
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

#[cfg(test)]
mod tests;
