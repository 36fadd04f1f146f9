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

/// Name in scratch of the directory with both.
pub(crate) const WRITABLE: &str = "writable";

/// Name in scratch of what an overlay on it needs.
pub(crate) const WORK: &str = "work";

/// Name in scratch of an empty directory, the lower layer of that overlay.
pub(crate) const LOWER: &str = "lower";

/// Names in the first of what stands at `/output` and `/tmp`.
const OUTPUT: &str = "output";
const TMP: &str = "tmp";

/// Mode of `/output`.
const OUTPUT_MODE: u32 = 0o755;

/// Mode of `/tmp`, as on every system.
const TMP_MODE: u32 = 0o1777;

/// Mode of directories that hold them.
const OWN_MODE: u32 = 0o700;

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
    /// The directory with both.
    inside: OwnedFd,
    output: PathBuf,
    tmp: PathBuf,
    writable: PathBuf,
    work: PathBuf,
    lower: PathBuf,
}

impl WritableDirectories {
    /// Makes both, empty, in the directory `scratch`, whose owner removes them.
    ///
    /// # Errors
    /// [`OutputError::Make`].
    pub fn create(scratch: &Path) -> Result<WritableDirectories, OutputError> {
        let descriptor = beneath::open_root(scratch).map_err(failed(scratch))?;
        let make = |parent: &OwnedFd, path: &Path, name: &str, mode| {
            let path = path.join(name);
            make_directory(parent, name, mode)
                .map_err(failed(&path))
                .map(|directory| (path, directory))
        };
        let (work, _) = make(&descriptor, scratch, WORK, OWN_MODE)?;
        let (lower, _) = make(&descriptor, scratch, LOWER, OWN_MODE)?;
        let (writable, inside) = make(&descriptor, scratch, WRITABLE, OWN_MODE)?;
        let (output, _) = make(&inside, &writable, OUTPUT, OUTPUT_MODE)?;
        let (tmp, _) = make(&inside, &writable, TMP, TMP_MODE)?;
        Ok(WritableDirectories {
            inside,
            output,
            tmp,
            writable,
            work,
            lower,
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

    /// The directory that holds both.
    pub fn writable(&self) -> &Path {
        &self.writable
    }

    /// An empty directory on the same file system, for an overlay to work in.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// An empty directory on the same file system, for its lower layer.
    pub fn lower(&self) -> &Path {
        &self.lower
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
            self.inside.as_fd(),
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
fn make_directory(parent: &OwnedFd, name: &str, mode: u32) -> Result<OwnedFd, Errno> {
    mkdirat(parent, name, Mode::RWXU)?;
    let directory = beneath::open_entry(parent, name.as_bytes())?;
    fchmod(&directory, Mode::from_raw_mode(mode))?;
    Ok(directory)
}

fn failed(path: &Path) -> impl FnOnce(Errno) -> OutputError + use<> {
    let path = path.to_owned();
    move |errno| OutputError::Make {
        path,
        source: errno.into(),
    }
}
