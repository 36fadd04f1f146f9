//! Trees on disk: a snapshot to compare, and the space that they take.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use sha2::{Digest, Sha256};

/// One entry of a tree, without its metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A file: bytes and digest of its content.
    File(u64, String),
    /// A symbolic link and its target.
    Link(PathBuf),
    /// Anything else.
    Special,
}

/// Everything below `root`, and itself as the empty path.
///
/// # Panics
/// If something cannot be read.
pub fn snapshot(root: &Path) -> BTreeMap<PathBuf, Node> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let node = node(&path);
        if node == Node::Directory {
            let entries = fs::read_dir(&path).unwrap_or_else(|error| cannot_read(&path, &error));
            pending.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
        let below = path
            .strip_prefix(root)
            .expect("the path is below the root")
            .to_owned();
        found.insert(below, node);
    }
    found
}

fn node(path: &Path) -> Node {
    let metadata = fs::symlink_metadata(path).unwrap_or_else(|error| cannot_read(path, &error));
    if metadata.is_dir() {
        Node::Directory
    } else if metadata.is_file() {
        let content = fs::read(path).unwrap_or_else(|error| cannot_read(path, &error));
        Node::File(metadata.len(), sha256(&content))
    } else if metadata.is_symlink() {
        Node::Link(fs::read_link(path).unwrap_or_else(|error| cannot_read(path, &error)))
    } else {
        Node::Special
    }
}

fn cannot_read(path: &Path, error: &std::io::Error) -> ! {
    panic!("cannot read {}: {error}", path.display())
}

/// The SHA-256 digest in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The permission bits of a path itself.
///
/// # Panics
/// If it cannot be read.
pub fn mode(path: &Path) -> u32 {
    let metadata = fs::symlink_metadata(path).unwrap_or_else(|error| cannot_read(path, &error));
    metadata.mode() & 0o7777
}

/// The modification time of a path itself: seconds and nanoseconds.
///
/// # Panics
/// If it cannot be read.
pub fn mtime(path: &Path) -> (i64, i64) {
    let metadata = fs::symlink_metadata(path).unwrap_or_else(|error| cannot_read(path, &error));
    (metadata.mtime(), metadata.mtime_nsec())
}

/// Sets the modification time of a path itself.
///
/// # Panics
/// If that fails.
pub fn set_mtime(path: &Path, seconds: i64, nanoseconds: u32) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: i64::from(nanoseconds),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .unwrap_or_else(|error| panic!("cannot set the time of {}: {error}", path.display()));
}

/// The space that the files below a directory take on their file system, in bytes.
pub fn disk_usage(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    let entries = entries.map(|entry| entry.expect("an entry").path());
    entries
        .map(|path| match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => disk_usage(&path),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}
