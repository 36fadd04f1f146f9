//! Root file systems, unpacked once and used by any number of runs at once.
//!
//! The invariant: an entry `REPO/rootfs/KEY` is complete from the moment it has its name, and is never
//! written again. A process builds it in the scratch directory of a session, flushes it, and renames it.
//!
//! ```text
//! REPO/rootfs/KEY/tree/          the tree, with the sandbox's mount points
//! REPO/rootfs/KEY/sealed.json    the report of unpacking it
//! REPO/rootfs/KEY.lock           held while a process builds the entry
//! ```
//!
//! A process that uses an entry holds a shared `flock` on its directory. A process that evicts an entry holds
//! an exclusive one. A lock vanishes with its process, so nothing needs repair after a crash. Power loss
//! before the rename leaves scratch, which the repository removes. After the rename, the entry is on disk,
//! because its builder flushed everything in it before.
//!
//! A root file system that is a directory instead of an archive is not unpacked: `mounted` shows it as it
//! is.

mod evict;
mod init;
mod lock;
mod mounted;
mod mountpoints;
mod program;
mod resolve;
mod root_tree;
mod seal;
mod top;

#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use ipfs_exec_node::Cid;
use ipfs_exec_node::block::ReadBlocks;
use ipfs_exec_node::budget::{Budget, BudgetError};
use ipfs_exec_node::progress::{Event, Reporter};
use ipfs_exec_node::repo::{RepoError, Repository, Session};
use ipfs_exec_node::unixfs::{FileReader, UnixfsError};
use rustix::fs::{Mode, fsync, mkdirat, renameat, syncfs};
use rustix::io::Errno;

use crate::archive::{self, ArchiveError, Warning};
use crate::beneath;
use crate::mount::{Failure, MountError, SandboxMount, Tree};
use crate::sandbox::{self, RootSource, TopEntry};
use ipfs_exec_node::tree::{self, TreeError};

pub use crate::layout::MOUNT_POINTS;
pub use evict::Evicted;
pub use init::InitError;
pub(crate) use mounted::MountedRootfs;
pub use mountpoints::MountPointError;
pub(crate) use root_tree::RootTree;

use init::Program;
use lock::{BuildLock, UseLock};
use seal::Seal;

/// Version of the layout of an entry. Entries of other versions are never used.
const LAYOUT_VERSION: u32 = 1;

/// Name of the tree in an entry.
const TREE: &str = "tree";

/// Name under which an entry is built in scratch.
const BUILDING: &str = "rootfs";

