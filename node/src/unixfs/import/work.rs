//! Work of the worker threads: they read chunks and hash them.
//!
//! A leaf block is made in place: content is read into a buffer that has room for the dag-pb frame
//! around it, so that no byte is copied between the file and the store. Chunks of zeros are recognised
//! and not hashed: all of them are one block.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};

use super::super::data::{self, MAX_LEAF_PREFIX_BYTES, MAX_LEAF_SUFFIX_BYTES, Metadata};
use super::super::{Mtime, UnixfsError};
use super::ImportOptions;
use super::source;
use super::tree::Child;
use crate::block::{Block, DAG_PB, RAW};
use crate::profile::Profile;

/// A piece of work with the place for its result.
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) done: Sender<Result<Done, UnixfsError>>,
}

/// What is to be done.
pub(super) enum Work {
    /// Open a regular file; read it if it fits one chunk.
    File {
        directory: Arc<OwnedFd>,
        name: OsString,
        path: PathBuf,
    },
    /// Read one chunk of an open file.
    Chunk {
        file: Arc<File>,
        path: Arc<PathBuf>,
        offset: u64,
        length: usize,
    },
    /// Hash a chunk that was read from a stream.
    Buffer {
        buffer: ChunkBuffer,
        metadata: Metadata,
    },
}

/// A leaf block, and what its parent needs to know of it.
pub(super) struct Leaf {
    pub(super) block: Block,
    pub(super) child: Child,
}

/// What was done.
pub(super) enum Done {
    /// A leaf.
    Leaf(Box<Leaf>),
    /// A whole chunk of zeros without metadata, which is not hashed again: see [`zero_leaf`].
    Zeros,
    /// A file of more than one chunk, or of a size that only reading tells.
    Open {
        file: File,
        path: PathBuf,
        size: u64,
        metadata: Metadata,
    },
}

/// Performs jobs until there are no more.
pub(super) fn work(jobs: &Receiver<Job>, options: &ImportOptions, profile: &Profile) {
    for job in jobs {
        // A receiver that is gone has failed elsewhere and needs no result.
        let _ = job.done.send(perform(job.work, options, profile));
    }
}

fn perform(work: Work, options: &ImportOptions, profile: &Profile) -> Result<Done, UnixfsError> {
    match work {
        Work::File {
            directory,
            name,
            path,
        } => {
            let file = source::open_file(&*directory, &name, &path, options)?;
            open(file, path, options, profile)
        }
        Work::Chunk {
            file,
            path,
            offset,
            length,
        } => {
            let mut buffer = ChunkBuffer::new(length);
            buffer
                .read_at(&file, offset)
                .map_err(UnixfsError::io("read", &path))?;
            if buffer.content_length() < length {
                return Err(UnixfsError::Changed {
                    path: path.to_path_buf(),
                });
            }
            Ok(leaf(buffer, &Metadata::default(), profile))
        }
        Work::Buffer { buffer, metadata } => Ok(leaf(buffer, &metadata, profile)),
    }
}

/// Reads a small file at once; leaves a large one open for the jobs that follow.
fn open(
    opened: source::OpenedFile,
    path: PathBuf,
    options: &ImportOptions,
    profile: &Profile,
) -> Result<Done, UnixfsError> {
    let source::OpenedFile { file, stat, mode } = opened;
    let mtime = Mtime {
        seconds: stat.mtime(),
        nanoseconds: stat.mtime_nsec() as u32,
    };
    let metadata = options.metadata(mode, mtime);
    let size = stat.size();
    // Files of /proc and /sys say 0 whatever they hold; only reading tells.
    if size > profile.chunk_bytes as u64 || size == 0 && holds_more(&file) {
        return Ok(Done::Open {
            file,
            path,
            size,
            metadata,
        });
    }
    let mut buffer = ChunkBuffer::new(size as usize);
    buffer
        .read_at(&file, 0)
        .map_err(UnixfsError::io("read", &path))?;
    if (buffer.content_length() as u64) < size {
        return Err(UnixfsError::Changed { path });
    }
    Ok(leaf(buffer, &metadata, profile))
}

