//! Holds the limits of the disk: the sizes of `/output` and `/tmp`, and the space that stays free.
//!
//! A walk through the directories is exact and slow. `fstatvfs` is fast: one call gives the available space.
//! So the watch calls `fstatvfs` as often as the [pace](super::pace) of programs needs, and walks only when
//! the available space has shrunk enough to break a limit.

use std::io;
use std::time::{Duration, Instant};

use super::disk::{Patience, Tally, Tree};
use super::pace::{Pace, SHORTEST, SHORTEST_IN_DIRECTORY, Space};
use super::processes::{Census, Nameless};
use super::{Directories, Limit, LimitError, Limits};

/// How long one walk may take. A second, longer one follows if the unseen part may break a limit.
const LOOK: Duration = Duration::from_millis(300);

/// Pause after a look, as a multiple of its duration: looks take a fifth of the time at most.
const PAUSE: u32 = 4;

/// Checks the sizes of the writable directories and the free space of their disk.
#[derive(Debug)]
pub(super) struct DiskWatch {
    limits: Limits,
    output: Tree,
    tmp: Tree,
    /// Space that stays free on their file system.
    kept_free: Space,
    /// Device numbers under which the program sees that file system, beside its own.
    devices: Vec<u64>,
    /// Time of the next `fstatvfs`.
    next: Option<Instant>,
    pace: Pace,
    walked: Walked,
}

/// The last walk: the space that was available then, and how much could be added to the directories.
#[derive(Clone, Copy, Debug)]
struct Walked {
    available: Space,
    room: Space,
}

/// The result of a walk.
enum Measured {
    Hit(Limit),
    /// No limit is broken; so much may be added.
    Room(Space),
}

impl DiskWatch {
    pub(super) fn new(
        limits: &Limits,
        directories: Directories<'_>,
    ) -> Result<DiskWatch, LimitError> {
        let open = |path| Tree::open(path).map_err(LimitError::Watch);
        let output = open(directories.output)?;
        Ok(DiskWatch {
            limits: *limits,
            kept_free: kept_free(limits, &output)?,
            output,
            tmp: open(directories.tmp)?,
            devices: Vec::new(),
            next: None,
            pace: Pace::default(),
            walked: Walked {
                available: Space::default(),
                room: limits.room(),
            },
        })
    }

    /// Whether anything stays free.
    pub(super) fn keeps_free(&self) -> bool {
        self.kept_free != Space::default()
    }

    pub(super) fn add_devices(&mut self, devices: &[u64]) {
        self.devices.extend_from_slice(devices);
    }

    /// Starts to watch; the program starts next.
    pub(super) fn start(&mut self, now: Instant) -> io::Result<()> {
        self.walked.available = self.output.available()?;
        let is_held = self.keeps_free() || self.limits.room() != Space::MAX;
        self.next = is_held.then_some(now);
        Ok(())
    }

    /// Time of the next glance.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Checks the available space, and walks only if a limit may be broken. The program runs below process
    /// `supervisor`.
    pub(super) fn glance(&mut self, supervisor: u32) -> io::Result<Option<Limit>> {
        if self.next.is_none() {
            return Ok(None);
        }
        let before = Instant::now();
        let available = self.output.available()?;
        self.pace.observe(before, available);
        if available.is_below(self.kept_free) && self.is_to_blame(supervisor, available)? {
            return Ok(Some(Limit::KeepFree));
        }
        if self.walked.is_used_up(available) {
            let needs_census = self.limits.tmp_size.is_some();
            let census = needs_census.then(|| Census::take(supervisor)).transpose()?;
            if let Some(limit) = self.find_hit(&census.unwrap_or_default())? {
                return Ok(Some(limit));
            }
        }
        let on_disk = available.without(self.kept_free);
        let on_disk = self.pace.interval(on_disk, SHORTEST);
        let in_directories = self.walked.left(available);
        let in_directories = self.pace.interval(in_directories, SHORTEST_IN_DIRECTORY);
        let now = Instant::now();
        let interval = on_disk.min(in_directories).max((now - before) * PAUSE);
        self.next = Some(now + interval);
        Ok(None)
    }

