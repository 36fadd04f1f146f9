//! Executing a plan: start bubblewrap, follow it, and see to it that nothing lives on.
//!
//! ```text
//! we --- bwrap (monitor) --- init = process 1 of the sandbox --- ...
//!    status pipe: `child-pid`, then `exit-code`
//!    gate: a pipe with one byte, gone once the sandbox is complete
//! ```
//!
//! The kernel lets process 1 of a process namespace end only after all others in it have. So when
//! its descriptor says that it ended, `/output` is at rest. Nothing here waits for time to pass.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Child, ExitStatus};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{Errno, ioctl_fionread};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::error::SandboxError;
use super::plan::{HostPaths, Plan, StatusDescriptors};
use super::probe::{Bubblewrap, forbidding_setting};
use super::status::Status;
use super::streams;
use crate::job::Job;
use crate::process::{self, Streams};

/// How a program ended.
///
/// Bubblewrap reports a death by signal N as exit code 128 + N, as shells do, so a program that
/// exits with such a code by itself looks the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(u8);

impl Exit {
    /// 0 to 255; 128 + N after a death by signal N.
    pub fn code(self) -> u8 {
        self.0
    }

    /// The signal that such a code stands for.
    pub fn signal(self) -> Option<u8> {
        const LAST_SIGNAL: u8 = 64;
        self.0
            .checked_sub(128)
            .filter(|signal| (1..=LAST_SIGNAL).contains(signal))
    }

    /// Whether the program says that it succeeded.
    pub fn success(self) -> bool {
        self.0 == 0
    }
}

/// Runs `job` and waits for its end. The program's stdin is ours, its stdout and stderr are our
/// stderr; what is no terminal or pipe of these is relayed by threads.
///
/// `cancel` becomes readable when the program is to be killed. The calling thread must live as
/// long as the program: the kernel ties their lives together.
///
/// When this returns, with or without an error, all processes of the sandbox are dead.
///
/// # Errors
/// [`SandboxError`]. That the program failed is none.
pub fn execute(
    bubblewrap: &Bubblewrap,
    job: &Job,
    paths: &HostPaths<'_>,
    cancel: Option<BorrowedFd<'_>>,
) -> Result<Exit, SandboxError> {
    let (streams, output) = streams::open().map_err(SandboxError::Follow)?;
    let (gate, status, mut running) = start(bubblewrap, job, paths, streams)?;
    let mut status = Status::new(status);
    let cancelled = running
        .follow(&mut status, cancel)
        .map_err(SandboxError::Follow)?;
    let ended = running.end().map_err(SandboxError::Follow)?;
    status.read().map_err(SandboxError::Follow)?;
    // Nobody writes to it any more: what the program printed is out before its end is told.
    drop(output);
    if cancelled {
        return Err(SandboxError::Interrupted);
    }
    match status.exit_code() {
        Some(code) => u8::try_from(code)
            .map(Exit)
            .map_err(|_| SandboxError::NoStatus),
        None => Err(failure(&gate, ended)),
    }
}

/// Starts bubblewrap. Gives the reading ends of the gate and of the status pipe.
fn start(
    bubblewrap: &Bubblewrap,
    job: &Job,
    paths: &HostPaths<'_>,
    streams: Streams,
) -> Result<(OwnedFd, File, Running), SandboxError> {
    let follow = |error: Errno| SandboxError::Follow(error.into());
    let gate = open_gate().map_err(SandboxError::Follow)?;
    let (status, report) = pipe_with(PipeFlags::CLOEXEC).map_err(follow)?;
    fcntl_setfl(&status, OFlags::NONBLOCK).map_err(follow)?;
    let descriptors = StatusDescriptors {
        status: report.as_raw_fd(),
        gate: gate.as_raw_fd(),
    };
    let plan = Plan::new(job, paths, descriptors, bubblewrap.version)?;
    let inherited = [report.as_fd(), gate.as_fd()];
    let child = process::spawn(&bubblewrap.path, plan.arguments(), streams, &inherited).map_err(
        |source| SandboxError::Spawn {
            program: bubblewrap.path.clone(),
            source,
        },
    )?;
    Ok((
        gate,
        File::from(status),
        Running::new(child).map_err(SandboxError::Follow)?,
    ))
}

/// A pipe that holds one byte, and no end to write more.
fn open_gate() -> io::Result<OwnedFd> {
    let (gate, byte) = pipe_with(PipeFlags::CLOEXEC)?;
    File::from(byte).write_all(&[0])?;
    Ok(gate)
}

