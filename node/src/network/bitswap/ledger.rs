//! The serving side's view of one peer: what it wants, and what is on its way to it. Pure.
//!
//! A want is queued, read by a worker, and then either answered and struck, or waiting for its
//! block to appear. Everything that a peer can make grow has a bound.

use std::collections::{HashMap, HashSet, VecDeque};

use super::message::{WantEntry, WantKind};
use crate::block::{Cid, IDENTITY};
use crate::limits;

/// Bytes of blocks that one reply carries, a larger single block excepted: what loses little to
/// framing and still lets many peers take turns.
pub(crate) const REPLY_BYTES: usize = 512 * 1024;

/// Bounds of the wants that one job looks up; in between it is what a reply has room for.
const JOB_WANTS: std::ops::RangeInclusive<usize> = 4..=512;

/// Size that blocks are assumed to have before any was read.
const ASSUMED_BLOCK_BYTES: usize = 16 * 1024;

/// Refusals in one message.
const MAX_REFUSALS_PER_MESSAGE: usize = 2048;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Queued,
    Reading,
    /// The block is not here.
    Waiting,
}

#[derive(Clone, Copy, Debug)]
struct Want {
    kind: WantKind,
    send_dont_have: bool,
    state: State,
}

/// One want to look up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lookup {
    pub(crate) cid: Cid,
    pub(crate) kind: WantKind,
}

/// A reply that is being written.
#[derive(Debug)]
struct Flight {
    cids: Vec<Cid>,
    bytes: usize,
}

/// What one peer wants.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Tells the ledgers of successive connections apart.
    pub(crate) epoch: u64,
    /// A worker reads for this peer.
    pub(crate) is_reading: bool,
    wants: HashMap<Cid, Want>,
    /// May name wants that were struck, or one twice.
    queue: VecDeque<Cid>,
    waiting: VecDeque<Cid>,
    refusals: VecDeque<Cid>,
    flights: HashMap<u64, Flight>,
    bytes_in_flight: usize,
    block_bytes: usize,
}

impl Ledger {
    pub(crate) fn new(epoch: u64) -> Ledger {
        Ledger {
            epoch,
            is_reading: false,
            wants: HashMap::new(),
            queue: VecDeque::new(),
            waiting: VecDeque::new(),
            refusals: VecDeque::new(),
            flights: HashMap::new(),
            bytes_in_flight: 0,
            block_bytes: ASSUMED_BLOCK_BYTES,
        }
    }

    /// Wants that are registered.
    pub(crate) fn len(&self) -> usize {
        self.wants.len()
    }

