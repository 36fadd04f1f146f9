//! Peers that may still come: whether waiting for them can help. Pure; time is an argument.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::swarm::DialError;
use libp2p::{Multiaddr, PeerId};

use super::NetworkEvent;

/// How long multicast DNS is given to find a peer: peers answer within half a second, and have to be
/// dialled.
const LOCAL_DISCOVERY: Duration = Duration::from_secs(2);

/// How long a new peer is given to say what it is, and so whether it keeps a DHT.
pub(super) const INTRODUCTION: Duration = Duration::from_secs(2);

/// What is known of peers that were dialled or may be found.
#[derive(Debug)]
pub(super) struct Arrivals {
    /// Persistent peers are being dialled for the first time.
    is_dialling: bool,
    /// Connected peers that have not said yet what they are.
    strangers: HashMap<PeerId, Instant>,
    may_discover: bool,
    /// Until then a peer of the local network may be found.
    discovering_until: Option<Instant>,
    unreachable: Option<(Multiaddr, Arc<DialError>)>,
}

impl Arrivals {
    /// `has_persistent` tells whether there are peers that are dialled at once, and `may_discover` whether
    /// peers may be looked for on the local network.
    pub(super) fn new(has_persistent: bool, may_discover: bool) -> Arrivals {
        Arrivals {
            is_dialling: has_persistent,
            strangers: HashMap::new(),
            may_discover,
            discovering_until: None,
            unreachable: None,
        }
    }

    pub(super) fn network_event(&mut self, event: &NetworkEvent, now: Instant) {
        match event {
            NetworkEvent::Connected { peer, .. } => drop(self.strangers.insert(*peer, now)),
            NetworkEvent::Disconnected { peer } | NetworkEvent::Identified { peer, .. } => {
                self.strangers.remove(peer);
            }
            NetworkEvent::AllTried => self.is_dialling = false,
            NetworkEvent::Unreachable { address, error } => {
                self.unreachable = Some((address.clone(), Arc::clone(error)));
            }
            _ => {}
        }
    }

    /// Peers of the local network are looked for from `now` on, where that is allowed.
    pub(super) fn discovering(&mut self, now: Instant) {
        if self.may_discover {
            self.discovering_until = Some(now + LOCAL_DISCOVERY);
        }
    }

    /// Whether peers of the local network were not looked for yet, and may be.
    pub(super) fn can_discover(&self) -> bool {
        self.may_discover && self.discovering_until.is_none()
    }

    /// Whether persistent peers are being dialled for the first time.
    pub(super) fn is_dialling(&self) -> bool {
        self.is_dialling
    }

    /// Whether a peer may come that was not there until now.
    pub(super) fn may_come(&self, now: Instant) -> bool {
        let is_new = |since: &Instant| now.saturating_duration_since(*since) < INTRODUCTION;
        self.is_dialling
            || self.discovering_until.is_some_and(|until| now < until)
            || self.strangers.values().any(is_new)
    }

    /// A persistent peer that could not be reached.
    pub(super) fn unreachable(&self) -> Option<&(Multiaddr, Arc<DialError>)> {
        self.unreachable.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_may_come_until_it_was_tried_or_has_said_what_it_is() {
        let now = Instant::now();
        let mut arrivals = Arrivals::new(true, true);
        assert!(arrivals.may_come(now));
        arrivals.network_event(&NetworkEvent::AllTried, now);
        assert!(!arrivals.may_come(now));
        let peer = PeerId::random();
        let connected = NetworkEvent::Connected {
            peer,
            address: Multiaddr::empty(),
            role: super::super::Role::Other,
        };
        arrivals.network_event(&connected, now);
        assert!(arrivals.may_come(now));
        assert!(!arrivals.may_come(now + INTRODUCTION));
        arrivals.network_event(&NetworkEvent::Disconnected { peer }, now);
        assert!(!arrivals.may_come(now));
        assert!(arrivals.can_discover());
        arrivals.discovering(now);
        assert!(!arrivals.can_discover() && arrivals.may_come(now));
        assert!(!arrivals.may_come(now + LOCAL_DISCOVERY));
    }

    #[test]
    fn without_peers_nothing_is_waited_for() {
        let now = Instant::now();
        let mut arrivals = Arrivals::new(false, false);
        arrivals.discovering(now);
        assert!(!arrivals.may_come(now) && !arrivals.can_discover());
    }
}
