//! `name get`: the signed record of a name.

use std::io::Write;

use clap::Args;
use ipfs_exec_node::name::Name;
use ipfs_exec_node::names::Lookup;
use ipfs_exec_node::names::ResolveError;

use crate::context::Context;
use crate::error::CommandError;
use crate::names::{Names, key_name};

/// Write the signed record of a name to standard output
///
/// The bytes are those that DHTs, routers and gateways transfer. They are valid on every machine until the
/// record expires.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Example:
  ipfs-exec name get $name > name.ipns-record
  ipfs-exec --repo /media/stick/repository name put $name name.ipns-record --offline")]
pub(crate) struct GetArgs {
    /// Name of a key
    name: String,

    /// Ask the network also if a record of the repository may still be used
    #[arg(long, short)]
    nocache: bool,
}

pub(super) fn get(context: &Context, arguments: &GetArgs) -> Result<(), CommandError> {
    let name = key_name(&arguments.name)?;
    let repository = context.repository()?;
    let known = Names::new(context, &repository);
    let found = known.resolver(arguments.nocache).record(&name);
    let record = found.map_err(|source| ResolveError::Lookup {
        name: Name::Key(name),
        source,
    })?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(record.as_bytes())?;
    Ok(stdout.flush()?)
}