/// Why there is no exit code.
fn failure(gate: &OwnedFd, ended: ExitStatus) -> SandboxError {
    let complete = ioctl_fionread(gate).is_ok_and(|bytes| bytes == 0);
    if ended.code().is_none() {
        SandboxError::NoStatus
    } else if complete {
        SandboxError::NotExecuted
    } else {
        SandboxError::SetUp {
            setting: forbidding_setting(),
        }
    }
}

/// Bubblewrap with its sandbox. Dropped, it kills both and waits for them.
struct Running {
    monitor: Child,
    monitor_descriptor: OwnedFd,
    /// Process 1 of the sandbox, once it is known.
    init: Option<OwnedFd>,
    ended: bool,
}

impl Running {
    fn new(mut monitor: Child) -> io::Result<Running> {
        // Not waited for yet, so the number still means this child.
        match open_process(Pid::from_child(&monitor)) {
            Ok(monitor_descriptor) => Ok(Running {
                monitor,
                monitor_descriptor,
                init: None,
                ended: false,
            }),
            Err(error) => {
                monitor.kill()?;
                monitor.wait()?;
                Err(error)
            }
        }
    }

    /// Follows bubblewrap until it ends. Gives whether the program was killed for `cancel`.
    fn follow(&mut self, status: &mut Status, cancel: Option<BorrowedFd<'_>>) -> io::Result<bool> {
        let mut cancelled = false;
        loop {
            let wanted = cancel.filter(|_| !cancelled);
            let ready = wait(&self.monitor_descriptor, status, wanted)?;
            status.read()?;
            if self.init.is_none() {
                self.init = self.find_init(status.child())?;
            }
            cancelled |= ready.cancel;
            if ready.monitor {
                return Ok(cancelled);
            }
            // Before process 1 is known bubblewrap has nothing to wait for, so it soon is.
            if let (true, Some(init)) = (cancelled, &self.init) {
                kill(init)?;
            }
        }
    }

    /// Opens process 1 of the sandbox. Its number may have been given to another process
    /// meanwhile, unless it is still a child of bubblewrap after it was opened.
    fn find_init(&self, pid: Option<Pid>) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = pid else { return Ok(None) };
        let descriptor = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Ok(None),
            result => result?,
        };
        let monitor = Pid::from_child(&self.monitor);
        Ok((parent_of(pid) == Some(monitor)).then_some(descriptor))
    }

    /// Waits until bubblewrap and all of its sandbox are gone, killing what is left of them.
    fn end(&mut self) -> io::Result<ExitStatus> {
        kill(&self.monitor_descriptor)?;
        let status = self.monitor.wait()?;
        if let Some(init) = &self.init {
            // Usually gone already. It outlives bubblewrap when somebody killed that.
            kill(init)?;
            wait_for_end(init)?;
        }
        self.ended = true;
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended
            && let Err(error) = self.end()
        {
            tracing::debug!(%error, "cannot end a sandbox");
        }
    }
}

/// What a call of [`wait`] found.
struct Ready {
    monitor: bool,
    cancel: bool,
}

/// Waits until bubblewrap ends, reports, or is to be killed.
fn wait(monitor: &OwnedFd, status: &Status, cancel: Option<BorrowedFd<'_>>) -> io::Result<Ready> {
    let mut events = vec![PollFd::new(monitor, PollFlags::IN)];
    events.extend(cancel.map(|cancel| PollFd::from_borrowed_fd(cancel, PollFlags::IN)));
    events.extend(status.pipe().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    poll_until_ready(&mut events)?;
    let is_ready = |event: &PollFd<'_>| !event.revents().is_empty();
    Ok(Ready {
        monitor: is_ready(&events[0]),
        cancel: cancel.is_some() && is_ready(&events[1]),
    })
}

fn wait_for_end(process: &OwnedFd) -> io::Result<()> {
    poll_until_ready(&mut [PollFd::new(process, PollFlags::IN)])
}

fn poll_until_ready(events: &mut [PollFd<'_>]) -> io::Result<()> {
    loop {
        match poll(events, None) {
            Err(Errno::INTR) => {}
            result => return Ok(result.map(drop)?),
        }
    }
}

fn open_process(pid: Pid) -> io::Result<OwnedFd> {
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Kills; that the process is gone already is fine.
fn kill(process: &OwnedFd) -> io::Result<()> {
    match pidfd_send_signal(process, Signal::KILL) {
        Err(Errno::SRCH) => Ok(()),
        result => Ok(result?),
    }
}

/// The parent of a process; `None` if there is no such process.
fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The command name stands in parentheses and may hold anything, also parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    Pid::from_raw(fields.split_whitespace().nth(1)?.parse().ok()?)
}
