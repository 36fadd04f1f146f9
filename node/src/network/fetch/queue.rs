//! Queue of the blocks of a DAG that are still to be fetched, in order.
//!
//! The order is depth first, and the first of several siblings comes first. So the blocks of a file
//! arrive about in the order in which they are read. Up to one window of blocks is on its way at a time.

use std::collections::HashMap;

use crate::block::{Cid, Multihash};
use crate::dag::Seen;
use crate::limits;

/// Blocks on their way at a time: enough that peers are never without work where blocks are small.
const MAX_WINDOW_BLOCKS: usize = 1024;

/// Their bytes, as far as they can be guessed: the round trip of a slow line times its rate.
const MAX_WINDOW_BYTES: u64 = 32 << 20;

/// Guessed size of a block that nothing is known of: the chunk size of most files.
const USUAL_BLOCK_BYTES: u64 = 256 << 10;

/// Links that wait to be followed, each about 200 bytes. Above it only one block at a time is
/// fetched, the deepest first, which lets the number shrink.
const MAX_WAITING: usize = 128 * 1024;

/// A block to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) cid: Cid,
    /// Blocks above it.
    pub(super) depth: usize,
    /// Bytes of it and all below, as its link says; 0 where it does not say.
    pub(super) size: u64,
    /// Whether what it links to is fetched as well.
    pub(super) deep: bool,
}

impl Task {
    /// A block with all below it.
    pub(super) fn root(cid: Cid) -> Task {
        Task {
            cid,
            depth: 0,
            size: 0,
            deep: true,
        }
    }

    fn guessed_bytes(&self) -> u64 {
        match self.size {
            0 => USUAL_BLOCK_BYTES,
            size => size.min(limits::MAX_BLOCK_BYTES as u64),
        }
    }
}

/// The tasks of one fetch.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The last is next.
    waiting: Vec<Task>,
    /// Of deep tasks: what was taken alone may still be asked for with all below it.
    seen: Seen,
    /// By hash, since one block may be asked for under several CIDs.
    under_way: HashMap<Multihash, UnderWay>,
    window_bytes: u64,
    /// Blocks that were asked for.
    asked: u64,
}

/// A block that was asked for.
#[derive(Debug)]
struct UnderWay {
    tasks: Vec<Task>,
    /// How many were before it.
    order: u64,
}

impl Queue {
    /// Puts tasks before all others, the first of them first.
    pub(super) fn push(&mut self, tasks: impl DoubleEndedIterator<Item = Task>) {
        self.waiting.extend(tasks.rev());
    }

    /// Takes the next task, if there is room for it; none that is deep twice.
    pub(super) fn pop(&mut self) -> Option<Task> {
        while self.has_room() {
            let task = self.waiting.pop()?;
            if !task.deep || self.seen.insert(&task.cid) {
                return Some(task);
            }
        }
        None
    }

    fn has_room(&self) -> bool {
        let blocks = if self.waiting.len() > MAX_WAITING {
            1
        } else {
            MAX_WINDOW_BLOCKS
        };
        self.under_way.len() < blocks && self.window_bytes < MAX_WINDOW_BYTES
    }

    /// Notes that `task` was asked for; false where its block was already.
    pub(super) fn begin(&mut self, task: Task) -> bool {
        if task.deep {
            self.seen.insert(&task.cid);
        }
        let under_way = self.under_way.entry(*task.cid.hash());
        let under_way = under_way.or_insert_with(|| UnderWay {
            tasks: Vec::new(),
            order: self.asked,
        });
        under_way.tasks.push(task);
        let first = under_way.tasks.len() == 1;
        if first {
            self.asked += 1;
            self.window_bytes += task.guessed_bytes();
        }
        first
    }

    /// How many blocks were asked for before this one, if it is on its way.
    pub(super) fn order(&self, hash: &Multihash) -> Option<u64> {
        self.under_way.get(hash).map(|under_way| under_way.order)
    }