    /// Wants whose blocks are not here; an upper bound.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn clear(&mut self) {
        self.wants.clear();
        self.queue.clear();
        self.waiting.clear();
    }

    /// Takes one line of a wantlist, where `room` more wants may be registered.
    pub(crate) fn apply(&mut self, entry: &WantEntry, room: usize) {
        let cid = entry.cid;
        if cid.hash().code() == IDENTITY || cid.hash().digest().len() < limits::MIN_DIGEST_BYTES {
            return;
        }
        if entry.cancel {
            self.wants.remove(&cid);
            return;
        }
        if let Some(want) = self.wants.get_mut(&cid) {
            if entry.kind == WantKind::Block {
                want.kind = WantKind::Block;
            }
            want.send_dont_have |= entry.send_dont_have;
            // Asked again: the peer wants an answer.
            if want.state == State::Waiting {
                want.state = State::Queued;
                self.enqueue(cid);
            }
            return;
        }
        if room == 0 || self.wants.len() >= limits::MAX_WANTLIST_ENTRIES {
            self.refuse(entry);
            return;
        }
        let want = Want {
            kind: entry.kind,
            send_dont_have: entry.send_dont_have,
            state: State::Queued,
        };
        self.wants.insert(cid, want);
        self.enqueue(cid);
    }

    /// Answers that the block is not here, without looking.
    pub(crate) fn refuse(&mut self, entry: &WantEntry) {
        if entry.send_dont_have
            && !entry.cancel
            && self.refusals.len() < limits::MAX_WANTLIST_ENTRIES
        {
            self.refusals.push_back(entry.cid);
        }
    }

    fn enqueue(&mut self, cid: Cid) {
        self.queue.push_back(cid);
        if self.queue.len() > 2 * limits::MAX_WANTLIST_ENTRIES {
            retain_once(&mut self.queue, &self.wants, State::Queued);
        }
    }

    fn wait(&mut self, cid: Cid) {
        self.waiting.push_back(cid);
        if self.waiting.len() > 2 * limits::MAX_WANTLIST_ENTRIES {
            retain_once(&mut self.waiting, &self.wants, State::Waiting);
        }
    }

    /// Whether there is something to do for the peer, and room to do it.
    pub(crate) fn is_ready(&self) -> bool {
        self.has_work()
            && !self.is_reading
            && self.flights.len() < limits::MAX_REPLIES_PER_PEER
            && self.bytes_in_flight < limits::MAX_REPLY_BYTES_PER_PEER
    }

    /// Whether there is something to do for the peer, be there room or not.
    pub(crate) fn has_work(&self) -> bool {
        !self.queue.is_empty() || !self.refusals.is_empty()
    }

    /// The next wants to look up: about as many as a reply has room for.
    pub(crate) fn take_lookups(&mut self) -> Vec<Lookup> {
        let most = (REPLY_BYTES / self.block_bytes.max(1))
            .saturating_add(1)
            .clamp(*JOB_WANTS.start(), *JOB_WANTS.end());
        let mut lookups = Vec::new();
        while lookups.len() < most
            && let Some(cid) = self.queue.pop_front()
        {
            if let Some(want) = self.wants.get_mut(&cid)
                && want.state == State::Queued
            {
                want.state = State::Reading;
                let kind = want.kind;
                lookups.push(Lookup { cid, kind });
            }
        }
        lookups
    }

    pub(crate) fn take_refusals(&mut self) -> Vec<Cid> {
        let count = self.refusals.len().min(MAX_REFUSALS_PER_MESSAGE);
        self.refusals.drain(..count).collect()
    }

    /// Lookups that found no room in the reply; they come first in the next.
    pub(crate) fn put_back(&mut self, unread: Vec<Cid>) {
        for cid in unread.into_iter().rev() {
            if let Some(want) = self.wants.get_mut(&cid) {
                want.state = State::Queued;
                self.queue.push_front(cid);
            }
        }
    }

    /// Strikes a want whose block goes into the reply; `false` when it was cancelled meanwhile.
    pub(crate) fn strike(&mut self, cid: &Cid) -> bool {
        self.wants.remove(cid).is_some()
    }

    /// Strikes a want that is answered with "have"; `false` when it was cancelled, or changed to
    /// a want for the block.
    pub(crate) fn strike_have(&mut self, cid: &Cid) -> bool {
        match self.wants.get_mut(cid) {
            Some(want) if want.kind == WantKind::Have => self.wants.remove(cid).is_some(),
            Some(want) => {
                want.state = State::Queued;
                self.queue.push_front(*cid);
                false
            }
            None => false,
        }
    }

    /// Lets a want wait for its block; says whether the peer wants to know.
    pub(crate) fn missing(&mut self, cid: &Cid) -> bool {
        let Some(want) = self.wants.get_mut(cid) else {
            return false;
        };
        want.state = State::Waiting;
        let send_dont_have = want.send_dont_have;
        self.wait(*cid);
        send_dont_have
    }

    /// Learns from a finished job how large blocks are.
    pub(crate) fn measure(&mut self, bytes: usize, lookups: usize) {
        if let Some(mean) = bytes.checked_div(lookups) {
            self.block_bytes = (self.block_bytes + mean) / 2;
        }
    }

    /// The next at most `count` waiting wants, to see whether their blocks have come.
    pub(crate) fn take_waiting(&mut self, count: usize) -> Vec<Cid> {
        let count = count.min(self.waiting.len());
        let mut taken: Vec<_> = self.waiting.drain(..count).collect();
        taken.retain(|cid| self.is_waiting(cid));
        taken
    }

    fn is_waiting(&self, cid: &Cid) -> bool {
        self.wants
            .get(cid)
            .is_some_and(|want| want.state == State::Waiting)
    }

    /// What became of waiting wants.
    pub(crate) fn rechecked(&mut self, checked: Vec<(Cid, bool)>) {
        for (cid, is_here) in checked {
            let Some(want) = self.wants.get_mut(&cid) else {
                continue;
            };
            if want.state != State::Waiting {
                continue;
            }
            if is_here {
                want.state = State::Queued;
                self.enqueue(cid);
            } else {
                self.wait(cid);
            }
        }
    }

    pub(crate) fn sent(&mut self, id: u64, cids: Vec<Cid>, bytes: usize) {
        self.bytes_in_flight += bytes;
        self.flights.insert(id, Flight { cids, bytes });
    }

    /// A reply is with the transport: its blocks and their bytes.
    pub(crate) fn written(&mut self, id: u64) -> Option<(Vec<Cid>, usize)> {
        let flight = self.flights.remove(&id)?;
        self.bytes_in_flight -= flight.bytes;
        Some((flight.cids, flight.bytes))
    }

    /// Whether a reply is being written.
    pub(crate) fn is_answered(&self) -> bool {
        !self.flights.is_empty()
    }

    /// Bytes of replies that are being written.
    pub(crate) fn bytes_in_flight(&self) -> usize {
        self.bytes_in_flight
    }

    /// The connection broke, another takes over: what was on its way is wanted again.
    pub(crate) fn restart(&mut self) {
        self.bytes_in_flight = 0;
        let flights = std::mem::take(&mut self.flights);
        for cid in flights.into_values().flat_map(|flight| flight.cids) {
            let want = Want {
                kind: WantKind::Block,
                send_dont_have: true,
                state: State::Queued,
            };
            self.wants.insert(cid, want);
            self.enqueue(cid);
        }
    }
}

