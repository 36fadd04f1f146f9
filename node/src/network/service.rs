//! The node at work: a thread with a runtime and a swarm, and the handle that others hold.
//!
//! ```text
//! any thread ──Network──commands──▶ swarm task ──▶ peers
//!     ▲                               │
//!     └────────NetworkEvent───────────┘
//! ```
//!
//! One thread: encryption and framing are what it does, and on few cores more threads are slower.
//! Hashing and disk reads have threads of their own within bitswap.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::kad::{self, GetProvidersOk, QueryId, QueryResult};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{self, ConnectionId, DialError, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, TransportError, identify, mdns, ping};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::sleep_until;

use super::behaviour::{self, Behaviour, BehaviourEvent, LAN_DHT, PUBLIC_DHT};
use super::bitswap;
use super::identity::Identity;
use super::transport;
use crate::block::{Blocks, Cid};
use crate::limits;

/// A connection that nothing uses is kept this long: the next want may come soon.
const IDLE_CONNECTION: Duration = Duration::from_secs(10);

/// First pause before a peer that was named is dialled again; doubled each time.
const FIRST_REDIAL: Duration = Duration::from_millis(250);
/// Longest such pause.
const LAST_REDIAL: Duration = Duration::from_secs(8);

/// How long closing waits for peers to be told. One that is not told waits for its own time-out.
const CLOSING: Duration = Duration::from_millis(300);

/// What a node is started with.
#[derive(Debug)]
#[non_exhaustive]
pub struct NetworkOptions {
    /// Who it is.
    pub identity: Identity,
    /// Where it listens; nowhere by default.
    pub listen: Vec<Multiaddr>,
    /// Addresses that it tells others beside those that it finds itself.
    pub announce: Vec<Multiaddr>,
    /// Peers that are connected at once and kept connected.
    pub peers: Vec<Multiaddr>,
    /// Whether peers are looked for on the local network, by multicast DNS.
    pub mdns: bool,
    /// Whether blocks and DHT records are given to others.
    pub serve: bool,
}

impl NetworkOptions {
    /// A node that listens nowhere, knows nobody and serves nothing.
    pub fn new(identity: Identity) -> NetworkOptions {
        NetworkOptions {
            identity,
            listen: Vec::new(),
            announce: Vec::new(),
            peers: Vec::new(),
            mdns: false,
            serve: false,
        }
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
    Transport(#[from] transport::TransportError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// Why.
        #[source]
        source: TransportError<io::Error>,
    },
}

/// What happens to a node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum NetworkEvent {
    /// The node can be reached at this address, which ends in its peer id.
    Listening {
        /// The address.
        address: Multiaddr,
    },
    /// A peer is connected.
    Connected {
        /// The peer.
        peer: PeerId,
        /// Where.
        address: Multiaddr,
        /// Whether it is one of [`NetworkOptions::peers`].
        named: bool,
    },
    /// The last connection to a peer has ended.
    Disconnected {
        /// The peer.
        peer: PeerId,
    },
    /// One of [`NetworkOptions::peers`] cannot be reached. It is tried again.
    Unreachable {
        /// As it was named.
        address: Multiaddr,
        /// Why.
        error: Arc<DialError>,
    },
    /// A peer has told about itself.
    Identified {
        /// The peer.
        peer: PeerId,
        /// Name and version of its program.
        agent: String,
        /// What it speaks.
        protocols: Vec<StreamProtocol>,
    },
    /// A peer has answered a ping.
    Pinged {
        /// The peer.
        peer: PeerId,
        /// After this time.
        round_trip: Duration,
    },
    /// The DHTs are being asked who has this content.
    Searching {
        /// What is looked for.
        cid: Cid,
    },
    /// A peer says that it has, or that another has, this content.
    Provider {
        /// What was looked for.
        cid: Cid,
        /// Who has it.
        peer: PeerId,
    },
    /// All that could be asked for providers were asked.
    ProvidersSearched {
        /// What was looked for.
        cid: Cid,
    },
    /// The DHT keeps that this node has the content; or could not be told.
    Provided {
        /// The content.
        cid: Cid,
        /// How many DHTs know it now.
        dhts: usize,
    },
    /// Blocks were sent to a peer.
    Sent {
        /// The peer.
        peer: PeerId,
        /// Which.
        cids: Arc<[Cid]>,
    },
}

