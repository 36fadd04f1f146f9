//! Cancellation: long work ends before it is done, because its result is no longer wanted.
//!
//! The owner of some work keeps a [`CancelSource`] and gives out its [`Cancel`]s. The work asks
//! [`Cancel::is_cancelled`] at points where it can end with nothing half made. Where it waits for something
//! else, it polls [`Cancel::descriptors`] as well, or uses [`Cancel::sleep`] and [`Cancel::wait_readable`].

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;

/// Never cancelled.
pub static NEVER: Cancel = Cancel {
    signals: Vec::new(),
    deadline: None,
};

/// Whether work is to end before it is done. Clones tell the same.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    /// Each of them cancels the work.
    signals: Vec<Arc<Signal>>,
    deadline: Option<Instant>,
}

/// Cancels work, from any thread.
#[derive(Debug)]
pub struct CancelSource {
    signal: Arc<Signal>,
    writable: PipeWriter,
}

#[derive(Debug)]
struct Signal {
    is_set: Arc<AtomicBool>,
    /// Holds a byte once it is set.
    readable: PipeReader,
}

impl Cancel {
    /// Whether the work is to end.
    pub fn is_cancelled(&self) -> bool {
        self.is_requested() || self.deadline.is_some_and(|end| Instant::now() >= end)
    }

    /// Whether the owner of the work asked for its end. A deadline that has passed does not count.
    pub fn is_requested(&self) -> bool {
        let mut signals = self.signals.iter();
        signals.any(|signal| signal.is_set.load(Ordering::Acquire))
    }

    /// Whether nothing can cancel the work.
    pub fn is_never(&self) -> bool {
        self.signals.is_empty() && self.deadline.is_none()
    }

    /// When the work is to end in any case.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The same, for work that is to end at `deadline`, too.
    #[must_use]
    pub fn until(&self, deadline: Option<Instant>) -> Cancel {
        Cancel {
            signals: self.signals.clone(),
            deadline: [self.deadline, deadline].into_iter().flatten().min(),
        }
    }

    /// For work that ends as soon as one of the two is cancelled.
    #[must_use]
    pub fn or(&self, other: &Cancel) -> Cancel {
        let mut both = self.until(other.deadline);
        both.signals.extend(other.signals.iter().cloned());
        both
    }

    /// Become readable as soon as the end is asked for, and stay so. Waiting code polls them, and never reads
    /// them. They do not tell of the deadline.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.signals.iter().map(|signal| signal.readable.as_fd())
    }

    /// Lets `duration` pass; false if the work is to end, which ends the wait.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn sleep(&self, duration: Duration) -> io::Result<bool> {
        let passed = Instant::now().checked_add(duration);
        self.until(passed).poll(&mut Vec::new())?;
        Ok(!self.is_cancelled())
    }

    /// Waits until `descriptor` is readable or closed; false if the work is to end before.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn wait_readable(&self, descriptor: impl AsFd) -> io::Result<bool> {
        let mut events = vec![PollFd::from_borrowed_fd(descriptor.as_fd(), PollFlags::IN)];
        self.poll(&mut events)?;
        Ok(!events[0].revents().is_empty())
    }

    /// Waits for one of `events`, or until the work is to end.
    fn poll<'e>(&'e self, events: &mut Vec<PollFd<'e>>) -> io::Result<()> {
        let watched = self.descriptors();
        events.extend(watched.map(|signal| PollFd::from_borrowed_fd(signal, PollFlags::IN)));
        loop {
            let left = |end: Instant| end.saturating_duration_since(Instant::now());
            let timeout = self.deadline.map(left).map(Timespec::try_from).transpose();
            match poll(events, timeout.map_err(io::Error::other)?.as_ref()) {
                Err(Errno::INTR) if self.is_cancelled() => return Ok(()),
                Err(Errno::INTR) => {}
                // The longest time that the system can wait may be shorter than the one to wait.
                Ok(0) if !self.is_cancelled() => {}
                outcome => return Ok(outcome.map(drop)?),
            }
        }
    }
}

