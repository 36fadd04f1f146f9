//! A peer that speaks the stream protocol by hand: it sends what bytes a test gives it, and hands
//! out the messages that it receives.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::ConnectionEvent;
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, NotifyHandler, SubstreamProtocol, SwarmEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};

use super::peers::{Node, PATIENCE, build};

/// What a raw peer does with a stream after writing to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Close,
    /// Leaves it open and waits for the other side to end it.
    Keep,
    /// Drops it half way, which resets it.
    Reset,
    /// Writes a byte now and then, for as long as the other side takes it.
    Crawl,
}

#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) bytes: Vec<u8>,
    pub(super) then: Then,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum RawEvent {
    Connected,
    Disconnected,
    /// A message, without its length.
    Message(Vec<u8>),
    /// The other side ended a stream that was kept open.
    Ended,
    /// The other side opened a stream.
    Opened,
}

pub(super) struct Raw {
    pub(super) peer: PeerId,
    events: mpsc::Receiver<RawEvent>,
    writes: UnboundedSender<Write>,
    dials: UnboundedSender<Multiaddr>,
}

impl Raw {
    pub(super) fn new(protocol: &'static str) -> Raw {
        Raw::with_reading(protocol, true)
    }

    /// One that accepts streams and never reads from them.
    pub(super) fn deaf() -> Raw {
        Raw::with_reading("/ipfs/bitswap/1.2.0", false)
    }

    fn with_reading(protocol: &'static str, is_reading: bool) -> Raw {
        let (event_sender, events) = mpsc::channel();
        let (writes, write_receiver) = unbounded();
        let (dials, mut dial_receiver) = unbounded::<Multiaddr>();
        let (ready, listening) = mpsc::channel();
        let behaviour = RawBehaviour {
            handler: RawHandler {
                upgrade: Upgrade(StreamProtocol::new(protocol)),
                is_reading,
                events: event_sender.clone(),
                requested: 0,
                writes: VecDeque::new(),
            },
            writes: write_receiver,
            connected: None,
            events: event_sender,
        };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let mut swarm = build(behaviour);
                swarm
                    .listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap())
                    .unwrap();
                loop {
                    tokio::select! {
                        event = swarm.select_next_some() => {
                            if let SwarmEvent::NewListenAddr { .. } = event {
                                let _ = ready.send(*swarm.local_peer_id());
                            }
                        }
                        address = dial_receiver.next() => match address {
                            Some(address) => swarm.dial(address).unwrap(),
                            None => return,
                        },
                    }
                }
            });
        });
        let peer = listening.recv_timeout(PATIENCE).unwrap();
        Raw {
            peer,
            events,
            writes,
            dials,
        }
    }

    pub(super) fn connect(&self, node: &Node) {
        self.dials.unbounded_send(node.address.clone()).unwrap();
        self.wait_for(&RawEvent::Connected);
    }

    /// Writes `bytes` on a new stream.
    pub(super) fn write(&self, bytes: Vec<u8>, then: Then) {
        self.writes.unbounded_send(Write { bytes, then }).unwrap();
    }

    pub(super) fn next(&self) -> RawEvent {
        self.events.recv_timeout(PATIENCE).unwrap()
    }

    pub(super) fn try_next(&self, timeout: Duration) -> Option<RawEvent> {
        self.events.recv_timeout(timeout).ok()
    }

    pub(super) fn wait_for(&self, wanted: &RawEvent) {
        while self.next() != *wanted {}
    }

    pub(super) fn message(&self) -> Vec<u8> {
        loop {
            if let RawEvent::Message(message) = self.next() {
                return message;
            }
        }
    }
}

struct RawBehaviour {
    handler: RawHandler,
    writes: UnboundedReceiver<Write>,
    connected: Option<PeerId>,
    events: mpsc::Sender<RawEvent>,
}

