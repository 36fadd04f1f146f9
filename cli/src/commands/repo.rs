//! `repo`: the repository itself.

use std::os::unix::ffi::OsStrExt;

use clap::{Args, Subcommand};
use ipfs_exec_node::path::escape;
use serde_json::json;

use crate::context::Context;
use crate::error::CommandError;
use crate::output;

/// Show and repair the repository
#[derive(Args, Debug)]
pub(crate) struct RepoArgs {
    #[command(subcommand)]
    command: RepoCommand,
}

#[derive(Debug, Subcommand)]
enum RepoCommand {
    /// Show counts and sizes. `RootfsCache` is the maximum size of the unpacked root file systems
    Stat {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },

    /// Rebuild the database from the blocks
    ///
    /// Reads and hashes every block. `reindex` keeps pins and their names if it can read the old
    /// database. A block without a pin and without a link from another block gets a pin named
    /// `recovered`, so that `gc` keeps it; `ipfs-exec pin rm CID` removes a pin that you do not need.
    /// `reindex` keeps the old database as `repo.db.old-N`. No other command can use the repository at
    /// the same time.
    Reindex {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn repo(context: &Context, arguments: RepoArgs) -> Result<(), CommandError> {
    match arguments.command {
        RepoCommand::Stat { json } => stat(context, json),
        RepoCommand::Reindex { json } => reindex(context, json),
    }
}

fn reindex(context: &Context, json: bool) -> Result<(), CommandError> {
    let progress = context.progress();
    let reindexed = context.reindex(&progress)?;
    progress.finish();
    for path in &reindexed.sealed {
        tracing::warn!(
            segment = %path.display(),
            "the segment holds bytes that are no blocks: it is read, and nothing is written to it"
        );
    }
    let old = reindexed.old_database.as_deref();
    let old = old.map(|path| path.as_os_str().as_bytes());
    if let Some(old) = old.filter(|_| !reindexed.old_was_readable) {
        tracing::warn!(
            "the old database cannot be read completely, so that names of pins may be lost; it is \
             kept as {}",
            escape(old)
        );
    }
    if json {
        output::line(json!({
            "segments": reindexed.segments,
            "blocks": reindexed.blocks,
            "bytes": reindexed.bytes,
            "damaged": reindexed.damaged,
            "kept_pins": reindexed.kept_pins,
            "recovered_pins": reindexed.recovered_pins,
            "old_database": old.map(output::json_text),
        }))?;
        return Ok(());
    }
    output::line(format_args!(
        "{} segments with {} blocks of {} bytes indexed, {} damaged; {} pins kept, {} recovered",
        reindexed.segments,
        reindexed.blocks,
        reindexed.bytes,
        reindexed.damaged,
        reindexed.kept_pins,
        reindexed.recovered_pins
    ))?;
    Ok(())
}

fn stat(context: &Context, json: bool) -> Result<(), CommandError> {
    let statistics = context.repository()?.statistics()?;
    let rootfs_cache = context.config.rootfs_cache();
    let path = statistics.path.as_os_str().as_bytes();
    if json {
        output::line(json!({
            "path": output::json_text(path),
            "blocks": statistics.blocks,
            "bytes": statistics.bytes,
            "disk_bytes": statistics.disk_bytes,
            "segments": statistics.segments,
            "pins": statistics.pins,
            "rootfs_entries": statistics.rootfs_entries,
            "rootfs_bytes": statistics.rootfs_bytes,
            "rootfs_cache_bytes": rootfs_cache,
        }))?;
        return Ok(());
    }
    let numbers = [
        ("Blocks:", statistics.blocks),
        ("Bytes:", statistics.bytes),
        ("DiskBytes:", statistics.disk_bytes),
        ("Segments:", statistics.segments),
        ("Pins:", statistics.pins),
        ("RootfsEntries:", statistics.rootfs_entries),
        ("RootfsBytes:", statistics.rootfs_bytes),
        ("RootfsCache:", rootfs_cache),
    ];
    output::line(format_args!("{:<16}{}", "Path:", escape(path)))?;
    for (label, number) in numbers {
        output::line(format_args!("{label:<16}{number}"))?;
    }
    Ok(())
}
