//! Segments: append-only CARv1 files.
//!
//! A section is a varint with the length of what follows, the CID, and the data. The CARv1 header
//! names no roots. Any tool that reads CAR files reads a segment, up to its committed length.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;

use bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::RepoError;
use super::layout::Layout;
use super::permissions::{self, Sharing};
use super::wait::{Lock, try_lock};
use crate::block::Block;
use crate::dag::section_header;

/// The header of a CARv1 file without roots: a length and the dag-cbor map
/// `{"roots": [], "version": 1}`.
pub(super) const HEADER: &[u8] = b"\x11\xa2eroots\x80gversion\x01";

/// A segment takes no further batch above this length: files stay small enough to copy and check,
/// and a terabyte has a thousand of them.
pub(super) const MAX_BYTES: u64 = 1 << 30;

/// Where the data of a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) segment: u64,
    /// Of the data, from the start of the file.
    pub(super) offset: u64,
    /// Of the data.
    pub(super) length: u32,
    /// Bytes of the section before the data.
    pub(super) header: u32,
    /// Whether the data was found not to match its hash.
    pub(super) damaged: bool,
}

impl Location {
    /// Where the section starts.
    pub(super) fn start(&self) -> u64 {
        self.offset - u64::from(self.header)
    }

    /// Where the next section starts.
    pub(super) fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }
}

/// Reads the data at `location`.
pub(super) fn read(file: &File, location: &Location) -> io::Result<Bytes> {
    let length = location.length as usize;
    let mut data = Vec::with_capacity(length);
    while data.len() < length {
        let offset = location.offset + data.len() as u64;
        let count = rustix::io::pread(file, rustix::buffer::spare_capacity(&mut data), offset)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    data.truncate(length);
    Ok(data.into())
}

/// A segment that this process alone appends to.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) id: u64,
    /// Locked until it is closed.
    pub(super) file: File,
    /// Where the next section goes.
    pub(super) offset: u64,
}

impl Writer {
    /// Takes segment `id`, if nobody holds it. `committed` is asked for once the lock is held,
    /// since the last holder may just have added to it. What stands behind the committed length is
    /// the tail of a writer that died; it is cut off.
    pub(super) fn try_take(
        layout: &Layout,
        id: u64,
        committed: impl FnOnce() -> Result<u64, RepoError>,
    ) -> Result<Option<Writer>, RepoError> {
        let path = layout.segment(id);
        let Some(file) = lock(layout, id)? else {
            return Ok(None);
        };
        let mut committed = committed()?;
        let length = file.metadata().map_err(RepoError::io("stat", &path))?.len();
        if length < committed {
            // Bytes that were synced are gone: reading will tell which blocks; add none here.
            tracing::warn!(segment = %path.display(), "segment is shorter than its index says");
            return Ok(None);
        }
        if length > committed {
            file.set_len(committed)
                .map_err(RepoError::io("truncate", &path))?;
        }
        if committed == 0 {
            write_at(&file, &mut [IoSlice::new(HEADER)], 0)
                .map_err(RepoError::io("write", &path))?;
            committed = HEADER.len() as u64;
        }
        Ok(Some(Writer {
            id,
            file,
            offset: committed,
        }))
    }

    /// Appends blocks and tells where each went.
    pub(super) fn append(&mut self, blocks: &[&Block]) -> io::Result<Vec<Location>> {
        /// Two vectors a block, within Linux's IOV_MAX of 1,024.
        const BLOCKS_A_CALL: usize = 512;
        let mut locations = Vec::with_capacity(blocks.len());
        for group in blocks.chunks(BLOCKS_A_CALL) {
            let headers: Vec<_> = group
                .iter()
                .map(|block| section_header(block.cid(), block.data().len()))
                .collect();
            let mut end = self.offset;
            let mut vectors = Vec::with_capacity(2 * group.len());
            for (header, block) in headers.iter().zip(group) {
                vectors.push(IoSlice::new(header));
                vectors.push(IoSlice::new(block.data()));
                let location = Location {
                    segment: self.id,
                    offset: end + header.len() as u64,
                    length: block.data().len() as u32,
                    header: header.len() as u32,
                    damaged: false,
                };
                end = location.end();
                locations.push(location);
            }
            write_at(&self.file, &mut vectors, self.offset)?;
            self.offset = end;
        }
        Ok(locations)
    }
}

/// Opens the segment for writing and locks it; `None` when another process has it.
pub(super) fn lock(layout: &Layout, id: u64) -> Result<Option<File>, RepoError> {
    let path = layout.segment(id);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(RepoError::errno("open", &path))?;
    let file = File::from(file);
    if !try_lock(&file, Lock::Exclusive, &path)? {
        return Ok(None);
    }
    if layout.sharing() != Sharing::Private {
        permissions::set(&path, layout.sharing())?;
    }
    Ok(Some(file))
}

/// Writes all of `vectors` at `offset`.
fn write_at(file: impl AsFd, mut vectors: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    while !vectors.is_empty() {
        match rustix::io::pwritev(&file, vectors, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                offset += count as u64;
                IoSlice::advance_slices(&mut vectors, count);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
