//! `name inspect`: what a record says, and whether it is to be believed.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use ipfs_exec_node::names::Record;
use ipfs_exec_node::quantity::Time;
use serde_json::json;

use super::read_record;
use crate::error::CommandError;
use crate::names::key_name;
use crate::output;

/// Show the fields of a record
///
/// With `--verify`, `inspect` checks that the key of NAME has signed the record and that the record has
/// not expired. It ends with 1 if one of that is not so.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Example:
  ipfs-exec name get $name | ipfs-exec name inspect --verify $name")]
pub(crate) struct InspectArgs {
    /// File of the record [default: standard input]
    file: Option<PathBuf>,

    /// Check the record for this name
    #[arg(long, value_name = "NAME")]
    verify: Option<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn inspect(arguments: &InspectArgs) -> Result<(), CommandError> {
    let name = arguments.verify.as_deref().map(key_name).transpose()?;
    let bytes = read_record(arguments.file.as_ref())?;
    let record = Record::decode(&bytes)?;
    let problem = name.and_then(|name| {
        let verdict = record.verify(&name);
        verdict
            .and_then(|()| record.check_time(SystemTime::now()))
            .err()
    });
    let reason = problem
        .as_ref()
        .map(|problem| CommandError::from_chain(problem).message().to_owned());
    let signatures = match record.has_version_1() {
        true => "V1+V2",
        false => "V2",
    };
    let value = output::json_text(record.raw_value());
    if arguments.json {
        output::line(json!({
            "value": value,
            "validity_type": "EOL",
            "validity": record.until_text(),
            "sequence": record.sequence(),
            "ttl_ns": u64::try_from(record.ttl().as_nanos()).unwrap_or(u64::MAX),
            "signatures": signatures,
            "size": bytes.len(),
            "name": name.map(|name| name.to_string()),
            "valid": name.map(|_| reason.is_none()),
            "reason": reason,
        }))?;
    } else {
        output::line(format_args!("Value:           {value}"))?;
        output::line("Validity Type:   EOL")?;
        output::line(format_args!("Validity:        {}", record.until_text()))?;
        output::line(format_args!("Sequence:        {}", record.sequence()))?;
        output::line(format_args!("TTL:             {}", Time(record.ttl())))?;
        output::line(format_args!("Signature Type:  {signatures}"))?;
        output::line(format_args!("Protobuf Size:   {}", bytes.len()))?;
        match (&name, &reason) {
            (None, _) => output::line("Valid:           not checked: give `--verify NAME`")?,
            (Some(_), None) => output::line("Valid:           true")?,
            (Some(_), Some(_)) => output::line("Valid:           false")?,
        }
        if let Some(name) = name {
            output::line(format_args!("Name:            {name}"))?;
        }
    }
    match problem {
        Some(problem) => Err(problem.into()),
        None => Ok(()),
    }
}
