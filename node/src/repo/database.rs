//! The SQLite database: schema, connections and transactions.
//!
//! Connections are pooled, one a thread at a time. Writers wait for each other's transactions,
//! which are short; readers never wait. Transactions are durable only where they say so: a lease
//! need not outlive a power failure, a pin must.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, config::DbConfig, params};

use super::wait::Waiting;
use super::{RepoError, RootfsEntry, SqliteError, layout};

/// Version of the on-disk layout. A change that older programs cannot read counts it up.
const LAYOUT_VERSION: i64 = 1;

/// Pages in the log before it is copied into the database. The first process to open the database
/// reads the whole log, so that it must stay short: a mebibyte.
const CHECKPOINT_PAGES: u32 = 256;

const SCHEMA: &str = "
    CREATE TABLE layout (version INTEGER NOT NULL);

    -- Where each block is. `hash` is its multihash, so that all CIDs of one block share a row.
    -- `offset` and `length` bound the data; `header` bytes before it hold length and CID.
    -- `lease` is the newest lease whose holder wrote the block or relied on it.
    CREATE TABLE blocks (
        hash BLOB PRIMARY KEY,
        segment INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        length INTEGER NOT NULL,
        header INTEGER NOT NULL,
        lease INTEGER NOT NULL,
        damaged INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;

    -- `committed` is the length of the segment file that counts; 0 before its first batch.
    CREATE TABLE segments (id INTEGER PRIMARY KEY AUTOINCREMENT, committed INTEGER NOT NULL);

    CREATE TABLE pins (cid BLOB PRIMARY KEY, recursive INTEGER NOT NULL, name TEXT NOT NULL)
        WITHOUT ROWID;

    -- `holder` names the scratch directory whose lock tells whether the holder lives.
    CREATE TABLE leases (id INTEGER PRIMARY KEY AUTOINCREMENT, holder TEXT NOT NULL);
    CREATE TABLE lease_roots (lease INTEGER NOT NULL, cid BLOB NOT NULL);

    CREATE TABLE rootfs (key TEXT PRIMARY KEY, bytes INTEGER NOT NULL, used INTEGER NOT NULL)
        WITHOUT ROWID;
";

/// Makes a new, complete database file at `path`, closed and synced. SQLite gives the files that it
/// makes beside the database the mode of the database.
pub(super) fn create(path: &Path) -> Result<(), RepoError> {
    let failed = |source| failure(path, source);
    create_file(path)?;
    let connection = Connection::open(path).map_err(failed)?;
    let make = || {
        // Nobody reads a file that was not completed, so that it is enough to sync it once.
        connection.pragma_update(None, "synchronous", "OFF")?;
        connection.pragma_update(None, "journal_mode", "OFF")?;
        connection.execute_batch(&format!("BEGIN; {SCHEMA} COMMIT;"))?;
        connection.execute("INSERT INTO layout VALUES (?1)", [LAYOUT_VERSION])?;
        connection.pragma_update(None, "journal_mode", "WAL")
    };
    make().map_err(failed)?;
    connection.close().map_err(|(_, source)| failed(source))?;
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(RepoError::io("sync", path))
}

/// Refuses the layout version `found` of the repository `root`, if it is newer than this program.
pub(super) fn check_version(found: i64, root: &Path) -> Result<(), RepoError> {
    if found > LAYOUT_VERSION {
        return Err(RepoError::TooNew {
            path: root.to_owned(),
            found,
            supported: LAYOUT_VERSION,
        });
    }
    Ok(())
}

/// Connections to one database.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    waiting: Waiting,
    idle: Mutex<Vec<Connection>>,
}

impl Database {
    /// Opens the database and checks its layout version.
    pub(super) fn open(
        path: PathBuf,
        root: &Path,
        waiting: Waiting,
    ) -> Result<Database, RepoError> {
        let database = Database {
            path,
            waiting,
            idle: Mutex::default(),
        };
        let found = database.with(|connection| {
            connection.query_row("SELECT version FROM layout", [], |row| row.get(0))
        })?;
        check_version(found, root)?;
        Ok(database)
    }

    /// Works on a connection of its own.
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, RepoError> {
        let pooled = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let mut connection = match pooled {
            Some(connection) => connection,
            None => self.connect().map_err(|source| self.failed(source))?,
        };
        let outcome = work(&mut connection).map_err(|source| self.failed(source));
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
        outcome
    }

    /// Runs one writing transaction: all of it or, on an error, nothing. A crash of the machine
    /// may lose it; a crash of the process cannot.
    pub(super) fn write<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, RepoError> {
        self.with(|connection| transact(connection, work))
    }

