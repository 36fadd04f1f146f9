//! Peers: the only users of libp2p.

pub mod bitswap;
