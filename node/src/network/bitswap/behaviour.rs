//! The behaviour: carries events between connections, worker threads, callers, and the two pure
//! halves of the protocol.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::channel::mpsc::{UnboundedReceiver, unbounded};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{
    CloseConnection, ConnectionClosed, ConnectionDenied, ConnectionId, DialError, DialFailure,
    FromSwarm, NetworkBehaviour, NotifyHandler, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use tokio::time::{Sleep, sleep};

use super::handler::{FromHandler, Handler, HandlerEvent, OutgoingMessage, ToHandler};
use super::inbound::InboundError;
use super::message::{Message, WantEntry, WantKind};
use super::outbound::Outgoing;
use super::server::{Finding, Reply, Server};
use super::session::{Client, Command, Counters, count};
use super::verify::{Verified, Verifier};
use super::wants::{Action, Wants};
use super::{BitswapOptions, Fault};
use crate::block::{Cid, ReadBlocks};
use crate::limits;

/// Number of messages that ask; replies have others.
const ASKING: u64 = 0;

/// How often time-outs are looked for, while anything is asked for.
const TICK: Duration = Duration::from_millis(500);

/// Every this many ticks, blocks that peers wait for are looked for: other processes may have
/// added them.
const TICKS_BETWEEN_RECHECKS: u32 = 2;

/// Things of one kind taken in before the swarm gets its turn.
const MAX_BATCH: usize = 4096;

/// What the behaviour tells the owner of the swarm.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Blocks were sent to a peer; they are with the transport, which does not say that the peer
    /// has read them.
    Sent {
        /// The peer.
        peer: PeerId,
        /// The blocks, by the CIDs that the peer asked for.
        cids: Vec<Cid>,
        /// Their bytes.
        bytes: usize,
    },
}

#[derive(Debug, thiserror::Error)]
#[error("the peer has misbehaved too often")]
struct Banned;

type Todo = ToSwarm<Event, ToHandler>;

/// Bitswap as a behaviour. It must be polled within a tokio runtime with time enabled.
pub struct Behaviour {
    wants: Wants,
    server: Server,
    verifier: Verifier,
    /// The connections of each peer; messages go to the first.
    connections: HashMap<PeerId, Vec<ConnectionId>>,
    /// Connected peers that bitswap cannot be spoken with, until they speak it.
    without_bitswap: HashSet<PeerId>,
    commands: UnboundedReceiver<Command>,
    verified: UnboundedReceiver<Verified>,
    findings: UnboundedReceiver<Finding>,
    counters: Counters,
    todo: VecDeque<Todo>,
    tick: Option<Pin<Box<Sleep>>>,
    ticks: u32,
}

impl Behaviour {
    /// Makes the behaviour, which serves `blocks`, and the client that asks through it. Received
    /// blocks are not kept: that is for the session's owner, who then says
    /// [`Client::blocks_added`].
    pub fn new(blocks: Arc<dyn ReadBlocks>, options: BitswapOptions) -> (Behaviour, Client) {
        let (command_sender, commands) = unbounded();
        let (verified_sender, verified) = unbounded();
        let (finding_sender, findings) = unbounded();
        let counters = Counters::default();
        let client = Client::new(command_sender, Arc::clone(&counters));
        let behaviour = Behaviour {
            wants: Wants::default(),
            server: Server::new(blocks, options.serve, finding_sender),
            verifier: Verifier::new(verified_sender),
            connections: HashMap::new(),
            without_bitswap: HashSet::new(),
            commands,
            verified,
            findings,
            counters,
            todo: VecDeque::new(),
            tick: None,
            ticks: 0,
        };
        (behaviour, client)
    }

    /// Lets connections with `peer` stay though nothing is asked of it. Otherwise one that nothing
    /// uses ends after the idle time of the swarm.
    pub fn keep_connected(&mut self, peer: PeerId) {
        self.wants.keep(peer);
    }

