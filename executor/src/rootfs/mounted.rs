//! A root file system that is a UnixFS directory: mounted in the sandbox, nothing unpacked.

use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStringExt;

use ipfs_exec_node::Cid;
use ipfs_exec_node::block::ReadBlocks;
use ipfs_exec_node::path::EntryName;
use ipfs_exec_node::unixfs::{self, FileReader, Node, NodeKind, UnixfsError};

use super::init::{InitError, Program};
use super::mountpoints::MountPointError;
use super::program;
use super::resolve::{self, Found, Step, Tree};
use super::{RootTree, RootfsError, init};
use crate::archive::Warning;
use crate::layout::{MOUNT_POINTS, STAGED_ROOTFS};
use crate::mount::{FILE_MODE, SandboxMount, Top};
use crate::sandbox::{RootSource, TopEntry, TopEntryKind};

/// The bit that lets the owner execute a file.
const OWNER_EXECUTES: u32 = 0o100;

/// A UnixFS directory that is shown as a root file system.
pub(crate) struct MountedRootfs<'b> {
    blocks: &'b dyn ReadBlocks,
    cid: Cid,
    mount: SandboxMount<'b>,
}

impl<'b> MountedRootfs<'b> {
    /// Prepares to show the directory `cid`.
    pub(crate) fn new(
        blocks: &'b dyn ReadBlocks,
        cid: &Cid,
    ) -> Result<MountedRootfs<'b>, RootfsError> {
        for name in MOUNT_POINTS {
            check_mount_point(blocks, cid, name)?;
        }
        let top = Top::DagWith(cid, &MOUNT_POINTS);
        let mount = SandboxMount::new(blocks, top, STAGED_ROOTFS, None)
            .map_err(|error| RootfsError::Mount(Box::new(error)))?;
        Ok(MountedRootfs {
            blocks,
            cid: *cid,
            mount,
        })
    }

    fn program<'p>(&'p self, path: &'p OsStr) -> Program<'p> {
        let cid = &self.cid;
        Program { cid, path }
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

    fn check(&self, path: &OsStr) -> Result<(), InitError> {
        let program = self.program(path);
        let failed = |error: UnixfsError| program.not_looked_up(io::Error::other(error));
        let not_executable = |reason| Err(program.not_executable(reason));
        if resolve::is_kernel_file(self, program.bytes()).map_err(failed)? {
            return not_executable(init::KERNEL_FILE);
        }
        let node = match resolve::find(self, program.bytes()).map_err(failed)? {
            Found::Kernel => return not_executable(init::KERNEL_FILE),
            Found::Nothing => return Err(program.not_found()),
            // It may lead into what is mounted later.
            Found::Dangling => return Ok(()),
            Found::Loop => return not_executable("its symlinks form a loop"),
            Found::Node(node) => node,
        };
        if node.kind() != NodeKind::File {
            return not_executable("it is no file");
        }
        if node.metadata().mode.unwrap_or(FILE_MODE) & OWNER_EXECUTES == 0 {
            return not_executable("its owner may not execute it");
        }
        let head = self.head(&node).map_err(failed)?;
        program::refusal(&head).map_or(Ok(()), not_executable)
    }

    fn service_manager(&self, path: &OsStr) -> Option<&'static str> {
        init::service_manager(self, self.program(path))
    }

    fn not_executed(&self, path: &OsStr, source: io::Error) -> InitError {
        let program = self.program(path);
        let found = resolve::find(self, program.bytes());
        program.refused(matches!(found, Ok(Found::Node(_))), source)
    }

    fn top_entries(&self) -> Result<Vec<TopEntry>, RootfsError> {
        let mut entries = Vec::new();
        let mut visit = |entry: unixfs::Entry| {
            let name = entry.checked_name(&self.cid)?;
            if MOUNT_POINTS
                .iter()
                .any(|point| point.as_bytes() == name.as_bytes())
            {
                return Ok(ControlFlow::Continue(()));
            }
            let node = Node::load(self.blocks, &entry.cid)?;
            let kind = match node.symlink_target() {
                Some(target) => TopEntryKind::Symlink {
                    target: std::ffi::OsString::from_vec(target.to_vec()),
                },
                None if node.kind().is_directory() => TopEntryKind::Directory,
                None => TopEntryKind::File,
            };
            entries.push(TopEntry {
                name: std::ffi::OsString::from_vec(name.as_bytes().to_vec()),
                kind,
            });
            Ok(ControlFlow::Continue(()))
        };
        unixfs::list(self.blocks, &self.cid, &mut visit)
            .map_err(|error| content(self.cid, error))?;
        entries.sort();
        Ok(entries)
    }

    fn stand_in(
        &self,
        _covered: Option<&'static str>,
    ) -> Result<Option<SandboxMount<'_>>, RootfsError> {
        Ok(None)
    }

    fn mount(&self) -> Option<&SandboxMount<'_>> {
        Some(&self.mount)
    }

    fn warnings(&self) -> (&[Warning], u64) {
        (&[], 0)
    }

    fn finish(&self) -> Result<(), RootfsError> {
        let failure = self.mount.take_failure();
        failure.map_or(Ok(()), |failure| Err(RootfsError::Read(failure)))
    }
}

