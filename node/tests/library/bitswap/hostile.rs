//! Peers that misbehave, and peers of other kinds.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ipfs_exec_node::block::{DAG_PB, RAW};
use ipfs_exec_node::network::bitswap::{Fault, MessageError, Session, SessionEvent};
use ipfs_exec_node::{Block, limits};

use super::peers::{Node, PATIENCE, cids, fetch, some_blocks, wait_for};
use super::raw::{Raw, RawEvent, Then};
use super::wire::{bare_block, contains, field, framed, payload, varint, wants};

const NEWEST: &str = "/ipfs/bitswap/1.2.0";

/// A node with a session that has the raw peer as its provider.
fn asker(raw: &Raw) -> (Node, Session) {
    let node = Node::new();
    raw.connect(&node);
    let session = node.client.session();
    session.add_provider(raw.peer);
    wait_for(&session, |event| {
        matches!(event, SessionEvent::PeerConnected { .. })
    });
    (node, session)
}

fn expect_fault(session: &Session, expected: &Fault) {
    let event = wait_for(session, |event| {
        matches!(event, SessionEvent::BadBlock { .. })
    });
    let SessionEvent::BadBlock { fault, .. } = event else {
        unreachable!()
    };
    assert_eq!(fault, *expected);
}

fn expect_block(session: &Session, block: &Block) {
    let event = wait_for(session, |event| matches!(event, SessionEvent::Block { .. }));
    let SessionEvent::Block { block: got, .. } = event else {
        unreachable!()
    };
    assert_eq!(got, *block);
}

#[test]
fn wrong_bytes_are_refused_and_the_right_ones_taken() {
    let blocks = some_blocks(2, 3000);
    let raw = Raw::new(NEWEST);
    let (_node, session) = asker(&raw);
    session.want(&[*blocks[0].cid()]);
    assert!(contains(&raw.message(), &blocks[0].cid().to_bytes()));
    raw.write(framed(&payload(&blocks[1])), Then::Close);
    let cid = *blocks[1].cid();
    expect_fault(&session, &Fault::UnaskedBlock { cid });
    raw.write(framed(&payload(&blocks[0])), Then::Close);
    expect_block(&session, &blocks[0]);
}

#[test]
fn just_cancelled_blocks_are_forgiven() {
    let blocks = some_blocks(2, 3000);
    let raw = Raw::new(NEWEST);
    let (_node, session) = asker(&raw);
    session.want(&cids(&blocks));
    raw.message();
    session.cancel(&[*blocks[0].cid()]);
    assert!(contains(&raw.message(), &blocks[0].cid().to_bytes()));
    raw.write(framed(&payload(&blocks[0])), Then::Close);
    raw.write(framed(&payload(&blocks[1])), Then::Close);
    let event = session.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(event, SessionEvent::Block { block, .. } if block == blocks[1]));
}

#[test]
fn unsupported_hashes_are_bad_blocks() {
    let raw = Raw::new(NEWEST);
    let (_node, session) = asker(&raw);
    // Keccak-256.
    let body = field(
        3,
        &[field(1, &[1, 0x55, 0x1b, 32]), field(2, b"data")].concat(),
    );
    raw.write(framed(&body), Then::Close);
    expect_fault(&session, &Fault::UnsupportedHash { code: 0x1b });
}

#[test]
fn peers_that_never_stop_misbehaving_are_left() {
    let raw = Raw::new(NEWEST);
    let (node, session) = asker(&raw);
    for block in some_blocks(16, 3000) {
        raw.write(framed(&payload(&block)), Then::Close);
    }
    raw.wait_for(&RawEvent::Disconnected);
    wait_for(&session, |event| {
        matches!(event, SessionEvent::PeerDisconnected { .. })
    });
    let later = node.client.session();
    later.add_provider(raw.peer);
    wait_for(&later, |event| {
        matches!(event, SessionEvent::PeerUnreachable { .. })
    });
}

#[test]
fn malformed_streams_are_reset() {
    const LENGTH: u64 = 100 * 1024 * 1024;
    let raw = Raw::new(NEWEST);
    let (_node, session) = asker(&raw);
    raw.write(varint(LENGTH), Then::Keep);
    raw.wait_for(&RawEvent::Ended);
    let source = MessageError::TooLong { length: LENGTH };
    expect_fault(&session, &Fault::Malformed { source });
    raw.write(framed(&field(4, b"")), Then::Keep);
    raw.wait_for(&RawEvent::Ended);
    let source = MessageError::InvalidCid;
    expect_fault(&session, &Fault::Malformed { source });
}