enum Command {
    Subscribe(Sender<NetworkEvent>),
    FindProviders(Cid),
    Provide(Cid),
    Close,
}

/// A running node. Dropping it closes its connections and ends it.
#[derive(Debug)]
pub struct Network {
    peer_id: PeerId,
    client: bitswap::Client,
    commands: UnboundedSender<Command>,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    /// Starts a node that serves `blocks`. When this returns it listens, and has begun to dial.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn start(
        blocks: Arc<dyn Blocks>,
        options: NetworkOptions,
    ) -> Result<Network, NetworkError> {
        let (commands, receiver) = unbounded_channel();
        let (ready, started) = bounded(1);
        let thread = std::thread::Builder::new()
            .name("network".to_owned())
            .spawn(move || run(blocks, options, receiver, &ready))
            .map_err(NetworkError::Start)?;
        match started.recv() {
            Ok(Ok((peer_id, client))) => Ok(Network {
                peer_id,
                client,
                commands,
                thread: Some(thread),
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(NetworkError::Start(io::Error::other(
                "its thread ended at once",
            ))),
        }
    }

    /// The name that peers know this node by.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// Access to bitswap.
    pub fn bitswap(&self) -> &bitswap::Client {
        &self.client
    }

    /// All events from now on, and those that tell the present state.
    pub fn subscribe(&self) -> Receiver<NetworkEvent> {
        let (sender, receiver) = unbounded();
        self.command(Command::Subscribe(sender));
        receiver
    }

    /// Asks the DHTs who has `cid`; events tell.
    pub fn find_providers(&self, cid: &Cid) {
        self.command(Command::FindProviders(*cid));
    }

    /// Tells the DHTs that this node has `cid`; an event tells when that is done.
    pub fn provide(&self, cid: &Cid) {
        self.command(Command::Provide(*cid));
    }

    /// Where the node has ended, the closed channels of events say so.
    fn command(&self, command: Command) {
        if self.commands.send(command).is_err() {
            tracing::debug!("the network node has ended");
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.command(Command::Close);
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::debug!("the network node has panicked");
        }
    }
}

type Started = Result<(PeerId, bitswap::Client), NetworkError>;

fn run(
    blocks: Arc<dyn Blocks>,
    options: NetworkOptions,
    commands: UnboundedReceiver<Command>,
    ready: &Sender<Started>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return answer(ready, Err(NetworkError::Start(error))),
    };
    runtime.block_on(async {
        match Node::start(blocks, options) {
            Ok((node, client)) => {
                answer(ready, Ok((*node.swarm.local_peer_id(), client)));
                node.work(commands).await;
            }
            Err(error) => answer(ready, Err(error)),
        }
    });
}

/// The caller waits for nothing else.
fn answer(ready: &Sender<Started>, started: Started) {
    if ready.send(started).is_err() {
        tracing::debug!("nobody waits for the network node");
    }
}

/// A peer that is kept connected.
struct Named {
    address: Multiaddr,
    /// Its id, from the address or once it was connected.
    peer: Option<PeerId>,
    dialling: Option<ConnectionId>,
    pause: Duration,
    /// When it is dialled again.
    again: Option<Instant>,
}

