//! The report of unpacking an entry, kept beside its tree.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags, openat};
use serde::{Deserialize, Serialize};

use crate::archive::Unpacked;

/// Name of the seal in an entry.
const NAME: &str = "sealed.json";

/// Largest seal, in bytes: the warnings are few, and their names short.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Facts about a finished tree.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Seal {
    pub(super) unpacked: Unpacked,
}

impl Seal {
    pub(super) fn write(&self, entry: BorrowedFd<'_>) -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(entry, NAME, flags, Mode::RUSR | Mode::WUSR)?;
        let bytes = serde_json::to_vec(self).map_err(io::Error::other)?;
        File::from(file).write_all(&bytes)
    }

    pub(super) fn read(entry: impl AsFd) -> io::Result<Seal> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(entry, NAME, flags, Mode::empty())?);
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes)?;
        serde_json::from_slice(&bytes).map_err(io::Error::other)
    }
}
