//! `repo`: the repository itself.

use std::os::unix::ffi::OsStrExt;

use clap::{Args, Subcommand};
use ipfs_exec_node::path::escape;
use serde_json::json;

use crate::context::Context;
use crate::error::CommandError;
use crate::output;

/// Show facts about the repository
#[derive(Args, Debug)]
pub(crate) struct RepoArgs {
    #[command(subcommand)]
    command: RepoCommand,
}

#[derive(Debug, Subcommand)]
enum RepoCommand {
    /// Show counts and sizes
    Stat {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn repo(context: &Context, arguments: RepoArgs) -> Result<(), CommandError> {
    let RepoCommand::Stat { json } = arguments.command;
    let statistics = context.repository()?.statistics()?;
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
    ];
    output::line(format_args!("{:<16}{}", "Path:", escape(path)))?;
    for (label, number) in numbers {
        output::line(format_args!("{label:<16}{number}"))?;
    }
    Ok(())
}
