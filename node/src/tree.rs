//! Removal of hostile directory trees.
//!
//! The invariants: nothing outside the tree changes, no link is followed, and neither the depth of
//! the tree nor the size of a directory costs memory or descriptors.
//!
//! [`remove_tree`] does not walk down and up again. It flattens the tree: a directory inside the tree
//! that is not empty is renamed to the top of the tree, and is emptied there.
//!
//! ```text
//! tree/a/b/c/...   =>   tree/a/  tree/~0/c/...   =>   tree/~0/  tree/~1/...   =>   ...
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, chmodat, fchmod, fstat, openat,
    renameat_with, unlinkat,
};
use rustix::io::Errno;

use crate::path::escape;

/// What the owner needs on a directory to empty it.
const OWNER_ALL: Mode = Mode::RWXU;

/// Why a tree could not be removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot remove `{name}`", name = escape(name))]
pub struct TreeError {
    /// The entry at which removal stopped, by its name in its directory.
    name: Vec<u8>,
    /// The error of the kernel.
    #[source]
    source: std::io::Error,
}

impl TreeError {
    /// That `errno` kept the entry `name` from being removed.
    pub fn new(name: &[u8], errno: Errno) -> TreeError {
        TreeError {
            name: name.to_owned(),
            source: errno.into(),
        }
    }
}

/// Removes the entry `name` of `parent` with everything below it, whatever its type and modes.
/// That there is none is no error.
///
/// Nobody else may change the tree meanwhile.
///
/// # Errors
/// [`TreeError`] names the entry at which it stopped; calling again goes on from there.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), TreeError> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(TreeError::new(name, errno)),
    }
    let top = open_owned(parent, name).map_err(|errno| TreeError::new(name, errno))?;
    let mut flattening = Flattening { top, moved: 0 };
    while flattening.pass()? {}
    unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(|errno| TreeError::new(name, errno))
}

/// The top of a tree that is being removed.
struct Flattening {
    top: OwnedFd,
    /// Directories moved to the top so far; the next one's name.
    moved: u64,
}

impl Flattening {
    /// Removes every entry of the top, to which directories from below may be added. Gives whether
    /// there was any.
    fn pass(&mut self) -> Result<bool, TreeError> {
        let mut found = false;
        for entry in entries(&self.top)? {
            let (name, kind) = entry?;
            found = true;
            if kind == FileType::Directory {
                self.remove_directory(&name)?;
            } else {
                self.remove_leaf(&name)?;
            }
        }
        Ok(found)
    }

    /// Removes what the listing did not call a directory; file systems may leave the type out.
    fn remove_leaf(&mut self, name: &[u8]) -> Result<(), TreeError> {
        match unlinkat(&self.top, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => self.remove_directory(name),
            result => result.map_err(|errno| TreeError::new(name, errno)),
        }
    }

    /// Empties the directory `name` of the top and removes it.
    fn remove_directory(&mut self, name: &[u8]) -> Result<(), TreeError> {
        let directory = open_owned(self.top.as_fd(), name).map_err(|e| TreeError::new(name, e))?;
        loop {
            let mut found = false;
            for entry in entries(&directory)? {
                let (child, _) = entry?;
                found = true;
                self.remove_or_move(&directory, &child)?;
            }
            if !found {
                break;
            }
        }
        unlinkat(&self.top, name, AtFlags::REMOVEDIR).map_err(|e| TreeError::new(name, e))
    }

    /// Takes `name` out of `directory`: removed if that goes at once, else moved to the top.
    fn remove_or_move(&mut self, directory: &OwnedFd, name: &[u8]) -> Result<(), TreeError> {
        match unlinkat(directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {}
            result => return result.map_err(|errno| TreeError::new(name, errno)),
        }
        match unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => self.move_to_top(directory, name),
            result => result.map_err(|errno| TreeError::new(name, errno)),
        }
    }

    fn move_to_top(&mut self, directory: &OwnedFd, name: &[u8]) -> Result<(), TreeError> {
        let fail = |errno| TreeError::new(name, errno);
        // Moving a directory rewrites its `..`, for which its owner needs to write to it.
        open_owned(directory.as_fd(), name).map_err(fail)?;
        loop {
            let target = format!("~{}", self.moved);
            self.moved += 1;
            let keep = RenameFlags::NOREPLACE;
            match renameat_with(directory, name, &self.top, target.as_str(), keep) {
                Err(Errno::EXIST) => {}
                result => return result.map_err(fail),
            }
        }
    }
}

