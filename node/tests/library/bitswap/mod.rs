//! Bitswap between swarms of this process, over loopback TCP.

mod exchange;
mod hostile;
mod peers;
mod throughput;
