//! `gc`: removes what is not pinned.

use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::error::CommandError;
use crate::output;

/// Remove content that is not pinned, and give its space back
///
/// Other commands may run meanwhile; what they use stays.
#[derive(Args, Debug)]
pub(crate) struct GcArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn gc(context: &Context, arguments: GcArgs) -> Result<(), CommandError> {
    let collected = context.repository()?.collect_garbage()?;
    if arguments.json {
        output::line(json!({
            "blocks": collected.blocks,
            "bytes": collected.bytes,
            "disk_bytes": collected.disk_bytes,
        }))?;
    } else {
        output::line(format_args!(
            "removed {} blocks of {} bytes, freed {} bytes on disk",
            collected.blocks, collected.bytes, collected.disk_bytes
        ))?;
    }
    Ok(())
}
