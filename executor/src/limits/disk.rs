//! How much a directory tree takes that a hostile program is changing meanwhile.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, StatVfs, chmodat, fchmod, fstat, fstatvfs,
    openat, statat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::process::with_all_rights;

/// What each entry takes at least: its inode and its name.
const ENTRY_BYTES: u64 = 4096;

/// Directories that are held open at a time: deeper than any that can be imported. What lies deeper counts
/// as one that cannot be read.
const MAX_OPEN: usize = 520;

/// Entries between two looks at the clock.
const ENTRIES_A_LOOK: u64 = 256;

/// What a tree takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Bytes of its files, holes included.
    pub(super) bytes: u64,
    /// Bytes of disk.
    pub(super) allocated: u64,
    pub(super) entries: u64,
    /// Whether part of it could not be read.
    pub(super) is_partial: bool,
}

/// A tree, and the file system that it is on.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    pub(super) device: u64,
    /// What was free at first.
    free: Free,
}

/// What is free on a file system.
#[derive(Clone, Copy, Debug)]
struct Free {
    bytes: u64,
    /// None where these are not counted.
    entries: u64,
}

impl Tree {
    pub(super) fn open(path: &Path) -> io::Result<Tree> {
        let root = directory_at(CWD.as_fd(), path)?;
        let device = fstat(&root)?.st_dev;
        let free = Free::of(&root)?;
        Ok(Tree { root, device, free })
    }

    /// Bytes that should stay free on this file system, unless the user says otherwise: up to `most`.
    pub(super) fn reserve(&self, most: u64) -> io::Result<u64> {
        let status = fstatvfs(&self.root)?;
        let twentieth = status.f_blocks / 20 * status.f_frsize;
        Ok(most.min(twentieth).min(available_bytes(&status) / 2))
    }

    /// Bytes that this user may still write there.
    pub(super) fn available_bytes(&self) -> io::Result<u64> {
        Ok(available_bytes(&fstatvfs(&self.root)?))
    }

    /// Bytes that the file system has lost since, to whomever.
    pub(super) fn lost_bytes(&self) -> io::Result<u64> {
        Ok(self.lost()?.bytes)
    }

    fn lost(&self) -> io::Result<Free> {
        let now = Free::of(&self.root)?;
        Ok(Free {
            bytes: self.free.bytes.saturating_sub(now.bytes),
            entries: self.free.entries.saturating_sub(now.entries),
        })
    }

    /// Counts up to `enough`, or for as long as may be: of what is beyond no more is counted. Where there
    /// is no `deadline`, all is at rest and ours, and what was closed to us is open while we look.
    pub(super) fn measure(&self, enough: Tally, deadline: Option<Instant>) -> io::Result<Tally> {
        let seen = self.walk(enough, deadline)?;
        if !seen.is_partial {
            return Ok(seen);
        }
        // What cannot be seen is at most what the file system has lost.
        let lost = self.lost()?;
        let most = Tally {
            bytes: seen.bytes.max(lost.bytes),
            allocated: seen.allocated.max(lost.bytes),
            entries: seen.entries.max(lost.entries),
            ..seen
        };
        if deadline.is_none() || !most.exceeds(enough) {
            return Ok(most);
        }
        // It may be others who took it. To open what is closed would show in the program.
        let all = with_all_rights(|| Ok(self.walk(enough, deadline)?.numbers()));
        match all.map(Tally::from_numbers) {
            Ok(all) if !all.is_partial => Ok(all),
            Ok(_) => Ok(most),
            Err(error) => {
                tracing::debug!(%error, "what the program closed is not seen");
                Ok(most)
            }
        }
    }

    fn walk(&self, enough: Tally, deadline: Option<Instant>) -> io::Result<Tally> {
        let mut tally = Tally::default();
        let may_open = deadline.is_none();
        let mut open = Vec::new();
        match Open::root(&self.root, may_open) {
            Ok(first) => open.push(first),
            // The program may have taken away our right to look.
            Err(_) => tally.is_partial = true,
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
                    tally.is_partial |= errno != Errno::NOENT;
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
                    tally.is_partial = true;
                    continue;
                }
            };
            tally.entries += 1;
            tally.allocated += (status.st_blocks as u64 * 512).max(ENTRY_BYTES);
            let kind = FileType::from_raw_mode(status.st_mode);
            if kind == FileType::RegularFile {
                tally.bytes += status.st_size as u64;
            }
            let is_late = tally.entries % ENTRIES_A_LOOK == 0
                && deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if tally.exceeds(enough) || is_late {
                return Ok(tally);
            }
            if kind == FileType::Directory {
                match Open::at(at, name, may_open) {
                    Ok(below) if open.len() < MAX_OPEN => open.push(below),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    _ => tally.is_partial = true,
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
        is_partial: false,
    };

    fn numbers(self) -> [u64; 4] {
        let is_partial = u64::from(self.is_partial);
        [self.bytes, self.allocated, self.entries, is_partial]
    }

    fn from_numbers([bytes, allocated, entries, is_partial]: [u64; 4]) -> Tally {
        Tally {
            bytes,
            allocated,
            entries,
            is_partial: is_partial != 0,
        }
    }

    fn exceeds(self, limit: Tally) -> bool {
        self.bytes > limit.bytes || self.allocated > limit.allocated || self.entries > limit.entries
    }
}

fn directory_at(at: BorrowedFd<'_>, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, path, flags, Mode::empty())?)
}

fn available_bytes(status: &StatVfs) -> u64 {
    // Some of it may be kept for root.
    let blocks = match geteuid().is_root() {
        true => status.f_bfree,
        false => status.f_bavail,
    };
    blocks * status.f_frsize
}

impl Free {
    fn of(directory: &OwnedFd) -> io::Result<Free> {
        let status = fstatvfs(directory)?;
        Ok(Free {
            bytes: status.f_bfree * status.f_frsize,
            entries: status.f_ffree,
        })
    }
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
        let closed = fs::Permissions::from_mode(0o000);
        fs::set_permissions(path("sub"), closed).unwrap();
        let tree = Tree::open(place.path()).unwrap();
        let tally = tree.measure(Tally::MAX, None).unwrap();
        assert_eq!(tally.entries, 4);
        assert_eq!(tally.bytes, (1 << 30) + 10_000);
        assert!(
            (4 * ENTRY_BYTES..1 << 20).contains(&tally.allocated),
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

    /// What others write meanwhile is not the program's, also where that cannot be seen at once.
    #[test]
    fn what_others_take_does_not_count() {
        let place = tempfile::tempdir().unwrap();
        let closed = place.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::write(closed.join("file"), "x").unwrap();
        let tree = Tree::open(&closed).unwrap();
        let set_mode = |mode| fs::set_permissions(&closed, fs::Permissions::from_mode(mode));
        set_mode(0o000).unwrap();
        let other = File::create(place.path().join("other")).unwrap();
        rustix::fs::fallocate(&other, rustix::fs::FallocateFlags::empty(), 0, 64 << 20).unwrap();
        other.sync_all().unwrap();
        let enough = Tally {
            bytes: 1 << 20,
            ..Tally::MAX
        };
        let deadline = Some(Instant::now() + std::time::Duration::from_secs(60));
        let tally = tree.measure(enough, deadline);
        set_mode(0o700).unwrap();
        let tally = tally.unwrap();
        assert_eq!((tally.bytes, tally.entries), (1, 1), "{tally:?}");
        assert!(tree.lost_bytes().unwrap() >= 1 << 20);
    }
}
