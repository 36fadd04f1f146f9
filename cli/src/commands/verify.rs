//! `verify`: reads and hashes everything.

use std::os::unix::ffi::OsStrExt;

use clap::Args;
use ipfs_exec_node::path::escape;
use ipfs_exec_node::repo::Damage;
use serde_json::json;

use crate::context::Context;
use crate::error::CommandError;
use crate::output;

/// Check the hash of every block, and that every pin is complete
///
/// Prints damaged and missing blocks, and files of the repository that belong to another user. Ends
/// with 1 if it finds one.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn verify(context: &Context, arguments: VerifyArgs) -> Result<(), CommandError> {
    let repository = context.repository()?;
    let mut damages = Vec::new();
    let verified = repository.verify(&mut |damage| damages.push(describe(damage)))?;
    if arguments.json {
        output::line(json!({
            "blocks": verified.blocks,
            "bytes": verified.bytes,
            "pins": verified.pins,
            "damages": damages,
        }))?;
    } else {
        for damage in &damages {
            output::line(damage)?;
        }
        output::line(format_args!(
            "{} blocks of {} bytes and {} pins verified, {} damages",
            verified.blocks, verified.bytes, verified.pins, verified.damages
        ))?;
    }
    if damages.is_empty() {
        Ok(())
    } else {
        Err(CommandError::already_told())
    }
}

fn describe(damage: Damage) -> String {
    match damage {
        Damage::Block { error } => CommandError::from(error).message().to_owned(),
        Damage::IncompletePin { pin, error } => format!("the pin {pin} is incomplete: {error}"),
        Damage::MalformedPin { pin, error } => format!("the pin {pin} cannot be walked: {error}"),
        Damage::ForeignFile { file } => format!(
            "{} belongs to the user {}, not to the owner of the repository: `sudo chown` it",
            escape(file.path.as_os_str().as_bytes()),
            file.owner
        ),
        _ => "unknown damage".to_owned(),
    }
}