impl CancelSource {
    /// One that has not cancelled anything.
    ///
    /// # Errors
    /// Those of pipe(2).
    pub fn new() -> io::Result<CancelSource> {
        let (readable, writable) = io::pipe()?;
        fcntl_setfl(&readable, OFlags::NONBLOCK)?;
        fcntl_setfl(&writable, OFlags::NONBLOCK)?;
        let is_set = Arc::default();
        Ok(CancelSource {
            signal: Arc::new(Signal { is_set, readable }),
            writable,
        })
    }

    /// What the work gets.
    pub fn token(&self) -> Cancel {
        Cancel {
            signals: vec![Arc::clone(&self.signal)],
            deadline: None,
        }
    }

    /// Cancels the work.
    pub fn cancel(&self) {
        if self.signal.is_set.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Err(error) = (&self.writable).write_all(&[0]) {
            tracing::debug!(%error, "the pipe of a cancellation is full");
        }
    }

    /// Takes the cancellation back. Work that has seen it may have ended.
    pub fn reset(&self) {
        self.signal.is_set.store(false, Ordering::Release);
        let mut bytes = [0; 64];
        loop {
            match (&self.signal.readable).read(&mut bytes) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// For a handler of signals, which cancels by setting the flag first and then writing a byte to the
    /// descriptor. Neither can block.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn handles(&self) -> io::Result<(Arc<AtomicBool>, OwnedFd)> {
        let writable = self.writable.try_clone()?;
        Ok((Arc::clone(&self.signal.is_set), writable.into()))
    }
}

/// Becomes readable when it cancels. It is never read.
impl AsFd for CancelSource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signal.readable.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_token_tells_what_its_source_says() {
        let source = CancelSource::new().unwrap();
        let token = source.token();
        assert!(!token.is_cancelled() && !NEVER.is_cancelled());
        source.cancel();
        source.cancel();
        assert!(token.is_cancelled() && token.is_requested() && source.token().is_cancelled());
        assert!(!token.sleep(LONG).unwrap());
        source.reset();
        assert!(!token.is_cancelled());
        assert!(token.sleep(Duration::from_millis(1)).unwrap());
        source.cancel();
        assert!(!token.sleep(LONG).unwrap());
    }

    #[test]
    fn a_deadline_cancels_without_a_request() {
        let now = Instant::now();
        let (early, late) = (Some(now), Some(now + LONG));
        for token in [
            NEVER.until(early).until(late),
            NEVER.until(late).until(early),
            NEVER.until(early).or(&NEVER),
            NEVER.until(late).or(&NEVER.until(early)),
        ] {
            assert_eq!(token.deadline(), early);
            assert!(token.is_cancelled() && !token.is_requested());
            assert!(!token.sleep(LONG).unwrap());
        }
        assert!(!NEVER.until(late).is_cancelled() && !NEVER.until(None).is_cancelled());
    }

    #[test]
    fn either_of_two_cancels() {
        let sources = [CancelSource::new().unwrap(), CancelSource::new().unwrap()];
        let either = sources[0].token().or(&sources[1].token());
        for source in sources {
            assert!(!either.is_cancelled());
            source.cancel();
            assert!(either.is_cancelled());
            source.reset();
        }
    }

    #[test]
    fn a_wait_ends_by_what_comes_first() {
        let source = CancelSource::new().unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        assert!(
            !source
                .token()
                .until(Some(Instant::now()))
                .wait_readable(&reader)
                .unwrap()
        );
        let token = source.token();
        thread::scope(|scope| {
            let waits = scope.spawn(|| token.wait_readable(&reader).unwrap());
            source.cancel();
            assert!(!waits.join().unwrap());
        });
        // What is there is seen also by work that is to end.
        writer.write_all(&[1]).unwrap();
        assert!(source.token().wait_readable(&reader).unwrap());
        drop(writer);
        assert!(NEVER.wait_readable(&reader).unwrap());
    }
}
