//! The input of a run, mounted at `/input`.
//!
//! [`InputTree`] is the interface between a run and its input. It names a file or directory on the host that
//! shows the input DAG. After the program's end, it reports whether the program could read all of its input.
//! [`MountedInput`] reads the parts that the program touches. [`ExportedInput`] writes the whole DAG to disk
//! before the program starts, for machines that cannot mount. An exported input is not equal to a mounted
//! one: the disk gives its files their inode numbers and times.

use std::error::Error;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use ipfs_exec_node::block::ReadBlocks;
use ipfs_exec_node::budget::{Budget, Spending};
use ipfs_exec_node::path::EntryName;
use ipfs_exec_node::progress::{Event, Reporter};
use ipfs_exec_node::unixfs::{self, ExportOptions, Mtime, NodeKind, UnixfsError};
use ipfs_exec_node::{Cid, dag};
use rustix::fs::{AtFlags, FileType, statat};

use crate::beneath;
use crate::mount::{DIRECTORY_MODE, FILE_MODE, Failure, MountError, Observer, SandboxMount, Top};
use crate::sandbox::{INPUT, InputSource};

/// Name of the export in scratch.
pub(crate) const EXPORT: &str = "input";

/// Why an input cannot be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// The DAG could not be read or written out.
    #[error("cannot prepare input {cid}")]
    Content {
        /// Its root.
        cid: Cid,
        /// What UnixFS says.
        #[source]
        source: UnixfsError,
    },
    /// Not all of the DAG could be had beforehand.
    #[error("cannot fetch all of input {cid}")]
    Fetch {
        /// Its root.
        cid: Cid,
        /// Why: a block, or the DAG.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The DAG is a symbolic link, which cannot be mounted.
    #[error("input {cid} is a symlink; it must be a file or directory")]
    Symlink {
        /// Its root.
        cid: Cid,
    },
    /// It could not be mounted.
    #[error(transparent)]
    Mount(Box<MountError>),
    /// The program needed what could not be had.
    #[error("the program could not read all of its input")]
    Read(#[source] Failure),
    /// The directory to write to could not be used.
    #[error("cannot prepare input {cid} in `{path}`", path = path.display())]
    Io {
        /// Its root.
        cid: Cid,
        /// The directory.
        path: PathBuf,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
}

/// How a program gets to its input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InputMode {
    /// Mounted where that is possible, else written out.
    #[default]
    Auto,
    /// Mounted: only what is read is fetched.
    Mount,
    /// Fetched as a whole before the program begins, then shown in the same way. It is written out where
    /// nothing can be mounted.
    Copy,
}

/// What an input is at its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
}

/// An input DAG that a sandbox can be given.
pub trait InputTree {
    /// Where the sandbox takes it from. Its content must not change while the program runs; the sandbox
    /// binds it read-only.
    fn source(&self) -> InputSource<'_>;

    /// What it is.
    fn kind(&self) -> InputKind;

    /// What has to be mounted there, in the sandbox alone.
    fn mount(&self) -> Option<&SandboxMount<'_>> {
        None
    }

    /// Takes it away after the program's end.
    ///
    /// # Errors
    /// What kept the program from reading part of it. The run has then failed, whatever the
    /// program made of it.
    fn finish(self: Box<Self>) -> Result<(), InputError>;
}

