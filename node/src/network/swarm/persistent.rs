//! Peers that are connected from the start and kept connected: the named peers, and the peers through
//! which the node enters the DHT. Pure: it says which dials are due, and is told the outcome of each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId};

use crate::network::event::Role;

/// First pause before a peer is dialled again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest such pause.
const LAST_PAUSE: Duration = Duration::from_secs(8);

/// How long a relay may take to say where it sees this node.
const RELAY_PATIENCE: Duration = Duration::from_secs(2);

/// One address that was named.
#[derive(Debug)]
struct Persistent {
    address: Multiaddr,
    relay: Option<Relay>,
    role: Role,
    /// Its id, from the address or once it was connected.
    peer: Option<PeerId>,
    dialling: Option<ConnectionId>,
    /// Why the last dial failed.
    problem: Option<Arc<DialError>>,
    /// Whether the first dial has come to an end.
    is_tried: bool,
    pause: Duration,
    /// When it is dialled again.
    again: Option<Instant>,
}

/// Through which a peer is reached. It is dialled first: only who knows how it is seen from outside
/// can go on without the relay later, and the relay tells.
#[derive(Debug)]
struct Relay {
    address: Multiaddr,
    peer: PeerId,
    is_connected: bool,
}

impl Relay {
    /// The relay of an address that has one.
    fn of(address: &Multiaddr) -> Option<Relay> {
        let is_circuit = |part: &Protocol<'_>| *part == Protocol::P2pCircuit;
        address.iter().find(is_circuit)?;
        let address: Multiaddr = address
            .iter()
            .take_while(|part| !is_circuit(part))
            .collect();
        match address.iter().last()? {
            Protocol::P2p(peer) => Some(Relay {
                address,
                peer,
                is_connected: false,
            }),
            _ => None,
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct PersistentPeers {
    peers: Vec<Persistent>,
}

impl PersistentPeers {
    pub(super) fn add(&mut self, address: Multiaddr, role: Role, now: Instant) {
        let peer = address
            .iter()
            .filter_map(|part| match part {
                Protocol::P2p(peer) => Some(peer),
                _ => None,
            })
            // The one before is a relay.
            .last();
        self.peers.push(Persistent {
            relay: Relay::of(&address),
            address,
            role,
            peer,
            dialling: None,
            problem: None,
            is_tried: false,
            pause: FIRST_PAUSE,
            again: Some(now),
        });
    }

    /// When the next dial is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.peers.iter().filter_map(|peer| peer.again).min()
    }

    /// The dials whose time has come.
    pub(super) fn due(&mut self, now: Instant) -> Vec<DialOpts> {
        let due = self
            .peers
            .iter_mut()
            .filter(|persistent| persistent.again.is_some_and(|again| again <= now));
        due.map(|persistent| {
            persistent.again = None;
            let relay = persistent
                .relay
                .as_ref()
                .filter(|relay| !relay.is_connected);
            let (peer, address) = match relay {
                Some(relay) => (Some(relay.peer), relay.address.clone()),
                None => (persistent.peer, persistent.address.clone()),
            };
            let options = match peer {
                Some(peer) => DialOpts::peer_id(peer)
                    .condition(PeerCondition::Disconnected)
                    .addresses(vec![address])
                    .build(),
                None => DialOpts::unknown_peer_id().address(address).build(),
            };
            persistent.dialling = Some(options.connection_id());
            options
        })
        .collect()
    }

    /// A dial has failed: the address, if it is one of these.
    pub(super) fn failed(
        &mut self,
        connection: ConnectionId,
        problem: Arc<DialError>,
        now: Instant,
    ) -> Option<Multiaddr> {
        let persistent = self.dialled_by(connection)?;
        persistent.problem = Some(problem);
        persistent.dialling = None;
        persistent.is_tried = true;
        persistent.again = Some(now + persistent.pause);
        persistent.pause = (persistent.pause * 2).min(LAST_PAUSE);
        Some(persistent.address.clone())
    }

    /// A dial was not made, because the peer is connected.
    pub(super) fn needless(&mut self, connection: ConnectionId, now: Instant) {
        let Some(persistent) = self.dialled_by(connection) else {
            return;
        };
        persistent.dialling = None;
        match &mut persistent.relay {
            Some(relay) if !relay.is_connected => {
                relay.is_connected = true;
                persistent.again = Some(now);
            }
            _ => persistent.is_tried = true,
        }
    }

    fn dialled_by(&mut self, connection: ConnectionId) -> Option<&mut Persistent> {
        self.peers
            .iter_mut()
            .find(|persistent| persistent.dialling == Some(connection))
    }

    /// A peer was connected; says why.
    pub(super) fn connected(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        now: Instant,
    ) -> Role {
        for persistent in &mut self.peers {
            if let Some(relay) = persistent.relay.as_mut().filter(|relay| relay.peer == peer) {
                if !relay.is_connected {
                    relay.is_connected = true;
                    persistent.dialling = None;
                    persistent.again = Some(now + RELAY_PATIENCE);
                }
            } else if persistent.dialling == Some(connection) || persistent.peer == Some(peer) {
                persistent.peer = Some(peer);
                persistent.dialling = None;
                persistent.problem = None;
                persistent.is_tried = true;
                persistent.again = None;
                persistent.pause = FIRST_PAUSE;
            }
        }
        self.role(&peer)
    }

    /// A peer has told about itself, and about how it sees this node.
    pub(super) fn identified(&mut self, peer: PeerId, now: Instant) {
        let is_behind = |persistent: &&mut Persistent| matches!(&persistent.relay, Some(relay) if relay.peer == peer);
        for persistent in self.peers.iter_mut().filter(is_behind) {
            persistent.again = persistent.again.map(|again| again.min(now));
        }
    }

    /// The last connection to a peer has ended.
    pub(super) fn disconnected(&mut self, peer: PeerId, now: Instant) {
        for relay in self
            .peers
            .iter_mut()
            .filter_map(|persistent| persistent.relay.as_mut())
        {
            relay.is_connected &= relay.peer != peer;
        }
        let of_peer = |persistent: &&mut Persistent| persistent.peer == Some(peer);
        for persistent in self.peers.iter_mut().filter(of_peer) {
            persistent.again = Some(now + persistent.pause);
            persistent.pause = (persistent.pause * 2).min(LAST_PAUSE);
        }
    }

    /// Why a peer is connected.
    pub(super) fn role(&self, peer: &PeerId) -> Role {
        let roles = self
            .peers
            .iter()
            .filter(|persistent| persistent.peer == Some(*peer))
            .map(|persistent| persistent.role);
        roles.fold(Role::Other, |role, next| match (role, next) {
            (Role::Named, _) | (_, Role::Named) => Role::Named,
            _ => next,
        })
    }

    /// The addresses that cannot be reached at present, and why.
    pub(super) fn unreachable(&self) -> impl Iterator<Item = (&Multiaddr, &Arc<DialError>)> {
        self.peers
            .iter()
            .filter_map(|persistent| Some((&persistent.address, persistent.problem.as_ref()?)))
    }

    /// Whether every address was dialled once, with whatever result.
    pub(super) fn all_tried(&self) -> bool {
        self.peers.iter().all(|persistent| persistent.is_tried)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_dialled_again_after_longer_and_longer_pauses() {
        let mut now = Instant::now();
        let mut persistent = PersistentPeers::default();
        persistent.add(
            "/ip4/127.0.0.1/tcp/1".parse().unwrap(),
            Role::Bootstrap,
            now,
        );
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert!(!persistent.all_tried() || !pauses.is_empty());
            let dial = persistent.due(now).remove(0);
            assert!(persistent.due(now).is_empty() && persistent.next().is_none());
            let problem = Arc::new(DialError::Aborted);
            let failed = persistent.failed(dial.connection_id(), problem, now);
            assert!(failed.is_some() && persistent.unreachable().count() == 1);
            let next = persistent.next().unwrap();
            pauses.push(next - now);
            now = next;
        }
        assert!(persistent.all_tried());
        assert_eq!(pauses[0], FIRST_PAUSE);
        assert!(pauses.is_sorted());
        assert_eq!(*pauses.last().unwrap(), LAST_PAUSE);
    }

    /// TCP and QUIC of one peer, say: one connection serves for both.
    #[test]
    fn two_addresses_of_one_peer_are_one_peer() {
        let now = Instant::now();
        let peer = PeerId::random();
        let mut persistent = PersistentPeers::default();
        for (port, role) in [(1, Role::Bootstrap), (2, Role::Named)] {
            let address = format!("/ip4/127.0.0.1/tcp/{port}/p2p/{peer}");
            persistent.add(address.parse().unwrap(), role, now);
        }
        let dials = persistent.due(now);
        let connection = dials[0].connection_id();
        assert_eq!(persistent.connected(peer, connection, now), Role::Named);
        assert!(persistent.all_tried());
        persistent.disconnected(peer, now);
        assert_eq!(persistent.due(now + FIRST_PAUSE).len(), 2);
        assert_eq!(persistent.role(&PeerId::random()), Role::Other);
    }

    #[test]
    fn a_relay_is_dialled_before_the_peer_behind_it() {
        let now = Instant::now();
        let (relay, peer) = (PeerId::random(), PeerId::random());
        let mut persistent = PersistentPeers::default();
        let address = format!("/ip4/127.0.0.1/tcp/1/p2p/{relay}/p2p-circuit/p2p/{peer}");
        persistent.add(address.parse().unwrap(), Role::Named, now);
        let dial = persistent.due(now).remove(0);
        assert_eq!(dial.get_peer_id(), Some(relay));
        let role = persistent.connected(relay, dial.connection_id(), now);
        assert_eq!(role, Role::Other);
        assert!(persistent.due(now).is_empty() && !persistent.all_tried());
        persistent.identified(relay, now);
        let dial = persistent.due(now).remove(0);
        assert_eq!(dial.get_peer_id(), Some(peer));
        assert_eq!(
            persistent.connected(peer, dial.connection_id(), now),
            Role::Named
        );
        persistent.disconnected(relay, now);
        persistent.disconnected(peer, now);
        let dial = persistent.due(now + FIRST_PAUSE).remove(0);
        assert_eq!(dial.get_peer_id(), Some(relay));
    }
}
