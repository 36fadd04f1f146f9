//! DAGs as file systems: read-only, lazy, by FUSE.
//!
//! A mount shows a UnixFS DAG from any [`ReadBlocks`], or an unpacked tree. It reads only the parts that programs
//! touch. It serves on threads of its own and never opens a path below itself. If content cannot be read, the
//! program gets an I/O error, and the mount keeps the failure for its owner.
//!
//! ```text
//! device ── server ── protocol        requests and answers, on as many threads as wait
//!              │
//!            files ── inodes          nodes by number
//!            │   │
//!         view   local ── names       a DAG, or a tree on disk
//!            │
//!         cache ── Blocks             verified blocks, each read once
//! ```
//!
//! [`Mount`] is on the host, for every user that may see it. [`SandboxMount`] is made inside a sandbox, and
//! lives as long as the mount namespace of that sandbox. No part of it is ever on the host, even if this
//! process is killed.

mod agreement;
mod ahead;
mod cache;
mod device;
mod files;
mod inodes;
mod local;
mod lru;
mod names;
mod observer;
mod protocol;
mod recorded;
mod server;
mod unmount;
mod view;

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipfs_exec_node::block::ReadBlocks;
use ipfs_exec_node::unixfs::{NodeKind, UnixfsError};
use ipfs_exec_node::{Cancel, CancelSource, Cid};
use rustix::process::{getegid, geteuid};

pub use files::Failure;
pub(crate) use local::Tree;
pub use observer::{Access, Learnt, Observer, Unobserved};
pub use unmount::unmount;
pub use view::Top;

use device::Connection;
use files::Files;
use local::Local;
use server::Server;
pub(crate) use view::{DIRECTORY_MODE, FILE_MODE};
use view::{HOST_FILE_MODE, Unrecorded, View};

/// What to do where the device or its helper is missing.
const DEVICE_HINT: &str =
    "load the module (`modprobe fuse`) and let users open /dev/fuse (mode 0666)";
pub(crate) const HELPER_HINT: &str =
    "install `fusermount3` (Debian, Ubuntu: `apt-get install fuse3`)";
const OTHERS_HINT: &str =
    "put `user_allow_other` into /etc/fuse.conf, or leave out `--allow-other`";

/// Why nothing can be mounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The DAG could not be read.
    #[error("cannot mount {cid}")]
    Content {
        /// Its root.
        cid: Cid,
        /// What UnixFS says.
        #[source]
        source: Box<UnixfsError>,
    },
    /// The top of an unpacked tree could not be looked at.
    #[error("cannot read the unpacked tree of {name}")]
    Tree {
        /// The archive that it was unpacked from.
        name: String,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// Only directories can be mounted on the host.
    #[error("cannot mount {cid}: it is a {kind}, not a directory")]
    NotDirectory {
        /// Its root.
        cid: Cid,
        /// What it is.
        kind: NodeKind,
    },
    /// There is nothing to mount at.
    #[error("cannot mount at `{}`", path.display())]
    MountPoint {
        /// The directory.
        path: PathBuf,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// A mount would hide what is there.
    #[error("cannot mount at `{}`: it is not empty", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The device cannot be used.
    #[error("cannot open {}", device::DEVICE)]
    Device(#[source] io::Error),
    /// The kernel, or the helper that asks it, refused.
    #[error("cannot mount at `{}`", path.display())]
    Mount {
        /// The directory.
        path: PathBuf,
        /// What was said.
        #[source]
        source: io::Error,
    },
    /// Nothing of ours is mounted there.
    #[error("`{}` is no mount of ipfs-exec", path.display())]
    NotMounted {
        /// The directory.
        path: PathBuf,
    },
    /// The kernel, or the helper that asks it, did not unmount.
    #[error("cannot unmount `{}`", path.display())]
    Unmount {
        /// The directory.
        path: PathBuf,
        /// What was said.
        #[source]
        source: io::Error,
    },
    /// A mount that stood has failed.
    #[error("the mount has failed")]
    Serve(#[source] io::Error),
}

impl MountError {
    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            MountError::Device(_) => Some(DEVICE_HINT),
            MountError::Mount { source, .. } if source.to_string().contains("user_allow_other") => {
                Some(OTHERS_HINT)
            }
            MountError::Mount { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some(HELPER_HINT)
            }
            MountError::Unmount { source, .. } if source.to_string().contains("busy") => {
                Some("close what uses it (`fuser -vm DIR` tells), or add `--lazy`")
            }
            MountError::Unmount { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some(HELPER_HINT)
            }
            MountError::NotMounted { .. } => Some("`findmnt --source ipfs-exec` lists such mounts"),
            MountError::NotDirectory { .. } => Some("name a directory, or read files with `cat`"),
            MountError::MountPoint { .. } | MountError::NotEmpty { .. } => {
                Some("name an empty directory")
            }
            _ => None,
        }
    }
}

/// Whether the device can be used.
pub(crate) fn probe_device() -> Result<(), MountError> {
    let device = device::open().map_err(MountError::Device)?;
    let status = rustix::fs::fstat(device).map_err(|errno| MountError::Device(errno.into()))?;
    match rustix::fs::FileType::from_raw_mode(status.st_mode) {
        rustix::fs::FileType::CharacterDevice => Ok(()),
        _ => Err(MountError::Device(io::Error::other("it is not a device"))),
    }
}

/// The caller owns what is mounted on the host.
fn on_host() -> Unrecorded {
    Unrecorded {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
        file_mode: HOST_FILE_MODE,
    }
}

/// User 0 of the namespace that a sandbox is prepared in owns what is mounted there.
const INSIDE: Unrecorded = Unrecorded {
    uid: 0,
    gid: 0,
    file_mode: FILE_MODE,
};

/// What is shown, ready to be served.
fn view<'b>(
    blocks: &'b dyn ReadBlocks,
    top: Top<'_>,
    unrecorded: Unrecorded,
    observer: &'b dyn Observer,
    stop: &CancelSource,
) -> Result<View<'b>, MountError> {
    let content = |source| match top {
        Top::Dag(cid) | Top::DagWith(cid, _) => MountError::Content {
            cid: *cid,
            source: Box::new(source),
        },
        Top::Everything => MountError::Serve(io::Error::other(source)),
    };
    View::new(blocks, top, unrecorded, observer, stop.token()).map_err(content)
}

