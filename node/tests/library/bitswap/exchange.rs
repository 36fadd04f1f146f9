//! Exchanges between well-behaved peers.

use ipfs_exec_node::block::{BLAKE3, DAG_PB, Multihash, RAW};
use ipfs_exec_node::network::bitswap::{BitswapOptions, Event, SessionEvent};
use ipfs_exec_node::{Block, Cid, WriteBlocksExt};

use super::peers::{Node, PATIENCE, cids, fetch, some_blocks, wait_for};

fn assert_fetches(count: usize, size: usize) {
    let blocks = some_blocks(count, size);
    let provider = Node::holding(&blocks);
    let asker = Node::new();
    let session = asker.session(&[&provider]);
    let got = fetch(&session, &cids(&blocks), usize::MAX);
    for block in &blocks {
        assert_eq!(got[block.cid()], (block.clone(), provider.peer));
    }
    let counters = asker.client.counters(&provider.peer);
    assert_eq!(counters.blocks_received, count as u64);
    assert_eq!(counters.bytes_received, (count * size) as u64);
}

#[test]
fn blocks_of_all_sizes_come() {
    // One block; more than one peer is asked for at a time; more than a window holds; the
    // largest, each a message of its own.
    for (count, size) in [(1, 8), (2000, 100), (50, 256 * 1024), (3, 2 * 1024 * 1024)] {
        assert_fetches(count, size);
    }
}

#[test]
fn sent_blocks_are_reported() {
    let blocks = some_blocks(3, 2000);
    let provider = Node::holding(&blocks);
    let asker = Node::new();
    let session = asker.session(&[&provider]);
    fetch(&session, &cids(&blocks), 3);
    let mut sent = Vec::new();
    while sent.len() < blocks.len() {
        if let Event::Sent { peer, cids, .. } = provider.events.recv_timeout(PATIENCE).unwrap() {
            assert_eq!(peer, asker.peer);
            sent.extend(cids);
        }
    }
    assert!(cids(&blocks).iter().all(|cid| sent.contains(cid)));
    assert_eq!(provider.client.counters(&asker.peer).bytes_sent, 6000);
}

#[test]
fn one_hash_under_two_names_is_one_want() {
    let block = Block::new(cid::Version::V0, DAG_PB, vec![7; 3000].into());
    let raw = Cid::new_v1(RAW, *block.cid().hash());
    let provider = Node::holding(std::slice::from_ref(&block));
    let asker = Node::new();
    let session = asker.session(&[&provider]);
    let other = asker.client.session();
    session.want(&[*block.cid()]);
    other.want(&[raw]);
    for (session, cid) in [(&session, *block.cid()), (&other, raw)] {
        let event = wait_for(session, |event| matches!(event, SessionEvent::Block { .. }));
        let SessionEvent::Block { block: got, .. } = event else {
            unreachable!()
        };
        assert_eq!((got.cid(), got.data()), (&cid, block.data()));
    }
}

#[test]
fn blake3_blocks_come() {
    let data = vec![3; 5000];
    let hash = Multihash::wrap(BLAKE3, blake3::hash(&data).as_bytes()).unwrap();
    let block = Block::verified(Cid::new_v1(RAW, hash), data.into()).unwrap();
    let provider = Node::holding(std::slice::from_ref(&block));
    let asker = Node::new();
    let session = asker.session(&[&provider]);
    assert_eq!(fetch(&session, &cids(&[block]), 1).len(), 1);
}

/// What the one that vanishes has not given by then comes from the other.
#[test]
fn two_providers_share_and_one_may_vanish() {
    let blocks = some_blocks(300, 64 * 1024);
    let mut first = Node::holding(&blocks);
    let second = Node::holding(&blocks[1..]);
    let asker = Node::new();
    let session = asker.session(&[&first, &second]);
    let (before, after) = blocks.split_at(blocks.len() / 2);
    session.want(&cids(before));
    let mut givers = Vec::new();
    while givers.len() < blocks.len() {
        let SessionEvent::Block { block, peer, .. } = session.recv_timeout(PATIENCE).unwrap()
        else {
            continue;
        };
        givers.push(peer);
        // One that the first alone has.
        if block == blocks[0] {
            first.stop();
            session.want(&cids(after));
        }
    }
    let from_first = givers.iter().filter(|peer| **peer == first.peer).count();
    assert!(from_first > 0 && from_first <= before.len(), "{from_first}");
}

