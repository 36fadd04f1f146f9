//! What a node does on its connections.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use libp2p::identity::Keypair;
use libp2p::kad::store::MemoryStore;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{PeerId, StreamProtocol, connection_limits, identify, kad, mdns, ping, relay};

use super::bitswap;
use crate::block::Blocks;
use crate::limits;

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

/// All protocols of a node.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) limits: connection_limits::Behaviour,
    pub(super) bitswap: bitswap::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    relay_client: relay::client::Behaviour,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(super) public_dht: kad::Behaviour<MemoryStore>,
    pub(super) lan_dht: kad::Behaviour<MemoryStore>,
}

/// What a node takes part in.
pub(super) struct Parts {
    pub(super) blocks: Arc<dyn Blocks>,
    pub(super) relay_client: relay::client::Behaviour,
    pub(super) mdns: bool,
    pub(super) serve: bool,
}

/// Must be called within a tokio runtime.
pub(super) fn build(keypair: &Keypair, parts: Parts) -> io::Result<(Behaviour, bitswap::Client)> {
    let peer_id = keypair.public().to_peer_id();
    let options = bitswap::BitswapOptions { serve: parts.serve };
    let (bitswap, client) = bitswap::Behaviour::new(parts.blocks, options);
    let identify = identify::Config::new(PROTOCOL_VERSION.to_owned(), keypair.public())
        .with_agent_version(AGENT_VERSION.to_owned());
    let mdns = if parts.mdns {
        Some(mdns::tokio::Behaviour::new(
            mdns::Config::default(),
            peer_id,
        )?)
    } else {
        None
    };
    let mode = if parts.serve {
        kad::Mode::Server
    } else {
        kad::Mode::Client
    };
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(connection_limits()),
        bitswap,
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::default(),
        relay_client: parts.relay_client,
        mdns: mdns.into(),
        public_dht: dht(PUBLIC_DHT, peer_id, mode),
        lan_dht: dht(LAN_DHT, peer_id, mode),
    };
    Ok((behaviour, client))
}

fn connection_limits() -> connection_limits::ConnectionLimits {
    connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits::MAX_PENDING_CONNECTIONS))
        .with_max_pending_outgoing(Some(limits::MAX_PENDING_CONNECTIONS))
        .with_max_established(Some(limits::MAX_CONNECTIONS))
        .with_max_established_per_peer(Some(limits::MAX_CONNECTIONS_PER_PEER))
}

fn dht(protocol: StreamProtocol, peer_id: PeerId, mode: kad::Mode) -> kad::Behaviour<MemoryStore> {
    let mut config = kad::Config::new(protocol);
    config.set_query_timeout(DHT_QUERY_TIMEOUT);
    // Nothing is asked of anybody unless a query needs it.
    config.set_periodic_bootstrap_interval(None);
    let mut dht = kad::Behaviour::with_config(peer_id, MemoryStore::new(peer_id), config);
    dht.set_mode(Some(mode));
    dht
}
