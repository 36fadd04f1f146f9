//! `import`: the blocks of CAR files.

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::Args;
use ipfs_exec_node::progress::Reporter;
use ipfs_exec_node::repo::Session;
use ipfs_exec_node::{Budget, Cid, Pin, car, dag};
use serde_json::json;

use crate::context::Context;
use crate::disk::DiskArgs;
use crate::error::{CommandError, LocalError};
use crate::output;

/// Import the blocks of CAR files, and print their roots
///
/// Reads CAR versions 1 and 2, and checks the hash of every block. `import` pins each complete root. If
/// a root lacks blocks, `import` keeps the blocks that it has, names the first missing block, and ends
/// with 1.
#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// CAR files; `-` reads stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Pin the roots. With `false`, roots may lack blocks
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "true", default_missing_value = "true")]
    pin_roots: std::primitive::bool,

    /// Print one JSON object for each root, which also shows whether the root is pinned
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    disk: DiskArgs,
}

pub(crate) fn import(context: &Context, arguments: ImportArgs) -> Result<(), CommandError> {
    let repository = context.repository()?;
    let budget = Budget {
        keep_free: arguments.disk.keep_free(context, repository.path())?,
        ..Budget::UNLIMITED
    };
    let session = repository.session()?;
    let progress = context.progress();
    let mut roots = Vec::new();
    for path in &arguments.files {
        let imported = import_file(&session, path, &budget, &progress)
            .map_err(|error| error.about(&format!("cannot import {}", path.display())))?;
        roots.extend(imported);
    }
    let mut pins = Vec::new();
    let mut incomplete = Vec::new();
    for root in roots.iter().filter(|_| arguments.pin_roots) {
        match fault(&session, root) {
            None => pins.push(Pin::recursive(*root)),
            Some(reason) => incomplete.push(format!("{root} is not pinned: {reason}")),
        }
    }
    session.commit(&pins)?;
    progress.finish();
    for root in &roots {
        if arguments.json {
            let is_pinned = pins.iter().any(|pin| pin.cid == *root);
            output::line(json!({ "cid": root.to_string(), "pinned": is_pinned }))?;
        } else {
            output::line(root)?;
        }
    }
    let Some(last) = incomplete.pop() else {
        return Ok(());
    };
    for message in incomplete {
        tracing::warn!("{message}");
    }
    Err(CommandError::failed(last).with_hint(
        "the blocks that came are kept: `ipfs-exec fetch ROOT` fetches the rest from peers, \
         `--pin-roots=false` imports without pins",
    ))
}

fn import_file(
    session: &Session<'_>,
    path: &Path,
    budget: &Budget,
    reporter: &dyn Reporter,
) -> Result<Vec<Cid>, CommandError> {
    if path.as_os_str() == "-" {
        return Ok(car::import(session, std::io::stdin(), budget, reporter)?.roots);
    }
    let file = File::open(path).map_err(|source| LocalError {
        action: "open",
        path: path.to_owned(),
        source,
    })?;
    Ok(car::import(session, file, budget, reporter)?.roots)
}

/// Why the DAG cannot be pinned.
fn fault(session: &Session<'_>, root: &Cid) -> Option<String> {
    match dag::first_missing(session, root) {
        Ok(missing) => missing.map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    }
}