/// A mount on the host. Dropped, it is taken away.
pub struct Mount<'b> {
    view: View<'b>,
    connection: Mutex<Connection>,
    device: OwnedFd,
    directory: PathBuf,
    stop: CancelSource,
}

impl<'b> Mount<'b> {
    /// Mounts `top` at `directory`, which is empty. What a process that was killed left there is
    /// taken away first. `allow_other` lets all users in, not the caller alone.
    ///
    /// Nothing is served before [`Mount::serve`]; whoever looks waits for it.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn new(
        blocks: &'b dyn ReadBlocks,
        top: Top<'_>,
        directory: &Path,
        allow_other: bool,
        observer: &'b dyn Observer,
    ) -> Result<Mount<'b>, MountError> {
        let at = |source: io::Error| MountError::MountPoint {
            path: directory.to_owned(),
            source,
        };
        if device::clear_stale(directory).map_err(at)? {
            tracing::info!(directory = %directory.display(), "a stale mount was taken away");
        }
        // Absolute: it is unmounted by this path, wherever the process is then.
        let directory = directory.canonicalize().map_err(at)?;
        if fs::read_dir(&directory).map_err(at)?.next().is_some() {
            return Err(MountError::NotEmpty { path: directory });
        }
        let stop = CancelSource::new().map_err(MountError::Serve)?;
        let view = view(blocks, top, on_host(), observer, &stop)?;
        if let (Top::Dag(cid) | Top::DagWith(cid, _), Some(kind)) = (top, view.top_kind())
            && !kind.is_directory()
        {
            return Err(MountError::NotDirectory { cid: *cid, kind });
        }
        // Told apart from what mounting itself may fail with.
        drop(device::open().map_err(MountError::Device)?);
        let failed = |source| MountError::Mount {
            path: directory.clone(),
            source,
        };
        let connection = Connection::mount(&directory, allow_other, true).map_err(failed)?;
        let device = connection.device().try_clone_to_owned().map_err(failed)?;
        Ok(Mount {
            view,
            connection: Mutex::new(connection),
            device,
            stop,
            directory,
        })
    }

    /// Where it is, as an absolute path without links.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Serves until it is unmounted, or cancelled: then it is unmounted here.
    ///
    /// # Errors
    /// [`MountError::Serve`]. That something could not be read is none: who read it was told.
    pub fn serve(&self, cancel: &Cancel) -> Result<(), MountError> {
        let server = Server::new(&self.view, self.device.as_fd(), &self.stop);
        let server = server.map_err(MountError::Serve)?;
        let (ended, serving) = io::pipe().map_err(MountError::Serve)?;
        std::thread::scope(|scope| {
            let serve = move || {
                // Closed at the end.
                let _serving = serving;
                server.serve()
            };
            let thread = std::thread::Builder::new().name("mount".to_owned());
            let serving = match thread.spawn_scoped(scope, serve) {
                Ok(serving) => serving,
                Err(error) => {
                    self.connection().unmount(&self.directory)?;
                    return Err(error);
                }
            };
            let waited = cancel.wait_readable(&ended);
            let unmounted = match &waited {
                Ok(true) => {
                    self.connection().is_unmounted();
                    Ok(())
                }
                Ok(false) | Err(_) => self.connection().unmount(&self.directory),
            };
            self.stop.cancel();
            let served = serving.join().expect("the server does not panic");
            waited.map(drop).and(unmounted).and(served)
        })
        .map_err(MountError::Serve)
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Mount<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = formatter.debug_struct("Mount");
        debug
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

/// A mount inside a sandbox, made in its stage.
pub struct SandboxMount<'b> {
    files: Box<dyn Files + 'b>,
    kind: Option<NodeKind>,
    /// Holds the number of the one that is mounted, which the sandbox opens for itself.
    device: OwnedFd,
    name: &'static str,
    lists_nodes: bool,
    stop: CancelSource,
}