/// Why a root file system could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootfsError {
    /// Its content could not be found or read.
    #[error("cannot read rootfs {cid}")]
    Content {
        /// The archive.
        cid: Cid,
        /// What UnixFS says.
        #[source]
        source: UnixfsError,
    },
    /// The archive could not be unpacked.
    #[error("cannot unpack rootfs {cid}")]
    Unpack {
        /// The archive.
        cid: Cid,
        /// What is wrong with it.
        #[source]
        source: ArchiveError,
    },
    /// The tree cannot hold the sandbox's mount points.
    #[error("rootfs {cid} cannot be used")]
    MountPoint {
        /// The archive.
        cid: Cid,
        /// Which mount point, and why.
        #[source]
        source: MountPointError,
    },
    /// It could not be mounted.
    #[error(transparent)]
    Mount(Box<MountError>),
    /// The program needed what could not be had.
    #[error("the program could not read all of its root file system")]
    Read(#[source] Failure),
    /// The entry is there, but larger than allowed.
    #[error("cannot use the unpacked rootfs {cid}")]
    Budget {
        /// The archive.
        cid: Cid,
        /// Which bound it exceeds.
        #[source]
        source: BudgetError,
    },
    /// The cache itself failed.
    #[error("cannot use the rootfs cache at `{path}`", path = path.display())]
    Cache {
        /// What could not be read or written.
        path: PathBuf,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// An evicted or half built tree could not be removed.
    #[error("cannot clean the rootfs cache at `{path}`", path = path.display())]
    CleanUp {
        /// The directory that holds it.
        path: PathBuf,
        /// Where removal stopped.
        #[source]
        source: TreeError,
        /// The error that made it necessary, if there was one.
        first: Option<Box<RootfsError>>,
    },
    /// The repository's own records failed.
    #[error("cannot write the records of the rootfs cache")]
    Repository(#[source] RepoError),
    /// The caller asked to stop.
    #[error("preparing rootfs {cid} was interrupted")]
    Interrupted {
        /// The archive.
        cid: Cid,
    },
}

/// Bounds on entries and on the cache.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RootfsOptions {
    /// What one archive may take.
    pub unpack: Budget,
    /// Bytes that the whole cache may keep. What is in use stays, whatever its size.
    pub cache_cap_bytes: u64,
}

impl RootfsOptions {
    /// 32 GiB: two archives of the largest default size.
    pub const DEFAULT_CACHE_CAP_BYTES: u64 = 32 << 30;
}

impl Default for RootfsOptions {
    fn default() -> Self {
        RootfsOptions {
            unpack: archive::DEFAULT_BUDGET,
            cache_cap_bytes: RootfsOptions::DEFAULT_CACHE_CAP_BYTES,
        }
    }
}

/// An unpacked root file system. While it lives, the entry is in use and stays.
#[derive(Debug)]
pub struct Rootfs {
    cid: Cid,
    tree: PathBuf,
    descriptor: OwnedFd,
    seal: Seal,
    _in_use: UseLock,
}

impl Rootfs {
    /// The archive.
    pub fn cid(&self) -> &Cid {
        &self.cid
    }

    /// The directory to bind at `/`, read-only.
    pub fn tree(&self) -> &Path {
        &self.tree
    }

    /// What was left out of the tree: the first warnings.
    pub fn warnings(&self) -> &[Warning] {
        &self.seal.unpacked.warnings
    }

    /// How many warnings there were beyond [`Rootfs::warnings`].
    pub fn more_warnings(&self) -> u64 {
        self.seal.unpacked.more_warnings
    }

    /// Checks that the program at the absolute `path` is there and can be executed.
    ///
    /// # Errors
    /// [`InitError`], which tells the two apart.
    pub fn check(&self, path: &OsStr) -> Result<(), InitError> {
        init::check(self.descriptor.as_fd(), self.program(path))
    }

    /// The service manager that the program at `path` is a link to, if it is one: such a program waits for
    /// others to manage, and does nothing with arguments.
    pub fn service_manager(&self, path: &OsStr) -> Option<&'static str> {
        let tree = init::OnDisk(self.descriptor.as_fd());
        init::service_manager(&tree, self.program(path))
    }

    fn program<'p>(&'p self, path: &'p OsStr) -> Program<'p> {
        let cid = &self.cid;
        Program { cid, path }
    }

    /// What stands in `/` beside the mount points, sorted.
    ///
    /// # Errors
    /// [`RootfsError::Cache`].
    pub fn top_entries(&self) -> Result<Vec<TopEntry>, RootfsError> {
        top::list(&self.descriptor).map_err(|errno| cache_error(&self.tree, errno))
    }
}

impl RootTree for Rootfs {
    fn source<'p>(
        &'p self,
        entries: Option<&'p [TopEntry]>,
        stand_in: Option<&'p SandboxMount<'p>>,
    ) -> RootSource<'p> {
        RootSource::Unpacked {
            tree: self.tree(),
            entries,
            stand_in,
        }
    }

    fn check(&self, program: &OsStr) -> Result<(), InitError> {
        Rootfs::check(self, program)
    }

    fn service_manager(&self, program: &OsStr) -> Option<&'static str> {
        Rootfs::service_manager(self, program)
    }

    fn not_executed(&self, path: &OsStr, source: io::Error) -> InitError {
        let program = self.program(path);
        let file = beneath::look_up_inside(self.descriptor.as_fd(), program.relative());
        program.refused(file.is_ok(), source)
    }

    fn top_entries(&self) -> Result<Vec<TopEntry>, RootfsError> {
        Rootfs::top_entries(self)
    }

    fn stand_in(
        &self,
        covered: Option<&'static str>,
    ) -> Result<Option<SandboxMount<'_>>, RootfsError> {
        let directory = self.descriptor.try_clone().map_err(io_error(&self.tree))?;
        let tree = Tree {
            directory,
            name: self.cid.to_string(),
            bytes: self.seal.unpacked.bytes,
            covered,
        };
        match SandboxMount::of_tree(tree, sandbox::ROOT) {
            Ok(mount) => Ok(Some(mount)),
            Err(error @ MountError::Device(_)) => {
                tracing::info!(%error, "nothing stands in for an overlay");
                Ok(None)
            }
            Err(error) => Err(RootfsError::Mount(Box::new(error))),
        }
    }

    fn mount(&self) -> Option<&SandboxMount<'_>> {
        None
    }

    fn warnings(&self) -> (&[Warning], u64) {
        (Rootfs::warnings(self), self.more_warnings())
    }

    fn finish(&self) -> Result<(), RootfsError> {
        Ok(())
    }
}

/// The cache of one repository.
#[derive(Clone, Copy, Debug)]
pub struct RootfsCache<'r> {
    repository: &'r Repository,
}

