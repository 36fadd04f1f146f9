//! Reads the content of files, from any offset.

use std::io::{self, Read, Seek, SeekFrom};

use bytes::Bytes;

use super::node::{Content, FilePart, Node};
use super::range::check_part;
use super::{NodeKind, UnixfsError};
use crate::block::{Cid, ReadBlocks};
use crate::limits;

/// The content of a file as a stream. Every block is verified, and has to have the size that its
/// parent declares.
///
/// Memory is that of one leaf and of the links on one path to it. Errors of [`Read`] and [`Seek`]
/// carry a [`UnixfsError`].
pub struct FileReader<'b> {
    blocks: &'b dyn ReadBlocks,
    root: Node,
    /// Parts still to be read, the next one on top.
    pending: Vec<Part>,
    /// What is left of the leaf being read.
    leaf: Bytes,
    position: u64,
}

/// A part of the file with its depth below the root.
#[derive(Clone, Copy, Debug)]
struct Part {
    part: FilePart,
    depth: usize,
}

impl std::fmt::Debug for FileReader<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("FileReader")
            .field("cid", self.root.cid())
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl<'b> FileReader<'b> {
    /// Opens the file `cid`.
    ///
    /// # Errors
    /// [`UnixfsError::NotFile`], or where its root is missing or malformed.
    pub fn open(blocks: &'b dyn ReadBlocks, cid: &Cid) -> Result<FileReader<'b>, UnixfsError> {
        FileReader::new(blocks, Node::load(blocks, cid)?)
    }

    /// As [`FileReader::open`], for a node that is loaded already.
    ///
    /// # Errors
    /// [`UnixfsError::NotFile`].
    pub fn new(blocks: &'b dyn ReadBlocks, root: Node) -> Result<FileReader<'b>, UnixfsError> {
        if root.kind() != NodeKind::File {
            return Err(UnixfsError::NotFile {
                cid: *root.cid(),
                kind: root.kind(),
            });
        }
        let mut reader = FileReader {
            blocks,
            root,
            pending: Vec::new(),
            leaf: Bytes::new(),
            position: 0,
        };
        reader.rewind();
        Ok(reader)
    }

    /// Bytes of content.
    pub fn size(&self) -> u64 {
        self.root.size()
    }

    /// The next bytes of content, up to a block, without a copy; empty at the end.
    ///
    /// # Errors
    /// Where a block is missing, malformed or of another size than declared.
    pub fn next_bytes(&mut self) -> Result<Bytes, UnixfsError> {
        self.fill()?;
        self.position += self.leaf.len() as u64;
        Ok(std::mem::take(&mut self.leaf))
    }

    fn rewind(&mut self) {
        self.position = 0;
        self.pending.clear();
        self.leaf = push_parts(&mut self.pending, &self.root.content, 1);
    }

    /// Goes on to the next leaf when the present one is used up.
    fn fill(&mut self) -> Result<(), UnixfsError> {
        while self.leaf.is_empty() {
            let Some(next) = self.pending.pop() else {
                return Ok(());
            };
            self.descend(next)?;
        }
        Ok(())
    }

    fn descend(&mut self, next: Part) -> Result<(), UnixfsError> {
        let node = load_part(self.blocks, &next.part, next.depth)?;
        self.leaf = push_parts(&mut self.pending, &node.content, next.depth + 1);
        Ok(())
    }

    /// Moves to `target` from the start, reading only the nodes on the way.
    fn seek_to(&mut self, target: u64) -> Result<(), UnixfsError> {
        self.rewind();
        self.position = target;
        let mut skip = target;
        loop {
            if skip <= self.leaf.len() as u64 {
                let _ = self.leaf.split_to(skip as usize);
                return Ok(());
            }
            skip -= self.leaf.len() as u64;
            self.leaf = Bytes::new();
            while let Some(next) = self.pending.pop_if(|next| next.part.size <= skip) {
                skip -= next.part.size;
            }
            let Some(next) = self.pending.pop() else {
                return Ok(());
            };
            self.descend(next)?;
        }
    }
}

/// Stacks the parts of a node so that the first is on top, and gives its own content. Parts of no
/// bytes are left out: there is nothing to read in them, however deep they go.
fn push_parts(pending: &mut Vec<Part>, content: &Content, depth: usize) -> Bytes {
    let Content::File { inline, parts } = content else {
        return Bytes::new();
    };
    let parts = parts.iter().rev().filter(|part| part.size > 0);
    pending.extend(parts.map(|part| Part { part: *part, depth }));
    inline.clone()
}

/// Loads a part of a file and checks that it is one, of the declared size.
pub(super) fn load_part(
    blocks: &dyn ReadBlocks,
    part: &FilePart,
    depth: usize,
) -> Result<Node, UnixfsError> {
    if depth > limits::MAX_FILE_DEPTH {
        return Err(UnixfsError::TooDeep {
            cid: part.cid,
            limit: limits::MAX_FILE_DEPTH,
        });
    }
    let node = Node::load(blocks, &part.cid)?;
    check_part(part, &node)?;
    Ok(node)
}

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.fill().map_err(io::Error::other)?;
        let count = buffer.len().min(self.leaf.len());
        buffer[..count].copy_from_slice(&self.leaf.split_to(count));
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for FileReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => self.size().checked_add_signed(offset),
        };
        let target = target.ok_or(io::ErrorKind::InvalidInput)?;
        self.seek_to(target).map_err(io::Error::other)?;
        Ok(target)
    }
}
