//! What every command needs: the repository, content paths, progress and interruption.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use clap::Args;
use ipfs_exec_node::path::{ContentPath, EntryName};
use ipfs_exec_node::repo::Repository;
use ipfs_exec_node::{Blocks, Cid, unixfs};

use crate::error::{CommandError, LocalError};
use crate::progress::Progress;
use crate::signals::Interrupt;

/// Options of every command.
#[derive(Args, Debug)]
pub(crate) struct GlobalArgs {
    /// Repository directory [default: $XDG_DATA_HOME/ipfs-exec or ~/.local/share/ipfs-exec]
    #[arg(long, value_name = "DIR", env = "IPFS_EXEC_PATH", global = true)]
    repo: Option<PathBuf>,

    /// Use only what the repository holds
    #[arg(long, global = true)]
    offline: bool,
}

/// The surroundings of one command.
pub(crate) struct Context {
    path: Option<PathBuf>,
    pub(crate) interrupt: Interrupt,
}

impl Context {
    pub(crate) fn new(arguments: &GlobalArgs) -> Result<Context, CommandError> {
        let interrupt = Interrupt::install()
            .map_err(|error| CommandError::failed(format!("cannot take over signals: {error}")))?;
        Ok(Context {
            path: arguments.repo.clone().or_else(default_path),
            interrupt,
        })
    }

    /// Opens the repository; the first use creates it.
    pub(crate) fn repository(&self) -> Result<Repository, CommandError> {
        let path = self.path.as_deref().ok_or_else(|| {
            CommandError::failed("no place for the repository: HOME is not set")
                .with_hint("give one with `--repo DIR` or IPFS_EXEC_PATH")
        })?;
        Ok(Repository::open(path)?)
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress::new(&self.interrupt)
    }
}

fn default_path() -> Option<PathBuf> {
    let absolute = |variable| {
        std::env::var_os(variable)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
    data.map(|data| data.join("ipfs-exec"))
}

/// Reads content paths. Not left to the parser of the command line: a CID that does not parse is
/// bad input, not wrong usage.
pub(crate) fn content_paths(arguments: &[String]) -> Result<Vec<ContentPath>, CommandError> {
    arguments
        .iter()
        .map(|argument| Ok(argument.parse()?))
        .collect()
}

/// Resolves a content path; the error names the whole path.
pub(crate) fn resolve(blocks: &dyn Blocks, path: &ContentPath) -> Result<Cid, CommandError> {
    unixfs::resolve(blocks, path).map_err(|error| {
        let failed = CommandError::from(error);
        if path.segments.is_empty() {
            failed
        } else {
            failed.about(&format!("cannot resolve {path}"))
        }
    })
}

/// Opens the directory that is to hold `path`, with the name that it gets there.
pub(crate) fn destination(path: &Path) -> Result<(OwnedFd, EntryName), CommandError> {
    use std::os::unix::ffi::OsStrExt;
    let name = path.file_name().ok_or_else(|| {
        CommandError::usage(format!(
            "{} does not name a new file or directory",
            path.display()
        ))
    })?;
    let name = EntryName::new(name.as_bytes())?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = File::open(parent).map_err(|source| LocalError {
        action: "open the directory",
        path: parent.to_owned(),
        source,
    })?;
    Ok((directory.into(), name))
}
