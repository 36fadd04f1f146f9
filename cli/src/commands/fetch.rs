//! `fetch`: content of peers into the repository.

use clap::Args;

use crate::context::{Context, content_paths};
use crate::disk::DiskArgs;
use crate::error::CommandError;

use super::pin;

/// Fetch content into the repository and pin it
///
/// Goes on where an earlier fetch stopped: what came stays.
#[derive(Args, Debug)]
#[command(
    after_long_help = "Example:\n  ipfs-exec fetch --peer /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW... $output"
)]
pub(crate) struct FetchArgs {
    /// Content paths
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,

    /// A name for the pins
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,

    /// Print lines of JSON instead of the CIDs
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    disk: DiskArgs,
}

pub(crate) fn fetch(context: &Context, arguments: FetchArgs) -> Result<(), CommandError> {
    let repository = context.repository()?;
    let paths = content_paths(&arguments.paths)?;
    let keep_free = arguments.disk.keep_free(context, repository.path())?;
    pin::add(
        context,
        &repository,
        keep_free,
        &paths,
        true,
        &arguments.name,
        arguments.json,
    )
}
