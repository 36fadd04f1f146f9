//! The interface between a run and its root file system.

use std::ffi::OsStr;
use std::io;

use super::{InitError, RootfsError};
use crate::archive::Warning;
use crate::mount::SandboxMount;
use crate::sandbox::{RootSource, TopEntry};

/// A root file system that a sandbox can be given.
pub(crate) trait RootTree {
    /// Where the sandbox takes it from; with its `entries`, where those are needed one by one, and with what
    /// stands in for an overlay.
    fn source<'p>(
        &'p self,
        entries: Option<&'p [TopEntry]>,
        stand_in: Option<&'p SandboxMount<'p>>,
    ) -> RootSource<'p>;

    /// Whether `program` could be started, as far as that can be told without doing it.
    fn check(&self, program: &OsStr) -> Result<(), InitError>;

    /// Which manager of services `program` is, which does nothing with arguments.
    fn service_manager(&self, program: &OsStr) -> Option<&'static str>;

    /// Why a complete sandbox could not execute `program`; `source` is what the kernel says.
    fn not_executed(&self, program: &OsStr, source: io::Error) -> InitError;

    /// The entries of its root directory beside the mount points, sorted.
    fn top_entries(&self) -> Result<Vec<TopEntry>, RootfsError>;

    /// A mount that shows an unpacked tree in a sandbox without an overlay; `covered` is a mount point in whose
    /// place it shows an empty file. `None` where the tree needs no such mount, or FUSE cannot be used.
    fn stand_in(
        &self,
        covered: Option<&'static str>,
    ) -> Result<Option<SandboxMount<'_>>, RootfsError>;

    /// The mount that shows it, in the sandbox alone.
    fn mount(&self) -> Option<&SandboxMount<'_>>;

    /// The first warnings about entries that were left out, and the number of further ones.
    fn warnings(&self) -> (&[Warning], u64);

    /// Reports, after the program's end, what kept it from reading part of the tree.
    fn finish(&self) -> Result<(), RootfsError>;
}
