//! From headers to members: an entry's own header joined with those that extend it.
//!
//! Formats read: v7, ustar, GNU (long names, sparse files, base-256 numbers) and PAX. Headers that
//! extend are bounded before they are read into memory. Where common readers disagree about what a
//! header means, it is refused.

use std::io::Read;

use ipfs_exec_node::path::escape;
use rustix::fs::Timespec;
use tar::{EntryType, Header};

use super::error::{ArchiveError, Refusal};
use super::pax::Records;
use super::sparse::{self, Layout};
use super::stream::{BLOCK_BYTES, Block, Stream};

/// Largest header that extends another, in bytes. A path has 4 KiB at most; extended attributes
/// of 64 KiB each stand in PAX headers too, though nothing is made of them.
const MAX_EXTENSION_BYTES: u64 = 1024 * 1024;

/// Time of what has none, so that unpacking the same archive gives the same tree.
pub(super) const NO_TIME: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// One entry of an archive.
#[derive(Debug)]
pub(super) struct Member {
    /// The name as it stands in the archive.
    pub(super) path: Vec<u8>,
    pub(super) kind: MemberKind,
    /// Permission bits, set-id and sticky ones included.
    pub(super) mode: u32,
    pub(super) mtime: Timespec,
}

#[derive(Debug)]
pub(super) enum MemberKind {
    File(Layout),
    Directory,
    Symlink {
        target: Vec<u8>,
    },
    HardLink {
        target: Vec<u8>,
    },
    /// Nothing that is unpacked: what it is, with its article.
    Special(&'static str),
}

/// Headers that were read ahead of the entry they describe.
#[derive(Default)]
struct Extensions {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    records: Option<Records>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.long_name.is_none() && self.long_link.is_none() && self.records.is_none()
    }
}

/// The members of an archive, in order.
pub(super) struct Members<'r, R> {
    stream: Stream<'r, R>,
    /// Content of the current member that was not read.
    remaining: u64,
    /// Padding behind that content.
    padding: u64,
    /// Modification time of entries that have none of their own, set by a global PAX header.
    default_mtime: Option<Timespec>,
}

