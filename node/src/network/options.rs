//! Options with which a node starts.

use std::io;

use libp2p::core::transport::TransportError as ListenError;
use libp2p::pnet::PreSharedKey;
use libp2p::{Multiaddr, PeerId};

use super::http::{HttpError, Url};
use super::identity::Identity;
use super::private::SwarmKeyError;
use super::transport::TransportError;

/// Peers of the public network that everybody may start from: those that Kubo and the libp2p
/// project name.
pub const PUBLIC_BOOTSTRAP: [&str; 4] = [
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN",
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmQCU2EcMqAqQPR2i9bChDtGNJchTbq5TbXJJ16u19uLTa",
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmbLHAnMoJPWSCR5Zhtx6BHJX9KiKNN6tpvbUcqanj75Nb",
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmcZf59bWwK5XFi76CZX8cbJ4BhTzzA3gU1ZjYZcYW3dwt",
];

/// What a node is started with.
#[derive(Debug)]
#[non_exhaustive]
pub struct NetworkOptions {
    /// Who it is.
    pub identity: Identity,
    /// Where it listens; nowhere by default. An address that ends in `/p2p/PEER/p2p-circuit` is one
    /// at a relay.
    pub listen: Vec<Multiaddr>,
    /// Addresses that it tells others beside those that it finds itself.
    pub announce: Vec<Multiaddr>,
    /// Peers that are connected at once and kept connected, and asked for everything.
    pub peers: Vec<Multiaddr>,
    /// Peers that are connected at once for the sake of the DHT that they keep.
    pub bootstrap: Vec<Multiaddr>,
    /// Servers that are asked over HTTP who has content (delegated routing).
    pub routers: Vec<Url>,
    /// Gateways that are asked for blocks over HTTP.
    pub gateways: Vec<Url>,
    /// Whether peers are looked for on the local network, by multicast DNS.
    pub mdns: Mdns,
    /// Whether blocks and DHT records are given to others, and ways to be reached are looked for.
    pub serve: bool,
    /// Whether a router of the local network is asked to let others in (UPnP), where the node
    /// listens beyond loopback.
    pub port_mapping: bool,
    /// The key of the private network that the node belongs to; then it speaks to no other peers,
    /// and over TCP alone.
    pub swarm_key: Option<PreSharedKey>,
}

/// When multicast DNS is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mdns {
    /// Never.
    Off,
    /// Once somebody asks for it by [`Network::discover`](super::Network::discover).
    OnDemand,
    /// From the start.
    On,
}

impl NetworkOptions {
    /// A node that listens nowhere, knows nobody and serves nothing.
    pub fn new(identity: Identity) -> NetworkOptions {
        NetworkOptions {
            identity,
            listen: Vec::new(),
            announce: Vec::new(),
            peers: Vec::new(),
            bootstrap: Vec::new(),
            routers: Vec::new(),
            gateways: Vec::new(),
            mdns: Mdns::Off,
            serve: false,
            port_mapping: false,
            swarm_key: None,
        }
    }

    pub(super) fn peer_id(&self) -> PeerId {
        self.identity.peer_id()
    }
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The system gives no thread, no event queue or no socket.
    #[error("cannot start the network node")]
    Start(#[source] io::Error),
    /// No connection can be made.
    #[error("cannot start the network node")]
    Transport(#[from] TransportError),
    /// Nothing can be asked over HTTP.
    #[error("cannot start the network node")]
    Http(#[from] HttpError),
    /// The key of a private network cannot be used.
    #[error(transparent)]
    SwarmKey(#[from] SwarmKeyError),
    /// The node belongs to a private network, and was to ask servers that do not.
    #[error("a node of a private network (`swarm.key`) asks no gateway and no router")]
    Private,
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// Why.
        #[source]
        source: ListenError<io::Error>,
    },
}
