//! Metadata that an import of a root file system records: the same as an archive of it records.

use rustix::fs::FileType;

use super::{Metadata, Mtime};

/// What is kept of a file's mode: no set-id bits, no sticky bit.
const FILE_MODE_MASK: u32 = 0o777;

/// What is kept of a directory's mode: no set-id bits.
const DIRECTORY_MODE_MASK: u32 = 0o1777;

/// Mode of a directory on which another file system is mounted: its own is hidden, and that of the other
/// file system may differ from boot to boot.
const MOUNTED_ON_MODE: u32 = 0o755;

/// What is recorded of an entry with this mode, its type included, and time. GNU tar, busybox and
/// `docker export` write whole seconds.
pub(super) fn metadata(mode: u32, mtime: Mtime) -> Metadata {
    let mask = match FileType::from_raw_mode(mode) {
        FileType::Directory => DIRECTORY_MODE_MASK,
        _ => FILE_MODE_MASK,
    };
    Metadata {
        mode: Some(mode & mask),
        mtime: Some(Mtime {
            nanoseconds: 0,
            ..mtime
        }),
    }
}

/// What is recorded of a directory on which another file system is mounted.
pub(super) fn mounted_on() -> Metadata {
    Metadata {
        mode: Some(MOUNTED_ON_MODE),
        mtime: Some(Mtime::default()),
    }
}