/// Queries of the DHTs for one purpose.
struct Queries {
    cid: Cid,
    open: HashSet<(Dht, QueryId)>,
    succeeded: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Dht {
    Public,
    Lan,
}

struct Node {
    swarm: Swarm<Behaviour>,
    named: Vec<Named>,
    listeners: HashMap<ListenerId, Multiaddr>,
    subscribers: Vec<Sender<NetworkEvent>>,
    searches: Vec<Queries>,
    announcements: Vec<Queries>,
    /// Locked for as long as the node may speak as the repository's peer.
    _identity: Identity,
}

impl Node {
    /// Must be called within a tokio runtime.
    fn start(
        blocks: Arc<dyn Blocks>,
        options: NetworkOptions,
    ) -> Result<(Node, bitswap::Client), NetworkError> {
        let keypair = options.identity.keypair();
        let (connections, relay_client) = transport::build(keypair)?;
        let parts = behaviour::Parts {
            blocks,
            relay_client,
            mdns: options.mdns,
            serve: options.serve,
        };
        let (behaviour, client) = behaviour::build(keypair, parts).map_err(NetworkError::Start)?;
        let config = swarm::Config::with_tokio_executor()
            .with_idle_connection_timeout(IDLE_CONNECTION)
            .with_max_negotiating_inbound_streams(limits::MAX_INBOUND_STREAMS)
            .with_smart_dial();
        let swarm = Swarm::new(connections, behaviour, options.identity.peer_id(), config);
        let mut node = Node {
            swarm,
            named: Vec::new(),
            listeners: HashMap::new(),
            subscribers: Vec::new(),
            searches: Vec::new(),
            announcements: Vec::new(),
            _identity: options.identity,
        };
        for address in options.listen {
            let listener =
                node.swarm
                    .listen_on(address.clone())
                    .map_err(|source| NetworkError::Listen {
                        address: address.clone(),
                        source,
                    })?;
            node.listeners.insert(listener, address);
        }
        for address in options.announce {
            node.swarm.add_external_address(address);
        }
        for address in options.peers {
            let peer = address.iter().find_map(|part| match part {
                Protocol::P2p(peer) => Some(peer),
                _ => None,
            });
            node.named.push(Named {
                address,
                peer,
                dialling: None,
                pause: FIRST_REDIAL,
                again: Some(Instant::now()),
            });
        }
        Ok((node, client))
    }

    async fn work(mut self, mut commands: UnboundedReceiver<Command>) {
        self.redial();
        loop {
            let again = self.named.iter().filter_map(|named| named.again).min();
            tokio::select! {
                event = self.swarm.select_next_some() => self.handle(event),
                command = commands.recv() => match command {
                    Some(command) => if !self.obey(command) { break },
                    None => break,
                },
                () = sleep_until(again.unwrap_or_else(Instant::now).into()), if again.is_some() => {
                    self.redial();
                }
            }
        }
        self.close().await;
    }

