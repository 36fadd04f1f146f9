//! `ls-r`: all entries of a tree with the sizes in their links, as the tool `ipfs-ls-r` prints them.

use std::io::Write;

use clap::Args;
use ipfs_exec_node::block::RAW;
use ipfs_exec_node::budget::{Budget, Spending};
use ipfs_exec_node::path::escape;
use ipfs_exec_node::unixfs::{self, Entry, Node, UnixfsError, Visitor};
use ipfs_exec_node::{ReadBlocks, limits};

use crate::content::resolve;
use crate::context::Context;
use crate::error::CommandError;
use crate::names;
use crate::output;

/// List all entries of a tree with the sizes in their links
///
/// Prints one line for each entry, depth first: its CID, its size and its path, separated by tabs. A
/// directory has a path that ends with `/`. The size is that of all blocks below the entry, as the
/// directory records it. For sizes of files, see `ls -r`.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLE)]
pub(crate) struct LsRArgs {
    /// Content path of a directory
    #[arg(value_name = "PATH")]
    path: String,

    /// Stop after this number of entries
    #[arg(long, value_name = "NUMBER", default_value_t = limits::MAX_EXPORT_ENTRIES)]
    max_entries: u64,
}

const EXAMPLE: &str = "\
Example:
  ipfs-exec ls-r $tree";

pub(crate) fn ls_r(context: &Context, arguments: &LsRArgs) -> Result<(), CommandError> {
    let repository = context.repository()?;
    let path = names::path(context, &repository, &arguments.path)?;
    let progress = context.progress();
    context.with_blocks(&repository, &progress, |source| {
        let budget = Budget {
            max_entries: arguments.max_entries,
            ..Budget::UNLIMITED
        };
        let root = resolve(source, &path)?;
        let mut lister = Lister {
            context,
            blocks: source,
            spending: Spending::new(&budget),
            out: output::stdout(),
            failures: 0,
        };
        let walked = unixfs::walk(source, &root, &mut lister);
        lister.out.flush()?;
        walked.map_err(|error| error.about(&format!("cannot list {path}")))?;
        match lister.failures {
            0 => Ok(()),
            _ => Err(CommandError::already_told()),
        }
    })
}

struct Lister<'a, W> {
    context: &'a Context,
    blocks: &'a dyn ReadBlocks,
    spending: Spending<'a>,
    out: W,
    failures: u64,
}

impl<W: Write> Visitor for Lister<'_, W> {
    type Error = CommandError;

    fn batch(&mut self, entries: &[Entry]) -> Result<(), CommandError> {
        let nodes = entries.iter().map(|entry| entry.cid);
        let nodes: Vec<_> = nodes.filter(|cid| cid.codec() != RAW).collect();
        self.blocks.expect(&nodes);
        Ok(())
    }

    fn entry(&mut self, path: &[u8], entry: &Entry) -> Result<bool, CommandError> {
        if self.context.interrupt.asked() {
            return Err(CommandError::interrupted());
        }
        let taken = self.spending.take_entry();
        taken.map_err(|error| CommandError::from_chain(&error))?;
        let mut is_directory = false;
        let mut failure = None;
        // A raw leaf is a file: only other nodes are read to tell what they are.
        if entry.cid.codec() != RAW {
            match Node::load_if_unixfs(self.blocks, &entry.cid) {
                Ok(node) => is_directory = node.is_some_and(|node| node.kind().is_directory()),
                Err(error) => failure = Some(error),
            }
        }
        let (cid, size, slash) = (entry.cid, entry.cumulative_size, ["", "/"]);
        let slash = slash[usize::from(is_directory)];
        writeln!(self.out, "{cid}\t{size}\t{}{slash}", escape(path))?;
        if let Some(error) = failure {
            self.unreadable(path, error)?;
        }
        Ok(is_directory)
    }

    fn unreadable(&mut self, path: &[u8], error: UnixfsError) -> Result<(), CommandError> {
        let error = CommandError::from(error);
        if error.is_interruption() {
            return Err(error);
        }
        self.failures += 1;
        self.out.flush()?;
        output::tell_line(format_args!("error: {}: {}", escape(path), error.message()));
        Ok(())
    }
}
