//! Peers for the tests: ours, each on a thread with a runtime of its own, and raw ones that speak
//! the stream protocol by hand.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use ipfs_exec_node::block::{MemoryBlocks, RAW};
use ipfs_exec_node::network::bitswap::{
    Behaviour, BitswapOptions, Client, Event, Session, SessionEvent,
};
use ipfs_exec_node::{Block, Cid, WriteBlocksExt, limits};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, noise, tcp, yamux};

/// Long enough for a busy machine; no test waits for it to pass.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A swarm on TCP, as a node would make it.
pub(super) fn build<B: NetworkBehaviour>(behaviour: B) -> Swarm<B> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )
        .unwrap()
        .with_behaviour(|_| behaviour)
        .unwrap()
        .with_swarm_config(|config| {
            config.with_max_negotiating_inbound_streams(limits::MAX_INBOUND_STREAMS)
        })
        .build()
}

enum Order {
    Dial(Multiaddr),
    Stop,
}

pub(super) struct Node {
    pub(super) peer: PeerId,
    pub(super) address: Multiaddr,
    pub(super) client: Client,
    pub(super) blocks: Arc<MemoryBlocks>,
    pub(super) events: mpsc::Receiver<Event>,
    orders: UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    pub(super) fn new() -> Node {
        Node::with_options(BitswapOptions::default())
    }

    pub(super) fn holding(blocks: &[Block]) -> Node {
        let node = Node::new();
        node.blocks.put(blocks).unwrap();
        node
    }

    pub(super) fn with_options(options: BitswapOptions) -> Node {
        let blocks = Arc::new(MemoryBlocks::default());
        let (behaviour, client) = Behaviour::new(blocks.clone(), options);
        let (orders, mut received) = unbounded();
        let (ready, listening) = mpsc::channel();
        let (event_sender, events) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let mut swarm = build(behaviour);
                let local = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
                swarm.listen_on(local).unwrap();
                loop {
                    tokio::select! {
                        event = swarm.select_next_some() => match event {
                            SwarmEvent::NewListenAddr { address, .. } => {
                                let _ = ready.send((*swarm.local_peer_id(), address));
                            }
                            SwarmEvent::Behaviour(event) => {
                                let _ = event_sender.send(event);
                            }
                            _ => {}
                        },
                        order = received.next() => match order {
                            Some(Order::Dial(address)) => swarm.dial(address).unwrap(),
                            Some(Order::Stop) | None => return,
                        },
                    }
                }
            });
        });
        let (peer, address) = listening.recv_timeout(PATIENCE).unwrap();
        Node {
            peer,
            address,
            client,
            blocks,
            events,
            orders,
            thread: Some(thread),
        }
    }

    pub(super) fn dial(&self, address: &Multiaddr) {
        self.orders
            .unbounded_send(Order::Dial(address.clone()))
            .unwrap();
    }

    /// A session with `providers`, all of them connected.
    pub(super) fn session(&self, providers: &[&Node]) -> Session {
        let session = self.client.session();
        for provider in providers {
            session.add_provider(provider.peer);
            self.dial(&provider.address);
        }
        for _ in providers {
            wait_for(&session, |event| {
                matches!(event, SessionEvent::PeerConnected { .. })
            });
        }
        session
    }

    pub(super) fn stop(&mut self) {
        let _ = self.orders.unbounded_send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(super) fn wait_for(session: &Session, wanted: impl Fn(&SessionEvent) -> bool) -> SessionEvent {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let event = session.recv_timeout(left).unwrap();
        if wanted(&event) {
            return event;
        }
    }
}

/// Fetches `cids`, with at most `window` wants open; says who sent each.
pub(super) fn fetch(
    session: &Session,
    cids: &[Cid],
    window: usize,
) -> HashMap<Cid, (Block, PeerId)> {
    let mut left = cids.iter();
    let first: Vec<_> = left.by_ref().take(window).copied().collect();
    session.want(&first);
    let mut got = HashMap::new();
    while got.len() < cids.len() {
        let event = session.recv_timeout(PATIENCE).unwrap();
        if let SessionEvent::Block { block, peer } = event {
            got.insert(*block.cid(), (block, peer));
            if let Some(next) = left.next() {
                session.want(&[*next]);
            }
        }
    }
    got
}

/// Blocks that differ.
pub(super) fn some_blocks(count: usize, size: usize) -> Vec<Block> {
    (0..count)
        .map(|index| {
            let mut data = vec![index as u8; size];
            let seed = (index as u64).to_le_bytes();
            let length = seed.len().min(size);
            data[..length].copy_from_slice(&seed[..length]);
            Block::new(cid::Version::V1, RAW, Bytes::from(data))
        })
        .collect()
}

pub(super) fn cids(blocks: &[Block]) -> Vec<Cid> {
    blocks.iter().map(|block| *block.cid()).collect()
}
