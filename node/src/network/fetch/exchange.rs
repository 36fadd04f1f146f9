//! The two sources of a missing block: bitswap, and gateways after it.
//!
//! A want goes to bitswap first. If no peer there has the block, the want goes to the gateways. If the
//! gateways refuse as well, the block is not available for now. So no block is fetched twice, and
//! gateways are asked only for blocks that no peer gives. If the root of a wanted DAG goes to the
//! gateways, the whole DAG is asked for as one stream.
//!
//! ```text
//! want ──▶ bitswap ──NotFound──▶ gateways ──Failed──▶ NotFound
//!             │                     │
//!             └──────Block──────────┴──▶ Arrived
//! ```

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, never, select};

use super::queue::Task;
use crate::block::{Block, Cid, Multihash};
use crate::network::bitswap::{self, SessionEvent};
use crate::network::http::gateway::{GatewayEvent, GatewaySession, Usefulness};
use crate::network::{Network, NetworkEvent};

/// Blocks taken in at a time, and their bytes, before others get their turn.
const MAX_BATCH_BLOCKS: usize = 512;
const MAX_BATCH_BYTES: usize = 4 << 20;

/// The connection of a fetch to a running node.
pub(super) struct Exchange {
    pub(super) bitswap: bitswap::Session,
    gateways: Option<GatewaySession>,
    events: Receiver<NetworkEvent>,
    /// Kept running for as long as something is fetched.
    network: Arc<Network>,
}

/// Where wants are.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// Roots of DAGs that are wanted as a whole.
    roots: HashSet<Cid>,
    /// Wants that went to the gateways.
    at_gateways: HashMap<Multihash, Cid>,
    /// DAGs that are being streamed. What they may bring is not asked for one by one.
    streaming: HashSet<Cid>,
}

/// A block, and the stream of a gateway by which it came.
pub(super) struct Arrival {
    pub(super) block: Block,
    pub(super) stream: Option<Arc<Usefulness>>,
}

/// What came in one go.
#[derive(Default)]
pub(super) struct Arrived {
    pub(super) blocks: Vec<Arrival>,
    pub(super) bytes: usize,
    pub(super) session: Vec<SessionEvent>,
    pub(super) gateway: Vec<GatewayEvent>,
    pub(super) network: Vec<NetworkEvent>,
    pub(super) ended: bool,
}

impl Exchange {
    pub(super) fn new(network: Arc<Network>, idle_timeout: Duration) -> Exchange {
        Exchange {
            bitswap: network.bitswap().session(),
            gateways: network.gateway_session(idle_timeout),
            events: network.subscribe(),
            network,
        }
    }

    pub(super) fn has_gateways(&self) -> bool {
        self.gateways.is_some()
    }

    /// Asks the DHTs and routers who has `cid`; events tell.
    pub(super) fn find_providers(&self, cid: &Cid) {
        self.network.find_providers(cid);
    }

    /// Looks for further peers, on the local network.
    pub(super) fn discover(&self) {
        self.network.discover();
    }

    /// Asks for blocks.
    pub(super) fn want(&self, routes: &mut Routes, tasks: &[Task]) {
        if self.gateways.is_some() {
            let roots = tasks.iter().filter(|task| task.depth == 0 && task.deep);
            routes.roots.extend(roots.map(|task| task.cid));
        }
        let cids: Vec<_> = tasks.iter().map(|task| task.cid).collect();
        self.bitswap.want(&cids);
    }

    /// No peer has the block: gateways are asked, unless they were.
    pub(super) fn ask_gateways(&self, routes: &mut Routes, cid: &Cid) {
        let Some(gateways) = &self.gateways else {
            return;
        };
        if routes.at_gateways.insert(*cid.hash(), *cid).is_some() {
            return;
        }
        if routes.roots.remove(cid) {
            routes.streaming.insert(*cid);
            gateways.want_all(cid);
        } else if routes.streaming.is_empty() {
            gateways.want(&[*cid]);
        }
    }

    /// The stream of `root` has ended: what it did not bring is asked for block by block.
    pub(super) fn stream_ended(&self, routes: &mut Routes, root: &Cid) {
        routes.streaming.remove(root);
        if let Some(gateways) = self
            .gateways
            .as_ref()
            .filter(|_| routes.streaming.is_empty())
        {
            let left: Vec<_> = routes.at_gateways.values().copied().collect();
            gateways.want(&left);
        }
    }

    /// A block came: nobody else needs to give it.
    pub(super) fn settled(&self, routes: &mut Routes, cid: &Cid) {
        // Whoever was asked as well: it may have come from the other. Bitswap alone knows itself.
        if self.gateways.is_some() {
            self.give_up(routes, cid);
        }
    }

    /// Nobody waits for a block any more.
    pub(super) fn give_up(&self, routes: &mut Routes, cid: &Cid) {
        self.bitswap.cancel(&[*cid]);
        if let Some(gateways) = &self.gateways
            && routes.at_gateways.remove(cid.hash()).is_some()
        {
            gateways.cancel(&[*cid]);
        }
    }

    /// Waits for something to come, for `patience` at most, and takes what else is there.
    pub(super) fn receive(&self, patience: Duration) -> Arrived {
        let mut arrived = Arrived::default();
        let nothing = never();
        let gateway_events = self
            .gateways
            .as_ref()
            .map_or(&nothing, GatewaySession::events);
        select! {
            recv(self.bitswap.events()) -> event => match event {
                Ok(event) => arrived.add(self.bitswap.taken(event)),
                Err(_) => arrived.ended = true,
            },
            recv(gateway_events) -> event => match event {
                Ok(event) => arrived.add_from_gateway(event),
                Err(_) => arrived.ended = true,
            },
            recv(self.events) -> event => match event {
                Ok(event) => arrived.network.push(event),
                Err(_) => arrived.ended = true,
            },
            default(patience) => {}
        }
        while arrived.has_room() {
            match self.bitswap.try_recv() {
                Ok(event) => arrived.add(event),
                Err(_) => break,
            }
        }
        while arrived.has_room() {
            match gateway_events.try_recv() {
                Ok(event) => arrived.add_from_gateway(event),
                Err(_) => break,
            }
        }
        arrived
            .network
            .extend(self.events.try_iter().take(MAX_BATCH_BLOCKS));
        arrived
    }
}

impl Arrived {
    fn has_room(&self) -> bool {
        self.blocks.len() < MAX_BATCH_BLOCKS && self.bytes < MAX_BATCH_BYTES
    }

    fn add(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Block { block, .. } => self.add_block(block, None),
            event => self.session.push(event),
        }
    }

    fn add_from_gateway(&mut self, event: GatewayEvent) {
        match event {
            GatewayEvent::Block { block, stream, .. } => self.add_block(block, stream),
            event => self.gateway.push(event),
        }
    }

    fn add_block(&mut self, block: Block, stream: Option<Arc<Usefulness>>) {
        self.bytes += block.data().len();
        self.blocks.push(Arrival { block, stream });
    }
}
