//! Segments: append-only CARv1 files.
//!
//! A section is a varint with the length of what follows, the CID, and the data. The CARv1 header
//! names no roots. Any tool that reads CAR files reads a segment, up to its committed length.

use std::fs::{self, File};
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::RepoError;
use super::layout::Layout;
use super::permissions::{self, Sharing};
use super::wait::{Lock, try_lock};
use crate::block::{Block, Cid, Multihash};
use crate::dag::section_header;

/// The header of a CARv1 file without roots: a length and the dag-cbor map
/// `{"roots": [], "version": 1}`.
pub(super) const HEADER: &[u8] = b"\x11\xa2eroots\x80gversion\x01";

/// A segment takes no further batch above this length: files stay small enough to copy and check,
/// and a terabyte has a thousand of them.
pub(super) const MAX_BYTES: u64 = 1 << 30;

/// Committed length of a segment that is read and never written to: one that holds bytes that are no
/// sections. No segment is so long, and the sum over a million of them fits the database.
pub(super) const SEALED: u64 = 1 << 40;

/// Highest number of a segment. Files with higher ones are not from this program.
const MAX_NUMBER: u64 = 1 << 40;

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

/// The CID that the section at `location` names; `None` where it is not one of `hash`.
pub(super) fn stored_cid(layout: &Layout, hash: &Multihash, location: &Location) -> Option<Cid> {
    let file = File::open(layout.segment(location.segment)).ok()?;
    let mut header = vec![0; location.header as usize];
    file.read_exact_at(&mut header, location.start()).ok()?;
    let varint = header.iter().position(|byte| byte & 0x80 == 0)? + 1;
    let cid = Cid::try_from(&header[varint..]).ok()?;
    (cid.hash() == hash).then_some(cid)
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
    /// Appends to the locked segment `id`, of which `committed` bytes count and nothing is behind
    /// them. A segment without a header gets one.
    pub(super) fn start(
        layout: &Layout,
        id: u64,
        file: File,
        committed: u64,
    ) -> Result<Writer, RepoError> {
        let mut offset = committed;
        if committed == 0 {
            write_at(&file, &mut [IoSlice::new(HEADER)], 0)
                .map_err(RepoError::io("write", &layout.segment(id)))?;
            offset = HEADER.len() as u64;
        }
        Ok(Writer { id, file, offset })
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

/// Opens the segment for writing and locks it; `None` where another process has it, and where it is
/// lost: a lost segment is never made anew.
pub(super) fn lock(layout: &Layout, id: u64) -> Result<Option<File>, RepoError> {
    let path = layout.segment(id);
    match rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => lock_open(layout, file.into(), &path),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(RepoError::errno("open", &path)(errno)),
    }
}

/// Makes the file of the new segment `id` and locks it; `None` where another process was faster.
///
/// # Errors
/// Where a file of that name exists: what is in it is not known, so that nothing is written to it.
pub(super) fn create(layout: &Layout, id: u64) -> Result<Option<File>, RepoError> {
    let path = layout.segment(id);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(RepoError::errno("create", &path))?;
    lock_open(layout, file.into(), &path)
}

fn lock_open(layout: &Layout, file: File, path: &Path) -> Result<Option<File>, RepoError> {
    if !try_lock(&file, Lock::Exclusive, path)? {
        return Ok(None);
    }
    if layout.sharing() != Sharing::Private {
        permissions::set(path, layout.sharing())?;
    }
    Ok(Some(file))
}

/// The numbers of the segment files that exist, lowest first.
pub(super) fn numbers(layout: &Layout) -> Result<Vec<u64>, RepoError> {
    let directory = layout.blocks();
    let mut numbers = Vec::new();
    for entry in fs::read_dir(&directory).map_err(RepoError::io("read", &directory))? {
        let name = entry
            .map_err(RepoError::io("read", &directory))?
            .file_name();
        numbers.extend(name.to_str().and_then(number));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The number of the segment file `name`; `None` for a file that is no segment.
fn number(name: &str) -> Option<u64> {
    let number: u64 = name.strip_suffix(".car")?.parse().ok()?;
    let is_written_so = name == format!("{number}.car");
    (is_written_so && (1..=MAX_NUMBER).contains(&number)).then_some(number)
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
