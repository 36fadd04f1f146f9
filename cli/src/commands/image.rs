//! `image`: root file systems as directories.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use clap::{Args, Subcommand};
use ipfs_exec_executor::archive;
use ipfs_exec_node::budget::Budget;
use ipfs_exec_node::path::ContentPath;
use ipfs_exec_node::unixfs::FileReader;
use ipfs_exec_node::{Pin, ReadBlocks};
use serde_json::json;

use crate::content::resolve;
use crate::context::Context;
use crate::disk::DiskArgs;
use crate::error::{CommandError, LocalError};
use crate::names;
use crate::profile::ProfileArgs;
use crate::{output, size};

/// Make root file systems
#[derive(Args, Debug)]
pub(crate) struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    Unpack(UnpackArgs),
}

/// Add the tree in an archive as a directory, and print its CID
///
/// The archive is not unpacked to disk. `run` mounts such a directory as the root file system, and
/// reads or fetches only the files that the program opens. The entries of each directory are sorted by
/// name.
#[derive(Args, Debug)]
#[command(
    after_long_help = "Example:\n  rootfs=$(ipfs-exec image unpack debian.tar.zst)\n  \
                             ipfs-exec run $rootfs $input sh -c 'sort /input/words'"
)]
struct UnpackArgs {
    /// The archive: a content path or a local file
    archive: String,

    /// Refuse an archive that unpacks to more bytes than this
    #[arg(long, value_name = "SIZE", default_value = "16GiB", value_parser = size::parse_nonzero)]
    max_size: u64,

    /// Refuse an archive with more entries than this
    #[arg(long, value_name = "NUMBER", default_value_t = archive::DEFAULT_BUDGET.max_entries,
          value_parser = clap::value_parser!(u64).range(1..))]
    max_entries: u64,

    #[command(flatten)]
    disk: DiskArgs,

    /// Pin the directory
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "true", default_missing_value = "true")]
    pin: std::primitive::bool,

    /// Print JSON instead of the CID
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    profile: ProfileArgs,
}

pub(crate) fn image(context: &Context, arguments: ImageArgs) -> Result<(), CommandError> {
    let ImageCommand::Unpack(arguments) = arguments.command;
    let repository = context.repository()?;
    let progress = context.progress();
    let local = Path::new(&arguments.archive);
    match arguments.archive.parse::<ContentPath>() {
        Err(_) if local.exists() => {
            let file = File::open(local).map_err(|source| LocalError {
                action: "open",
                path: local.to_owned(),
                source,
            })?;
            unpack(context, &arguments, &repository, file)
        }
        path => {
            let path = names::without_name(context, &repository, path?)?;
            let keep_free = arguments.disk.keep_free(context, repository.path())?;
            context.with_blocks_keeping(keep_free, &repository, &progress, |source| {
                let cid = resolve(source, &path)?;
                source.expect_all(&cid);
                let reader = FileReader::open(source, &cid)?;
                unpack(context, &arguments, &repository, reader)
            })
        }
    }
}

fn unpack(
    context: &Context,
    arguments: &UnpackArgs,
    repository: &ipfs_exec_node::Repository,
    archive: impl Read + Send,
) -> Result<(), CommandError> {
    let session = repository.session()?;
    let progress = context.progress();
    let budget = Budget {
        max_bytes: arguments.max_size,
        max_entries: arguments.max_entries,
        keep_free: arguments.disk.keep_free(context, repository.path())?,
        ..archive::DEFAULT_BUDGET
    };
    let profile = arguments.profile.profile()?;
    let (imported, unpacked) = archive::import(archive, &session, &profile, &budget, &progress)
        .map_err(|error| {
            let failed = CommandError::from_chain(&error)
                .about(&format!("cannot unpack {}", arguments.archive));
            match error.hint() {
                Some(hint) => failed.with_hint(hint),
                None => failed,
            }
        })?;
    let pin = arguments.pin.then(|| Pin::recursive(imported.cid));
    session.commit(pin.as_slice())?;
    for warning in &unpacked.warnings {
        tracing::warn!("{warning}");
    }
    if unpacked.more_warnings > 0 {
        let more = unpacked.more_warnings;
        tracing::warn!("{more} more warnings about the archive are not shown");
    }
    if arguments.json {
        output::line(json!({
            "cid": imported.cid.to_string(),
            "size": imported.bytes,
            "cumulative_size": imported.cumulative_bytes,
            "entries": unpacked.entries,
        }))?;
    } else {
        output::line(imported.cid)?;
    }
    Ok(())
}