    /// False where the node is to end.
    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Subscribe(subscriber) => self.subscribe(subscriber),
            Command::FindProviders(cid) => self.find_providers(cid),
            Command::Provide(cid) => self.provide(cid),
            Command::Close => return false,
        }
        true
    }

    fn subscribe(&mut self, subscriber: Sender<NetworkEvent>) {
        let listening = self.swarm.listeners().cloned().collect::<Vec<_>>();
        for address in listening {
            let address = self.complete(address);
            send(&subscriber, NetworkEvent::Listening { address });
        }
        for named in &self.named {
            if let Some(peer) = named.peer.filter(|peer| self.swarm.is_connected(peer)) {
                let address = named.address.clone();
                let named = true;
                send(
                    &subscriber,
                    NetworkEvent::Connected {
                        peer,
                        address,
                        named,
                    },
                );
            }
        }
        self.subscribers.push(subscriber);
    }

    fn tell(&mut self, event: NetworkEvent) {
        self.subscribers
            .retain(|subscriber| subscriber.send(event.clone()).is_ok());
    }

    /// The address with this node's id.
    fn complete(&self, address: Multiaddr) -> Multiaddr {
        let peer_id = *self.swarm.local_peer_id();
        address.with_p2p(peer_id).unwrap_or_else(|address| address)
    }

    /// Dials the named peers whose time has come.
    fn redial(&mut self) {
        let now = Instant::now();
        for index in 0..self.named.len() {
            let named = &mut self.named[index];
            if named.again.is_none_or(|again| again > now) {
                continue;
            }
            named.again = None;
            let address = named.address.clone();
            let options = match named.peer {
                Some(peer) => DialOpts::peer_id(peer)
                    .condition(PeerCondition::Disconnected)
                    .addresses(vec![address])
                    .build(),
                None => DialOpts::unknown_peer_id().address(address).build(),
            };
            named.dialling = Some(options.connection_id());
            if let Err(error) = self.swarm.dial(options) {
                self.dial_failed(index, error);
            }
        }
    }

    fn dial_failed(&mut self, index: usize, error: DialError) {
        let named = &mut self.named[index];
        named.dialling = None;
        if matches!(error, DialError::DialPeerConditionFalse(_)) {
            return;
        }
        named.again = Some(Instant::now() + named.pause);
        named.pause = (named.pause * 2).min(LAST_REDIAL);
        let address = named.address.clone();
        self.tell(NetworkEvent::Unreachable {
            address,
            error: Arc::new(error),
        });
    }

    fn handle(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => {
                let address = self.complete(address);
                self.tell(NetworkEvent::Listening { address });
            }
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                let address = endpoint.get_remote_address().clone();
                self.connected(peer_id, connection_id, address);
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                num_established: 0,
                ..
            } => self.disconnected(peer_id),
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } => {
                let dialled = |named: &Named| named.dialling == Some(connection_id);
                match self.named.iter().position(dialled) {
                    Some(index) => self.dial_failed(index, error),
                    None => tracing::debug!(%error, "a peer cannot be reached"),
                }
            }
            SwarmEvent::ListenerClosed {
                listener_id,
                reason: Err(error),
                ..
            } => {
                let address = self.listeners.remove(&listener_id);
                tracing::warn!(?address, %error, "no longer listening");
            }
            SwarmEvent::Behaviour(event) => self.handle_behaviour(event),
            event => tracing::trace!(?event, "swarm"),
        }
    }

    fn connected(&mut self, peer: PeerId, connection: ConnectionId, address: Multiaddr) {
        let mut is_named = false;
        for named in &mut self.named {
            if named.dialling == Some(connection) || named.peer == Some(peer) {
                named.peer = Some(peer);
                named.dialling = None;
                named.again = None;
                named.pause = FIRST_REDIAL;
                is_named = true;
            }
        }
        self.tell(NetworkEvent::Connected {
            peer,
            address,
            named: is_named,
        });
    }

    fn disconnected(&mut self, peer: PeerId) {
        for named in &mut self.named {
            if named.peer == Some(peer) {
                named.again = Some(Instant::now() + named.pause);
                named.pause = (named.pause * 2).min(LAST_REDIAL);
            }
        }
        self.tell(NetworkEvent::Disconnected { peer });
    }

    fn handle_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Bitswap(bitswap::Event::Sent { peer, cids, .. }) => {
                let cids = cids.into();
                self.tell(NetworkEvent::Sent { peer, cids });
            }
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.identified(peer_id, info);
            }
            BehaviourEvent::Ping(ping::Event {
                peer,
                result: Ok(round_trip),
                ..
            }) => self.tell(NetworkEvent::Pinged { peer, round_trip }),
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, address) in found {
                    self.discovered(peer, address);
                }
            }
            BehaviourEvent::PublicDht(event) => self.handle_dht(Dht::Public, event),
            BehaviourEvent::LanDht(event) => self.handle_dht(Dht::Lan, event),
            event => tracing::trace!(?event, "behaviour"),
        }
    }

    /// A peer on the local network: what is looked for may be there.
    fn discovered(&mut self, peer: PeerId, address: Multiaddr) {
        let connected = self.swarm.network_info().num_peers();
        if connected >= limits::MAX_DISCOVERED_PEERS {
            return tracing::debug!(%peer, "enough peers are connected");
        }
        let options = DialOpts::peer_id(peer).addresses(vec![address]).build();
        match self.swarm.dial(options) {
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => tracing::debug!(%peer, %error, "a peer cannot be dialled"),
        }
    }

    /// Peers that keep a DHT become part of it here.
    fn identified(&mut self, peer: PeerId, info: identify::Info) {
        let addresses = info.listen_addrs.into_iter();
        for address in addresses.take(limits::MAX_ADDRESSES_PER_PEER) {
            let behaviour = self.swarm.behaviour_mut();
            if info.protocols.contains(&LAN_DHT) {
                behaviour.lan_dht.add_address(&peer, address.clone());
            }
            if info.protocols.contains(&PUBLIC_DHT) {
                behaviour.public_dht.add_address(&peer, address);
            }
        }
        // First, so that nobody takes the search for ended.
        self.search_again();
        self.tell(NetworkEvent::Identified {
            peer,
            agent: info.agent_version,
            protocols: info.protocols,
        });
    }

    fn find_providers(&mut self, cid: Cid) {
        let mut queries = Queries {
            cid,
            open: HashSet::new(),
            succeeded: 0,
        };
        self.ask(&mut queries);
        self.searches.push(queries);
        self.end_searches();
    }

    /// Begins the queries for providers of `queries.cid`.
    fn ask(&mut self, queries: &mut Queries) {
        let key = kad::RecordKey::from(queries.cid.hash().to_bytes());
        let behaviour = self.swarm.behaviour_mut();
        for (which, dht) in [
            (Dht::Public, &mut behaviour.public_dht),
            (Dht::Lan, &mut behaviour.lan_dht),
        ] {
            if dht.kbuckets().next().is_some() {
                let query = dht.get_providers(key.clone());
                queries.open.insert((which, query));
            }
        }
        if !queries.open.is_empty() {
            self.tell(NetworkEvent::Searching { cid: queries.cid });
        }
    }

    /// A DHT that was empty has its first peers: searches that came too early begin now.
    fn search_again(&mut self) {
        let mut searches = std::mem::take(&mut self.searches);
        for queries in searches
            .iter_mut()
            .filter(|queries| queries.open.is_empty())
        {
            self.ask(queries);
        }
        searches.append(&mut self.searches);
        self.searches = searches;
    }

    fn provide(&mut self, cid: Cid) {
        let key = kad::RecordKey::from(cid.hash().to_bytes());
        let mut queries = Queries {
            cid,
            open: HashSet::new(),
            succeeded: 0,
        };
        let behaviour = self.swarm.behaviour_mut();
        for (which, dht) in [
            (Dht::Public, &mut behaviour.public_dht),
            (Dht::Lan, &mut behaviour.lan_dht),
        ] {
            match dht.start_providing(key.clone()) {
                Ok(query) => {
                    queries.open.insert((which, query));
                }
                Err(error) => tracing::warn!(%cid, ?error, "too much is provided already"),
            }
        }
        self.announcements.push(queries);
    }

    fn handle_dht(&mut self, dht: Dht, event: kad::Event) {
        let kad::Event::OutboundQueryProgressed {
            id, result, step, ..
        } = event
        else {
            return tracing::trace!(?event, "dht");
        };
        let query = (dht, id);
        match result {
            QueryResult::GetProviders(result) => {
                let search = self
                    .searches
                    .iter()
                    .find(|search| search.open.contains(&query));
                let Some(cid) = search.map(|search| search.cid) else {
                    return;
                };
                if let Ok(GetProvidersOk::FoundProviders { providers, .. }) = result {
                    for peer in providers.into_iter().take(limits::MAX_PROVIDERS) {
                        self.tell(NetworkEvent::Provider { cid, peer });
                    }
                }
                if step.last {
                    for search in &mut self.searches {
                        search.open.remove(&query);
                    }
                    self.end_searches();
                }
            }
            QueryResult::StartProviding(result) if step.last => {
                self.announced(query, result.is_ok())
            }
            result => tracing::trace!(?result, "dht"),
        }
    }

    /// Searches without open queries have found what there is to be found for now.
    fn end_searches(&mut self) {
        let ended: Vec<Cid> = self
            .searches
            .iter()
            .filter(|search| search.open.is_empty())
            .map(|search| search.cid)
            .collect();
        for cid in ended {
            self.tell(NetworkEvent::ProvidersSearched { cid });
        }
    }

    fn announced(&mut self, query: (Dht, QueryId), succeeded: bool) {
        let position = self
            .announcements
            .iter_mut()
            .position(|announcement| announcement.open.remove(&query));
        let Some(index) = position else {
            return;
        };
        let announcement = &mut self.announcements[index];
        announcement.succeeded += usize::from(succeeded);
        if announcement.open.is_empty() {
            let ended = self.announcements.swap_remove(index);
            self.tell(NetworkEvent::Provided {
                cid: ended.cid,
                dhts: ended.succeeded,
            });
        }
    }

    /// Tells the peers, and gives them a moment to hear it.
    async fn close(mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            if self.swarm.disconnect_peer_id(peer).is_err() {
                tracing::trace!(%peer, "had gone already");
            }
        }
        let told = async {
            while self.swarm.network_info().num_peers() > 0 {
                self.swarm.select_next_some().await;
            }
        };
        if tokio::time::timeout(CLOSING, told).await.is_err() {
            tracing::debug!("some peers were not told that this node ends");
        }
    }
}

fn send(subscriber: &Sender<NetworkEvent>, event: NetworkEvent) {
    if subscriber.send(event).is_err() {
        tracing::trace!("a subscriber has gone");
    }
}
