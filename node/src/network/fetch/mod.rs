//! Fetching of missing blocks: one block when it is read, and the blocks below it meanwhile.
//!
//! A [`Fetcher`] is the [`ReadBlocks`](crate::ReadBlocks) of a repository, and behind them the blocks of peers.
//! The first missing block starts the node. A process that misses no block opens no socket.
//!
//! ```text
//!  readers ──▶ driver ──what is asked, what came──▶ planner (pure: queue, sources, routes)
//!                │ ◀────────────actions────────────────┘
//!                ├──▶ repository: is it here? keep it
//!                └──▶ exchange: bitswap and gateways, behind a LazyNetwork
//! ```

mod action;
mod driver;
mod error;
mod exchange;
mod planner;
mod queue;
mod routes;
mod source;
mod sources;
mod starter;

use std::time::Duration;

pub use self::driver::Fetcher;
pub use self::error::{DialProblem, FetchError};
pub use self::source::Source;
pub use self::starter::LazyNetwork;

use crate::budget::KeepFree;

/// How a fetch goes about it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FetchOptions {
    /// A fetch that gets no block for this long has failed.
    pub idle_timeout: Duration,
    /// What stays free on the disk of the repository.
    pub keep_free: KeepFree,
}

impl Default for FetchOptions {
    fn default() -> FetchOptions {
        FetchOptions {
            idle_timeout: Duration::from_secs(30),
            keep_free: KeepFree::NOTHING,
        }
    }
}

/// What a fetch has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fetched {
    /// Blocks that came from peers.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks that the fetch met and that were here already.
    pub local_blocks: u64,
}
