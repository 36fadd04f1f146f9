//! A node that serves the repository: for `serve`, and for `run` after its program has ended.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use ipfs_exec_node::Cid;
use ipfs_exec_node::names::{Keystore, NameStore};
use ipfs_exec_node::network::names::refresh::Refresher;
use ipfs_exec_node::network::provide::Announcer;
use ipfs_exec_node::network::{
    DownloadTracker, Identity, Mdns, Multiaddr, Network, NetworkEvent, NetworkOptions,
};
use ipfs_exec_node::repo::Repository;

use crate::config::Provide;
use crate::context::Context;
use crate::error::CommandError;
use crate::output;

/// How long one wait lasts at most, so that signals are seen.
const TICK: Duration = Duration::from_millis(100);

/// How long a peer that was sent everything may take to leave by itself.
const LINGER: Duration = Duration::from_secs(2);

/// Where and how to serve.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Serving")]
pub(crate) struct ServingArgs {
    /// Listen at this address; may be repeated. `RELAY/p2p-circuit` is the address at a relay
    #[arg(long, value_name = "MULTIADDR")]
    listen: Vec<Multiaddr>,

    /// Announce this address to peers as well; may be repeated
    #[arg(long, value_name = "MULTIADDR")]
    announce: Vec<Multiaddr>,

    /// Announce this content to the DHT [default: roots]
    #[arg(long, value_name = "WHAT")]
    provide: Option<Provide>,
}

/// A node that serves. Dropping it ends it.
pub(crate) struct Serving {
    pub(crate) network: Network,
    events: Receiver<NetworkEvent>,
    /// What is announced lasts for days, so that a passing peer announces nothing by itself.
    announcer: Option<Announcer>,
    /// Likewise for records of names.
    refresher: Option<Refresher>,
    /// What stopped the last attempt to refresh records, told once.
    refresh_problem: Option<String>,
    /// Addresses that could not be reached, each told once.
    told: HashSet<Multiaddr>,
}

impl Serving {
    /// Starts to serve `repository` as `identity`; `default` is where to listen if nothing else is
    /// said.
    pub(crate) fn start(
        context: &Context,
        repository: &Arc<Repository>,
        identity: Identity,
        arguments: &ServingArgs,
        default: &[&str],
    ) -> Result<Serving, CommandError> {
        let config = &context.config.serve;
        let is_passing = identity.is_passing();
        // The process that speaks as the repository's peer listens there.
        let configured = if is_passing { &[] } else { &config.listen[..] };
        let mut options: NetworkOptions = context.network_options(identity)?;
        options.listen = match (&arguments.listen[..], configured) {
            ([], []) => {
                let addresses = default.iter().map(|address| address.parse());
                addresses
                    .collect::<Result<_, _>>()
                    .expect("the addresses are well-formed")
            }
            ([], _) => configured.to_vec(),
            (named, _) => named.to_vec(),
        };
        options.announce.clone_from(&config.announce);
        options.announce.extend(arguments.announce.iter().cloned());
        if options.mdns == Mdns::OnDemand {
            options.mdns = Mdns::On;
        }
        options.port_mapping = config.port_mapping.unwrap_or(true);
        options.serve = true;
        let provide = arguments.provide.or(config.provide);
        let strategy = provide.unwrap_or(Provide::Roots).into();
        let names_nobody = options.peers.is_empty() && options.bootstrap.is_empty();
        if names_nobody && provide.is_some_and(|provide| provide != Provide::None) {
            tracing::warn!(
                "nothing is announced until a peer of a DHT connects: name one with `--peer`, or \
                 the public ones with `--public`"
            );
        }
        let has_routers = !options.routers.is_empty();
        let network = Network::start(Arc::clone(repository) as _, options)?;
        Ok(Serving {
            events: network.subscribe(),
            network,
            announcer: (!is_passing)
                .then(|| Announcer::new(Arc::clone(repository), strategy, Instant::now())),
            refresher: (!is_passing).then(|| {
                let path = repository.path();
                let (keys, records) = (
                    Keystore::of_repository(path),
                    NameStore::of_repository(path),
                );
                Refresher::new(keys, records, has_routers, Instant::now())
            }),
            refresh_problem: None,
            told: HashSet::new(),
        })
    }