impl<'r, R: Read> Members<'r, R> {
    pub(super) fn new(stream: Stream<'r, R>) -> Members<'r, R> {
        Members {
            stream,
            remaining: 0,
            padding: 0,
            default_mtime: None,
        }
    }

    /// The next member; `None` at the mark that ends the archive.
    pub(super) fn next(&mut self) -> Result<Option<Member>, ArchiveError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_content()?;
            let Some(header) = self.header()? else {
                return if extensions.is_empty() {
                    Ok(None)
                } else {
                    Err(self.malformed("a header describes an entry that does not follow"))
                };
            };
            if !self.extend(&header, &mut extensions)? {
                return self.member(&header, extensions).map(Some);
            }
        }
    }

    /// Shows content of the current member: at least one byte, at most `most`.
    pub(super) fn content(&mut self, most: u64) -> Result<&[u8], ArchiveError> {
        self.stream.some(most.min(self.remaining))
    }

    /// Takes the `bytes` that [`Members::content`] showed.
    pub(super) fn take_content(&mut self, bytes: usize) {
        self.remaining -= bytes as u64;
        self.stream.take(bytes);
    }

    /// Reads on to the end of the stream. Gives the bytes that count against the limit, and the reader.
    pub(super) fn finish(mut self) -> Result<(u64, R), ArchiveError> {
        self.stream.drain()?;
        Ok((self.stream.charged(), self.stream.into_reader()))
    }

    fn malformed(&self, reason: &'static str) -> ArchiveError {
        ArchiveError::Malformed {
            offset: self.stream.position(),
            reason,
        }
    }

    fn skip_content(&mut self) -> Result<(), ArchiveError> {
        self.stream.skip(self.remaining)?;
        self.stream.skip(self.padding)?;
        (self.remaining, self.padding) = (0, 0);
        Ok(())
    }

    fn set_content(&mut self, bytes: u64) {
        self.remaining = bytes;
        self.padding = bytes.wrapping_neg() % BLOCK_BYTES as u64;
    }

    /// The next header with a valid checksum; `None` for the block of zeros that ends the archive.
    /// An archive without that block is truncated, though all its entries may be there.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let first = self.stream.position() == 0;
        let block = match self.stream.block() {
            Ok(Some(block)) => block,
            Ok(None) | Err(ArchiveError::Truncated) if first => {
                return Err(ArchiveError::NotAnArchive);
            }
            Ok(None) => return Err(ArchiveError::Truncated),
            Err(error) => return Err(error),
        };
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(&block);
        match checksum_matches(&block, &header) {
            true => Ok(Some(header)),
            false if first => Err(ArchiveError::NotAnArchive),
            false => Err(self.malformed("the checksum of a header does not match")),
        }
    }

    /// Takes `header` if it describes the entry that follows; gives whether it did.
    fn extend(&mut self, header: &Header, into: &mut Extensions) -> Result<bool, ArchiveError> {
        let occupied = match header.entry_type() {
            EntryType::GNULongName => {
                let name = without_end(self.extension(header)?);
                into.long_name.replace(name).is_some()
            }
            EntryType::GNULongLink => {
                let name = without_end(self.extension(header)?);
                into.long_link.replace(name).is_some()
            }
            EntryType::XHeader => {
                let records = self.records(header)?;
                into.records.replace(records).is_some()
            }
            EntryType::XGlobalHeader => {
                let records = self.records(header)?;
                if records.describes_one_entry() {
                    return Err(self.malformed("a global PAX header describes a single entry"));
                }
                self.default_mtime = records.mtime.or(self.default_mtime);
                false
            }
            _ => return Ok(false),
        };
        if occupied {
            return Err(self.malformed("an entry is described twice"));
        }
        Ok(true)
    }

    /// The content of a header that extends.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, ArchiveError> {
        let size = self.size(header)?;
        if size > MAX_EXTENSION_BYTES {
            return Err(self.malformed("a long name or PAX header has more than 1 MiB"));
        }
        let mut content = vec![0; size as usize];
        self.stream.read_exact(&mut content)?;
        self.set_content(size);
        self.remaining = 0;
        Ok(content)
    }

    fn records(&mut self, header: &Header) -> Result<Records, ArchiveError> {
        let content = self.extension(header)?;
        Records::parse(&content).map_err(|reason| self.malformed(reason))
    }

    fn size(&self, header: &Header) -> Result<u64, ArchiveError> {
        header
            .entry_size()
            .map_err(|_| self.malformed("a size is no number"))
    }

    fn member(&mut self, header: &Header, extensions: Extensions) -> Result<Member, ArchiveError> {
        let described_twice = |me: &Self| me.malformed("a long name stands in two headers");
        let records = extensions.records.unwrap_or_default();
        let size = match records.size {
            Some(size) => size,
            None => self.size(header)?,
        };
        let path = either(extensions.long_name, records.path)
            .map_err(|()| described_twice(self))?
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let path = match &records.sparse.name {
            Some(name) if records.sparse.is_present() => name.clone(),
            _ => path,
        };
        let target = either(extensions.long_link, records.link)
            .map_err(|()| described_twice(self))?
            .or_else(|| header.link_name_bytes().map(|target| target.into_owned()));
        self.set_content(size);
        let kind = match self.kind(header, &path, target, size, records.sparse)? {
            Ok(kind) => kind,
            Err(reason) => {
                return Err(ArchiveError::Refused {
                    name: escape(&path),
                    reason,
                });
            }
        };
        if let MemberKind::File(layout) = &kind {
            self.stream.charge(layout.hole_bytes())?;
        }
        Ok(Member {
            path,
            kind,
            mode: self.field(&header.as_old().mode, header.mode())?,
            mtime: match records.mtime.or(self.default_mtime) {
                Some(mtime) => mtime,
                None => timespec(self.field(&header.as_old().mtime, header.mtime())?),
            },
        })
    }

    /// What the entry is; reads the map of a sparse file.
    fn kind(
        &mut self,
        header: &Header,
        path: &[u8],
        target: Option<Vec<u8>>,
        size: u64,
        sparse: sparse::SparseRecords,
    ) -> Result<Result<MemberKind, Refusal>, ArchiveError> {
        let target = target.unwrap_or_default();
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous if sparse.is_present() => {
                return self.sparse_file(sparse, size);
            }
            // Archives from before the type existed mark a directory by its slash.
            EntryType::Regular if path.ends_with(b"/") => MemberKind::Directory,
            EntryType::Regular | EntryType::Continuous => {
                return Ok(Ok(MemberKind::File(Layout::whole(size))));
            }
            EntryType::GNUSparse => {
                let layout = sparse::read_gnu(header, size, &mut self.stream)?;
                return Ok(layout.map(MemberKind::File));
            }
            EntryType::Directory => MemberKind::Directory,
            EntryType::Symlink => MemberKind::Symlink { target },
            EntryType::Link => MemberKind::HardLink { target },
            EntryType::Char => MemberKind::Special("a character device"),
            EntryType::Block => MemberKind::Special("a block device"),
            EntryType::Fifo => MemberKind::Special("a FIFO"),
            other if other.as_byte() == b'V' => MemberKind::Special("a volume label"),
            _ => return Ok(Err(Refusal::UnknownType)),
        };
        Ok(if size == 0 {
            Ok(kind)
        } else {
            Err(Refusal::UnexpectedContent)
        })
    }

    fn sparse_file(
        &mut self,
        sparse: sparse::SparseRecords,
        size: u64,
    ) -> Result<Result<MemberKind, Refusal>, ArchiveError> {
        Ok(sparse
            .layout(size, &mut self.stream)?
            .map(|(layout, remaining)| {
                self.remaining = remaining;
                MemberKind::File(layout)
            }))
    }

    /// A number that some writers leave blank for zero.
    fn field<T: Default>(
        &self,
        field: &[u8],
        parsed: std::io::Result<T>,
    ) -> Result<T, ArchiveError> {
        if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
            return Ok(T::default());
        }
        parsed.map_err(|_| self.malformed("a mode or time is no number"))
    }
}

/// Compares the checksum: the sum of all bytes, its own field taken as blanks.
fn checksum_matches(block: &Block, header: &Header) -> bool {
    const FIELD: std::ops::Range<usize> = 148..156;
    let outside = block[..FIELD.start].iter().chain(&block[FIELD.end..]);
    let sum =
        outside.map(|byte| u32::from(*byte)).sum::<u32>() + FIELD.len() as u32 * u32::from(b' ');
    header.cksum().is_ok_and(|wanted| wanted == sum)
}

/// The one that is there, or an error when both are.
fn either<T>(first: Option<T>, second: Option<T>) -> Result<Option<T>, ()> {
    match (first, second) {
        (Some(_), Some(_)) => Err(()),
        (first, second) => Ok(first.or(second)),
    }
}

/// Long names of GNU archives end with a NUL byte that is not part of them.
fn without_end(mut name: Vec<u8>) -> Vec<u8> {
    if name.last() == Some(&0) {
        name.pop();
    }
    name
}

fn timespec(seconds: u64) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX),
        tv_nsec: 0,
    }
}
