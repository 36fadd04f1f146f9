//! A root file system that is a UnixFS directory: mounted in the sandbox, nothing unpacked.

use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStringExt;

use ipfs_exec_node::Cid;
use ipfs_exec_node::block::Blocks;
use ipfs_exec_node::path::EntryName;
use ipfs_exec_node::unixfs::{self, FileReader, Node, NodeKind, UnixfsError};

use super::init::InitError;
use super::mountpoints::{MOUNT_POINTS, MountPointError};
use super::program;
use super::top::{TopEntry, TopEntryKind};
use super::{RootfsError, init};
use crate::mount::{Failure, SandboxMount, Top};

/// Where it is mounted in the stage of a sandbox.
pub(crate) const STAGED_ROOTFS: &str = "rootfs";

/// Symbolic links that are followed on the way to the program: as many as the kernel does.
const MAX_LINKS: usize = 40;

/// The bit that lets the owner execute a file.
const OWNER_EXECUTES: u32 = 0o100;

/// See the [module](self).
pub(crate) struct MountedRootfs<'b> {
    blocks: &'b dyn Blocks,
    cid: Cid,
    mount: SandboxMount<'b>,
}

impl<'b> MountedRootfs<'b> {
    /// Prepares to show the directory `cid`.
    pub(crate) fn new(blocks: &'b dyn Blocks, cid: &Cid) -> Result<MountedRootfs<'b>, RootfsError> {
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

    pub(crate) fn mount(&self) -> &SandboxMount<'b> {
        &self.mount
    }

    pub(crate) fn take_failure(&self) -> Option<Failure> {
        self.mount.take_failure()
    }

    /// As [`Rootfs::init`](super::Rootfs::init).
    pub(crate) fn init(&self) -> Result<(), InitError> {
        let cid = self.cid;
        let look_up = |error: UnixfsError| InitError::LookUp {
            cid,
            source: io::Error::other(error),
        };
        let not_executable = |reason| Err(InitError::NotExecutable { cid, reason });
        let node = match self.find(init::INIT).map_err(look_up)? {
            Found::Nothing => return Err(InitError::NotFound { cid }),
            // It may lead into what is mounted later.
            Found::Dangling => return Ok(()),
            Found::Loop => return not_executable("its symlinks form a loop"),
            Found::Node(node) => node,
        };
        if node.kind() != NodeKind::File {
            return not_executable("it is no file");
        }
        match node.metadata().mode {
            None => {
                return not_executable(
                    "its mode was not recorded; add the directory with `--preserve-mode`",
                );
            }
            Some(mode) if mode & OWNER_EXECUTES == 0 => {
                return not_executable("its owner may not execute it");
            }
            Some(_) => {}
        }
        let mut reader = FileReader::new(self.blocks, *node).map_err(look_up)?;
        let mut head = Vec::new();
        while head.len() < program::HEAD_BYTES {
            let bytes = reader.next_bytes().map_err(look_up)?;
            if bytes.is_empty() {
                break;
            }
            head.extend_from_slice(&bytes);
        }
        head.truncate(program::HEAD_BYTES);
        program::refusal(&head).map_or(Ok(()), not_executable)
    }

    /// Why a complete sandbox could not execute `/sbin/init`.
    pub(crate) fn not_executed(&self) -> InitError {
        match self.find(init::INIT) {
            Ok(Found::Node(_)) => InitError::NotExecutable {
                cid: self.cid,
                reason: "its interpreter is missing",
            },
            _ => InitError::NotFound { cid: self.cid },
        }
    }

    /// Looks `path` up as a process would that has this tree for its root.
    fn find(&self, path: &str) -> Result<Found, UnixfsError> {
        let mut ahead: Vec<Vec<u8>> = segments(path.as_bytes());
        let mut behind = vec![Node::load(self.blocks, &self.cid)?];
        let (mut links, mut is_linked) = (0, false);
        while let Some(name) = ahead.pop() {
            if name == b".." {
                if behind.len() > 1 {
                    behind.pop();
                }
                continue;
            }
            let here = behind.last().map_or(self.cid, |node| *node.cid());
            let absent = if is_linked {
                Found::Dangling
            } else {
                Found::Nothing
            };
            let Ok(entry) = EntryName::new(&name) else {
                return Ok(absent);
            };
            let entry = match unixfs::lookup(self.blocks, &here, &entry) {
                Err(UnixfsError::NotFound { .. } | UnixfsError::NotDirectory { .. }) => {
                    return Ok(absent);
                }
                entry => entry?,
            };
            let node = Node::load(self.blocks, &entry.cid)?;
            match node.symlink_target() {
                None => behind.push(node),
                Some(target) => {
                    links += 1;
                    is_linked = true;
                    if links > MAX_LINKS {
                        return Ok(Found::Loop);
                    }
                    if target.starts_with(b"/") {
                        behind.truncate(1);
                    }
                    ahead.extend(segments(target));
                }
            }
        }
        Ok(behind
            .pop()
            .map_or(Found::Nothing, |node| Found::Node(Box::new(node))))
    }

    /// As [`Rootfs::top_entries`](super::Rootfs::top_entries).
    pub(crate) fn top_entries(&self) -> Result<Vec<TopEntry>, RootfsError> {
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
}

/// What stands at a path.
enum Found {
    Node(Box<Node>),
    Nothing,
    /// Links lead to nothing that is in the tree.
    Dangling,
    Loop,
}

/// The names in a path, the first of them last.
fn segments(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/');
    let names = names.filter(|name| !name.is_empty() && *name != b".");
    names.rev().map(<[u8]>::to_vec).collect()
}

fn content(cid: Cid, source: UnixfsError) -> RootfsError {
    RootfsError::Content { cid, source }
}

fn check_mount_point(
    blocks: &dyn Blocks,
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
