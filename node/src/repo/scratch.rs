//! Scratch directories of living processes.
//!
//! A scratch directory is locked (flock) for as long as its process lives. Whoever can take the
//! lock knows that the owner is dead and removes the directory: nothing stays behind for good,
//! also after kill -9.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::RepoError;

/// A directory that goes away with its guard.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
}

impl Scratch {
    /// Makes a new directory `PID-RAND` below `run`, after removing those of the dead.
    pub(super) fn create(run: &Path) -> Result<Scratch, RepoError> {
        remove_dead(run)?;
        loop {
            let path = run.join(unique_name());
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(RepoError::io("create", &path)(error)),
            }
            // Between creation and lock another process may take it for dead and remove it.
            if let Some(lock) = lock_existing(&path)? {
                return Ok(Scratch { path, _lock: lock });
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The name that a lease gives as its holder.
    pub(super) fn name(&self) -> &str {
        self.path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("the name was made of ASCII")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(CWD, &self.path) {
            // The next process removes it.
            tracing::debug!(path = %self.path.display(), %error, "scratch directory stays behind");
        }
    }
}

/// Whether the process that owns the scratch directory `name` below `run` lives.
pub(super) fn is_alive(run: &Path, name: &str) -> Result<bool, RepoError> {
    let path = run.join(name);
    match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(RepoError::io("open", &path)(error)),
        Ok(directory) => Ok(!try_lock(&directory, &path)?),
    }
}

fn remove_dead(run: &Path) -> Result<(), RepoError> {
    for entry in fs::read_dir(run).map_err(RepoError::io("read", run))? {
        let path = entry.map_err(RepoError::io("read", run))?.path();
        let Some(_lock) = lock_existing(&path)? else {
            continue;
        };
        if let Err(error) = remove_tree(CWD, &path) {
            tracing::debug!(path = %path.display(), %error, "cannot remove a dead scratch directory");
        }
    }
    Ok(())
}

/// Locks the directory; `None` when somebody holds it or it is gone.
fn lock_existing(path: &Path) -> Result<Option<File>, RepoError> {
    let directory = match File::open(path) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(RepoError::io("open", path)(error)),
    };
    if !try_lock(&directory, path)? {
        return Ok(None);
    }
    let held = directory.metadata().map_err(RepoError::io("stat", path))?;
    match fs::symlink_metadata(path) {
        Ok(found) if found.ino() == held.ino() && found.dev() == held.dev() => Ok(Some(directory)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RepoError::io("stat", path)(error)),
    }
}

fn try_lock(directory: &File, path: &Path) -> Result<bool, RepoError> {
    match rustix::fs::flock(directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(RepoError::errno("lock", path)(errno)),
    }
}

/// `PID-RAND`: the number is for people, the rest makes it unique.
fn unique_name() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u64(COUNTER.fetch_add(1, Ordering::Relaxed));
    format!("{}-{:016x}", std::process::id(), hasher.finish())
}

/// Removes `path` (relative to `directory`) and everything below it, following no symlink and
/// crossing nothing by name twice. Directories that their owner made unreadable are opened up
/// first. Iterative: the depth of the tree costs one descriptor a level up to a bound, below which
/// subtrees are moved up.
///
/// # Errors
/// The first that is not "it is gone already".
pub fn remove_tree(directory: impl AsFd, path: impl AsRef<Path>) -> io::Result<()> {
    let name = path.as_ref();
    match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says EISDIR, POSIX EPERM.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    let root = open_removable(directory.as_fd(), name)?;
    empty(root)?;
    match rustix::fs::unlinkat(&directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes what is in `root`. Works on a stack of open directories; one that is too deep has its
/// subdirectories moved into `root` under fresh names, where they are shallow again.
fn empty(root: OwnedFd) -> io::Result<()> {
    const MAX_OPEN: usize = 128;
    let mut moved = 0u64;
    let mut stack: Vec<(OwnedFd, Vec<u8>)> = vec![(root, Vec::new())];
    while let Some((directory, _)) = stack.last() {
        match next_subdirectory(directory.as_fd())? {
            Some(name) if stack.len() < MAX_OPEN => {
                let below = open_removable(directory.as_fd(), &name[..])?;
                stack.push((below, name));
            }
            Some(name) => {
                let fresh = format!(".removed-{}-{moved}", std::process::id());
                moved += 1;
                rustix::fs::renameat(directory, &name[..], &stack[0].0, fresh)?;
            }
            None => {
                let (_, name) = stack.pop().expect("the loop saw the last element");
                if let Some((parent, _)) = stack.last() {
                    rustix::fs::unlinkat(parent, &name[..], AtFlags::REMOVEDIR)?;
                }
            }
        }
    }
    Ok(())
}

/// Unlinks everything in `directory` that is no directory; the first that is one ends the scan.
fn next_subdirectory(directory: BorrowedFd<'_>) -> io::Result<Option<Vec<u8>>> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            return Ok(Some(name.to_vec()));
        }
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => return Ok(Some(name.to_vec())),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(None)
}

/// Opens a directory so that its entries can be removed, giving its owner the right to where that
/// is missing.
fn open_removable<P: rustix::path::Arg + Copy>(
    parent: BorrowedFd<'_>,
    name: P,
) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(parent, name, flags | OFlags::PATH, Mode::empty())?;
    let needed = Mode::RUSR | Mode::WUSR | Mode::XUSR;
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&handle)?.st_mode);
    if !mode.contains(needed) {
        // An O_PATH descriptor cannot be chmodded itself; its name in /proc can.
        use std::os::fd::AsRawFd;
        let itself = format!("/proc/self/fd/{}", handle.as_raw_fd());
        rustix::fs::chmod(itself, mode | needed)?;
    }
    Ok(rustix::fs::openat(
        parent,
        name,
        flags | OFlags::RDONLY,
        Mode::empty(),
    )?)
}
