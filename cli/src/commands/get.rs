//! `get`: content becomes local files.

use std::path::{Path, PathBuf};

use clap::Args;
use ipfs_exec_node::path::{ContentPath, EntryName};
use ipfs_exec_node::tree::remove_tree;
use ipfs_exec_node::unixfs::{self, ExportOptions};
use rustix::fs::RenameFlags;

use crate::context::{Context, Source, destination, resolve};
use crate::error::{CommandError, LocalError};
use crate::progress::Progress;

/// Write a file or directory to disk
///
/// The destination appears complete or not at all, and never replaces anything.
#[derive(Args, Debug)]
#[command(
    after_long_help = "Example:\n  ipfs-exec get QmeugpFaBp7aafV2uN7GC3E2GbAycnEU3c2Q3FS7mSLbo4 -o result"
)]
pub(crate) struct GetArgs {
    /// Content path
    path: String,

    /// Where to write [default: the last part of the path]
    #[arg(long, short, value_name = "DEST")]
    output: Option<PathBuf>,
}

pub(crate) fn get(context: &Context, arguments: GetArgs) -> Result<(), CommandError> {
    let path: ContentPath = arguments.path.parse()?;
    let repository = context.repository()?;
    let progress = context.progress();
    let output = arguments.output.unwrap_or_else(|| default_name(&path));
    context.with_blocks(&repository, &progress, |source| {
        write(source, &path, &output, &progress)
    })
}

fn write(
    source: &Source<'_, '_>,
    path: &ContentPath,
    output: &Path,
    progress: &Progress,
) -> Result<(), CommandError> {
    let cid = resolve(source.blocks(), path)?;
    source.expect(&cid);
    let (directory, name) = destination(output)?;
    let failed = |errno: rustix::io::Errno| {
        let source = errno.into();
        let failed = CommandError::from(LocalError {
            action: "create",
            path: output.to_owned(),
            source,
        });
        if errno == rustix::io::Errno::EXIST {
            failed.with_hint("name a destination that does not exist yet with `-o DEST`")
        } else {
            failed
        }
    };
    if rustix::fs::statat(
        &directory,
        name.as_bytes(),
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )
    .is_ok()
    {
        return Err(failed(rustix::io::Errno::EXIST));
    }
    let unfinished = EntryName::new(format!(".ipfs-exec-{}", std::process::id()).as_bytes())?;
    let options = ExportOptions::default();
    unixfs::export(
        source.blocks(),
        &cid,
        rustix::fd::AsFd::as_fd(&directory),
        &unfinished,
        &options,
        progress,
    )?;
    let (from, to) = (unfinished.as_bytes(), name.as_bytes());
    rustix::fs::renameat_with(&directory, from, &directory, to, RenameFlags::NOREPLACE).map_err(
        |errno| {
            let failed = failed(errno);
            match remove_tree(rustix::fd::AsFd::as_fd(&directory), from) {
                Ok(()) => failed,
                Err(error) => failed.about(&format!("cannot remove {unfinished}: {error}")),
            }
        },
    )
}

fn default_name(path: &ContentPath) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    match path.segments.last() {
        Some(name) => std::ffi::OsStr::from_bytes(name.as_bytes()).into(),
        None => path
            .to_string()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .into(),
    }
}
