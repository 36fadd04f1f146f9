//! `stat`: facts about one node.

use clap::Args;
use ipfs_exec_node::path::escape;
use ipfs_exec_node::unixfs::{Node, NodeKind};
use serde_json::{Map, Value, json};

use crate::content::resolve;
use crate::context::Context;
use crate::error::CommandError;
use crate::names;
use crate::output::{self, put_metadata};

/// Show type, sizes and metadata of a node
#[derive(Args, Debug)]
pub(crate) struct StatArgs {
    /// Content path
    path: String,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The word for a kind of node in output for machines.
pub(super) fn kind_word(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::File => "file",
        NodeKind::Directory => "directory",
        NodeKind::ShardedDirectory => "hamt-directory",
        NodeKind::Symlink => "symlink",
        _ => "unknown",
    }
}

pub(crate) fn stat(context: &Context, arguments: StatArgs) -> Result<(), CommandError> {
    let repository = context.repository()?;
    let path = names::path(context, &repository, &arguments.path)?;
    let progress = context.progress();
    let node = context.with_blocks(&repository, &progress, |source| {
        let cid = resolve(source, &path)?;
        Ok(Node::load(source, &cid)?)
    })?;
    let cid = *node.cid();
    let mut object = Map::new();
    object.insert("cid".to_owned(), json!(cid.to_string()));
    object.insert("type".to_owned(), json!(kind_word(node.kind())));
    object.insert("size".to_owned(), json!(node.size()));
    object.insert("cumulative_size".to_owned(), json!(node.cumulative_size()));
    object.insert("blocks".to_owned(), json!(node.links()));
    put_metadata(&mut object, node.metadata());
    if let Some(target) = node.symlink_target() {
        object.insert("target".to_owned(), output::json_text(target));
    }
    if arguments.json {
        output::line(Value::Object(object))?;
        return Ok(());
    }
    for (label, key) in LABELS {
        if let Some(value) = object.get(key) {
            let text = match value {
                Value::String(text) => escape(text.as_bytes()),
                other => other.to_string(),
            };
            output::line(format_args!("{label:<16}{text}"))?;
        }
    }
    Ok(())
}

const LABELS: [(&str, &str); 9] = [
    ("CID:", "cid"),
    ("Type:", "type"),
    ("Size:", "size"),
    ("CumulativeSize:", "cumulative_size"),
    ("ChildBlocks:", "blocks"),
    ("Mode:", "mode"),
    ("Mtime:", "mtime"),
    ("MtimeNsecs:", "mtime_nsecs"),
    ("Target:", "target"),
];
