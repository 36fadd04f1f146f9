//! Finding and reading blocks: the index in front of the segments.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::database::Database;
use super::layout::Layout;
use super::options::RepositoryOptions;
use super::segment::{self, Location, Writer};
use super::wait::Waiting;
use super::{RepoError, pins};
use crate::block::{self, BlockError, Cid, Multihash};

/// Most segment files kept open for reading, each a gibibyte of blocks.
const MAX_OPEN_SEGMENTS: usize = 128;

/// The committed blocks of a repository.
#[derive(Debug)]
pub(super) struct Store {
    layout: Layout,
    database: Database,
    waiting: Waiting,
    readers: Mutex<HashMap<u64, Arc<File>>>,
}

/// Counts and sizes of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Distinct blocks.
    pub blocks: u64,
    /// Bytes of their data.
    pub bytes: u64,
    /// Bytes that the segments take on disk.
    pub disk_bytes: u64,
    /// Segment files.
    pub segments: u64,
    /// Pins of both kinds.
    pub pins: u64,
    /// Unpacked root file systems kept for further runs.
    pub rootfs_entries: u64,
    /// Bytes of their content.
    pub rootfs_bytes: u64,
    /// Where the repository is.
    pub path: PathBuf,
}

impl Store {
    pub(super) fn open(path: &Path, options: RepositoryOptions) -> Result<Store, RepoError> {
        let waiting = Waiting::new(options.interruption);
        let layout = Layout::ensure(path, options.sharing, &waiting)?;
        let database = Database::open(layout.database(), layout.root(), waiting.clone())?;
        Ok(Store {
            layout,
            database,
            waiting,
            readers: Mutex::default(),
        })
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    /// How to wait for other processes.
    pub(super) fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// Looks a block up in the index.
    pub(super) fn find(&self, hash: &Multihash) -> Result<Option<Location>, RepoError> {
        self.database.with(|connection| find(connection, hash))
    }

    /// Bytes that were ever appended and committed, of segments that are still there.
    pub(super) fn committed_bytes(&self) -> Result<u64, RepoError> {
        self.database.with(|connection| {
            let sum = "SELECT coalesce(sum(committed), 0) FROM segments";
            connection.query_row(sum, [], |row| Ok(row.get::<_, i64>(0)? as u64))
        })
    }

    /// Up to `count` blocks after the multihash `after`, in the order of the index.
    pub(super) fn blocks_after(
        &self,
        after: Option<&Multihash>,
        count: usize,
    ) -> Result<Vec<Cid>, RepoError> {
        let after = after.map_or_else(Vec::new, Multihash::to_bytes);
        self.database.with(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT hash FROM blocks WHERE hash > ?1 AND damaged = 0 ORDER BY hash LIMIT ?2",
            )?;
            let rows =
                statement.query_map(params![after, count as i64], |row| hash_column(row, 0))?;
            rows.map(|hash| Ok(Cid::new_v1(block::RAW, hash?)))
                .collect()
        })
    }

    /// Reads and verifies a committed block.
    ///
    /// A block may move while it is read (garbage collection rewrites segments), so what does not
    /// verify is looked up once more before it counts as damaged.
    pub(super) fn read(&self, cid: &Cid) -> Result<Bytes, BlockError> {
        let mut tried = None;
        loop {
            let Some(location) = self.find(cid.hash())? else {
                return Err(BlockError::Missing { cid: *cid });
            };
            match self.read_at(cid, &location) {
                Err(BlockError::Damaged { .. }) if tried != Some(location) => {
                    tried = Some(location);
                    self.forget_reader(location.segment);
                }
                Err(error @ BlockError::Damaged { .. }) => {
                    self.mark_damaged(cid, &location);
                    return Err(error);
                }
                outcome => return outcome,
            }
        }
    }

    /// Reads the data at `location` and verifies it.
    pub(super) fn read_at(&self, cid: &Cid, location: &Location) -> Result<Bytes, BlockError> {
        let path = self.layout.segment(location.segment);
        let damaged = || BlockError::Damaged { cid: *cid };
        let file = match self.reader(location.segment) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(damaged()),
            Err(error) => return Err(RepoError::io("open", &path)(error).into()),
        };
        let data = match segment::read(&file, location) {
            Ok(data) => data,
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Err(damaged());
            }
            Err(error) => return Err(RepoError::io("read", &path)(error).into()),
        };
        match block::verify(cid, &data) {
            Ok(()) => Ok(data),
            Err(BlockError::Mismatch { .. }) => Err(damaged()),
            Err(error) => Err(error),
        }
    }

    /// Notes that the block is bad, so that the next writer of it replaces it.
    fn mark_damaged(&self, cid: &Cid, location: &Location) {
        let marked =
            self.database.write(|transaction| {
                transaction.execute(
                "UPDATE blocks SET damaged = 1 WHERE hash = ?1 AND segment = ?2 AND offset = ?3",
                params![cid.hash().to_bytes(), location.segment as i64, location.offset as i64],
            )
            });
        if let Err(error) = marked {
            tracing::debug!(%cid, %error, "cannot note the damage");
        }
    }

    fn reader(&self, segment: u64) -> std::io::Result<Arc<File>> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = readers.get(&segment) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(File::open(self.layout.segment(segment))?);
        if readers.len() >= MAX_OPEN_SEGMENTS {
            readers.clear();
        }
        readers.insert(segment, Arc::clone(&file));
        Ok(file)
    }

    fn forget_reader(&self, segment: u64) {
        self.readers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&segment);
    }

    /// A segment that nobody writes: one with room, or a new one.
    pub(super) fn take_segment(&self) -> Result<Writer, RepoError> {
        let candidates = self.database.with(|connection| {
            let mut statement =
                connection.prepare("SELECT id FROM segments WHERE committed < ?1 ORDER BY id")?;
            let ids =
                statement.query_map([segment::MAX_BYTES as i64], |row| row.get::<_, i64>(0))?;
            ids.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        for id in candidates {
            let taken = Writer::try_take(&self.layout, id as u64, || self.committed_length(id))?;
            if let Some(writer) = taken.filter(|writer| writer.offset < segment::MAX_BYTES) {
                return Ok(writer);
            }
        }
        loop {
            let id = self.database.write(|transaction| {
                transaction.execute("INSERT INTO segments (committed) VALUES (0)", [])?;
                Ok(transaction.last_insert_rowid())
            })?;
            // Another process may see the new row and take the segment first.
            if let Some(writer) =
                Writer::try_take(&self.layout, id as u64, || self.committed_length(id))?
            {
                return Ok(writer);
            }
        }
    }

    pub(super) fn committed_length(&self, id: i64) -> Result<u64, RepoError> {
        self.database.with(|connection| {
            connection.query_row(
                "SELECT committed FROM segments WHERE id = ?1",
                [id],
                |row| Ok(row.get::<_, i64>(0)? as u64),
            )
        })
    }

    /// Makes the names of new segments as durable as their content.
    pub(super) fn sync_blocks_directory(&self) -> Result<(), RepoError> {
        let path = self.layout.blocks();
        let directory = File::open(&path).map_err(RepoError::io("open", &path))?;
        directory.sync_all().map_err(RepoError::io("sync", &path))
    }

    pub(super) fn statistics(&self) -> Result<Statistics, RepoError> {
        let (blocks, bytes, pins, rootfs_entries, rootfs_bytes) = self.database.with(count_rows)?;
        let directory = self.layout.blocks();
        let mut statistics = Statistics {
            blocks,
            bytes,
            disk_bytes: 0,
            segments: 0,
            pins,
            rootfs_entries,
            rootfs_bytes,
            path: self.layout.root().to_owned(),
        };
        for entry in fs::read_dir(&directory).map_err(RepoError::io("read", &directory))? {
            let entry = entry.map_err(RepoError::io("read", &directory))?;
            let metadata = entry
                .metadata()
                .map_err(RepoError::io("stat", &entry.path()))?;
            statistics.segments += 1;
            statistics.disk_bytes += metadata.blocks() * 512;
        }
        Ok(statistics)
    }
}

type RowCounts = (u64, u64, u64, u64, u64);

fn count_rows(connection: &mut Connection) -> rusqlite::Result<RowCounts> {
    let pair = |sql| {
        connection.query_row(sql, [], |row| {
            Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64))
        })
    };
    let (blocks, bytes) = pair("SELECT count(*), coalesce(sum(length), 0) FROM blocks")?;
    let (rootfs_entries, rootfs_bytes) =
        pair("SELECT count(*), coalesce(sum(bytes), 0) FROM rootfs")?;
    Ok((
        blocks,
        bytes,
        pins::count(connection)?,
        rootfs_entries,
        rootfs_bytes,
    ))
}

