//! How long a disk can be left alone: less long than a program needs to fill what is left.
//!
//! A program that has been idle may write at full speed from one moment to the next. So what it did so far
//! says nothing of what it will do, unless it was faster than programs are thought to be.

use std::time::{Duration, Instant};

/// The least time between two looks: one costs about 40 us with the wake-up that it takes, and a program that
/// does nothing shall cost a hundredth of a processor.
pub(super) const SHORTEST: Duration = Duration::from_millis(3);

/// The same where a directory is limited and the disk has room: what is too much there harms nobody.
pub(super) const SHORTEST_IN_DIRECTORY: Duration = Duration::from_millis(10);

/// The most.
pub(super) const LONGEST: Duration = Duration::from_millis(400);

/// Between two looks that are closer to each other no speed is measured.
const MEASURABLE: Duration = Duration::from_micros(500);

/// What programs are thought to take in a second at most. A processor copies 2 to 5 GB and makes 50,000 to
/// 400,000 files a second, and there are several.
const FASTEST: Space = Space {
    bytes: 16 << 30,
    inodes: 1_000_000,
};

/// Looks before the rest could be taken.
const MARGIN: f64 = 2.0;

/// An amount of disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) bytes: u64,
    /// `u64::MAX` where the file system has no fixed number of them.
    pub(super) inodes: u64,
}

impl Space {
    /// As much as there can be.
    pub(super) const MAX: Space = Space {
        bytes: u64::MAX,
        inodes: u64::MAX,
    };

    /// What is left without `other`; nothing where that is more.
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

/// See the [module](self).
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
    /// Learns what is available `now`.
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

    /// How long to wait with the next look, where `room` is left: at least for `shortest`.
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

    /// Who does nothing for long, or little, is looked at as often as before.
    #[test]
    fn nobody_is_lulled() {
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
    fn who_is_faster_than_thought_is_looked_at_more_often() {
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
        // It stays known, and what others give back is no speed.
        pace.observe(start + Duration::from_secs(1), space(95 << 30, 9_000_000));
        assert_eq!(pace.interval(room, SHORTEST), Duration::from_millis(50));
        // Too close to tell.
        pace.observe(start + Duration::from_secs(1), space(0, 0));
        assert_eq!(pace.interval(room, SHORTEST), Duration::from_millis(50));
    }
}
