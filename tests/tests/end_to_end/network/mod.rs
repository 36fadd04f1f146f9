//! The node among peers, on loopback or in network namespaces that the tests make.

mod discovery;
mod exchange;
mod faults;
mod gateways;
mod interop;
mod names;
mod private;
mod serving;
