//! Running a job in bubblewrap.
//!
//! [`stage`] says what files are prepared, and [`plan`] what bubblewrap is told, both as values; [`probe`]
//! finds bubblewrap; [`bwrap`] obeys; the stub does inside what bubblewrap cannot. The promise, whatever the program does: it sees its root file system and `/input`
//! read-only, `/output` and `/tmp` writable, and nothing of the host; when [`bwrap::execute`]
//! returns, none of its processes lives.

pub mod bwrap;
mod call_set;
mod error;
mod masks;
mod memfd;
pub(crate) mod obstacle;
pub mod plan;
pub mod probe;
mod relay;
mod seccomp;
pub mod stage;
mod status;
mod stop;
mod streams;
mod stub;
mod terminal;
#[cfg(test)]
mod tests;
pub(crate) mod trial;

pub use bwrap::{Conduct, Ended, Exit, Isolation, Shown, execute};
pub use error::SandboxError;
pub use plan::{PlanError, TopEntry, TopEntryKind};
pub use probe::{Bubblewrap, ProbeError, Version};
pub use relay::take_open_line;
pub use stage::{HostPaths, InputSource, RootSource};
pub(crate) use stage::{INPUT, ROOT};
pub use streams::StandardInput;
