//! `name`: mutable names, their records, and what they stand for.

mod get;
mod inspect;
mod publish;
mod put;
mod resolve;
mod swap;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use ipfs_exec_node::limits;

use crate::context::Context;
use crate::error::{CommandError, LocalError};

/// Publish and resolve mutable names (IPNS)
///
/// A name stands for a content path. `name publish` signs a record of that with a key of this
/// repository, and gives the record to the DHT. A path `/ipns/NAME/...` can be used wherever a content
/// path can. NAME is the name of a key or, by DNSLink, a domain.
#[derive(Args, Debug)]
pub(crate) struct NameArgs {
    #[command(subcommand)]
    command: NameCommand,
}

#[derive(Debug, Subcommand)]
enum NameCommand {
    Publish(publish::PublishArgs),
    Resolve(resolve::ResolveArgs),
    Inspect(inspect::InspectArgs),
    Get(get::GetArgs),
    Put(put::PutArgs),
    Swap(swap::SwapArgs),
}

pub(crate) fn name(context: &Context, arguments: NameArgs) -> Result<(), CommandError> {
    match arguments.command {
        NameCommand::Publish(arguments) => publish::publish(context, &arguments),
        NameCommand::Resolve(arguments) => resolve::resolve(context, &arguments),
        NameCommand::Inspect(arguments) => inspect::inspect(&arguments),
        NameCommand::Get(arguments) => get::get(context, &arguments),
        NameCommand::Put(arguments) => put::put(context, &arguments),
        NameCommand::Swap(arguments) => swap::swap(context, &arguments),
    }
}

/// The bytes of a record in a file, or those of standard input.
fn read_record(path: Option<&PathBuf>) -> Result<Vec<u8>, CommandError> {
    let path = path.filter(|path| path.as_os_str() != "-");
    // One byte more than a record may have, so that a longer one is noticed.
    let limit = limits::MAX_RECORD_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    let read = match path {
        Some(path) => File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)),
        None => std::io::stdin().take(limit).read_to_end(&mut bytes),
    };
    read.map_err(|source| LocalError {
        action: "read the record in",
        path: path
            .map_or(Path::new("standard input"), PathBuf::as_path)
            .to_owned(),
        source,
    })?;
    Ok(bytes)
}

/// The way out where no DHT peer and no router took a record.
fn way_out(context: &Context) -> &'static str {
    if context.is_offline() {
        return "leave out `--offline`, or add `--allow-offline`; `ipfs-exec serve` publishes the record as soon as \
                it takes part in a DHT";
    }
    "name a peer of the DHT with `--peer`, use `--router URL` or `--public`, or add `--allow-offline`; \
     `ipfs-exec serve` publishes the record as soon as it takes part in a DHT"
}
