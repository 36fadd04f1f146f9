//! The root file system of a run: an unpacked archive, or a mounted directory.

use std::ffi::OsStr;
use std::io;

use crate::archive::Warning;
use crate::input::InputKind;
use crate::mount::SandboxMount;
use crate::rootfs::{InitError, MountedRootfs, Rootfs, RootfsError};
use crate::sandbox::{self, RootSource, TopEntry};

/// A root file system that a sandbox can be given.
pub(super) trait RootTree {
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

    /// What its root directory holds beside mount points, sorted.
    fn top_entries(&self) -> Result<Vec<TopEntry>, RootfsError>;

    /// What shows an unpacked tree where there can be no overlay.
    fn stand_in(&self, input: InputKind) -> Result<Option<SandboxMount<'_>>, RootfsError>;

    /// What has to be mounted there, in the sandbox alone.
    fn mount(&self) -> Option<&SandboxMount<'_>>;

    /// What was left out when it was unpacked: the first warnings, and how many there are more.
    fn warnings(&self) -> (&[Warning], u64);

    /// Reports, after the program's end, what kept it from reading part of the tree.
    fn finish(&self) -> Result<(), RootfsError>;
}

impl RootTree for Rootfs {
    fn source<'p>(
        &'p self,
        entries: Option<&'p [TopEntry]>,
        stand_in: Option<&'p SandboxMount<'p>>,
    ) -> RootSource<'p> {
        RootSource::Unpacked {
            tree: self.tree(),
            entries,
            stand_in,
        }
    }

    fn check(&self, program: &OsStr) -> Result<(), InitError> {
        Rootfs::check(self, program)
    }

    fn service_manager(&self, program: &OsStr) -> Option<&'static str> {
        Rootfs::service_manager(self, program)
    }

    fn not_executed(&self, program: &OsStr, source: io::Error) -> InitError {
        Rootfs::not_executed(self, program, source)
    }

    fn top_entries(&self) -> Result<Vec<TopEntry>, RootfsError> {
        Rootfs::top_entries(self)
    }

    fn stand_in(&self, input: InputKind) -> Result<Option<SandboxMount<'_>>, RootfsError> {
        Rootfs::stand_in(self, (input == InputKind::File).then_some(sandbox::INPUT))
    }

    fn mount(&self) -> Option<&SandboxMount<'_>> {
        None
    }

    fn warnings(&self) -> (&[Warning], u64) {
        (Rootfs::warnings(self), self.more_warnings())
    }

    fn finish(&self) -> Result<(), RootfsError> {
        Ok(())
    }
}

impl RootTree for MountedRootfs<'_> {
    fn source<'p>(
        &'p self,
        entries: Option<&'p [TopEntry]>,
        _stand_in: Option<&'p SandboxMount<'p>>,
    ) -> RootSource<'p> {
        RootSource::Mounted { entries }
    }

    fn check(&self, program: &OsStr) -> Result<(), InitError> {
        MountedRootfs::check(self, program)
    }

    fn service_manager(&self, program: &OsStr) -> Option<&'static str> {
        MountedRootfs::service_manager(self, program)
    }

    fn not_executed(&self, program: &OsStr, source: io::Error) -> InitError {
        MountedRootfs::not_executed(self, program, source)
    }

    fn top_entries(&self) -> Result<Vec<TopEntry>, RootfsError> {
        MountedRootfs::top_entries(self)
    }

    fn stand_in(&self, _input: InputKind) -> Result<Option<SandboxMount<'_>>, RootfsError> {
        Ok(None)
    }

    fn mount(&self) -> Option<&SandboxMount<'_>> {
        Some(MountedRootfs::mount(self))
    }

    fn warnings(&self) -> (&[Warning], u64) {
        (&[], 0)
    }

    fn finish(&self) -> Result<(), RootfsError> {
        self.take_failure()
            .map_or(Ok(()), |failure| Err(RootfsError::Read(failure)))
    }
}
