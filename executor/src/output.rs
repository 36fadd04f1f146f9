//! What the program leaves at `/output`.
//!
//! The directory is made before the run and imported after every process of the sandbox is dead,
//! by descriptor, without following a link. Sockets, FIFOs and all else that UnixFS cannot hold are an
//! error that names them, and the fault of the program.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use ipfs_exec_node::block::Blocks;
use ipfs_exec_node::progress::Reporter;
use ipfs_exec_node::unixfs::{self, ImportOptions, Imported, UnixfsError};
use rustix::fs::{Mode, fchmod, mkdirat};
use rustix::io::Errno;

use crate::beneath;

/// Name of the directory in scratch.
pub(crate) const OUTPUT: &str = "output";

/// Name in scratch of what stands at `/tmp`.
pub(crate) const TMP: &str = "tmp";

/// Names in scratch of what overlays on both need.
pub(crate) const WORK: [&str; 2] = ["output-work", "tmp-work"];

/// Mode of `/output`.
const OUTPUT_MODE: u32 = 0o755;

/// Mode of `/tmp`, as on every system.
const TMP_MODE: u32 = 0o1777;

/// Mode of what nobody looks into.
const WORK_MODE: u32 = 0o700;

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// A directory for the program could not be made.
    #[error("cannot make `{path}`", path = path.display())]
    Make {
        /// The directory.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The program left what UnixFS cannot hold.
    #[error("the program left in `/output` what cannot be its output")]
    Refused(#[source] UnixfsError),
    /// What the program left could not be imported, for another reason.
    #[error("cannot import the output of the program")]
    Import(#[source] UnixfsError),
}

impl OutputError {
    fn of_import(error: UnixfsError) -> OutputError {
        match error {
            UnixfsError::SpecialFile { .. }
            | UnixfsError::LocalName { .. }
            | UnixfsError::LocalTooDeep { .. }
            | UnixfsError::HashCollision { .. }
            | UnixfsError::DirectoryTooLarge { .. } => OutputError::Refused(error),
            error => OutputError::Import(error),
        }
    }
}

/// The directories that a program may write to.
#[derive(Debug)]
pub struct WritableDirectories {
    scratch: OwnedFd,
    output: PathBuf,
    tmp: PathBuf,
    work: [PathBuf; 2],
}

impl WritableDirectories {
    /// Makes both, empty, in the directory `scratch`, whose owner removes them.
    ///
    /// # Errors
    /// [`OutputError::Make`].
    pub fn create(scratch: &Path) -> Result<WritableDirectories, OutputError> {
        let descriptor = beneath::open_root(scratch).map_err(failed(scratch))?;
        let make = |name, mode| {
            let path = scratch.join(name);
            make_directory(&descriptor, name, mode)
                .map_err(failed(&path))
                .map(|()| path)
        };
        let output = make(OUTPUT, OUTPUT_MODE)?;
        let tmp = make(TMP, TMP_MODE)?;
        let [first, second] = WORK.map(|name| make(name, WORK_MODE));
        Ok(WritableDirectories {
            scratch: descriptor,
            output,
            tmp,
            work: [first?, second?],
        })
    }

    /// What to show at `/output`.
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// What to show at `/tmp`.
    pub fn tmp(&self) -> &Path {
        &self.tmp
    }

    /// Two empty directories on the same file system, for overlays on both.
    pub fn work(&self) -> [&Path; 2] {
        self.work.each_ref().map(PathBuf::as_path)
    }

    /// Imports what stands at `/output`, and counts what is in it. No process may have access to it any
    /// more.
    ///
    /// # Errors
    /// [`OutputError::Refused`] and [`OutputError::Import`].
    pub fn import(
        &self,
        blocks: &dyn Blocks,
        options: &ImportOptions,
        reporter: &dyn Reporter,
    ) -> Result<(Imported, u64), OutputError> {
        let name = Path::new(OUTPUT);
        let mut nodes = 0;
        let imported = unixfs::import_path(
            blocks,
            self.scratch.as_fd(),
            name,
            options,
            reporter,
            &mut |_| nodes += 1,
        );
        // `/output` itself is none of its files.
        imported
            .map(|imported| (imported, nodes - 1))
            .map_err(OutputError::of_import)
    }
}

/// Makes a directory with exactly this mode.
fn make_directory(parent: &OwnedFd, name: &str, mode: u32) -> Result<(), Errno> {
    mkdirat(parent, name, Mode::RWXU)?;
    let directory = beneath::open_entry(parent, name.as_bytes())?;
    fchmod(directory, Mode::from_raw_mode(mode))
}

fn failed(path: &Path) -> impl FnOnce(Errno) -> OutputError + use<> {
    let path = path.to_owned();
    move |errno| OutputError::Make {
        path,
        source: errno.into(),
    }
}
