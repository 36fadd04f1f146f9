//! How a program is started and ended: options of `run`.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::Args;
use ipfs_exec_executor::job::{Job, JobError};
use ipfs_exec_executor::sandbox::StandardInput;
use ipfs_exec_node::Cid;

use crate::duration;

/// Options that say how the program is started.
#[derive(Args, Debug)]
#[command(next_help_heading = "Program options")]
pub(crate) struct ProgramArgs {
    /// Start the program at this absolute path of the root file system instead of /sbin/init. Process 1
    /// is then a small init of ipfs-exec
    #[arg(long, value_name = "PATH")]
    entrypoint: Option<OsString>,

    /// Start the program in this directory of the sandbox
    #[arg(long, value_name = "DIR", default_value = "/")]
    workdir: OsString,

    /// Give the program the content of PATH as standard input. PATH is a content path, a local file, or
    /// `-` for the standard input of this command, which is added to the repository first
    #[arg(long, value_name = "PATH", conflicts_with = "interactive")]
    stdin: Option<OsString>,

    /// Pass the standard input of this command on to the program. The run is then not repeatable
    #[arg(short, long)]
    interactive: bool,

    /// Give the program no terminal
    #[arg(short = 'T', long)]
    no_tty: bool,

    /// Time that the program has to end after SIGTERM, SIGINT or SIGHUP. Then it is killed. A program
    /// that does not handle the signal is killed at once
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    stop_timeout: Duration,
}

impl ProgramArgs {
    /// The content or file that the user named as the program's standard input.
    pub(crate) fn stdin(&self) -> Option<&OsStr> {
        self.stdin.as_deref()
    }

    /// The standard input of a program whose job names none.
    pub(crate) fn standard_input(&self) -> StandardInput {
        match (self.interactive, self.no_tty) {
            (false, false) => StandardInput::Terminal,
            (true, false) => StandardInput::Inherited,
            (false, true) => StandardInput::Empty,
            (true, true) => StandardInput::Piped,
        }
    }

    pub(crate) fn stop_timeout(&self) -> Duration {
        self.stop_timeout
    }

    /// The job with this standard input and what the options say.
    pub(crate) fn complete(&self, job: Job, stdin: Option<Cid>) -> Result<Job, JobError> {
        let mut job = job.with_working_directory(self.workdir.clone())?;
        if let Some(path) = &self.entrypoint {
            job = job.with_entrypoint(path.clone())?;
        }
        Ok(match stdin {
            Some(file) => job.with_stdin(file),
            None => job,
        })
    }
}
