//! Where things are in a repository directory, and how an empty directory becomes one.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::permissions::{self, Sharing};
use super::wait::{Lock, Waiting};
use super::{RepoError, database};

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
        let layout = Layout {
            root: std::path::absolute(root).map_err(RepoError::io("find", root))?,
            sharing,
        };
        if !layout.has_database()? {
            layout.create(waiting)?;
        }
        permissions::apply(&layout)?;
        Ok(layout)
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
        let directory = File::open(&self.root).map_err(RepoError::io("open", &self.root))?;
        waiting.lock(&directory, Lock::Exclusive, &self.root)?;
        if self.has_database()? {
            return Ok(());
        }
        permissions::prepare_directory(self)?;
        for path in [self.blocks(), self.rootfs(), self.run()] {
            make_directory(&path)?;
        }
        let unfinished = self.root.join("repo.db.new");
        remove_if_present(&unfinished)?;
        database::create(&unfinished)?;
        fs::rename(&unfinished, self.database())
            .map_err(RepoError::io("create", &self.database()))?;
        directory
            .sync_all()
            .map_err(RepoError::io("sync", &self.root))
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

fn remove_if_present(path: &Path) -> Result<(), RepoError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(RepoError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}
