//! Answers of other nodes about the providers of content: any number of them, true or false.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use ipfs_exec_node::block::{MemoryBlocks, RAW};
use ipfs_exec_node::network::bitswap::SessionEvent;
use ipfs_exec_node::network::{Identity, Multiaddr, Network, NetworkEvent, NetworkOptions};
use ipfs_exec_node::{Block, Cid, WriteBlocksExt, limits};
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig, RecordStore};
use libp2p::kad::{self, ProviderRecord, RecordKey};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{PeerId, StreamProtocol, SwarmBuilder, identify, noise, tcp, yamux};

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(NetworkBehaviour)]
struct DhtBehaviour {
    dht: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
}

const LAN: StreamProtocol = StreamProtocol::new("/ipfs/lan/kad/1.0.0");
const PUBLIC: StreamProtocol = StreamProtocol::new("/ipfs/kad/1.0.0");

/// Starts the only node of a DHT on a thread that ends with the process. It says that `providers`
/// have `cid`. Gives its address.
fn start_dht(
    protocol: StreamProtocol,
    cid: &Cid,
    providers: Vec<(PeerId, Vec<Multiaddr>)>,
) -> Multiaddr {
    let key = RecordKey::from(cid.hash().to_bytes());
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let swarm = SwarmBuilder::with_new_identity().with_tokio().with_tcp(
                tcp::Config::default(),
                noise::Config::new,
                yamux::Config::default,
            );
            let mut swarm = swarm
                .unwrap()
                .with_behaviour(|key| {
                    let peer = key.public().to_peer_id();
                    let bounds = MemoryStoreConfig {
                        max_providers_per_key: usize::MAX,
                        ..MemoryStoreConfig::default()
                    };
                    let store = MemoryStore::with_config(peer, bounds);
                    let mut dht =
                        kad::Behaviour::with_config(peer, store, kad::Config::new(protocol));
                    dht.set_mode(Some(kad::Mode::Server));
                    let config = identify::Config::new("ipfs/0.1.0".to_owned(), key.public());
                    let identify = identify::Behaviour::new(config);
                    DhtBehaviour { dht, identify }
                })
                .unwrap()
                .build();
            let store = swarm.behaviour_mut().dht.store_mut();
            for (peer, addresses) in providers {
                let record = ProviderRecord::new(key.clone(), peer, addresses);
                store.add_provider(record).unwrap();
            }
            let loopback = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
            swarm.listen_on(loopback).unwrap();
            loop {
                if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                    let peer = *swarm.local_peer_id();
                    sender.send(address.with_p2p(peer).unwrap()).unwrap();
                }
            }
        });
    });
    receiver.recv_timeout(PATIENCE).unwrap()
}

/// A node that gives `block`, and where it is.
fn giver(block: &Block) -> (Network, Multiaddr) {
    let blocks = Arc::new(MemoryBlocks::default());
    blocks.put(std::slice::from_ref(block)).unwrap();
    let mut options = NetworkOptions::new(Identity::passing());
    options.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    options.serve = true;
    let giver = Network::start(blocks, options).unwrap();
    let events = giver.subscribe();
    loop {
        if let NetworkEvent::Listening { mut address } = events.recv_timeout(PATIENCE).unwrap() {
            address.pop();
            return (giver, address);
        }
    }
}

fn taker(dht: Multiaddr) -> Network {
    let mut options = NetworkOptions::new(Identity::passing());
    options.bootstrap = vec![dht];
    Network::start(Arc::new(MemoryBlocks::default()), options).unwrap()
}

/// Addresses at which nobody listens: nobody may use these ports but root.
fn dead_addresses(count: u16) -> Vec<Multiaddr> {
    let make = |number: u16| {
        let [high, low] = number.to_be_bytes();
        let address = std::net::Ipv4Addr::new(127, 1, high, low);
        Multiaddr::from(address).with(Protocol::Tcp(1))
    };
    (0..count).map(make).collect()
}

