//! State that the asking side keeps of one connected peer.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::message::{WantEntry, WantKind};
use super::protocol::Version;
use crate::block::{Cid, Multihash};

/// Wants that one peer is given, of both kinds: a little below the 1,024 that Kubo keeps, since it
/// strikes a want from its list only after the block was sent.
pub(crate) const MAX_WANTS: usize = 1000;

/// Wants that a peer is given before its first block tells how fast it is.
const FIRST_WANTS: usize = 64;

/// Wants that even the slowest peer is given, to keep its connection busy.
const FEWEST_WANTS: usize = 4;

/// A peer is given what it delivers in this time: more would only wait there, where a faster peer
/// cannot take it over.
const WORTH_OF_WANTS: Duration = Duration::from_secs(5);

/// Rate in bytes a second at which an unmeasured peer is assumed to deliver: fast, to try it.
const ASSUMED_RATE: f64 = 1e9;

/// Weight of the newest sample in the averages of rate and latency.
const NEWEST_WEIGHT: f64 = 0.2;

/// Bounds of the time without any answer after which a want is asked for elsewhere. The lower one
/// allows for a disk that spins up.
const SHORTEST_WAIT: Duration = Duration::from_secs(2);
const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How many times its usual latency a peer may take.
const PATIENCE: u32 = 8;

/// A want is moved after this time even from a peer that delivers other blocks.
const LONGEST_BUSY_WAIT: Duration = Duration::from_secs(60);

/// Cancelled or answered wants whose blocks may still come and are no fault: twice what a peer can
/// have been asked for.
const MAX_FORGIVEN: usize = 2 * MAX_WANTS;

/// One connected peer.
#[derive(Debug, Default)]
pub(crate) struct Remote {
    pub(crate) version: Option<Version>,
    /// Blocks asked for and not answered, and since when.
    pub(crate) asked: HashMap<Multihash, Instant>,
    /// Wants that stand in the peer's list, with the CID that they stand there by.
    pub(crate) told: HashMap<Multihash, Cid>,
    /// Sessions that count it among their providers.
    pub(crate) providing: usize,
    outgoing: Vec<WantEntry>,
    unsent_cancels: bool,
    /// A message is with the connection.
    pub(crate) sending: bool,
    pub(crate) on_new_stream: bool,
    pub(crate) kept_alive: bool,
    forgiven: HashSet<Multihash>,
    forgiven_order: VecDeque<Multihash>,
    next_priority: i32,
    latency: Option<f64>,
    rate: Option<f64>,
    last_delivery: Option<Instant>,
}

impl Remote {
    /// Whether it answers want-haves and says when it lacks a block. Unknown peers are assumed to.
    pub(crate) fn has_presences(&self) -> bool {
        self.version.is_none_or(Version::has_presences)
    }

    /// Whether it may be asked for one more block, where blocks have about `block_bytes`.
    pub(crate) fn has_room(&self, block_bytes: usize) -> bool {
        let worth = match self.rate {
            None => FIRST_WANTS,
            Some(rate) => {
                (rate * WORTH_OF_WANTS.as_secs_f64() / block_bytes.max(1) as f64) as usize
            }
        };
        self.told.len() < MAX_WANTS && self.asked.len() < worth.max(FEWEST_WANTS)
    }

    /// Seconds until it would have delivered one more block.
    pub(crate) fn cost(&self, block_bytes: usize) -> f64 {
        let queue = (self.asked.len() + 1) as f64 * block_bytes as f64;
        queue / self.rate.unwrap_or(ASSUMED_RATE)
    }

    /// Puts a want into its list.
    pub(crate) fn tell(&mut self, cid: Cid, kind: WantKind) {
        self.told.insert(*cid.hash(), cid);
        // Kubo reads the cancels of a message after its wants.
        if self.unsent_cancels {
            self.outgoing
                .retain(|entry| !entry.cancel || entry.cid != cid);
        }
        self.push(WantEntry {
            cid,
            priority: 0,
            cancel: false,
            kind,
            send_dont_have: true,
        });
    }

