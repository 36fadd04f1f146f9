//! One connection: messages in from any number of streams, messages out on one.
//!
//! ```text
//! inbound streams ──▶ decode ──┬─▶ blocks ──▶ verifier threads ──▶ behaviour
//!    (bounded)    (bytes from  └─▶ wants, presences ─────────────▶ behaviour
//!                  a budget)
//! behaviour ──▶ queue ──▶ encode ──▶ the outbound stream ──▶ "written" ──▶ behaviour
//! ```

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError};
use libp2p::swarm::{
    ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol,
};
use libp2p::{PeerId, Stream};

use super::inbound::{InboundError, Received, read_message};
use super::message::Message;
use super::outbound::{Outbound, Outgoing, Progress};
use super::pace::MemoryWaiters;
use super::protocol::{Upgrade, Version, version_of};
use super::verify::{Allowance, Share, Verifier};
use crate::limits;

/// How long a connection stays after the peer's last message. A peer that waits for a block asks again
/// after a minute; one that fetches block by block has no stream open in between.
const PEER_IDLE: Duration = Duration::from_secs(120);

/// What the behaviour tells a connection.
#[derive(Debug)]
pub enum ToHandler {
    /// Send a message.
    #[doc(hidden)]
    Send(OutgoingMessage),
    /// Whether the connection is needed.
    #[doc(hidden)]
    KeepAlive(bool),
}

/// A message on its way to a connection.
#[derive(Debug)]
pub struct OutgoingMessage(pub(crate) Outgoing);

/// What a connection tells the behaviour.
#[derive(Debug)]
pub struct FromHandler(pub(crate) HandlerEvent);

#[derive(Debug)]
pub(crate) enum HandlerEvent {
    /// The peer speaks this version.
    Version(Version),
    /// A message without its blocks. The share goes back when the event is dropped.
    Received {
        message: Message,
        _share: Arc<Share>,
    },
    /// The message is with the transport.
    Written { id: u64 },
    /// The peer reads its replies too slowly; those that were queued are lost.
    TooSlow,
    /// Nothing can be sent on this connection; queued messages are lost.
    GivenUp,
    /// The peer sent something that is no bitswap.
    Fault(InboundError),
}

/// The next message of an inbound stream, and the stream to read the one after it.
type Reading = BoxFuture<'static, Result<Option<(Stream, Received)>, InboundError>>;

/// Handles one connection.
pub struct Handler {
    peer: PeerId,
    verifier: Verifier,
    allowance: Allowance,
    inbound: FuturesUnordered<Reading>,
    outbound: Outbound,
    version: Option<Version>,
    announce: Option<Version>,
    keep_alive: bool,
    last_message: Option<Instant>,
}

impl Handler {
    /// `readers` are those who wait for the bytes of replies.
    pub(crate) fn new(peer: PeerId, verifier: Verifier, readers: MemoryWaiters) -> Handler {
        Handler {
            peer,
            verifier,
            allowance: Allowance::new(peer),
            inbound: FuturesUnordered::new(),
            outbound: Outbound::new(readers),
            version: None,
            announce: None,
            keep_alive: false,
            last_message: None,
        }
    }

    fn read(&self, mut stream: Stream) {
        let verifier = self.verifier.clone();
        let allowance = self.allowance.clone();
        self.inbound.push(Box::pin(async move {
            let received = read_message(&mut stream, &verifier, &allowance).await?;
            Ok(received.map(|received| (stream, received)))
        }));
    }

    /// Takes a message apart; what is left for the behaviour is returned.
    fn received(&mut self, stream: Stream, (mut message, share): Received) -> Option<HandlerEvent> {
        self.read(stream);
        self.last_message = Some(Instant::now());
        let share = Arc::new(share);
        let blocks = std::mem::take(&mut message.blocks);
        if !blocks.is_empty() {
            self.verifier.submit(self.peer, blocks, Arc::clone(&share));
        }
        (!message.is_empty()).then_some(HandlerEvent::Received {
            message,
            _share: share,
        })
    }

    fn poll_inbound(&mut self, context: &mut Context<'_>) -> Poll<HandlerEvent> {
        while let Poll::Ready(Some(outcome)) = self.inbound.poll_next_unpin(context) {
            let event = match outcome {
                Ok(Some((stream, received))) => self.received(stream, received),
                Ok(None) => None,
                Err(error) if error.is_fault() => Some(HandlerEvent::Fault(error)),
                Err(error) => {
                    tracing::debug!(peer = %self.peer, %error, "an inbound stream ended");
                    None
                }
            };
            if let Some(event) = event {
                return Poll::Ready(event);
            }
        }
        Poll::Pending
    }

    fn accept(&mut self, mut stream: Stream) {
        if self.inbound.len() >= limits::MAX_INBOUND_STREAMS {
            tracing::debug!(peer = %self.peer, "refused a bitswap stream: too many are open");
            return;
        }
        stream.ignore_for_keep_alive();
        self.read(stream);
    }

    fn opened(&mut self, mut stream: Stream, version: Version) {
        stream.ignore_for_keep_alive();
        if self.version.replace(version) != Some(version) {
            self.announce = Some(version);
        }
        self.outbound.opened(stream, version);
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = ToHandler;
    type ToBehaviour = FromHandler;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade> {
        SubstreamProtocol::new(Upgrade::any(), ())
    }

    fn connection_keep_alive(&self) -> bool {
        let is_used = |last: Instant| last.elapsed() < PEER_IDLE;
        self.keep_alive || !self.outbound.is_idle() || self.last_message.is_some_and(is_used)
    }

    fn on_behaviour_event(&mut self, event: ToHandler) {
        match event {
            ToHandler::Send(OutgoingMessage(outgoing)) => self.outbound.send(outgoing),
            ToHandler::KeepAlive(keep_alive) => self.keep_alive = keep_alive,
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Upgrade, Upgrade>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(inbound) => self.accept(inbound.protocol.0),
            ConnectionEvent::FullyNegotiatedOutbound(outbound) => {
                let (stream, protocol) = outbound.protocol;
                self.opened(stream, version_of(&protocol));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError {
                error: StreamUpgradeError::NegotiationFailed,
                ..
            }) => self.outbound.give_up(),
            ConnectionEvent::DialUpgradeError(_) => self.outbound.open_failed(),
            _ => {}
        }
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Upgrade, (), FromHandler>> {
        let notify =
            |event| Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(FromHandler(event)));
        if let Some(version) = self.announce.take() {
            return notify(HandlerEvent::Version(version));
        }
        match self.outbound.poll(context) {
            Poll::Ready(Progress::Open) => {
                let upgrade = self.version.map_or_else(Upgrade::any, Upgrade::only);
                return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                    protocol: SubstreamProtocol::new(upgrade, ()),
                });
            }
            Poll::Ready(Progress::Written { id }) => {
                return notify(HandlerEvent::Written { id });
            }
            Poll::Ready(Progress::TooSlow) => return notify(HandlerEvent::TooSlow),
            Poll::Ready(Progress::GivenUp) => return notify(HandlerEvent::GivenUp),
            Poll::Pending => {}
        }
        match self.poll_inbound(context) {
            Poll::Ready(event) => notify(event),
            Poll::Pending => Poll::Pending,
        }
    }
}
