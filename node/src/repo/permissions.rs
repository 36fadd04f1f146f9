//! Modes: read access of other users to the files of a repository.
//!
//! Everything in a repository belongs to its owner alone, unless the owner shares it. Then other
//! users can read the files that content is read from: the index, the segments and the settings. Keys,
//! scratch and unpacked root file systems are never shared.
//!
//! Each opening of a repository checks the modes, since the repository may be an older one, or its owner
//! may have changed the setting. Only files of the user of this process are changed. The directory of the
//! repository itself is changed only if it holds nothing else: it may be a home directory.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::RepoError;
use super::layout::Layout;

/// Which other users may read a repository. None may write to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// None.
    #[default]
    Private,
    /// Those of the group that its files have.
    Group,
    /// All.
    All,
}

/// The bits of a mode that are for the group and for all others.
const OTHERS: u32 = 0o077;
/// Of those, the right to enter a directory.
const OTHERS_ENTER: u32 = 0o011;
/// Of those, the right to write.
const OTHERS_WRITE: u32 = 0o022;
/// In a directory with this bit, users can remove or rename only what is their own.
const STICKY: u32 = 0o1000;

impl Sharing {
    /// The bits of [`OTHERS`] for a file.
    fn of_file(self) -> u32 {
        match self {
            Sharing::Private => 0,
            Sharing::Group => 0o040,
            Sharing::All => 0o044,
        }
    }

    /// The bits of [`OTHERS`] for a directory.
    fn of_directory(self) -> u32 {
        match self {
            Sharing::Private => 0,
            Sharing::Group => 0o050,
            Sharing::All => 0o055,
        }
    }

    /// The mode of `metadata` with these bits of [`OTHERS`].
    fn mode(self, metadata: &Metadata) -> u32 {
        let bits = if metadata.is_dir() {
            self.of_directory()
        } else {
            self.of_file()
        };
        metadata.mode() & 0o7777 & !OTHERS | bits
    }
}

/// Names in a directory that is there for a repository alone, beside those of the database.
const OWN_NAMES: [&str; 8] = [
    "blocks",
    "config.toml",
    "keys",
    "lost+found",
    "names",
    "rootfs",
    "run",
    "swarm.key",
];
/// How the names of the files of the database begin.
const DATABASE: &str = "repo.db";

/// Gives the directory of a repository the mode that its sharing asks for, before anything is made
/// in it.
pub(super) fn prepare_directory(layout: &Layout) -> Result<(), RepoError> {
    let root = layout.root();
    let metadata = fs::metadata(root).map_err(RepoError::io("stat", root))?;
    if is_own(&metadata) && is_dedicated(root, &metadata)? {
        set(root, layout.sharing())?;
    }
    Ok(())
}

/// Gives everything in the repository the mode that its sharing asks for. Tells of what other users
/// could do until now, or still can.
pub(super) fn apply(layout: &Layout) -> Result<(), RepoError> {
    let root = layout.root();
    let before = fs::metadata(root).map_err(RepoError::io("stat", root))?;
    let sharing = layout.sharing();
    let mut closed = apply_to_root(layout, &before)?;
    for directory in [layout.rootfs(), layout.run()] {
        closed |= set(&directory, Sharing::Private)?;
    }
    closed |= set_all(&layout.keys(), Sharing::Private)?;
    closed |= set_all(&layout.names(), sharing)?;
    closed |= set(&root.join("swarm.key"), Sharing::Private)?;
    for name in ["repo.db", "repo.db-wal", "repo.db-shm", "config.toml"] {
        closed |= set(&root.join(name), sharing)?;
    }
    closed |= set_all(&layout.blocks(), sharing)?;
    if closed && before.mode() & OTHERS_ENTER != 0 {
        tracing::warn!(
            repository = %root.display(),
            "other users could read files of the repository until now"
        );
    }
    Ok(())
}