    fn handler(&self, peer: PeerId) -> Result<Handler, ConnectionDenied> {
        if self.wants.is_banned(&peer) {
            return Err(ConnectionDenied::new(Banned));
        }
        let readers = self.server.waiters().clone();
        Ok(Handler::new(peer, self.verifier.clone(), readers))
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Open { session, outlet } => self.wants.open(session, outlet),
            Command::Close(session) => self.wants.close(session),
            Command::AddProvider { session, peer } => {
                // Whoever is named gets another chance.
                if self.without_bitswap.remove(&peer) {
                    self.wants.connected(peer);
                }
                self.wants.add_provider(session, peer);
            }
            Command::Want { session, cids } => self.wants.want(session, cids),
            Command::Cancel { session, cids } => self.wants.cancel(session, &cids),
            Command::Resume => {}
            Command::BlocksAdded => self.server.blocks_added(),
        }
    }

    fn verified(&mut self, verified: Verified) {
        let peer = verified.peer;
        for code in verified.unsupported {
            self.wants.fault(peer, Fault::UnsupportedHash { code });
        }
        let received = verified.blocks.len();
        // Held meanwhile, so that whoever got a block finds it counted.
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let (blocks, bytes) = self.wants.blocks(peer, verified.blocks, Instant::now());
        tracing::trace!(%peer, received, wanted = blocks, bytes, "blocks came");
        if blocks > 0 {
            let counters = counters.entry(peer).or_default();
            counters.blocks_received += blocks;
            counters.bytes_received += bytes;
        }
    }

    fn received(&mut self, peer: PeerId, message: &Message) {
        if self.without_bitswap.remove(&peer) {
            self.wants.connected(peer);
        }
        if self.wants.is_banned(&peer) {
            return;
        }
        let (wants, presences) = (message.wants.len(), message.presences.len());
        tracing::trace!(%peer, wants, presences, "a message came");
        self.wants
            .presences(peer, &message.presences, Instant::now());
        self.server.received(peer, message);
    }

    fn written(&mut self, peer: PeerId, id: u64) {
        tracing::trace!(%peer, id, "written");
        if id == ASKING {
            self.wants.written(&peer);
            return;
        }
        let Some((cids, bytes)) = self.server.written(peer, id) else {
            return;
        };
        if cids.is_empty() {
            return;
        }
        count(&self.counters, peer, |counters| {
            counters.blocks_sent += cids.len() as u64;
            counters.bytes_sent += bytes as u64;
        });
        let event = Event::Sent { peer, cids, bytes };
        self.todo.push_back(ToSwarm::GenerateEvent(event));
    }

    /// The peer cannot be written to, though it is connected.
    fn given_up(&mut self, peer: PeerId, connection: ConnectionId) {
        if self.current(&peer) == Some(connection) {
            tracing::debug!(%peer, "cannot speak bitswap with the peer");
            self.without_bitswap.insert(peer);
            self.wants.disconnected(&peer);
            self.server.disconnected(&peer);
        }
    }

    /// The connection that messages to the peer go to.
    fn current(&self, peer: &PeerId) -> Option<ConnectionId> {
        self.connections.get(peer)?.first().copied()
    }

    fn connected(&mut self, peer: PeerId, connection: ConnectionId) {
        let connections = self.connections.entry(peer).or_default();
        connections.push(connection);
        if connections.len() == 1 {
            self.wants.connected(peer);
        }
    }

    fn closed(&mut self, closed: &ConnectionClosed<'_>) {
        let peer = closed.peer_id;
        let was_current = self.current(&peer) == Some(closed.connection_id);
        let Some(connections) = self.connections.get_mut(&peer) else {
            return;
        };
        connections.retain(|connection| *connection != closed.connection_id);
        if connections.is_empty() {
            self.connections.remove(&peer);
            self.without_bitswap.remove(&peer);
            self.wants.disconnected(&peer);
            self.server.disconnected(&peer);
            self.verifier.disconnected(&peer);
            self.forget_counters(&peer);
        } else if was_current {
            self.without_bitswap.remove(&peer);
            self.wants.disconnected(&peer);
            self.wants.connected(peer);
            self.server.moved(peer);
        }
    }

    fn forget_counters(&self, peer: &PeerId) {
        let mut counters = self
            .counters
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if counters.len() > limits::MAX_REMEMBERED_PEERS {
            counters.remove(peer);
        }
    }

    fn dial_failed(&mut self, failure: &DialFailure<'_>) {
        // Somebody else dials already; that dial will tell.
        if matches!(failure.error, DialError::DialPeerConditionFalse(_)) {
            return;
        }
        if let Some(peer) = failure.peer_id
            && !self.connections.contains_key(&peer)
        {
            self.wants.unreachable(&peer);
        }
    }

    fn notify(&mut self, peer_id: PeerId, event: ToHandler) {
        if let Some(connection) = self.current(&peer_id) {
            self.todo.push_back(ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::One(connection),
                event,
            });
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send {
                peer,
                wants,
                on_new_stream,
            } => {
                tracing::trace!(%peer, wants = wants.len(), "asking");
                let is_for_block = |want: &WantEntry| want.kind == WantKind::Block && !want.cancel;
                if wants.iter().any(is_for_block) {
                    self.verifier.asked(peer);
                }
                let message = Message {
                    wants,
                    ..Message::default()
                };
                self.send(peer, ASKING, message, on_new_stream);
            }
            Action::Dial(peer) => {
                let opts = DialOpts::peer_id(peer).build();
                self.todo.push_back(ToSwarm::Dial { opts });
            }
            Action::Disconnect(peer_id) => {
                self.server.disconnected(&peer_id);
                self.todo.push_back(ToSwarm::CloseConnection {
                    peer_id,
                    connection: CloseConnection::All,
                });
            }
            Action::KeepAlive(peer, keep_alive) => {
                self.notify(peer, ToHandler::KeepAlive(keep_alive));
            }
        }
    }

    fn send(&mut self, peer: PeerId, id: u64, message: Message, on_new_stream: bool) {
        let outgoing = Outgoing {
            id,
            message,
            on_new_stream,
        };
        self.notify(peer, ToHandler::Send(OutgoingMessage(outgoing)));
    }

    /// Takes in all that has come.
    fn take_in(&mut self, context: &mut Context<'_>) {
        for _ in 0..MAX_BATCH {
            match self.commands.poll_next_unpin(context) {
                Poll::Ready(Some(command)) => self.command(command),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        for _ in 0..MAX_BATCH {
            match self.verified.poll_next_unpin(context) {
                Poll::Ready(Some(verified)) => self.verified(verified),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        for _ in 0..MAX_BATCH {
            match self.findings.poll_next_unpin(context) {
                Poll::Ready(Some(finding)) => self.server.found(finding),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
    }

    fn put_out(&mut self) {
        for action in self.wants.poll(Instant::now()) {
            self.act(action);
        }
        for Reply { peer, id, message } in self.server.poll() {
            let (blocks, presences) = (message.blocks.len(), message.presences.len());
            tracing::trace!(%peer, id, blocks, presences, "answering");
            self.send(peer, id, message, false);
        }
    }

    /// Whether a tick has passed.
    fn poll_tick(&mut self, context: &mut Context<'_>) -> bool {
        if !self.wants.is_waiting() && !self.server.is_waiting() {
            self.tick = None;
            return false;
        }
        let tick = self.tick.get_or_insert_with(|| Box::pin(sleep(TICK)));
        if tick.as_mut().poll(context).is_pending() {
            return false;
        }
        self.tick = None;
        self.ticks = self.ticks.wrapping_add(1);
        self.wants.tick(Instant::now());
        if self.ticks.is_multiple_of(TICKS_BETWEEN_RECHECKS) {
            self.server.tick();
        }
        true
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _connection: ConnectionId,
        peer: PeerId,
        _local: &Multiaddr,
        _remote: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        self.handler(peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _connection: ConnectionId,
        peer: PeerId,
        _address: &Multiaddr,
        _role: Endpoint,
        _port: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        self.handler(peer)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                self.connected(established.peer_id, established.connection_id);
            }
            FromSwarm::ConnectionClosed(closed) => self.closed(&closed),
            FromSwarm::DialFailure(failure) => self.dial_failed(&failure),
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        FromHandler(event): FromHandler,
    ) {
        match event {
            HandlerEvent::Version(version) => self.wants.set_version(&peer, version),
            HandlerEvent::Received { message, .. } => self.received(peer, &message),
            HandlerEvent::Written { id } => {
                if self.current(&peer) == Some(connection) {
                    self.written(peer, id);
                }
            }
            HandlerEvent::TooSlow => {
                // All that it wants is forgotten: it asks again if it still does.
                if self.current(&peer) == Some(connection) {
                    self.server.disconnected(&peer);
                }
            }
            HandlerEvent::GivenUp => self.given_up(peer, connection),
            HandlerEvent::Fault(InboundError::Message(source)) => {
                self.wants.fault(peer, Fault::Malformed { source });
            }
            HandlerEvent::Fault(_) => self.wants.fault(peer, Fault::Stalled),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Todo> {
        loop {
            if let Some(todo) = self.todo.pop_front() {
                return Poll::Ready(todo);
            }
            self.take_in(context);
            self.put_out();
            if self.todo.is_empty() && !self.poll_tick(context) {
                return Poll::Pending;
            }
        }
    }
}
