//! Helpers that the end-to-end tests and the benchmarks of `ipfs-exec` share.
//!
//! The helpers drive the built binary from outside, as a user does. Each test has an [`Environment`] of its
//! own: a temporary home and repository and a cleared set of variables. No helper uses the libraries, so a
//! mistake of a library cannot hide itself. The helpers encode the blocks, CARs and archives that the tests
//! need, from the specifications.
//!
//! ```no_run
//! use ipfs_exec_tests::Environment;
//!
//! let environment = Environment::new();
//! let cid = environment.ipfs_exec(["add", "-"]).input("hello world").succeeds().line();
//! assert_eq!(cid, "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD");
//! ```
//!
//! Helpers panic when a test cannot go on: the message is the result of the test.

#[cfg(test)]
mod architecture;

pub mod archive;
pub mod dag;
pub mod delay;
pub mod environment;
pub mod gateway;
pub mod http;
pub mod invocation;
pub mod mounted;
pub mod peer;

pub mod random;
pub mod recipe;
pub mod requirement;
pub mod served;
pub mod tree;
pub mod vector;
pub mod vm;

pub use archive::Archive;
pub use environment::Environment;
pub use invocation::{Invocation, Outcome, Running};
pub use mounted::Mounted;
pub use served::Served;
