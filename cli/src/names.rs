//! Mutable names for commands: what a name on the command line stands for.

use ipfs_exec_node::name::Name;
use ipfs_exec_node::names::{self, Keystore, NameStore};
use ipfs_exec_node::network::names::{Asking, Resolver};
use ipfs_exec_node::path::PathRoot;
use ipfs_exec_node::repo::Repository;
use ipfs_exec_node::{Cid, ContentPath};

use crate::content::{content_paths, resolve};
use crate::context::Context;
use crate::error::CommandError;
use crate::progress::Progress;

/// Names, keys and records of one command.
pub(crate) struct Names<'c> {
    context: &'c Context,
    pub(crate) keys: Keystore,
    pub(crate) records: NameStore,
    progress: Progress,
}

impl<'c> Names<'c> {
    pub(crate) fn new(context: &'c Context, repository: &Repository) -> Names<'c> {
        Names {
            context,
            keys: Keystore::of_repository(repository.path()),
            records: NameStore::of_repository(repository.path()),
            progress: context.progress(),
        }
    }

    /// How the network is asked; `None` where it is not.
    pub(crate) fn asking(&self) -> Option<Asking<'_>> {
        let network = self.context.network()?;
        Some(Asking {
            network,
            may_discover: true,
            timeout: self.context.idle_timeout,
            reporter: &self.progress,
        })
    }

    /// Where names are looked up. `refresh` asks the network also where a fresh record is kept.
    pub(crate) fn resolver(&self, refresh: bool) -> Resolver<'_> {
        Resolver {
            store: &self.records,
            asking: self.asking(),
            refresh,
            may_ask_dns: !self.context.is_offline(),
        }
    }
}

/// Reads a content path that may begin with a name. The result begins with a CID.
pub(crate) fn path(
    context: &Context,
    repository: &Repository,
    argument: &str,
) -> Result<ContentPath, CommandError> {
    without_name(context, repository, argument.parse()?)
}

/// The same for several.
pub(crate) fn paths(
    context: &Context,
    repository: &Repository,
    arguments: &[String],
) -> Result<Vec<ContentPath>, CommandError> {
    content_paths(arguments)?
        .into_iter()
        .map(|path| without_name(context, repository, path))
        .collect()
}

/// The path with what its name stands for in place of the name.
pub(crate) fn without_name(
    context: &Context,
    repository: &Repository,
    path: ContentPath,
) -> Result<ContentPath, CommandError> {
    if matches!(path.root, PathRoot::Cid(_)) {
        return Ok(path);
    }
    let names = Names::new(context, repository);
    Ok(names::resolve(&path, &names.resolver(false))?)
}

/// The CID at the end of a path, for which missing directories are fetched.
pub(crate) fn cid(
    context: &Context,
    repository: &Repository,
    path: &ContentPath,
) -> Result<Cid, CommandError> {
    let path = without_name(context, repository, path.clone())?;
    let progress = context.progress();
    context.with_blocks(repository, &progress, |source| resolve(source, &path))
}

/// A name as people write it, with or without `/ipns/` before it.
pub(crate) fn parse(argument: &str) -> Result<ContentPath, CommandError> {
    let prefixes = ["/ipns/", "ipns://", "/ipfs/", "ipfs://"];
    match prefixes.iter().any(|prefix| argument.starts_with(prefix)) {
        true => Ok(argument.parse()?),
        false => Ok(format!("/ipns/{argument}").parse()?),
    }
}

/// The name of a key, in any spelling.
pub(crate) fn key_name(argument: &str) -> Result<ipfs_exec_node::name::KeyName, CommandError> {
    let path = parse(argument)?;
    match path.root {
        PathRoot::Name(Name::Key(name)) if path.segments.is_empty() => Ok(name),
        _ => Err(CommandError::failed(format!(
            "`{}` is not the name of a key",
            ipfs_exec_node::path::escape(argument.as_bytes())
        ))
        .with_hint(
            "give a name such as `k51...` or `12D3KooW...`; `ipfs-exec key ls -l` lists yours",
        )),
    }
}