fn holds_more(file: &File) -> bool {
    use std::os::unix::fs::FileExt;
    matches!(file.read_at(&mut [0], 0), Ok(1..))
}

/// Content with room around it for its frame.
pub(super) struct ChunkBuffer {
    bytes: Vec<u8>,
    length: usize,
}

impl ChunkBuffer {
    /// Room for `length` bytes of content.
    pub(super) fn new(length: usize) -> ChunkBuffer {
        let mut bytes = Vec::with_capacity(MAX_LEAF_PREFIX_BYTES + length + MAX_LEAF_SUFFIX_BYTES);
        bytes.resize(MAX_LEAF_PREFIX_BYTES, 0);
        ChunkBuffer { bytes, length }
    }

    pub(super) fn content_length(&self) -> usize {
        self.content().len()
    }

    fn content(&self) -> &[u8] {
        &self.bytes[MAX_LEAF_PREFIX_BYTES..]
    }

    /// Reads until the room is full or the file ends.
    fn read_at(&mut self, file: &File, offset: u64) -> std::io::Result<()> {
        while self.content_length() < self.length {
            let room = self.length - self.content_length();
            let position = offset + self.content_length() as u64;
            let filled = self.bytes.len();
            // The capacity is larger than the content may be: the frame follows it.
            let spare = rustix::buffer::spare_capacity(&mut self.bytes);
            match rustix::io::pread(file, spare, position) {
                Ok(0) => break,
                Ok(_) => self
                    .bytes
                    .truncate(filled + room.min(self.bytes.len() - filled)),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Reads from a stream until the room is full or the stream ends.
    pub(super) fn read_from(&mut self, stream: &mut dyn std::io::Read) -> std::io::Result<()> {
        use std::io::Read;
        let room = (self.length - self.content_length()) as u64;
        stream.take(room).read_to_end(&mut self.bytes).map(|_| ())
    }
}

/// Makes the leaf of a chunk.
fn leaf(buffer: ChunkBuffer, metadata: &Metadata, profile: &Profile) -> Done {
    let is_whole = buffer.content_length() == profile.chunk_bytes;
    if is_whole && *metadata == Metadata::default() && is_zero(buffer.content()) {
        return Done::Zeros;
    }
    Done::Leaf(Box::new(hash(buffer, metadata, profile)))
}

/// The leaf of a whole chunk of zeros, without metadata.
pub(super) fn zero_leaf(profile: &Profile) -> Leaf {
    let length = profile.chunk_bytes;
    let mut buffer = ChunkBuffer::new(length);
    buffer.bytes.resize(MAX_LEAF_PREFIX_BYTES + length, 0);
    hash(buffer, &Metadata::default(), profile)
}

/// Compares the bytes with themselves, one further: as fast as memory, and over at once where the first
/// bytes are not zero.
fn is_zero(bytes: &[u8]) -> bool {
    match bytes {
        [] => true,
        [first, rest @ ..] => *first == 0 && bytes[..rest.len()] == *rest,
    }
}

fn hash(buffer: ChunkBuffer, metadata: &Metadata, profile: &Profile) -> Leaf {
    let length = buffer.content_length();
    let (codec, data) = if profile.raw_leaves {
        (
            RAW,
            Bytes::from(buffer.bytes).slice(MAX_LEAF_PREFIX_BYTES..),
        )
    } else {
        (DAG_PB, frame(buffer, metadata))
    };
    let block = Block::new(profile.cid_version, codec, data);
    let child = Child {
        cid: *block.cid(),
        bytes: length as u64,
        cumulative_bytes: block.data().len() as u64,
    };
    Leaf { block, child }
}

/// Puts the frame around the content, where it lies.
fn frame(buffer: ChunkBuffer, metadata: &Metadata) -> Bytes {
    let frame = data::leaf_frame(buffer.content_length(), metadata);
    let mut bytes = buffer.bytes;
    bytes.extend_from_slice(&frame.suffix);
    let start = MAX_LEAF_PREFIX_BYTES - frame.prefix.len();
    bytes[start..MAX_LEAF_PREFIX_BYTES].copy_from_slice(&frame.prefix);
    Bytes::from(bytes).slice(start..)
}
