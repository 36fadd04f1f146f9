//! Last step of an entry: its mode and time are set once everything in it is written.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{Mode, Timespec, Timestamps};

use super::Directory;
use crate::unixfs::{Mtime, UnixfsError};

/// The obligation to finish an entry, which falls to the last who leaves it.
#[derive(Debug)]
pub(super) struct Finish {
    /// Waits for this entry.
    pub(super) parent: Arc<Directory>,
    /// Work that may still write below.
    open: AtomicUsize,
    mode: Option<u32>,
    mtime: Option<Mtime>,
}

impl Finish {
    /// The caller has entered.
    pub(super) fn new(parent: Arc<Directory>, mode: Option<u32>, mtime: Option<Mtime>) -> Finish {
        Finish {
            parent,
            open: AtomicUsize::new(1),
            mode,
            mtime,
        }
    }

    pub(super) fn enter(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// True for the last to leave.
    pub(super) fn leave(&self) -> bool {
        self.open.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Sets mode and time.
    pub(super) fn apply(&self, descriptor: BorrowedFd<'_>, path: &Path) -> Result<(), UnixfsError> {
        if let Some(mode) = self.mode {
            rustix::fs::fchmod(descriptor, Mode::from_raw_mode(mode))
                .map_err(UnixfsError::errno("set the mode of", path))?;
        }
        if let Some(mtime) = self.mtime {
            rustix::fs::futimens(descriptor, &timestamps(mtime))
                .map_err(UnixfsError::errno("set the time of", path))?;
        }
        Ok(())
    }
}

pub(super) fn timestamps(mtime: Mtime) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.seconds,
        tv_nsec: mtime.nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
