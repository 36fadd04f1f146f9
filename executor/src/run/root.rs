//! The root file system of a run: an unpacked archive, or a mounted directory.

use std::ffi::OsStr;
use std::io;

use super::error::RunError;
use crate::archive::Warning;
use crate::input::InputKind;
use crate::mount::SandboxMount;
use crate::rootfs::{InitError, MountedRootfs, Rootfs, RootfsError, TopEntry};
use crate::sandbox::{self, RootSource};

/// See the [module](self).
pub(super) enum Root<'r> {
    Unpacked(Box<Rootfs>),
    Mounted(Box<MountedRootfs<'r>>),
}

impl Root<'_> {
    /// Where the sandbox takes it from; with its `entries`, where those are needed one by one, and with what
    /// stands in for an overlay.
    pub(super) fn source<'p>(
        &'p self,
        entries: Option<&'p [TopEntry]>,
        stand_in: Option<&'p SandboxMount<'p>>,
    ) -> RootSource<'p> {
        match self {
            Root::Unpacked(rootfs) => RootSource::Unpacked {
                tree: rootfs.tree(),
                entries,
                stand_in,
            },
            Root::Mounted(_) => RootSource::Mounted { entries },
        }
    }

    pub(super) fn check(&self, program: &OsStr) -> Result<(), InitError> {
        match self {
            Root::Unpacked(rootfs) => rootfs.check(program),
            Root::Mounted(rootfs) => rootfs.check(program),
        }
    }

    pub(super) fn service_manager(&self, program: &OsStr) -> Option<&'static str> {
        match self {
            Root::Unpacked(rootfs) => rootfs.service_manager(program),
            Root::Mounted(rootfs) => rootfs.service_manager(program),
        }
    }

    pub(super) fn not_executed(&self, program: &OsStr, source: io::Error) -> InitError {
        match self {
            Root::Unpacked(rootfs) => rootfs.not_executed(program, source),
            Root::Mounted(rootfs) => rootfs.not_executed(program, source),
        }
    }

    pub(super) fn top_entries(&self) -> Result<Vec<TopEntry>, RootfsError> {
        match self {
            Root::Unpacked(rootfs) => rootfs.top_entries(),
            Root::Mounted(rootfs) => rootfs.top_entries(),
        }
    }

    /// What shows an unpacked tree where there can be no overlay.
    pub(super) fn stand_in(
        &self,
        input: InputKind,
    ) -> Result<Option<SandboxMount<'_>>, RootfsError> {
        match self {
            Root::Unpacked(rootfs) => {
                rootfs.stand_in((input == InputKind::File).then_some(sandbox::INPUT))
            }
            Root::Mounted(_) => Ok(None),
        }
    }

    pub(super) fn mount(&self) -> Option<&SandboxMount<'_>> {
        match self {
            Root::Unpacked(_) => None,
            Root::Mounted(rootfs) => Some(rootfs.mount()),
        }
    }

    pub(super) fn warnings(&self) -> &[Warning] {
        match self {
            Root::Unpacked(rootfs) => rootfs.warnings(),
            Root::Mounted(_) => &[],
        }
    }

    pub(super) fn more_warnings(&self) -> u64 {
        match self {
            Root::Unpacked(rootfs) => rootfs.more_warnings(),
            Root::Mounted(_) => 0,
        }
    }

    /// What kept the program from reading part of it.
    pub(super) fn finish(&self) -> Result<(), RunError> {
        match self {
            Root::Unpacked(_) => Ok(()),
            Root::Mounted(rootfs) => match rootfs.take_failure() {
                None => Ok(()),
                Some(failure) => Err(RootfsError::Read(failure).into()),
            },
        }
    }
}