impl<'b> SandboxMount<'b> {
    /// Prepares to show `top` as `name` of the stage, a directory, or a file where `top` is one.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn new(
        blocks: &'b dyn ReadBlocks,
        top: Top<'_>,
        name: &'static str,
        observer: Option<&'b dyn Observer>,
    ) -> Result<SandboxMount<'b>, MountError> {
        let device = device::open().map_err(MountError::Device)?;
        let stop = CancelSource::new().map_err(MountError::Serve)?;
        let shown_to = observer.unwrap_or(&Unobserved);
        let view = view(blocks, top, INSIDE, shown_to, &stop)?;
        Ok(SandboxMount {
            kind: view.top_kind(),
            files: Box::new(view),
            device,
            name,
            // An observer learns what was asked for, not what came along.
            lists_nodes: observer.is_none(),
            stop,
        })
    }

    /// Prepares to show an unpacked tree, which must not change meanwhile, as the directory `name` of the
    /// stage.
    ///
    /// # Errors
    /// [`MountError`].
    pub(crate) fn of_tree(
        tree: Tree,
        name: &'static str,
    ) -> Result<SandboxMount<'static>, MountError> {
        let device = device::open().map_err(MountError::Device)?;
        let shown = tree.name.clone();
        let stop = CancelSource::new().map_err(MountError::Serve)?;
        let files = Local::new(tree, stop.token()).map_err(|errno| MountError::Tree {
            name: shown,
            source: errno.into(),
        })?;
        Ok(SandboxMount {
            kind: Some(NodeKind::Directory),
            files: Box::new(files),
            device,
            name,
            lists_nodes: true,
            stop,
        })
    }

    /// What is at the top.
    pub fn kind(&self) -> Option<NodeKind> {
        self.kind
    }

    /// The first thing that could not be read.
    pub fn take_failure(&self) -> Option<Failure> {
        self.files.take_failure()
    }

    /// What a process mounts that inherits the device.
    pub(crate) fn request(&self) -> crate::process::MountRequest {
        let options = format!(
            "fd={},rootmode={:o},user_id={},group_id={},default_permissions",
            self.device.as_raw_fd(),
            self.files.top_type(),
            INSIDE.uid,
            INSIDE.gid,
        );
        crate::process::MountRequest {
            target: CString::new(self.name).expect("names of a stage have no NUL"),
            is_file: self.kind() == Some(NodeKind::File),
            kind: c"fuse.ipfs",
            device: c"/dev/fuse",
            descriptor: self.device.as_raw_fd(),
            options: CString::new(options).expect("options have no NUL"),
        }
    }

    /// Serves over the `device` that was mounted, until the sandbox is gone or
    /// [`SandboxMount::stop`] is called.
    pub(crate) fn serve(&self, device: OwnedFd) -> io::Result<()> {
        let connection = match Connection::of(device, self.lists_nodes) {
            // The sandbox was gone before it looked.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(()),
            connection => connection?,
        };
        Server::new(&*self.files, connection.device(), &self.stop)?.serve()
    }

    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }
}

impl std::fmt::Debug for SandboxMount<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = formatter.debug_struct("SandboxMount");
        debug.field("name", &self.name).finish_non_exhaustive()
    }
}
