//! The serving side: answers the wants of all peers from the local blocks, in turn.
//!
//! ```text
//! wants ──▶ ledger of the peer ──▶ worker reads ──▶ reply ──▶ connection ──▶ "written"
//!              ▲        ▲                │ not here                 │
//!              │        └── waiting ◀────┘                          │
//!              └───────────── room for the next reply ◀─────────────┘
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::channel::mpsc::UnboundedSender;
use libp2p::PeerId;

use super::ledger::{Ledger, Lookup, REPLY_BYTES};
use super::message::{Message, Payload, Prefix, Presence, WantKind};
use super::pace::MemoryWaiters;
use super::workers::Workers;
use crate::block::{BlockError, Cid, ReadBlocks};
use crate::cancel::NEVER;
use crate::limits;

/// Threads that read blocks for peers: one for the disk to be busy while the other hashes.
const READ_THREADS: usize = 2;

/// Blocks of at most this many bytes are sent where only their presence was asked for, as Kubo
/// does: it saves the peer a round trip.
const MAX_INSTEAD_OF_HAVE_BYTES: u64 = 1024;

/// Waiting wants that one job looks for.
const RECHECK_WANTS: usize = 512;

/// Waiting wants, of all peers, that one periodic check looks for.
const RECHECK_WANTS_PER_ROUND: usize = 4096;

/// The most that one job can bring: a reply just below its size, and the block that did not fit.
const RESERVED_BYTES: usize = REPLY_BYTES + limits::MAX_BLOCK_BYTES;

/// A message to be sent to a peer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) peer: PeerId,
    pub(crate) id: u64,
    pub(crate) message: Message,
}

/// What a worker found.
#[derive(Debug)]
pub(crate) struct Finding {
    peer: PeerId,
    epoch: u64,
    generation: u64,
    found: Found,
}

#[derive(Debug)]
enum Found {
    Reply(Lookups),
    Recheck(Vec<(Cid, bool)>),
}

#[derive(Debug, Default)]
struct Lookups {
    blocks: Vec<(Cid, Bytes)>,
    bytes: usize,
    haves: Vec<Cid>,
    missing: Vec<Cid>,
    unread: Vec<Cid>,
}

/// Serves all peers.
pub(crate) struct Server {
    blocks: Arc<dyn ReadBlocks>,
    is_serving: bool,
    workers: Workers,
    findings: UnboundedSender<Finding>,
    ledgers: HashMap<PeerId, Ledger>,
    /// Peers with work, each once, in turn.
    turns: VecDeque<PeerId>,
    replies: Vec<Reply>,
    /// Of replies that are being written.
    bytes_in_flight: usize,
    /// Of replies that are being read; what they will have is not known yet.
    bytes_reserved: usize,
    /// Peers that get no reply for what others hold.
    waiters: MemoryWaiters,
    next_number: u64,
    /// Counts what may have added blocks: a block that was looked for before may be here after.
    generation: u64,
    /// Peers whose waiting wants are looked for in this round, each with how many are left.
    to_recheck: VecDeque<(PeerId, usize)>,
    is_rechecking: bool,
}

impl Server {
    pub(crate) fn new(
        blocks: Arc<dyn ReadBlocks>,
        is_serving: bool,
        findings: UnboundedSender<Finding>,
    ) -> Server {
        Server {
            blocks,
            is_serving,
            workers: Workers::new("bitswap-read", READ_THREADS),
            findings,
            ledgers: HashMap::new(),
            turns: VecDeque::new(),
            replies: Vec::new(),
            bytes_in_flight: 0,
            bytes_reserved: 0,
            waiters: MemoryWaiters::default(),
            next_number: 1,
            generation: 0,
            to_recheck: VecDeque::new(),
            is_rechecking: false,
        }
    }