    /// Takes a want from its list, if it stands there.
    pub(crate) fn untell(&mut self, hash: &Multihash) {
        self.asked.remove(hash);
        let Some(cid) = self.told.remove(hash) else {
            return;
        };
        self.outgoing.retain(|entry| entry.cid.hash() != hash);
        self.forgive(*hash);
        self.unsent_cancels = true;
        self.push(WantEntry {
            cid,
            priority: 0,
            cancel: true,
            kind: WantKind::Block,
            send_dont_have: false,
        });
    }

    /// What is to be said to the peer.
    pub(crate) fn take_outgoing(&mut self) -> Vec<WantEntry> {
        self.unsent_cancels = false;
        std::mem::take(&mut self.outgoing)
    }

    /// The peer has answered with the block, which strikes the want from its list.
    pub(crate) fn answered(&mut self, hash: &Multihash, now: Instant) {
        if let Some(asked) = self.asked.remove(hash) {
            self.measure_latency(now - asked);
        }
        if self.told.remove(hash).is_some() {
            self.forgive(*hash);
            self.outgoing.retain(|entry| entry.cid.hash() != hash);
        }
    }

    pub(crate) fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Earlier wants are more urgent.
    fn push(&mut self, mut entry: WantEntry) {
        self.next_priority = self.next_priority.checked_sub(1).unwrap_or(i32::MAX);
        if self.next_priority <= 0 {
            self.next_priority = i32::MAX;
        }
        entry.priority = self.next_priority;
        self.outgoing.push(entry);
    }

    fn forgive(&mut self, hash: Multihash) {
        if !self.forgiven.insert(hash) {
            return;
        }
        self.forgiven_order.push_back(hash);
        if self.forgiven_order.len() > MAX_FORGIVEN
            && let Some(oldest) = self.forgiven_order.pop_front()
        {
            self.forgiven.remove(&oldest);
        }
    }

    /// Whether a block that nobody wants was wanted from this peer a moment ago.
    pub(crate) fn is_forgiven(&self, hash: &Multihash) -> bool {
        self.forgiven.contains(hash)
    }

    pub(crate) fn measure_latency(&mut self, sample: Duration) {
        average(&mut self.latency, sample.as_secs_f64());
    }

    /// Blocks of `bytes` in all, asked for since `asked`, have come.
    pub(crate) fn delivered(&mut self, bytes: usize, asked: Option<Instant>, now: Instant) {
        /// Shorter intervals are noise of scheduling.
        const SHORTEST_SAMPLE: Duration = Duration::from_micros(100);
        let since = self.last_delivery.max(asked);
        if let Some(since) = since {
            let elapsed = now.saturating_duration_since(since).max(SHORTEST_SAMPLE);
            average(&mut self.rate, bytes as f64 / elapsed.as_secs_f64());
        }
        self.last_delivery = Some(now);
    }

    /// The wants that it has not answered for too long.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<Multihash> {
        let wait = self.wait();
        let is_overdue = |asked: Instant| {
            let quiet_since = self.last_delivery.map_or(asked, |last| last.max(asked));
            now.saturating_duration_since(quiet_since) > wait
                || now.saturating_duration_since(asked) > LONGEST_BUSY_WAIT
        };
        let overdue = self.asked.iter().filter(|(_, asked)| is_overdue(**asked));
        overdue.map(|(hash, _)| *hash).collect()
    }

    fn wait(&self) -> Duration {
        match self.latency {
            None => FIRST_WAIT,
            Some(latency) => Duration::from_secs_f64(latency * f64::from(PATIENCE))
                .clamp(SHORTEST_WAIT, LONGEST_WAIT),
        }
    }
}

fn average(average: &mut Option<f64>, sample: f64) {
    *average = Some(average.map_or(sample, |old| {
        old * (1.0 - NEWEST_WEIGHT) + sample * NEWEST_WEIGHT
    }));
}
