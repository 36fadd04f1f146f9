//! Bitswap between swarms of this process, over loopback TCP.

mod exchange;
mod hostile;
mod peers;
mod raw;
mod throughput;
mod wire;
