//! `id`: the name that peers know this repository by.

use clap::Args;
use ipfs_exec_node::network::identity;

use crate::context::Context;
use crate::error::CommandError;
use crate::output;

/// Print the peer id of this repository
///
/// `serve` speaks as this peer. Other commands make up an identity that passes with them.
#[derive(Args, Debug)]
pub(crate) struct IdArgs {}

pub(crate) fn id(context: &Context, _arguments: IdArgs) -> Result<(), CommandError> {
    let repository = context.repository()?;
    output::line(identity::peer_id(repository.path())?)?;
    Ok(())
}
