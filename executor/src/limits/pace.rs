//! When to look at the disk again: before a program can fill the rest of it.
//!
//! An idle program may start to write at full speed at any moment. So the time to the next look follows from
//! the highest speed that is possible, not from the speed so far. If a higher speed is seen, that one counts.

use std::time::{Duration, Instant};

/// The least time between two looks: one costs about 40 us with the wake-up that it takes, and a program that
/// does nothing shall cost a hundredth of a processor.
pub(super) const SHORTEST: Duration = Duration::from_millis(3);

/// The same for limits of a directory: a few megabytes too much do no harm while the disk has room.
pub(super) const SHORTEST_IN_DIRECTORY: Duration = Duration::from_millis(10);

/// The most.
pub(super) const LONGEST: Duration = Duration::from_millis(400);

/// The least time between two looks from which a speed is computed.
const MEASURABLE: Duration = Duration::from_micros(500);

/// The highest possible speed, in a second. One processor writes 2 to 5 GB and creates 50,000 to 400,000 files
/// a second, and a machine has several.
const FASTEST: Space = Space {
    bytes: 16 << 30,
    inodes: 1_000_000,
};

/// A look comes after this part of the time in which the disk can be full.
const MARGIN: f64 = 2.0;

/// An amount of disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) bytes: u64,
    /// `u64::MAX` if the file system has no fixed number of inodes.
    pub(super) inodes: u64,
}

impl Space {
    /// No limit.
    pub(super) const MAX: Space = Space {
        bytes: u64::MAX,
        inodes: u64::MAX,
    };

    /// The rest without `other`, at least 0.
    pub(super) fn without(self, other: Space) -> Space {
        Space {
            bytes: self.bytes.saturating_sub(other.bytes),
            inodes: self.inodes.saturating_sub(other.inodes),
        }
    }

    /// The less of each.
    pub(super) fn least(self, other: Space) -> Space {
        Space {
            bytes: self.bytes.min(other.bytes),
            inodes: self.inodes.min(other.inodes),
        }
    }

    /// Whether one of them is less than `other` has.
    pub(super) fn is_below(self, other: Space) -> bool {
        self.bytes < other.bytes || self.inodes < other.inodes
    }

    /// Half of each.
    pub(super) fn half(self) -> Space {
        Space {
            bytes: self.bytes / 2,
            inodes: self.inodes / 2,
        }
    }
}

/// The time of the next check of the disk.
#[derive(Debug)]
pub(super) struct Pace {
    last: Option<(Instant, Space)>,
    /// In a second.
    fastest: Space,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            last: None,
            fastest: FASTEST,
        }
    }
}

impl Pace {
    /// Computes the speed since the last look from the space that is available `now`.
    pub(super) fn observe(&mut self, now: Instant, available: Space) {
        let Some((before, had)) = self.last else {
            self.last = Some((now, available));
            return;
        };
        let took = now.saturating_duration_since(before);
        if took < MEASURABLE {
            return;
        }
        let taken = had.without(available);
        let in_a_second = |amount: u64| (amount as f64 / took.as_secs_f64()) as u64;
        self.fastest.bytes = self.fastest.bytes.max(in_a_second(taken.bytes));
        self.fastest.inodes = self.fastest.inodes.max(in_a_second(taken.inodes));
        self.last = Some((now, available));
    }

    /// Time to the next look while `room` is left, at least `shortest`.
    pub(super) fn interval(&self, room: Space, shortest: Duration) -> Duration {
        let bytes = room.bytes as f64 / self.fastest.bytes as f64;
        let inodes = room.inodes as f64 / self.fastest.inodes as f64;
        let seconds = bytes.min(inodes) / MARGIN;
        Duration::from_secs_f64(seconds.min(LONGEST.as_secs_f64())).max(shortest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(bytes: u64, inodes: u64) -> Space {
        Space { bytes, inodes }
    }

    #[test]
    fn the_less_is_left_the_sooner_is_the_next_look() {
        let pace = Pace::default();
        for (room, milliseconds) in [
            (Space::MAX, 400),
            (space(100 << 30, u64::MAX), 400),
            (space(1 << 30, u64::MAX), 31),
            (space(100 << 20, u64::MAX), 3),
            (space(0, u64::MAX), 3),
            (space(u64::MAX, 20_000), 10),
            (space(u64::MAX, 0), 3),
            (space(0, 0), 3),
        ] {
            assert_eq!(
                pace.interval(room, SHORTEST).as_millis(),
                milliseconds,
                "{room:?}"
            );
        }
    }

    /// A program that does little for a long time is looked at as often as before.
    #[test]
    fn idle_programs_are_looked_at_as_often() {
        let mut pace = Pace::default();
        let room = space(1 << 30, 20_000);
        let before = pace.interval(room, SHORTEST);
        let start = Instant::now();
        for second in 0..10 {
            let taken = space(second << 10, second);
            let available = space(100 << 30, 1 << 30).without(taken);
            pace.observe(start + Duration::from_secs(second), available);
        }
        assert_eq!(pace.interval(room, SHORTEST), before);
    }

    #[test]
    fn faster_programs_are_looked_at_more_often() {
        let mut pace = Pace::default();
        let start = Instant::now();
        pace.observe(start, space(100 << 30, 10_000_000));
        pace.observe(
            start + Duration::from_millis(100),
            space(90 << 30, 9_000_000),
        );
        assert_eq!(pace.fastest, space(100 << 30, 10_000_000));
        let room = space(10 << 30, u64::MAX);
        assert_eq!(pace.interval(room, SHORTEST), Duration::from_millis(50));
        // The speed stays known; freed space is no negative speed.
        pace.observe(start + Duration::from_secs(1), space(95 << 30, 9_000_000));
        assert_eq!(pace.interval(room, SHORTEST), Duration::from_millis(50));
        // Too close to tell.
        pace.observe(start + Duration::from_secs(1), space(0, 0));
        assert_eq!(pace.interval(room, SHORTEST), Duration::from_millis(50));
    }
}
