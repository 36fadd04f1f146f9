//! How much a directory tree takes that a hostile program is changing meanwhile.

use std::collections::HashSet;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use ipfs_exec_node::BudgetError;
use ipfs_exec_node::budget::FreeSpace;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, StatVfs, chmodat, fchmod, fstat, fstatvfs,
    openat, statat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::pace::Space;
use crate::process::with_all_rights;

/// What each entry takes at least: its inode and its name.
const ENTRY_BYTES: u64 = 4096;

/// Directories that are held open at a time: deeper than any that can be imported. What lies deeper counts
/// as one that cannot be read.
const MAX_OPEN: usize = 520;

/// Entries between two looks at the clock.
const ENTRIES_A_LOOK: u64 = 256;

/// Inodes with several names that are told apart. Of more, each name counts as an inode.
const MAX_SHARED: usize = 1 << 20;

/// How long a look may take that decides. Other limits wait for it.
const LONG_LOOK: Duration = Duration::from_secs(5);

/// What a tree takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Bytes of its files, holes included.
    pub(super) bytes: u64,
    /// Bytes of disk.
    pub(super) allocated: u64,
    pub(super) entries: u64,
    /// As entries, but a file with several names counts once.
    pub(super) inodes: u64,
    /// Whether part of it could not be read.
    pub(super) is_closed: bool,
    /// Whether the walk stopped before its end, for lack of time or of disk.
    pub(super) is_late: bool,
}

/// Bounds a walk through a tree that a program is changing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) deadline: Instant,
    /// The walk stops when less than this is available.
    pub(super) floor: Space,
}

/// A tree, and the file system that it is on.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    pub(super) device: u64,
    /// Free bytes and inodes at the start.
    free: Space,
}

impl Tree {
    pub(super) fn open(path: &Path) -> io::Result<Tree> {
        let root = directory_at(CWD.as_fd(), path)?;
        let device = fstat(&root)?.st_dev;
        let free = free(&fstatvfs(&root)?);
        Ok(Tree { root, device, free })
    }

    /// What is free on this file system for this user.
    pub(super) fn space(&self) -> io::Result<FreeSpace> {
        FreeSpace::of(&self.root).map_err(|error| match error {
            BudgetError::Disk(source) => source,
            error => io::Error::other(error),
        })
    }

    /// The bytes and inodes of this file system that this user may still take.
    pub(super) fn available(&self) -> io::Result<Space> {
        let space = self.space()?;
        Ok(Space {
            bytes: space.bytes.free,
            inodes: space.inodes.map_or(u64::MAX, |inodes| inodes.free),
        })
    }

    /// The bytes and inodes that were taken from the file system since the start, by any process.
    pub(super) fn lost(&self) -> io::Result<Space> {
        Ok(self.free.without(free(&fstatvfs(&self.root)?)))
    }

    /// Counts so much more as free at the start.
    #[cfg(test)]
    pub(super) fn lose(&mut self, space: Space) {
        self.free.bytes = self.free.bytes.saturating_add(space.bytes);
        self.free.inodes = self.free.inodes.saturating_add(space.inodes);
    }

    /// Counts up to `enough`, or for as long as may be: of what is beyond no more is counted. Where there
    /// is no `patience`, all is at rest and ours, and what was closed to us is open while we look.
    pub(super) fn measure(&self, enough: Tally, patience: Option<Patience>) -> io::Result<Tally> {
        let seen = self.walk(enough, patience)?;
        if seen.is_whole() {
            return Ok(seen);
        }
        // What was not seen is at most what the file system has lost.
        let lost = self.lost()?;
        let most = Tally {
            bytes: seen.bytes.max(lost.bytes),
            allocated: seen.allocated.max(lost.bytes),
            inodes: seen.inodes.max(lost.inodes),
            ..seen
        };
        let Some(Patience { floor, .. }) = patience else {
            return Ok(most);
        };
        if !most.exceeds(enough) && !seen.is_closed || self.available()?.is_below(floor) {
            return Ok(seen);
        }
        // It may be others who took it. To open what is closed would show in the program.
        let longer = Patience {
            deadline: Instant::now() + LONG_LOOK,
            floor,
        };
        let look_again = || self.walk(enough, Some(longer));
        let again = match geteuid().is_root() {
            true => look_again(),
            false => with_all_rights(look_again),
        };
        match again {
            Ok(all) if all.is_whole() => Ok(all),
            Ok(_) => Ok(most),
            Err(error) => {
                tracing::debug!(%error, "what the program closed is not seen");
                Ok(most)
            }
        }
    }

