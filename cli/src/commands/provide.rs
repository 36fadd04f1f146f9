//! `provide`: the DHT is told that content is here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use ipfs_exec_node::network::{Identity, IdentityError, NetworkEvent};
use ipfs_exec_node::repo::Repository;
use ipfs_exec_node::{Cid, ReadBlocksExt};

use crate::content::resolve;
use crate::context::Context;
use crate::error::CommandError;
use crate::names;
use crate::output;
use crate::serving::{Serving, ServingArgs};

/// How often it is looked whether the serving process has done it.
const TICK: Duration = Duration::from_millis(100);

/// Where this process listens meanwhile, if nothing else is said.
const LISTEN: [&str; 2] = ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"];

/// Announce content to the DHT
///
/// If `ipfs-exec serve` runs on the repository, it announces the content now and every twelve hours;
/// `provide` waits for the first announcement. Otherwise `provide` announces the content once. Peers
/// can fetch it only while `ipfs-exec serve` runs.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  ipfs-exec provide --peer /ip4/192.168.1.7/tcp/4001 $output
  ipfs-exec provide --public $output")]
pub(crate) struct ProvideArgs {
    /// Content paths
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,

    /// Stop announcing this content
    #[arg(long)]
    stop: bool,

    /// Print one JSON object for each CID
    #[arg(long)]
    json: bool,
}

pub(crate) fn provide(context: &Context, arguments: ProvideArgs) -> Result<(), CommandError> {
    let repository = context.shared_repository()?;
    let mut cids = Vec::new();
    for path in &names::paths(context, &repository, &arguments.paths)? {
        cids.push(resolve(&*repository, path)?);
    }
    if arguments.stop {
        for cid in &cids {
            repository.stop_providing(cid)?;
            output::cid(cid, arguments.json)?;
        }
        return Ok(());
    }
    for cid in &cids {
        // It must be here, so that it can be given.
        repository.get(cid)?;
        repository.ask_to_provide(cid)?;
    }
    match Identity::of_repository(repository.path()) {
        Ok(identity) => announce(context, &repository, identity, &cids)?,
        Err(IdentityError::InUse { .. }) => {
            if let Some(identity) = wait(context, &repository, &cids)? {
                announce(context, &repository, identity, &cids)?;
            }
        }
        Err(error) => return Err(error.into()),
    }
    for cid in &cids {
        output::cid(cid, arguments.json)?;
    }
    Ok(())
}

/// Announces it from here.
fn announce(
    context: &Context,
    repository: &Arc<Repository>,
    identity: Identity,
    cids: &[Cid],
) -> Result<(), CommandError> {
    let arguments = ServingArgs::default();
    let mut serving = Serving::start(context, repository, identity, &arguments, &LISTEN)?;
    let started = Instant::now();
    let mut waiting = Waiting::Dht;
    while !is_done(repository, cids)? {
        check(context, started, &waiting)?;
        if matches!(serving.next()?, Some(NetworkEvent::Joined)) {
            waiting = Waiting::Answers;
        }
    }
    tracing::warn!("peers can get it only while `ipfs-exec serve` runs");
    Ok(())
}

/// Waits until the process that serves has announced it. Where that ends before, its identity.
fn wait(
    context: &Context,
    repository: &Repository,
    cids: &[Cid],
) -> Result<Option<Identity>, CommandError> {
    let started = Instant::now();
    while !is_done(repository, cids)? {
        match Identity::of_repository(repository.path()) {
            Ok(identity) => return Ok(Some(identity)),
            Err(IdentityError::InUse { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        check(context, started, &Waiting::Server)?;
        let waited = context.interrupt.cancel().sleep(TICK);
        waited.map_err(|error| CommandError::failed(format!("cannot wait: {error}")))?;
    }
    Ok(None)
}

/// What is waited for.
enum Waiting {
    Dht,
    Answers,
    Server,
}

fn is_done(repository: &Repository, cids: &[Cid]) -> Result<bool, CommandError> {
    let provides = repository.provides()?;
    let is_open = |cid: &Cid| {
        let asked = provides.iter().find(|asked| asked.cid == *cid);
        asked.is_some_and(|asked| asked.announced.is_none())
    };
    Ok(!cids.iter().any(is_open))
}

fn check(context: &Context, started: Instant, waiting: &Waiting) -> Result<(), CommandError> {
    if context.interrupt.asked() {
        return Err(CommandError::interrupted());
    }
    if started.elapsed() < context.idle_timeout {
        return Ok(());
    }
    let seconds = context.idle_timeout.as_secs();
    let (problem, hint) = match waiting {
        Waiting::Dht => (
            "no DHT was there to be told",
            "name a peer of the local network that keeps one with `--peer`, peers of another DHT by \
             `bootstrap` in the configuration, or use `--public`",
        ),
        Waiting::Answers => (
            "the DHT did not take it",
            "try again later; `ipfs-exec serve` will",
        ),
        Waiting::Server => (
            "the process that serves has not told any DHT",
            "start it with a peer that keeps one (`--peer`, `--public`, or `bootstrap` in the \
             configuration); it goes on trying",
        ),
    };
    Err(CommandError::failed(format!("{problem} within {seconds} s")).with_hint(hint))
}
