//! Lowest pace at which a message may pass.
//!
//! A message that passes slowly holds memory of a budget that all peers share. A peer that is slow on
//! purpose must not keep this memory from the other peers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How often the pace of a message that does not pass at once is looked at.
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What a message may take beyond a pause: below this many bytes a second, the lowest rate that
/// Kubo sends at, a peer is only holding memory.
const SLOWEST_BYTES_PER_SECOND: f64 = 12_500.0;

/// The same while others wait for the memory.
const SLOWEST_BYTES_PER_SECOND_IN_A_CROWD: f64 = 32.0 * 1024.0;

/// How many wait for memory that others hold. Clones are the same number.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryWaiters(Arc<AtomicUsize>);

impl MemoryWaiters {
    pub(crate) fn set(&self, waiting: usize) {
        self.0.store(waiting, Ordering::Relaxed);
    }

    /// Counts the caller until what is returned is dropped.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Waiting(&self.0)
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// One that waits.
pub(crate) struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a message is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Slow {
    #[error("the peer stopped in the middle of a message")]
    Stalled,
    #[error("the peer was too slow with a message")]
    Crawling,
    #[error("the peer was slow with a message while others waited for the memory")]
    Crowded,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// A message may pause for this long.
    pub(crate) pause: Duration,
    /// The time over which rates are taken: longer than a lost packet costs, or than a receiver takes
    /// to grant room for more.
    pub(crate) window: Duration,
}

/// The progress of one message.
#[derive(Debug)]
pub(crate) struct Pace {
    patience: Patience,
    begun: Instant,
    allowed: Duration,
    progressed: Instant,
    /// When the rate was taken last, and how many bytes had passed.
    window: (Instant, u64),
    /// What that says.
    slow: Option<Slow>,
}

impl Pace {
    /// A message of `length` bytes begins, after `passed` others on the connection.
    pub(crate) fn begin(length: usize, passed: u64, patience: Patience) -> Pace {
        let now = Instant::now();
        Pace {
            patience,
            begun: now,
            allowed: patience.pause
                + Duration::from_secs_f64(length as f64 / SLOWEST_BYTES_PER_SECOND),
            progressed: now,
            window: (now, passed),
            slow: None,
        }
    }

    /// Some bytes of the message have passed.
    pub(crate) fn advance(&mut self) {
        self.progressed = Instant::now();
    }

    /// Whether the message may go on, now that `passed` bytes have passed on the connection, of this
    /// message and others. `waiters` are those who wait for what it holds. To be asked every
    /// [`CHECK_INTERVAL`].
    pub(crate) fn check(
        &mut self,
        passed: u64,
        waiters: Option<&MemoryWaiters>,
    ) -> Result<(), Slow> {
        let now = Instant::now();
        let (since, before) = self.window;
        let window = now - since;
        if window >= self.patience.window {
            let rate = (passed - before) as f64 / window.as_secs_f64();
            self.slow = match rate {
                ..SLOWEST_BYTES_PER_SECOND => Some(Slow::Crawling),
                ..SLOWEST_BYTES_PER_SECOND_IN_A_CROWD => Some(Slow::Crowded),
                _ => None,
            };
            self.window = (now, passed);
        }
        if now - self.progressed >= self.patience.pause {
            Err(Slow::Stalled)
        } else if now - self.begun >= self.allowed {
            Err(Slow::Crawling)
        } else if waiters.is_some_and(MemoryWaiters::is_waiting) {
            self.slow.map_or(Ok(()), Err)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;
    const PATIENCE: Patience = Patience {
        pause: Duration::from_secs(10),
        window: Duration::from_secs(3),
    };

    /// Passes `rate` bytes a second until the message is given up; says after how many seconds.
    async fn seconds(length: usize, rate: usize, waiters: &MemoryWaiters) -> Option<(usize, Slow)> {
        let mut pace = Pace::begin(length, 0, PATIENCE);
        for second in 1..=length / rate.max(1) {
            tokio::time::advance(CHECK_INTERVAL).await;
            if rate > 0 {
                pace.advance();
            }
            if let Err(slow) = pace.check((second * rate) as u64, Some(waiters)) {
                return Some((second, slow));
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn slow_peers_give_way_to_waiting_peers() {
        let waiters = MemoryWaiters::default();
        assert_eq!(seconds(MIB, 20_000, &waiters).await, None);
        assert_eq!(seconds(MIB, 0, &waiters).await, Some((10, Slow::Stalled)));
        assert_eq!(
            seconds(MIB, 9000, &waiters).await,
            Some((94, Slow::Crawling)),
            "1 MiB at 12,500 bytes a second, and the pause"
        );
        let waiting = waiters.wait();
        assert_eq!(
            seconds(MIB, 9000, &waiters).await,
            Some((3, Slow::Crawling))
        );
        assert_eq!(
            seconds(MIB, 20_000, &waiters).await,
            Some((3, Slow::Crowded))
        );
        assert_eq!(seconds(MIB, 40_000, &waiters).await, None);
        drop(waiting);
        assert_eq!(seconds(MIB, 20_000, &waiters).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_does_not_pay_for_the_rest() {
        let waiters = MemoryWaiters::default();
        waiters.set(1);
        let mut pace = Pace::begin(4 * MIB, 0, PATIENCE);
        let mut passed = 3 * MIB as u64;
        let mut seconds = 0;
        loop {
            tokio::time::advance(CHECK_INTERVAL).await;
            seconds += 1;
            passed += 1;
            pace.advance();
            if pace.check(passed, Some(&waiters)).is_err() {
                break;
            }
        }
        assert_eq!(seconds, 6);
    }

    #[tokio::test(start_paused = true)]
    async fn messages_side_by_side_are_not_slow_for_each_other() {
        let waiters = MemoryWaiters::default();
        waiters.set(1);
        let mut paces = [0; 4].map(|_| Pace::begin(MIB, 0, PATIENCE));
        for second in 1..20 {
            tokio::time::advance(CHECK_INTERVAL).await;
            for pace in &mut paces {
                pace.advance();
                assert_eq!(pace.check(second * 4 * 10_000, Some(&waiters)), Ok(()));
            }
        }
    }
}