    fn walk(&self, enough: Tally, patience: Option<Patience>) -> io::Result<Tally> {
        let mut tally = Tally::default();
        let mut shared = HashSet::new();
        let may_open = patience.is_none();
        let mut open = Vec::new();
        match Open::root(&self.root, may_open) {
            Ok(first) => open.push(first),
            // The program may have taken away our right to look.
            Err(_) => tally.is_closed = true,
        }
        while let Some(Open { directory, .. }) = open.last_mut() {
            let Some(entry) = directory.next() else {
                open.pop();
                continue;
            };
            let entry = match entry {
                Ok(entry) => entry,
                // It was removed meanwhile, or taken from us.
                Err(errno) => {
                    tally.is_closed |= errno != Errno::NOENT;
                    open.pop();
                    continue;
                }
            };
            let name = entry.file_name();
            if [&b"."[..], b".."].contains(&name.to_bytes()) {
                continue;
            }
            let at = directory.fd()?;
            let status = match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(status) => status,
                Err(Errno::NOENT) => continue,
                Err(_) => {
                    tally.is_closed = true;
                    continue;
                }
            };
            tally.entries += 1;
            let has_names = kind_of(&status) != FileType::Directory && status.st_nlink > 1;
            let is_counted = has_names && !shared.insert(status.st_ino);
            if !is_counted {
                tally.inodes += 1;
            }
            if shared.len() > MAX_SHARED {
                shared.clear();
            }
            tally.allocated += (status.st_blocks as u64 * 512).max(ENTRY_BYTES);
            let kind = kind_of(&status);
            if kind == FileType::RegularFile {
                tally.bytes += status.st_size as u64;
            }
            if tally.exceeds(enough) {
                return Ok(tally);
            }
            if tally.entries % ENTRIES_A_LOOK == 0
                && let Some(Patience { deadline, floor }) = patience
                && (Instant::now() >= deadline || self.available()?.is_below(floor))
            {
                tally.is_late = true;
                return Ok(tally);
            }
            if kind == FileType::Directory {
                match Open::at(at, name, may_open) {
                    Ok(below) if open.len() < MAX_OPEN => open.push(below),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    _ => tally.is_closed = true,
                }
            }
        }
        Ok(tally)
    }
}

/// A directory that is looked at. Dropped, it has the mode that it had.
struct Open {
    directory: Dir,
    before: Option<Mode>,
}

impl Open {
    /// Opens `root` itself, which may be closed.
    fn root(root: &OwnedFd, may_open: bool) -> io::Result<Open> {
        let mode = may_open.then(|| fstat(root)).transpose()?;
        let before = open_up(mode, |mode| fchmod(root, mode))?;
        let directory = Dir::new(directory_at(root.as_fd(), c".")?)?;
        Ok(Open { directory, before })
    }

    /// Opens the directory `name` of `parent`. It is no link where we `may_open` what is closed: nobody is
    /// left who could make it one since it was seen.
    fn at(parent: BorrowedFd<'_>, name: &CStr, may_open: bool) -> io::Result<Open> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let mode = may_open.then(|| statat(parent, name, flags)).transpose()?;
        let change = |mode| chmodat(parent, name, mode, AtFlags::empty());
        let before = open_up(mode, change)?;
        let directory = Dir::new(directory_at(parent, name)?)?;
        Ok(Open { directory, before })
    }
}

/// Gives the owner of a directory all rights, where its status is given; gives the mode from before, if
/// that was another.
fn open_up(
    status: Option<Stat>,
    change: impl FnOnce(Mode) -> Result<(), Errno>,
) -> io::Result<Option<Mode>> {
    let mode = status.map(|status| Mode::from_raw_mode(status.st_mode));
    let closed = mode.filter(|mode| !mode.contains(Mode::RWXU));
    if let Some(mode) = closed {
        change(mode | Mode::RWXU)?;
    }
    Ok(closed)
}

