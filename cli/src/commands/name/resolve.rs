//! `name resolve`: the path that a name stands for.

use clap::Args;
use ipfs_exec_node::ContentPath;
use ipfs_exec_node::name::Name;
use ipfs_exec_node::names;
use ipfs_exec_node::network::identity;
use serde_json::json;

use crate::context::Context;
use crate::error::CommandError;
use crate::names::{Names, parse};
use crate::output;

/// Print the content path that a name stands for
///
/// A record that this repository keeps is used for its time to live, and then until it expires if no
/// newer one is found. Offline, only records of the repository are used.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  ipfs-exec name resolve k51qzi5uqu5dgh7y9l90nqs6tvnzcm9erbt8fhzg3fu79p5qt9zb2izvfu51ki
  ipfs-exec name resolve docs.ipfs.tech")]
pub(crate) struct ResolveArgs {
    /// Name of a key, domain, or a path that begins with one [default: name of the key `self`]
    name: Option<String>,

    /// Ask the network also if a record of the repository may still be used
    #[arg(long, short)]
    nocache: bool,

    /// Go on while the path begins with a name
    #[arg(long, short, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "true", default_missing_value = "true")]
    recursive: std::primitive::bool,

    /// Print JSON instead of the path
    #[arg(long)]
    json: bool,
}

pub(super) fn resolve(context: &Context, arguments: &ResolveArgs) -> Result<(), CommandError> {
    let named = arguments.name.as_deref().map(parse).transpose()?;
    let repository = context.repository()?;
    let path = match named {
        Some(path) => path,
        None => {
            let own = identity::peer_id(repository.path())?.to_string();
            let name: Name = own.parse().expect("a peer id is a name");
            ContentPath::from_name(name)
        }
    };
    let known = Names::new(context, &repository);
    let lookup = known.resolver(arguments.nocache);
    let resolved = match arguments.recursive {
        true => names::resolve(&path, &lookup)?,
        false => names::resolve::resolve_once(&path, &lookup)?,
    };
    if arguments.json {
        output::line(json!({ "path": resolved.to_string() }))?;
    } else {
        output::line(resolved)?;
    }
    Ok(())
}
