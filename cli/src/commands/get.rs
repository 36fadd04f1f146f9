//! `get`: content becomes local files.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;
use ipfs_exec_node::network::Source;
use ipfs_exec_node::path::{ContentPath, EntryName};
use ipfs_exec_node::tree::remove_tree;
use ipfs_exec_node::unixfs::{self, ExportOptions, UnixfsError};
use ipfs_exec_node::{Budget, ReadBlocks, limits};
use rustix::fs::RenameFlags;

use crate::content::{destination, resolve};
use crate::context::Context;
use crate::disk::DiskArgs;
use crate::error::{CommandError, LocalError};
use crate::names;
use crate::progress::Progress;
use crate::size;

/// Write a file or directory to disk
///
/// The destination appears when it is complete. `get` never replaces an existing file.
#[derive(Args, Debug)]
#[command(
    after_long_help = "Example:\n  ipfs-exec get QmeugpFaBp7aafV2uN7GC3E2GbAycnEU3c2Q3FS7mSLbo4 -o result"
)]
pub(crate) struct GetArgs {
    /// Content path
    path: String,

    /// Destination [default: the last part of the path]
    #[arg(long, short, value_name = "DEST")]
    output: Option<PathBuf>,

    /// Refuse content with more bytes than this
    #[arg(long, value_name = "SIZE", default_value = "1TiB", value_parser = size::parse_nonzero)]
    max_size: u64,

    /// Refuse content with more files, directories and links than this
    #[arg(long, value_name = "NUMBER", default_value_t = limits::MAX_EXPORT_ENTRIES,
          value_parser = clap::value_parser!(u64).range(1..))]
    max_entries: u64,

    #[command(flatten)]
    disk: DiskArgs,
}

pub(crate) fn get(context: &Context, arguments: GetArgs) -> Result<(), CommandError> {
    let repository = context.repository()?;
    let path = names::path(context, &repository, &arguments.path)?;
    let progress = context.progress();
    let output = arguments.output.clone();
    let output = output.unwrap_or_else(|| default_name(&path));
    let keep_free = arguments.disk.keep_free(context, repository.path())?;
    context.with_blocks_keeping(keep_free, &repository, &progress, |source| {
        let (directory, name) = destination(&output)?;
        let budget = Budget {
            max_bytes: arguments.max_size,
            max_entries: arguments.max_entries,
            keep_free: arguments.disk.keep_free_of(context, &directory)?,
            ..Budget::UNLIMITED
        };
        let destination = Destination {
            path: &output,
            directory,
            name,
        };
        write(source, &path, &destination, &budget, &progress)
    })
}

/// Where the content goes.
struct Destination<'p> {
    path: &'p Path,
    directory: OwnedFd,
    name: EntryName,
}

fn write(
    source: &Source<'_>,
    path: &ContentPath,
    destination: &Destination<'_>,
    budget: &Budget,
    progress: &Progress,
) -> Result<(), CommandError> {
    let cid = resolve(source, path)?;
    source.expect_all(&cid);
    let Destination {
        path: output,
        directory,
        name,
    } = destination;
    let failed = |errno: rustix::io::Errno| {
        let source = errno.into();
        let failed = CommandError::from(LocalError {
            action: "create",
            path: (*output).to_owned(),
            source,
        });
        if errno == rustix::io::Errno::EXIST {
            failed.with_hint("name a destination that does not exist yet with `-o DEST`")
        } else {
            failed
        }
    };
    if rustix::fs::statat(
        directory,
        name.as_bytes(),
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )
    .is_ok()
    {
        return Err(failed(rustix::io::Errno::EXIST));
    }
    let unfinished = EntryName::new(format!(".ipfs-exec-{}", std::process::id()).as_bytes())?;
    let options = ExportOptions {
        budget: *budget,
        ..ExportOptions::default()
    };
    unixfs::export(
        source,
        &cid,
        rustix::fd::AsFd::as_fd(directory),
        &unfinished,
        &options,
        progress,
    )
    .map_err(|error| not_written(error, output, &unfinished))?;
    let (from, to) = (unfinished.as_bytes(), name.as_bytes());
    rustix::fs::renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE).map_err(
        |errno| {
            let failed = failed(errno);
            match remove_tree(rustix::fd::AsFd::as_fd(directory), from) {
                Ok(()) => failed,
                Err(error) => failed.about(&format!("cannot remove {unfinished}: {error}")),
            }
        },
    )
}

/// The error of an export that could not write: it names the destination, and not the name under which the
/// content is put together.
fn not_written(error: UnixfsError, output: &Path, unfinished: &EntryName) -> CommandError {
    match error {
        UnixfsError::Io {
            action,
            path,
            source,
        } => {
            let beneath = path.strip_prefix(OsStr::from_bytes(unfinished.as_bytes()));
            let path = match beneath {
                Ok(rest) if rest.as_os_str().is_empty() => output.to_owned(),
                Ok(rest) => output.join(rest),
                Err(_) => path,
            };
            LocalError {
                action,
                path,
                source,
            }
            .into()
        }
        error => error.into(),
    }
}

fn default_name(path: &ContentPath) -> PathBuf {
    match path.segments.last() {
        Some(name) => OsStr::from_bytes(name.as_bytes()).into(),
        None => path
            .to_string()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .into(),
    }
}