/// The columns that [`location`] reads, in its order.
pub(super) const LOCATION_COLUMNS: &str = "segment, offset, length, header, damaged";

/// Reads [`LOCATION_COLUMNS`], the first of which is `column`.
pub(super) fn location(row: &Row<'_>, column: usize) -> rusqlite::Result<Location> {
    Ok(Location {
        segment: row.get::<_, i64>(column)? as u64,
        offset: row.get::<_, i64>(column + 1)? as u64,
        length: row.get(column + 2)?,
        header: row.get(column + 3)?,
        damaged: row.get(column + 4)?,
    })
}

/// Reads a multihash from a column.
pub(super) fn hash_column(row: &Row<'_>, column: usize) -> rusqlite::Result<Multihash> {
    let bytes: Vec<u8> = row.get(column)?;
    Multihash::from_bytes(&bytes).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Blob,
            Box::new(error),
        )
    })
}

/// Looks a block up on this connection.
pub(super) fn find(
    connection: &Connection,
    hash: &Multihash,
) -> rusqlite::Result<Option<Location>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {LOCATION_COLUMNS} FROM blocks WHERE hash = ?1"
    ))?;
    statement
        .query_row([hash.to_bytes()], |row| location(row, 0))
        .optional()
}

/// Makes the first `length` bytes of a segment count.
pub(super) fn set_committed(
    transaction: &Transaction<'_>,
    segment: u64,
    length: u64,
) -> rusqlite::Result<()> {
    transaction.execute(
        "UPDATE segments SET committed = ?2 WHERE id = ?1",
        params![segment as i64, length as i64],
    )?;
    Ok(())
}
