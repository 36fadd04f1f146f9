//! The node among its peers: the only part that uses libp2p.
//!
//! ```text
//! fetch ──▶ service ──▶ swarm ──▶ bitswap, and the protocols of libp2p
//!   │          │          └────▶ transport, http::routing
//!   └──────────┴──▶ http::gateway
//! ```
//!
//! Nothing here starts by itself. A [`Network`] is started when a block is missing or something
//! is to be served, and a process without one opens no socket.

mod arrivals;
mod downloads;
mod event;
mod options;
mod service;
mod swarm;
mod transport;
mod upstreams;

pub mod bitswap;
pub mod fetch;
pub mod http;
pub mod identity;
pub mod names;
pub mod private;
pub mod provide;

pub use downloads::DownloadTracker;
pub use event::{NetworkEvent, Role};
pub use fetch::{FetchError, FetchOptions, Fetched, Fetcher, LazyNetwork, Source};
pub use identity::{Identity, IdentityError};
pub use libp2p::{Multiaddr, PeerId};
pub use options::{Mdns, NetworkError, NetworkOptions, PUBLIC_BOOTSTRAP};
pub use service::Network;
pub use transport::TransportError;
pub use upstreams::Upstreams;
