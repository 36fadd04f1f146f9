//! A file that several threads fill.
//!
//! The kernel lets one thread write to a file at a time and makes the others spin. So a thread does not
//! write while another thread writes: it leaves its data in a queue, and goes on with reading and
//! hashing. The writing thread empties the queue before it stops.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::finish::Finish;
use crate::unixfs::UnixfsError;

/// Most bytes that wait for the thread that writes. Above it the others wait: they read faster
/// than the disk takes it.
const MAX_QUEUED_BYTES: usize = 8 << 20;

/// Files of at least this size get their space in one piece before they are written, which spares
/// the file system to find it block by block.
const MIN_RESERVED_BYTES: u64 = 1 << 20;

/// Most that is reserved: the size that a file declares may be a lie.
const MAX_RESERVED_BYTES: u64 = 4 << 30;

/// How much is reserved for content of `size` bytes.
pub(super) fn reserved_bytes(size: u64) -> u64 {
    if size < MIN_RESERVED_BYTES {
        0
    } else {
        size.min(MAX_RESERVED_BYTES)
    }
}

/// A file that is being filled. Its writers have entered `finish` once for each piece of data.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) descriptor: OwnedFd,
    pub(super) path: PathBuf,
    pub(super) finish: Finish,
    /// Bytes from the start whose space is reserved.
    reserved: u64,
    queue: Mutex<Queue>,
    room: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    /// Whether some thread writes now.
    busy: bool,
    waiting: VecDeque<(Bytes, u64)>,
    bytes: usize,
}

impl OpenFile {
    pub(super) fn new(descriptor: OwnedFd, path: PathBuf, finish: Finish) -> OpenFile {
        OpenFile {
            descriptor,
            path,
            finish,
            reserved: 0,
            queue: Mutex::default(),
            room: Condvar::new(),
        }
    }

    /// Reserves space for `bytes` of content, where the file system can.
    pub(super) fn reserve(&mut self, bytes: u64) {
        match rustix::fs::fallocate(&self.descriptor, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => self.reserved = bytes,
            // Writing needs no reservation, and tells better what is wrong.
            Err(error) => {
                tracing::debug!(path = %self.path.display(), %error, "cannot reserve space");
            }
        }
    }

    /// How many of `length` bytes at `offset` take disk that is not reserved.
    pub(super) fn unreserved(&self, offset: u64, length: u64) -> u64 {
        let end = offset.saturating_add(length);
        end.saturating_sub(self.reserved.max(offset))
    }

    /// Writes `data` at `offset`, or has it written by the thread that writes now.
    ///
    /// Gives how many pieces this call has written, its own or others'; the caller leaves `finish`
    /// for each of them.
    ///
    /// # Errors
    /// Where the disk fails, by data of this call or another.
    pub(super) fn write(&self, data: Bytes, offset: u64) -> Result<usize, UnixfsError> {
        let mut queue = self.lock();
        while queue.busy && queue.bytes + data.len() > MAX_QUEUED_BYTES {
            queue = self
                .room
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        queue.bytes += data.len();
        queue.waiting.push_back((data, offset));
        if queue.busy {
            return Ok(0);
        }
        queue.busy = true;
        let mut written = 0;
        let outcome = loop {
            let Some((data, offset)) = queue.waiting.pop_front() else {
                break Ok(written);
            };
            drop(queue);
            let outcome = self.write_at(&data, offset);
            queue = self.lock();
            queue.bytes -= data.len();
            self.room.notify_all();
            if let Err(errno) = outcome {
                break Err(UnixfsError::errno("write", &self.path)(errno));
            }
            written += 1;
        };
        queue.busy = false;
        self.room.notify_all();
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_at(&self, mut data: &[u8], mut offset: u64) -> Result<(), Errno> {
        while !data.is_empty() {
            match rustix::io::pwrite(&self.descriptor, data, offset) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => {
                    data = &data[count..];
                    offset += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}
