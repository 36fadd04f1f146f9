//! Finding and reading blocks: the index in front of the segments.

use std::collections::{HashMap, HashSet};
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
use super::{RepoError, pins, recover};
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
    /// Holds the lock that keeps `repo reindex` out.
    _in_use: File,
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
        let waiting = Waiting::new(options.cancel);
        let layout = Layout::ensure(path, options.sharing, &waiting)?;
        let in_use = layout.share(&waiting)?;
        let database = Database::open(layout.database(), layout.root(), waiting.clone())?;
        let store = Store {
            layout,
            database,
            waiting,
            readers: Mutex::default(),
            _in_use: in_use,
        };
        store.check_segments()?;
        Ok(store)
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

    /// The CID under which the block was stored, as its section says; raw where that is unreadable.
    pub(super) fn stored_cid(&self, hash: &Multihash, location: &Location) -> Cid {
        let cid = segment::stored_cid(&self.layout, hash, location);
        cid.unwrap_or_else(|| Cid::new_v1(block::RAW, *hash))
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

    /// A segment that no process writes: one with room, or a new one.
    pub(super) fn take_segment(&self) -> Result<Writer, RepoError> {
        let candidates = self.database.with(|connection| {
            let mut statement =
                connection.prepare("SELECT id FROM segments WHERE committed < ?1 ORDER BY id")?;
            let ids =
                statement.query_map([segment::MAX_BYTES as i64], |row| row.get::<_, i64>(0))?;
            ids.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        for id in candidates {
            let id = id as u64;
            if let Some(file) = segment::lock(&self.layout, id)?
                && let Some(committed) = recover::settle(self, id, &file)?
                && committed < segment::MAX_BYTES
            {
                return Writer::start(&self.layout, id, file, committed);
            }
        }
        loop {
            let id = self.number_segment()?;
            // Another process may see the new row and lock the new file first.
            if let Some(file) = segment::create(&self.layout, id)? {
                return Writer::start(&self.layout, id, file, 0);
            }
        }
    }

    /// Records a new segment under a number that no file has. The row is on disk before the file is
    /// made: a file without a row counts as unknown.
    fn number_segment(&self) -> Result<u64, RepoError> {
        let last = segment::numbers(&self.layout)?.pop().unwrap_or(0);
        self.database.write_durably(|transaction| {
            let recorded =
                "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'segments'";
            let recorded: i64 = transaction.query_row(recorded, [], |row| row.get(0))?;
            let id = recorded.max(last as i64) + 1;
            transaction.execute("INSERT INTO segments VALUES (?1, 0)", [id])?;
            Ok(id as u64)
        })
    }

    /// Bytes of a segment that count; `None` where the database does not know the segment.
    pub(super) fn committed_length(&self, id: u64) -> Result<Option<u64>, RepoError> {
        self.database.with(|connection| {
            let committed = "SELECT committed FROM segments WHERE id = ?1";
            let committed =
                connection.query_row(committed, [id as i64], |row| row.get::<_, i64>(0));
            Ok(committed.optional()?.map(|length| length as u64))
        })
    }

    /// Refuses a repository with segments that the database does not know: it may be an older one,
    /// and a collection would take what it does not know for garbage.
    fn check_segments(&self) -> Result<(), RepoError> {
        // Before the database: a row comes before its file.
        let files = segment::numbers(&self.layout)?;
        let known = self.database.with(|connection| {
            let mut statement = connection.prepare("SELECT id FROM segments")?;
            let ids = statement.query_map([], |row| row.get::<_, i64>(0))?;
            ids.map(|id| id.map(|id| id as u64))
                .collect::<rusqlite::Result<HashSet<_>>>()
        })?;
        for id in files.into_iter().filter(|id| !known.contains(id)) {
            let path = self.layout.segment(id);
            let length = fs::metadata(&path)
                .map_err(RepoError::io("stat", &path))?
                .len();
            if length > segment::HEADER.len() as u64 {
                return Err(RepoError::UnknownSegment { path });
            }
        }
        Ok(())
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

/// Its parameters are those of [`insert_block`], in the order of the columns.
const INSERT_BLOCK: &str = "
    INSERT INTO blocks (hash, segment, offset, length, header, lease, damaged)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
    ON CONFLICT (hash) DO UPDATE SET
        segment = CASE damaged WHEN 0 THEN segment ELSE excluded.segment END,
        offset = CASE damaged WHEN 0 THEN offset ELSE excluded.offset END,
        length = CASE damaged WHEN 0 THEN length ELSE excluded.length END,
        header = CASE damaged WHEN 0 THEN header ELSE excluded.header END,
        lease = max(lease, excluded.lease),
        damaged = min(damaged, excluded.damaged)";

/// Adds the block with this binary multihash to the index, under the lease of its writer; 0 is none.
/// Another process may have committed the same block: the first copy stands, unless it is bad.
pub(super) fn insert_block(
    connection: &Connection,
    hash: &[u8],
    location: &Location,
    lease: i64,
    is_damaged: bool,
) -> rusqlite::Result<()> {
    connection.prepare_cached(INSERT_BLOCK)?.execute(params![
        hash,
        location.segment as i64,
        location.offset as i64,
        location.length,
        location.header,
        lease,
        is_damaged
    ])?;
    Ok(())
}

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
