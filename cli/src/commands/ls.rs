//! `ls`: what a directory holds.

use std::io::Write;

use clap::Args;
use ipfs_exec_node::block::inline_data;
use ipfs_exec_node::budget::{Budget, Spending};
use ipfs_exec_node::path::escape;
use ipfs_exec_node::unixfs::{self, Entry, Node, UnixfsError, Visitor};
use ipfs_exec_node::{Cid, ContentPath, ReadBlocks, limits};
use serde_json::{Map, Value, json};

use crate::content::resolve;
use crate::context::Context;
use crate::error::CommandError;
use crate::names;
use crate::output::{self, put_metadata};

/// List directories
///
/// Prints one line for each entry: its CID, its size in bytes and its name. A directory has the size
/// `-` and a name that ends with `/`. `ls` fetches only the blocks of the directory itself. An entry
/// whose block is not in the repository has the size `?` and no `/`.
#[derive(Args, Debug)]
pub(crate) struct LsArgs {
    /// Content paths of directories; a file is listed by itself
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,

    /// List the entries of subdirectories as well, with paths relative to PATH
    #[arg(long, short)]
    recursive: bool,

    /// Fetch missing entries to show their types and sizes
    #[arg(long)]
    size: bool,

    /// Stop after this number of entries
    #[arg(long, value_name = "NUMBER", default_value_t = limits::MAX_EXPORT_ENTRIES)]
    max_entries: u64,

    /// Print one JSON object for each entry
    #[arg(long)]
    json: bool,
}

pub(crate) fn ls(context: &Context, arguments: LsArgs) -> Result<(), CommandError> {
    let repository = context.repository()?;
    let paths = names::paths(context, &repository, &arguments.paths)?;
    let progress = context.progress();
    context.with_blocks(&repository, &progress, |source| {
        list(context, &arguments, &paths, source)
    })
}

fn list(
    context: &Context,
    arguments: &LsArgs,
    paths: &[ContentPath],
    blocks: &dyn ReadBlocks,
) -> Result<(), CommandError> {
    let budget = Budget {
        max_entries: arguments.max_entries,
        ..Budget::UNLIMITED
    };
    let mut lister = Lister {
        spending: Spending::new(&budget),
        context,
        blocks,
        root: String::new(),
        recursive: arguments.recursive,
        fetches_entries: arguments.recursive || arguments.size,
        json: arguments.json,
        out: output::stdout(),
        failures: 0,
    };
    for path in paths {
        let cid = resolve(blocks, path)?;
        let node = Node::load(blocks, &cid)?;
        if node.kind().is_directory() {
            lister.root = path.to_string();
            // What was listed is printed, also where there is more than may be.
            let listed = unixfs::walk(blocks, &cid, &mut lister);
            lister.out.flush()?;
            listed?;
        } else {
            let name = path
                .segments
                .last()
                .map_or_else(Vec::new, |name| name.as_bytes().to_vec());
            lister.print(&name, &cid, Some(&node))?;
        }
    }
    lister.out.flush()?;
    if lister.failures > 0 {
        Err(CommandError::already_told())
    } else {
        Ok(())
    }
}

struct Lister<'a, W> {
    spending: Spending<'a>,
    context: &'a Context,
    blocks: &'a dyn ReadBlocks,
    /// The path that is listed, for messages.
    root: String,
    recursive: bool,
    /// Whether entries that are missing are fetched.
    fetches_entries: bool,
    json: bool,
    out: W,
    failures: u64,
}

impl<W: Write> Visitor for Lister<'_, W> {
    type Error = CommandError;

    fn batch(&mut self, entries: &[Entry]) -> Result<(), CommandError> {
        if self.fetches_entries {
            let cids: Vec<_> = entries.iter().map(|entry| entry.cid).collect();
            self.blocks.expect(&cids);
        }
        Ok(())
    }

    fn entry(&mut self, path: &[u8], entry: &Entry) -> Result<bool, CommandError> {
        if self.context.interrupt.asked() {
            return Err(CommandError::interrupted());
        }
        self.spending.take_entry().map_err(|error| {
            CommandError::from_chain(&error).about(&format!("cannot list {}", self.root))
        })?;
        let node = match self.load(&entry.cid) {
            Ok(node) => node,
            Err(error) => {
                self.print(path, &entry.cid, None)?;
                self.unreadable(path, error)?;
                return Ok(false);
            }
        };
        self.print(path, &entry.cid, node.as_ref())?;
        Ok(self.recursive && node.is_some_and(|node| node.kind().is_directory()))
    }

    fn unreadable(&mut self, path: &[u8], error: UnixfsError) -> Result<(), CommandError> {
        self.failures += 1;
        self.out.flush()?;
        let error = CommandError::from(error);
        output::tell_line(format_args!("error: {}: {}", escape(path), error.message()));
        Ok(())
    }
}

impl<W: Write> Lister<'_, W> {
    /// The node of an entry; `None` where it is not here, and none is fetched, or where it is no node
    /// of a file system: a directory may link to other data.
    fn load(&self, cid: &Cid) -> Result<Option<Node>, UnixfsError> {
        let is_here = || Ok::<_, UnixfsError>(inline_data(cid).is_some() || self.blocks.has(cid)?);
        if !self.fetches_entries && !is_here()? {
            return Ok(None);
        }
        Node::load_if_unixfs(self.blocks, cid)
    }

    fn print(&mut self, path: &[u8], cid: &Cid, node: Option<&Node>) -> std::io::Result<()> {
        if self.json {
            return writeln!(self.out, "{}", Value::Object(describe(path, cid, node)));
        }
        let directory = node.is_some_and(|node| node.kind().is_directory());
        let size = match node {
            Some(_) if directory => "-".to_owned(),
            Some(node) => node.size().to_string(),
            None => "?".to_owned(),
        };
        let slash = if directory { "/" } else { "" };
        // A file that was named by its CID alone has no name.
        let gap = if path.is_empty() { "" } else { " " };
        writeln!(self.out, "{cid} {size}{gap}{}{slash}", escape(path))
    }
}

fn describe(path: &[u8], cid: &Cid, node: Option<&Node>) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("cid".to_owned(), json!(cid.to_string()));
    object.insert("path".to_owned(), output::json_text(path));
    let Some(node) = node else {
        object.insert("type".to_owned(), json!("unknown"));
        return object;
    };
    object.insert(
        "type".to_owned(),
        json!(super::stat::kind_word(node.kind())),
    );
    if !node.kind().is_directory() {
        object.insert("size".to_owned(), json!(node.size()));
    }
    if let Some(target) = node.symlink_target() {
        object.insert("target".to_owned(), output::json_text(target));
    }
    put_metadata(&mut object, node.metadata());
    object
}