/// True where the directory was open to more users than it is now.
fn apply_to_root(layout: &Layout, metadata: &Metadata) -> Result<bool, RepoError> {
    let root = layout.root();
    let database = layout.database();
    let owner = fs::metadata(&database).map_err(RepoError::io("stat", &database))?;
    if !is_own(&owner) {
        return Ok(false);
    }
    let wanted = layout.sharing().of_directory();
    if is_own(metadata) && metadata.mode() & OTHERS == wanted {
        return Ok(false);
    }
    if is_own(metadata) && is_dedicated(root, metadata)? {
        return set(root, layout.sharing());
    }
    const SUPERUSER: u32 = 0;
    let is_foreign = !is_own(metadata) && metadata.uid() != SUPERUSER;
    let is_writable = metadata.mode() & OTHERS_WRITE != 0 && metadata.mode() & STICKY == 0;
    if is_foreign || is_writable {
        tracing::warn!(
            directory = %root.display(),
            "other users can replace the repository in this directory"
        );
    }
    if metadata.mode() & wanted & OTHERS_ENTER != wanted & OTHERS_ENTER {
        tracing::warn!(
            directory = %root.display(),
            "the repository is shared, but other users cannot enter this directory"
        );
    }
    Ok(false)
}

/// Whether the directory is there for a repository alone.
fn is_dedicated(root: &Path, metadata: &Metadata) -> Result<bool, RepoError> {
    if metadata.mode() & STICKY != 0 {
        return Ok(false);
    }
    for entry in fs::read_dir(root).map_err(RepoError::io("read", root))? {
        let name = entry.map_err(RepoError::io("read", root))?.file_name();
        let is_own = |name: &str| OWN_NAMES.contains(&name) || name.starts_with(DATABASE);
        if !name.to_str().is_some_and(is_own) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// As [`set`], for a directory and the files in it. The directory comes last: as long as its mode is
/// not right, the files are looked at. In a shared directory they always are, since a process that
/// began before it was shared may have made some.
fn set_all(directory: &Path, sharing: Sharing) -> Result<bool, RepoError> {
    let metadata = match fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        metadata => metadata.map_err(RepoError::io("stat", directory))?,
    };
    let is_right = metadata.mode() & OTHERS == sharing.of_directory();
    if !is_own(&metadata) || is_right && sharing == Sharing::Private {
        return Ok(false);
    }
    let mut closed = false;
    for entry in fs::read_dir(directory).map_err(RepoError::io("read", directory))? {
        let path = entry.map_err(RepoError::io("read", directory))?.path();
        closed |= set(&path, sharing)?;
    }
    Ok(set(directory, sharing)? | closed)
}

/// Gives `path` the mode that `sharing` asks for, if it is there and belongs to this user. True
/// where it was open to more users than it is now.
pub(super) fn set(path: &Path, sharing: Sharing) -> Result<bool, RepoError> {
    let Some(metadata) = own(path).map_err(RepoError::io("stat", path))? else {
        return Ok(false);
    };
    let before = metadata.mode() & 0o7777;
    let after = sharing.mode(&metadata);
    if before == after {
        return Ok(false);
    }
    match fs::set_permissions(path, Permissions::from_mode(after)) {
        Ok(()) => Ok(before & !after != 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // There are file systems without modes, and read-only ones.
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot change which users may read it");
            Ok(false)
        }
    }
}

/// What is at `path`, if it is there and belongs to this user; so must a link to it.
fn own(path: &Path) -> io::Result<Option<Metadata>> {
    let look = |look: fn(PathBuf) -> io::Result<Metadata>| match look(path.to_owned()) {
        Ok(metadata) => Ok(Some(metadata).filter(is_own)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    match look(fs::symlink_metadata)? {
        Some(link) if link.is_symlink() => look(fs::metadata),
        metadata => Ok(metadata),
    }
}

fn is_own(metadata: &Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw()
}
