//! Errors of a run, with their exit codes and hints.

use std::fmt;
use std::time::Duration;

use ipfs_exec_node::Cid;
use ipfs_exec_node::budget::BudgetError;
use ipfs_exec_node::quantity::Time;
use ipfs_exec_node::repo::RepoError;
use ipfs_exec_node::tree::TreeError;
use ipfs_exec_node::unixfs::UnixfsError;

use super::clock::Part;
use crate::archive::ArchiveError;
use crate::input::InputError;
use crate::job::INIT;
use crate::limits::Limit;
use crate::output::OutputError;
use crate::rootfs::{InitError, RootfsError};
use crate::sandbox::SandboxError;

/// Exit code of a run that failed by itself.
pub const EXIT_FAILED: u8 = 125;
/// Exit code of a program whose output holds an entry that UnixFS cannot store.
pub const EXIT_REFUSED: u8 = 123;
/// Exit code of a program that reached a limit of time.
pub const EXIT_TIME: u8 = 124;
/// Exit code of a program that was killed because of any other limit, as by SIGKILL.
pub const EXIT_KILLED: u8 = 137;
/// Exit code where `/sbin/init` cannot be executed.
pub const EXIT_NOT_EXECUTABLE: u8 = 126;
/// Exit code where there is no `/sbin/init`.
pub const EXIT_NOT_FOUND: u8 = 127;

