//! What a fetch does to the outside.

use libp2p::PeerId;

use crate::block::Cid;

/// To be done in the order in which they were decided.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Starts the node, for the sake of this block.
    Start(Cid),
    /// Leaves the node: nothing is wanted any more.
    Stop,
    /// Asks peers for blocks.
    Want(Vec<Cid>),
    /// No longer asks peers for a block.
    Cancel(Cid),
    /// Says that a peer is likely to have the content.
    AddProvider(PeerId),
    /// Asks DHTs and routers who has a block.
    FindProviders(Cid),
    /// Looks for peers on the local network.
    Discover,
    /// Asks gateways for blocks.
    AskGateways(Vec<Cid>),
    /// Asks gateways for a DAG, as one stream.
    AskGatewaysForAll(Cid),
    /// No longer asks gateways for a block.
    LeaveGateways(Cid),
}