#[test]
fn absent_blocks_are_not_found_and_come_when_they_are_added() {
    let block = some_blocks(1, 2000).remove(0);
    let provider = Node::new();
    let other = Node::new();
    let asker = Node::new();
    let helper = asker.session(&[&other]);
    let session = asker.session(&[&provider]);
    session.want(&[*block.cid()]);
    let event = wait_for(&session, |event| {
        matches!(event, SessionEvent::NotFound { .. })
    });
    let cid = *block.cid();
    assert_eq!(event, SessionEvent::NotFound { cid, asked: 2 });
    provider.blocks.put(std::slice::from_ref(&block)).unwrap();
    provider.client.blocks_added();
    let event = wait_for(&session, |event| {
        matches!(event, SessionEvent::Block { .. })
    });
    let peer = provider.peer;
    assert_eq!(event, SessionEvent::Block { block, peer });
    drop(helper);
}

#[test]
fn blocks_added_by_others_are_found() {
    let block = some_blocks(1, 2000).remove(0);
    let provider = Node::new();
    let asker = Node::new();
    let session = asker.session(&[&provider]);
    session.want(&[*block.cid()]);
    wait_for(&session, |event| {
        matches!(event, SessionEvent::NotFound { .. })
    });
    provider.blocks.put(&[block]).unwrap();
    wait_for(&session, |event| {
        matches!(event, SessionEvent::Block { .. })
    });
}

#[test]
fn a_connected_peer_that_has_the_root_becomes_a_provider() {
    // Above the size at which the block itself answers the question.
    let blocks = some_blocks(50, 5000);
    let provider = Node::holding(&blocks);
    let empty = Node::new();
    let asker = Node::new();
    let helper = asker.session(&[&provider]);
    let session = asker.session(&[&empty]);
    assert_eq!(fetch(&session, &cids(&blocks), 50).len(), 50);
    drop(helper);
}

#[test]
fn a_node_that_does_not_serve_says_so() {
    let block = some_blocks(1, 2000).remove(0);
    let provider = Node::with_options(BitswapOptions { serve: false });
    provider.blocks.put(std::slice::from_ref(&block)).unwrap();
    let asker = Node::new();
    let session = asker.session(&[&provider]);
    session.want(&[*block.cid()]);
    let event = wait_for(&session, |event| {
        matches!(event, SessionEvent::NotFound { .. })
    });
    let cid = *block.cid();
    assert_eq!(event, SessionEvent::NotFound { cid, asked: 1 });
}

#[test]
fn a_fetch_without_sources_finds_nothing() {
    let cid = *some_blocks(1, 2000)[0].cid();
    let asker = Node::new();
    let session = asker.client.session();
    session.want(&[cid]);
    let event = session.recv_timeout(PATIENCE).unwrap();
    assert_eq!(event, SessionEvent::NotFound { cid, asked: 0 });
}

#[test]
fn unreachable_providers_are_reported() {
    let asker = Node::new();
    let session = asker.client.session();
    let peer = libp2p::PeerId::random();
    session.add_provider(peer);
    let event = session.recv_timeout(PATIENCE).unwrap();
    assert_eq!(event, SessionEvent::PeerUnreachable { peer });
}

#[test]
fn sessions_end_with_the_node() {
    let mut asker = Node::new();
    let session = asker.client.session();
    asker.stop();
    assert_eq!(
        session.recv_timeout(PATIENCE),
        Err(ipfs_exec_node::network::bitswap::SessionError::Closed)
    );
}
