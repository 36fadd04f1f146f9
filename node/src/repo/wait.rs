//! Waiting for other processes, which an interruption ends.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::RepoError;
pub(super) use crate::lock::Lock;
use crate::lock::{self, Patience, lock_patiently};
use crate::progress::Interruption;

/// How long a transaction waits for others. They last milliseconds; a minute of them means that
/// hundreds of processes write, or that one is stopped.
const BUSY_TIMEOUT: Duration = Duration::from_secs(120);

/// Pauses between attempts to begin a transaction, in milliseconds; the last one repeats. SQLite
/// has no event for the end of a transaction, and uses these itself.
const BUSY_PAUSES: [u64; 12] = [1, 2, 5, 10, 15, 20, 25, 25, 25, 50, 50, 100];

/// How one repository waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    interruption: Option<Arc<dyn Interruption>>,
}

impl Waiting {
    pub(super) fn new(interruption: Option<Arc<dyn Interruption>>) -> Waiting {
        Waiting { interruption }
    }

    /// Whether the caller no longer wants to wait.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interruption.as_deref().is_some_and(is_over)
    }

    /// Locks the open `file`, which is at `path`.
    ///
    /// # Errors
    /// [`RepoError::Interrupted`] where another process holds a lock and the caller no longer wants
    /// to wait.
    pub(super) fn lock(&self, file: &File, lock: Lock, path: &Path) -> Result<(), RepoError> {
        let locked = match &self.interruption {
            None => lock::lock(file, lock).map(|()| true),
            Some(interruption) => {
                let patience = Patience {
                    cancel: Some(interruption.descriptor()),
                    is_over: &|| is_over(&**interruption),
                    deadline: interruption.deadline(),
                };
                lock_patiently(file, lock, patience)
            }
        };
        match locked {
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

    /// Lets `duration` pass; false where an interruption comes first.
    fn pause(&self, duration: Duration) -> bool {
        let Some(interruption) = &self.interruption else {
            thread::sleep(duration);
            return true;
        };
        let Ok(timeout) = Timespec::try_from(duration) else {
            return false;
        };
        let mut events = [PollFd::from_borrowed_fd(
            interruption.descriptor(),
            PollFlags::IN,
        )];
        match poll(&mut events, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => !is_over(&**interruption),
            Err(error) => {
                tracing::debug!(%error, "cannot wait for the database");
                false
            }
        }
    }
}

fn is_over(interruption: &dyn Interruption) -> bool {
    let has_passed = |deadline| Instant::now() >= deadline;
    interruption.asked() || interruption.deadline().is_some_and(has_passed)
}

/// Locks the open `file`, which is at `path`; false where another process holds a lock.
pub(super) fn try_lock(file: &File, lock: Lock, path: &Path) -> Result<bool, RepoError> {
    lock::try_lock(file, lock).map_err(RepoError::io("lock", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, PipeReader, PipeWriter, Write};
    use std::os::fd::{AsFd, BorrowedFd};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Debug)]
    struct Flag {
        asked: AtomicBool,
        deadline: Option<Instant>,
        readable: PipeReader,
        writable: Mutex<PipeWriter>,
    }

    impl Flag {
        fn new() -> Arc<Flag> {
            let (readable, writable) = io::pipe().unwrap();
            Arc::new(Flag {
                asked: AtomicBool::new(false),
                deadline: None,
                readable,
                writable: Mutex::new(writable),
            })
        }

        fn ask(&self) {
            self.asked.store(true, Ordering::Relaxed);
            self.writable.lock().unwrap().write_all(b"x").unwrap();
        }
    }

    impl Interruption for Flag {
        fn asked(&self) -> bool {
            self.asked.load(Ordering::Relaxed)
        }

        fn deadline(&self) -> Option<Instant> {
            self.deadline
        }

        fn descriptor(&self) -> BorrowedFd<'_> {
            self.readable.as_fd()
        }
    }

    #[test]
    fn a_lock_comes_when_its_holder_goes() {
        let place = tempfile::tempdir().unwrap();
        for waiting in [Waiting::default(), Waiting::new(Some(Flag::new()))] {
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
        let flag = Flag::new();
        let waiting = Waiting::new(Some(flag.clone()));
        let outcome = thread::scope(|scope| {
            let waits = scope.spawn(|| waiting.lock(&open(), Lock::Shared, place.path()));
            flag.ask();
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
        let flag = Arc::into_inner(Flag::new()).unwrap();
        let waiting = Waiting::new(Some(Arc::new(Flag {
            deadline: Some(Instant::now()),
            ..flag
        })));
        let outcome = waiting.lock(&open(), Lock::Shared, place.path());
        assert!(matches!(outcome, Err(RepoError::Interrupted { .. })));
        assert!(!waiting.busy_handler()(0));
    }

    #[test]
    fn an_interruption_ends_the_wait_for_a_database() {
        let flag = Flag::new();
        let mut handler = Waiting::new(Some(flag.clone())).busy_handler();
        assert!(handler(0) && handler(1) && handler(i32::MAX));
        flag.ask();
        assert!(!handler(2));
        let mut patient = Waiting::default().busy_handler();
        assert!(patient(0) && patient(1));
    }
}
