//! The node of `ipfs-exec` as a library: a repository of blocks, UnixFS on top of it, CAR files in
//! and out, and peers that blocks come from and go to.
//!
//! Blocks live in a [`Repository`]: a directory that any number of processes
//! use at the same time, without a daemon. Imported content gets the CIDs that Kubo would give it.
//!
//! ```
//! use ipfs_exec_node::path::ContentPath;
//! use ipfs_exec_node::progress::Silent;
//! use ipfs_exec_node::repo::{Pin, Repository};
//! use ipfs_exec_node::unixfs::{self, ImportOptions};
//! use std::io::Read;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! let repository = Repository::open(directory.path())?;
//!
//! // Everything that writes happens in a session; its blocks and pins become visible together.
//! let session = repository.session()?;
//! let mut source: &[u8] = b"hello world";
//! let imported =
//!     unixfs::import_stream(&session, &mut source, &ImportOptions::default(), &Silent)?;
//! session.commit(&[Pin::recursive(imported.cid)])?;
//! assert_eq!(imported.cid.to_string(), "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD");
//!
//! let path: ContentPath = imported.cid.to_string().parse()?;
//! let cid = unixfs::resolve(&repository, &path)?;
//! let mut content = String::new();
//! unixfs::FileReader::open(&repository, &cid)?.read_to_string(&mut content)?;
//! assert_eq!(content, "hello world");
//! # Ok(())
//! # }
//! ```
//!
//! Modules stand in the order of their dependence: each uses only those above it.

#![forbid(unsafe_code)]

pub mod cancel;
pub mod limits;
pub mod lock;
pub mod progress;
pub mod quantity;
mod threads;

pub mod budget;

pub mod block;

pub mod name;
pub mod path;
pub mod profile;

pub mod dag;

pub mod tree;

pub mod repo;

pub mod unixfs;

pub mod car;

pub mod names;

#[cfg(feature = "network")]
pub mod network;

#[cfg(feature = "network")]
pub mod node;

#[cfg(all(feature = "network", any(test, feature = "fuzzing")))]
#[doc(hidden)]
pub mod fuzzing;

pub use block::{Block, BlockError, Cid, ReadBlocks, ReadBlocksExt, WriteBlocks, WriteBlocksExt};
pub use budget::{Budget, BudgetError, KeepFree};
pub use cancel::{Cancel, CancelSource};
#[cfg(feature = "network")]
pub use node::Node;
pub use path::{ContentPath, EntryName};
pub use profile::Profile;
pub use repo::{Pin, Repository, Session};
