//! Sources of missing blocks, and when a fetch gives up.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::PeerId;

use super::error::{DialProblem, FetchError};
use crate::block::Cid;
use crate::network::NetworkEvent;
use crate::network::arrivals::{Arrivals, INTRODUCTION};
use crate::network::bitswap::{Fault, SessionEvent};
use crate::network::http::gateway::GatewayError;

/// Contents of one fetch that DHTs and routers are asked for: roots, and what their providers lack.
const MAX_SEARCHES: usize = 64;

/// What a fetch can hope for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prospects {
    pub(super) idle_timeout: Duration,
    /// Whether there are peers that are dialled at once.
    pub(super) has_persistent: bool,
    /// Whether peers may be looked for on the local network.
    pub(super) may_discover: bool,
    pub(super) has_gateways: bool,
}

/// What is to be done now.
#[derive(Debug)]
pub(super) enum Verdict {
    Wait,
    /// To ask who has this block, which nobody has who is known.
    Search(Cid),
    /// To look for peers on the local network.
    Discover,
    Fail(Box<FetchError>),
}

/// That nobody who is connected has a block.
#[derive(Clone, Copy, Debug)]
struct NotFound {
    /// How many peers were asked. Where there was none, that may have been before those that are
    /// connected now were.
    asked: usize,
    /// Whether the block was asked for elsewhere.
    is_passed_on: bool,
}

impl NotFound {
    /// Whether it holds of the peers that are connected now. That no peer was there to be asked
    /// does so once those who came have been given the time to answer: when all `is_settled`.
    fn is_certain(&self, is_settled: bool) -> bool {
        self.asked > 0 || is_settled
    }
}

/// What is known of the peers that were and will be asked.
#[derive(Debug)]
pub(super) struct Sources {
    prospects: Prospects,
    last_block: Instant,
    arrivals: Arrivals,
    connected: HashSet<PeerId>,
    /// Providers that are being dialled.
    awaited: HashSet<PeerId>,
    /// Contents that DHTs and routers are being asked for.
    searching: HashSet<Cid>,
    /// Those that they were asked for already.
    searched: HashSet<Cid>,
    lost: Option<PeerId>,
    fault: Option<(PeerId, Fault)>,
    /// When the newest peer was connected.
    last_connected: Option<Instant>,
    /// Blocks that nobody who is connected has.
    not_found: HashMap<Cid, NotFound>,
    /// Blocks that no gateway gave.
    refused: HashMap<Cid, Arc<GatewayError>>,
}

impl Sources {
    pub(super) fn new(prospects: Prospects, now: Instant) -> Sources {
        Sources {
            prospects,
            last_block: now,
            arrivals: Arrivals::new(prospects.has_persistent, prospects.may_discover),
            connected: HashSet::new(),
            awaited: HashSet::new(),
            searching: HashSet::new(),
            searched: HashSet::new(),
            lost: None,
            fault: None,
            last_connected: None,
            not_found: HashMap::new(),
            refused: HashMap::new(),
        }
    }

    /// The node was told to look for those who have `cid`, and will say when it has.
    pub(super) fn searching(&mut self, cid: Cid) {
        self.searching.insert(cid);
        self.searched.insert(cid);
    }

    /// Whether it may still help to look for those who have `cid`.
    pub(super) fn may_search(&self, cid: &Cid) -> bool {
        self.searched.len() < MAX_SEARCHES && !self.searched.contains(cid)
    }

    /// Somebody may turn up on the local network from now on.
    pub(super) fn discovering(&mut self, now: Instant) {
        self.arrivals.discovering(now);
    }

    /// Whether peers of the local network were not looked for yet, and may be.
    pub(super) fn can_discover(&self) -> bool {
        self.arrivals.can_discover()
    }

    /// Whether there are gateways to ask.
    pub(super) fn has_gateways(&self) -> bool {
        self.prospects.has_gateways
    }

    /// A block came.
    pub(super) fn progressed(&mut self, cid: &Cid, now: Instant) {
        self.last_block = now;
        self.fault = None;
        self.forget(cid);
    }

    /// Time in which nothing was asked for does not count.
    pub(super) fn resumed(&mut self, now: Instant) {
        self.last_block = now;
    }

    /// The last time that a block came.
    pub(super) fn last_block(&self) -> Instant {
        self.last_block
    }

    /// Nobody waits for the block any more.
    pub(super) fn forget(&mut self, cid: &Cid) {
        self.not_found.remove(cid);
        self.refused.remove(cid);
    }

    /// No gateway gave the block.
    pub(super) fn refused(&mut self, cid: Cid, error: Arc<GatewayError>) {
        self.refused.insert(cid, error);
    }

    /// Blocks that no peer has, each once: to be asked for elsewhere. None while peers that were
    /// named are being dialled.
    pub(super) fn take_unanswered(&mut self, now: Instant) -> Vec<Cid> {
        if self.arrivals.is_dialling() || !self.prospects.has_gateways {
            return Vec::new();
        }
        let is_settled = self.is_settled(now);
        let unanswered = self
            .not_found
            .iter_mut()
            .filter(|(_, found)| !found.is_passed_on && found.is_certain(is_settled));
        unanswered
            .map(|(cid, found)| {
                found.is_passed_on = true;
                *cid
            })
            .collect()
    }

    /// Whether all who are connected could have been asked.
    fn is_settled(&self, now: Instant) -> bool {
        self.last_connected
            .is_none_or(|connected| now.saturating_duration_since(connected) >= INTRODUCTION)
    }

