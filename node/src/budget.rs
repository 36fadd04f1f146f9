//! Budget of one operation: bytes, entries, inodes, time and disk.
//!
//! A [`Budget`] is a value that the caller sets. An operation counts its use in a [`Spending`], which
//! reports the bound that was reached. Many threads may count in one `Spending`.
//!
//! ```
//! use ipfs_exec_node::budget::{Budget, BudgetError, Spending};
//!
//! let budget = Budget { max_entries: 1, ..Budget::UNLIMITED };
//! let spending = Spending::new(&budget);
//! assert!(spending.take_entry().is_ok());
//! assert!(matches!(spending.take_entry(), Err(BudgetError::Entries { limit: 1 })));
//! ```

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rustix::fs::StatVfs;
use rustix::process::geteuid;

use crate::quantity::{Measured, Size};

/// The most that the default rule of [`KeepFree`] keeps, in bytes: enough for the machine to go on.
const MAX_DEFAULT_BYTES: u64 = 1 << 30;

/// The most that the default rule of [`KeepFree`] keeps, in inodes.
const MAX_DEFAULT_INODES: u64 = 64 * 1024;

/// The least share of a disk's inodes. A program makes a file in about 3 us: this many last for 50 ms, in which
/// a watch sees them go.
const LEAST_INODE_SHARE: u64 = 16 * 1024;

/// The default rule of [`KeepFree`] keeps at most one part in this many of the disk's bytes, and of its
/// inodes.
const DEFAULT_SHARE: u64 = 20;
const DEFAULT_INODE_SHARE: u64 = 10;

/// After a look at the disk, at most this many bytes and inodes are taken before the next look.
const UNSEEN_BYTES: u64 = 8 << 20;
const UNSEEN_INODES: u64 = 128;

/// At most one part in this many of what may still be taken is taken before the next look.
const UNSEEN_SHARE: u64 = 8;

/// What one operation may take. The default is [`Budget::UNLIMITED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Most bytes of content, holes of sparse files and repeated parts counted.
    pub max_bytes: u64,
    /// Most entries: files, directories and links, repeated ones counted each time.
    pub max_entries: u64,
    /// Most inodes that are made on disk.
    pub max_inodes: u64,
    /// When the operation stops.
    pub deadline: Option<Instant>,
    /// What stays free on the disk that the operation writes to.
    pub keep_free: KeepFree,
}

impl Budget {
    /// No bound at all.
    pub const UNLIMITED: Budget = Budget {
        max_bytes: u64::MAX,
        max_entries: u64::MAX,
        max_inodes: u64::MAX,
        deadline: None,
        keep_free: KeepFree::NOTHING,
    };

    /// Fails when the deadline has passed.
    ///
    /// # Errors
    /// [`BudgetError::Deadline`].
    pub fn check_time(&self) -> Result<(), BudgetError> {
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(BudgetError::Deadline),
            _ => Ok(()),
        }
    }
}

impl Default for Budget {
    fn default() -> Budget {
        Budget::UNLIMITED
    }
}

/// What stays free on a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepFree {
    /// Bytes.
    pub bytes: u64,
    /// Inodes. This does not count on a file system that has no fixed number of inodes.
    pub inodes: u64,
}

impl KeepFree {
    /// All of the disk may be taken.
    pub const NOTHING: KeepFree = KeepFree {
        bytes: 0,
        inodes: 0,
    };

    /// What stays free where the user has not said it: of bytes 1 GiB or a twentieth of the disk, of inodes
    /// 65,536 or a tenth of the disk (but no share below 16,384), or half of what is free now, whichever is the
    /// least.
    pub fn by_default(space: &FreeSpace) -> KeepFree {
        let least = |most: u64, share: u64, free: u64| most.min(share).min(free / 2);
        let inodes = space.inodes.map_or(0, |inodes| {
            let share = (inodes.whole / DEFAULT_INODE_SHARE).max(LEAST_INODE_SHARE);
            least(MAX_DEFAULT_INODES, share, inodes.free)
        });
        let bytes = space.bytes;
        KeepFree {
            bytes: least(MAX_DEFAULT_BYTES, bytes.whole / DEFAULT_SHARE, bytes.free),
            inodes,
        }
    }

