//! `gc`: removes what is not pinned.

use clap::Args;
use ipfs_exec_executor::rootfs::{Evicted, RootfsCache};
use ipfs_exec_node::Repository;
use serde_json::json;

use crate::context::Context;
use crate::error::CommandError;
use crate::output;

/// Remove content that is not pinned, and free its disk space
///
/// Other commands may run at the same time; `gc` keeps content that they use. `gc` also keeps unpacked
/// root file systems. Their total size is limited by `rootfs-cache` in the configuration.
#[derive(Args, Debug)]
pub(crate) struct GcArgs {
    /// Also remove the unpacked root file systems that no run uses. A later run unpacks them again
    #[arg(long)]
    rootfs: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn gc(context: &Context, arguments: GcArgs) -> Result<(), CommandError> {
    let repository = context.repository()?;
    // First, so that the result is printed only when all is done.
    let evicted = if arguments.rootfs {
        evict(&repository)?
    } else {
        Evicted::default()
    };
    let collected = repository.collect_garbage()?;
    if arguments.json {
        output::line(json!({
            "blocks": collected.blocks,
            "bytes": collected.bytes,
            "disk_bytes": collected.disk_bytes,
            "rootfs_entries": evicted.entries,
            "rootfs_bytes": evicted.bytes,
        }))?;
    } else {
        output::line(format_args!(
            "removed {} blocks of {} bytes, freed {} bytes on disk",
            collected.blocks, collected.bytes, collected.disk_bytes
        ))?;
        if arguments.rootfs {
            output::line(format_args!(
                "removed {} unpacked root file systems of {} bytes",
                evicted.entries, evicted.bytes
            ))?;
        }
    }
    Ok(())
}

fn evict(repository: &Repository) -> Result<Evicted, CommandError> {
    let session = repository.session()?;
    let evicted = RootfsCache::new(repository)
        .evict(&session, 0)
        .map_err(|error| CommandError::from_chain(&error))?;
    session.commit(&[])?;
    Ok(evicted)
}
