//! `name put`: a signed record of any name comes in, and goes out.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use ipfs_exec_node::names::Record;
use ipfs_exec_node::network::names as network;

use super::{read_record, way_out};
use crate::context::Context;
use crate::error::CommandError;
use crate::names::{Names, key_name};
use crate::output;

/// Keep a signed record in the repository, publish it, and print the name
///
/// The key of the name is not needed. `put` checks signature and time. It refuses a record that is older
/// than the one that the repository has.
#[derive(Args, Debug)]
pub(crate) struct PutArgs {
    /// Name of a key
    name: String,

    /// File of the record [default: standard input]
    file: Option<PathBuf>,

    /// Replace a newer record of the repository
    #[arg(long)]
    force: bool,

    /// Succeed also where no DHT peer and no router takes the record
    #[arg(long)]
    allow_offline: bool,
}

pub(super) fn put(context: &Context, arguments: &PutArgs) -> Result<(), CommandError> {
    let name = key_name(&arguments.name)?;
    let bytes = read_record(arguments.file.as_ref())?;
    let record = Record::accept(&bytes, &name, SystemTime::now())?;
    // A value that leads nowhere would be noticed by others only.
    record.value()?;
    let repository = context.repository()?;
    let known = Names::new(context, &repository);
    if arguments.force {
        known.records.lock()?.replace(&name, &record)?;
    } else {
        known.records.put(&name, &record)?;
    }
    if let Some(asking) = known.asking() {
        let takers = network::publish(asking, &name, &record);
        let problem = match takers {
            Ok(0) => Some("no DHT peer and no router was there to take the record".to_owned()),
            Ok(_) => None,
            Err(network::NamesError::Interrupted) => return Err(CommandError::interrupted()),
            Err(error) => Some(CommandError::from_chain(&error).message().to_owned()),
        };
        match problem {
            Some(problem) if !arguments.allow_offline => {
                return Err(
                    CommandError::failed(format!("the record is kept, but {problem}"))
                        .with_hint(way_out(context)),
                );
            }
            Some(problem) => tracing::warn!("{problem}"),
            None => {}
        }
    }
    output::line(name)?;
    Ok(())
}
