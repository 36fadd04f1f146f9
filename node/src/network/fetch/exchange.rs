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

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, never, select};

use super::action::Action;
use crate::block::Block;
use crate::network::bitswap::{self, SessionEvent};
use crate::network::http::gateway::{GatewayEvent, GatewaySession, Usefulness};
use crate::network::{Network, NetworkEvent};

/// Blocks taken in at a time, and their bytes, before others get their turn.
const MAX_BATCH_BLOCKS: usize = 512;
const MAX_BATCH_BYTES: usize = 4 << 20;

/// The connection of a fetch to a running node.
pub(super) struct Exchange {
    bitswap: bitswap::Session,
    gateways: Option<GatewaySession>,
    events: Receiver<NetworkEvent>,
    /// Kept running for as long as something is fetched.
    network: Arc<Network>,
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

    /// Does what concerns peers and gateways; returns at once.
    pub(super) fn act(&self, action: Action) {
        let gateways = self.gateways.as_ref();
        match action {
            Action::Want(cids) => self.bitswap.want(&cids),
            Action::Cancel(cid) => self.bitswap.cancel(&[cid]),
            Action::AddProvider(peer) => self.bitswap.add_provider(peer),
            Action::FindProviders(cid) => self.network.find_providers(&cid),
            Action::Discover => self.network.discover(),
            Action::AskGateways(cids) => gateways.iter().for_each(|session| session.want(&cids)),
            Action::AskGatewaysForAll(root) => {
                gateways.iter().for_each(|session| session.want_all(&root));
            }
            Action::LeaveGateways(cid) => {
                gateways.iter().for_each(|session| session.cancel(&[cid]));
            }
            Action::Start(_) | Action::Stop => {}
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
