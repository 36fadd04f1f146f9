//! Local directories as root file systems.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use ipfs_exec_node::Cancel;
use ipfs_exec_node::budget::BudgetError;
use ipfs_exec_node::path::escape;
use ipfs_exec_node::progress::{Event, Reporter};
use ipfs_exec_node::unixfs::UnixfsError;

use crate::error::CommandError;
use crate::progress::Progress;

/// Most entries that are named; a `/dev` has hundreds.
const MAX_NAMED: u64 = 20;

/// Warns of what an import leaves out.
pub(crate) struct LeftOut<'p> {
    progress: &'p Progress,
    /// The directory that is imported.
    root: &'p Path,
    count: AtomicU64,
}

impl<'p> LeftOut<'p> {
    pub(crate) fn new(progress: &'p Progress, root: &'p Path) -> LeftOut<'p> {
        LeftOut {
            progress,
            root,
            count: AtomicU64::new(0),
        }
    }

    /// Tells how many were left out without being named.
    pub(crate) fn finish(self) {
        let unnamed = self.count.into_inner().saturating_sub(MAX_NAMED);
        if unnamed > 0 {
            tracing::warn!(
                "left out {unnamed} more devices, FIFOs, sockets and file systems of {}",
                escape(self.root.as_os_str().as_bytes())
            );
        }
    }
}

impl Reporter for LeftOut<'_> {
    fn report(&self, event: Event) {
        self.progress.report(event);
    }

    fn left_out(&self, path: &Path, kind: &str) {
        if self.count.fetch_add(1, Ordering::Relaxed) < MAX_NAMED {
            let path = escape(path.as_os_str().as_bytes());
            tracing::warn!("left out `{path}` of the root file system: it is {kind}");
        }
    }

    fn cancel(&self) -> &Cancel {
        self.progress.cancel()
    }
}

/// The error of a failed import, with a hint. Only the import of a root file system has bounds on bytes and
/// entries.
pub(crate) fn import_failed(error: UnixfsError) -> CommandError {
    let hint = match error.budget() {
        Some(BudgetError::Bytes { .. }) => Some("allow more with `--max-rootfs-size`"),
        Some(BudgetError::Entries { .. }) => Some("allow more with `--max-rootfs-entries`"),
        _ => None,
    };
    let failed = CommandError::from(error);
    match hint {
        Some(hint) => failed.with_hint(hint),
        None => failed,
    }
}