/// Nodes of the DAG. A link is loaded to know that it is one.
impl Tree for MountedRootfs<'_> {
    type Node = Box<Node>;
    type Error = UnixfsError;

    fn root(&self) -> Result<Box<Node>, UnixfsError> {
        Node::load(self.blocks, &self.cid).map(Box::new)
    }

    fn entry(&self, node: &Box<Node>, name: &[u8]) -> Result<Step<Box<Node>>, UnixfsError> {
        let Ok(name) = EntryName::new(name) else {
            return Ok(Step::Nothing);
        };
        let entry = match unixfs::lookup(self.blocks, node.cid(), &name) {
            Err(UnixfsError::NotFound { .. } | UnixfsError::NotDirectory { .. }) => {
                return Ok(Step::Nothing);
            }
            entry => entry?,
        };
        let node = Node::load(self.blocks, &entry.cid)?;
        Ok(match node.symlink_target() {
            Some(target) => Step::Link(target.to_vec()),
            None => Step::Node(Box::new(node)),
        })
    }

    fn head(&self, node: &Box<Node>) -> Result<Vec<u8>, UnixfsError> {
        let mut head = Vec::new();
        if node.kind() != NodeKind::File {
            return Ok(head);
        }
        let mut reader = FileReader::new(self.blocks, (**node).clone())?;
        while head.len() < program::HEAD_BYTES {
            let bytes = reader.next_bytes()?;
            if bytes.is_empty() {
                break;
            }
            head.extend_from_slice(&bytes);
        }
        head.truncate(program::HEAD_BYTES);
        Ok(head)
    }
}

fn content(cid: Cid, source: UnixfsError) -> RootfsError {
    RootfsError::Content { cid, source }
}

fn check_mount_point(
    blocks: &dyn ReadBlocks,
    cid: &Cid,
    name: &'static str,
) -> Result<(), RootfsError> {
    let entry = EntryName::new(name.as_bytes()).expect("a plain word is a valid name");
    let found = match unixfs::lookup(blocks, cid, &entry) {
        Err(UnixfsError::NotFound { .. }) => return Ok(()),
        found => found.and_then(|entry| Node::load(blocks, &entry.cid)),
    };
    let kind = match found.map_err(|error| content(*cid, error))?.kind() {
        kind if kind.is_directory() => return Ok(()),
        NodeKind::Symlink => "a symlink",
        _ => "a file",
    };
    Err(RootfsError::MountPoint {
        cid: *cid,
        source: MountPointError::Occupied { name, kind },
    })
}

impl std::fmt::Debug for MountedRootfs<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = formatter.debug_struct("MountedRootfs");
        debug.field("cid", &self.cid).finish_non_exhaustive()
    }
}
