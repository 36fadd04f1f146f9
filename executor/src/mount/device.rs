//! The kernel's side: the device, the first exchange over it, and mounts on the host.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use fuser::{
    Config, Filesystem, InitFlags, KernelConfig, MountOption, Request, Session, SessionACL,
};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::agreement;
use super::server::MAX_READ_BYTES;

/// The device.
pub(crate) const DEVICE: &str = "/dev/fuse";

/// What the host lists as the source of our file systems.
pub(super) const SOURCE: &str = "ipfs-exec";

/// What the kernel may ask for at a time without being asked for it itself: reading ahead.
pub(super) const MAX_BACKGROUND: u16 = 64;

/// What is agreed on at the first exchange. All further requests are answered by our own server.
#[derive(Debug)]
struct Agreement {
    /// Whether listings may bring the attributes of all entries along.
    lists_nodes: bool,
}

impl Filesystem for Agreement {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::from_bits_retain(agreement::flags(self.lists_nodes).into());
        for flag in wanted.iter() {
            // An older kernel does without.
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "the kernel does not have this");
            }
        }
        let refused = |_| io::Error::from(io::ErrorKind::InvalidInput);
        // Nothing is written; the size of reads follows from it.
        config.set_max_write(MAX_READ_BYTES).map_err(refused)?;
        let refused = |_| io::Error::from(io::ErrorKind::InvalidInput);
        config.set_max_background(MAX_BACKGROUND).map_err(refused)?;
        Ok(())
    }
}

/// A connection to the kernel that has been through the first exchange. Dropped, it unmounts what
/// it mounted.
#[derive(Debug)]
pub(super) struct Connection {
    /// That of a mount on the host.
    session: Option<Session<Agreement>>,
    /// Ours to the end of the process, where the session is given up.
    device: OwnedFd,
}

impl Connection {
    /// Mounts on the host, as root or with the help of `fusermount3`.
    pub(super) fn mount(
        directory: &Path,
        allow_other: bool,
        lists_nodes: bool,
    ) -> io::Result<Connection> {
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::RO,
            MountOption::NoSuid,
            MountOption::NoDev,
            MountOption::DefaultPermissions,
            MountOption::FSName(SOURCE.to_owned()),
            MountOption::Subtype("ipfs".to_owned()),
        ];
        if allow_other {
            config.acl = SessionACL::All;
        }
        let session = Session::new(Agreement { lists_nodes }, directory, &config)?;
        let device = session.as_fd().try_clone_to_owned()?;
        Ok(Connection {
            session: Some(session),
            device,
        })
    }

    /// Takes over a device that was mounted by somebody else, who need not wait for this.
    pub(super) fn of(device: OwnedFd, lists_nodes: bool) -> io::Result<Connection> {
        agreement::agree(device.as_fd(), lists_nodes)?;
        Ok(Connection {
            session: None,
            device,
        })
    }

    pub(super) fn device(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// It was unmounted by somebody. The session would unmount once more, whatever stands at its
    /// path by then, so it is never dropped.
    pub(super) fn is_unmounted(&mut self) {
        std::mem::forget(self.session.take());
    }

    /// Takes the mount away, whoever uses it: they keep what they have open.
    pub(super) fn unmount(&mut self, directory: &Path) -> io::Result<()> {
        match rustix::mount::unmount(directory, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::PERM) => {
                if let Some(session) = &mut self.session {
                    session.unmount()?;
                }
            }
            Err(errno) => return Err(errno.into()),
        }
        self.is_unmounted();
        Ok(())
    }
}

/// Opens the device.
pub(super) fn open() -> io::Result<OwnedFd> {
    let device = File::options().read(true).write(true).open(DEVICE)?;
    Ok(device.into())
}

/// Takes away what a process that was killed has left at `directory`. True where that was so.
pub(super) fn clear_stale(directory: &Path) -> io::Result<bool> {
    let is_stale = |error: &io::Error| error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error());
    match fs::symlink_metadata(directory) {
        Err(error) if is_stale(&error) => {}
        _ => return Ok(false),
    }
    match rustix::mount::unmount(directory, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::PERM) => {
            let status = std::process::Command::new("fusermount3")
                .args(["-u", "-z", "--"])
                .arg(directory)
                .status()?;
            Ok(status.success())
        }
        Err(errno) => Err(errno.into()),
    }
}
