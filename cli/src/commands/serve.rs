//! `serve`: the repository for IPFS peers.

use clap::Args;
use ipfs_exec_node::network::{Identity, Multiaddr, NetworkEvent};
use serde_json::json;

use crate::context::Context;
use crate::error::CommandError;
use crate::output;
use crate::serving::{Serving, ServingArgs};

/// Where peers are expected if nothing else is said: the port that IPFS has by custom.
const LISTEN: [&str; 4] = [
    "/ip4/0.0.0.0/tcp/4001",
    "/ip6/::/tcp/4001",
    "/ip4/0.0.0.0/udp/4001/quic-v1",
    "/ip6/::/udp/4001/quic-v1",
];

/// Serve the repository to IPFS peers
///
/// `serve` runs until a signal ends it. It prints a line `listening on MULTIADDR` for each address at
/// which it listens. The default is port 4001, TCP and QUIC, on all interfaces. `serve` also serves
/// content that other processes add while it runs.
///
/// Peers on the local network find `serve` by multicast DNS. Other peers find it in a DHT. `--public`
/// joins the DHT of the public network; `--peer` or `bootstrap` in the configuration names a peer of
/// another DHT.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  ipfs-exec serve
  ipfs-exec serve --listen /ip4/127.0.0.1/tcp/4001
  ipfs-exec serve --public --provide pinned
  ipfs-exec serve --listen /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW.../p2p-circuit")]
pub(crate) struct ServeArgs {
    /// Print one JSON object for each address
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    serving: ServingArgs,
}

pub(crate) fn serve(context: &Context, arguments: ServeArgs) -> Result<(), CommandError> {
    let repository = context.shared_repository()?;
    let identity = Identity::of_repository(repository.path())?;
    let mut serving = Serving::start(context, &repository, identity, &arguments.serving, &LISTEN)?;
    while !context.interrupt.asked() {
        match serving.next()? {
            Some(NetworkEvent::Listening { address }) => {
                print(arguments.json, "listening", "on", &address)?;
            }
            Some(NetworkEvent::Reachable { address }) => {
                print(arguments.json, "reachable", "at", &address)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn print(is_json: bool, event: &str, word: &str, address: &Multiaddr) -> std::io::Result<()> {
    if is_json {
        output::line(json!({ "event": event, "address": address.to_string() }))
    } else {
        output::line(format_args!("{event} {word} {address}"))
    }
}