    /// Peers that get no reply for what slower ones hold.
    pub(crate) fn waiters(&self) -> &MemoryWaiters {
        &self.waiters
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Takes the wants of a message.
    pub(crate) fn received(&mut self, peer: PeerId, message: &Message) {
        if message.wants.is_empty() && !message.full {
            return;
        }
        let epoch = self.number();
        let others = self.registered(&peer);
        let ledger = self
            .ledgers
            .entry(peer)
            .or_insert_with(|| Ledger::new(epoch));
        if message.full {
            ledger.clear();
        }
        for entry in &message.wants {
            if self.is_serving {
                let taken = others + ledger.len();
                ledger.apply(
                    entry,
                    limits::MAX_WANTLIST_ENTRIES_TOTAL.saturating_sub(taken),
                );
            } else {
                ledger.refuse(entry);
            }
        }
        self.enter(peer);
    }

    /// Wants of all peers but `except`.
    fn registered(&self, except: &PeerId) -> usize {
        let others = self.ledgers.iter().filter(|(peer, _)| *peer != except);
        others.map(|(_, ledger)| ledger.len()).sum()
    }

    fn enter(&mut self, peer: PeerId) {
        let has_work = self.ledgers.get(&peer).is_some_and(Ledger::has_work);
        if has_work && !self.turns.contains(&peer) {
            self.turns.push_back(peer);
        }
    }

    pub(crate) fn disconnected(&mut self, peer: &PeerId) {
        if let Some(ledger) = self.ledgers.remove(peer) {
            self.bytes_in_flight -= ledger.bytes_in_flight();
        }
        self.turns.retain(|turn| turn != peer);
    }

    /// The connection that replies went to has closed, and another is used now.
    pub(crate) fn moved(&mut self, peer: PeerId) {
        if let Some(ledger) = self.ledgers.get_mut(&peer) {
            self.bytes_in_flight -= ledger.bytes_in_flight();
            ledger.restart();
        }
        self.enter(peer);
    }

    /// A reply is with the transport: its blocks and their bytes.
    pub(crate) fn written(&mut self, peer: PeerId, id: u64) -> Option<(Vec<Cid>, usize)> {
        let (cids, bytes) = self.ledgers.get_mut(&peer)?.written(id)?;
        self.bytes_in_flight -= bytes;
        self.enter(peer);
        Some((cids, bytes))
    }

    /// Whether a periodic check is needed.
    pub(crate) fn is_waiting(&self) -> bool {
        self.ledgers.values().any(|ledger| ledger.waiting() > 0)
    }

    /// Blocks were added by this process: all that peers wait for is looked for.
    pub(crate) fn blocks_added(&mut self) {
        self.generation += 1;
        self.plan_recheck(usize::MAX);
    }

    /// Blocks may have been added by others. Does nothing while an earlier round goes on.
    pub(crate) fn tick(&mut self) {
        if self.to_recheck.is_empty() {
            let peers = self.ledgers.len().max(1);
            self.plan_recheck((RECHECK_WANTS_PER_ROUND / peers).max(1));
        }
    }

    /// Plans to look for at most `most` waiting wants of each peer.
    fn plan_recheck(&mut self, most: usize) {
        self.to_recheck = self
            .ledgers
            .iter()
            .map(|(peer, ledger)| (*peer, ledger.waiting().min(most)))
            .filter(|(_, count)| *count > 0)
            .collect();
    }

    /// Starts what there is room for, and gives the messages that are to be sent.
    pub(crate) fn poll(&mut self) -> Vec<Reply> {
        self.recheck();
        let mut waiting = 0;
        for _ in 0..self.turns.len() {
            let Some(peer) = self.turns.pop_front() else {
                break;
            };
            waiting += usize::from(!self.serve(peer));
            self.enter(peer);
        }
        let is_held_up = self.bytes_in_flight > limits::MAX_REPLY_BYTES_TOTAL / 2;
        self.waiters.set(if is_held_up { waiting } else { 0 });
        std::mem::take(&mut self.replies)
    }

    /// Starts the peer's next reply; `false` where it gets none at all for want of room.
    fn serve(&mut self, peer: PeerId) -> bool {
        let Some(ledger) = self
            .ledgers
            .get_mut(&peer)
            .filter(|ledger| ledger.is_ready())
        else {
            return true;
        };
        let taken = self.bytes_in_flight + self.bytes_reserved;
        // Half of the room is for peers to which nothing is on its way.
        let room = match ledger.is_answered() {
            true => limits::MAX_REPLY_BYTES_TOTAL / 2,
            false => limits::MAX_REPLY_BYTES_TOTAL,
        };
        if taken + RESERVED_BYTES > room {
            return ledger.is_answered();
        }
        let lookups = ledger.take_lookups();
        if lookups.is_empty() {
            self.reply(peer, Message::default(), Vec::new());
            return true;
        }
        ledger.is_reading = true;
        let epoch = ledger.epoch;
        self.bytes_reserved += RESERVED_BYTES;
        let blocks = Arc::clone(&self.blocks);
        self.start(peer, epoch, move || {
            Found::Reply(look_up(&*blocks, lookups))
        });
        true
    }

    fn start(&self, peer: PeerId, epoch: u64, job: impl FnOnce() -> Found + Send + 'static) {
        let (findings, generation) = (self.findings.clone(), self.generation);
        self.workers.run(move || {
            let finding = Finding {
                peer,
                epoch,
                generation,
                found: job(),
            };
            if findings.unbounded_send(finding).is_err() {
                tracing::debug!(%peer, "a reply came after the end of bitswap");
            }
        });
    }

    /// Sends `message` with the refusals that are due, unless it is empty.
    fn reply(&mut self, peer: PeerId, mut message: Message, cids: Vec<Cid>) {
        let id = self.number();
        let Some(ledger) = self.ledgers.get_mut(&peer) else {
            return;
        };
        let refusals = ledger.take_refusals().into_iter();
        message
            .presences
            .extend(refusals.map(|cid| Presence { cid, have: false }));
        if message.is_empty() {
            return;
        }
        let bytes = message.block_bytes();
        ledger.sent(id, cids, bytes);
        self.bytes_in_flight += bytes;
        self.replies.push(Reply { peer, id, message });
    }

    /// Takes what a worker found.
    pub(crate) fn found(&mut self, finding: Finding) {
        let Finding {
            peer,
            epoch,
            generation,
            found,
        } = finding;
        match found {
            Found::Recheck(checked) => {
                self.is_rechecking = false;
                if let Some(ledger) = self.ledger(&peer, epoch) {
                    ledger.rechecked(checked);
                }
                if generation != self.generation {
                    self.plan_recheck(usize::MAX);
                }
            }
            Found::Reply(lookups) => {
                self.bytes_reserved -= RESERVED_BYTES;
                let is_late = generation != self.generation && !lookups.missing.is_empty();
                self.looked_up(peer, epoch, lookups);
                if is_late {
                    self.plan_recheck(usize::MAX);
                }
            }
        }
        self.enter(peer);
    }

    fn ledger(&mut self, peer: &PeerId, epoch: u64) -> Option<&mut Ledger> {
        self.ledgers
            .get_mut(peer)
            .filter(|ledger| ledger.epoch == epoch)
    }

    fn looked_up(&mut self, peer: PeerId, epoch: u64, lookups: Lookups) {
        let Some(ledger) = self.ledger(&peer, epoch) else {
            return;
        };
        ledger.is_reading = false;
        let done = lookups.blocks.len() + lookups.haves.len() + lookups.missing.len();
        ledger.measure(lookups.bytes, done);
        ledger.put_back(lookups.unread);
        let mut message = Message::default();
        let mut cids = Vec::with_capacity(lookups.blocks.len());
        for (cid, data) in lookups.blocks {
            if ledger.strike(&cid) {
                let prefix = Prefix::of(&cid);
                message.blocks.push(Payload { prefix, data });
                cids.push(cid);
            }
        }
        for cid in lookups.haves {
            if ledger.strike_have(&cid) {
                message.presences.push(Presence { cid, have: true });
            }
        }
        for cid in lookups.missing {
            if ledger.missing(&cid) {
                message.presences.push(Presence { cid, have: false });
            }
        }
        self.reply(peer, message, cids);
    }

    /// Looks for waiting wants, one job at a time, the peers in turn.
    fn recheck(&mut self) {
        while !self.is_rechecking
            && let Some((peer, left)) = self.to_recheck.pop_front()
        {
            let Some(ledger) = self.ledgers.get_mut(&peer) else {
                continue;
            };
            let count = left.min(RECHECK_WANTS);
            let (epoch, cids) = (ledger.epoch, ledger.take_waiting(count));
            if left > count {
                self.to_recheck.push_back((peer, left - count));
            }
            if cids.is_empty() {
                continue;
            }
            self.is_rechecking = true;
            let blocks = Arc::clone(&self.blocks);
            self.start(peer, epoch, move || Found::Recheck(check(&*blocks, cids)));
        }
    }
}

fn check(blocks: &dyn ReadBlocks, cids: Vec<Cid>) -> Vec<(Cid, bool)> {
    let is_here = |cid: &Cid| {
        blocks.has(cid).unwrap_or_else(|error| {
            tracing::debug!(%cid, %error, "cannot look for a block");
            false
        })
    };
    cids.into_iter().map(|cid| (cid, is_here(&cid))).collect()
}

/// Reads until the reply is full. What does not fit stays unread: it is read again for the next
/// reply, from the page cache.
fn look_up(blocks: &dyn ReadBlocks, lookups: Vec<Lookup>) -> Lookups {
    let mut found = Lookups::default();
    let mut lookups = lookups.into_iter();
    for lookup in lookups.by_ref() {
        if !look_up_one(blocks, &lookup, &mut found) {
            found.unread.push(lookup.cid);
            break;
        }
        if found.bytes >= REPLY_BYTES {
            break;
        }
    }
    found.unread.extend(lookups.map(|lookup| lookup.cid));
    found
}

/// Looks one want up; `false` where its block does not fit any more.
fn look_up_one(blocks: &dyn ReadBlocks, lookup: &Lookup, found: &mut Lookups) -> bool {
    let cid = lookup.cid;
    let size = match blocks.size(&cid) {
        Ok(Some(size)) => size,
        Ok(None) => {
            found.missing.push(cid);
            return true;
        }
        Err(error) => {
            tracing::debug!(%cid, %error, "cannot look for a block");
            found.missing.push(cid);
            return true;
        }
    };
    if lookup.kind == WantKind::Have && size > MAX_INSTEAD_OF_HAVE_BYTES {
        found.haves.push(cid);
        return true;
    }
    if !found.blocks.is_empty() && found.bytes as u64 + size > REPLY_BYTES as u64 {
        return false;
    }
    match blocks.read(&cid, &NEVER) {
        Ok(data) => {
            found.bytes += data.len();
            found.blocks.push((cid, data));
        }
        Err(BlockError::Missing { .. }) => found.missing.push(cid),
        Err(error) => {
            tracing::debug!(%cid, %error, "cannot read a block for a peer");
            found.missing.push(cid);
        }
    }
    true
}