    /// Whether the program itself has so much of the disk that its end gives back what should be free, or
    /// most of what was taken since it started.
    fn is_to_blame(&self, supervisor: u32, available: Space) -> io::Result<bool> {
        let lost = self.output.lost()?;
        let much = |kept: u64, lost: u64| kept.min(lost.div_ceil(2)).max(1);
        let mut enough = Tally::MAX;
        if available.bytes < self.kept_free.bytes {
            enough.allocated = much(self.kept_free.bytes, lost.bytes);
        }
        if available.inodes < self.kept_free.inodes {
            enough.inodes = much(self.kept_free.inodes, lost.inodes);
        }
        // The program goes on during the walk, so the walk stops when half of the space is gone.
        let patience = Patience {
            deadline: Instant::now() + LOOK,
            floor: self.kept_free.half(),
        };
        let is_much =
            |taken: &Tally| taken.allocated >= enough.allocated || taken.inodes >= enough.inodes;
        let (mut taken, mut is_late) = (Tally::default(), false);
        for tree in [&self.output, &self.tmp] {
            let tally = tree.measure(enough, Some(patience))?;
            taken.allocated = taken.allocated.saturating_add(tally.allocated);
            taken.inodes = taken.inodes.saturating_add(tally.inodes);
            is_late |= tally.is_late;
            // Decide at once: the program goes on during the search.
            if is_much(&taken) {
                return Ok(true);
            }
        }
        // Files whose owner is not known count as the program's.
        let all = Nameless {
            bytes: lost.bytes,
            inodes: lost.inodes,
        };
        // If half of what should stay free goes during the search, there is no time to find its owner.
        let has_time = || {
            let available = self.output.available();
            available.is_ok_and(|available| !available.is_below(patience.floor))
        };
        let nameless = if is_late {
            None
        } else {
            let devices = self.devices_of(&self.output);
            Census::take(supervisor)?.nameless_while(&devices, &has_time)
        };
        let nameless = nameless.unwrap_or(all);
        taken.allocated = taken.allocated.saturating_add(nameless.bytes);
        taken.inodes = taken.inodes.saturating_add(nameless.inodes);
        Ok(is_much(&taken))
    }

    /// The file systems as which the program sees the one that `tree` is on.
    fn devices_of(&self, tree: &Tree) -> Vec<u64> {
        let mut devices = self.devices.clone();
        devices.push(tree.device);
        devices
    }

    /// The limit on the size of a directory that the program has hit while it runs.
    pub(super) fn find_hit(&mut self, census: &Census) -> io::Result<Option<Limit>> {
        let available = self.output.available()?;
        Ok(match self.measure(census, true)? {
            Measured::Hit(limit) => Some(limit),
            Measured::Room(room) => {
                self.walked = Walked { available, room };
                None
            }
        })
    }

    /// The limit on the size of a directory that the program has hit that is not running any more.
    pub(super) fn last_hit(&self) -> io::Result<Option<Limit>> {
        Ok(match self.measure(&Census::default(), false)? {
            Measured::Hit(limit) => Some(limit),
            Measured::Room(_) => None,
        })
    }