impl<'r> RootfsCache<'r> {
    /// The cache that `repository` holds.
    pub fn new(repository: &'r Repository) -> RootfsCache<'r> {
        RootfsCache { repository }
    }

    /// Whether the archive `cid` is unpacked already.
    ///
    /// # Errors
    /// [`RootfsError::Cache`].
    pub fn has(&self, cid: &Cid) -> Result<bool, RootfsError> {
        Ok(self.open(&key(cid), cid)?.is_some())
    }

    /// Gives the root file system that the archive `cid` holds, unpacked now unless that was done
    /// before. Callers that ask for the same one at the same time wait for the first.
    ///
    /// Reports the archive's bytes as they are read.
    ///
    /// # Errors
    /// [`RootfsError`]; nothing half made stays.
    pub fn ensure(
        &self,
        session: &Session<'_>,
        blocks: &dyn ReadBlocks,
        cid: &Cid,
        options: &RootfsOptions,
        reporter: &dyn Reporter,
    ) -> Result<Rootfs, RootfsError> {
        let key = key(cid);
        let rootfs = match self.open(&key, cid)? {
            Some(rootfs) => rootfs,
            None => self.build_or_wait(&key, session, blocks, cid, options, reporter)?,
        };
        check_size(&rootfs.seal.unpacked, &options.unpack)
            .map_err(|source| RootfsError::Budget { cid: *cid, source })?;
        self.repository
            .record_rootfs(&key, rootfs.seal.unpacked.bytes)
            .map_err(RootfsError::Repository)?;
        Ok(rootfs)
    }

    fn build_or_wait(
        &self,
        key: &str,
        session: &Session<'_>,
        blocks: &dyn ReadBlocks,
        cid: &Cid,
        options: &RootfsOptions,
        reporter: &dyn Reporter,
    ) -> Result<Rootfs, RootfsError> {
        let path = self.path().join(format!("{key}.lock"));
        let cancel = reporter.cancel().until(options.unpack.deadline);
        let lock = BuildLock::acquire(&path, &cancel)
            .map_err(|source| RootfsError::Cache {
                path: path.clone(),
                source,
            })?
            .ok_or(RootfsError::Interrupted { cid: *cid })?;
        let result = match self.open(key, cid)? {
            Some(rootfs) => return lock.release().map(|()| rootfs).map_err(io_error(&path)),
            None => Builder {
                cache: self,
                key,
                session,
                cid,
            }
            .build(blocks, options, reporter),
        };
        let released = lock.release().map_err(io_error(&path));
        let rootfs = result?;
        released?;
        let bytes = rootfs.seal.unpacked.bytes;
        self.repository
            .record_rootfs(key, bytes)
            .map_err(RootfsError::Repository)?;
        self.evict(session, options.cache_cap_bytes)?;
        Ok(rootfs)
    }

    /// Opens the entry `key` and marks it as in use; `None` if there is none.
    fn open(&self, key: &str, cid: &Cid) -> Result<Option<Rootfs>, RootfsError> {
        let path = self.path().join(key);
        let Some(in_use) = UseLock::acquire(&path).map_err(io_error(&path))? else {
            return Ok(None);
        };
        let seal = Seal::read(in_use.directory()).map_err(io_error(&path))?;
        let tree = path.join(TREE);
        let descriptor = beneath::open_entry(in_use.directory(), TREE.as_bytes())
            .map_err(|errno| cache_error(&tree, errno))?;
        Ok(Some(Rootfs {
            cid: *cid,
            tree,
            descriptor,
            seal,
            _in_use: in_use,
        }))
    }

    /// Removes the entries that were not used for longest, until at most `cap_bytes` are kept or
    /// all that remain are in use.
    ///
    /// # Errors
    /// [`RootfsError::Cache`], [`RootfsError::CleanUp`], [`RootfsError::Repository`].
    pub fn evict(&self, session: &Session<'_>, cap_bytes: u64) -> Result<Evicted, RootfsError> {
        evict::evict(self.repository, session, cap_bytes)
    }

    fn path(&self) -> PathBuf {
        self.repository.rootfs_directory()
    }
}

/// An entry that was unpacked before may be larger than this caller allows.
fn check_size(unpacked: &archive::Unpacked, budget: &Budget) -> Result<(), BudgetError> {
    let (max_bytes, max_entries) = (budget.max_bytes, budget.max_entries);
    if unpacked.bytes > max_bytes {
        return Err(BudgetError::Bytes { limit: max_bytes });
    }
    if unpacked.entries > max_entries {
        return Err(BudgetError::Entries { limit: max_entries });
    }
    Ok(())
}

/// The name of the entry of `cid`: one for CIDv0 and CIDv1 of the same block.
fn key(cid: &Cid) -> String {
    format!("{}-{LAYOUT_VERSION}", Cid::new_v1(cid.codec(), *cid.hash()))
}

/// Builds one entry, whose lock the caller holds.
struct Builder<'b> {
    cache: &'b RootfsCache<'b>,
    key: &'b str,
    session: &'b Session<'b>,
    cid: &'b Cid,
}

