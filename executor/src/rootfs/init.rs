//! Whether a tree has a program to run.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ipfs_exec_node::Cid;
use ipfs_exec_node::path::escape;
use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, FileType, Mode, fstat, readlinkat, statat};
use rustix::io::Errno;

use super::program;
use super::resolve::{self, Step, Tree};
use crate::beneath;

/// Why a file of the kernel cannot be init: `/proc/self/exe` is the file that starts the program.
pub(super) const KERNEL_FILE: &str = "it, or its interpreter, leads into `/proc` or `/dev`";

/// Why a root file system has no program to run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// There is no such file.
    #[error("rootfs {cid} has no `{program}`")]
    NotFound {
        /// The archive or directory.
        cid: Cid,
        /// The path of the program, escaped.
        program: String,
    },
    /// It is there and cannot be executed.
    #[error("`{program}` of rootfs {cid} cannot be executed: {reason}")]
    NotExecutable {
        /// The archive.
        cid: Cid,
        /// The path of the program, escaped.
        program: String,
        /// Why.
        reason: &'static str,
    },
    /// The kernel refused it.
    #[error("the kernel does not execute `{program}` of rootfs {cid}")]
    Refused {
        /// The archive.
        cid: Cid,
        /// The path of the program, escaped.
        program: String,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// It could not be looked up.
    #[error("cannot look up `{program}` of rootfs {cid}")]
    LookUp {
        /// The archive.
        cid: Cid,
        /// The path of the program, escaped.
        program: String,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
}

/// Programs that wait for other programs to manage, and do nothing with arguments.
const SERVICE_MANAGERS: [&str; 8] = [
    "busybox",
    "dinit",
    "finit",
    "openrc-init",
    "runit-init",
    "s6-svscan",
    "systemd",
    "upstart",
];

/// The program of a root file system that is looked up, and where.
#[derive(Clone, Copy)]
pub(super) struct Program<'p> {
    pub(super) cid: &'p Cid,
    /// As an absolute path in the root file system.
    pub(super) path: &'p OsStr,
}

impl<'p> Program<'p> {
    /// The path from the root directory.
    pub(super) fn relative(self) -> &'p Path {
        let path = Path::new(self.path);
        path.strip_prefix("/").unwrap_or(path)
    }

    pub(super) fn bytes(self) -> &'p [u8] {
        self.relative().as_os_str().as_bytes()
    }

    fn name(self) -> String {
        escape(self.path.as_bytes())
    }

    pub(super) fn not_found(self) -> InitError {
        InitError::NotFound {
            cid: *self.cid,
            program: self.name(),
        }
    }

    pub(super) fn not_executable(self, reason: &'static str) -> InitError {
        InitError::NotExecutable {
            cid: *self.cid,
            program: self.name(),
            reason,
        }
    }

    pub(super) fn not_looked_up(self, source: io::Error) -> InitError {
        InitError::LookUp {
            cid: *self.cid,
            program: self.name(),
            source,
        }
    }

    /// Why the kernel, which says `source`, did not execute what [`check`] had let pass.
    pub(super) fn refused(self, is_there: bool, source: io::Error) -> InitError {
        match source.kind() {
            io::ErrorKind::NotFound if is_there => {
                self.not_executable("its interpreter is missing")
            }
            io::ErrorKind::NotFound => self.not_found(),
            _ => InitError::Refused {
                cid: *self.cid,
                program: self.name(),
                source,
            },
        }
    }
}

/// The service manager that the program is a link to, if it is one.
pub(super) fn service_manager<T: Tree<Error: fmt::Display>>(
    tree: &T,
    program: Program<'_>,
) -> Option<&'static str> {
    let name = resolve::linked_name(tree, program.bytes()).unwrap_or_else(|error| {
        tracing::debug!(program = ?program.path, %error, "cannot follow the program");
        None
    })?;
    let mut managers = SERVICE_MANAGERS.into_iter();
    managers.find(|manager| manager.as_bytes() == name)
}

/// Looks the program up as the sandbox will.
///
/// Links that lead nowhere in the tree pass: they may lead into `/input`, which is not mounted
/// yet. The sandbox has the last word on them.
pub(super) fn check(tree: BorrowedFd<'_>, program: Program<'_>) -> Result<(), InitError> {
    let not_executable = |reason| Err(program.not_executable(reason));
    let not_looked_up = |errno: Errno| program.not_looked_up(errno.into());
    match resolve::is_kernel_file(&OnDisk(tree), program.bytes()) {
        Ok(true) => return not_executable(KERNEL_FILE),
        Ok(false) => {}
        // It may still be a program.
        Err(errno) => tracing::debug!(program = ?program.path, %errno, "cannot follow the program"),
    }
    let path = program.relative();
    let file = match beneath::look_up_inside(tree, path) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) if goes_through_link(tree, program) => return Ok(()),
        Err(Errno::NOENT | Errno::NOTDIR) => return Err(program.not_found()),
        Err(Errno::ACCESS) => return not_executable("a directory refuses access"),
        Err(Errno::LOOP) => return not_executable("its symlinks form a loop"),
        Err(errno) => return Err(not_looked_up(errno)),
    };
    let status = fstat(&file).map_err(not_looked_up)?;
    // Everything in the tree belongs to the user that the sandbox runs as, who has no capability
    // to pass over the owner's bits.
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        not_executable("it is no file")
    } else if !Mode::from_raw_mode(status.st_mode).contains(Mode::XUSR) {
        not_executable("its owner may not execute it")
    } else {
        let head = read_head(tree, path).map_err(not_looked_up)?;
        head.and_then(|head| program::refusal(&head))
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

/// Whether the path meets a link before it ends.
fn goes_through_link(tree: BorrowedFd<'_>, program: Program<'_>) -> bool {
    beneath::look_up_without_links(tree, program.bytes()).is_err_and(|errno| errno == Errno::LOOP)
}

/// An unpacked tree. Its nodes are paths without links.
pub(super) struct OnDisk<'t>(pub(super) BorrowedFd<'t>);

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
