//! Contents of a segment file: its sections, found from its bytes alone.
//!
//! A database can know less than a segment holds: a process was killed before it committed, or an
//! older database was put back. No index row names the bytes behind the committed length. For writers
//! and for garbage collection, [`settle`] decides what happens to these bytes:
//!
//! ```text
//! committed │ section that verifies │ section that does not │ torn section
//!           │ adopted into the index│ stays, as garbage     │ cut off
//! ```
//!
//! Other bytes are never cut off. A segment that holds them is sealed: it is read, and nothing is
//! written to it any more.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use rusqlite::Transaction;

use super::segment::{self, Location};
use super::store::{self, Store};
use super::{RepoError, leases, scratch};
use crate::block::{self, Cid, Multihash};
use crate::limits;

/// Longest CID in a section: a few varints and the longest digest.
const MAX_CID_BYTES: u64 = 4 * 10 + limits::MAX_IDENTITY_BYTES as u64;

/// Bytes of the longest varint before a section that is no longer than a block and a CID.
const MAX_VARINT_BYTES: u32 = 4;

/// Index rows in one transaction: bounds the memory of an adoption.
const ROWS: usize = 32 * 1024;

/// A whole section of a segment.
pub(super) struct Section<'a> {
    pub(super) cid: Cid,
    pub(super) location: Location,
    pub(super) data: Data<'a>,
}

/// What is known of the data of a section.
pub(super) enum Data<'a> {
    /// It matches its CID.
    Sound(&'a [u8]),
    /// It does not match its CID.
    Damaged,
    /// It was not read.
    Unread,
}

/// What comes after the last whole section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing.
    Nothing,
    /// The beginning of a section or header that a writer did not finish, or zeros.
    Torn,
    /// Bytes that are no section.
    Other,
}

/// What a segment was found to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scanned {
    /// Where the last whole section ends.
    pub(super) end: u64,
    pub(super) rest: Rest,
    /// Whether the file begins with the header that this program writes.
    pub(super) own_header: bool,
}

/// Reads the segment number `id` from its beginning and calls `visit` for each whole section. The
/// data of sections that end before `read_from` is not read.
pub(super) fn scan(
    file: &File,
    path: &Path,
    id: u64,
    read_from: u64,
    visit: &mut dyn FnMut(Section<'_>) -> Result<(), RepoError>,
) -> Result<Scanned, RepoError> {
    let failed = |source| RepoError::io("read", path)(source);
    let mut scan = Scan::new(file, id).map_err(failed)?;
    let (own_header, mut rest) = scan.header().map_err(failed)?;
    while rest.is_none() {
        rest = match scan.section(read_from).map_err(failed)? {
            Step::Section(section) => {
                visit(section)?;
                None
            }
            Step::End(rest) => Some(rest),
        };
    }
    Ok(Scanned {
        end: scan.end,
        rest: rest.unwrap_or(Rest::Nothing),
        own_header,
    })
}

/// A segment that is being read.
struct Scan<'f> {
    stream: BufReader<&'f File>,
    segment: u64,
    length: u64,
    /// Where the last whole section, or the header, ended.
    end: u64,
    buffer: Vec<u8>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, and nearly all are sections"
)]
enum Step<'a> {
    Section(Section<'a>),
    End(Rest),
}

/// A number at the place of a section's length.
enum Length {
    Bytes { value: u64, varint: u64 },
    End(Rest),
}

