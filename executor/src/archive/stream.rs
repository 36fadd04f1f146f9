//! The decompressed bytes: counted, bounded in number and time, interruptible.
//!
//! Every byte of the archive and every hole of a sparse file passes [`Stream::charge`] before
//! anything is made of it, so no arrangement of entries costs more than the limit.

use std::io::{self, BufRead, BufReader, Read};

use ipfs_exec_node::budget::Spending;
use ipfs_exec_node::progress::Reporter;

use super::error::ArchiveError;

/// Size of a tar header, and the unit to which content is padded.
pub(super) const BLOCK_BYTES: usize = 512;

/// One block.
pub(super) type Block = [u8; BLOCK_BYTES];

/// Bytes decompressed at once.
const BUFFER_BYTES: usize = 128 * 1024;

pub(super) struct Stream<'r, R> {
    reader: BufReader<R>,
    /// Bytes taken so far.
    position: u64,
    spending: &'r Spending<'r>,
    reporter: &'r dyn Reporter,
}

impl<'r, R: Read> Stream<'r, R> {
    pub(super) fn new(
        reader: R,
        spending: &'r Spending<'r>,
        reporter: &'r dyn Reporter,
    ) -> Stream<'r, R> {
        let reader = BufReader::with_capacity(BUFFER_BYTES, reader);
        Stream {
            reader,
            position: 0,
            spending,
            reporter,
        }
    }

    /// Bytes taken so far, for messages.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes that count against the limit so far.
    pub(super) fn charged(&self) -> u64 {
        self.spending.bytes()
    }

    /// The reader, with what it read ahead dropped.
    pub(super) fn into_reader(self) -> R {
        self.reader.into_inner()
    }

    /// Counts `bytes` against the limit.
    pub(super) fn charge(&mut self, bytes: u64) -> Result<(), ArchiveError> {
        self.spending.take_bytes(bytes)?;
        Ok(())
    }

    /// The next block; `None` where the stream ends before it.
    pub(super) fn block(&mut self) -> Result<Option<Block>, ArchiveError> {
        if self.fill()?.is_empty() {
            return Ok(None);
        }
        let mut block = [0; BLOCK_BYTES];
        self.read_exact(&mut block)?;
        Ok(Some(block))
    }

    /// Fills `target`.
    pub(super) fn read_exact(&mut self, mut target: &mut [u8]) -> Result<(), ArchiveError> {
        while !target.is_empty() {
            let part = self.some(target.len() as u64)?;
            let taken = part.len();
            target[..taken].copy_from_slice(part);
            target = &mut target[taken..];
            self.take(taken);
        }
        Ok(())
    }

    /// Shows the next bytes: at least one, at most `most`. They count against the limit now, and
    /// [`Stream::take`] must remove all of them before more are asked for.
    pub(super) fn some(&mut self, most: u64) -> Result<&[u8], ArchiveError> {
        let available = self.fill()?.len();
        if available == 0 {
            return Err(ArchiveError::Truncated);
        }
        let length = most.min(available as u64) as usize;
        self.charge(length as u64)?;
        Ok(&self.reader.buffer()[..length])
    }

    /// Takes the `bytes` that [`Stream::some`] showed.
    pub(super) fn take(&mut self, bytes: usize) {
        self.position += bytes as u64;
        self.reader.consume(bytes);
    }

    /// Takes `bytes` and discards them.
    pub(super) fn skip(&mut self, mut bytes: u64) -> Result<(), ArchiveError> {
        while bytes > 0 {
            let taken = self.some(bytes)?.len();
            self.take(taken);
            bytes -= taken as u64;
        }
        Ok(())
    }

    /// Reads on to the end of the source, where decompressors find out that it was cut short.
    pub(super) fn drain(&mut self) -> Result<(), ArchiveError> {
        while !self.fill()?.is_empty() {
            let rest = self.some(u64::MAX)?.len();
            self.take(rest);
        }
        Ok(())
    }

    /// The bytes at hand; none at the end.
    fn fill(&mut self) -> Result<&[u8], ArchiveError> {
        loop {
            if self.reporter.cancel().is_cancelled() {
                return Err(ArchiveError::Interrupted);
            }
            self.spending.check_time()?;
            match self.reader.fill_buf() {
                Ok(_) => break,
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::UnexpectedEof => return Err(ArchiveError::Truncated),
                    _ => return Err(ArchiveError::Read { source: error }),
                },
            }
        }
        Ok(self.reader.buffer())
    }
}