impl Builder<'_> {
    /// Builds the entry in scratch and gives it its name, or removes it again.
    fn build(
        &self,
        blocks: &dyn ReadBlocks,
        options: &RootfsOptions,
        reporter: &dyn Reporter,
    ) -> Result<Rootfs, RootfsError> {
        let scratch = beneath::open_root(self.session.scratch())
            .map_err(|errno| cache_error(self.session.scratch(), errno))?;
        self.fill(&scratch, blocks, options, reporter)
            .map_err(
                |error| match tree::remove_tree(scratch.as_fd(), BUILDING.as_bytes()) {
                    Ok(()) => error,
                    Err(source) => RootfsError::CleanUp {
                        path: self.session.scratch().to_owned(),
                        source,
                        first: Some(Box::new(error)),
                    },
                },
            )
    }

    fn fill(
        &self,
        scratch: &OwnedFd,
        blocks: &dyn ReadBlocks,
        options: &RootfsOptions,
        reporter: &dyn Reporter,
    ) -> Result<Rootfs, RootfsError> {
        let path = self.session.scratch().join(BUILDING);
        let fail = |errno| cache_error(&path, errno);
        let entry = make_directory(scratch, BUILDING).map_err(fail)?;
        let descriptor = make_directory(&entry, TREE).map_err(fail)?;
        let unpacked = self.unpack(&descriptor, blocks, options, reporter)?;
        mountpoints::prepare(descriptor.as_fd()).map_err(|source| RootfsError::MountPoint {
            cid: *self.cid,
            source,
        })?;
        let seal = Seal { unpacked };
        seal.write(entry.as_fd()).map_err(io_error(&path))?;
        syncfs(&entry).map_err(fail)?;
        // Locked before it has its name, so that nobody evicts it before its first use.
        let in_use = UseLock::of(entry).map_err(io_error(&path))?;
        let tree = self.publish(scratch)?;
        Ok(Rootfs {
            cid: *self.cid,
            tree,
            descriptor,
            seal,
            _in_use: in_use,
        })
    }

    fn unpack(
        &self,
        tree: &OwnedFd,
        blocks: &dyn ReadBlocks,
        options: &RootfsOptions,
        reporter: &dyn Reporter,
    ) -> Result<archive::Unpacked, RootfsError> {
        blocks.expect_all(self.cid);
        let reader = FileReader::open(blocks, self.cid).map_err(|source| RootfsError::Content {
            cid: *self.cid,
            source,
        })?;
        reporter.report(Event::Total {
            bytes: reader.size(),
        });
        let reader = Reported { reader, reporter };
        archive::unpack(reader, tree.as_fd(), &options.unpack, reporter).map_err(|source| {
            match source {
                ArchiveError::Interrupted => RootfsError::Interrupted { cid: *self.cid },
                source => RootfsError::Unpack {
                    cid: *self.cid,
                    source,
                },
            }
        })
    }

    /// Gives the entry its name; makes the name last.
    fn publish(&self, scratch: &OwnedFd) -> Result<PathBuf, RootfsError> {
        let path = self.cache.path();
        let fail = |errno| cache_error(&path, errno);
        let parent = beneath::open_root(&path).map_err(fail)?;
        renameat(scratch, BUILDING, &parent, self.key).map_err(fail)?;
        fsync(&parent).map_err(fail)?;
        Ok(path.join(self.key).join(TREE))
    }
}

/// Makes and opens a directory of ours.
fn make_directory(parent: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    mkdirat(parent, name, Mode::RWXU)?;
    beneath::open_entry(parent, name.as_bytes())
}

fn cache_error(path: &Path, errno: Errno) -> RootfsError {
    io_error(path)(errno.into())
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> RootfsError {
    let path = path.to_owned();
    move |source| RootfsError::Cache { path, source }
}

/// Reports what is read.
struct Reported<'r, R> {
    reader: R,
    reporter: &'r dyn Reporter,
}

impl<R: io::Read> io::Read for Reported<'_, R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(target)?;
        self.reporter.report(Event::Advanced { bytes: read as u64 });
        Ok(read)
    }
}
