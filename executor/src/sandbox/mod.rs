//! Running a job in bubblewrap.
//!
//! [`plan`] says what bubblewrap is told, as a value; [`probe`] finds bubblewrap; [`bwrap`] obeys
//! the plan; `opener` does inside what bubblewrap cannot. The promise, whatever the program does: it sees its root file system and `/input`
//! read-only, `/output` and `/tmp` writable, and nothing of the host; when [`bwrap::execute`]
//! returns, none of its processes lives.

pub mod bwrap;
mod error;
mod held;
mod masks;
mod opener;
pub mod plan;
pub mod probe;
mod seccomp;
mod status;
mod streams;
mod terminal;
#[cfg(test)]
mod tests;
pub(crate) mod trial;

pub use bwrap::{Ended, Exit, execute};
pub use error::SandboxError;
pub use masks::Masked;
pub use plan::{Descriptors, Host, HostPaths, Plan, PlanError, RootLayout};
pub use probe::{Bubblewrap, ProbeError, Version};
