//! Which files of a local argument are imported.
//!
//! A repository of this program is never imported: it holds a private key, and content that changes
//! while it is read. The repository in use is recognised by device and inode, any other one by what
//! the directory holds. Beside that, `--ignore` and `--ignore-rules-path` leave entries out.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use ipfs_exec_node::unixfs::{Filter, ImportOptions};
use rustix::fs::{AtFlags, FileType, statat};
use rustix::io::Errno;

use crate::error::{CommandError, LocalError};

/// Longest file of ignore rules.
const MAX_RULES_BYTES: u64 = 1 << 20;

/// Directories of a repository that may stand elsewhere, behind a link or a mount.
const PARTS: [&str; 5] = ["blocks", "keys", "names", "rootfs", "run"];

const HINT: &str = "name the files that you mean, or move them out of the repository";

/// Rules that leave entries out.
#[derive(Args, Debug, Default)]
pub(crate) struct IgnoreArgs {
    /// Leave out entries below PATH that match this rule; may be repeated. A rule has the form of a
    /// line of a `.gitignore` file
    #[arg(long, value_name = "PATTERN")]
    ignore: Vec<String>,

    /// Leave out entries that match a rule in FILE, which has the form of a `.gitignore` file
    #[arg(long, value_name = "FILE")]
    ignore_rules_path: Option<PathBuf>,
}

impl IgnoreArgs {
    /// The rules of the file, then those of the command line: the last rule that matches decides.
    fn rules(&self) -> Result<Gitignore, CommandError> {
        let mut builder = GitignoreBuilder::new("");
        if let Some(path) = &self.ignore_rules_path {
            for line in read_rules(path)?.lines() {
                add_rule(&mut builder, line)
                    .map_err(|error| error.about(&path.display().to_string()))?;
            }
        }
        for rule in &self.ignore {
            add_rule(&mut builder, rule)?;
        }
        builder
            .build()
            .map_err(|error| CommandError::usage(format!("cannot use the ignore rules: {error}")))
    }
}

fn add_rule(builder: &mut GitignoreBuilder, rule: &str) -> Result<(), CommandError> {
    match builder.add_line(None, rule) {
        Ok(_) => Ok(()),
        Err(error) => Err(CommandError::usage(format!(
            "cannot use the ignore rule `{rule}`: {error}"
        ))
        .with_hint("write rules as in a `.gitignore` file, such as `*.log` or `/build/`")),
    }
}

