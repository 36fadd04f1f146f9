//! `serve`: the blocks of the repository for any IPFS peer.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use crossbeam_channel::RecvTimeoutError;
use ipfs_exec_node::network::{Identity, Multiaddr, Network, NetworkEvent, NetworkOptions};

use crate::context::Context;
use crate::error::CommandError;
use crate::output;

/// Where peers are expected if nothing else is said: the port that IPFS has by custom.
const LISTEN: [&str; 4] = [
    "/ip4/0.0.0.0/tcp/4001",
    "/ip6/::/tcp/4001",
    "/ip4/0.0.0.0/udp/4001/quic-v1",
    "/ip6/::/udp/4001/quic-v1",
];

/// How often a signal is looked for.
const TICK: Duration = Duration::from_millis(100);

/// Serve the repository to IPFS peers, until a signal
///
/// Prints a line `listening on MULTIADDR` for each address at which peers can reach it. What other
/// processes add to the repository is served as well.
#[derive(Args, Debug)]
#[command(after_long_help = "Example:\n  ipfs-exec serve --listen /ip4/127.0.0.1/tcp/4001")]
pub(crate) struct ServeArgs {
    /// Listen at this address; may be repeated [default: port 4001, TCP and QUIC, all interfaces]
    #[arg(long, value_name = "MULTIADDR")]
    listen: Vec<Multiaddr>,

    /// Tell peers this address, where they cannot see it themselves; may be repeated
    #[arg(long, value_name = "MULTIADDR")]
    announce: Vec<Multiaddr>,
}

pub(crate) fn serve(context: &Context, arguments: ServeArgs) -> Result<(), CommandError> {
    let repository = context.shared_repository()?;
    let mut options = NetworkOptions::new(Identity::of_repository(repository.path())?);
    options.listen = if arguments.listen.is_empty() {
        let addresses = LISTEN.iter().map(|address| address.parse());
        addresses
            .collect::<Result<_, _>>()
            .expect("the addresses are well-formed")
    } else {
        arguments.listen
    };
    options.announce = arguments.announce;
    options.peers.clone_from(&context.peers);
    options.mdns = context.mdns;
    options.serve = true;
    let network = Network::start(Arc::clone(&repository) as _, options)?;
    let events = network.subscribe();
    while !context.interrupt.asked() {
        match events.recv_timeout(TICK) {
            Ok(NetworkEvent::Listening { address }) => {
                output::line(format_args!("listening on {address}"))?;
            }
            Ok(NetworkEvent::Unreachable { address, error }) => {
                tracing::warn!(%address, %error, "cannot reach a peer");
            }
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(CommandError::failed("the network node has ended"));
            }
        }
    }
    Ok(())
}
