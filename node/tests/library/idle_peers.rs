//! Connections that open and say nothing must not keep others from a node that serves.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipfs_exec_node::block::MemoryBlocks;
use ipfs_exec_node::network::bitswap::SessionEvent;
use ipfs_exec_node::network::{Identity, Multiaddr, Network, NetworkEvent, NetworkOptions};
use ipfs_exec_node::{Block, WriteBlocksExt};
use libp2p::multiaddr::Protocol;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::raw;

/// The time that a handshake may take, and a busy machine.
const IN_TIME: Duration = Duration::from_secs(15);
/// Far below the time that an idle connection is given.
const PROMPTLY: Duration = Duration::from_secs(2);

/// A node that serves `block`, and where it listens.
pub(crate) fn serve(block: &Block) -> (Network, Multiaddr) {
    let blocks = MemoryBlocks::default();
    blocks.put(std::slice::from_ref(block)).unwrap();
    let mut options = NetworkOptions::new(Identity::passing());
    options.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    options.serve = true;
    let network = Network::start(Arc::new(blocks), options).unwrap();
    let events = network.subscribe();
    loop {
        if let NetworkEvent::Listening { address } = events.recv_timeout(IN_TIME).unwrap() {
            return (network, address);
        }
    }
}

/// Opens `count` connections from `source` and says nothing on them.
async fn open_idle(address: &Multiaddr, source: IpAddr, count: usize) -> Vec<TcpStream> {
    let port = address.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    let target = SocketAddr::new([127, 0, 0, 1].into(), port.unwrap());
    let mut sockets = Vec::new();
    for _ in 0..count {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(source, 0)).unwrap();
        sockets.push(socket.connect(target).await.unwrap());
    }
    sockets
}

/// Fetches the block from 127.0.0.1 as a new peer, which dials again where it is refused.
fn fetch(block: &Block, address: &Multiaddr) -> Duration {
    let began = Instant::now();
    let mut options = NetworkOptions::new(Identity::passing());
    options.peers = vec![address.clone()];
    let network = Network::start(Arc::new(MemoryBlocks::default()), options).unwrap();
    let events = network.subscribe();
    let session = network.bitswap().session();
    session.want(&[*block.cid()]);
    loop {
        if let NetworkEvent::Connected { peer, .. } = events.recv_timeout(IN_TIME).unwrap() {
            session.add_provider(peer);
            break;
        }
    }
    loop {
        if let SessionEvent::Block { .. } = session.recv_timeout(IN_TIME).unwrap() {
            return began.elapsed();
        }
    }
}

fn allow_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

async fn attack(source: [u8; 4], count: usize) -> Duration {
    allow_open_files();
    let block = raw(b"content");
    let (_serving, address) = serve(&block);
    let _idle = open_idle(&address, source.into(), count).await;
    tokio::task::spawn_blocking(move || fetch(&block, &address))
        .await
        .unwrap()
}

#[tokio::test]
async fn of_another_address_cost_nothing() {
    for count in [0, 64, 500] {
        let took = attack([127, 0, 0, 2], count).await;
        assert!(took < PROMPTLY, "{count}: {took:?}");
    }
}

#[tokio::test]
async fn of_the_same_address_cost_the_time_of_a_handshake() {
    for count in [64, 500] {
        let took = attack([127, 0, 0, 1], count).await;
        assert!(took < Duration::from_secs(5), "{count}: {took:?}");
    }
}
