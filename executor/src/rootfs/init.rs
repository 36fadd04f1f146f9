//! Whether a tree has a program to run.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ipfs_exec_node::Cid;
use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, FileType, Mode, fstat, readlinkat, statat};
use rustix::io::Errno;

use super::program;
use super::resolve::{self, Step, Tree};
use crate::beneath;

/// The program of a root file system, relative to its root.
pub(super) const INIT: &str = "sbin/init";

/// Why a file of the kernel cannot be init: `/proc/self/exe` is the file that starts the program.
pub(super) const KERNEL_FILE: &str = "it, or its interpreter, leads into `/proc` or `/dev`";

/// Why a root file system has no program to run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// There is no such file.
    #[error("rootfs {cid} has no `/sbin/init`")]
    NotFound {
        /// The archive.
        cid: Cid,
    },
    /// It is there and cannot be executed.
    #[error("`/sbin/init` of rootfs {cid} cannot be executed: {reason}")]
    NotExecutable {
        /// The archive.
        cid: Cid,
        /// Why.
        reason: &'static str,
    },
    /// It could not be looked up.
    #[error("cannot look up `/sbin/init` of rootfs {cid}")]
    LookUp {
        /// The archive.
        cid: Cid,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
}

/// Looks `/sbin/init` up as the sandbox will.
///
/// Links that lead nowhere in the tree pass: they may lead into `/input`, which is not mounted
/// yet. The sandbox has the last word on them.
pub(super) fn check(tree: BorrowedFd<'_>, cid: &Cid) -> Result<(), InitError> {
    let cid = *cid;
    let not_executable = |reason| Err(InitError::NotExecutable { cid, reason });
    match resolve::is_kernel_file(&OnDisk(tree), INIT.as_bytes()) {
        Ok(true) => return not_executable(KERNEL_FILE),
        Ok(false) => {}
        // It may still be a program.
        Err(errno) => tracing::debug!(%cid, %errno, "cannot follow `/sbin/init`"),
    }
    let file = match beneath::look_up_inside(tree, Path::new(INIT)) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) if goes_through_link(tree) => return Ok(()),
        Err(Errno::NOENT | Errno::NOTDIR) => return Err(InitError::NotFound { cid }),
        Err(Errno::ACCESS) => return not_executable("a directory refuses access"),
        Err(Errno::LOOP) => return not_executable("its symlinks form a loop"),
        Err(errno) => {
            return Err(InitError::LookUp {
                cid,
                source: errno.into(),
            });
        }
    };
    let status = fstat(&file).map_err(|errno| InitError::LookUp {
        cid,
        source: errno.into(),
    })?;
    // Everything in the tree belongs to the user that the sandbox runs as, who has no capability
    // to pass over the owner's bits.
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        not_executable("it is no file")
    } else if !Mode::from_raw_mode(status.st_mode).contains(Mode::XUSR) {
        not_executable("its owner may not execute it")
    } else {
        let refusal = read_head(tree, Path::new(INIT)).map_err(|errno| InitError::LookUp {
            cid,
            source: errno.into(),
        })?;
        refusal
            .and_then(|head| program::refusal(&head))
            .map_or(Ok(()), not_executable)
    }
}

/// The first bytes of a program; `None` where it may be executed but not read.
fn read_head(tree: BorrowedFd<'_>, path: &Path) -> Result<Option<Vec<u8>>, Errno> {
    let file = match beneath::open_file_inside(tree, path) {
        Err(Errno::ACCESS) => return Ok(None),
        file => file?,
    };
    let mut head = Vec::with_capacity(program::HEAD_BYTES);
    while head.len() < program::HEAD_BYTES
        && rustix::io::read(&file, spare_capacity(&mut head))? > 0
    {}
    Ok(Some(head))
}

/// Why the kernel did not execute what [`check`] had let pass.
pub(super) fn refused(tree: BorrowedFd<'_>, cid: &Cid) -> InitError {
    match beneath::look_up_inside(tree, Path::new(INIT)) {
        Err(_) => InitError::NotFound { cid: *cid },
        Ok(_) => InitError::NotExecutable {
            cid: *cid,
            reason: "its interpreter is missing",
        },
    }
}

/// Whether the path meets a link before it ends.
fn goes_through_link(tree: BorrowedFd<'_>) -> bool {
    beneath::look_up_without_links(tree, INIT.as_bytes()).is_err_and(|errno| errno == Errno::LOOP)
}

/// An unpacked tree. Its nodes are paths without links.
struct OnDisk<'t>(BorrowedFd<'t>);

impl Tree for OnDisk<'_> {
    type Node = Vec<u8>;
    type Error = Errno;

    fn root(&self) -> Result<Vec<u8>, Errno> {
        Ok(Vec::new())
    }

    fn entry(&self, node: &Vec<u8>, name: &[u8]) -> Result<Step<Vec<u8>>, Errno> {
        let mut path = node.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        match readlinkat(self.0, &*path, Vec::new()) {
            Ok(target) => Ok(Step::Link(target.into_bytes())),
            // It is no link.
            Err(Errno::INVAL) => Ok(Step::Node(path)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => Ok(Step::Nothing),
            Err(errno) => Err(errno),
        }
    }

    fn head(&self, node: &Vec<u8>) -> Result<Vec<u8>, Errno> {
        let path = Path::new(OsStr::from_bytes(node));
        let status = statat(self.0, path, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Ok(Vec::new());
        }
        Ok(read_head(self.0, path)?.unwrap_or_default())
    }
}