/// Lists `directory` from its start, without `.` and `..`.
fn entries(
    directory: &OwnedFd,
) -> Result<impl Iterator<Item = Result<(Vec<u8>, FileType), TreeError>> + use<>, TreeError> {
    let fail = |errno| TreeError::new(b".", errno);
    let listing = Dir::read_from(directory).map_err(fail)?;
    Ok(listing
        .map(move |entry| {
            let entry = entry.map_err(fail)?;
            Ok((entry.file_name().to_bytes().to_owned(), entry.file_type()))
        })
        .filter(|entry| !matches!(entry, Ok((name, _)) if name == b"." || name == b"..")))
}

/// Opens the directory entry `name` of `parent` for reading.
fn open_entry(parent: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Opens the directory `name` of `parent` and gives its owner all permissions on it.
fn open_owned(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let directory = match open_entry(parent, name) {
        Err(Errno::ACCESS) => {
            permit(parent, name)?;
            open_entry(parent, name)?
        }
        result => result?,
    };
    let mode = Mode::from_raw_mode(fstat(&directory)?.st_mode);
    if !mode.contains(OWNER_ALL) {
        fchmod(&directory, mode | OWNER_ALL)?;
    }
    Ok(directory)
}

/// Changes the mode of a directory that cannot be opened yet. `fchmod` refuses the `O_PATH`
/// descriptor that can be had of it, and `fchmodat` would follow a link; the link in `/proc` leads
/// to the descriptor's own inode and nowhere else.
fn permit(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;

    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(parent, name, flags, Mode::empty())?;
    let itself = format!("/proc/self/fd/{}", directory.as_raw_fd());
    chmodat(CWD, itself.as_str(), OWNER_ALL, AtFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use rustix::fs::mkdirat;

    fn open_root(path: &Path) -> OwnedFd {
        fs::File::open(path).unwrap().into()
    }

    fn remove(parent: &Path, name: &str) -> Result<(), TreeError> {
        remove_tree(open_root(parent).as_fd(), name.as_bytes())
    }

    #[test]
    fn missing_entries_count_as_removed() {
        let parent = tempfile::tempdir().unwrap();
        remove(parent.path(), "nothing").unwrap();
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let outside = parent.path().join("outside");
        fs::create_dir_all(outside.join("kept")).unwrap();
        let tree = parent.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        symlink(&outside, tree.join("link")).unwrap();
        symlink("../../../outside", tree.join("a/b/link")).unwrap();
        symlink(&outside, parent.path().join("toplink")).unwrap();
        remove(parent.path(), "tree").unwrap();
        remove(parent.path(), "toplink").unwrap();
        assert!(outside.join("kept").is_dir());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn modes_that_refuse_their_owner_do_not_stop_it() {
        let parent = tempfile::tempdir().unwrap();
        let tree = parent.path().join("tree");
        fs::create_dir_all(tree.join("a/b/c/d")).unwrap();
        fs::write(tree.join("a/b/c/file"), "x").unwrap();
        for below in ["a/b/c/d", "a/b/c/file", "a/b/c", "a/b", "a", ""] {
            fs::set_permissions(tree.join(below), fs::Permissions::from_mode(0o000)).unwrap();
        }
        remove(parent.path(), "tree").unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn names_of_moved_directories_may_be_taken() {
        let parent = tempfile::tempdir().unwrap();
        let tree = parent.path().join("tree");
        for number in 0..4 {
            fs::create_dir_all(tree.join(format!("~{number}/~{number}/~{number}/x"))).unwrap();
        }
        remove(parent.path(), "tree").unwrap();
        assert!(!tree.exists());
    }

    /// Deeper than any path or descriptor table: 20,000 levels, made by descriptor.
    #[test]
    fn depth_costs_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let mut directory = open_root(parent.path());
        for _ in 0..20_000 {
            mkdirat(&directory, "d", Mode::from_raw_mode(0o700)).unwrap();
            directory = open_entry(&directory, b"d").unwrap();
        }
        remove(parent.path(), "d").unwrap();
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn many_entries_of_every_kind() {
        let parent = tempfile::tempdir().unwrap();
        let tree = parent.path().join("tree");
        for number in 0..300 {
            fs::create_dir_all(tree.join(format!("{number}/{number}/{number}"))).unwrap();
            fs::write(tree.join(format!("{number}/file")), "x").unwrap();
        }
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(CWD, tree.join("0/fifo"), fifo, OWNER_ALL, 0).unwrap();
        remove(parent.path(), "tree").unwrap();
        assert!(!tree.exists());
    }
}
