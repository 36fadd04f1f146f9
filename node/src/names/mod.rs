//! Mutable names at work: keys, signed records, and the way from a name to content.
//!
//! ```text
//! key store ──signs──▶ record ──▶ record store ──▶ resolve ──▶ content path
//!                        ▲                           ▲
//!                 peers, HTTP servers               DNS
//! ```
//!
//! [`record`] is pure: a record and a time in, a verdict out. Where records come from is a trait of
//! [`resolve()`], so that nothing here knows the network.

mod cbor;
mod file;
mod instant;
mod pem;

pub mod dnslink;
pub mod key;
pub mod keystore;
pub mod record;
pub mod resolve;
pub mod store;

pub use file::FileError;
pub use key::{KeyError, KeyType, SigningKey};
pub use keystore::{KeyLabel, Keystore, KeystoreError};
pub use record::{Publication, Record, RecordError};
pub use resolve::{Lookup, ResolveError, resolve};
pub use store::{NameStore, NameStoreError};
