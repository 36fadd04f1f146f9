//! The repository: a directory of blocks, pins and leases that any number of processes use at
//! once, without a daemon and without a global lock.
//!
//! ```text
//! repo.db            SQLite in WAL mode: block index, pins, leases, rootfs entries
//! blocks/N.car       append-only segments, each a CARv1 file; one writer holds one (flock)
//! rootfs/KEY/        unpacked root file systems, kept by the executor
//! run/PID-RAND/      scratch of a living process, held by flock; the next process removes the dead
//! ```
//!
//! All of it is closed to other users (0700, 0600), unless the owner shares it for reading by
//! [`RepositoryOptions::sharing`].
//!
//! A [`Session`] appends blocks to a segment that no other writer uses. Once a batch it syncs the
//! segment and then, in one transaction, makes the batch visible. After a crash, the next writer of a
//! segment sorts the bytes behind the last committed byte: it adopts whole blocks as garbage, and cuts
//! off a torn block. A visible block is durable, and every block is hashed when it is read.
//!
//! The database can be rebuilt from the segments. A segment that the database does not know is never
//! written to; [`Repository::reindex`] takes its blocks in.

mod database;
mod gate;
mod gc;
mod holes;
mod layout;
mod leases;
mod old;
mod options;
mod owner;
mod permissions;
mod pins;
mod provides;
mod recover;
mod reindex;
mod scratch;
mod segment;
mod session;
mod store;
mod verify;
mod wait;

pub use gc::Collected;
pub use options::RepositoryOptions;
pub use owner::{ForeignFile, Owner};
pub use permissions::Sharing;
pub use pins::{Pin, PinKind};
pub use provides::Provide;
pub use reindex::Reindexed;
pub use session::Session;
pub use store::Statistics;
pub use verify::{Damage, Verified};

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::block::{Block, BlockError, Cid, Multihash, ReadBlocks, WriteBlocks};
use crate::budget::KeepFree;
use crate::cancel::Cancel;
use crate::dag::DagError;
use crate::progress::Reporter;
use store::Store;

/// Why the repository could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepoError {
    /// A file or directory of the repository cannot be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The database refuses to work.
    #[error("cannot use the database {}", path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// SQLite's reason.
        #[source]
        source: SqliteError,
    },
    /// The database may only be read.
    #[error("cannot write to the database {}", path.display())]
    ReadOnly {
        /// The database file.
        path: PathBuf,
        /// SQLite's reason.
        #[source]
        source: SqliteError,
    },
    /// Other processes did not let go of the database, or its file system has no locks.
    #[error("cannot lock the database {}{}", path.display(), on_file_system(*file_system))]
    DatabaseLocked {
        /// The database file.
        path: PathBuf,
        /// The kind of its file system, if that is one of a network.
        file_system: Option<&'static str>,
        /// SQLite's reason.
        #[source]
        source: SqliteError,
    },
    /// The database file is not what this program wrote.
    #[error("the database {} is damaged", path.display())]
    DamagedDatabase {
        /// The database file.
        path: PathBuf,
        /// SQLite's reason.
        #[source]
        source: SqliteError,
    },
    /// There are blocks, and no database that says which.
    #[error("the repository {} has no database", path.display())]
    NoDatabase {
        /// The repository.
        path: PathBuf,
    },
    /// There is a segment that the database does not know.
    #[error("the database does not know the segment {}", path.display())]
    UnknownSegment {
        /// The segment file.
        path: PathBuf,
    },
    /// Another process has opened the repository.
    #[error("another process uses the repository {}", path.display())]
    InUse {
        /// The repository.
        path: PathBuf,
    },
    /// The repository belongs to another user, and this one is root.
    #[error("the repository {} belongs to the user {owner}", path.display())]
    ForeignOwner {
        /// The repository.
        path: PathBuf,
        /// Its owner.
        owner: Owner,
    },
    /// The repository was written by a later version of this program.
    #[error(
        "the repository {} has layout version {found}, newer than the version {supported} known here",
        path.display()
    )]
    TooNew {
        /// The repository.
        path: PathBuf,
        /// Its layout version.
        found: i64,
        /// The newest version that this program knows.
        supported: i64,
    },
    /// The work needs a thread that could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// The caller asked to stop while another process was waited for.
    #[error("waiting for the lock on {} was interrupted", path.display())]
    Interrupted {
        /// What the other process holds.
        path: PathBuf,
    },
    /// The CID is not pinned.
    #[error("{cid} is not pinned")]
    NotPinned {
        /// The CID.
        cid: Cid,
    },
    /// A pinned DAG cannot be walked.
    #[error("cannot walk the DAG of {cid}")]
    Dag {
        /// The root.
        cid: Cid,
        /// Why.
        #[source]
        source: DagError,
    },
    /// A block cannot be read or written.
    #[error(transparent)]
    Block(#[from] BlockError),
}

