//! Bitswap: the exchange of blocks with peers, as a behaviour of libp2p.
//!
//! [`Behaviour`] goes into a swarm. [`Client`] asks for blocks from any thread. Both sides of the
//! protocol are here: the serving side answers wants of peers from a [`ReadBlocks`].
//!
//! ```text
//! Client, Session ──commands──▶ Behaviour ──▶ wants (asking), server + ledger (serving): pure
//!        ▲                       │     ▲
//!        └───────events──────────┘     └──▶ handler of each connection ◀──▶ peers
//!                                verify, read: threads
//! ```
//!
//! The invariants: a block is hashed before any caller sees it; nothing that a peer sends makes
//! memory grow beyond [`limits`](crate::limits); nothing blocks the swarm's task.

mod behaviour;
mod handler;
mod inbound;
mod ledger;
mod message;
mod outbound;
mod pace;
mod protocol;
mod remote;
mod server;
mod session;
mod verify;
mod wants;
mod workers;

pub use behaviour::{Behaviour, Event};
pub use message::MessageError;
pub use session::{Client, PeerCounters, Session, SessionError, SessionEvent};

use crate::block::Cid;

#[cfg(doc)]
use crate::block::ReadBlocks;

/// How a node takes part.
#[derive(Clone, Debug)]
pub struct BitswapOptions {
    /// Whether blocks are given to peers. Where not, they are told that nothing is here.
    pub serve: bool,
}

impl Default for BitswapOptions {
    fn default() -> BitswapOptions {
        BitswapOptions { serve: true }
    }
}

/// What a peer did wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It sent a block that nobody asked it for: also what wrong bytes for a wanted block are.
    #[error("sent block {cid}, which was not requested")]
    UnaskedBlock {
        /// What the bytes hash to.
        cid: Cid,
    },
    /// It sent a block under a hash function or digest length that cannot be checked.
    #[error("sent a block with the unsupported hash function 0x{code:x}")]
    UnsupportedHash {
        /// The multihash code.
        code: u64,
    },
    /// It sent what is no message.
    #[error("sent a malformed message")]
    Malformed {
        /// What is wrong with it.
        #[source]
        source: MessageError,
    },
    /// It began a message and did not go on, or only at a crawl.
    #[error("did not finish a message in time")]
    Stalled,
}

/// Reads a message and writes it in the newest version, without its length; `None` where it is
/// malformed.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn reencode(bytes: &bytes::Bytes) -> Option<bytes::Bytes> {
    let message = message::Message::decode(bytes).ok()?;
    let written = message.encode(protocol::Version::OneTwo).concat();
    // Messages are far shorter than the five bytes of a length could say.
    let length = written.iter().position(|byte| byte & 0x80 == 0)? + 1;
    Some(bytes::Bytes::from(written).slice(length..))
}
