//! Reasons why a block could not be fetched.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use libp2p::swarm::DialError;
use libp2p::{Multiaddr, PeerId};

use crate::block::{BlockError, Cid};
use crate::dag::DagError;
use crate::network::NetworkError;
use crate::network::bitswap::Fault;
use crate::network::http::gateway::GatewayError;
use crate::network::http::root_cause;
use crate::quantity::Time;

/// Why a peer could not be dialled, on one line: the causes alone, without the addresses that were
/// tried.
#[derive(Clone, Debug)]
pub struct DialProblem(pub Arc<DialError>);

impl fmt::Display for DialProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut causes: Vec<String> = match &*self.0 {
            DialError::Transport(errors) => errors.iter().map(|(_, error)| root(error)).collect(),
            error => vec![root(error)],
        };
        causes.dedup();
        formatter.write_str(&causes.join(", "))
    }
}

impl Error for DialProblem {}

/// The last cause of an error. Where several addresses were tried each has a line; the first one
/// says what they are.
fn root(error: &(dyn Error + 'static)) -> String {
    let text = root_cause(error);
    let line = text.lines().last().unwrap_or_default();
    let line = line.trim_start_matches([' ', '-']);
    // `cause: cause` where an error repeats its source.
    match line.split_once(": ") {
        Some((first, rest)) if first == rest => first.to_owned(),
        _ => line.to_owned(),
    }
}

/// Why a block could not be fetched. What had arrived before stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The node could not be started.
    #[error("cannot fetch block {cid}")]
    Network {
        /// The block.
        cid: Cid,
        /// Why.
        #[source]
        source: Arc<NetworkError>,
    },
    /// No peer was named, and none was found.
    #[error("cannot fetch block {cid}: no peer was named, and none was found")]
    NoPeers {
        /// The block.
        cid: Cid,
    },
    /// The peers that were named cannot be reached.
    #[error("cannot fetch block {cid}: cannot reach {address}")]
    Unreachable {
        /// The block.
        cid: Cid,
        /// A peer that was named.
        address: Multiaddr,
        /// Why it cannot be reached.
        #[source]
        source: DialProblem,
    },
    /// Every peer said that it does not have the block.
    #[error("cannot fetch block {cid}: {}", nobody(*.asked))]
    NotFound {
        /// The block.
        cid: Cid,
        /// How many peers were asked.
        asked: usize,
    },
    /// No peer has the block, and no gateway gave it.
    #[error("cannot fetch block {cid}: no peer and no gateway has it")]
    Gateway {
        /// The block.
        cid: Cid,
        /// Why the last gateway did not.
        #[source]
        source: Arc<GatewayError>,
    },
    /// The peers that had the content are gone.
    #[error(
        "cannot fetch block {cid}: the connection to {peer} was lost, and no other peer has it"
    )]
    ProviderLost {
        /// The block.
        cid: Cid,
        /// The last peer that was lost.
        peer: PeerId,
    },
    /// Peers are connected, and none of them sent anything.
    #[error("cannot fetch block {cid}: no data arrived for {}", Time(*.after))]
    Idle {
        /// A block that was waited for.
        cid: Cid,
        /// For how long.
        after: Duration,
    },
    /// What a peer sent was wrong, and nobody sent what was right.
    #[error("cannot fetch block {cid}: peer {peer} misbehaved")]
    Faulty {
        /// The block.
        cid: Cid,
        /// The peer.
        peer: PeerId,
        /// What it did.
        #[source]
        source: Box<Fault>,
    },
    /// The block is here and damaged, and no source gave a whole one.
    #[error("block {cid} is damaged on disk, and no other source has it")]
    Damaged {
        /// The block.
        cid: Cid,
        /// Why no source gave it.
        #[source]
        source: Arc<FetchError>,
    },
    /// A block is what its CID says, but its links cannot be followed.
    #[error(transparent)]
    Dag(#[from] DagError),
    /// What was fetched cannot be kept.
    #[error("cannot store the fetched blocks")]
    Store(#[source] BlockError),
    /// The caller asked to stop.
    #[error("the fetch was interrupted")]
    Interrupted,
    /// The node has ended.
    #[error("cannot fetch block {cid}: the network node has ended")]
    Ended {
        /// The block.
        cid: Cid,
    },
}

impl FetchError {
    /// The block that did not come; `None` where the cause is another.
    pub(super) fn lacking(&self) -> Option<&Cid> {
        match self {
            FetchError::Network { cid, .. }
            | FetchError::NoPeers { cid }
            | FetchError::Unreachable { cid, .. }
            | FetchError::NotFound { cid, .. }
            | FetchError::Gateway { cid, .. }
            | FetchError::ProviderLost { cid, .. }
            | FetchError::Idle { cid, .. }
            | FetchError::Faulty { cid, .. }
            | FetchError::Ended { cid } => Some(cid),
            _ => None,
        }
    }
}

fn nobody(asked: usize) -> String {
    match asked {
        0 => "no peer that is connected gives blocks".to_owned(),
        1 => "the one peer that was asked does not have it".to_owned(),
        asked => format!("none of the {asked} peers that were asked has it"),
    }
}
