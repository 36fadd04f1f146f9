//! The node at work: one task that carries events between the protocols, the handle and all
//! subscribers.

pub(super) mod behaviour;
mod dht_store;
mod name_records;
mod names;
mod persistent;
mod provider_records;
mod providers;
mod queries;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::Sender;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use libp2p::core::transport::ListenerId;
use libp2p::kad;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{self, ConnectionId, DialError, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, autonat, identify, mdns, ping};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::sleep_until;

use self::behaviour::{Behaviour, BehaviourEvent, LAN_DHT, PUBLIC_DHT};
use self::persistent::PersistentPeers;
use self::queries::{Dht, Queries, Query, Turns};
use super::event::{NetworkEvent, Role};
use super::http::{HttpError, Url, routing};
use super::identity::Identity;
use super::options::{Mdns, NetworkError, NetworkOptions};
use super::{bitswap, transport};
use crate::block::{Cid, ReadBlocks};
use crate::limits;
use crate::name::KeyName;

/// A connection that nothing uses is kept this long: the next want may come soon.
const IDLE_CONNECTION: Duration = Duration::from_secs(10);

/// How long closing waits for peers to be told. One that is not told waits for its own time-out.
const CLOSING: Duration = Duration::from_millis(300);

/// What a handle asks of the node.
pub(super) enum Command {
    Subscribe(Sender<NetworkEvent>),
    Discover,
    FindProviders(Cid),
    Provide(Cid),
    FindName(KeyName),
    PublishName(KeyName, Bytes),
    Close,
}

/// The answer of an HTTP server.
enum ServerAnswer {
    Providers(Result<Vec<routing::Provider>, HttpError>),
    Record(Result<Option<Bytes>, HttpError>),
    Published(Result<(), HttpError>),
}

pub(super) struct Node {
    swarm: Swarm<Behaviour>,
    persistent: PersistentPeers,
    all_tried: bool,
    listeners: HashMap<ListenerId, Multiaddr>,
    /// Each peer with the address of its newest connection.
    connected: HashMap<PeerId, Multiaddr>,
    /// Peers that were found on the local network and dialled.
    local: HashSet<PeerId>,
    subscribers: Vec<Sender<NetworkEvent>>,
    /// What is looked for, whether or not somebody is being asked at this moment.
    wanted: Vec<Cid>,
    searches: Queries,
    announcements: Queries,
    name_searches: Queries,
    name_publications: Queries,
    name_turns: Turns,
    joined: HashSet<Dht>,
    http: Option<reqwest::Client>,
    routers: Vec<Url>,
    gateways: Vec<Url>,
    /// Each with the number of its question.
    server_answers: FuturesUnordered<BoxFuture<'static, (u64, ServerAnswer)>>,
    server_questions: u64,
    mdns: Mdns,
    serve: bool,
    /// Locked for as long as the node may speak as the repository's peer.
    _identity: Identity,
}

impl Node {
    /// Must be called within a tokio runtime.
    pub(super) fn start(
        blocks: Arc<dyn ReadBlocks>,
        options: NetworkOptions,
        http: Option<reqwest::Client>,
    ) -> Result<(Node, bitswap::Client), NetworkError> {
        let keypair = options.identity.keypair();
        let (connections, relay_client) = transport::build(keypair, options.swarm_key)?;
        let (behaviour, client) =
            behaviour::build(blocks, relay_client, &options).map_err(NetworkError::Start)?;
        let config = swarm::Config::with_tokio_executor()
            .with_idle_connection_timeout(IDLE_CONNECTION)
            .with_max_negotiating_inbound_streams(limits::MAX_INBOUND_STREAMS)
            .with_smart_dial();
        let swarm = Swarm::new(connections, behaviour, options.peer_id(), config);
        let mut node = Node {
            swarm,
            persistent: PersistentPeers::default(),
            all_tried: false,
            listeners: HashMap::new(),
            connected: HashMap::new(),
            local: HashSet::new(),
            subscribers: Vec::new(),
            wanted: Vec::new(),
            searches: Queries::default(),
            announcements: Queries::default(),
            name_searches: Queries::default(),
            name_publications: Queries::default(),
            name_turns: Turns::default(),
            joined: HashSet::new(),
            http,
            routers: options.routers,
            gateways: options.gateways,
            server_answers: FuturesUnordered::new(),
            server_questions: 0,
            mdns: options.mdns,
            serve: options.serve,
            _identity: options.identity,
        };
        for address in options.listen {
            node.listen(address)?;
        }
        for address in options.announce {
            node.is_public(address);
        }
        let now = Instant::now();
        for address in options.peers {
            node.persistent.add(address, Role::Named, now);
        }
        for address in options.bootstrap {
            node.persistent.add(address, Role::Bootstrap, now);
        }
        Ok((node, client))
    }