#[test]
fn silence_and_resets_within_messages_leave_other_peers_alone() {
    let blocks = some_blocks(20, 3000);
    let node = Node::holding(&blocks);
    let raw = Raw::new(NEWEST);
    raw.connect(&node);
    let half = [varint(1024 * 1024), vec![0; 1000]].concat();
    for then in [Then::Keep, Then::Reset, Then::Keep, Then::Reset] {
        raw.write(half.clone(), then);
    }
    raw.write(framed(&wants(&cids(&blocks[..1]))), Then::Close);
    assert!(contains(&raw.message(), blocks[0].data()));
    let other = Node::new();
    let session = other.session(&[&node]);
    assert_eq!(fetch(&session, &cids(&blocks), 20).len(), 20);
}

#[test]
fn a_million_wants_are_bounded() {
    let blocks = some_blocks(20, 3000);
    let node = Node::holding(&blocks);
    let raw = Raw::new(NEWEST);
    raw.connect(&node);
    let absent = cids(&some_blocks(1_000_000, 9));
    for part in absent.chunks(50_000) {
        raw.write(framed(&wants(part)), Then::Close);
    }
    let other = Node::new();
    let session = other.session(&[&node]);
    assert_eq!(fetch(&session, &cids(&blocks), 20).len(), 20);
    // The presence of kind "don't have".
    assert!(contains(&raw.message(), &[2 << 3, 1]));
}

#[test]
fn peers_that_do_not_read_cost_others_nothing() {
    let blocks = some_blocks(60, 1024 * 1024);
    let node = Node::holding(&blocks);
    let raw = Raw::deaf();
    raw.connect(&node);
    for _ in 0..5 {
        raw.write(framed(&wants(&cids(&blocks))), Then::Close);
    }
    let other = Node::new();
    let session = other.session(&[&node]);
    assert_eq!(fetch(&session, &cids(&blocks), 60).len(), 60);
}

/// Connections that would hold all that `budget` allows, and some more.
fn enough_for(budget: usize, each: usize) -> usize {
    budget / each + 2
}

/// Peers that begin a message of the largest size and come to no end with it.
fn crawlers(node: &Node, budget: usize, are_asked: bool) -> Vec<Raw> {
    let count = enough_for(budget, limits::MAX_MESSAGE_BYTES);
    let crawlers: Vec<_> = (0..count).map(|_| Raw::new(NEWEST)).collect();
    // Each is asked for one.
    let absent = cids(&some_blocks(count, 9));
    let session = node.client.session();
    for raw in &crawlers {
        raw.connect(node);
        if are_asked {
            session.add_provider(raw.peer);
        }
    }
    if are_asked {
        session.want(&absent);
        for raw in &crawlers {
            assert!(contains(&raw.message(), &absent[0].to_bytes()));
        }
    }
    let length = varint(limits::MAX_MESSAGE_BYTES as u64);
    for raw in &crawlers {
        raw.write([length.clone(), vec![0; 1000]].concat(), Then::Crawl);
        // What comes behind is heard: the large message was begun before.
        raw.write(framed(&wants(&absent)), Then::Close);
        raw.message();
    }
    crawlers
}

#[test]
fn unasked_peers_cannot_hold_up_asked_peers() {
    let blocks = some_blocks(8, 1024 * 1024);
    let node = Node::new();
    let crawlers = crawlers(&node, limits::MAX_UNASKED_BYTES, false);
    let provider = Node::holding(&blocks);
    let session = node.session(&[&provider]);
    assert_eq!(fetch(&session, &cids(&blocks), 8).len(), 8);
    drop(crawlers);
}

