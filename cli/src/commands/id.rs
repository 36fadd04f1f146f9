//! `id`: the name that peers know this repository by.

use clap::Args;
use ipfs_exec_node::network::identity;
use serde_json::json;

use crate::context::Context;
use crate::error::CommandError;
use crate::output;

/// Print the peer id of this repository
///
/// `serve` uses this peer id. Other commands make a temporary one.
#[derive(Args, Debug)]
pub(crate) struct IdArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn id(context: &Context, arguments: IdArgs) -> Result<(), CommandError> {
    let repository = context.repository()?;
    let peer = identity::peer_id(repository.path())?;
    if arguments.json {
        output::line(json!({ "peer": peer.to_string() }))?;
    } else {
        output::line(peer)?;
    }
    Ok(())
}
