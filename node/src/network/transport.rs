//! How bytes reach a peer: TCP with noise and yamux, QUIC, names through DNS, and other peers as
//! relays.

use std::io;
use std::path::Path;

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, OrTransport, Transport};
use libp2p::core::upgrade::Version;
use libp2p::dns::{self, ResolverConfig, ResolverOpts};
use libp2p::identity::Keypair;
use libp2p::{PeerId, noise, quic, relay, tcp, yamux};

/// What connections are made of.
pub(super) type Connections = Boxed<(PeerId, StreamMuxerBox)>;

/// Why no connection can be made at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The key cannot be used with noise.
    #[error("cannot use the key of this node")]
    Key(#[from] noise::Error),
    /// The system's settings for DNS cannot be read.
    #[error("cannot read the DNS settings of the system")]
    Dns(#[source] io::Error),
}

/// All transports of a node, and the part of the relay client that belongs into the swarm.
///
/// Must be called within a tokio runtime.
pub(super) fn build(
    keypair: &Keypair,
) -> Result<(Connections, relay::client::Behaviour), TransportError> {
    let (relayed, relay_client) = relay::client::new(keypair.public().to_peer_id());
    let tcp = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(keypair)?)
        .multiplex(yamux::Config::default())
        .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)));
    let relayed = relayed
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(keypair)?)
        .multiplex(yamux::Config::default())
        .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)));
    let quic = quic::tokio::Transport::new(quic::Config::new(keypair))
        .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)));
    let direct = OrTransport::new(quic, tcp).map(|either, _| either.into_inner());
    let all = OrTransport::new(relayed, with_names(direct.boxed())?);
    Ok((
        all.map(|either, _| either.into_inner()).boxed(),
        relay_client,
    ))
}

/// Adds addresses with DNS names. Where the system has no settings, as in many containers, names
/// do not resolve; no server is asked that nobody named.
fn with_names(direct: Connections) -> Result<Connections, TransportError> {
    let resolving = if Path::new("/etc/resolv.conf").exists() {
        dns::tokio::Transport::system(direct).map_err(TransportError::Dns)?
    } else {
        let nobody = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
        dns::tokio::Transport::custom(direct, nobody, ResolverOpts::default())
    };
    Ok(resolving.boxed())
}
