//! `diff`: differences between two trees.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use ipfs_exec_node::path::escape;
use ipfs_exec_node::unixfs::{self, Change, Changed, Difference, NodeKind, UnixfsError};
use ipfs_exec_node::{Cid, ReadBlocks};
use serde_json::{Value, json};

use super::stat::kind_word;
use crate::content::resolve;
use crate::context::Context;
use crate::error::CommandError;
use crate::names;
use crate::output;

/// Exit code if there is a difference.
const DIFFERENT: u8 = 1;
/// Exit code if the trees cannot be compared.
const TROUBLE: u8 = 2;

/// Compare two trees
///
/// Prints one line for each entry that was added, removed or changed. For a changed file, the line
/// has the first range of bytes that differs; the second number is the offset after the last of them.
/// `diff` reads only the parts of the trees that have different CIDs.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLE)]
pub(crate) struct DiffArgs {
    /// Content path of the first tree
    #[arg(value_name = "A")]
    from: String,

    /// Content path of the second tree
    #[arg(value_name = "B")]
    to: String,

    /// Print one JSON object for each difference
    #[arg(long)]
    json: bool,
}

const EXAMPLE: &str = "\
Example:
  ipfs-exec diff $yesterday $today

Exit codes: 0 if the trees are the same, 1 if they differ, 2 if they cannot be compared.";

pub(crate) fn diff(context: &Context, arguments: &DiffArgs) -> Result<ExitCode, CommandError> {
    compare(context, arguments).map_err(|error| error.with_code(TROUBLE))
}

fn compare(context: &Context, arguments: &DiffArgs) -> Result<ExitCode, CommandError> {
    let repository = context.repository()?;
    let from = names::path(context, &repository, &arguments.from)?;
    let to = names::path(context, &repository, &arguments.to)?;
    let progress = context.progress();
    context.with_blocks(&repository, &progress, |source| {
        let blocks: &dyn ReadBlocks = source;
        let (from, to) = (resolve(blocks, &from)?, resolve(blocks, &to)?);
        let mut out = output::stdout();
        let mut is_same = true;
        let mut written = Ok(());
        let compared = unixfs::diff(blocks, &from, &to, &progress, &mut |difference| {
            is_same = false;
            written = if arguments.json {
                writeln!(out, "{}", describe(&difference))
            } else {
                writeln!(out, "{}", Line(&difference))
            };
            match written {
                Ok(()) => Ok(()),
                Err(_) => Err(UnixfsError::Interrupted),
            }
        });
        written?;
        out.flush()?;
        compared?;
        Ok(match is_same {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(DIFFERENT),
        })
    })
}

/// A difference in words.
struct Line<'d>(&'d Difference);

impl std::fmt::Display for Line<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = match &*self.0.path {
            [] => ".".to_owned(),
            path => escape(path),
        };
        match &self.0.change {
            Change::Added(_) => write!(formatter, "added {path}"),
            Change::Removed(_) => write!(formatter, "removed {path}"),
            Change::Changed(changed) => write!(formatter, "changed {path}: {}", reason(changed)),
        }
    }
}

fn reason(changed: &Changed) -> String {
    let [from, to] = changed.kinds.map(word);
    let metadata = match changed.has_other_metadata {
        true => ", other mode or time",
        false => "",
    };
    match &changed.first_difference {
        _ if from != to => format!("{from} became {to}"),
        Some(range) => format!("bytes {} to {}{metadata}", range.start, range.end),
        None if changed.has_other_metadata => "other mode or time".to_owned(),
        None if changed.has_same_bytes() => "same bytes in other chunks".to_owned(),
        None => format!("other {from}"),
    }
}

fn word(kind: Option<NodeKind>) -> &'static str {
    kind.map_or("unknown", kind_word)
}

fn describe(difference: &Difference) -> Value {
    let text = |cid: &Cid| json!(cid.to_string());
    let path = output::json_text(&difference.path);
    let (change, from, to, changed) = match &difference.change {
        Change::Added(cid) => ("added", Value::Null, text(cid), None),
        Change::Removed(cid) => ("removed", text(cid), Value::Null, None),
        Change::Changed(changed) => {
            let [from, to] = changed.cids.each_ref().map(text);
            ("changed", from, to, Some(changed))
        }
    };
    let range = changed.and_then(|changed| changed.first_difference.clone());
    json!({
        "change": change,
        "path": path,
        "from": from,
        "to": to,
        "from_type": changed.map(|changed| word(changed.kinds[0])),
        "to_type": changed.map(|changed| word(changed.kinds[1])),
        "first_difference": range.map(|range| json!({ "start": range.start, "end": range.end })),
        "same_bytes": changed.map(Changed::has_same_bytes),
        "metadata": changed.map(|changed| changed.has_other_metadata),
    })
}
