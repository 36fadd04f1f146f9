//! Whether bubblewrap can make a sandbox here, and a program be confined in it.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::pipe::{PipeFlags, pipe_with};

use super::bwrap::not_started;
use super::error::SandboxError;
use super::masks::covered;
use super::probe::Bubblewrap;
use super::stub::{Failure, Orders, Said, Stub};
use super::{plan, seccomp, stage, streams};
use crate::process::{self, Bounds, Scene, Streams};

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
        let (reader, output) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
        let streams = Streams::new(streams::empty()?, output);
        let unconfined = |error| TrialError::Confinement(SandboxError::Confine(error));
        let string = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::from);
        let orders = Orders {
            arguments: vec![
                string(self.path.as_os_str().as_bytes())?,
                string(b"--version")?,
            ],
            environment: Vec::new(),
            working_directory: c"/".to_owned(),
            is_init: false,
            filters: seccomp::programs(false),
            processes: 0,
            terminal: None,
        };
        let (stub, meeting) = Stub::new(&orders).map_err(unconfined)?;
        // It is there on every system, no program is in it, and only the sandbox sees it covered.
        let directory = Path::new("/sys");
        let arguments = plan::trial(self.version, &stage::trial_devices(directory), stub.path());
        let stage = stage::trial(directory);
        let scene = Scene {
            stage: stage.clone(),
            meeting,
            covered: covered()?,
        };
        let child = process::spawn(
            &self.path,
            &arguments,
            streams,
            &stub.inherited(),
            Some(scene),
            Bounds::default(),
        );
        let child = child.map_err(|error| match not_started(self, &stage, error) {
            SandboxError::Stage { action, source, .. } => {
                TrialError::Sandbox(format!("cannot {action}: {source}"))
            }
            SandboxError::Spawn { source, .. } => source.into(),
            error => TrialError::Sandbox(error.to_string()),
        })?;
        let mut voice = stub.started();
        let mut said = Vec::new();
        File::from(reader).take(MAX_SAID).read_to_end(&mut said)?;
        let (ended, _) = process::wait(&child.supervisor, &child.report)?;
        let mut failure = None;
        while let Some(said) = voice.take()? {
            if let Said::Failed(why) = said {
                failure = Some(why);
            }
        }
        match failure {
            Some(Failure::Confine(action, source)) => {
                Err(TrialError::Confinement(SandboxError::NotConfined {
                    action,
                    source,
                }))
            }
            None if ended.success() => Ok(()),
            _ => {
                let said = String::from_utf8_lossy(&said);
                let said = said.lines().last().unwrap_or("it says nothing");
                Err(TrialError::Sandbox(said.to_owned()))
            }
        }
    }
}