/// What SQLite said. It is one sentence: the codes behind it say the same once more.
#[derive(Debug)]
pub struct SqliteError(pub(crate) rusqlite::Error);

impl fmt::Display for SqliteError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            // The statement is ours, and no news for a user.
            rusqlite::Error::SqlInputError { msg, .. } => formatter.write_str(msg),
            other => other.fmt(formatter),
        }
    }
}

impl std::error::Error for SqliteError {}

impl SqliteError {
    /// Whether the disk has no room.
    pub fn is_disk_full(&self) -> bool {
        self.0.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
    }
}

fn on_file_system(kind: Option<&str>) -> String {
    kind.map_or_else(String::new, |kind| {
        format!(" on a file system of the kind {kind}")
    })
}

impl RepoError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RepoError {
        move |source| RepoError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// As [`RepoError::io`], for calls through `rustix`.
    pub(crate) fn errno(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(rustix::io::Errno) -> RepoError {
        move |source| RepoError::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

impl From<RepoError> for BlockError {
    fn from(error: RepoError) -> BlockError {
        match error {
            RepoError::Block(error) => error,
            other => BlockError::Store {
                source: Box::new(other),
            },
        }
    }
}

/// An open repository. Cheap to share: every method takes `&self`, from any thread.
///
/// As [`ReadBlocks`] it reads what is visible now, also what other processes have just added; what is
/// [`put`](crate::WriteBlocksExt::put) goes through a short session of its own.
#[derive(Debug)]
pub struct Repository {
    store: Store,
}

/// One unpacked root file system of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootfsEntry {
    /// Name of its directory.
    pub key: String,
    /// Bytes of its content.
    pub bytes: u64,
    /// When a run last used it.
    pub used: SystemTime,
}

impl Repository {
    /// Opens the repository at `path`, for its owner alone; the first use creates it. The
    /// directory's parents are created too.
    ///
    /// # Errors
    /// [`RepoError::TooNew`], [`RepoError::ForeignOwner`], or where directory or database cannot be
    /// used. With [`RepoError::NoDatabase`], [`RepoError::DamagedDatabase`] and
    /// [`RepoError::UnknownSegment`] nothing was written; [`Repository::reindex`] repairs these.
    pub fn open(path: &Path) -> Result<Repository, RepoError> {
        Repository::open_with(path, RepositoryOptions::default())
    }

    /// As [`Repository::open`], with `options`.
    ///
    /// # Errors
    /// As [`Repository::open`], and [`RepoError::Interrupted`].
    pub fn open_with(path: &Path, options: RepositoryOptions) -> Result<Repository, RepoError> {
        Ok(Repository {
            store: Store::open(path, options)?,
        })
    }

    /// Rebuilds the database of the repository at `path` from its segments. Pins, records of what is
    /// provided and notes of root file systems are kept where the old database can be read. Roots that
    /// nothing pins are pinned under the name `recovered`. The old database gets another name.
    ///
    /// # Errors
    /// [`RepoError::InUse`], [`RepoError::TooNew`], and where disk or database fail. Until the last
    /// step, one rename, the repository stays as it was.
    pub fn reindex(
        path: &Path,
        options: RepositoryOptions,
        reporter: &dyn Reporter,
    ) -> Result<Reindexed, RepoError> {
        reindex::reindex(path, options, reporter)
    }

    /// The files of the repository that do not belong to its owner.
    ///
    /// # Errors
    /// Where the directory cannot be read.
    pub fn foreign_files(&self) -> Result<Vec<ForeignFile>, RepoError> {
        owner::foreign_files(self.store.layout())
    }

    /// Where the repository is.
    pub fn path(&self) -> &Path {
        self.store.layout().root()
    }

    /// The directory of the files that hold blocks; it exists.
    pub fn blocks_directory(&self) -> PathBuf {
        self.store.layout().blocks()
    }

    /// The directory of unpacked root file systems; it exists.
    pub fn rootfs_directory(&self) -> PathBuf {
        self.store.layout().rootfs()
    }

    /// Begins an operation that writes, or that needs what it reads to stay.
    ///
    /// # Errors
    /// Where the session's scratch directory cannot be made.
    pub fn session(&self) -> Result<Session<'_>, RepoError> {
        Session::begin(&self.store)
    }

    /// All pins, ordered by CID.
    ///
    /// # Errors
    /// Where the database fails.
    pub fn pins(&self) -> Result<Vec<Pin>, RepoError> {
        self.store.database().with(pins::list)
    }

    /// The pin on exactly this CID.
    ///
    /// # Errors
    /// Where the database fails.
    pub fn pin(&self, cid: &Cid) -> Result<Option<Pin>, RepoError> {
        self.store
            .database()
            .with(|connection| pins::find(connection, cid))
    }

    /// Removes the pin on `cid`. Its blocks stay until they are collected.
    ///
    /// # Errors
    /// [`RepoError::NotPinned`].
    pub fn unpin(&self, cid: &Cid) -> Result<(), RepoError> {
        let removed = self
            .store
            .database()
            .write(|transaction| pins::remove(transaction, cid))?;
        if removed {
            Ok(())
        } else {
            Err(RepoError::NotPinned { cid: *cid })
        }
    }

    /// Asks for `cid` to be provided: the process that serves the repository tells the DHT.
    ///
    /// # Errors
    /// Where the database fails.
    pub fn ask_to_provide(&self, cid: &Cid) -> Result<(), RepoError> {
        self.store
            .database()
            .write(|transaction| provides::ask(transaction, cid))
    }

    /// Notes that the DHT was told of `cid` just now.
    ///
    /// # Errors
    /// Where the database fails.
    pub fn note_provided(&self, cid: &Cid) -> Result<(), RepoError> {
        self.store
            .database()
            .write(|transaction| provides::announced(transaction, cid, SystemTime::now()))
    }

    /// Takes back what [`Repository::ask_to_provide`] asked for.
    ///
    /// # Errors
    /// Where the database fails.
    pub fn stop_providing(&self, cid: &Cid) -> Result<(), RepoError> {
        self.store
            .database()
            .write(|transaction| provides::remove(transaction, cid))
    }

    /// What was asked to be provided, ordered by CID.
    ///
    /// # Errors
    /// Where the database fails.
    pub fn provides(&self) -> Result<Vec<Provide>, RepoError> {
        self.store
            .database()
            .with(|connection| provides::list(connection))
    }

    /// A number that grows whenever blocks are added.
    ///
    /// # Errors
    /// Where the database fails.
    pub fn committed_bytes(&self) -> Result<u64, RepoError> {
        self.store.committed_bytes()
    }

    /// Up to `count` blocks that come after the multihash `after`, as raw CIDs in the order of
    /// their multihashes: all blocks, page by page.
    ///
    /// # Errors
    /// Where the database fails.
    pub fn blocks_after(
        &self,
        after: Option<&Multihash>,
        count: usize,
    ) -> Result<Vec<Cid>, RepoError> {
        self.store.blocks_after(after, count)
    }

    /// Removes every block that neither a pin nor a living lease reaches, and gives the space
    /// back. Other processes may work on the repository meanwhile.
    ///
    /// # Errors
    /// Where a pinned DAG is malformed, or disk or database fail; nothing that is reachable is
    /// removed then either.
    pub fn collect_garbage(&self) -> Result<Collected, RepoError> {
        gc::collect(&self.store, self)
    }

    /// Reads and hashes every block, and walks every pin.
    ///
    /// # Errors
    /// Only where the check itself cannot go on; damage is reported to `on_damage`.
    pub fn verify(&self, on_damage: &mut dyn FnMut(Damage)) -> Result<Verified, RepoError> {
        verify::verify(&self.store, self, on_damage)
    }

    /// Counts and sizes.
    ///
    /// # Errors
    /// Where disk or database fail.
    pub fn statistics(&self) -> Result<Statistics, RepoError> {
        self.store.statistics()
    }

    /// Notes that the rootfs entry `key` of `bytes` bytes exists and is used now.
    ///
    /// # Errors
    /// Where the database fails.
    pub fn record_rootfs(&self, key: &str, bytes: u64) -> Result<(), RepoError> {
        self.store
            .database()
            .with(|connection| database::record_rootfs(connection, key, bytes))
    }

    /// Removes the note of a rootfs entry.
    ///
    /// # Errors
    /// Where the database fails.
    pub fn forget_rootfs(&self, key: &str) -> Result<(), RepoError> {
        self.store
            .database()
            .with(|connection| database::forget_rootfs(connection, key))
    }

    /// The rootfs entries noted, least recently used first.
    ///
    /// # Errors
    /// Where the database fails.
    pub fn rootfs_entries(&self) -> Result<Vec<RootfsEntry>, RepoError> {
        self.store
            .database()
            .with(|connection| database::rootfs_entries(connection))
    }
}

impl ReadBlocks for Repository {
    fn read(&self, cid: &Cid, _cancel: &Cancel) -> Result<bytes::Bytes, BlockError> {
        self.store.read(cid)
    }

    fn has(&self, cid: &Cid) -> Result<bool, BlockError> {
        Ok(self
            .store
            .find(cid.hash())?
            .is_some_and(|location| !location.damaged))
    }

    fn size(&self, cid: &Cid) -> Result<Option<u64>, BlockError> {
        let location = self.store.find(cid.hash())?;
        Ok(location
            .filter(|location| !location.damaged)
            .map(|location| u64::from(location.length)))
    }

    fn expect(&self, _cids: &[Cid]) {}

    fn expect_all(&self, _root: &Cid) {}
}

impl WriteBlocks for Repository {
    fn put_within(&self, batch: &[Block], keep_free: &KeepFree) -> Result<(), BlockError> {
        let session = self.session()?;
        session.put_within(batch, keep_free)?;
        Ok(session.commit(&[])?)
    }
}
