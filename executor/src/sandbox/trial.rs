//! Whether bubblewrap can make a sandbox here.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};

use rustix::pipe::{PipeFlags, pipe_with};

use super::held::hold;
use super::plan;
use super::probe::Bubblewrap;
use super::seccomp;
use crate::process::{self, Bounds, Streams};

/// Most bytes of what bubblewrap says.
const MAX_SAID: u64 = 64 << 10;

impl Bubblewrap {
    /// Makes a sandbox as that of a run on the host's own files, in which bubblewrap prints its version.
    ///
    /// # Errors
    /// What bubblewrap says, or the kernel.
    pub(crate) fn try_out(&self) -> Result<(), String> {
        let (succeeded, said) = self.attempt().map_err(|error| error.to_string())?;
        if succeeded {
            return Ok(());
        }
        Err(said.lines().last().unwrap_or("it says nothing").to_owned())
    }

    fn attempt(&self) -> io::Result<(bool, String)> {
        let filters = seccomp::programs(false).map(|program| hold(&program));
        let filters = filters.into_iter().collect::<io::Result<Vec<_>>>()?;
        let numbers = std::array::from_fn(|index| filters[index].as_raw_fd());
        let mut arguments = plan::trial(self.version, numbers);
        arguments.extend([
            self.path.clone().into_os_string(),
            OsString::from("--version"),
        ]);
        let (reader, output) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stdin, _) = pipe_with(PipeFlags::CLOEXEC)?;
        let inherited: Vec<_> = filters.iter().map(AsFd::as_fd).collect();
        let streams = Streams::new(stdin, output);
        let bounds = Bounds::default();
        let child = process::spawn(
            &self.path,
            &arguments,
            streams,
            &inherited,
            Vec::new(),
            bounds,
        )?;
        let mut said = Vec::new();
        File::from(reader).take(MAX_SAID).read_to_end(&mut said)?;
        let (ended, _) = process::wait(&child.supervisor, &child.report)?;
        Ok((ended.success(), String::from_utf8_lossy(&said).into_owned()))
    }
}
