//! `mkdir`: a directory of content that exists already.

use clap::Args;
use ipfs_exec_node::Pin;
use ipfs_exec_node::path::{ContentPath, EntryName};
use ipfs_exec_node::unixfs::{DirectoryBuilder, Metadata, Node};

use crate::context::{Context, resolve};
use crate::error::CommandError;
use crate::output;
use crate::profile::ProfileArgs;

/// Make a directory from existing content, and print its CID
///
/// Takes pairs of an entry name and a content path. Without pairs, `mkdir` makes the empty directory.
/// The directory is pinned.
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
    let mut builder = DirectoryBuilder::new(Metadata::default());
    for [name, path] in pairs {
        let name = EntryName::new(name.as_bytes())?;
        let path: ContentPath = path.parse()?;
        let cid = resolve(&session, &path)?;
        session.protect(&[cid])?;
        builder.add(&name, &cid, Node::load(&session, &cid)?.cumulative_size());
    }
    let mut blocks = Vec::new();
    let built = builder.finish(&profile, &mut |block| {
        blocks.push(block);
        Ok(())
    })?;
    ipfs_exec_node::Blocks::put(&session, &blocks)?;
    session.commit(&[Pin::recursive(built.cid)])?;
    output::cid(&built.cid, arguments.json)?;
    Ok(())
}
