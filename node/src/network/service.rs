//! The handle of a node, and the thread that it runs on.
//!
//! ```text
//! any thread ──Network──commands──▶ swarm task ──▶ peers
//!     ▲                               │
//!     └────────NetworkEvent───────────┘
//! ```
//!
//! The node has one thread: its work is encryption and framing, and on few cores more threads are slower.
//! Hashing and disk reads have threads of their own.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use libp2p::PeerId;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::bitswap;
use super::event::NetworkEvent;
use super::http::gateway::GatewaySession;
use super::http::{self, Url};
use super::options::{NetworkError, NetworkOptions};
use super::swarm::{Command, Node};
use crate::block::{Cid, ReadBlocks};
use crate::name::KeyName;
use crate::names;

/// A running node. Dropping it closes its connections and ends it.
#[derive(Debug)]
pub struct Network {
    peer_id: PeerId,
    client: bitswap::Client,
    gateways: Option<Gateways>,
    commands: UnboundedSender<Command>,
    thread: Option<JoinHandle<()>>,
}

/// What sessions with gateways are made of.
#[derive(Debug)]
struct Gateways {
    client: reqwest::Client,
    urls: Vec<Url>,
    runtime: Handle,
}

impl Network {
    /// Starts a node that serves `blocks`. When this returns it listens, and has begun to dial.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn start(
        blocks: Arc<dyn ReadBlocks>,
        options: NetworkOptions,
    ) -> Result<Network, NetworkError> {
        let (commands, receiver) = unbounded_channel();
        let (ready, started) = bounded(1);
        let urls = options.gateways.clone();
        let needs_http = !urls.is_empty() || !options.routers.is_empty();
        if needs_http && options.swarm_key.is_some() {
            return Err(NetworkError::Private);
        }
        let http = needs_http.then(http::client).transpose()?;
        let client_of_gateways = http.clone().filter(|_| !urls.is_empty());
        let thread = std::thread::Builder::new()
            .name("network".to_owned())
            .spawn(move || run(blocks, options, http, receiver, &ready))
            .map_err(NetworkError::Start)?;
        match started.recv() {
            Ok(Ok((peer_id, client, runtime))) => Ok(Network {
                peer_id,
                client,
                gateways: client_of_gateways.map(|client| Gateways {
                    client,
                    urls,
                    runtime,
                }),
                commands,
                thread: Some(thread),
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(NetworkError::Start(io::Error::other(
                "its thread ended at once",
            ))),
        }
    }

    /// The name that peers know this node by.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// Access to bitswap.
    pub fn bitswap(&self) -> &bitswap::Client {
        &self.client
    }

    /// A session with the gateways, if any were named, for somebody who gives up when nothing has come
    /// for `idle_timeout`.
    pub fn gateway_session(&self, idle_timeout: Duration) -> Option<GatewaySession> {
        let gateways = self.gateways.as_ref()?;
        Some(GatewaySession::start(
            gateways.client.clone(),
            gateways.urls.clone(),
            idle_timeout,
            &gateways.runtime,
        ))
    }

    /// All events from now on, and those that tell the present state.
    pub fn subscribe(&self) -> Receiver<NetworkEvent> {
        let (sender, receiver) = unbounded();
        self.command(Command::Subscribe(sender));
        receiver
    }

    /// Looks for peers on the local network from now on, if [`Mdns::OnDemand`](super::Mdns::OnDemand)
    /// has left that for later.
    pub fn discover(&self) {
        self.command(Command::Discover);
    }

    /// Asks the DHTs and routers who has `cid`; events tell.
    pub fn find_providers(&self, cid: &Cid) {
        self.command(Command::FindProviders(*cid));
    }

    /// Tells the DHTs that this node has `cid`; an event tells when that is done. A record lasts for
    /// about two days.
    pub fn provide(&self, cid: &Cid) {
        self.command(Command::Provide(*cid));
    }

    /// Asks DHTs, routers and gateways for records of `name`; events tell. Those that are being asked
    /// already are not asked again.
    pub fn find_name(&self, name: &KeyName) {
        self.command(Command::FindName(*name));
    }

    /// Gives a record of `name` to the DHTs and routers; an event tells when that is done.
    pub fn publish_name(&self, name: &KeyName, record: &names::Record) {
        let record = Bytes::copy_from_slice(record.as_bytes());
        self.command(Command::PublishName(*name, record));
    }

    /// Where the node has ended, the closed channels of events say so.
    fn command(&self, command: Command) {
        if self.commands.send(command).is_err() {
            tracing::debug!("the network node has ended");
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.command(Command::Close);
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::debug!("the network node has panicked");
        }
    }
}

type Started = Result<(PeerId, bitswap::Client, Handle), NetworkError>;

fn run(
    blocks: Arc<dyn ReadBlocks>,
    options: NetworkOptions,
    http: Option<reqwest::Client>,
    commands: UnboundedReceiver<Command>,
    ready: &Sender<Started>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return answer(ready, Err(NetworkError::Start(error))),
    };
    runtime.block_on(async {
        match Node::start(blocks, options, http) {
            Ok((node, client)) => {
                answer(ready, Ok((node.peer_id(), client, Handle::current())));
                node.work(commands).await;
            }
            Err(error) => answer(ready, Err(error)),
        }
    });
    // A name that is being resolved may take its time.
    runtime.shutdown_background();
}

/// The caller waits for nothing else.
fn answer(ready: &Sender<Started>, started: Started) {
    if ready.send(started).is_err() {
        tracing::debug!("nobody waits for the network node");
    }
}
