//! Who may still have what is missing, and when to give up.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::swarm::DialError;
use libp2p::{Multiaddr, PeerId};

use super::error::{DialProblem, FetchError};
use crate::block::Cid;
use crate::network::NetworkEvent;
use crate::network::bitswap::{Fault, SessionEvent};

/// How long multicast DNS is given to find somebody, where nobody else has the block.
const LOCAL_DISCOVERY: Duration = Duration::from_secs(3);

/// How long a new peer is given to say what it is, and so whether it keeps a DHT.
const INTRODUCTION: Duration = Duration::from_secs(2);

/// What is known of the peers that were and will be asked.
#[derive(Debug)]
pub(super) struct Sources {
    idle_timeout: Duration,
    last_block: Instant,
    /// Until then somebody may turn up by himself.
    discovering_until: Option<Instant>,
    /// Peers that were named and are being dialled for the first time.
    named_untried: usize,
    connected: HashSet<PeerId>,
    /// Connected peers that have not said yet what they are.
    strangers: HashMap<PeerId, Instant>,
    /// Providers that are being dialled.
    awaited: HashSet<PeerId>,
    /// Whether a DHT is being asked.
    searching: bool,
    unreachable: Option<(Multiaddr, Arc<DialError>)>,
    lost: Option<PeerId>,
    fault: Option<(PeerId, Fault)>,
    /// Blocks that nobody who is connected has, and how many were asked.
    not_found: HashMap<Cid, usize>,
}

impl Sources {
    pub(super) fn new(
        idle_timeout: Duration,
        named: usize,
        discovery: bool,
        now: Instant,
    ) -> Sources {
        Sources {
            idle_timeout,
            last_block: now,
            discovering_until: discovery.then(|| now + LOCAL_DISCOVERY),
            named_untried: named,
            connected: HashSet::new(),
            strangers: HashMap::new(),
            awaited: HashSet::new(),
            searching: false,
            unreachable: None,
            lost: None,
            fault: None,
            not_found: HashMap::new(),
        }
    }

    /// A block came.
    pub(super) fn progressed(&mut self, now: Instant) {
        self.last_block = now;
        self.fault = None;
    }

    /// Time in which nothing was asked for does not count.
    pub(super) fn resumed(&mut self, now: Instant) {
        self.last_block = now;
    }

    pub(super) fn network_event(&mut self, event: &NetworkEvent, now: Instant) {
        match event {
            NetworkEvent::Connected { peer, named, .. } => {
                if *named && !self.connected.contains(peer) {
                    self.named_untried = self.named_untried.saturating_sub(1);
                }
                self.connected.insert(*peer);
                self.strangers.insert(*peer, now);
                self.not_found.clear();
            }
            NetworkEvent::Disconnected { peer } => {
                self.connected.remove(peer);
                self.strangers.remove(peer);
                self.lost = Some(*peer);
            }
            NetworkEvent::Unreachable { address, error } => {
                self.named_untried = self.named_untried.saturating_sub(1);
                self.unreachable = Some((address.clone(), Arc::clone(error)));
            }
            NetworkEvent::Identified { peer, .. } => {
                self.strangers.remove(peer);
            }
            NetworkEvent::Searching { .. } => self.searching = true,
            NetworkEvent::ProvidersSearched { .. } => self.searching = false,
            NetworkEvent::Provider { peer, .. } if !self.connected.contains(peer) => {
                self.awaited.insert(*peer);
            }
            _ => {}
        }
    }

    pub(super) fn session_event(&mut self, event: &SessionEvent) {
        match event {
            SessionEvent::NotFound { cid, asked } => {
                self.not_found.insert(*cid, *asked);
            }
            SessionEvent::PeerConnected { peer } => {
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

    /// Why `cid` and with it the fetch has failed; `None` while there is hope. `is_wanted` tells
    /// whether a block is still being asked for.
    pub(super) fn verdict(
        &self,
        cid: Cid,
        is_wanted: impl Fn(&Cid) -> bool,
        now: Instant,
    ) -> Option<FetchError> {
        if now.saturating_duration_since(self.last_block) >= self.idle_timeout {
            return Some(self.idle(cid));
        }
        if self.somebody_may_come(now) {
            return None;
        }
        if self.connected.is_empty() {
            // A peer that was there is dialled again until the time is over.
            return self.lost.is_none().then(|| self.nobody(cid));
        }
        let missing = |(cid, asked): (&Cid, &usize)| {
            let (cid, asked) = (*cid, *asked);
            (asked > 0 && is_wanted(&cid)).then_some((cid, asked))
        };
        let (cid, asked) = self.not_found.iter().find_map(missing)?;
        Some(match &self.fault {
            Some((peer, fault)) => FetchError::Faulty {
                cid,
                peer: *peer,
                source: Box::new(fault.clone()),
            },
            None => FetchError::NotFound { cid, asked },
        })
    }

    fn somebody_may_come(&self, now: Instant) -> bool {
        let discovering = self.discovering_until.is_some_and(|until| now < until);
        let introducing = self
            .strangers
            .values()
            .any(|since| now.saturating_duration_since(*since) < INTRODUCTION);
        discovering
            || introducing
            || self.named_untried > 0
            || self.searching
            || !self.awaited.is_empty()
    }

    fn nobody(&self, cid: Cid) -> FetchError {
        match &self.unreachable {
            Some((address, error)) => FetchError::Unreachable {
                cid,
                address: address.clone(),
                source: DialProblem(Arc::clone(error)),
            },
            None => FetchError::NoPeers { cid },
        }
    }

    fn idle(&self, cid: Cid) -> FetchError {
        match (&self.fault, self.lost) {
            (Some((peer, fault)), _) => FetchError::Faulty {
                cid,
                peer: *peer,
                source: Box::new(fault.clone()),
            },
            (None, Some(peer)) if self.connected.is_empty() => {
                FetchError::ProviderLost { cid, peer }
            }
            (None, None) if self.connected.is_empty() => self.nobody(cid),
            _ => FetchError::Idle {
                cid,
                after: self.idle_timeout,
            },
        }
    }
}
