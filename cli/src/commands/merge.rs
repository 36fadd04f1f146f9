//! `merge`: one directory tree of several.

use clap::Args;
use ipfs_exec_node::{WriteBlocksExt, unixfs};

use crate::commands::pin;
use crate::content::resolve;
use crate::context::Context;
use crate::error::CommandError;
use crate::names;
use crate::output;
use crate::profile::ProfileArgs;

/// Merge directory trees, and print the CID of the result
///
/// If several trees have an entry with the same path, the entry of the last tree counts. Directories
/// with the same path are merged. A file of a later tree replaces a directory of an earlier tree.
///
/// `merge` fetches only directories that it merges. It pins the result with all content below, or
/// alone if content is missing in the repository; a warning says so.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLE)]
pub(crate) struct MergeArgs {
    /// Content paths of directories
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,

    /// Print JSON instead of the CID
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    profile: ProfileArgs,
}

const EXAMPLE: &str = "\
Example:
  ipfs-exec merge $defaults $site $host";

pub(crate) fn merge(context: &Context, arguments: &MergeArgs) -> Result<(), CommandError> {
    let profile = arguments.profile.profile()?;
    let repository = context.repository()?;
    let paths = names::paths(context, &repository, &arguments.paths)?;
    let session = repository.session()?;
    let progress = context.progress();
    let mut blocks = Vec::new();
    let built = context.with_blocks(&repository, &progress, |source| {
        let mut trees = Vec::with_capacity(paths.len());
        for path in &paths {
            trees.push(resolve(source, path)?);
        }
        session.protect(&trees)?;
        let mut put = |block| {
            blocks.push(block);
            Ok(())
        };
        let merged = unixfs::merge(source, &trees, &profile, &progress, &mut put);
        Ok(merged?)
    })?;
    session.put(&blocks)?;
    pin::keep(session, &built.cid)?;
    output::cid(&built.cid, arguments.json)?;
    Ok(())
}