    /// The next event, or `None` after a moment in which there was none.
    pub(crate) fn next(&mut self) -> Result<Option<NetworkEvent>, CommandError> {
        let event = match self.events.recv_timeout(TICK) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(CommandError::failed("the network node has ended"));
            }
        };
        let now = Instant::now();
        if let Some(announcer) = &mut self.announcer {
            if let Some(event) = &event {
                announcer.event(event, now)?;
            }
            announcer.step(&self.network, now)?;
        }
        if let Some(refresher) = &mut self.refresher {
            if let Some(event) = &event {
                refresher.event(event, now);
            }
            // Content is served all the same.
            let problem = refresher
                .step(&self.network, now, SystemTime::now())
                .map_err(|error| CommandError::from_chain(&error).message().to_owned())
                .err();
            if problem.is_some() && problem != self.refresh_problem {
                tracing::warn!(
                    "records of names are not published: {}",
                    problem.as_deref().unwrap_or_default()
                );
            }
            self.refresh_problem = problem;
        }
        if let Some(NetworkEvent::Unreachable { address, error }) = &event
            && self.told.insert(address.clone())
        {
            let error = ipfs_exec_node::network::fetch::DialProblem(Arc::clone(error));
            tracing::warn!(%address, %error, "cannot reach a peer");
        }
        Ok(event)
    }
}

/// When serving ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// With a signal.
    Signal,
    /// After this time.
    Passed(Duration),
    /// When this many peers have taken all of it.
    Taken(usize),
}

/// Where a command that serves for a while listens: any port, since another may serve already.
const LISTEN: [&str; 4] = [
    "/ip4/0.0.0.0/tcp/0",
    "/ip6/::/tcp/0",
    "/ip4/0.0.0.0/udp/0/quic-v1",
    "/ip6/::/udp/0/quic-v1",
];

/// Serves the repository and above all `root` until it is time to end. A signal is an end like
/// another.
pub(crate) fn serve_until(
    context: &Context,
    repository: &Arc<Repository>,
    arguments: &ServingArgs,
    root: &Cid,
    until: Until,
) -> Result<(), CommandError> {
    let identity = Identity::of_repository_or_passing(repository.path())?;
    let mut downloads = DownloadTracker::of(&**repository, root)?;
    let mut serving = Serving::start(context, repository, identity, arguments, &LISTEN)?;
    let provide = arguments.provide.or(context.config.serve.provide);
    let provides = !matches!(provide, Some(Provide::None));
    let started = Instant::now();
    let mut connected = HashSet::new();
    let mut taken_at: Option<Instant> = None;
    while !context.interrupt.asked() {
        match serving.next()? {
            Some(NetworkEvent::Listening { address }) => {
                output::tell_line(format_args!("listening on {address}"));
            }
            Some(NetworkEvent::Reachable { address }) => {
                output::tell_line(format_args!("reachable at {address}"));
            }
            Some(NetworkEvent::Joined) if provides => serving.network.provide(root),
            Some(NetworkEvent::Connected { peer, .. }) => drop(connected.insert(peer)),
            Some(NetworkEvent::Disconnected { peer }) => drop(connected.remove(&peer)),
            Some(NetworkEvent::Sent { peer, cids }) => downloads.sent(peer, &cids),
            _ => {}
        }
        match until {
            Until::Signal => {}
            Until::Passed(duration) if started.elapsed() >= duration => break,
            Until::Passed(_) => {}
            Until::Taken(count) if downloads.complete().count() >= count => {
                // What was sent may still be on its way; who has it all leaves.
                let waited = taken_at.get_or_insert_with(Instant::now).elapsed();
                let is_there = downloads.complete().any(|peer| connected.contains(peer));
                if !is_there || waited >= LINGER {
                    break;
                }
            }
            Until::Taken(_) => {}
        }
    }
    Ok(())
}
