//! How fast blocks go from one swarm to another, in one process.

use std::time::Instant;

use super::peers::{Node, cids, fetch, some_blocks};

fn measure(count: usize, size: usize, window: usize) {
    let blocks = some_blocks(count, size);
    let provider = Node::holding(&blocks);
    let asker = Node::new();
    let session = asker.session(&[&provider]);
    let start = Instant::now();
    let got = fetch(&session, &cids(&blocks), window);
    let elapsed = start.elapsed().as_secs_f64();
    assert_eq!(got.len(), count);
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
