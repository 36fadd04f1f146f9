//! What takes the terminal for the program, and how it tells that it could not.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::ioctl_fionread;
use rustix::pipe::{PipeFlags, pipe_with};

use super::bwrap::hold_program;
use crate::process;

/// A program that is executed in place of `/sbin/init`, and executes that.
pub(super) struct Opener {
    program: File,
    failures: OwnedFd,
    failure: OwnedFd,
}

impl Opener {
    pub(super) fn new() -> io::Result<Opener> {
        let (failures, failure) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Opener {
            program: hold_program(&process::opener(failure.as_raw_fd()))?,
            failures,
            failure,
        })
    }

    /// The descriptor of the program.
    pub(super) fn number(&self) -> RawFd {
        self.program.as_raw_fd()
    }

    /// What it needs to be handed on.
    pub(super) fn inherited(&self) -> [BorrowedFd<'_>; 2] {
        [self.program.as_fd(), self.failure.as_fd()]
    }

    /// Whether the kernel did not execute what it was to execute.
    pub(super) fn has_failed(&self) -> bool {
        ioctl_fionread(&self.failures).is_ok_and(|bytes| bytes > 0)
    }
}
