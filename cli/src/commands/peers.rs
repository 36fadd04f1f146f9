//! `peers`: the known peers that this node can reach.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use ipfs_exec_node::network::fetch::DialProblem;
use ipfs_exec_node::network::{Identity, Mdns, Multiaddr, Network, NetworkEvent, PeerId};
use ipfs_exec_node::path::escape;
use serde_json::json;

use crate::context::Context;
use crate::error::CommandError;
use crate::output;

/// How long peers of the local network may take to be found.
const DISCOVERY: Duration = Duration::from_secs(2);

/// How long a connected peer may take to say what it is.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// How long one wait lasts at most, so that signals are seen.
const TICK: Duration = Duration::from_millis(100);

/// Connect to the known peers, and list them
///
/// Known peers are the peers of `--peer`, of the configuration, and of the local network. `peers` prints
/// one line for each: peer id, latency, name of its program, and address.
#[derive(Args, Debug)]
#[command(after_long_help = "Example:\n  ipfs-exec peers --peer /ip4/192.0.2.7/tcp/4001")]
pub(crate) struct PeersArgs {
    /// Print one JSON object for each peer, with all its protocols
    #[arg(long)]
    json: bool,
}

/// What is known of a connected peer.
#[derive(Debug, Default)]
struct Peer {
    address: Option<Multiaddr>,
    agent: Option<String>,
    protocols: Vec<String>,
    round_trip: Option<Duration>,
}

#[derive(Debug, Default)]
struct Found {
    peers: BTreeMap<PeerId, Peer>,
    unreachable: Vec<(Multiaddr, DialProblem)>,
    all_tried: bool,
}

pub(crate) fn peers(context: &Context, arguments: PeersArgs) -> Result<(), CommandError> {
    let found = look_with(context, &start(context)?)?;
    for (peer, known) in &found.peers {
        print(peer, known, arguments.json)?;
    }
    for (address, problem) in &found.unreachable {
        tracing::error!(%address, %problem, "cannot reach a peer");
    }
    if !found.unreachable.is_empty() {
        return Err(CommandError::already_told());
    }
    if found.peers.is_empty() {
        return Err(
            CommandError::failed("no peer was named, and none was found").with_hint(
                "name one with `--peer MULTIADDR`, or enter the public network by `--public`",
            ),
        );
    }
    Ok(())
}

/// Starts a node that also looks on the local network, unless that is forbidden.
pub(super) fn start(context: &Context) -> Result<Network, CommandError> {
    let mut options = context.network_options(Identity::passing())?;
    if options.mdns != Mdns::Off {
        options.mdns = Mdns::On;
    }
    let blocks = std::sync::Arc::new(ipfs_exec_node::block::NoBlocks);
    Ok(Network::start(blocks, options)?)
}

/// How many peers answer, and how many of those that were named cannot be reached.
pub(super) fn count(context: &Context, network: &Network) -> Result<(usize, usize), CommandError> {
    let found = look_with(context, network)?;
    Ok((found.peers.len(), found.unreachable.len()))
}

fn look_with(context: &Context, network: &Network) -> Result<Found, CommandError> {
    look(context, &network.subscribe(), context.looks_around())
}

/// Waits until all that were named were tried, and all that are connected have told what they are.
fn look(
    context: &Context,
    events: &Receiver<NetworkEvent>,
    looks_around: bool,
) -> Result<Found, CommandError> {
    let started = Instant::now();
    let mut last_connected = started;
    let mut found = Found::default();
    loop {
        if context.interrupt.asked() {
            return Err(CommandError::interrupted());
        }
        match events.recv_timeout(TICK) {
            Ok(event) => {
                if matches!(event, NetworkEvent::Connected { .. }) {
                    last_connected = Instant::now();
                }
                found.add(event);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(CommandError::failed("the network node has ended"));
            }
        }
        let is_discovering = looks_around && started.elapsed() < DISCOVERY;
        let is_introduced = found.peers.values().all(Peer::is_known);
        if found.all_tried
            && !is_discovering
            && (is_introduced || last_connected.elapsed() > INTRODUCTION)
        {
            return Ok(found);
        }
    }
}

impl Peer {
    fn is_known(&self) -> bool {
        self.agent.is_some() && self.round_trip.is_some()
    }
}

impl Found {
    fn is_unreachable(&self, address: &Multiaddr) -> bool {
        self.unreachable.iter().any(|(known, _)| known == address)
    }

    fn add(&mut self, event: NetworkEvent) {
        match event {
            NetworkEvent::Connected { peer, address, .. } => {
                // It answers at another address, or now.
                let id = peer.to_string();
                self.unreachable
                    .retain(|(known, _)| !known.to_string().ends_with(&id));
                self.peers.entry(peer).or_default().address = Some(address);
            }
            NetworkEvent::Identified {
                peer,
                agent,
                protocols,
            } => {
                if let Some(known) = self.peers.get_mut(&peer) {
                    known.agent = Some(agent);
                    known.protocols = protocols.iter().map(ToString::to_string).collect();
                }
            }
            NetworkEvent::Pinged { peer, round_trip } => {
                if let Some(known) = self.peers.get_mut(&peer) {
                    known.round_trip = Some(round_trip);
                }
            }
            NetworkEvent::Unreachable { address, error } if !self.is_unreachable(&address) => {
                self.unreachable.push((address, DialProblem(error)));
            }
            NetworkEvent::Disconnected { peer } => drop(self.peers.remove(&peer)),
            NetworkEvent::AllTried => self.all_tried = true,
            _ => {}
        }
    }
}

fn print(peer: &PeerId, known: &Peer, json: bool) -> std::io::Result<()> {
    let address = known.address.as_ref().map(ToString::to_string);
    let milliseconds = known.round_trip.map(|time| time.as_secs_f64() * 1000.0);
    if json {
        return output::line(json!({
            "peer": peer.to_string(),
            "address": address,
            "latency_ms": milliseconds,
            "agent": known.agent,
            "protocols": known.protocols,
        }));
    }
    let latency = milliseconds.map_or_else(|| "?".to_owned(), |time| format!("{time:.1}ms"));
    let agent = known.agent.as_deref().unwrap_or("?");
    output::line(format_args!(
        "{peer} {latency} {} {}",
        escape(agent.as_bytes()),
        address.unwrap_or_default()
    ))
}
