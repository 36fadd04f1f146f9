//! Whether bubblewrap can make a sandbox here, and a program be confined in it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};

use rustix::pipe::{PipeFlags, pipe_with};

use super::error::SandboxError;
use super::held::hold;
use super::opener::{Failure, Opener};
use super::plan;
use super::probe::Bubblewrap;
use super::seccomp;
use crate::process::{self, Bounds, Streams};

/// Most bytes of what bubblewrap says.
const MAX_SAID: u64 = 64 << 10;

/// What a run would fail for.
#[derive(Debug)]
pub(crate) enum TrialError {
    /// No sandbox can be made: what bubblewrap says, or the kernel.
    Sandbox(String),
    /// No program can be confined in one.
    Confinement(SandboxError),
}

impl From<io::Error> for TrialError {
    fn from(error: io::Error) -> TrialError {
        TrialError::Sandbox(error.to_string())
    }
}

impl Bubblewrap {
    /// Makes a sandbox as that of a run on the host's own files, in which bubblewrap prints its version.
    pub(crate) fn try_out(&self) -> Result<(), TrialError> {
        let filters = seccomp::programs(false).map(|program| hold(&program));
        let filters = filters.into_iter().collect::<io::Result<Vec<_>>>()?;
        let numbers = std::array::from_fn(|index| filters[index].as_raw_fd());
        let (reader, output) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
        let (stdin, _) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
        let streams = Streams::new(stdin, output);
        let unconfined = |error| TrialError::Confinement(SandboxError::Confine(error));
        let opener = Opener::new(&[], &streams).map_err(unconfined)?;
        let mut arguments = plan::trial(self.version, numbers, opener.number());
        arguments.extend([
            self.path.clone().into_os_string(),
            OsString::from("--version"),
        ]);
        let mut inherited: Vec<_> = filters.iter().map(AsFd::as_fd).collect();
        inherited.extend(opener.inherited());
        let child = process::spawn(
            &self.path,
            &arguments,
            streams,
            &inherited,
            Vec::new(),
            Bounds::default(),
        )?;
        let mut said = Vec::new();
        File::from(reader).take(MAX_SAID).read_to_end(&mut said)?;
        let (ended, _) = process::wait(&child.supervisor, &child.report)?;
        match opener.failure()? {
            Some(Failure::Confine) => Err(TrialError::Confinement(SandboxError::NotConfined)),
            None if ended.success() => Ok(()),
            _ => {
                let said = String::from_utf8_lossy(&said);
                let said = said.lines().last().unwrap_or("it says nothing");
                Err(TrialError::Sandbox(said.to_owned()))
            }
        }
    }
}
