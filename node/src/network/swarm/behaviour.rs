//! Behaviour of a node on its connections: all its protocols.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, autonat, connection_limits, dcutr, identify, kad, mdns,
    ping, relay, upnp,
};

use super::dht_store::DhtStore;
use crate::block::ReadBlocks;
use crate::limits;
use crate::network::bitswap;
use crate::network::options::{Mdns, NetworkOptions};

/// What Kubo calls the protocol family.
const PROTOCOL_VERSION: &str = "ipfs/0.1.0";

/// The name and version that peers see.
const AGENT_VERSION: &str = concat!("ipfs-exec/", env!("CARGO_PKG_VERSION"));

/// The DHT of the public network.
pub(super) const PUBLIC_DHT: StreamProtocol = StreamProtocol::new("/ipfs/kad/1.0.0");
/// The DHT of peers that reach each other in a private network; Kubo keeps the two apart.
pub(super) const LAN_DHT: StreamProtocol = StreamProtocol::new("/ipfs/lan/kad/1.0.0");

/// A DHT query that has found nothing by then finds nothing.
const DHT_QUERY_TIMEOUT: Duration = Duration::from_secs(30);

/// Peers at each distance that a client of the DHT of a local network keeps in mind.
const PEERS_OF_CLIENT: NonZeroUsize = NonZeroUsize::new(4).expect("it is not zero");

/// All protocols of a node.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    pub(super) bitswap: bitswap::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    relay_client: relay::client::Behaviour,
    hole_punching: Toggle<dcutr::Behaviour>,
    autonat: Toggle<autonat::Behaviour>,
    port_mapping: Toggle<upnp::tokio::Behaviour>,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(super) public_dht: Toggle<kad::Behaviour<DhtStore>>,
    pub(super) lan_dht: kad::Behaviour<DhtStore>,
}

/// Must be called within a tokio runtime.
pub(super) fn build(
    blocks: Arc<dyn ReadBlocks>,
    relay_client: relay::client::Behaviour,
    options: &NetworkOptions,
) -> io::Result<(Behaviour, bitswap::Client)> {
    let (peer_id, public_key) = (options.peer_id(), options.identity.keypair().public());
    let bitswap_options = bitswap::BitswapOptions {
        serve: options.serve,
    };
    let (bitswap, client) = bitswap::Behaviour::new(blocks, bitswap_options);
    let identify = identify::Config::new(PROTOCOL_VERSION.to_owned(), public_key)
        .with_agent_version(AGENT_VERSION.to_owned());
    let mdns = match options.mdns {
        Mdns::On => Some(mdns(peer_id)?),
        Mdns::Off | Mdns::OnDemand => None,
    };
    let maps_ports = options.port_mapping && options.listen.iter().any(is_beyond_loopback);
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(connection_limits()),
        bitswap,
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::default(),
        relay_client,
        hole_punching: Some(dcutr::Behaviour::new(peer_id)).into(),
        autonat: options.serve.then(|| autonat(peer_id)).into(),
        port_mapping: maps_ports.then(upnp::tokio::Behaviour::default).into(),
        mdns: mdns.into(),
        // Nobody gets into it by the way of peers that were named for what they have.
        public_dht: (!options.bootstrap.is_empty())
            .then(|| dht(PUBLIC_DHT, peer_id, kad::Mode::Client))
            .into(),
        lan_dht: dht(LAN_DHT, peer_id, mode(options.serve)),
    };
    Ok((behaviour, client))
}

pub(super) fn mdns(peer_id: PeerId) -> io::Result<mdns::tokio::Behaviour> {
    mdns::tokio::Behaviour::new(mdns::Config::default(), peer_id)
}

/// Whether others than processes of this machine could connect to what listens there.
pub(super) fn is_beyond_loopback(address: &Multiaddr) -> bool {
    !address.iter().any(|part| match part {
        Protocol::Ip4(address) => address.is_loopback(),
        Protocol::Ip6(address) => address.is_loopback(),
        _ => false,
    })
}

fn autonat(peer_id: PeerId) -> autonat::Behaviour {
    autonat::Behaviour::new(peer_id, autonat::Config::default())
}

/// Inbound connections that have not shaken hands are counted by the transport, which can close one
/// for the sake of another.
fn connection_limits() -> connection_limits::ConnectionLimits {
    connection_limits::ConnectionLimits::default()
        .with_max_pending_outgoing(Some(limits::MAX_PENDING_DIALS))
        .with_max_established(Some(limits::MAX_CONNECTIONS))
        .with_max_established_per_peer(Some(limits::MAX_CONNECTIONS_PER_PEER))
}

/// Only those who stay keep records for others.
fn mode(serve: bool) -> kad::Mode {
    if serve {
        kad::Mode::Server
    } else {
        kad::Mode::Client
    }
}

fn dht(protocol: StreamProtocol, peer_id: PeerId, mode: kad::Mode) -> kad::Behaviour<DhtStore> {
    let mut config = kad::Config::new(protocol.clone());
    if mode == kad::Mode::Client && protocol == LAN_DHT {
        // Room for all of them is taken at once, which who stays for a moment need not pay.
        config.set_kbucket_size(PEERS_OF_CLIENT);
    }
    config.set_query_timeout(DHT_QUERY_TIMEOUT);
    // Nothing is asked of anybody unless a query needs it; who serves says himself what it has.
    config.set_periodic_bootstrap_interval(None);
    config.set_provider_publication_interval(None);
    config.set_publication_interval(None);
    config.set_replication_interval(None);
    let store = DhtStore::new(peer_id);
    let mut dht = kad::Behaviour::with_config(peer_id, store, config);
    dht.set_mode(Some(mode));
    dht
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_not_beyond_itself() {
        for (address, expected) in [
            ("/ip4/127.0.0.1/tcp/4001", false),
            ("/ip6/::1/udp/4001/quic-v1", false),
            ("/ip4/0.0.0.0/tcp/4001", true),
            ("/ip4/192.0.2.7/tcp/4001", true),
        ] {
            assert_eq!(
                is_beyond_loopback(&address.parse().unwrap()),
                expected,
                "{address}"
            );
        }
    }
}