    fn listen(&mut self, address: Multiaddr) -> Result<(), NetworkError> {
        let listening = self.swarm.listen_on(address.clone());
        let listener = listening.map_err(|source| NetworkError::Listen {
            address: address.clone(),
            source,
        })?;
        self.listeners.insert(listener, address);
        Ok(())
    }

    pub(super) fn peer_id(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    pub(super) async fn work(mut self, mut commands: UnboundedReceiver<Command>) {
        self.dial_persistent();
        loop {
            let dial = self.persistent.next();
            let has_questions = !self.server_answers.is_empty();
            tokio::select! {
                event = self.swarm.select_next_some() => self.handle(event),
                command = commands.recv() => match command {
                    Some(command) => if !self.obey(command) { break },
                    None => break,
                },
                Some((number, answer)) = self.server_answers.next(), if has_questions => {
                    self.server_answered(&Query::Server(number), answer);
                }
                () = sleep_until(dial.unwrap_or_else(Instant::now).into()), if dial.is_some() => {
                    self.dial_persistent();
                }
            }
        }
        self.close().await;
    }

    /// False where the node is to end.
    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Subscribe(subscriber) => self.subscribe(subscriber),
            Command::Discover => self.discover(),
            Command::FindProviders(cid) => self.find_providers(cid),
            Command::Provide(cid) => self.provide(cid),
            Command::FindName(name) => self.find_name(name),
            Command::PublishName(name, record) => self.publish_name(name, record),
            Command::Close => return false,
        }
        true
    }

    /// Sends a question to a server.
    fn ask_server(&mut self, asking: BoxFuture<'static, ServerAnswer>) -> Query {
        self.server_questions += 1;
        let number = self.server_questions;
        self.server_answers
            .push(asking.map(move |answer| (number, answer)).boxed());
        Query::Server(number)
    }

    fn server_answered(&mut self, query: &Query, answer: ServerAnswer) {
        match answer {
            ServerAnswer::Providers(answer) => self.providers_answered(query, answer),
            ServerAnswer::Record(answer) => self.record_answered(query, answer),
            ServerAnswer::Published(answer) => self.publication_answered(query, answer),
        }
    }

    fn subscribe(&mut self, subscriber: Sender<NetworkEvent>) {
        let listening = self.swarm.listeners().cloned().collect::<Vec<_>>();
        let mut events: Vec<_> = listening
            .into_iter()
            .map(|address| NetworkEvent::Listening {
                address: self.with_own_id(address),
            })
            .collect();
        for (peer, address) in &self.connected {
            events.push(NetworkEvent::Connected {
                peer: *peer,
                address: address.clone(),
                role: self.persistent.role(peer),
            });
        }
        for (address, error) in self.persistent.unreachable() {
            events.push(NetworkEvent::Unreachable {
                address: address.clone(),
                error: Arc::clone(error),
            });
        }
        if self.all_tried {
            events.push(NetworkEvent::AllTried);
        }
        if !self.joined.is_empty() {
            events.push(NetworkEvent::Joined);
        }
        if events
            .into_iter()
            .all(|event| subscriber.send(event).is_ok())
        {
            self.subscribers.push(subscriber);
        }
    }

    fn tell(&mut self, event: NetworkEvent) {
        self.subscribers
            .retain(|subscriber| subscriber.send(event.clone()).is_ok());
    }

    fn with_own_id(&self, address: Multiaddr) -> Multiaddr {
        address
            .with_p2p(self.peer_id())
            .unwrap_or_else(|address| address)
    }

    fn dial_persistent(&mut self) {
        for options in self.persistent.due(Instant::now()) {
            let connection = options.connection_id();
            if let Err(error) = self.swarm.dial(options) {
                self.dial_failed(connection, error);
            }
        }
        self.tell_all_tried();
    }

    fn dial_failed(&mut self, connection: ConnectionId, error: DialError) {
        if matches!(error, DialError::DialPeerConditionFalse(_)) {
            return self.persistent.needless(connection, Instant::now());
        }
        let error = Arc::new(error);
        let failed = self
            .persistent
            .failed(connection, Arc::clone(&error), Instant::now());
        match failed {
            Some(address) => self.tell(NetworkEvent::Unreachable { address, error }),
            None => tracing::debug!(%error, "a peer cannot be reached"),
        }
    }

    /// Says so where every peer that was named has been tried. After the events of the last of
    /// them.
    fn tell_all_tried(&mut self) {
        if !self.all_tried && self.persistent.all_tried() {
            self.all_tried = true;
            self.tell(NetworkEvent::AllTried);
        }
    }

    fn handle(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => self.new_address(address),
            SwarmEvent::ExternalAddrConfirmed { address } => {
                let address = self.with_own_id(address);
                self.tell(NetworkEvent::Reachable { address });
            }
            SwarmEvent::ConnectionEstablished {
                peer_id: peer,
                connection_id,
                endpoint,
                ..
            } => {
                let role = self
                    .persistent
                    .connected(peer, connection_id, Instant::now());
                if role != Role::Other {
                    self.swarm.behaviour_mut().bitswap.keep_connected(peer);
                }
                let address = endpoint.get_remote_address().clone();
                self.connected.insert(peer, address.clone());
                self.tell(NetworkEvent::Connected {
                    peer,
                    address,
                    role,
                });
                self.tell_all_tried();
            }
            SwarmEvent::ConnectionClosed {
                peer_id: peer,
                num_established: 0,
                ..
            } => {
                self.persistent.disconnected(peer, Instant::now());
                self.connected.remove(&peer);
                self.tell(NetworkEvent::Disconnected { peer });
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } => {
                self.dial_failed(connection_id, error);
                self.tell_all_tried();
            }
            SwarmEvent::ListenerClosed {
                listener_id,
                reason: Err(error),
                ..
            } => {
                let address = self.listeners.remove(&listener_id);
                let address = address.map(|address| address.to_string());
                tracing::warn!(address, %error, "no longer listening");
            }
            SwarmEvent::Behaviour(event) => self.handle_behaviour(event),
            event => tracing::trace!(?event, "swarm"),
        }
    }

    /// Listening there, which others are told where it could be of use to them.
    fn new_address(&mut self, address: Multiaddr) {
        if self.serve {
            self.swarm.add_external_address(address.clone());
        }
        let address = self.with_own_id(address);
        self.tell(NetworkEvent::Listening { address });
    }

    /// Anybody can reach the node there, so it can keep a part of the public DHT.
    fn is_public(&mut self, address: Multiaddr) {
        self.swarm.add_external_address(address);
        if self.serve
            && let Some(dht) = self.dht(Dht::Public)
        {
            dht.set_mode(Some(kad::Mode::Server));
        }
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
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => self.discovered(found),
            BehaviourEvent::Autonat(autonat::Event::StatusChanged {
                new: autonat::NatStatus::Public(address),
                ..
            }) => {
                tracing::info!(%address, "others can reach this node");
                self.is_public(address);
            }
            BehaviourEvent::PublicDht(event) => self.handle_dht(Dht::Public, event),
            BehaviourEvent::LanDht(event) => self.handle_dht(Dht::Lan, event),
            event => tracing::trace!(?event, "behaviour"),
        }
    }

    /// Starts to look for peers on the local network, if that has not begun.
    fn discover(&mut self) {
        let peer_id = self.peer_id();
        let mdns = &mut self.swarm.behaviour_mut().mdns;
        if mdns.is_enabled() || self.mdns != Mdns::OnDemand {
            return;
        }
        match behaviour::mdns(peer_id) {
            Ok(started) => *mdns = Some(started).into(),
            Err(error) => tracing::debug!(%error, "cannot look for peers on the local network"),
        }
    }

    /// Peers on the local network: what is looked for may be there. Anybody there can claim to be
    /// any number of peers, each with any number of addresses.
    fn discovered(&mut self, found: Vec<(PeerId, Multiaddr)>) {
        let mut by_peer: HashMap<PeerId, Vec<Multiaddr>> = HashMap::new();
        for (peer, address) in found {
            let addresses = by_peer.entry(peer).or_default();
            if addresses.len() < limits::MAX_ADDRESSES_PER_PEER {
                addresses.push(address);
            }
        }
        // Those of other networks take no room from these.
        self.local.retain(|peer| self.connected.contains_key(peer));
        let room = limits::MAX_DISCOVERED_PEERS.saturating_sub(self.local.len());
        for (peer, addresses) in by_peer.into_iter().take(room) {
            self.local.insert(peer);
            self.dial(peer, addresses);
        }
    }

    fn dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let options = DialOpts::peer_id(peer).addresses(addresses).build();
        match self.swarm.dial(options) {
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => tracing::debug!(%peer, %error, "a peer cannot be dialled"),
        }
    }

    /// Peers that keep a DHT become part of it here.
    fn identified(&mut self, peer: PeerId, info: identify::Info) {
        self.persistent.identified(peer, Instant::now());
        // What it said before is replaced, so that it cannot grow.
        for (which, protocol) in [(Dht::Lan, LAN_DHT), (Dht::Public, PUBLIC_DHT)] {
            let Some(dht) = self.dht(which) else {
                continue;
            };
            dht.remove_peer(&peer);
            let keeps_it = info.protocols.contains(&protocol);
            let addresses = info.listen_addrs.iter().filter(|_| keeps_it);
            for address in addresses.take(limits::MAX_ADDRESSES_PER_PEER) {
                dht.add_address(&peer, address.clone());
            }
        }
        // First, so that nobody takes the search for ended.
        self.join();
        self.tell(NetworkEvent::Identified {
            peer,
            agent: info.agent_version,
            protocols: info.protocols,
        });
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
