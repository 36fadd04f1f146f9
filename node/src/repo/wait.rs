//! Waiting for other processes, which an interruption ends.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use super::RepoError;
use crate::cancel::Cancel;
pub(super) use crate::lock::Lock;
use crate::lock::{self, lock_while};

/// How long a transaction waits for others. They last milliseconds; a minute of them means that
/// hundreds of processes write, or that one is stopped.
const BUSY_TIMEOUT: Duration = Duration::from_secs(120);

/// Pauses between attempts to begin a transaction, in milliseconds; the last one repeats. SQLite
/// has no event for the end of a transaction, and uses these itself.
const BUSY_PAUSES: [u64; 12] = [1, 2, 5, 10, 15, 20, 25, 25, 25, 50, 50, 100];

/// How one repository waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    cancel: Cancel,
}

impl Waiting {
    pub(super) fn new(cancel: Cancel) -> Waiting {
        Waiting { cancel }
    }

    /// Whether the caller no longer wants to wait.
    pub(super) fn is_interrupted(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Locks the open `file`, which is at `path`.
    ///
    /// # Errors
    /// [`RepoError::Interrupted`] where another process holds a lock and the caller no longer wants
    /// to wait.
    pub(super) fn lock(&self, file: &File, lock: Lock, path: &Path) -> Result<(), RepoError> {
        match lock_while(file, lock, &self.cancel) {
            Ok(true) => Ok(()),
            Ok(false) => Err(RepoError::Interrupted {
                path: path.to_owned(),
            }),
            Err(error) => Err(RepoError::io("lock", path)(error)),
        }
    }

    /// What SQLite calls where another process holds the database: false to give up.
    pub(super) fn busy_handler(&self) -> impl FnMut(i32) -> bool + Send + 'static {
        let waiting = self.clone();
        let mut began = Instant::now();
        move |attempt| {
            if attempt == 0 {
                began = Instant::now();
            }
            let last = BUSY_PAUSES.len() - 1;
            let pause = BUSY_PAUSES[usize::try_from(attempt).unwrap_or(last).min(last)];
            began.elapsed() < BUSY_TIMEOUT && waiting.pause(Duration::from_millis(pause))
        }
    }

    /// Lets `duration` pass; false if an interruption comes first.
    fn pause(&self, duration: Duration) -> bool {
        self.cancel.sleep(duration).unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot wait for the database");
            false
        })
    }
}

/// Locks the open `file`, which is at `path`; false where another process holds a lock.
pub(super) fn try_lock(file: &File, lock: Lock, path: &Path) -> Result<bool, RepoError> {
    lock::try_lock(file, lock).map_err(RepoError::io("lock", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::{CancelSource, NEVER};
    use std::thread;

    #[test]
    fn a_lock_comes_when_its_holder_goes() {
        let place = tempfile::tempdir().unwrap();
        let source = CancelSource::new().unwrap();
        for waiting in [Waiting::default(), Waiting::new(source.token())] {
            let open = || File::open(place.path()).unwrap();
            let (holder, waiter) = (open(), open());
            waiting
                .lock(&holder, Lock::Exclusive, place.path())
                .unwrap();
            assert!(!try_lock(&waiter, Lock::Shared, place.path()).unwrap());
            thread::scope(|scope| {
                let waits = scope.spawn(|| waiting.lock(&waiter, Lock::Shared, place.path()));
                drop(holder);
                waits.join().unwrap().unwrap();
            });
            assert!(try_lock(&open(), Lock::Shared, place.path()).unwrap());
            assert!(!try_lock(&open(), Lock::Exclusive, place.path()).unwrap());
        }
    }

    #[test]
    fn an_interruption_ends_the_wait_for_a_lock() {
        let place = tempfile::tempdir().unwrap();
        let open = || File::open(place.path()).unwrap();
        let holder = open();
        assert!(try_lock(&holder, Lock::Exclusive, place.path()).unwrap());
        let source = CancelSource::new().unwrap();
        let waiting = Waiting::new(source.token());
        let outcome = thread::scope(|scope| {
            let waits = scope.spawn(|| waiting.lock(&open(), Lock::Shared, place.path()));
            source.cancel();
            waits.join().unwrap()
        });
        assert!(matches!(outcome, Err(RepoError::Interrupted { .. })));
        // What is free is still taken, so that the work can be cleaned up.
        drop(holder);
        waiting.lock(&open(), Lock::Shared, place.path()).unwrap();
    }

    /// A limit of time for everything did not bound the wait for another process.
    #[test]
    fn a_wait_ends_at_its_deadline() {
        let place = tempfile::tempdir().unwrap();
        let open = || File::open(place.path()).unwrap();
        let holder = open();
        assert!(try_lock(&holder, Lock::Exclusive, place.path()).unwrap());
        let waiting = Waiting::new(NEVER.until(Some(Instant::now())));
        let outcome = waiting.lock(&open(), Lock::Shared, place.path());
        assert!(matches!(outcome, Err(RepoError::Interrupted { .. })));
        assert!(!waiting.busy_handler()(0));
    }

    #[test]
    fn an_interruption_ends_the_wait_for_a_database() {
        let source = CancelSource::new().unwrap();
        let mut handler = Waiting::new(source.token()).busy_handler();
        assert!(handler(0) && handler(1) && handler(i32::MAX));
        source.cancel();
        assert!(!handler(2));
        let mut patient = Waiting::default().busy_handler();
        assert!(patient(0) && patient(1));
    }
}