impl<'f> Scan<'f> {
    fn new(file: &'f File, segment: u64) -> io::Result<Scan<'f>> {
        let mut stream = BufReader::with_capacity(256 * 1024, file);
        stream.seek(SeekFrom::Start(0))?;
        Ok(Scan {
            length: file.metadata()?.len(),
            stream,
            segment,
            end: 0,
            buffer: Vec::new(),
        })
    }

    /// Passes over the CARv1 header: whether it is the one that this program writes, and what the
    /// file ends with where it ends here.
    fn header(&mut self) -> io::Result<(bool, Option<Rest>)> {
        let wanted = segment::HEADER;
        let present = self.length.min(wanted.len() as u64) as usize;
        self.read(present)?;
        if self.buffer == wanted {
            self.end = wanted.len() as u64;
            return Ok((true, None));
        }
        if self.length < wanted.len() as u64 {
            let is_begun = wanted.starts_with(&self.buffer) || self.buffer.iter().all(|b| *b == 0);
            let rest = if self.length == 0 {
                Rest::Nothing
            } else if is_begun {
                Rest::Torn
            } else {
                Rest::Other
            };
            return Ok((true, Some(rest)));
        }
        // A CAR file of another program: its header names roots.
        self.stream.seek(SeekFrom::Start(0))?;
        let end = match self.varint()? {
            Length::Bytes { value, varint } if value <= limits::MAX_CAR_HEADER_BYTES as u64 => {
                value + varint
            }
            _ => return Ok((false, Some(Rest::Other))),
        };
        if end > self.length {
            return Ok((false, Some(Rest::Other)));
        }
        self.stream.seek(SeekFrom::Start(end))?;
        self.end = end;
        Ok((false, None))
    }

    fn section(&mut self, read_from: u64) -> io::Result<Step<'_>> {
        let (value, varint) = match self.varint()? {
            Length::Bytes { value, varint } => (value, varint),
            Length::End(rest) => return Ok(Step::End(rest)),
        };
        if value == 0 {
            return Ok(Step::End(self.zeros()?));
        }
        if value > MAX_CID_BYTES + limits::MAX_BLOCK_BYTES as u64 {
            return Ok(Step::End(Rest::Other));
        }
        let present = self.length - self.end - varint;
        let first = value.min(MAX_CID_BYTES).min(present);
        self.read(first as usize)?;
        let mut rest = &self.buffer[..];
        let Ok(cid) = Cid::read_bytes(&mut rest) else {
            // A CID that was cut short can still be that of a torn section.
            let is_cut = first == present && present < value;
            let rest = if is_cut { Rest::Torn } else { Rest::Other };
            return Ok(Step::End(rest));
        };
        if value > present {
            return Ok(Step::End(Rest::Torn));
        }
        let cid_bytes = first - rest.len() as u64;
        let location = Location {
            segment: self.segment,
            offset: self.end + varint + cid_bytes,
            length: (value - cid_bytes) as u32,
            header: (varint + cid_bytes) as u32,
            damaged: false,
        };
        self.end = location.end();
        let data = if location.end() <= read_from {
            self.stream.seek_relative((value - first) as i64)?;
            Data::Unread
        } else {
            self.read_on((value - first) as usize)?;
            let data = &self.buffer[cid_bytes as usize..];
            match block::verify(&cid, data) {
                Ok(()) => Data::Sound(data),
                Err(_) => Data::Damaged,
            }
        };
        Ok(Step::Section(Section {
            cid,
            location,
            data,
        }))
    }

    /// The number that begins a section.
    fn varint(&mut self) -> io::Result<Length> {
        let mut value = 0;
        for index in 0..MAX_VARINT_BYTES {
            let mut byte = [0];
            if self.stream.read(&mut byte)? == 0 {
                let rest = if index == 0 {
                    Rest::Nothing
                } else {
                    Rest::Torn
                };
                return Ok(Length::End(rest));
            }
            value |= u64::from(byte[0] & 0x7f) << (7 * index);
            if byte[0] & 0x80 == 0 {
                let varint = u64::from(index) + 1;
                return Ok(Length::Bytes { value, varint });
            }
        }
        Ok(Length::End(Rest::Other))
    }

    /// Whether only zeros come: a file system can add them when power fails.
    fn zeros(&mut self) -> io::Result<Rest> {
        loop {
            let bytes = self.stream.fill_buf()?;
            if bytes.is_empty() {
                return Ok(Rest::Torn);
            }
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(Rest::Other);
            }
            let count = bytes.len();
            self.stream.consume(count);
        }
    }

    /// Fills the buffer with the next `count` bytes.
    fn read(&mut self, count: usize) -> io::Result<()> {
        self.buffer.clear();
        self.read_on(count)
    }

    /// Adds the next `count` bytes to the buffer.
    fn read_on(&mut self, count: usize) -> io::Result<()> {
        let before = self.buffer.len();
        self.buffer.resize(before + count, 0);
        self.stream.read_exact(&mut self.buffer[before..])
    }
}

