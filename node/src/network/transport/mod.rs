//! Transports to peers: TCP with noise and yamux, QUIC, names through DNS, and other peers as
//! relays.

mod frames;
mod handshakes;
mod unread;

use std::io;
use std::path::Path;
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::timeout::TransportTimeout;
use libp2p::core::transport::{Boxed, OrTransport, Transport};
use libp2p::core::upgrade::Version;
use libp2p::dns::{self, ResolverConfig, ResolverOpts};
use libp2p::identity::Keypair;
use libp2p::pnet::{PnetConfig, PreSharedKey};
use libp2p::{PeerId, noise, quic, relay, tcp};

use self::frames::Yamux;
use self::handshakes::Handshakes;
use self::unread::UnreadAnswers;

/// How long a dial may take until the connection is encrypted and authenticated. A peer that accepts
/// and says nothing would be waited for without end.
const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// How long an inbound connection may take for the same: four round trips of a second and more each.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

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

/// All transports of a node, and the part of the relay client that belongs into the swarm. With a
/// swarm key, connections are made with peers alone that have it, and not over QUIC, which has no
/// place for it.
///
/// Must be called within a tokio runtime.
pub(super) fn build(
    keypair: &Keypair,
    swarm_key: Option<PreSharedKey>,
) -> Result<(Connections, relay::client::Behaviour), TransportError> {
    let (relayed, relay_client) = relay::client::new(keypair.public().to_peer_id());
    let relayed = secured(relayed, keypair, swarm_key)?;
    let tcp = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true));
    let tcp = secured(tcp, keypair, swarm_key)?;
    let direct = if swarm_key.is_some() {
        tcp
    } else {
        let quic = quic::tokio::Transport::new(quic::Config::new(keypair))
            .map(|(peer, connection), _| (peer, StreamMuxerBox::new(UnreadAnswers(connection))));
        let either = OrTransport::new(quic, tcp);
        either.map(|either, _| either.into_inner()).boxed()
    };
    let all = OrTransport::new(relayed, with_names(direct)?);
    let all = all.map(|either, _| either.into_inner());
    let all = TransportTimeout::with_outgoing_timeout(all, DIAL_LIMIT);
    let all = TransportTimeout::with_ingoing_timeout(all, HANDSHAKE_LIMIT);
    Ok((Handshakes::new(all).boxed(), relay_client))
}

/// Connections over `transport` that are encrypted and authenticated, and carry many streams; below
/// that encrypted once more where there is a swarm key.
fn secured<T>(
    transport: T,
    keypair: &Keypair,
    swarm_key: Option<PreSharedKey>,
) -> Result<Connections, TransportError>
where
    T: Transport + Send + Unpin + 'static,
    T::Output: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T::Error: Send + Sync + 'static,
    T::Dial: Send + 'static,
    T::ListenerUpgrade: Send + 'static,
{
    let noise = noise::Config::new(keypair)?;
    Ok(match swarm_key {
        None => transport
            .upgrade(Version::V1Lazy)
            .authenticate(noise)
            .multiplex(Yamux::default())
            .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)))
            .boxed(),
        Some(key) => transport
            .and_then(move |socket, _| PnetConfig::new(key).handshake(socket))
            .upgrade(Version::V1Lazy)
            .authenticate(noise)
            .multiplex(Yamux::default())
            .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)))
            .boxed(),
    })
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
