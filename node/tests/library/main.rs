//! Tests of the node library through its public face, in one binary.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(feature = "network")]
mod bitswap;
mod blocks;
mod car;
mod concurrency;
mod contract;
mod directories;
#[cfg(feature = "network")]
mod discovery;
#[cfg(feature = "network")]
mod fetcher;
mod files;
mod hostile;
#[cfg(feature = "network")]
mod idle_peers;
mod interruption;
mod permissions;
mod recovery;
#[cfg(feature = "network")]
mod relay;
mod repository;
mod sparse;
mod support;
mod trees;
