//! Waiting for other processes, which an interruption ends.
//!
//! A lock on a file is waited for by a thread, since `flock` can neither be waited for together
//! with something else nor be relied on to return when a signal arrives. The thread tells through
//! a pipe that the lock is here. After an interruption it stays until the lock comes, and gives it
//! up at once.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::RepoError;
use crate::progress::Interruption;

/// How long a transaction waits for others. They last milliseconds; a minute of them means that
/// hundreds of processes write, or that one is stopped.
const BUSY_TIMEOUT: Duration = Duration::from_secs(120);

/// Pauses between attempts to begin a transaction, in milliseconds; the last one repeats. SQLite
/// has no event for the end of a transaction, and uses these itself.
const BUSY_PAUSES: [u64; 12] = [1, 2, 5, 10, 15, 20, 25, 25, 25, 50, 50, 100];

/// A kind of lock on a file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lock {
    Shared,
    Exclusive,
}

impl Lock {
    fn wait(self) -> FlockOperation {
        match self {
            Lock::Shared => FlockOperation::LockShared,
            Lock::Exclusive => FlockOperation::LockExclusive,
        }
    }

    fn no_wait(self) -> FlockOperation {
        match self {
            Lock::Shared => FlockOperation::NonBlockingLockShared,
            Lock::Exclusive => FlockOperation::NonBlockingLockExclusive,
        }
    }
}

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
        self.interruption.as_ref().is_some_and(|it| it.asked())
    }

    /// Locks the open `file`, which is at `path`.
    ///
    /// # Errors
    /// [`RepoError::Interrupted`] where another process holds a lock and the caller no longer wants
    /// to wait.
    pub(super) fn lock(&self, file: &File, lock: Lock, path: &Path) -> Result<(), RepoError> {
        if try_lock(file, lock, path)? {
            return Ok(());
        }
        let locked = match &self.interruption {
            None => lock_at_last(file, lock).map(|()| true),
            Some(interruption) => lock_unless_interrupted(file, lock, &**interruption),
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
            Ok(_) | Err(Errno::INTR) => !interruption.asked(),
            Err(error) => {
                tracing::debug!(%error, "cannot wait for the database");
                false
            }
        }
    }
}

/// Locks the open `file`, which is at `path`; false where another process holds a lock.
pub(super) fn try_lock(file: &File, lock: Lock, path: &Path) -> Result<bool, RepoError> {
    match flock(file, lock.no_wait()) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(RepoError::errno("lock", path)(errno)),
    }
}

fn lock_at_last(file: &File, lock: Lock) -> io::Result<()> {
    loop {
        match flock(file, lock.wait()) {
            Err(Errno::INTR) => {}
            outcome => return Ok(outcome?),
        }
    }
}

/// False where the interruption came first.
fn lock_unless_interrupted(
    file: &File,
    lock: Lock,
    interruption: &dyn Interruption,
) -> io::Result<bool> {
    let (done, finished) = io::pipe()?;
    let waiting = file.try_clone()?;
    let thread = thread::Builder::new()
        .name("repository-lock".to_owned())
        .spawn(move || {
            let outcome = lock_at_last(&waiting, lock);
            // The closed pipe tells that the lock is here.
            drop(finished);
            outcome
        })?;
    let mut events = [
        PollFd::from_borrowed_fd(done.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(interruption.descriptor(), PollFlags::IN),
    ];
    loop {
        match poll(&mut events, None) {
            Err(Errno::INTR) => {}
            outcome => _ = outcome?,
        }
        if !events[0].revents().is_empty() {
            break;
        }
        if interruption.asked() {
            return Ok(false);
        }
    }
    let outcome = thread
        .join()
        .map_err(|_| io::Error::other("the thread that waits for a lock panicked"))?;
    outcome.map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeReader, PipeWriter, Write};
    use std::os::fd::BorrowedFd;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Debug)]
    struct Flag {
        asked: AtomicBool,
        readable: PipeReader,
        writable: Mutex<PipeWriter>,
    }

    impl Flag {
        fn new() -> Arc<Flag> {
            let (readable, writable) = io::pipe().unwrap();
            Arc::new(Flag {
                asked: AtomicBool::new(false),
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