fn read_rules(path: &Path) -> Result<String, CommandError> {
    let failed = |source| LocalError {
        action: "read the ignore rules in",
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_RULES_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > MAX_RULES_BYTES {
        let reason = format!("the file has more than {MAX_RULES_BYTES} bytes");
        return Err(failed(io::Error::other(reason)).into());
    }
    Ok(text)
}

/// Device and inode.
type Identity = (u64, u64);

/// Decides what is imported of local arguments.
#[derive(Debug)]
pub(crate) struct Selection {
    /// The repository in use, and its parts.
    own: HashSet<Identity>,
    rules: Gitignore,
    left_out: Mutex<LeftOut>,
}

/// Repositories that were met and not imported.
#[derive(Debug, Default)]
struct LeftOut {
    first: Option<PathBuf>,
    count: u64,
}

impl Selection {
    /// Leaves out the repository at `repository`, which need not exist, every other repository, and
    /// what `arguments` name.
    pub(crate) fn new(
        repository: Option<&Path>,
        arguments: &IgnoreArgs,
    ) -> Result<Arc<Selection>, CommandError> {
        Ok(Arc::new(Selection {
            own: repository.map_or_else(|| Ok(HashSet::new()), parts)?,
            rules: arguments.rules()?,
            left_out: Mutex::default(),
        }))
    }

    /// The same options, with this selection.
    pub(crate) fn applied(self: &Arc<Self>, options: &ImportOptions) -> ImportOptions {
        ImportOptions {
            filter: Some(Arc::clone(self) as Arc<dyn Filter>),
            ..options.clone()
        }
    }

    /// Refuses an argument that is a repository or lies inside one.
    pub(crate) fn check_argument(&self, path: &Path) -> Result<(), CommandError> {
        let failed = |source| LocalError {
            action: "find",
            path: path.to_owned(),
            source,
        };
        let place = match real_place(path) {
            // The import says so of the file itself.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            place => place.map_err(failed)?,
        };
        for directory in place.ancestors() {
            if !self.is_repository_at(directory).map_err(failed)? {
                continue;
            }
            let message = if directory == place {
                format!("{} is a repository of ipfs-exec", path.display())
            } else {
                let (path, directory) = (path.display(), directory.display());
                format!("{path} lies in {directory}, which is a repository of ipfs-exec")
            };
            return Err(CommandError::failed(message).with_hint(HINT));
        }
        Ok(())
    }

    /// Says once which repositories were left out.
    pub(crate) fn tell_left_out(&self) {
        let left_out = std::mem::take(&mut *self.lock());
        let Some(first) = left_out.first else { return };
        let first = first.display();
        match left_out.count - 1 {
            0 => tracing::warn!("left out {first}, which is a repository of ipfs-exec"),
            more => tracing::warn!(
                "left out {first}, which is a repository of ipfs-exec, and {more} more of them"
            ),
        }
    }

    /// A link is none, wherever it leads.
    fn is_repository_at(&self, path: &Path) -> io::Result<bool> {
        let status = match fs::symlink_metadata(path) {
            // A directory above that may not be examined; what is below is examined by itself.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(false),
            status => status?,
        };
        if !status.is_dir() {
            return Ok(false);
        }
        if self.own.contains(&(status.dev(), status.ino())) {
            return Ok(true);
        }
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
        let mode = rustix::fs::Mode::empty();
        let directory = rustix::fs::open(path, flags | rustix::fs::OFlags::CLOEXEC, mode)?;
        Ok(looks_like_repository(directory.as_fd())?)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LeftOut> {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Filter for Selection {
    fn takes_entry(&self, path: &Path, is_directory: bool) -> bool {
        !self.rules.matched(path, is_directory).is_ignore()
    }

    fn takes_directory(&self, path: &Path, directory: BorrowedFd<'_>) -> Result<bool, Errno> {
        let status = rustix::fs::fstat(directory)?;
        let is_own = self.own.contains(&(status.st_dev, status.st_ino));
        if !is_own && !looks_like_repository(directory)? {
            return Ok(true);
        }
        let mut left_out = self.lock();
        left_out.first.get_or_insert_with(|| path.to_owned());
        left_out.count += 1;
        Ok(false)
    }
}

/// The place of an argument. A link is imported as a link, so its own place counts, not its target.
fn real_place(path: &Path) -> io::Result<PathBuf> {
    let is_link = path.symlink_metadata()?.is_symlink();
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if is_link => {
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            Ok(parent.canonicalize()?.join(name))
        }
        _ => path.canonicalize(),
    }
}

/// The repository and its directories, as far as they exist.
fn parts(repository: &Path) -> Result<HashSet<Identity>, CommandError> {
    let mut found = HashSet::new();
    let below = PARTS.iter().map(|part| repository.join(part));
    for path in std::iter::once(repository.to_owned()).chain(below) {
        match fs::metadata(&path) {
            Ok(status) => drop(found.insert((status.dev(), status.ino()))),
            Err(error)
                if matches!(
                    error.kind(),
                    // Another user's repository may be closed: then its parts cannot be read either.
                    ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied
                ) => {}
            Err(source) => {
                let action = "examine";
                return Err(LocalError {
                    action,
                    path,
                    source,
                }
                .into());
            }
        }
    }
    Ok(found)
}

/// Whether a directory holds blocks beside an index or a private key: a repository, also one whose
/// index was lost.
fn looks_like_repository(directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(holds(directory, "blocks", FileType::Directory)?
        && (holds(directory, "repo.db", FileType::RegularFile)?
            || holds(directory, "keys/self", FileType::RegularFile)?))
}

fn holds(directory: BorrowedFd<'_>, name: &str, kind: FileType) -> Result<bool, Errno> {
    match statat(directory, name, AtFlags::empty()) {
        Ok(status) => Ok(FileType::from_raw_mode(status.st_mode) == kind),
        // A directory that may not be searched cannot be imported either: the import says so.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => Ok(false),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(lines: &[&str]) -> Gitignore {
        let arguments = IgnoreArgs {
            ignore: lines.iter().map(ToString::to_string).collect(),
            ignore_rules_path: None,
        };
        arguments.rules().unwrap()
    }

    #[test]
    fn rules_have_the_meaning_of_a_gitignore_file() {
        let table: [(&[&str], &str, bool, bool); 8] = [
            (&["*.log"], "a/b.log", false, true),
            (&["*.log"], "a/b.text", false, false),
            (&["build/"], "a/build", true, true),
            (&["build/"], "build", false, false),
            (&["/top"], "top", false, true),
            (&["/top"], "a/top", false, false),
            (&["*", "!kept"], "kept", false, false),
            (&[".*"], ".hidden", true, true),
        ];
        for (lines, path, is_directory, ignored) in table {
            let rules = rules(lines);
            let matched = rules.matched(path, is_directory);
            assert_eq!(matched.is_ignore(), ignored, "{lines:?} on {path}");
        }
    }

    #[test]
    fn a_rule_that_cannot_be_read_is_named() {
        let arguments = IgnoreArgs {
            ignore: vec!["[z-a]".to_owned()],
            ignore_rules_path: None,
        };
        let error = arguments.rules().unwrap_err();
        assert!(error.message().contains("`[z-a]`"), "{error:?}");
    }
}