/// Why a run gave no output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The repository failed.
    #[error("cannot use the repository")]
    Repository(#[from] RepoError),
    /// The root file system could not be had.
    #[error("cannot prepare the root file system")]
    Rootfs(#[from] RootfsError),
    /// The root file system has no program.
    #[error("cannot start the program")]
    Init(#[from] InitError),
    /// The input could not be shown to the program.
    #[error("cannot use the input")]
    Input(#[from] InputError),
    /// The content for the program's standard input is no file, or cannot be read.
    #[error("cannot use {cid} as standard input")]
    StandardInput {
        /// The content.
        cid: Cid,
        /// What UnixFS says.
        #[source]
        source: UnixfsError,
    },
    /// The program could not be run.
    #[error("cannot run the program")]
    Sandbox(#[from] SandboxError),
    /// The output could not be kept.
    #[error("cannot store the output")]
    Output(#[from] OutputError),
    /// The disk of the repository could not be looked at.
    #[error("cannot use the disk of the repository")]
    Disk(#[source] BudgetError),
    /// Time ran out. What the program itself took too long for is a [`SandboxError::Limit`].
    #[error("the run was stopped while {part}: it had taken {}", Time(*.allowed))]
    OutOfTime {
        /// `Timeout` or `TotalTimeout`.
        limit: Limit,
        /// The time that it had.
        allowed: Duration,
        /// What was going on.
        part: Part,
    },
    /// The caller asked to stop; the program is dead.
    #[error("the run was interrupted")]
    Interrupted,
    /// The run left something behind.
    #[error("cannot clean up after the run{first}")]
    CleanUp {
        /// The error that ended the run before, if there was one.
        first: FirstError,
        /// Where removal stopped.
        #[source]
        source: TreeError,
    },
}

/// The error of a run whose clean-up failed too.
#[derive(Debug)]
pub struct FirstError(pub(super) Option<Box<RunError>>);

impl FirstError {
    /// The error, if there was one.
    pub fn error(&self) -> Option<&RunError> {
        self.0.as_deref()
    }
}

impl fmt::Display for FirstError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(error) => write!(formatter, ", which failed: {error}"),
            None => Ok(()),
        }
    }
}

impl RunError {
    /// The conventional exit code: 127 where there is no program, 126 where it cannot be executed, 124
    /// where it took too long, 137 where it hit another limit, 123 where it left what cannot be an output,
    /// 125 for all else.
    pub fn exit_code(&self) -> u8 {
        match self {
            RunError::Init(InitError::NotFound { .. }) => EXIT_NOT_FOUND,
            RunError::Init(InitError::NotExecutable { .. } | InitError::Refused { .. })
            | RunError::Sandbox(SandboxError::NotExecuted(_)) => EXIT_NOT_EXECUTABLE,
            RunError::Sandbox(SandboxError::Limit { hit, .. }) if hit.limit.is_time() => EXIT_TIME,
            RunError::Sandbox(SandboxError::Limit { .. }) => EXIT_KILLED,
            RunError::OutOfTime { .. } => EXIT_TIME,
            RunError::Output(OutputError::Refused(_)) => EXIT_REFUSED,
            RunError::CleanUp { first, .. } => {
                first.error().map_or(EXIT_FAILED, RunError::exit_code)
            }
            _ => EXIT_FAILED,
        }
    }

    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            RunError::Sandbox(SandboxError::NotExecuted(_)) => Some(
                "the kernel takes 2 MiB of arguments and environment together (a quarter of `ulimit -s`): put \
                 long lists into a file of INPUT",
            ),
            RunError::Sandbox(error) => error.hint(),
            RunError::OutOfTime { limit, .. } => Some(limit.hint()),
            RunError::Init(InitError::NotFound { program, .. }) if program != INIT => {
                Some("name a program of the root file system by its absolute path")
            }
            RunError::Init(InitError::NotFound { .. }) => Some(
                "name a program with `--entrypoint`, or put a program at `/sbin/init` of the root file system: it gets the arguments that follow \
                 INPUT",
            ),
            RunError::Rootfs(RootfsError::Unpack { source, .. }) if source.hint().is_some() => {
                source.hint()
            }
            RunError::Input(InputError::Mount(error))
            | RunError::Rootfs(RootfsError::Mount(error)) => error.hint(),
            RunError::CleanUp { first, .. } => first.error().and_then(RunError::hint),
            error => error.budget_hint(),
        }
    }

    /// The option by which the bound that was reached can be changed.
    fn budget_hint(&self) -> Option<&'static str> {
        match self {
            RunError::Rootfs(
                RootfsError::Unpack {
                    source: ArchiveError::Budget(source),
                    ..
                }
                | RootfsError::Budget { source, .. },
            ) => match source {
                BudgetError::Bytes { .. } => {
                    Some("allow more with `--max-rootfs-size`, such as `--max-rootfs-size 64GiB`")
                }
                BudgetError::Entries { .. } => Some("allow more with `--max-rootfs-entries`"),
                _ => None,
            },
            RunError::Input(InputError::Content { source, .. }) => match source.budget()? {
                BudgetError::Bytes { .. } => Some("allow more with `--max-input-size`"),
                BudgetError::Entries { .. } => {
                    Some("allow more with `--max-input-entries`, or mount the input")
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Gives interruption one face, wherever it came through.
    pub(super) fn normalised(self) -> RunError {
        match self {
            RunError::Rootfs(RootfsError::Interrupted { .. })
            | RunError::Sandbox(SandboxError::Interrupted) => RunError::Interrupted,
            error => error,
        }
    }

    /// Whether the kernel refused a FUSE file system of the sandbox.
    pub(super) fn is_fuse_refused(&self) -> bool {
        matches!(
            self,
            RunError::Sandbox(SandboxError::Stage { is_fuse: true, .. })
        )
    }

    /// Whether the import of the output has reached its deadline.
    pub(super) fn is_import_deadline(&self) -> bool {
        match self {
            RunError::Output(OutputError::Import(source)) => {
                matches!(source.budget(), Some(BudgetError::Deadline))
            }
            _ => false,
        }
    }

    /// Whether the program was ended by a limit of its own, not by the time of the whole run.
    pub(super) fn is_program_limit(&self) -> bool {
        matches!(
            self,
            RunError::Sandbox(SandboxError::Limit { hit, .. }) if hit.limit != Limit::TotalTimeout
        )
    }
}
