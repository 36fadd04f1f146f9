//! Owners: the user that a repository belongs to, and files in it that belong to another user.
//!
//! If root makes a file in the repository of a user, that user can neither change nor remove the file.
//! So root does not open such a repository at all.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::RepoError;
use super::layout::Layout;

/// A user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    uid: u32,
    name: Option<String>,
}

impl Owner {
    fn of(uid: u32) -> Owner {
        let name = File::open("/etc/passwd").map(|file| name_in(file, uid));
        Owner {
            uid,
            name: name.unwrap_or_default(),
        }
    }

    /// The number of the user.
    pub fn uid(&self) -> u32 {
        self.uid
    }
}

/// The user as `sudo -u` takes it: the name, or `#` and the number of a user without one.
impl fmt::Display for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => formatter.write_str(name),
            None => write!(formatter, "#{}", self.uid),
        }
    }
}

/// The name of the user `uid` in a file of the form of `/etc/passwd`.
fn name_in(file: impl Read, uid: u32) -> Option<String> {
    const MAX_BYTES: u64 = 16 << 20;
    let lines = BufReader::new(file.take(MAX_BYTES)).lines();
    lines.map_while(Result::ok).find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let found: u32 = fields.nth(1)?.parse().ok()?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_name = !name.is_empty() && !name.starts_with('-') && name.bytes().all(is_plain);
        (found == uid && is_name).then(|| name.to_owned())
    })
}

/// A file of the repository that belongs to another user than the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignFile {
    /// Where it is.
    pub path: PathBuf,
    /// The user that it belongs to.
    pub owner: Owner,
}

const SUPERUSER: u32 = 0;

/// Refuses root the repository of another user.
pub(super) fn check(layout: &Layout) -> Result<(), RepoError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let root = layout.root();
    let names = ["blocks", "keys", "names", "config.toml", "swarm.key"].map(|name| root.join(name));
    for path in [layout.database()].iter().chain(&names) {
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.uid() != SUPERUSER => {
                return Err(RepoError::ForeignOwner {
                    path: root.to_owned(),
                    owner: Owner::of(metadata.uid()),
                });
            }
            Ok(_) => {}
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(RepoError::io("stat", path)(error)),
        }
    }
    Ok(())
}

/// The files of the repository that do not belong to the owner of its database. What this process may
/// not list is left out.
pub(super) fn foreign_files(layout: &Layout) -> Result<Vec<ForeignFile>, RepoError> {
    let database = layout.database();
    let owner = fs::metadata(&database)
        .map_err(RepoError::io("stat", &database))?
        .uid();
    let mut paths = Vec::new();
    for name in ["config.toml", "swarm.key", "repo.db-wal", "repo.db-shm"] {
        paths.push(layout.root().join(name));
    }
    for directory in [
        layout.blocks(),
        layout.rootfs(),
        layout.keys(),
        layout.names(),
        layout.run(),
    ] {
        paths.extend(entries(&directory)?);
        paths.push(directory);
    }
    paths.sort_unstable();
    let mut foreign = Vec::new();
    for path in paths {
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.uid() != owner => foreign.push(ForeignFile {
                owner: Owner::of(metadata.uid()),
                path,
            }),
            Ok(_) => {}
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(RepoError::io("stat", &path)(error)),
        }
    }
    Ok(foreign)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, RepoError> {
    match fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()
            .map_err(RepoError::io("read", directory)),
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        Err(error) => Err(RepoError::io("read", directory)(error)),
    }
}

/// Whether there is nothing, or nothing that this process may see.
fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_named_as_sudo_takes_them() {
        let users = "root:x:0:0::/root:/bin/sh\nbroken\n-e:x:7:\nalice:x:1000:100::/home/alice:\n";
        for (uid, wanted) in [(0, "root"), (1000, "alice"), (7, "#7"), (8, "#8")] {
            let name = name_in(users.as_bytes(), uid);
            assert_eq!(Owner { uid, name }.to_string(), wanted);
        }
    }
}
