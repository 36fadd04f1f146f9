//! `fetch`: content of peers into the repository.

use clap::Args;

use crate::context::Context;
use crate::disk::DiskArgs;
use crate::error::CommandError;
use crate::names;

use super::pin;

/// Fetch content from peers, pin it, and print its CID
///
/// Blocks that arrived stay in the repository, so that a fetch that was interrupted can be resumed.
#[derive(Args, Debug)]
#[command(
    after_long_help = "Example:\n  ipfs-exec fetch --peer /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW... $output"
)]
pub(crate) struct FetchArgs {
    /// Content paths
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,

    /// Name of the pins
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,

    /// Print one JSON object for each CID
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    disk: DiskArgs,
}

pub(crate) fn fetch(context: &Context, arguments: FetchArgs) -> Result<(), CommandError> {
    let repository = context.repository()?;
    let paths = names::paths(context, &repository, &arguments.paths)?;
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
