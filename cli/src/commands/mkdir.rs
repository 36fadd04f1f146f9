//! `mkdir`: a directory of content that exists already.

use clap::Args;
use ipfs_exec_node::WriteBlocksExt;
use ipfs_exec_node::path::EntryName;
use ipfs_exec_node::unixfs::{DirectoryBuilder, Metadata, Node};

use crate::commands::pin;
use crate::content::resolve;
use crate::context::Context;
use crate::error::CommandError;
use crate::names;
use crate::output;
use crate::profile::ProfileArgs;

/// Make a directory from existing content, and print its CID
///
/// Takes pairs of an entry name and a content path. Without pairs, `mkdir` makes the empty directory.
///
/// `mkdir` fetches only the first block of each content path. It pins the directory with all content
/// below, or alone if content is missing in the repository; a warning says so.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLE)]
pub(crate) struct MkdirArgs {
    /// Name of an entry, and the content path of the entry; may be repeated
    #[arg(value_names = ["NAME", "PATH"], num_args = 0.., value_name = "NAME PATH")]
    pairs: Vec<String>,

    /// Print JSON instead of the CID
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    profile: ProfileArgs,
}

const EXAMPLE: &str = "\
Example:
  ipfs-exec mkdir repository $repository rootfs.tar.gz $image";

pub(crate) fn mkdir(context: &Context, arguments: MkdirArgs) -> Result<(), CommandError> {
    let profile = arguments.profile.profile()?;
    let (pairs, rest) = arguments.pairs.as_chunks::<2>();
    if let [name] = rest {
        return Err(
            CommandError::usage(format!("the entry `{name}` has no content path"))
                .with_hint("give pairs of NAME and PATH"),
        );
    }
    let repository = context.repository()?;
    let session = repository.session()?;
    let progress = context.progress();
    let builder = context.with_blocks(&repository, &progress, |source| {
        let mut builder = DirectoryBuilder::new(Metadata::default());
        for [name, path] in pairs {
            let name = EntryName::new(name.as_bytes())?;
            let path = names::path(context, &repository, path)?;
            let cid = resolve(source, &path)?;
            session.protect(&[cid])?;
            let node = Node::load(source, &cid)?;
            builder.add(&name, &cid, node.cumulative_size());
        }
        Ok(builder)
    })?;
    let mut blocks = Vec::new();
    let built = builder.finish(&profile, &mut |block| {
        blocks.push(block);
        Ok(())
    })?;
    session.put(&blocks)?;
    pin::keep(session, &built.cid)?;
    output::cid(&built.cid, arguments.json)?;
    Ok(())
}
