//! Runs a program from a content-addressed root file system, and gives back the content address
//! of its output.
//!
//! A [`Job`] names a root file system (a tar archive), an input and arguments, all by content.
//! A [`Run`] unpacks the archive once, shows it to the program read-only together with the
//! input, lets the program write to `/output`, and imports that. The program has no network, no
//! environment but the job's, and sees nothing of the host: what it computes depends on the job
//! alone.
//!
//! All contact with the kernel is in this crate, blocks and their formats are in
//! [`ipfs_exec_node`]. The sandbox is [bubblewrap], which must be installed; no daemon and no
//! privilege is needed.
//!
//! ```no_run
//! use ipfs_exec_node::Cid;
//! use ipfs_exec_executor::{Job, Run};
//! use ipfs_exec_node::repo::Repository;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let repository = Repository::open("/var/lib/computations".as_ref())?;
//! let rootfs: Cid = "QmdZKHQGNbmFfVtnUPwHV7eZsUEmZvEKAVnsPjVKDDGCHZ".parse()?;
//! let input: Cid = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn".parse()?;
//! let arguments = ["sh", "-c", "echo hello > /output/greeting"].map(Into::into).into();
//! let job = Job::new(rootfs, input, arguments, [])?;
//! let outcome = Run::new(&repository, &repository, &job).execute()?;
//! println!("{} with exit code {}", outcome.output.cid, outcome.exit.code());
//! # Ok(())
//! # }
//! ```
//!
//! Modules stand in the order of their dependence: each uses only those above it.
//!
//! [bubblewrap]: https://github.com/containers/bubblewrap
#![deny(unsafe_code)]

mod beneath;
pub mod caller;
mod layout;
mod links;
mod process;
#[cfg(test)]
mod testing;

pub mod archive;

pub mod job;
pub mod limits;

pub mod mount;
pub mod security;

pub mod sandbox;

pub mod rootfs;

pub mod input;
pub mod output;
pub mod trace;

pub mod doctor;
pub mod run;

pub use job::{Job, JobError};
pub use process::stdout_was_closed;
pub use run::{Outcome, Run, RunError, RunOptions};
