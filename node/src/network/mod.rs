//! The node among its peers: the only part that uses libp2p.
//!
//! ```text
//! fetch ──▶ service ──▶ behaviour ──▶ bitswap
//!              └──────▶ transport, identity
//! ```
//!
//! Nothing here starts by itself. A [`Network`] is started when a block is missing or something
//! is to be served, and a process without one opens no socket.

mod behaviour;
mod service;
mod transport;

pub mod bitswap;
pub mod fetch;
pub mod identity;

pub use fetch::{FetchError, FetchOptions, Fetched, Fetcher, LazyNetwork};
pub use identity::{Identity, IdentityError};
pub use libp2p::{Multiaddr, PeerId};
pub use service::{Network, NetworkError, NetworkEvent, NetworkOptions};
pub use transport::TransportError;