    /// The default, with `bytes` in place of its bytes where the user has said them. 0 keeps nothing free,
    /// inodes neither.
    pub fn chosen(bytes: Option<u64>, space: &FreeSpace) -> KeepFree {
        if bytes == Some(0) {
            return KeepFree::NOTHING;
        }
        let default = KeepFree::by_default(space);
        KeepFree {
            bytes: bytes.unwrap_or(default.bytes),
            ..default
        }
    }

    /// The same, or half of what is free where that is less than this already: others have taken the rest.
    pub fn or_half(&self, space: &FreeSpace) -> KeepFree {
        let kept = |kept: u64, free: u64| if kept <= free { kept } else { free / 2 };
        KeepFree {
            bytes: kept(self.bytes, space.bytes.free),
            inodes: space
                .inodes
                .map_or(self.inodes, |inodes| kept(self.inodes, inodes.free)),
        }
    }

    /// Fails when less than this would stay free in `space` after `bytes` and `inodes` more are taken.
    ///
    /// # Errors
    /// [`BudgetError::FreeBytes`], [`BudgetError::FreeInodes`].
    pub fn check(&self, space: &FreeSpace, bytes: u64, inodes: u64) -> Result<(), BudgetError> {
        let left = space.bytes.free.saturating_sub(bytes);
        if left < self.bytes {
            let kept = self.bytes;
            return Err(BudgetError::FreeBytes { left, kept });
        }
        let left = space.inodes.map(|all| all.free.saturating_sub(inodes));
        match left {
            Some(left) if left < self.inodes => Err(BudgetError::FreeInodes {
                left,
                kept: self.inodes,
            }),
            _ => Ok(()),
        }
    }
}

/// How much there is of something on a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// In all.
    pub whole: u64,
    /// What this user may still take.
    pub free: u64,
}

/// What is free on a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FreeSpace {
    /// Bytes.
    pub bytes: Amount,
    /// Inodes; `None` where the file system has no fixed number of them, as btrfs.
    pub inodes: Option<Amount>,
}

impl FreeSpace {
    /// Looks at the disk that the open file or directory `on` is on.
    ///
    /// # Errors
    /// [`BudgetError::Disk`].
    pub fn of(on: impl AsFd) -> Result<FreeSpace, BudgetError> {
        rustix::fs::fstatvfs(on)
            .map(|status| FreeSpace::read(&status))
            .map_err(|errno| BudgetError::Disk(errno.into()))
    }

    /// Looks at the disk that `path` is on.
    ///
    /// # Errors
    /// [`BudgetError::Disk`].
    pub fn at(path: &Path) -> Result<FreeSpace, BudgetError> {
        rustix::fs::statvfs(path)
            .map(|status| FreeSpace::read(&status))
            .map_err(|errno| BudgetError::Disk(errno.into()))
    }

    fn read(status: &StatVfs) -> FreeSpace {
        // A part of the disk may be reserved for root.
        let is_root = geteuid().is_root();
        let (blocks, inodes) = if is_root {
            (status.f_bfree, status.f_ffree)
        } else {
            (status.f_bavail, status.f_favail)
        };
        let bytes = |blocks: u64| blocks.saturating_mul(status.f_frsize);
        FreeSpace {
            bytes: Amount {
                whole: bytes(status.f_blocks),
                free: bytes(blocks),
            },
            inodes: (status.f_files > 0).then_some(Amount {
                whole: status.f_files,
                free: inodes,
            }),
        }
    }
}

/// Which bound of a [`Budget`] was reached. The operation's own error names the object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BudgetError {
    /// [`Budget::max_bytes`].
    #[error("it has more than {}", Size(*.limit))]
    Bytes {
        /// The bound.
        limit: u64,
    },
    /// [`Budget::max_entries`].
    #[error("it has more than {limit} entries")]
    Entries {
        /// The bound.
        limit: u64,
    },
    /// [`Budget::max_inodes`].
    #[error("it takes more than {limit} inodes")]
    Inodes {
        /// The bound.
        limit: u64,
    },
    /// [`Budget::deadline`].
    #[error("it reached its time limit")]
    Deadline,
    /// [`KeepFree::bytes`].
    #[error("only {} of the disk would stay free, less than the {} to be kept", Measured(*.left), Measured(*.kept))]
    FreeBytes {
        /// What would stay free.
        left: u64,
        /// The bound.
        kept: u64,
    },
    /// [`KeepFree::inodes`].
    #[error(
        "only {left} inodes of the disk would stay free, less than the {kept} inodes to be kept"
    )]
    FreeInodes {
        /// What would stay free.
        left: u64,
        /// The bound.
        kept: u64,
    },
    /// The disk does not tell what is free.
    #[error("cannot read the free space of the disk")]
    Disk(#[source] io::Error),
}

