//! Events of a node, which it sends to all subscribers.

use std::sync::Arc;
use std::time::Duration;

use libp2p::swarm::DialError;
use libp2p::{Multiaddr, PeerId, StreamProtocol};

use crate::block::Cid;
use crate::name::KeyName;
use bytes::Bytes;

/// Why a node is connected to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is one of [`NetworkOptions::peers`](super::NetworkOptions::peers).
    Named,
    /// It is one of [`NetworkOptions::bootstrap`](super::NetworkOptions::bootstrap).
    Bootstrap,
    /// It was found, or came by itself.
    Other,
}

/// What happens to a node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum NetworkEvent {
    /// The node can be reached at this address, which ends in its peer id.
    Listening {
        /// The address.
        address: Multiaddr,
    },
    /// Peers elsewhere can reach the node at this address, which ends in its peer id: a router of the
    /// local network maps it.
    Reachable {
        /// The address.
        address: Multiaddr,
    },
    /// A peer is connected.
    Connected {
        /// The peer.
        peer: PeerId,
        /// Where.
        address: Multiaddr,
        /// Why.
        role: Role,
    },
    /// The last connection to a peer has ended.
    Disconnected {
        /// The peer.
        peer: PeerId,
    },
    /// A peer that was to be connected at once cannot be reached. It is tried again.
    Unreachable {
        /// As it was named.
        address: Multiaddr,
        /// Why.
        error: Arc<DialError>,
    },
    /// Every peer that was to be connected at once has been tried, with whatever result.
    AllTried,
    /// A peer has told about itself.
    Identified {
        /// The peer.
        peer: PeerId,
        /// Name and version of its program.
        agent: String,
        /// What it speaks.
        protocols: Vec<StreamProtocol>,
    },
    /// A peer has answered a ping.
    Pinged {
        /// The peer.
        peer: PeerId,
        /// After this time.
        round_trip: Duration,
    },
    /// The node takes part in a DHT from now on: it knows a peer that keeps it. There may be two of them,
    /// that of the local network and the public one.
    Joined,
    /// DHTs and routers are being asked who has this content.
    Searching {
        /// What is looked for.
        cid: Cid,
    },
    /// Somebody says that this peer has content. It is being dialled, unless it is connected.
    Provider {
        /// What was looked for.
        cid: Cid,
        /// Who has it.
        peer: PeerId,
    },
    /// All that could be asked for providers were asked.
    ProvidersSearched {
        /// What was looked for.
        cid: Cid,
    },
    /// The DHTs were told that this node has the content.
    Provided {
        /// The content.
        cid: Cid,
        /// How many DHTs keep it now.
        dhts: usize,
    },
    /// A DHT peer or a server has given a record of a name. Nothing of it is verified.
    NameRecord {
        /// The name.
        name: KeyName,
        /// The record.
        record: Bytes,
    },
    /// All that could be asked for records of a name were asked.
    NameSearched {
        /// The name.
        name: KeyName,
        /// How many DHTs and servers were asked.
        asked: usize,
    },
    /// A record of a name was given to all DHTs and routers.
    NamePublished {
        /// The name.
        name: KeyName,
        /// How many of them keep it now.
        takers: usize,
    },
    /// Blocks were sent to a peer.
    Sent {
        /// The peer.
        peer: PeerId,
        /// Which.
        cids: Arc<[Cid]>,
    },
}
