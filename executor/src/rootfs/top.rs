//! The entries in the root directory of a tree.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{AtFlags, Dir, FileType, readlinkat, statat};
use rustix::io::Result;

use crate::layout::MOUNT_POINTS;
use crate::sandbox::{TopEntry, TopEntryKind};

/// Lists `tree`, without the mount points, sorted.
pub(super) fn list(tree: &OwnedFd) -> Result<Vec<TopEntry>> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(tree)? {
        let name = entry?.file_name().to_owned();
        let bytes = name.to_bytes();
        let is_mount_point = MOUNT_POINTS.iter().any(|point| point.as_bytes() == bytes);
        if bytes == b"." || bytes == b".." || is_mount_point {
            continue;
        }
        let status = statat(tree, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = match FileType::from_raw_mode(status.st_mode) {
            FileType::Symlink => {
                let target = readlinkat(tree, &name, Vec::new())?.into_bytes();
                TopEntryKind::Symlink {
                    target: OsString::from_vec(target),
                }
            }
            FileType::Directory => TopEntryKind::Directory,
            _ => TopEntryKind::File,
        };
        entries.push(TopEntry {
            name: OsString::from_vec(name.into_bytes()),
            kind,
        });
    }
    entries.sort();
    Ok(entries)
}