/// Drops what was struck or stands twice.
fn retain_once(cids: &mut VecDeque<Cid>, wants: &HashMap<Cid, Want>, state: State) {
    let mut seen = HashSet::new();
    cids.retain(|cid| wants.get(cid).is_some_and(|want| want.state == state) && seen.insert(*cid));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{self, RAW};

    fn some_cid(seed: u64) -> Cid {
        Cid::new_v1(RAW, block::sha2_256(&[&seed.to_le_bytes()]))
    }

    fn want(seed: u64, kind: WantKind) -> WantEntry {
        WantEntry {
            cid: some_cid(seed),
            priority: 1,
            cancel: false,
            kind,
            send_dont_have: true,
        }
    }

    fn cancel(seed: u64) -> WantEntry {
        WantEntry {
            cancel: true,
            ..want(seed, WantKind::Block)
        }
    }

    #[test]
    fn excess_requests_are_refused_and_refusals_are_bounded() {
        let mut ledger = Ledger::new(0);
        let limit = limits::MAX_WANTLIST_ENTRIES as u64;
        for seed in 0..3 * limit {
            ledger.apply(&want(seed, WantKind::Block), usize::MAX);
        }
        assert_eq!(ledger.len() as u64, limit);
        assert_eq!(ledger.refusals.len() as u64, limit);
        assert_eq!(ledger.take_refusals()[0], some_cid(limit));
    }

    #[test]
    fn wants_and_cancels_in_turn_do_not_grow_the_queue() {
        let mut ledger = Ledger::new(0);
        for seed in 0..5 * limits::MAX_WANTLIST_ENTRIES as u64 {
            ledger.apply(&want(seed % 3, WantKind::Block), usize::MAX);
            ledger.apply(&cancel(seed % 3), usize::MAX);
        }
        assert_eq!(ledger.len(), 0);
        assert!(ledger.queue.len() <= 2 * limits::MAX_WANTLIST_ENTRIES);
        assert!(ledger.take_lookups().is_empty());
    }

    #[test]
    fn cancelled_while_read_is_not_sent() {
        let mut ledger = Ledger::new(0);
        ledger.apply(&want(1, WantKind::Block), usize::MAX);
        assert_eq!(ledger.take_lookups().len(), 1);
        ledger.apply(&cancel(1), usize::MAX);
        assert!(!ledger.strike(&some_cid(1)));
        assert!(!ledger.missing(&some_cid(1)));
    }

    #[test]
    fn a_want_for_the_block_outlives_the_answer_to_its_want_have() {
        let mut ledger = Ledger::new(0);
        ledger.apply(&want(1, WantKind::Have), usize::MAX);
        assert_eq!(ledger.take_lookups().len(), 1);
        ledger.apply(&want(1, WantKind::Block), usize::MAX);
        assert!(!ledger.strike_have(&some_cid(1)));
        let lookups = ledger.take_lookups();
        assert_eq!(lookups[0].kind, WantKind::Block);
    }

    #[test]
    fn waiting_wants_are_looked_for_until_they_come() {
        let mut ledger = Ledger::new(0);
        ledger.apply(&want(1, WantKind::Block), usize::MAX);
        ledger.take_lookups();
        assert!(ledger.missing(&some_cid(1)));
        for is_here in [false, true] {
            assert_eq!(ledger.take_waiting(10), [some_cid(1)]);
            ledger.rechecked(vec![(some_cid(1), is_here)]);
        }
        assert_eq!(ledger.waiting(), 0);
        assert_eq!(ledger.take_lookups().len(), 1);
    }

    #[test]
    fn replies_in_flight_are_bounded_and_wanted_again_after_a_break() {
        let mut ledger = Ledger::new(0);
        for seed in 0..10 {
            ledger.apply(&want(seed, WantKind::Block), usize::MAX);
        }
        let first = ledger.take_lookups()[0].cid;
        ledger.strike(&first);
        ledger.sent(1, vec![first], limits::MAX_REPLY_BYTES_PER_PEER);
        ledger.put_back(vec![some_cid(5)]);
        assert!(ledger.has_work() && !ledger.is_ready());
        ledger.restart();
        assert!(ledger.is_ready());
        assert_eq!(ledger.len(), 10);
        assert_eq!(ledger.written(1), None);
    }
}
