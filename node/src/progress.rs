//! Reports of long work to its caller while the work goes on.
//!
//! The libraries cannot print. They report to a [`Reporter`]; the silent one is the default.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Instant;

/// One step of a long operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The work is known to have this many bytes; may grow while it goes on.
    Total {
        /// Bytes of content.
        bytes: u64,
    },
    /// This many further bytes of content are done.
    Advanced {
        /// Bytes since the last event.
        bytes: u64,
    },
    /// One further file, directory, link or archive entry is done.
    Entry,
}

/// Receives events, from any thread.
pub trait Reporter: Send + Sync {
    /// Takes one event; must return quickly.
    fn report(&self, event: Event);

    /// Learns that an import left out `path`, because it is `kind`, which has its article. May be called
    /// for any number of paths.
    fn left_out(&self, path: &Path, kind: &str) {
        let (_, _) = (path, kind);
    }

    /// Whether the work should stop at the next safe point. Operations then fail with their
    /// `Interrupted` error and leave nothing half made.
    fn interrupted(&self) -> bool {
        false
    }
}

/// The wish of the user that the work should stop, for code that waits for other processes.
pub trait Interruption: fmt::Debug + Send + Sync {
    /// Whether the user wants that.
    fn asked(&self) -> bool;

    /// When waiting ends at the latest, where the work has a limit of time.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Becomes readable as soon as the user wants that, and stays so. Waiting code polls it and
    /// never reads it.
    fn descriptor(&self) -> BorrowedFd<'_>;
}

/// Discards every event.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn report(&self, _event: Event) {}
}
