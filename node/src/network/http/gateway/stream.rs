//! A DAG as one stream: the CAR in it, and whether it is worth reading on.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::time::Instant;

use super::permits;
use crate::block::Block;
use crate::car::{CarError, CarReader};
use crate::network::http::SLOWEST_BYTES_PER_SECOND;

/// A stream that brings nothing that is missing for this long, or so much more of other blocks, is left:
/// it is of other content, or of much that is here, and what is missing comes faster one by one.
pub(super) const STREAM_PATIENCE: Duration = Duration::from_secs(15);
const MAX_USELESS_BYTES: u64 = 64 << 20;

/// How often that is looked at.
const USEFULNESS_INTERVAL: Duration = Duration::from_millis(500);

/// For so many of these a reader judges nothing who is busy elsewhere.
const BUSY_INTERVALS: u32 = 3;

/// What became of the blocks that one stream brought, as its reader says.
#[derive(Debug, Default)]
pub struct Usefulness {
    /// Bytes that came, of any kind.
    received: AtomicU64,
    /// Bytes of all blocks that came.
    given: AtomicU64,
    /// Of blocks that were missing.
    useful: AtomicU64,
    /// And of others: of blocks that nobody asked for, or that are here.
    useless: AtomicU64,
}

impl Usefulness {
    /// A part of the stream came.
    pub(super) fn receive(&self, piece: &Bytes) {
        self.received
            .fetch_add(piece.len() as u64, Ordering::Relaxed);
    }

    /// A block came, and is to be judged.
    pub(super) fn give(&self, block: &Block) {
        self.given
            .fetch_add(permits(block).into(), Ordering::Relaxed);
    }

    /// A block of the stream was missing or not.
    pub fn judge(&self, block: &Block, was_missing: bool) {
        let bytes = match was_missing {
            true => &self.useful,
            false => &self.useless,
        };
        bytes.fetch_add(permits(block).into(), Ordering::Relaxed);
    }

    /// Ends when the stream has brought nothing that was missing for as long as `patience`, or far too
    /// much beside it. A large block may take twice as long while it comes steadily. Time does not count
    /// before anything has come, nor while the reader has something to judge: he may be busy elsewhere.
    pub(super) async fn ends(&self, patience: Duration) {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        // When something that was missing came last, and all that had come by then.
        let (mut since, mut then) = (Instant::now(), Came::default());
        let (mut last, mut intervals_unread) = (Came::default(), 0);
        loop {
            tokio::time::sleep(USEFULNESS_INTERVAL).await;
            let now = Came {
                received: load(&self.received),
                useful: load(&self.useful),
                useless: load(&self.useless),
            };
            if now.useless > now.useful + MAX_USELESS_BYTES {
                return;
            }
            let is_unread = load(&self.given) > now.judged() && now.judged() == last.judged();
            intervals_unread = if is_unread { intervals_unread + 1 } else { 0 };
            last = now;
            if now.useful > then.useful || now.received == 0 || intervals_unread >= BUSY_INTERVALS {
                (since, then) = (Instant::now(), now);
                continue;
            }
            let waited = since.elapsed();
            let rate = (now.received - then.received) as f64 / waited.as_secs_f64();
            let is_arriving = now.useless == then.useless && rate >= SLOWEST_BYTES_PER_SECOND;
            if waited >= patience * if is_arriving { 2 } else { 1 } {
                return;
            }
        }
    }
}

/// Bytes that have come.
#[derive(Clone, Copy, Default)]
struct Came {
    received: u64,
    useful: u64,
    useless: u64,
}

impl Came {
    fn judged(&self) -> u64 {
        self.useful + self.useless
    }
}

/// Takes a block of a stream; false where no more are wanted.
pub(super) trait Take: Fn(Block, &Arc<Usefulness>) -> bool + Clone + Send + 'static {}
impl<F: Fn(Block, &Arc<Usefulness>) -> bool + Clone + Send + 'static> Take for F {}

/// Reads the CAR that comes by `pieces`, giving each block to `take`, until it says false.
pub(super) fn read_car(
    pieces: tokio::sync::mpsc::Receiver<Bytes>,
    take: &impl Fn(Block) -> bool,
) -> Result<(), CarError> {
    let mut car = CarReader::new(Pieces {
        pieces,
        current: Bytes::new(),
    })?;
    while let Some(block) = car.next_block()? {
        if !take(block) {
            break;
        }
    }
    Ok(())
}

/// Pieces of a stream, read as one.
struct Pieces {
    pieces: tokio::sync::mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::RAW;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn block(bytes: usize) -> Block {
        Block::new(cid::Version::V1, RAW, vec![0; bytes].into())
    }

    /// After how many seconds a stream is left to which `step` happens every second.
    async fn seconds(step: impl Fn(&Usefulness, u64)) -> Option<u64> {
        let stream = Usefulness::default();
        let begun = Instant::now();
        let mut end = std::pin::pin!(stream.ends(PATIENCE));
        for second in 0..100 {
            step(&stream, second);
            let second = tokio::time::sleep(Duration::from_secs(1));
            tokio::select! {
                () = &mut end => return Some(begun.elapsed().as_secs()),
                () = second => {}
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_left_when_it_brings_nothing() {
        let (small, large) = (block(10), block(1 << 20));
        let give = |stream: &Usefulness, block: &Block, was_missing| {
            stream.receive(block.data());
            stream.give(block);
            stream.judge(block, was_missing);
        };
        assert_eq!(seconds(|_, _| ()).await, None, "not begun");
        let silent = |stream: &Usefulness, second| {
            if second == 0 {
                stream.receive(&Bytes::from_static(b"the first"));
            }
        };
        assert_eq!(seconds(silent).await, Some(5), "silent");
        let arriving = |stream: &Usefulness, _| stream.receive(&vec![0; 50_000].into());
        assert_eq!(
            seconds(arriving).await,
            Some(10),
            "a block that comes slowly"
        );
        let others = |stream: &Usefulness, _| give(stream, &small, false);
        assert_eq!(seconds(others).await, Some(5), "of other blocks");
        let unjudged = |stream: &Usefulness, second| {
            if second > 0 {
                stream.judge(&small, false);
            }
            stream.receive(small.data());
            stream.give(&small);
        };
        let left = seconds(unjudged).await;
        assert_eq!(
            left,
            Some(5),
            "of other blocks, the last of them not judged"
        );
        let flood = |stream: &Usefulness, _| {
            (0..40).for_each(|_| give(stream, &large, false));
            // There is always more than the reader has judged.
            stream.give(&large);
        };
        assert_eq!(seconds(flood).await, Some(1), "a flood");
        let slow = |stream: &Usefulness, second: u64| {
            if second.is_multiple_of(4) {
                give(stream, &small, true);
            }
        };
        assert_eq!(seconds(slow).await, None, "slow");
        let mixed = |stream: &Usefulness, _| {
            give(stream, &large, true);
            give(stream, &large, false);
        };
        assert_eq!(seconds(mixed).await, None, "half of it is here");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_is_busy_elsewhere_keeps_its_stream() {
        let block = block(1 << 20);
        let unread = |stream: &Usefulness, second| match second {
            0 => {
                stream.receive(block.data());
                stream.give(&block);
            }
            50 => stream.judge(&block, true),
            _ => {}
        };
        assert_eq!(seconds(unread).await, Some(55));
    }
}
