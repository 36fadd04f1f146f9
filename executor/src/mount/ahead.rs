//! A queue of blocks that reader threads read before the kernel requests them.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use ipfs_exec_node::Cid;

/// Blocks that may wait. Those that are too many are read when they are asked for.
const MAX_WAITING: usize = 256;

/// The blocks that are to be read ahead.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Cid>,
    /// Those of them that came last, and that nobody was told of.
    new: Vec<Cid>,
    has_ended: bool,
}

impl Ahead {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, blocks: impl Iterator<Item = Cid>) {
        let mut state = self.lock();
        let room = MAX_WAITING.saturating_sub(state.waiting.len());
        let new: Vec<Cid> = blocks.take(room).collect();
        state.waiting.extend(&new);
        state.new.extend(new);
        drop(state);
        self.changed.notify_all();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lock().has_ended
    }

    /// Waits for the next one; none at the end. With it come those that nobody was given before, to be
    /// asked for together where that takes time.
    pub(super) fn next(&self) -> Option<(Cid, Vec<Cid>)> {
        let mut state = self.lock();
        loop {
            if state.has_ended {
                return None;
            }
            if let Some(next) = state.waiting.pop_front() {
                return Some((next, std::mem::take(&mut state.new)));
            }
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn end(&self) {
        self.lock().has_ended = true;
        self.changed.notify_all();
    }
}
