//! The first exchange with the kernel over a device that is mounted already.
//!
//! The library that mounts on the host reads requests into 16 MiB, which it clears first. A sandbox waits for
//! this exchange, and clearing may take longer than a short program.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use super::device::MAX_BACKGROUND;
use super::protocol;
use super::server::MAX_READ_BYTES;

/// Least size of a buffer that the kernel accepts: `FUSE_MIN_READ_BUFFER` of `linux/fuse.h`.
const BUFFER_BYTES: usize = 8192;

/// Version of the protocol. A kernel with an older one uses its own.
pub(super) const VERSION: (u32, u32) = (7, 40);

/// Requests of the kernel that may come at the same time; reads of 1 MiB; names and links that stay known; and no
/// calls to open or close what is opened without a state.
const FLAGS: u32 = ASYNC_READ
    | BIG_WRITES
    | PARALLEL_DIROPS
    | CACHE_SYMLINKS
    | NO_OPEN_SUPPORT
    | NO_OPENDIR_SUPPORT
    | MAX_PAGES;

/// Listings may bring the attributes of all entries along.
const LISTS_NODES: u32 = DO_READDIRPLUS | READDIRPLUS_AUTO;

// `FUSE_*` of `linux/fuse.h`.
const ASYNC_READ: u32 = 1 << 0;
const BIG_WRITES: u32 = 1 << 5;
const DO_READDIRPLUS: u32 = 1 << 13;
const READDIRPLUS_AUTO: u32 = 1 << 14;
const NO_OPEN_SUPPORT: u32 = 1 << 17;
const PARALLEL_DIROPS: u32 = 1 << 18;
const MAX_PAGES: u32 = 1 << 22;
const CACHE_SYMLINKS: u32 = 1 << 23;
const NO_OPENDIR_SUPPORT: u32 = 1 << 24;

/// The flags of the protocol that a mount asks for, where the kernel has them.
pub(super) fn flags(lists_nodes: bool) -> u32 {
    FLAGS | if lists_nodes { LISTS_NODES } else { 0 }
}

/// Answers the first request of the kernel. The library agrees on the same for mounts on the host.
///
/// # Errors
/// [`io::ErrorKind::NotConnected`] where the mount is gone already, and [`io::ErrorKind::InvalidData`] where the
/// kernel begins otherwise.
pub(super) fn agree(device: BorrowedFd<'_>, lists_nodes: bool) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    loop {
        buffer.clear();
        match rustix::io::read(device, spare_capacity(&mut buffer)) {
            Ok(_) => break,
            // The request was withdrawn.
            Err(Errno::NOENT | Errno::INTR) => {}
            Err(Errno::NODEV | Errno::CONNABORTED) => {
                return Err(io::ErrorKind::NotConnected.into());
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let (unique, initial) = protocol::Initial::decode(&buffer).ok_or_else(invalid)?;
    if initial.major != VERSION.0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let answer = protocol::initial_answer(&protocol::Agreed {
        version: VERSION,
        max_readahead: initial.max_readahead,
        flags: initial.flags & flags(lists_nodes),
        max_background: MAX_BACKGROUND,
        max_bytes: MAX_READ_BYTES,
        max_pages: (MAX_READ_BYTES as usize / rustix::param::page_size()) as u16,
    });
    let header = protocol::reply_header(unique, 0, answer.len());
    match rustix::io::write(device, &[&header[..], &answer].concat()) {
        Ok(_) => Ok(()),
        // The kernel has dropped the request together with the mount.
        Err(Errno::NOENT | Errno::NODEV | Errno::CONNABORTED) => {
            Err(io::ErrorKind::NotConnected.into())
        }
        Err(errno) => Err(errno.into()),
    }
}