#[test]
fn peers_that_crawl_with_a_message_make_room_for_others() {
    let blocks = some_blocks(8, 1024 * 1024);
    let node = Node::new();
    let budget = limits::MAX_UNVERIFIED_BYTES - limits::MAX_UNASKED_BYTES;
    let crawlers = crawlers(&node, budget, true);
    let provider = Node::holding(&blocks);
    let session = node.session(&[&provider]);
    assert_eq!(fetch(&session, &cids(&blocks), 8).len(), 8);
    let is_ended = |raw: &Raw| match raw.try_next(Duration::from_millis(10)) {
        Some(event) => event == RawEvent::Ended,
        None => false,
    };
    let deadline = Instant::now() + PATIENCE;
    while !crawlers.iter().any(is_ended) {
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn peers_that_crawl_in_reading_cost_others_nothing() {
    const SIZE: usize = 2 * 1024 * 1024;
    let blocks = some_blocks(4, SIZE);
    let node = Node::holding(&blocks);
    let count = enough_for(limits::MAX_REPLY_BYTES_TOTAL, SIZE);
    let deaf: Vec<_> = (0..count).map(|_| Raw::deaf()).collect();
    for raw in &deaf {
        raw.connect(&node);
        raw.write(framed(&wants(&cids(&blocks))), Then::Close);
        raw.wait_for(&RawEvent::Opened);
    }
    let other = Node::new();
    let session = other.session(&[&node]);
    assert_eq!(fetch(&session, &cids(&blocks), 4).len(), 4);
}

#[test]
fn a_stream_for_each_message_is_read() {
    // Kubo's way: all at once, each closed behind its message.
    let blocks = some_blocks(limits::MAX_INBOUND_STREAMS, 3000);
    let raw = Raw::new(NEWEST);
    let (_node, session) = asker(&raw);
    session.want(&cids(&blocks));
    let mut asked = 0;
    while asked < blocks.len() {
        let message = raw.message();
        for block in &blocks {
            if contains(&message, &block.cid().to_bytes()) {
                raw.write(framed(&payload(block)), Then::Close);
                asked += 1;
            }
        }
    }
    for _ in &blocks {
        wait_for(&session, |event| {
            matches!(event, SessionEvent::Block { .. })
        });
    }
}

#[test]
fn several_messages_may_come_on_one_stream() {
    let blocks = some_blocks(3, 3000);
    let raw = Raw::new(NEWEST);
    let (_node, session) = asker(&raw);
    session.want(&cids(&blocks));
    raw.message();
    let messages: Vec<_> = blocks.iter().map(|block| framed(&payload(block))).collect();
    raw.write(messages.concat(), Then::Close);
    for block in &blocks {
        expect_block(&session, block);
    }
}

#[test]
fn older_versions_are_spoken() {
    let block = Block::new(cid::Version::V0, DAG_PB, Bytes::from(vec![1; 3000]));
    type Encode = fn(&Block) -> Vec<u8>;
    let versions: [(&'static str, Encode); 3] = [
        ("/ipfs/bitswap/1.1.0", payload),
        ("/ipfs/bitswap/1.0.0", bare_block),
        ("/ipfs/bitswap", bare_block),
    ];
    for (protocol, encode) in versions {
        let raw = Raw::new(protocol);
        let (node, session) = asker(&raw);
        session.want(&[*block.cid()]);
        assert!(
            contains(&raw.message(), &block.cid().to_bytes()),
            "{protocol}"
        );
        raw.write(framed(&encode(&block)), Then::Close);
        expect_block(&session, &block);

        // And the other way around.
        ipfs_exec_node::WriteBlocksExt::put(&*node.blocks, std::slice::from_ref(&block)).unwrap();
        raw.write(framed(&wants(&[*block.cid()])), Then::Close);
        let mut message = raw.message();
        // What was to be cancelled may come first.
        while !contains(&message, block.data()) {
            message = raw.message();
        }
        assert_eq!(message, encode(&block), "{protocol}");
    }
}

#[test]
fn older_peers_are_not_asked_for_presence() {
    let block = Block::new(cid::Version::V1, RAW, Bytes::from(vec![1; 3000]));
    let old = Raw::new("/ipfs/bitswap/1.1.0");
    let (node, session) = asker(&old);
    session.want(&[*block.cid()]);
    assert!(contains(&old.message(), &block.cid().to_bytes()));
    drop(session);
    // It now knows the version, and asks for nothing by presence.
    while old.try_next(Duration::from_millis(100)).is_some() {}
    let provider = Node::holding(std::slice::from_ref(&block));
    let session = node.session(&[&provider]);
    expect_block_after(&session, &block);
    assert!(old.try_next(Duration::from_millis(100)).is_none());
}

fn expect_block_after(session: &Session, block: &Block) {
    session.want(&[*block.cid()]);
    expect_block(session, block);
}
