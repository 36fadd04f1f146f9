//! Reaching a node that can only be reached through another: it listens at a relay.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use ipfs_exec_node::block::{MemoryBlocks, RAW};
use ipfs_exec_node::network::bitswap::SessionEvent;
use ipfs_exec_node::network::{Identity, Multiaddr, Network, NetworkEvent, NetworkOptions, Role};
use ipfs_exec_node::{Block, WriteBlocksExt};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{SwarmBuilder, identify, noise, relay, tcp, yamux};

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(NetworkBehaviour)]
struct RelayBehaviour {
    relay: relay::Behaviour,
    identify: identify::Behaviour,
}

/// Starts a relay on a thread that ends with the process; gives its address.
fn start_relay() -> Multiaddr {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let mut swarm = SwarmBuilder::with_new_identity()
                .with_tokio()
                .with_tcp(
                    tcp::Config::default(),
                    noise::Config::new,
                    yamux::Config::default,
                )
                .unwrap()
                .with_behaviour(|key| RelayBehaviour {
                    relay: relay::Behaviour::new(
                        key.public().to_peer_id(),
                        relay::Config::default(),
                    ),
                    identify: identify::Behaviour::new(identify::Config::new(
                        "ipfs/0.1.0".to_owned(),
                        key.public(),
                    )),
                })
                .unwrap()
                .build();
            swarm
                .listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap())
                .unwrap();
            loop {
                if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                    swarm.add_external_address(address.clone());
                    let peer = *swarm.local_peer_id();
                    sender.send(address.with_p2p(peer).unwrap()).unwrap();
                }
            }
        });
    });
    receiver.recv_timeout(PATIENCE).unwrap()
}

#[test]
fn a_node_that_listens_at_a_relay_gives_blocks() {
    let relay = start_relay();
    let block = Block::new(
        cid::Version::V1,
        RAW,
        Bytes::from_static(b"through a relay"),
    );
    let blocks = Arc::new(MemoryBlocks::default());
    blocks.put(std::slice::from_ref(&block)).unwrap();
    let mut options = NetworkOptions::new(Identity::passing());
    options.listen = vec![relay.with(Protocol::P2pCircuit)];
    options.serve = true;
    let giver = Network::start(blocks, options).unwrap();
    let events = giver.subscribe();
    let address = loop {
        if let NetworkEvent::Listening { address } = events.recv_timeout(PATIENCE).unwrap() {
            break address;
        }
    };

    let mut options = NetworkOptions::new(Identity::passing());
    options.peers = vec![address];
    let taker = Network::start(Arc::new(MemoryBlocks::default()), options).unwrap();
    let events = taker.subscribe();
    loop {
        // The relay is the first.
        if let NetworkEvent::Connected { peer, role, .. } = events.recv_timeout(PATIENCE).unwrap()
            && peer == giver.peer_id()
        {
            assert_eq!(role, Role::Named);
            break;
        }
    }
    let session = taker.bitswap().session();
    session.add_provider(giver.peer_id());
    session.want(&[*block.cid()]);
    loop {
        if let SessionEvent::Block { block: got, .. } = session.recv_timeout(PATIENCE).unwrap() {
            assert_eq!(got, block);
            break;
        }
    }
}

/// Once they are connected through the relay, the two find out where the other is, and go on without
/// it (DCUtR).
#[test]
fn nodes_that_met_at_a_relay_connect_directly() {
    let relay = start_relay();
    let mut options = NetworkOptions::new(Identity::passing());
    options.listen = vec![
        "/ip4/127.0.0.1/tcp/0".parse().unwrap(),
        relay.with(Protocol::P2pCircuit),
    ];
    // Who serves tells where it listens. Here only the relay can say how it is seen.
    options.serve = false;
    let giver = Network::start(Arc::new(MemoryBlocks::default()), options).unwrap();
    let events = giver.subscribe();
    let is_relayed = |address: &Multiaddr| address.iter().any(|part| part == Protocol::P2pCircuit);
    let address = loop {
        if let NetworkEvent::Listening { address } = events.recv_timeout(PATIENCE).unwrap()
            && is_relayed(&address)
        {
            break address;
        }
    };
    let mut options = NetworkOptions::new(Identity::passing());
    options.peers = vec![address];
    let taker = Network::start(Arc::new(MemoryBlocks::default()), options).unwrap();
    let events = taker.subscribe();
    let mut ways = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while ways.last() != Some(&false) {
        if let NetworkEvent::Connected { peer, address, .. } =
            events.recv_deadline(deadline).unwrap()
            && peer == giver.peer_id()
        {
            ways.push(is_relayed(&address));
        }
    }
    assert_eq!(ways, [true, false]);
}