impl Drop for Open {
    fn drop(&mut self) {
        let Some(before) = self.before else {
            return;
        };
        if let Err(errno) = self.directory.fd().and_then(|fd| fchmod(fd, before)) {
            tracing::debug!(%errno, "a directory of the output keeps another mode");
        }
    }
}

impl Tally {
    /// One that nothing exceeds.
    pub(super) const MAX: Tally = Tally {
        bytes: u64::MAX,
        allocated: u64::MAX,
        entries: u64::MAX,
        inodes: u64::MAX,
        is_closed: false,
        is_late: false,
    };

    fn is_whole(self) -> bool {
        !self.is_closed && !self.is_late
    }

    fn exceeds(self, limit: Tally) -> bool {
        self.bytes > limit.bytes
            || self.allocated > limit.allocated
            || self.entries > limit.entries
            || self.inodes > limit.inodes
    }
}

fn directory_at(at: BorrowedFd<'_>, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, path, flags, Mode::empty())?)
}

fn free(status: &StatVfs) -> Space {
    Space {
        bytes: status.f_bfree * status.f_frsize,
        inodes: inodes(status, status.f_ffree),
    }
}

fn inodes(status: &StatVfs, inodes: u64) -> u64 {
    if status.f_files == 0 {
        u64::MAX
    } else {
        inodes
    }
}

fn kind_of(status: &Stat) -> FileType {
    FileType::from_raw_mode(status.st_mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn everything_counts_and_nothing_is_followed() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::create_dir(path("sub")).unwrap();
        fs::write(path("sub/file"), vec![1; 10_000]).unwrap();
        File::create(path("sparse"))
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        std::os::unix::fs::symlink("/", path("link")).unwrap();
        fs::hard_link(path("sparse"), path("second name")).unwrap();
        let closed = fs::Permissions::from_mode(0o000);
        fs::set_permissions(path("sub"), closed).unwrap();
        let tree = Tree::open(place.path()).unwrap();
        let tally = tree.measure(Tally::MAX, None).unwrap();
        assert_eq!((tally.entries, tally.inodes), (5, 4));
        assert_eq!(tally.bytes, (2 << 30) + 10_000);
        assert!(
            (5 * ENTRY_BYTES..1 << 20).contains(&tally.allocated),
            "{tally:?}"
        );
        // Opened for a look, and closed again.
        assert_eq!(fs::metadata(path("sub")).unwrap().mode() & 0o777, 0);
        let few = Tally {
            entries: 1,
            ..Tally::MAX
        };
        assert_eq!(tree.measure(few, None).unwrap().entries, 2);
    }

    /// Seen at once or not, what is there counts and nothing else.
    #[test]
    fn an_unfinished_walk_is_repeated() {
        let place = tempfile::tempdir().unwrap();
        for number in 0..2 * ENTRIES_A_LOOK {
            File::create(place.path().join(number.to_string())).unwrap();
        }
        let tree = Tree::open(place.path()).unwrap();
        // As if others had taken the rest of the file system.
        let tree = Tree {
            free: Space::MAX,
            ..tree
        };
        let enough = Tally {
            bytes: 1 << 20,
            ..Tally::MAX
        };
        let floor = Space::default();
        let passed = Some(Patience {
            deadline: Instant::now(),
            floor,
        });
        let tally = tree.measure(enough, passed).unwrap();
        assert_eq!((tally.bytes, tally.entries), (0, 2 * ENTRIES_A_LOOK));
        // Where the disk is nearly full there is no time to look twice.
        let full = passed.map(|passed| Patience {
            floor: Space::MAX,
            ..passed
        });
        let tally = tree.measure(enough, full).unwrap();
        assert!(tally.is_late && tally.entries == ENTRIES_A_LOOK);
        // Where nothing would come of it, nobody looks twice.
        let tally = tree.measure(Tally::MAX, passed).unwrap();
        assert_eq!(tally.entries, ENTRIES_A_LOOK);
        let closed = fs::Permissions::from_mode(0o000);
        fs::set_permissions(place.path(), closed).unwrap();
        let tally = tree.measure(enough, passed);
        let open = fs::Permissions::from_mode(0o700);
        fs::set_permissions(place.path(), open).unwrap();
        let tally = tally.unwrap();
        assert_eq!((tally.bytes, tally.entries), (0, 2 * ENTRIES_A_LOOK));
    }
}
