//! Executing a plan: start bubblewrap, follow it, and see to it that nothing lives on.
//!
//! ```text
//! we --- supervisor --- bwrap (monitor) --- init = process 1 of the sandbox --- ...
//!    leash: a pipe; closed, it has the supervisor kill everything
//!    status: a pipe, on which the monitor tells `exit-code`
//!    gate: a pipe that gets one byte once the program is held by its limits
//! ```
//!
//! The kernel lets process 1 of a process namespace end only after all others in it have, and the
//! supervisor ends after process 1. So when the supervisor has ended, `/output` is at rest.
//! Nothing here waits for time to pass.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{Errno, ioctl_fionread};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::error::SandboxError;
use super::held::hold;
use super::masks::masked;
use super::opener::{Failure, Opener};
use super::plan::{self, Descriptors, Host, HostPaths, Plan};
use super::probe::{Bubblewrap, obstacle};
use super::seccomp;
use super::status::Status;
use super::streams::{self, OutputRelay};
use crate::job::Job;
use crate::limits::{Directories, Held, Hit, LimitError, Limits, Usage, Watch};
use crate::mount::SandboxMount;
use crate::process::{self, Bounds, Clock, ProcessUsage, Streams, Supervised};

/// Exit code after a death by SIGKILL.
const KILLED: i32 = 137;

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
/// `cancel` becomes readable when the program is to be killed, as it is when it hits one of its
/// `limits`. `mounts` are made in the sandbox and
/// served meanwhile.
///
/// When this returns, with or without an error, all processes of the sandbox are dead. When this
/// process is killed, they are killed too.
///
/// # Errors
/// [`SandboxError`]. That the program failed is none.
pub fn execute(
    bubblewrap: &Bubblewrap,
    job: &Job,
    paths: &HostPaths<'_>,
    mounts: &[&SandboxMount<'_>],
    limits: &Limits,
    cancel: Option<BorrowedFd<'_>>,
) -> Result<Ended, SandboxError> {
    let directories = Directories {
        output: paths.output,
        tmp: paths.tmp,
    };
    let mut watch = Watch::new(limits, directories, &bubblewrap.path)?;
    let (streams, output) = streams::open(watch.log()).map_err(SandboxError::Follow)?;
    let writable = [paths.output, paths.tmp];
    let opener = Opener::new(&writable, &streams).map_err(SandboxError::Confine)?;
    let bounds = watch.bounds();
    let Started {
        mut gate,
        status,
        running,
        devices,
        clock,
    } = start(bubblewrap, job, paths, mounts, streams, &opener, bounds)?;
    let supervisor = running.supervisor.id();
    watch.start(supervisor, clock).map_err(LimitError::Watch)?;
    let mut status = Status::new(status);
    let (stopped, ended, used) = thread::scope(|scope| {
        let serving: Vec<_> = mounts
            .iter()
            .zip(devices)
            .map(|(mount, device)| scope.spawn(|| mount.serve(device)))
            .collect();
        let followed = follow_to_end(running, &mut status, &mut watch, &mut gate, &output, cancel);
        // Nobody is left who could read.
        mounts.iter().for_each(|mount| mount.stop());
        let mut failed = None;
        for served in serving {
            let served = served.join().expect("the server does not panic");
            failed = failed.or(served.err());
        }
        let followed = followed.map_err(SandboxError::Follow)?;
        failed.map_or(Ok(followed), |error| Err(SandboxError::Mount(error)))
    })?;
    status.read().map_err(SandboxError::Follow)?;
    // Nobody writes to it any more: what the program printed is out before its end is told.
    drop(output);
    let usage = watch.usage(&used);
    let hit = match stopped {
        Some(Stopped::Cancelled) => return Err(SandboxError::Interrupted),
        Some(Stopped::Limit(hit)) => Some(hit),
        None => {
            let was_killed = status.exit_code() == Some(KILLED);
            watch.last_look(was_killed).map_err(LimitError::Watch)?
        }
    };
    if let Some(hit) = hit {
        let usage = Box::new(usage);
        return Err(SandboxError::Limit { hit, usage });
    }
    match opener.failure().map_err(SandboxError::Follow)? {
        None => {}
        Some(Failure::Execute) => return Err(SandboxError::NotExecuted),
        Some(Failure::Confine) => return Err(SandboxError::NotConfined),
    }
    match status.exit_code() {
        Some(code) => Ok(Ended {
            exit: u8::try_from(code)
                .map(Exit)
                .map_err(|_| SandboxError::NoStatus)?,
            usage,
            held: watch.held().clone(),
        }),
        None => Err(match watch.unexplained_end() {
            Some(hit) => SandboxError::Limit {
                hit,
                usage: Box::new(usage),
            },
            None => failure(&gate, ended),
        }),
    }
}

/// How a program ended, and what it took.
#[derive(Clone, Debug)]
pub struct Ended {
    /// How.
    pub exit: Exit,
    /// What it used.
    pub usage: Usage,
    /// By what each limit was held.
    pub held: Held,
}

/// Why a program was killed.
#[derive(Clone, Copy, Debug)]
enum Stopped {
    Cancelled,
    Limit(Hit),
}

/// Why the program was killed, if it was, how bubblewrap ended and what was used; all is dead then.
fn follow_to_end(
    mut running: Running,
    status: &mut Status,
    watch: &mut Watch,
    gate: &mut Gate,
    output: &OutputRelay,
    cancel: Option<BorrowedFd<'_>>,
) -> io::Result<(Option<Stopped>, ExitStatus, ProcessUsage)> {
    let stopped = running.follow(status, watch, gate, output, cancel)?;
    let (ended, used) = running.end()?;
    Ok((stopped, ended, used))
}

/// Bubblewrap, and what it was started with.
struct Started {
    gate: Gate,
    /// By which it reports.
    status: File,
    running: Running,
    /// Of what is mounted.
    devices: Vec<OwnedFd>,
    clock: Option<Clock>,
}

/// Starts bubblewrap.
fn start(
    bubblewrap: &Bubblewrap,
    job: &Job,
    paths: &HostPaths<'_>,
    mounts: &[&SandboxMount<'_>],
    streams: Streams,
    opener: &Opener,
    bounds: Bounds,
) -> Result<Started, SandboxError> {
    let follow = |error: Errno| SandboxError::Follow(error.into());
    let gate = Gate::new().map_err(SandboxError::Follow)?;
    let (status, report) = pipe_with(PipeFlags::CLOEXEC).map_err(follow)?;
    fcntl_setfl(&status, OFlags::NONBLOCK).map_err(follow)?;
    let hold_all = |contents: &[&[u8]]| {
        let held = contents.iter().map(|content| hold(content));
        held.collect::<io::Result<Vec<_>>>()
            .map_err(SandboxError::Follow)
    };
    let programs = seccomp::programs(bounds.cpus.is_some());
    let filters = hold_all(&programs.each_ref().map(Vec::as_slice))?;
    let boot_id = hold(plan::BOOT_ID.as_bytes()).map_err(SandboxError::Follow)?;
    let descriptors = Descriptors {
        status: report.as_raw_fd(),
        gate: gate.pipe.as_raw_fd(),
        filters: std::array::from_fn(|index| filters[index].as_raw_fd()),
        boot_id: boot_id.as_raw_fd(),
        opener: opener.number(),
    };
    let host = Host {
        version: bubblewrap.version,
        masked: &masked(),
    };
    let plan = Plan::new(job, paths, descriptors, host)?;
    let mut inherited = vec![report.as_fd(), gate.pipe.as_fd(), boot_id.as_fd()];
    inherited.extend(filters.iter().map(AsFd::as_fd));
    inherited.extend(opener.inherited());
    let mounts = mounts.iter().map(|mount| mount.request()).collect();
    let (path, arguments) = (&bubblewrap.path, plan.arguments());
    let child = process::spawn(path, arguments, streams, &inherited, mounts, bounds);
    let mut child = child.map_err(|source| SandboxError::Spawn {
        program: bubblewrap.path.clone(),
        source,
    })?;
    let devices = std::mem::take(&mut child.devices);
    let clock = child.clock.take();
    Ok(Started {
        gate,
        status: File::from(status),
        running: Running::new(child).map_err(SandboxError::Follow)?,
        devices,
        clock,
    })
}

/// Keeps a sandbox that is complete from executing its program.
struct Gate {
    pipe: OwnedFd,
    /// To let it go on; gone once that was done.
    closed: Option<File>,
}

impl Gate {
    fn new() -> io::Result<Gate> {
        let (pipe, closed) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Gate {
            pipe,
            closed: Some(closed.into()),
        })
    }

    fn open(&mut self) -> io::Result<()> {
        self.closed
            .take()
            .map_or(Ok(()), |mut gate| gate.write_all(&[0]))
    }

    /// Whether somebody has passed.
    fn was_passed(&self) -> bool {
        self.closed.is_none() && ioctl_fionread(&self.pipe).is_ok_and(|bytes| bytes == 0)
    }
}

/// Why there is no exit code.
fn failure(gate: &Gate, ended: ExitStatus) -> SandboxError {
    let complete = gate.was_passed();
    if ended.code().is_none() {
        SandboxError::NoStatus
    } else if complete {
        // It did not get as far as the program.
        SandboxError::NotConfined
    } else {
        SandboxError::SetUp {
            obstacle: obstacle(),
        }
    }
}

/// Bubblewrap with its sandbox. Dropped, it kills both and waits for them.
struct Running {
    supervisor: Child,
    descriptor: OwnedFd,
    /// Let go, it has everything killed.
    leash: Option<OwnedFd>,
    /// By which the supervisor tells what was used.
    report: OwnedFd,
    ended: Option<(ExitStatus, ProcessUsage)>,
}

impl Running {
    fn new(supervised: Supervised) -> io::Result<Running> {
        let Supervised {
            mut supervisor,
            leash,
            report,
            ..
        } = supervised;
        // Not waited for yet, so the number still means this child.
        match pidfd_open(Pid::from_child(&supervisor), PidfdFlags::empty()) {
            Ok(descriptor) => Ok(Running {
                supervisor,
                descriptor,
                leash: Some(leash),
                report,
                ended: None,
            }),
            Err(errno) => {
                drop(leash);
                supervisor.wait()?;
                Err(errno.into())
            }
        }
    }

    /// Follows bubblewrap until all of it ended. Gives why the program was killed, if it was.
    fn follow(
        &mut self,
        status: &mut Status,
        watch: &mut Watch,
        gate: &mut Gate,
        output: &OutputRelay,
        cancel: Option<BorrowedFd<'_>>,
    ) -> io::Result<Option<Stopped>> {
        let mut stopped = None;
        loop {
            let is_running = stopped.is_none();
            let patience = watch.patience().filter(|_| is_running);
            let cancels = [cancel, output.interrupted()];
            let cancels = cancels.map(|cancel| cancel.filter(|_| is_running));
            let ready = wait(&self.descriptor, status, cancels, patience)?;
            status.read()?;
            if ready.end {
                return Ok(stopped);
            }
            if let Some(first) = status.take_child() {
                watch.hold(first)?;
                output.set_first(first);
                gate.open()?;
            }
            if ready.cancel {
                stopped = Some(Stopped::Cancelled);
            } else if is_running {
                stopped = watch.look()?.map(Stopped::Limit);
            }
            if stopped.is_some() {
                self.leash = None;
            }
        }
    }

    /// Waits until bubblewrap and all of its sandbox are gone, killing what is left of them.
    fn end(&mut self) -> io::Result<(ExitStatus, ProcessUsage)> {
        self.leash = None;
        match self.ended {
            Some(ended) => Ok(ended),
            None => Ok(*self
                .ended
                .insert(process::wait(&self.supervisor, &self.report)?)),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Gives at once where that was waited for before.
        if let Err(error) = self.end() {
            tracing::debug!(%error, "cannot end a sandbox");
        }
    }
}

/// What a call of [`wait`] found.
struct Ready {
    end: bool,
    cancel: bool,
}

/// Waits until everything ended, bubblewrap reports, it is to be killed, or for as long as there is
/// patience.
fn wait(
    supervisor: &OwnedFd,
    status: &Status,
    cancels: [Option<BorrowedFd<'_>>; 2],
    patience: Option<Duration>,
) -> io::Result<Ready> {
    let patience = patience.map(|patience| Timespec {
        tv_sec: patience.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: patience.subsec_nanos().into(),
    });
    let mut events = vec![PollFd::new(supervisor, PollFlags::IN)];
    let cancels = cancels.into_iter().flatten();
    events.extend(cancels.map(|cancel| PollFd::from_borrowed_fd(cancel, PollFlags::IN)));
    let last_cancel = events.len();
    events.extend(status.pipe().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    loop {
        match poll(&mut events, patience.as_ref()) {
            Err(Errno::INTR) => {}
            result => {
                result?;
                break;
            }
        }
    }
    let is_ready = |event: &PollFd<'_>| !event.revents().is_empty();
    Ok(Ready {
        end: is_ready(&events[0]),
        cancel: events[1..last_cancel].iter().any(is_ready),
    })
}