    /// Notes that a block came, or will not; gives what it was asked for as.
    pub(super) fn end(&mut self, hash: &Multihash) -> Vec<Task> {
        let under_way = self.under_way.remove(hash);
        let tasks = under_way.map_or_else(Vec::new, |under_way| under_way.tasks);
        if let Some(first) = tasks.first() {
            self.window_bytes -= first.guessed_bytes();
        }
        tasks
    }

    /// Whether the block is on its way.
    pub(super) fn is_under_way(&self, hash: &Multihash) -> bool {
        self.under_way.contains_key(hash)
    }

    /// The blocks that are on their way.
    pub(super) fn under_way(&self) -> impl Iterator<Item = Cid> {
        let under_way = self.under_way.values();
        under_way.filter_map(|block| block.tasks.first().map(|task| task.cid))
    }

    /// Whether the block is on its way with all below it.
    pub(super) fn is_deep(&self, hash: &Multihash) -> bool {
        let under_way = self.under_way.get(hash);
        under_way.is_some_and(|block| block.tasks.iter().any(|task| task.deep))
    }

    /// Whether nothing is left to be done.
    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Block, RAW};

    fn task(number: u64, size: u64) -> Task {
        let data = number.to_be_bytes().to_vec().into();
        Task {
            cid: *Block::new(cid::Version::V1, RAW, data).cid(),
            depth: 0,
            size,
            deep: true,
        }
    }

    #[test]
    fn siblings_come_in_order_and_children_before_them() {
        let mut queue = Queue::default();
        queue.push([task(1, 1), task(2, 1)].into_iter());
        assert_eq!(queue.pop(), Some(task(1, 1)));
        queue.push([task(3, 1), task(4, 1)].into_iter());
        let rest: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(rest, [task(3, 1), task(4, 1), task(2, 1)]);
    }

    #[test]
    fn a_block_fetched_alone_is_fetched_again_with_its_dag() {
        let mut queue = Queue::default();
        let deep = task(1, 1);
        let alone = Task {
            deep: false,
            ..deep
        };
        assert!(queue.begin(alone));
        queue.end(deep.cid.hash());
        queue.push([deep, deep].into_iter());
        assert_eq!(queue.pop(), Some(deep));
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn nothing_comes_twice() {
        let mut queue = Queue::default();
        queue.push([task(1, 1), task(1, 1)].into_iter());
        assert!(queue.pop().is_some() && queue.pop().is_none());
        assert!(queue.begin(task(1, 1)));
        assert!(!queue.begin(task(1, 1)));
        assert_eq!(queue.end(task(1, 1).cid.hash()).len(), 2);
        assert!(queue.end(task(1, 1).cid.hash()).is_empty());
        assert!(queue.is_done());
    }

    #[test]
    fn the_window_is_bounded_by_blocks_and_by_bytes() {
        for (size, wanted) in [
            (100, MAX_WINDOW_BLOCKS),
            (0, (MAX_WINDOW_BYTES / USUAL_BLOCK_BYTES) as usize),
            (u64::MAX, (MAX_WINDOW_BYTES >> 21) as usize),
        ] {
            let mut queue = Queue::default();
            queue.push((0..5000).map(|number| task(number, size)));
            let mut count = 0;
            while let Some(task) = queue.pop() {
                queue.begin(task);
                count += 1;
            }
            assert_eq!(count, wanted, "blocks of {size}");
            queue.end(task(0, size).cid.hash());
            assert!(queue.pop().is_some(), "what came makes room");
        }
    }

    #[test]
    fn where_too_much_waits_one_block_at_a_time_is_fetched() {
        let mut queue = Queue::default();
        queue.push((0..=MAX_WAITING as u64 + 1).map(|number| task(number, 1)));
        let first = queue.pop().unwrap();
        queue.begin(first);
        assert_eq!(queue.pop(), None);
    }
}
