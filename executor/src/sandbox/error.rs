//! Errors of a sandbox.

use std::io;
use std::path::PathBuf;

use super::plan::PlanError;
use super::probe::ProbeError;
use crate::limits::{Hit, LimitError, Usage};

/// Why a program did not run, or its end is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// There is no bubblewrap to use.
    #[error("cannot make a sandbox")]
    Probe(#[from] ProbeError),
    /// The job does not fit bubblewrap.
    #[error("cannot describe the sandbox to bubblewrap")]
    Plan(#[from] PlanError),
    /// Bubblewrap could not be started.
    #[error("cannot start `{program}`", program = program.display())]
    Spawn {
        /// Where it stands.
        program: PathBuf,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// Bubblewrap gave up before the sandbox was complete; it says why on stderr.
    #[error("bubblewrap could not set up the sandbox")]
    SetUp {
        /// What to do about it, where that is known.
        hint: Option<&'static str>,
    },
    /// Bubblewrap did not make a sandbox in time; it was killed.
    #[error("`{program}` did not make a sandbox within {seconds} s", program = program.display())]
    Hanging {
        /// Where it stands.
        program: PathBuf,
        /// The time that it had.
        seconds: u64,
    },
    /// The files of the sandbox could not be prepared.
    #[error("cannot prepare the sandbox: cannot {action}")]
    Stage {
        /// What failed.
        action: String,
        /// Whether it was a FUSE file system.
        is_fuse: bool,
        /// What to do about it, where that is known.
        hint: Option<&'static str>,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The sandbox was complete, but the program could not be confined, or be given its terminal.
    #[error("cannot confine the program in its sandbox: cannot {action}")]
    NotConfined {
        /// What failed.
        action: &'static str,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// What confines the program could not be made.
    #[error("cannot write the start-up program of the sandbox to memory")]
    Confine(#[source] io::Error),
    /// The sandbox was complete, but the kernel refused the program.
    #[error("cannot execute the program")]
    NotExecuted(#[source] io::Error),
    /// The sandbox was complete, but its working directory cannot be entered.
    #[error("cannot enter the working directory `{path}` of the sandbox")]
    WorkingDirectory {
        /// The directory, escaped.
        path: String,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// Bubblewrap was killed by something else than us, or speaks in riddles.
    #[error("bubblewrap ended without the exit code of the program")]
    NoStatus,
    /// What is mounted in the sandbox could not be served.
    #[error("cannot serve the mounts of the sandbox")]
    Mount(#[source] io::Error),
    /// A thread that serves the sandbox could not be started.
    #[error("cannot start a thread for the sandbox")]
    Thread(#[source] io::Error),
    /// The content for the program's standard input could not be read.
    #[error("cannot read all of the program's standard input")]
    StandardInput(#[source] io::Error),
    /// Talking to bubblewrap failed.
    #[error("cannot read the messages of bubblewrap")]
    Follow(#[source] io::Error),
    /// A limit cannot be held, or nobody can tell whether it is.
    #[error(transparent)]
    Watch(#[from] LimitError),
    /// The program was killed, or would have been, because it hit a limit.
    #[error("the program was stopped: {hit}")]
    Limit {
        /// Which one.
        hit: Hit,
        /// What it had used by then.
        usage: Box<Usage>,
    },
    /// The caller cancelled; the program was killed.
    #[error("the program was interrupted")]
    Interrupted,
}

impl SandboxError {
    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            SandboxError::Probe(error) => Some(error.hint()),
            SandboxError::SetUp { hint } | SandboxError::Stage { hint, .. } => {
                Some(hint.unwrap_or("see what `ipfs-exec doctor` says about this machine"))
            }
            SandboxError::Confine(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Some("`sysctl vm.memfd_noexec` must be less than 2")
            }
            SandboxError::Confine(_) | SandboxError::NotConfined { .. } => {
                Some("look at the log of the kernel (`dmesg`)")
            }
            SandboxError::Watch(error) => error.hint(),
            SandboxError::Limit { hit, .. } => Some(hit.hint()),
            SandboxError::Thread(_) => Some(
                "allow more processes and memory (`ulimit -u`, `ulimit -v`), or run fewer at a time",
            ),
            SandboxError::Hanging { .. } => Some(
                "look whether this `bwrap` is a script that waits, or the machine is overloaded (`uptime`)",
            ),
            SandboxError::WorkingDirectory { .. } => {
                Some("name a directory of the root file system, or `/input`, `/output` or `/tmp`")
            }
            _ => None,
        }
    }
}