/// Makes index and file of a segment agree. `file` is locked, and open for writing. Gives the
/// committed length, which is then that of the file; `None` where nothing may be written to the
/// segment: the database does not know it, it is shorter than the database says, or it is sealed.
pub(super) fn settle(store: &Store, id: u64, file: &File) -> Result<Option<u64>, RepoError> {
    let path = store.layout().segment(id);
    let known = store.committed_length(id)?;
    let Some(committed) = known.filter(|length| *length < segment::SEALED) else {
        return Ok(None);
    };
    let metadata = file.metadata().map_err(RepoError::io("stat", &path))?;
    if metadata.len() == committed {
        return Ok(Some(committed));
    }
    if metadata.len() < committed {
        tracing::warn!(
            segment = %path.display(),
            "the segment is shorter than the database says: nothing is written to it; \
             `ipfs-exec verify` lists the blocks that it lost"
        );
        return Ok(None);
    }
    // Rows must not outlive the data that they name.
    file.sync_data().map_err(RepoError::io("sync", &path))?;
    let mut adoption = Adoption::new(store, committed);
    let scanned = scan(file, &path, id, committed, &mut |section| {
        adoption.take(&section)
    })?;
    adoption
        .finish(&path, id, &scanned)?
        .map_or(Ok(None), |end| {
            file.set_len(end)
                .map_err(RepoError::io("truncate", &path))?;
            Ok(Some(end))
        })
}

/// The sections behind the committed length of one segment, on their way into the index.
struct Adoption<'s> {
    store: &'s Store,
    committed: u64,
    rows: Vec<(Multihash, Location)>,
    blocks: u64,
    /// Where the last section starts, if it is damaged.
    damaged_from: Option<u64>,
    /// Whether the committed length is inside a section.
    is_crossed: bool,
}

impl Adoption<'_> {
    fn new(store: &Store, committed: u64) -> Adoption<'_> {
        Adoption {
            store,
            committed,
            rows: Vec::new(),
            blocks: 0,
            damaged_from: None,
            is_crossed: false,
        }
    }

    fn take(&mut self, section: &Section<'_>) -> Result<(), RepoError> {
        let location = section.location;
        if location.end() <= self.committed {
            return Ok(());
        }
        self.is_crossed |= location.start() < self.committed;
        self.damaged_from = match section.data {
            Data::Sound(_) => {
                self.rows.push((*section.cid.hash(), location));
                self.blocks += 1;
                None
            }
            Data::Damaged | Data::Unread => Some(location.start()),
        };
        if self.rows.len() >= ROWS {
            let rows = std::mem::take(&mut self.rows);
            self.store
                .database()
                .write(|transaction| insert(transaction, &rows))?;
        }
        Ok(())
    }

    /// Commits. Gives the new length of the file; `None` for a segment that was sealed.
    fn finish(self, path: &Path, id: u64, scanned: &Scanned) -> Result<Option<u64>, RepoError> {
        let is_known = scanned.own_header && !self.is_crossed && scanned.rest != Rest::Other;
        let end = match (scanned.rest, self.damaged_from) {
            (Rest::Nothing, Some(damaged)) => damaged,
            _ => scanned.end,
        };
        let committed = if is_known { end } else { segment::SEALED };
        if !is_known {
            tracing::warn!(
                segment = %path.display(),
                "the segment does not fit the database: nothing is written to it any more; \
                 `ipfs-exec repo reindex` rebuilds the database from the segments"
            );
        } else if self.blocks > 0 && !was_killed(self.store)? {
            tracing::warn!(
                segment = %path.display(),
                "the segment holds {} blocks that the database did not know; \
                 `ipfs-exec repo reindex` pins what they belong to, the next gc may remove them",
                self.blocks
            );
        }
        self.store.database().write_durably(|transaction| {
            insert(transaction, &self.rows)?;
            store::set_committed(transaction, id, committed)
        })?;
        Ok(is_known.then_some(end))
    }
}

fn insert(transaction: &Transaction<'_>, rows: &[(Multihash, Location)]) -> rusqlite::Result<()> {
    for (hash, location) in rows {
        store::insert_block(transaction, &hash.to_bytes(), location, 0, false)?;
    }
    Ok(())
}

/// Whether a process was killed that had begun to write: it left its lease. Bytes behind a committed
/// length are then those of its last batch, of which nothing was promised.
pub(super) fn was_killed(store: &Store) -> Result<bool, RepoError> {
    let leases = store
        .database()
        .with(|connection| leases::list(connection))?;
    for (_, holder) in leases {
        if !scratch::is_alive(&store.layout().run(), &holder)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Settles every segment that no process writes to.
pub(super) fn settle_all(store: &Store) -> Result<(), RepoError> {
    for id in segment::numbers(store.layout())? {
        if let Some(file) = segment::lock(store.layout(), id)? {
            settle(store, id, &file)?;
        }
    }
    Ok(())
}