impl NetworkBehaviour for RawBehaviour {
    type ConnectionHandler = RawHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<RawHandler, ConnectionDenied> {
        Ok(self.handler.clone())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<RawHandler, ConnectionDenied> {
        Ok(self.handler.clone())
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                self.connected = Some(established.peer_id);
                let _ = self.events.send(RawEvent::Connected);
            }
            FromSwarm::ConnectionClosed(_) => {
                self.connected = None;
                let _ = self.events.send(RawEvent::Disconnected);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: Infallible) {
        match event {}
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Infallible, Write>> {
        match (self.writes.poll_next_unpin(context), self.connected) {
            (Poll::Ready(Some(event)), Some(peer_id)) => Poll::Ready(ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::Any,
                event,
            }),
            _ => Poll::Pending,
        }
    }
}

#[derive(Clone)]
struct RawHandler {
    upgrade: Upgrade,
    is_reading: bool,
    events: mpsc::Sender<RawEvent>,
    requested: usize,
    writes: VecDeque<Write>,
}

impl ConnectionHandler for RawHandler {
    type FromBehaviour = Write;
    type ToBehaviour = Infallible;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade> {
        SubstreamProtocol::new(self.upgrade.clone(), ())
    }

    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Upgrade, (), Infallible>> {
        if self.requested == 0 {
            return Poll::Pending;
        }
        self.requested -= 1;
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
            protocol: SubstreamProtocol::new(self.upgrade.clone(), ()),
        })
    }

    fn on_behaviour_event(&mut self, write: Write) {
        self.requested += 1;
        self.writes.push_back(write);
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Upgrade, Upgrade>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(inbound) => {
                let (stream, events) = (inbound.protocol, self.events.clone());
                let is_reading = self.is_reading;
                let _ = events.send(RawEvent::Opened);
                tokio::spawn(async move {
                    if is_reading {
                        read_all(stream, events).await;
                    } else {
                        std::future::pending::<()>().await;
                        drop(stream);
                    }
                });
            }
            ConnectionEvent::FullyNegotiatedOutbound(outbound) => {
                let write = self.writes.pop_front().unwrap();
                tokio::spawn(write_one(outbound.protocol, write, self.events.clone()));
            }
            _ => {}
        }
    }
}

async fn read_all(mut stream: Stream, events: mpsc::Sender<RawEvent>) {
    loop {
        let mut length = 0;
        for shift in (0..).step_by(7) {
            let mut byte = [0];
            if stream.read_exact(&mut byte).await.is_err() {
                return;
            }
            length |= usize::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut message = vec![0; length];
        if stream.read_exact(&mut message).await.is_err() {
            return;
        }
        let _ = events.send(RawEvent::Message(message));
    }
}

async fn write_one(mut stream: Stream, write: Write, events: mpsc::Sender<RawEvent>) {
    let written = stream.write_all(&write.bytes).await;
    if written.is_err() || stream.flush().await.is_err() {
        let _ = events.send(RawEvent::Ended);
        return;
    }
    match write.then {
        Then::Reset => {}
        Then::Close => {
            let _ = stream.close().await;
        }
        Then::Crawl => {
            let mut now_and_then = tokio::time::interval(Duration::from_millis(500));
            loop {
                now_and_then.tick().await;
                if stream.write_all(&[0]).await.is_err() || stream.flush().await.is_err() {
                    let _ = events.send(RawEvent::Ended);
                    return;
                }
            }
        }
        Then::Keep => {
            let _ = stream.read(&mut [0]).await;
            let _ = events.send(RawEvent::Ended);
        }
    }
}

#[derive(Clone)]
struct Upgrade(StreamProtocol);

impl UpgradeInfo for Upgrade {
    type Info = StreamProtocol;
    type InfoIter = std::iter::Once<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(self.0.clone())
    }
}

impl InboundUpgrade<Stream> for Upgrade {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}

impl OutboundUpgrade<Stream> for Upgrade {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}