impl BudgetError {
    /// Whether the disk was too full.
    pub fn is_disk(&self) -> bool {
        matches!(
            self,
            BudgetError::FreeBytes { .. } | BudgetError::FreeInodes { .. }
        )
    }
}

/// What an operation has taken of its budget.
#[derive(Debug)]
pub struct Spending<'b> {
    budget: &'b Budget,
    bytes: AtomicU64,
    entries: AtomicU64,
    inodes: AtomicU64,
    unseen: Mutex<Unseen>,
}

/// What may be taken of the disk before the next look.
#[derive(Debug, Default)]
struct Unseen {
    bytes: u64,
    inodes: u64,
}

impl<'b> Spending<'b> {
    /// Nothing is taken yet.
    pub fn new(budget: &'b Budget) -> Spending<'b> {
        Spending {
            budget,
            bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            inodes: AtomicU64::new(0),
            unseen: Mutex::default(),
        }
    }

    /// The bounds.
    pub fn budget(&self) -> &'b Budget {
        self.budget
    }

    /// Bytes of content so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Entries so far.
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Counts `bytes` of content; gives the bytes so far.
    ///
    /// # Errors
    /// [`BudgetError::Bytes`].
    pub fn take_bytes(&self, bytes: u64) -> Result<u64, BudgetError> {
        let limit = self.budget.max_bytes;
        add(&self.bytes, bytes, limit).ok_or(BudgetError::Bytes { limit })
    }

    /// Counts one entry.
    ///
    /// # Errors
    /// [`BudgetError::Entries`].
    pub fn take_entry(&self) -> Result<(), BudgetError> {
        let limit = self.budget.max_entries;
        match add(&self.entries, 1, limit) {
            Some(_) => Ok(()),
            None => Err(BudgetError::Entries { limit }),
        }
    }

    /// Counts one inode, which is about to be made on the disk of `on`.
    ///
    /// # Errors
    /// [`BudgetError::Inodes`], and those of [`Spending::take_disk`].
    pub fn take_inode(&self, on: impl AsFd) -> Result<(), BudgetError> {
        let limit = self.budget.max_inodes;
        add(&self.inodes, 1, limit).ok_or(BudgetError::Inodes { limit })?;
        self.take(on, 0, 1)
    }

    /// Counts `bytes` that are about to be written to the disk of `on`. All calls of one `Spending`
    /// must mean the same disk.
    ///
    /// # Errors
    /// [`BudgetError::FreeBytes`], [`BudgetError::FreeInodes`], [`BudgetError::Disk`].
    pub fn take_disk(&self, on: impl AsFd, bytes: u64) -> Result<(), BudgetError> {
        self.take(on, bytes, 0)
    }

    /// Fails when the deadline has passed.
    ///
    /// # Errors
    /// [`BudgetError::Deadline`].
    pub fn check_time(&self) -> Result<(), BudgetError> {
        self.budget.check_time()
    }

    fn take(&self, on: impl AsFd, bytes: u64, inodes: u64) -> Result<(), BudgetError> {
        let keep_free = &self.budget.keep_free;
        if *keep_free == KeepFree::NOTHING {
            return Ok(());
        }
        let mut unseen = self.unseen.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes <= unseen.bytes && inodes <= unseen.inodes {
            unseen.bytes -= bytes;
            unseen.inodes -= inodes;
            return Ok(());
        }
        let space = FreeSpace::of(on)?;
        keep_free.check(&space, bytes, inodes)?;
        let spare = |free: u64, taken: u64, kept: u64| {
            free.saturating_sub(taken).saturating_sub(kept) / UNSEEN_SHARE
        };
        let spare_inodes = space
            .inodes
            .map_or(u64::MAX, |all| spare(all.free, inodes, keep_free.inodes));
        *unseen = Unseen {
            bytes: spare(space.bytes.free, bytes, keep_free.bytes).min(UNSEEN_BYTES),
            inodes: spare_inodes.min(UNSEEN_INODES),
        };
        Ok(())
    }
}

