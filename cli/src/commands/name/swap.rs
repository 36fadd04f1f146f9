//! `name swap`: new content under a name, and the former content out.

use std::io::BufRead;

use clap::Args;
use ipfs_exec_node::ContentPath;
use ipfs_exec_node::names::{Lookup, Record, resolve::LookupError};

use super::publish::{PublishOptions, Publisher};
use crate::context::Context;
use crate::error::CommandError;
use crate::names;
use crate::output;

/// Publish each content path of standard input under a key, and print the CID that it replaces
///
/// Nothing is printed if the key was not published before, or if the content is the same. A former
/// record counts also if it has expired.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Example:
  echo $output | ipfs-exec name swap site | xargs ipfs-exec pin rm")]
pub(crate) struct SwapArgs {
    #[command(flatten)]
    options: PublishOptions,

    /// Label or name of the key
    key: String,
}

/// Longest line of standard input, in bytes.
const MAX_LINE_BYTES: u64 = 64 * 1024;

pub(super) fn swap(context: &Context, arguments: &SwapArgs) -> Result<(), CommandError> {
    let repository = context.repository()?;
    let publisher = Publisher::new(context, &repository, &arguments.key, &arguments.options)?;
    let mut stdin = std::io::stdin().lock();
    while let Some(line) = next_line(&mut stdin)? {
        let path: ContentPath = line.parse()?;
        publisher.check(&path)?;
        let former = former(&publisher)?;
        let former = former
            .map(|record| names::cid(context, &repository, &record.value()?))
            .transpose()?;
        let new = names::cid(context, &repository, &path)?;
        let record = publisher.publish(&path)?;
        output::tell_line(format_args!(
            "published {path} under {}, sequence {}",
            publisher.name(),
            record.sequence()
        ));
        if let Some(former) = former
            && former.hash() != new.hash()
        {
            output::line(former)?;
        }
    }
    Ok(())
}

/// The record that the name has now, valid or expired.
fn former(publisher: &Publisher<'_>) -> Result<Option<Record>, CommandError> {
    let (known, name) = (publisher.names(), publisher.name());
    if let Some(kept) = known.records.get(&name)? {
        return Ok(Some(kept.record));
    }
    match known.resolver(true).record(&name) {
        Ok(record) => Ok(Some(record)),
        Err(LookupError::Interrupted) => Err(CommandError::interrupted()),
        Err(error @ LookupError::Store(_)) => Err(CommandError::from_chain(&error)),
        Err(_) => Ok(None),
    }
}

/// The next line that is not empty.
fn next_line(stdin: &mut dyn BufRead) -> Result<Option<String>, CommandError> {
    use std::io::Read;
    let unread = |error: std::io::Error| {
        CommandError::failed(format!("cannot read standard input: {error}"))
    };
    loop {
        let mut line = String::new();
        let length = (&mut *stdin)
            .take(MAX_LINE_BYTES)
            .read_line(&mut line)
            .map_err(unread)?;
        if length == 0 {
            return Ok(None);
        }
        if length as u64 == MAX_LINE_BYTES {
            return Err(CommandError::failed("a line of standard input is too long"));
        }
        let line = line.trim();
        if !line.is_empty() {
            return Ok(Some(line.to_owned()));
        }
    }
}
