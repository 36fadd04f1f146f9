//! The contract of blocks over a fetcher, with a peer that has a block and with one that says nothing.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;

use ipfs_exec_node::block::{MemoryBlocks, ReadBlocks, ReadBlocksExt, WriteBlocksExt};
use ipfs_exec_node::network::fetch::{FetchOptions, Fetcher, LazyNetwork, Source};
use ipfs_exec_node::network::{Identity, Mdns, Multiaddr, Network, NetworkOptions};
use ipfs_exec_node::progress::Silent;

use crate::contract;
use crate::idle_peers::serve;
use crate::support::{raw, repository};

/// A node that dials `peer`, once it is needed.
fn network(peer: Multiaddr) -> LazyNetwork {
    LazyNetwork::new(true, Mdns::Off, move || {
        let mut options = NetworkOptions::new(Identity::passing());
        options.peers = vec![peer];
        Network::start(Arc::new(MemoryBlocks::default()), options)
    })
}

#[test]
fn what_is_here_and_what_a_peer_has() {
    let (near, far) = (contract::samples(), raw(b"far"));
    let (_directory, repository) = repository();
    repository.put(&near).unwrap();
    let (_server, address) = serve(&far);
    let network = network(address);
    let fetcher = Fetcher::new(&repository, &network, FetchOptions::default(), &Silent);
    contract::reads(&fetcher, &near);
    contract::lacks(&fetcher, &raw(b"nowhere"));
    assert!(!fetcher.has(far.cid()).unwrap());
    assert_eq!(&fetcher.get(far.cid()).unwrap(), far.data());
    contract::reads(&fetcher, &[far]);
}

#[test]
fn a_source_with_and_without_a_network() {
    let (near, far) = (contract::samples(), raw(b"far"));
    let (_directory, repository) = repository();
    repository.put(&near).unwrap();
    let local = Source::new(&repository, None, FetchOptions::default(), &Silent);
    contract::reads(&local, &near);
    contract::lacks(&local, &far);
    assert_eq!(local.finish().unwrap().blocks, 0);
    let (_server, address) = serve(&far);
    let network = network(address);
    let network = Some(&network);
    let fetching = Source::new(&repository, network, FetchOptions::default(), &Silent);
    contract::reads(&fetching, &near);
    assert_eq!(&fetching.get(far.cid()).unwrap(), far.data());
    assert_eq!(fetching.finish().unwrap().blocks, 1);
    contract::reads(&repository, &[far]);
}

#[test]
fn a_read_that_waits_is_cancelled() {
    let (_directory, repository) = repository();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let network = network(format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap());
    let fetcher = Fetcher::new(&repository, &network, FetchOptions::default(), &Silent);
    let (begun, waits) = channel();
    // It accepts and says nothing.
    let silent = thread::spawn(move || {
        let accepted = listener.accept().unwrap();
        begun.send(()).unwrap();
        accepted
    });
    contract::ends_when_cancelled(&fetcher, raw(b"nowhere").cid(), &waits);
    drop(silent.join().unwrap());
}
