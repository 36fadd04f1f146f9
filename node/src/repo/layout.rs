//! Paths in a repository directory, and how a repository is created in an empty directory.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::permissions::{self, Sharing};
use super::wait::{Lock, Waiting, try_lock};
use super::{RepoError, database, owner};

/// The paths of one repository, and which other users may read them.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
    sharing: Sharing,
}

impl Layout {
    /// Makes what is missing of the layout at `root`, and closes what is too open.
    pub(super) fn ensure(
        root: &Path,
        sharing: Sharing,
        waiting: &Waiting,
    ) -> Result<Layout, RepoError> {
        let layout = Layout::at(root, sharing)?;
        owner::check(&layout)?;
        if !layout.has_database()? {
            layout.create(waiting)?;
        }
        permissions::apply(&layout)?;
        Ok(layout)
    }

    /// The paths below `root`; nothing is looked at.
    pub(super) fn at(root: &Path, sharing: Sharing) -> Result<Layout, RepoError> {
        let root = std::path::absolute(root).map_err(RepoError::io("find", root))?;
        Ok(Layout { root, sharing })
    }

    /// Locks the open repository against [`Layout::claim`].
    pub(super) fn share(&self, waiting: &Waiting) -> Result<File, RepoError> {
        let path = self.blocks();
        let directory = File::open(&path).map_err(RepoError::io("open", &path))?;
        waiting.lock(&directory, Lock::Shared, &path)?;
        Ok(directory)
    }

    /// Keeps all other processes from opening the repository.
    ///
    /// # Errors
    /// [`RepoError::InUse`] where one has opened it.
    pub(super) fn claim(&self) -> Result<File, RepoError> {
        let path = self.blocks();
        let directory = File::open(&path).map_err(RepoError::io("open", &path))?;
        if try_lock(&directory, Lock::Exclusive, &path)? {
            return Ok(directory);
        }
        Err(RepoError::InUse {
            path: self.root.clone(),
        })
    }

    fn has_database(&self) -> Result<bool, RepoError> {
        let database = self.database();
        match database.try_exists() {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
            exists => exists.map_err(RepoError::io("find", &database)),
        }
    }

    /// Creates the repository. The database appears last and at once, by a rename: where it is,
    /// everything is. Processes that start together take turns by a lock on the directory.
    fn create(&self, waiting: &Waiting) -> Result<(), RepoError> {
        make_directory(&self.root)?;
        let directory = self.take_turn(waiting)?;
        if self.has_database()? {
            return Ok(());
        }
        if self.has_remains()? {
            return Err(RepoError::NoDatabase {
                path: self.root.clone(),
            });
        }
        permissions::prepare_directory(self)?;
        self.make_directories()?;
        let unfinished = self.new_database();
        database::create(&unfinished)?;
        fs::rename(&unfinished, self.database())
            .map_err(RepoError::io("create", &self.database()))?;
        directory
            .sync_all()
            .map_err(RepoError::io("sync", &self.root))
    }

    /// Locks the directory of the repository: the right to make a database.
    pub(super) fn take_turn(&self, waiting: &Waiting) -> Result<File, RepoError> {
        let directory = File::open(&self.root).map_err(RepoError::io("open", &self.root))?;
        waiting.lock(&directory, Lock::Exclusive, &self.root)?;
        Ok(directory)
    }

    /// Makes the directories that are missing.
    pub(super) fn make_directories(&self) -> Result<(), RepoError> {
        let mut directories = [self.blocks(), self.rootfs(), self.run()].into_iter();
        directories.try_for_each(|path| make_directory(&path))
    }

    /// Whether there is something that only a database could explain: files in `blocks`, or the
    /// log of a database. A settings file and keys may be there before the repository is.
    fn has_remains(&self) -> Result<bool, RepoError> {
        let log = beside(&self.database(), "-wal");
        if log.try_exists().map_err(RepoError::io("find", &log))? {
            return Ok(true);
        }
        let blocks = self.blocks();
        match fs::read_dir(&blocks) {
            Ok(mut entries) => Ok(entries.next().is_some()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(RepoError::io("read", &blocks)(error)),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn sharing(&self) -> Sharing {
        self.sharing
    }

    pub(super) fn database(&self) -> PathBuf {
        self.root.join("repo.db")
    }

    /// Where a database is made before it gets its name.
    pub(super) fn new_database(&self) -> PathBuf {
        self.root.join("repo.db.new")
    }

    pub(super) fn blocks(&self) -> PathBuf {
        self.root.join("blocks")
    }

    pub(super) fn segment(&self, id: u64) -> PathBuf {
        self.root.join("blocks").join(format!("{id}.car"))
    }

    pub(super) fn rootfs(&self) -> PathBuf {
        self.root.join("rootfs")
    }

    pub(super) fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    /// Records of mutable names.
    pub(super) fn names(&self) -> PathBuf {
        self.root.join("names")
    }

    pub(super) fn run(&self) -> PathBuf {
        self.root.join("run")
    }
}

/// Only the user may look into a new directory, whatever stands above it.
fn make_directory(path: &Path) -> Result<(), RepoError> {
    const PRIVATE: u32 = 0o700;
    DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE)
        .create(path)
        .map_err(RepoError::io("create", path))
}

/// The file that SQLite keeps beside `database` under its name and `suffix`.
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

pub(super) fn remove_if_present(path: &Path) -> Result<(), RepoError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(RepoError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}
