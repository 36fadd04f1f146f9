//! `mount`: content as a file system.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use ipfs_exec_executor::mount::{Mount, MountError, Top, Unobserved};
use ipfs_exec_node::ReadBlocks;
use ipfs_exec_node::path::ContentPath;
use serde_json::json;

use crate::background;
use crate::commands::Logging;
use crate::content::resolve;
use crate::context::Context;
use crate::error::CommandError;
use crate::names;
use crate::{duration, output};
use ipfs_exec_node::progress::Quiet;

/// Show a directory as a file system, read-only
///
/// Blocks that the repository lacks are fetched when a program reads them. `mount` prints one line when
/// the mount is ready, and runs until `ipfs-exec umount DIR` or a signal ends it. Every file and
/// directory has its CID as the extended attribute `ipfs.cid`.
#[derive(Args, Debug)]
#[command(after_long_help = HELP, override_usage = "ipfs-exec mount [OPTIONS] PATH DIR
       ipfs-exec mount [OPTIONS] --all DIR")]
pub(crate) struct MountArgs {
    /// Show all content: every DIR/CID/path can be read. DIR itself cannot be listed
    #[arg(long)]
    all: bool,

    /// Let other users read the mount. An ordinary user needs `user_allow_other` in /etc/fuse.conf
    #[arg(long)]
    allow_other: bool,

    /// Return when the mount is ready. A process in the background serves it
    #[arg(long)]
    background: bool,

    /// This is the process in the background
    #[arg(long, hide = true, conflicts_with = "background")]
    detached: bool,

    /// End a read with an error if no block arrives for this time [default: value of `--idle-timeout`]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_nonzero)]
    timeout: Option<Duration>,

    /// Report more; twice reports everything
    #[arg(long, short, action = clap::ArgAction::Count)]
    verbose: u8,

    /// Append messages to this file, also those of the process in the background
    #[arg(long, short, value_name = "FILE")]
    log: Option<PathBuf>,

    /// Print JSON when the mount is ready
    #[arg(long)]
    json: bool,

    /// Content path of a directory (not with `--all`), and an empty directory of this machine
    #[arg(required = true, num_args = 1..=2, value_names = ["PATH", "DIR"])]
    places: Vec<PathBuf>,
}

const HELP: &str = "\
Examples:
  ipfs-exec mount QmeugpFaBp7aafV2uN7GC3E2GbAycnEU3c2Q3FS7mSLbo4 /mnt
  ipfs-exec mount --background $CID /mnt && ls /mnt && ipfs-exec umount /mnt
  ipfs-exec mount --all ~/ipfs";

impl MountArgs {
    pub(super) fn logging(&self) -> Logging {
        Logging {
            verbosity: self.verbose,
            file: self.log.clone(),
        }
    }
}

pub(crate) fn mount(context: &Context, arguments: &MountArgs) -> Result<ExitCode, CommandError> {
    if arguments.background {
        return background::start();
    }
    if arguments.detached {
        background::leave_terminal()?;
    }
    serve(context, arguments).map(|()| ExitCode::SUCCESS)
}

fn serve(context: &Context, arguments: &MountArgs) -> Result<(), CommandError> {
    let (path, directory) = match (&arguments.places[..], arguments.all) {
        ([directory], true) => (None, directory),
        ([path, directory], false) => {
            let path = path.to_str().ok_or_else(|| {
                CommandError::usage(format!("`{}` is no content path", path.display()))
            })?;
            (Some(path.parse::<ContentPath>()?), directory)
        }
        ([_], _) => return Err(CommandError::usage("name a content path and a directory")),
        _ => return Err(CommandError::usage("with `--all`, name a directory alone")),
    };
    let repository = context.repository()?;
    let content = path
        .clone()
        .map(|path| names::without_name(context, &repository, path))
        .transpose()?;
    let patience = arguments.timeout.unwrap_or(context.idle_timeout);
    let quiet = Quiet(context.interrupt.cancel().clone());
    context.with_blocks_within(patience, &repository, &quiet, |source| {
        let blocks: &dyn ReadBlocks = source;
        let cid = content
            .as_ref()
            .map(|path| resolve(blocks, path))
            .transpose()?;
        let top = cid.as_ref().map_or(Top::Everything, Top::Dag);
        let mount = Mount::new(blocks, top, directory, arguments.allow_other, &Unobserved);
        let mount = mount.map_err(explain)?;
        let shown = path
            .as_ref()
            .map_or("/ipfs".to_owned(), ToString::to_string);
        let place = mount.directory();
        if arguments.json {
            let place = output::json_text(place.as_os_str().as_bytes());
            output::line(json!({ "path": shown, "directory": place }))?;
        } else {
            output::line(format_args!("{shown} is mounted at {}", place.display()))?;
        }
        if arguments.detached {
            background::is_ready()?;
        }
        mount.serve(context.interrupt.cancel()).map_err(explain)
    })
}

pub(super) fn explain(error: MountError) -> CommandError {
    let failed = CommandError::from_chain(&error);
    match error.hint() {
        Some(hint) => failed.with_hint(hint),
        None => failed,
    }
}
