//! Reports of bubblewrap while it runs: one JSON object a line.

use std::fs::File;
use std::io::{self, Read};

use rustix::process::Pid;
use serde::Deserialize;

/// Most bytes of one line. Bubblewrap writes about 200.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// The reader of the report, and what it said so far.
pub(super) struct Status {
    /// Does not block.
    pipe: File,
    /// The start of a line whose end is still to come.
    line: Vec<u8>,
    ended: bool,
    child: Option<i32>,
    exit_code: Option<i32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Line {
    child_pid: Option<i32>,
    exit_code: Option<i32>,
}

impl Status {
    /// Reads from `pipe`, which must not block.
    pub(super) fn new(pipe: File) -> Status {
        Status {
            pipe,
            line: Vec::new(),
            ended: false,
            child: None,
            exit_code: None,
        }
    }

    /// The pipe to wait for; `None` once it has ended.
    pub(super) fn pipe(&self) -> Option<&File> {
        (!self.ended).then_some(&self.pipe)
    }

    /// The first process of the sandbox, once, when it is known.
    pub(super) fn take_child(&mut self) -> Option<Pid> {
        self.child.take().and_then(Pid::from_raw)
    }

    /// The program's exit code, 128 and the signal's number where one killed it.
    pub(super) fn exit_code(&self) -> Option<i32> {
        self.exit_code
    }

    /// Takes what is there.
    pub(super) fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        while !self.ended {
            match self.pipe.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(length) => self.take(&buffer[..length])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        for byte in bytes {
            match byte {
                b'\n' => self.end_line()?,
                _ if self.line.len() == MAX_LINE_BYTES => {
                    return Err(io::Error::other("a status line of bubblewrap is too long"));
                }
                _ => self.line.push(*byte),
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> io::Result<()> {
        let line: Line = serde_json::from_slice(&self.line)?;
        self.line.clear();
        self.child = line.child_pid.or(self.child);
        self.exit_code = line.exit_code.or(self.exit_code);
        Ok(())
    }
}