/// Fetches all blocks of the DAG `cid`, as far as `budget` allows.
///
/// # Errors
/// [`InputError::Fetch`] for a block that cannot be had, [`InputError::Content`] where that is too much.
pub(crate) fn fetch_all(
    blocks: &dyn ReadBlocks,
    cid: &Cid,
    budget: &Budget,
    reporter: &dyn Reporter,
) -> Result<(), InputError> {
    blocks.expect_all(cid);
    let failed = |source: Box<dyn Error + Send + Sync>| InputError::Fetch { cid: *cid, source };
    let spending = Spending::new(budget);
    let walked = dag::walk(blocks, cid, &mut |visit| {
        let data = match visit.data {
            Ok(data) => data,
            Err(error) => return ControlFlow::Break(failed(error.into())),
        };
        let length = data.len() as u64;
        reporter.report(Event::Advanced { bytes: length });
        let taken = spending
            .take_bytes(length)
            .and_then(|_| budget.check_time());
        match taken {
            Err(source) => {
                let source = UnixfsError::ExportBudget { cid: *cid, source };
                ControlFlow::Break(InputError::Content { cid: *cid, source })
            }
            Ok(()) if reporter.cancel().is_cancelled() => {
                let source = UnixfsError::Interrupted;
                ControlFlow::Break(InputError::Content { cid: *cid, source })
            }
            Ok(()) => ControlFlow::Continue(()),
        }
    });
    match walked.map_err(|error| failed(error.into()))? {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// An input written out as files.
#[derive(Debug)]
pub struct ExportedInput {
    path: PathBuf,
    kind: InputKind,
}

impl ExportedInput {
    /// Writes the DAG `cid` to the directory `scratch`, which has no entry of that name yet and is
    /// removed by its owner.
    ///
    /// # Errors
    /// [`InputError`]; nothing stays.
    pub fn new(
        scratch: &Path,
        blocks: &dyn ReadBlocks,
        cid: &Cid,
        options: &ExportOptions,
        reporter: &dyn Reporter,
    ) -> Result<ExportedInput, InputError> {
        let failed = |errno: rustix::io::Errno| InputError::Io {
            cid: *cid,
            path: scratch.to_owned(),
            source: errno.into(),
        };
        blocks.expect_all(cid);
        let directory = beneath::open_root(scratch).map_err(failed)?;
        let name = EntryName::new(EXPORT.as_bytes()).expect("a plain word is a valid name");
        let options = ExportOptions {
            file_mode: Some(FILE_MODE),
            directory_mode: Some(DIRECTORY_MODE),
            mtime: Some(Mtime::default()),
            ..options.clone()
        };
        unixfs::export(blocks, cid, directory.as_fd(), &name, &options, reporter)
            .map_err(|source| InputError::Content { cid: *cid, source })?;
        let status = statat(&directory, EXPORT, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let kind = match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => InputKind::Directory,
            FileType::Symlink => return Err(InputError::Symlink { cid: *cid }),
            _ => InputKind::File,
        };
        Ok(ExportedInput {
            path: scratch.join(EXPORT),
            kind,
        })
    }
}

impl InputTree for ExportedInput {
    fn source(&self) -> InputSource<'_> {
        InputSource::Exported(&self.path)
    }

    fn kind(&self) -> InputKind {
        self.kind
    }

    fn finish(self: Box<Self>) -> Result<(), InputError> {
        // Everything was read before the program began.
        Ok(())
    }
}

/// An input that is read as the program reads it.
#[derive(Debug)]
pub struct MountedInput<'b> {
    mount: SandboxMount<'b>,
    kind: InputKind,
}

impl<'b> MountedInput<'b> {
    /// Prepares to show the DAG `cid`. Reads its root.
    ///
    /// # Errors
    /// [`InputError`].
    pub fn new(
        blocks: &'b dyn ReadBlocks,
        cid: &Cid,
        observer: Option<&'b dyn Observer>,
    ) -> Result<MountedInput<'b>, InputError> {
        let mount = SandboxMount::new(blocks, Top::Dag(cid), INPUT, observer)
            .map_err(|error| InputError::Mount(Box::new(error)))?;
        let kind = match mount.kind() {
            Some(NodeKind::Symlink) => return Err(InputError::Symlink { cid: *cid }),
            Some(NodeKind::File) => InputKind::File,
            _ => InputKind::Directory,
        };
        Ok(MountedInput { mount, kind })
    }
}

impl InputTree for MountedInput<'_> {
    fn source(&self) -> InputSource<'_> {
        InputSource::Mounted
    }

    fn kind(&self) -> InputKind {
        self.kind
    }

    fn mount(&self) -> Option<&SandboxMount<'_>> {
        Some(&self.mount)
    }

    fn finish(self: Box<Self>) -> Result<(), InputError> {
        self.mount
            .take_failure()
            .map_or(Ok(()), |failure| Err(InputError::Read(failure)))
    }
}