    /// As [`Database::write`], and on disk when it returns.
    pub(super) fn write_durably<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, RepoError> {
        self.with(|connection| {
            connection.pragma_update(None, "synchronous", "FULL")?;
            let outcome = transact(connection, work);
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            outcome
        })
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let flags =
            rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_handler(Some(self.waiting.busy_handler()))?;
        connection.set_prepared_statement_cache_capacity(32);
        // Many short processes: the last one to leave must not stop to copy the log.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        Ok(connection)
    }

    fn failed(&self, source: rusqlite::Error) -> RepoError {
        let path = self.path.clone();
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy) if self.waiting.is_interrupted() => {
                RepoError::Interrupted { path }
            }
            _ => failure(&path, source),
        }
    }
}

/// Makes an empty file for a database, that only the user may read. What is left of an unfinished one
/// of this name is removed.
pub(super) fn create_file(path: &Path) -> Result<(), RepoError> {
    const PRIVATE: u32 = 0o600;
    for suffix in ["", "-wal", "-shm", "-journal"] {
        layout::remove_if_present(&layout::beside(path, suffix))?;
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(path)
        .map(drop)
        .map_err(RepoError::io("create", path))
}

/// What the failure of a database means.
pub(super) fn failure(path: &Path, source: rusqlite::Error) -> RepoError {
    let path = path.to_owned();
    let code = source.sqlite_error_code();
    let is_damage = is_damage(&source);
    let source = SqliteError(source);
    match code {
        Some(ErrorCode::ReadOnly) => RepoError::ReadOnly { path, source },
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed,
        ) => RepoError::DatabaseLocked {
            file_system: network_file_system(&path),
            path,
            source,
        },
        _ if is_damage => RepoError::DamagedDatabase { path, source },
        _ => RepoError::Database { path, source },
    }
}

/// Whether the file is not a database, or not the one that this program made.
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{
        FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, QueryReturnedNoRows,
        SqlInputError, SqliteFailure,
    };
    if let Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) = error.sqlite_error_code() {
        return true;
    }
    let lacks =
        |message: &str| message.contains("no such table") || message.contains("no such column");
    match error {
        SqliteFailure(_, Some(message)) | SqlInputError { msg: message, .. } => lacks(message),
        FromSqlConversionFailure(..)
        | IntegralValueOutOfRange(..)
        | InvalidColumnType(..)
        | QueryReturnedNoRows => true,
        _ => false,
    }
}

/// The kind of the file system at `path`, if it is one of those on which locks often do not work.
fn network_file_system(path: &Path) -> Option<&'static str> {
    const NETWORK: [(i64, &str); 9] = [
        (0x6969, "NFS"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "SMB"),
        (0x0102_1997, "9p"),
        (0x6573_5546, "FUSE"),
        (0x0bd0_0bd0, "Lustre"),
        (0x4750_4653, "GPFS"),
        (0x00c3_6400, "Ceph"),
        (0x5346_414f, "AFS"),
    ];
    let found = rustix::fs::statfs(path).ok()?.f_type;
    let mut known = NETWORK.iter();
    known
        .find(|(kind, _)| *kind == found)
        .map(|(_, name)| *name)
}

fn transact<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    // Immediate: waits for its turn here, and cannot fail later because another was faster.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let outcome = work(&transaction)?;
    transaction.commit()?;
    Ok(outcome)
}

/// Seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs().try_into().unwrap_or(i64::MAX)
}

pub(super) fn record_rootfs(
    connection: &mut Connection,
    key: &str,
    bytes: u64,
) -> rusqlite::Result<()> {
    let used = seconds(SystemTime::now());
    connection.execute(
        "INSERT INTO rootfs VALUES (?1, ?2, ?3)
         ON CONFLICT (key) DO UPDATE SET bytes = excluded.bytes, used = excluded.used",
        params![key, bytes as i64, used],
    )?;
    Ok(())
}

pub(super) fn forget_rootfs(connection: &mut Connection, key: &str) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM rootfs WHERE key = ?1", [key])?;
    Ok(())
}

pub(super) fn rootfs_entries(connection: &Connection) -> rusqlite::Result<Vec<RootfsEntry>> {
    let mut statement =
        connection.prepare_cached("SELECT key, bytes, used FROM rootfs ORDER BY used, key")?;
    let entries = statement.query_map([], |row| {
        let used = Duration::from_secs(row.get::<_, i64>(2)?.max(0) as u64);
        Ok(RootfsEntry {
            key: row.get(0)?,
            bytes: row.get::<_, i64>(1)? as u64,
            used: UNIX_EPOCH + used,
        })
    })?;
    entries.collect()
}
