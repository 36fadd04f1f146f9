//! Threads that work on one stack of tasks.
//!
//! The newest task is taken first. So the depth of the walked tree bounds the number of pending tasks,
//! and its width does not.

use std::ops::ControlFlow;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::threads::start_some;

/// What the threads share.
struct Shared<T, E> {
    state: Mutex<Pool<T, E>>,
    changed: Condvar,
}

struct Pool<T, E> {
    stack: Vec<T>,
    /// Tasks being performed, which may stack more.
    active: usize,
    outcome: ControlFlow<E>,
}

/// Performs `first` and whatever tasks follow from it, on all cores. `perform` stacks what follows
/// from a task so that the last pushed is taken first.
///
/// # Errors
/// The first of `perform`; tasks that were not begun by then are dropped.
pub(super) fn run<T: Send, E: Send>(
    first: T,
    perform: &(impl Fn(T, &mut Vec<T>) -> Result<(), E> + Sync),
) -> Result<(), E> {
    let pool = Pool {
        stack: vec![first],
        active: 0,
        outcome: ControlFlow::Continue(()),
    };
    let shared = Shared {
        state: Mutex::new(pool),
        changed: Condvar::new(),
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        // This thread works as well.
        if let Err(error) = start_some(scope, threads - 1, || || shared.work(perform)) {
            tracing::debug!(%error, "one thread does all");
        }
        shared.work(perform);
    });
    match shared
        .state
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .outcome
    {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

impl<T, E> Shared<T, E> {
    /// Takes tasks until none is left or one has failed.
    fn work(&self, perform: &impl Fn(T, &mut Vec<T>) -> Result<(), E>) {
        let mut follow = Vec::new();
        while let Some(task) = self.take() {
            let outcome = perform(task, &mut follow);
            self.put_back(&mut follow, outcome);
        }
    }

    fn take(&self) -> Option<T> {
        let mut pool = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if pool.outcome.is_break() {
                return None;
            }
            if let Some(task) = pool.stack.pop() {
                pool.active += 1;
                return Some(task);
            }
            if pool.active == 0 {
                return None;
            }
            pool = self
                .changed
                .wait(pool)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn put_back(&self, follow: &mut Vec<T>, outcome: Result<(), E>) {
        let mut pool = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        pool.active -= 1;
        pool.stack.append(follow);
        if let (Err(error), ControlFlow::Continue(())) = (outcome, &pool.outcome) {
            pool.outcome = ControlFlow::Break(error);
        }
        if pool.active == 0 || !pool.stack.is_empty() || pool.outcome.is_break() {
            self.changed.notify_all();
        }
    }
}
