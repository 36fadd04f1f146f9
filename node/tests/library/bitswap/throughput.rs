//! Speed of blocks on the way from one swarm to another, in one process.

use std::time::Instant;

use ipfs_exec_node::Cid;
use ipfs_exec_node::network::bitswap::{Session, SessionEvent};

use super::peers::{Node, PATIENCE, cids, some_blocks};

/// Fetches all and keeps nothing, as one that writes to disk.
fn take_all(session: &Session, cids: &[Cid], window: usize) {
    let mut left = cids.iter();
    let first: Vec<_> = left.by_ref().take(window).copied().collect();
    session.want(&first);
    let mut taken = 0;
    while taken < cids.len() {
        if let SessionEvent::Block { .. } = session.recv_timeout(PATIENCE).unwrap() {
            taken += 1;
            if let Some(next) = left.next() {
                session.want(&[*next]);
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "it prints what it measures")]
fn measure(count: usize, size: usize, window: usize) {
    let blocks = some_blocks(count, size);
    let provider = Node::holding(&blocks);
    let asker = Node::new();
    let session = asker.session(&[&provider]);
    let start = Instant::now();
    take_all(&session, &cids(&blocks), window);
    let elapsed = start.elapsed().as_secs_f64();
    println!(
        "{count} blocks of {size} bytes, {window} wants: {:.0} MB/s, {:.0} blocks/s",
        (count * size) as f64 / 1e6 / elapsed,
        count as f64 / elapsed,
    );
}

#[test]
#[ignore = "a measurement, to be run with --release --nocapture"]
fn throughput() {
    for _ in 0..3 {
        measure(4000, 256 * 1024, 64);
        measure(4000, 256 * 1024, 256);
        measure(100_000, 4096, 1024);
        measure(100_000, 4096, 4096);
    }
}