    /// Walks through the directories. After the program's end, nothing changes them any more.
    fn measure(&self, census: &Census, is_running: bool) -> io::Result<Measured> {
        let limits = &self.limits;
        let exceeds = |used: u64, limit: Option<u64>| limit.is_some_and(|limit| used > limit);
        let patience = || {
            is_running.then(|| Patience {
                deadline: Instant::now() + LOOK,
                floor: self.kept_free,
            })
        };
        let mut room = limits.room();
        if limits.output_size.is_some() || limits.output_files.is_some() {
            let enough = Tally {
                bytes: limits.output_size.unwrap_or(u64::MAX),
                entries: limits.output_files.unwrap_or(u64::MAX),
                ..Tally::MAX
            };
            let tally = self.output.measure(enough, patience())?;
            if exceeds(tally.entries, limits.output_files) {
                return Ok(Measured::Hit(Limit::OutputFiles));
            }
            if exceeds(tally.bytes, limits.output_size) {
                return Ok(Measured::Hit(Limit::OutputSize));
            }
            room = room.without(Space {
                bytes: tally.bytes,
                inodes: tally.entries,
            });
        }
        let Some(most) = limits.tmp_size else {
            return Ok(Measured::Room(room));
        };
        let tree = &self.tmp;
        let enough = Tally {
            allocated: most,
            ..Tally::MAX
        };
        // Files without a name are on the same disk, wherever they were made.
        let nameless = match census.nameless(&self.devices_of(tree)) {
            Some(nameless) => nameless.bytes,
            None => tree.lost()?.bytes,
        };
        let allocated = tree.measure(enough, patience())?.allocated;
        let allocated = allocated.saturating_add(nameless);
        let left = Space {
            bytes: most.saturating_sub(allocated),
            inodes: u64::MAX,
        };
        Ok(match allocated > most {
            true => Measured::Hit(Limit::TmpSize),
            false => Measured::Room(room.least(left)),
        })
    }
}

impl Walked {
    /// How much may still be added, if all space that was taken since went into the directories.
    fn left(&self, available: Space) -> Space {
        self.room.without(self.gone(available))
    }

    /// Whether a limit may be broken, so that a walk must tell.
    fn is_used_up(&self, available: Space) -> bool {
        let gone = self.gone(available);
        let is_used_up = |gone: u64, room: u64| gone > 0 && gone >= room;
        is_used_up(gone.bytes, self.room.bytes) || is_used_up(gone.inodes, self.room.inodes)
    }

    fn gone(&self, available: Space) -> Space {
        self.available.without(available)
    }
}

/// Space that stays free on the disk of `output`.
fn kept_free(limits: &Limits, output: &Tree) -> Result<Space, LimitError> {
    let space = output.space().map_err(LimitError::Watch)?;
    let kept = limits.kept_free(&space);
    if kept.bytes > space.bytes.free {
        return Err(LimitError::Full {
            bytes: kept.bytes,
            available: space.bytes.free,
        });
    }
    Ok(Space {
        bytes: kept.bytes,
        inodes: kept.inodes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn space(bytes: u64, inodes: u64) -> Space {
        Space { bytes, inodes }
    }

    #[test]
    fn a_walk_is_due_when_all_may_have_gone_there() {
        let walked = Walked {
            available: space(1000, 100),
            room: space(500, 0),
        };
        for (available, is_used_up) in [
            // No space was taken, so no file was added.
            (space(1000, 100), false),
            (space(2000, 200), false),
            (space(501, 100), false),
            (space(500, 100), true),
            (space(1000, 99), true),
        ] {
            assert_eq!(walked.is_used_up(available), is_used_up, "{available:?}");
        }
        assert_eq!(walked.left(space(900, 90)), space(400, 0));
    }

    /// A program is to blame if most of the missing inodes are its own, and only for the missing resource.
    #[test]
    fn a_program_is_blamed_for_its_own_share() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        for name in ["output", "tmp"] {
            fs::create_dir(path(name)).unwrap();
        }
        let directories = Directories {
            output: &path("output"),
            tmp: &path("tmp"),
        };
        let mut watch = DiskWatch::new(&Limits::default(), directories).unwrap();
        watch.add_devices(&[1]);
        assert_eq!(watch.devices_of(&watch.output), [1, watch.output.device]);
        watch.kept_free = space(0, 50);
        let available = space(0, 49);
        let supervisor = std::process::id();
        for number in 0..49 {
            fs::write(path("output").join(number.to_string()), "").unwrap();
        }
        let lose = |watch: &mut DiskWatch, inodes| watch.output.lose(space(0, inodes));
        // Other processes took most inodes.
        lose(&mut watch, 1000);
        assert!(!watch.is_to_blame(supervisor, available).unwrap());
        fs::write(path("tmp").join("one more"), "").unwrap();
        assert!(watch.is_to_blame(supervisor, available).unwrap());
        // Bytes are missing now, and the program has few.
        watch.kept_free = space(50, 0);
        assert!(!watch.is_to_blame(supervisor, space(50, 0)).unwrap());
    }
}