/// Adds to a count and gives the sum; `None`, and the count stays, where that is more than `limit`.
fn add(count: &AtomicU64, more: u64, limit: u64) -> Option<u64> {
    let sum = |before: u64| before.checked_add(more).filter(|sum| *sum <= limit);
    let before = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum);
    before.ok().map(|before| before + more)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(bytes: (u64, u64), inodes: Option<(u64, u64)>) -> FreeSpace {
        let amount = |(whole, free)| Amount { whole, free };
        FreeSpace {
            bytes: amount(bytes),
            inodes: inodes.map(amount),
        }
    }

    #[test]
    fn the_default_is_the_least_of_three() {
        let cases = [
            (space((1 << 40, 1 << 39), None), (1 << 30, 0), "1 GiB"),
            (
                space((1 << 30, 1 << 29), None),
                ((1 << 30) / 20, 0),
                "a twentieth",
            ),
            (
                space((1 << 40, 1000), None),
                (500, 0),
                "half of what is free",
            ),
            (
                space((2000, 1000), Some((200_000, 100_000))),
                (100, 20_000),
                "a tenth of the inodes",
            ),
            (
                space((2000, 1000), Some((50_000, 40_000))),
                (100, 16_384),
                "the least share of the inodes",
            ),
            (
                space((2000, 1000), Some((2000, 1000))),
                (100, 500),
                "half of the free inodes",
            ),
            (space((0, 0), Some((0, 0))), (0, 0), "nothing"),
        ];
        for (space, (bytes, inodes), case) in cases {
            let kept = KeepFree::by_default(&space);
            assert_eq!(kept, KeepFree { bytes, inodes }, "{case}");
            assert!(kept.check(&space, 0, 0).is_ok(), "{case}");
        }
    }

    #[test]
    fn each_bound_is_told() {
        let keep = KeepFree {
            bytes: 100,
            inodes: 10,
        };
        let disk = space((1000, 150), Some((100, 12)));
        assert!(keep.check(&disk, 50, 2).is_ok());
        assert!(matches!(
            keep.check(&disk, 51, 2),
            Err(BudgetError::FreeBytes {
                left: 99,
                kept: 100
            })
        ));
        assert!(matches!(
            keep.check(&disk, 50, 3),
            Err(BudgetError::FreeInodes { left: 9, kept: 10 })
        ));
        // Others have taken what should be free.
        let half = KeepFree {
            bytes: 75,
            inodes: 6,
        };
        assert_eq!(keep.or_half(&disk), keep);
        let more = KeepFree {
            bytes: 151,
            inodes: 13,
        };
        assert_eq!(more.or_half(&disk), half);
        // btrfs has no fixed number of inodes.
        let without = space((1000, 150), None);
        assert!(keep.check(&without, 50, u64::MAX).is_ok());

        let budget = Budget {
            max_bytes: 10,
            max_inodes: 1,
            deadline: Some(Instant::now()),
            ..Budget::UNLIMITED
        };
        let spending = Spending::new(&budget);
        assert_eq!(spending.take_bytes(10).unwrap(), 10);
        assert!(matches!(
            spending.take_bytes(1),
            Err(BudgetError::Bytes { limit: 10 })
        ));
        assert!(matches!(
            spending.take_bytes(u64::MAX),
            Err(BudgetError::Bytes { .. })
        ));
        let here = std::fs::File::open("/").unwrap();
        assert!(spending.take_inode(&here).is_ok());
        assert!(matches!(
            spending.take_inode(&here),
            Err(BudgetError::Inodes { limit: 1 })
        ));
        assert!(matches!(spending.check_time(), Err(BudgetError::Deadline)));
    }

    #[test]
    fn a_disk_is_looked_at_before_it_is_written_to() {
        let here = std::fs::File::open("/").unwrap();
        let budget = Budget {
            keep_free: KeepFree {
                bytes: u64::MAX,
                inodes: 0,
            },
            ..Budget::UNLIMITED
        };
        let refused = Spending::new(&budget).take_disk(&here, 1);
        assert!(matches!(refused, Err(BudgetError::FreeBytes { .. })));
        let budget = Budget {
            keep_free: KeepFree {
                bytes: 1,
                inodes: 0,
            },
            ..Budget::UNLIMITED
        };
        let spending = Spending::new(&budget);
        for _ in 0..3 {
            spending.take_disk(&here, 4096).unwrap();
            spending.take_inode(&here).unwrap();
        }
        assert!(spending.take_disk(&here, u64::MAX).is_err());
    }
}