/// As many as fit the longest answer that a DHT gives.
#[test]
fn a_thousand_dead_addresses_of_a_provider_do_not_hide_another() {
    let block = Block::new(cid::Version::V1, RAW, Bytes::from_static(b"found"));
    let (giver, address) = giver(&block);
    let dht = start_dht(
        LAN,
        block.cid(),
        vec![
            (PeerId::random(), dead_addresses(1200)),
            (giver.peer_id(), vec![address]),
        ],
    );
    let taker = taker(dht);
    let events = taker.subscribe();
    taker.find_providers(block.cid());
    let is_giver = |event: &NetworkEvent| matches!(event, NetworkEvent::Connected { peer, .. } if *peer == giver.peer_id());
    while !is_giver(&events.recv_timeout(PATIENCE).unwrap()) {}
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

/// As many as one answer names.
#[test]
fn providers_that_are_not_there_end_the_search() {
    let block = Block::new(cid::Version::V1, RAW, Bytes::from_static(b"lost"));
    let providers = dead_addresses(200)
        .into_iter()
        .map(|address| (PeerId::random(), vec![address]));
    let dht = start_dht(LAN, block.cid(), providers.collect());
    let taker = taker(dht);
    let events = taker.subscribe();
    taker.find_providers(block.cid());
    let mut providers = 0;
    let deadline = Instant::now() + PATIENCE;
    let mut has_begun = false;
    loop {
        match events.recv_deadline(deadline).unwrap() {
            NetworkEvent::Searching { .. } => has_begun = true,
            NetworkEvent::Provider { .. } => providers += 1,
            NetworkEvent::ProvidersSearched { .. } if has_begun => break,
            _ => {}
        }
    }
    assert!((1..=limits::MAX_PROVIDERS).contains(&providers));
}

/// Whom a node that knows these peers hears of, until all who were asked have answered.
fn found(peers: &[Multiaddr], bootstrap: &[Multiaddr], cid: &Cid) -> Vec<PeerId> {
    let mut options = NetworkOptions::new(Identity::passing());
    (options.peers, options.bootstrap) = (peers.to_vec(), bootstrap.to_vec());
    let node = Network::start(Arc::new(MemoryBlocks::default()), options).unwrap();
    let events = node.subscribe();
    let mut unknown = peers.len() + bootstrap.len();
    node.find_providers(cid);
    let mut found = Vec::new();
    let mut searches = 0;
    loop {
        match events.recv_timeout(PATIENCE).unwrap() {
            NetworkEvent::Provider { peer, .. } => found.push(peer),
            NetworkEvent::Searching { .. } => searches += 1,
            NetworkEvent::Identified { .. } => unknown -= 1,
            NetworkEvent::ProvidersSearched { .. } => searches = 0,
            _ => {}
        }
        if unknown == 0 && searches == 0 {
            return found;
        }
    }
}

#[test]
fn the_public_dht_is_entered_by_its_own_peers_alone() {
    let cid = *Block::new(cid::Version::V1, RAW, Bytes::from_static(b"public")).cid();
    let provider = PeerId::random();
    let dht = start_dht(PUBLIC, &cid, vec![(provider, dead_addresses(1))]);
    assert!(found(std::slice::from_ref(&dht), &[], &cid).is_empty());
    assert_eq!(found(&[], std::slice::from_ref(&dht), &cid), [provider]);
}

/// Whichever is entered first.
#[test]
fn both_dhts_are_asked() {
    let cid = *Block::new(cid::Version::V1, RAW, Bytes::from_static(b"both")).cid();
    let providers = [PeerId::random(), PeerId::random()];
    let start = |protocol, peer| start_dht(protocol, &cid, vec![(peer, dead_addresses(1))]);
    let lan = start(LAN, providers[0]);
    let public = start(PUBLIC, providers[1]);
    for _ in 0..5 {
        let found = found(
            std::slice::from_ref(&lan),
            std::slice::from_ref(&public),
            &cid,
        );
        assert!(
            providers.iter().all(|peer| found.contains(peer)),
            "{found:?}"
        );
    }
}