    pub(super) fn network_event(&mut self, event: &NetworkEvent, now: Instant) {
        self.arrivals.network_event(event, now);
        match event {
            NetworkEvent::Connected { peer, .. } => {
                self.connected.insert(*peer);
                self.last_connected = Some(now);
                self.not_found.clear();
            }
            NetworkEvent::Disconnected { peer } => {
                self.connected.remove(peer);
                self.lost = Some(*peer);
            }
            NetworkEvent::Searching { cid } => {
                self.searching.insert(*cid);
            }
            NetworkEvent::ProvidersSearched { cid } => {
                self.searching.remove(cid);
            }
            NetworkEvent::Provider { peer, .. } if !self.connected.contains(peer) => {
                self.awaited.insert(*peer);
            }
            _ => {}
        }
    }

    pub(super) fn session_event(&mut self, event: &SessionEvent, now: Instant) {
        match event {
            SessionEvent::NotFound { cid, asked } => {
                let not_found = NotFound {
                    asked: *asked,
                    is_passed_on: false,
                };
                self.not_found.insert(*cid, not_found);
            }
            SessionEvent::PeerConnected { peer } => {
                // The network tells it as well, but maybe later.
                self.connected.insert(*peer);
                self.last_connected = Some(now);
                self.awaited.remove(peer);
                self.not_found.clear();
            }
            SessionEvent::PeerUnreachable { peer } => {
                self.awaited.remove(peer);
            }
            SessionEvent::BadBlock { peer, fault } => {
                self.fault = Some((*peer, fault.clone()));
            }
            SessionEvent::PeerDisconnected { peer } => self.lost = Some(*peer),
            SessionEvent::Block { .. } => {}
        }
    }

    /// What to do about `cid`, which does not come, and about all that it is wanted with, of which
    /// nothing came from `since` on. `is_wanted` tells whether a block is one of those.
    pub(super) fn verdict(
        &self,
        cid: Cid,
        is_wanted: impl Fn(&Cid) -> bool,
        since: Instant,
        now: Instant,
    ) -> Verdict {
        if now.saturating_duration_since(since) >= self.prospects.idle_timeout {
            return Verdict::Fail(Box::new(self.idle(cid)));
        }
        if self.somebody_may_come(now) {
            return Verdict::Wait;
        }
        match self.hopeless(cid, is_wanted, now) {
            None => Verdict::Wait,
            Some((cid, _)) if self.may_search(&cid) => Verdict::Search(cid),
            Some(_) if self.arrivals.can_discover() => Verdict::Discover,
            Some((_, error)) => Verdict::Fail(Box::new(error)),
        }
    }

    /// Which of `cid` and the other blocks that are wanted nobody will give, and why, if that is so.
    fn hopeless(
        &self,
        cid: Cid,
        is_wanted: impl Fn(&Cid) -> bool,
        now: Instant,
    ) -> Option<(Cid, FetchError)> {
        if self.prospects.has_gateways {
            let mut refused = self.refused.iter().filter(|(cid, _)| is_wanted(cid));
            let has_no_peer =
                |cid: &Cid| self.connected.is_empty() || self.not_found.contains_key(cid);
            let (cid, error) = refused.find(|(cid, _)| has_no_peer(cid))?;
            let refusal = || FetchError::Gateway {
                cid: *cid,
                source: Arc::clone(error),
            };
            return Some((*cid, self.faulty(*cid).unwrap_or_else(refusal)));
        }
        if self.connected.is_empty() {
            // A peer that was there is dialled again until the time is over.
            return self.lost.is_none().then(|| (cid, self.nobody(cid)));
        }
        let is_settled = self.is_settled(now);
        let not_found = self
            .not_found
            .iter()
            .filter(|(cid, found)| is_wanted(cid) && found.is_certain(is_settled));
        // One that was looked for in vain is enough.
        let (cid, found) = not_found.max_by_key(|(cid, _)| self.searched.contains(cid))?;
        let error = self.faulty(*cid).unwrap_or(FetchError::NotFound {
            cid: *cid,
            asked: found.asked,
        });
        Some((*cid, error))
    }

    fn faulty(&self, cid: Cid) -> Option<FetchError> {
        let (peer, fault) = self.fault.as_ref()?;
        Some(FetchError::Faulty {
            cid,
            peer: *peer,
            source: Box::new(fault.clone()),
        })
    }

    fn somebody_may_come(&self, now: Instant) -> bool {
        self.arrivals.may_come(now) || !self.searching.is_empty() || !self.awaited.is_empty()
    }

    fn nobody(&self, cid: Cid) -> FetchError {
        match self.arrivals.unreachable() {
            Some((address, error)) => FetchError::Unreachable {
                cid,
                address: address.clone(),
                source: DialProblem(Arc::clone(error)),
            },
            None => FetchError::NoPeers { cid },
        }
    }

    fn idle(&self, cid: Cid) -> FetchError {
        if let Some(error) = self.faulty(cid) {
            return error;
        }
        match self.lost {
            Some(peer) if self.connected.is_empty() => FetchError::ProviderLost { cid, peer },
            None if self.connected.is_empty() && !self.prospects.has_gateways => self.nobody(cid),
            _ => FetchError::Idle {
                cid,
                after: self.prospects.idle_timeout,
            },
        }
    }
}
