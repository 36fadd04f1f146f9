//! Reports of long work to its caller while the work goes on.
//!
//! The libraries cannot print. They report to a [`Reporter`]; the silent one is the default.

use std::path::Path;

use crate::cancel::{Cancel, NEVER};

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
    fn cancel(&self) -> &Cancel;
}

/// Discards every event, and never cancels.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn report(&self, _event: Event) {}

    fn cancel(&self) -> &Cancel {
        &NEVER
    }
}

/// Discards every event; its token cancels the work.
#[derive(Clone, Debug)]
pub struct Quiet(pub Cancel);

impl Reporter for Quiet {
    fn report(&self, _event: Event) {}

    fn cancel(&self) -> &Cancel {
        &self.0
    }
}
