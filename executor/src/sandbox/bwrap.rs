//! Executing a plan: start bubblewrap, follow it, and see to it that nothing lives on.
//!
//! ```text
//! we --- supervisor --- bwrap (monitor) --- init = process 1 of the sandbox --- ...
//!    leash: a pipe; closed, it has the supervisor kill everything
//!    status: a pipe, on which the monitor tells `exit-code`
//!    meeting: a socket between the supervisor and the stub, before the program
//!    voice: a socket on which the stub tells what it could not do, and sends its terminal
//! ```
//!
//! The kernel lets process 1 of a process namespace end only after all others in it have, and the
//! supervisor ends after process 1. So when the supervisor has ended, `/output` is at rest.
//! Nothing here waits for time to pass.

use std::env;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, ExitStatus};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipfs_exec_node::cancel::{Cancel, NEVER};
use ipfs_exec_node::path::escape;
use ipfs_exec_node::unixfs::FileReader;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;

use super::error::SandboxError;
use super::masks::covered;
use super::obstacle::{hint_for_message, hint_for_refusal};
use super::plan::Plan;
use super::probe::Bubblewrap;
use super::relay::{LAST_PATIENCE, timespec};
use super::seccomp;
use super::stage::{HostPaths, InputSource, RootSource, stage};
use super::status::Status;
use super::stop::Stopping;
use super::streams::{self, Relays, StandardInput};
use super::stub::{Failure, Orders, Said, Stub, Voice};
use crate::caller::Caller;
use crate::job::Job;
use crate::limits::{Directories, Held, Hit, LimitError, Limits, Usage, Watch};
use crate::mount::SandboxMount;
use crate::process::{
    self, Bounds, Clock, Covered, Part, Place, ProcessUsage, Scene, SpawnError, Stage, Staged,
    Step, Streams, Supervised,
};

/// Bytes that are written to the program's standard input at a time: the usual capacity of a pipe.
const FEED_BYTES: usize = 64 << 10;

/// The variable that names the kind of the user's terminal. It is no part of a job, and only a program with a
/// terminal gets it.
const TERMINAL_KIND: &str = "TERM";

/// How long bubblewrap may take to make a sandbox: milliseconds are usual.
const START_TIMEOUT: Duration = Duration::from_secs(30);

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

/// How a program is run that is no part of the job.
#[derive(Clone, Copy)]
pub struct Conduct<'c> {
    /// Where the program's standard input comes from, unless the job has one.
    pub stdin: StandardInput,
    /// Who may want the end.
    pub caller: Option<&'c dyn Caller>,
    /// How long a program may take that was asked to end by a signal.
    pub stop_timeout: Duration,
}

/// Runs `job` and waits for its end. The program's stdin is `content`, or what `conduct` says; its stdout
/// and stderr are our stderr; threads relay them.
///
/// The program is killed when it hits one of its `limits`, and where the caller wants the end: see
/// [`Caller`]. `mounts` are made in the sandbox and served meanwhile.
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
    content: Option<&mut FileReader<'_>>,
    conduct: &Conduct<'_>,
) -> Result<Ended, SandboxError> {
    let (output, tmp) = paths.written();
    let directories = Directories {
        output: &output,
        tmp: &tmp,
    };
    let limits = Limits {
        own_processes: job.has_entrypoint().into(),
        ..*limits
    };
    // Takes as long as all that is prepared meanwhile.
    let covering = thread::Builder::new().name("sandbox-covers".to_owned());
    let covering = covering.spawn(covered).map_err(SandboxError::Thread)?;
    let mut watch = Watch::new(&limits, directories, &bubblewrap.path)?;
    let stdin = match content {
        Some(_) => StandardInput::Content,
        None => conduct.stdin,
    };
    let (streams, mut relays) = streams::open(stdin, watch.log()).map_err(SandboxError::Follow)?;
    let bounds = watch.bounds();
    let mut orders = Orders {
        filters: seccomp::programs(bounds.cpus.is_some()),
        processes: watch.most_processes(),
        terminal: relays.settings(),
        ..Orders::of(job)
    };
    if let Some(kind) = env::var_os(TERMINAL_KIND).filter(|_| relays.settings().is_some()) {
        orders.add_variable(TERMINAL_KIND, &kind);
    }
    watch.prepare().map_err(LimitError::Watch)?;
    let Started {
        mut voice,
        status,
        running,
        devices,
        clock,
        staged,
    } = start(
        bubblewrap, paths, mounts, streams, &orders, bounds, covering,
    )
    .map_err(|error| out_of_memory(error, &watch))?;
    let supervisor = running.supervisor.id();
    watch.add_devices(&[staged.device]);
    watch.start(supervisor, clock).map_err(LimitError::Watch)?;
    let mut status = Status::new(status);
    let mut failure = None;
    let mut stopping = Stopping::new(conduct.caller, conduct.stop_timeout, job.has_entrypoint());
    let fed = relays.take_feed().zip(content);
    let stand_in = paths.stand_in().filter(|_| staged.is_stand_in(Part::Root));
    let mounts: Vec<_> = stand_in.into_iter().chain(mounts.iter().copied()).collect();
    let (stopped, ended, used) = thread::scope(|scope| {
        let helper = |name: &str| thread::Builder::new().name(name.to_owned());
        let feeding = fed
            .map(|(to, from)| helper("sandbox-feed").spawn_scoped(scope, move || feed(from, &to)));
        let feeding = feeding.transpose().map_err(SandboxError::Thread)?;
        let mut serving = Vec::new();
        for (mount, device) in mounts.iter().zip(devices) {
            match helper("sandbox-mount").spawn_scoped(scope, || mount.serve(device)) {
                Ok(thread) => serving.push(thread),
                Err(error) => {
                    // Without its server the sandbox would wait for ever.
                    drop(running);
                    mounts.iter().for_each(|mount| mount.stop());
                    return Err(SandboxError::Thread(error));
                }
            }
        }
        let ears = Ears {
            voice: &mut voice,
            relays: &mut relays,
            failure: &mut failure,
            start_deadline: Instant::now().checked_add(START_TIMEOUT),
        };
        let followed = follow_to_end(running, &mut status, &mut watch, ears, &mut stopping);
        // Nobody is left who could read.
        mounts.iter().for_each(|mount| mount.stop());
        let mut failed = None;
        for served in serving {
            let served = served.join().expect("the server does not panic");
            failed = failed.or(served.err());
        }
        let followed = followed.map_err(SandboxError::Follow)?;
        if let Some(feeding) = feeding {
            let fed = feeding.join().expect("the feeding thread does not panic");
            fed.map_err(SandboxError::StandardInput)?;
        }
        failed.map_or(Ok(followed), |error| Err(SandboxError::Mount(error)))
    })?;
    status.read().map_err(SandboxError::Follow)?;
    let is_interrupted = stopped.is_none() && stopping.end(status.exit_code());
    // What the program printed is out before its end is told.
    match stopped {
        None if !is_interrupted => {
            let cancel = conduct.caller.map_or(&NEVER, Caller::cancel);
            relays.finish(&cancel.until(watch.deadline()));
        }
        _ => relays.finish(&NEVER.until(Instant::now().checked_add(LAST_PATIENCE))),
    }
    let is_repeatable = relays.are_repeatable();
    let printed = relays.first_output();
    drop(relays);
    let usage = watch.usage(&used);
    let hit = match stopped {
        None if is_interrupted => return Err(SandboxError::Interrupted),
        Some(Stopped::Cancelled) => return Err(SandboxError::Interrupted),
        Some(Stopped::Hanging) => {
            return Err(SandboxError::Hanging {
                program: bubblewrap.path.clone(),
                seconds: START_TIMEOUT.as_secs(),
            });
        }
        Some(Stopped::Limit(hit)) => Some(*hit),
        None => {
            let was_killed = status.exit_code() == Some(KILLED);
            watch.last_look(was_killed).map_err(LimitError::Watch)?
        }
    };
    if let Some(hit) = hit {
        let usage = Box::new(usage);
        return Err(SandboxError::Limit { hit, usage });
    }
    if let Some(failure) = failure {
        let error = match failure {
            Failure::Execute(source) => SandboxError::NotExecuted(source),
            Failure::Enter(source) => SandboxError::WorkingDirectory {
                path: escape(job.working_directory().as_bytes()),
                source,
            },
            Failure::Confine(action, source) => SandboxError::NotConfined { action, source },
        };
        return Err(out_of_memory(error, &watch));
    }
    match status.exit_code() {
        Some(code) => Ok(Ended {
            exit: u8::try_from(code)
                .map(Exit)
                .map_err(|_| SandboxError::NoStatus)?,
            usage,
            held: watch.held().clone(),
            isolation: Isolation::of(staged, paths),
            is_repeatable,
        }),
        None => Err(match watch.unexplained_end() {
            Some(hit) => SandboxError::Limit {
                hit,
                usage: Box::new(usage),
            },
            None => no_exit_code(ended, &printed),
        }),
    }
}

/// The same error, or the limit on memory where that is why the kernel had none for the start.
fn out_of_memory(error: SandboxError, watch: &Watch) -> SandboxError {
    let source = match &error {
        SandboxError::Spawn { source, .. }
        | SandboxError::Stage { source, .. }
        | SandboxError::NotConfined { source, .. }
        | SandboxError::NotExecuted(source) => source,
        _ => return error,
    };
    if source.kind() != io::ErrorKind::OutOfMemory {
        return error;
    }
    match watch.unexplained_end() {
        Some(hit) => SandboxError::Limit {
            hit,
            usage: Box::new(watch.usage(&ProcessUsage::default())),
        },
        None => error,
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
    /// What of the sandbox was the run's own.
    pub isolation: Isolation,
    /// Whether the program had no input that the job does not name: a terminal, or the caller's.
    pub is_repeatable: bool,
}

/// By what a part of the sandbox was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Shown {
    /// An overlay: its inodes are the run's own.
    Overlay,
    /// FUSE: its inodes are the run's own.
    Fuse,
    /// A bind mount, where the kernel or the file system has no overlays, and for the root file system no
    /// FUSE either: runs that share it see locks and leases of each other, and the program sees the path of
    /// the repository.
    Bind,
    /// A copy on disk, where nothing can be mounted: its inode numbers, times and order are the disk's, and
    /// so is what a program makes of them.
    Copy,
    /// Devices that were made for the run.
    Own,
    /// Devices of the host, where the user may make none.
    Host,
}

/// What of the sandbox was the run's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
#[non_exhaustive]
pub struct Isolation {
    pub root: Shown,
    pub input: Shown,
    pub output: Shown,
    pub tmp: Shown,
    pub devices: Shown,
}

impl Isolation {
    fn of(staged: Staged, paths: &HostPaths<'_>) -> Isolation {
        let overlay = |part| match staged.is_overlay(part) {
            true => Shown::Overlay,
            false => Shown::Bind,
        };
        Isolation {
            root: match paths.root {
                RootSource::Unpacked { .. } if staged.is_stand_in(Part::Root) => Shown::Fuse,
                RootSource::Unpacked { .. } => overlay(Part::Root),
                RootSource::Mounted { .. } => Shown::Fuse,
            },
            input: match paths.input {
                InputSource::Mounted => Shown::Fuse,
                InputSource::Exported(_) => Shown::Copy,
            },
            output: overlay(Part::Writable),
            tmp: overlay(Part::Writable),
            devices: match staged.has_own_devices {
                true => Shown::Own,
                false => Shown::Host,
            },
        }
    }
}

/// Why a program was killed.
#[derive(Clone, Debug)]
enum Stopped {
    Cancelled,
    /// Bubblewrap did not make a sandbox in time.
    Hanging,
    Limit(Box<Hit>),
}

/// Why the program was killed, if it was, how bubblewrap ended and what was used; all is dead then.
fn follow_to_end(
    mut running: Running,
    status: &mut Status,
    watch: &mut Watch,
    mut ears: Ears<'_>,
    stopping: &mut Stopping<'_>,
) -> io::Result<(Option<Stopped>, ExitStatus, ProcessUsage)> {
    let stopped = running.follow(status, watch, &mut ears, stopping)?;
    let (ended, used) = running.end()?;
    ears.listen()?;
    Ok((stopped, ended, used))
}

/// What listens to the stub.
struct Ears<'e> {
    voice: &'e mut Voice,
    relays: &'e mut Relays,
    /// Why it did not become the program.
    failure: &'e mut Option<Failure>,
    /// When bubblewrap has had its time to make a sandbox, until that is complete.
    start_deadline: Option<Instant>,
}

impl Ears<'_> {
    fn listen(&mut self) -> io::Result<()> {
        while let Some(said) = self.voice.take()? {
            match said {
                Said::Terminal(master) => self.relays.connect(master)?,
                Said::Complete => self.start_deadline = None,
                Said::Failed(why) => *self.failure = Some(why),
            }
        }
        Ok(())
    }
}

/// Bubblewrap, and what it was started with.
struct Started {
    voice: Voice,
    /// By which it reports.
    status: File,
    running: Running,
    /// Of what is mounted.
    devices: Vec<OwnedFd>,
    clock: Option<Clock>,
    staged: Staged,
}

/// Starts bubblewrap.
fn start(
    bubblewrap: &Bubblewrap,
    paths: &HostPaths<'_>,
    mounts: &[&SandboxMount<'_>],
    streams: Streams,
    orders: &Orders,
    bounds: Bounds,
    covering: JoinHandle<io::Result<Covered>>,
) -> Result<Started, SandboxError> {
    let follow = |error: Errno| SandboxError::Follow(error.into());
    let (status, report) = pipe_with(PipeFlags::CLOEXEC).map_err(follow)?;
    fcntl_setfl(&status, OFlags::NONBLOCK).map_err(follow)?;
    let (stub, meeting) = Stub::new(orders).map_err(SandboxError::Confine)?;
    let places = paths.places();
    let plan = Plan::new(bubblewrap.version, &places, report.as_raw_fd(), stub.path())?;
    let requests = mounts.iter().map(|mount| mount.request()).collect();
    let prepare = |action: &str, source| SandboxError::Stage {
        action: action.to_owned(),
        is_fuse: false,
        hint: None,
        source,
    };
    let stage =
        stage(paths, requests).map_err(|error| prepare("look at the root file system", error))?;
    let covered = covering.join().expect("listing does not panic");
    let scene = Scene {
        stage: stage.clone(),
        meeting,
        covered: covered.map_err(|error| prepare("list /proc", error))?,
    };
    let mut inherited = vec![report.as_fd()];
    inherited.extend(stub.inherited());
    let (path, arguments) = (&bubblewrap.path, plan.arguments());
    let child = process::spawn(path, arguments, streams, &inherited, Some(scene), bounds);
    let mut child = child.map_err(|error| not_started(bubblewrap, &stage, error))?;
    let devices = std::mem::take(&mut child.devices);
    let clock = child.clock.take();
    Ok(Started {
        voice: stub.started(),
        status: File::from(status),
        devices,
        clock,
        staged: child.staged,
        running: Running::new(child).map_err(SandboxError::Follow)?,
    })
}

/// Why bubblewrap did not start, in a stage of these steps.
pub(super) fn not_started(
    bubblewrap: &Bubblewrap,
    stage: &Stage,
    error: SpawnError,
) -> SandboxError {
    match error {
        SpawnError::Start(source) => SandboxError::Spawn {
            program: bubblewrap.path.clone(),
            source,
        },
        SpawnError::Stage(place, source) => {
            let step = match place {
                Place::Namespaces => None,
                Place::Step(index) => stage.steps.get(index as usize),
            };
            SandboxError::Stage {
                action: step.map_or_else(
                    || "make a user namespace with mounts of its own".to_owned(),
                    action,
                ),
                is_fuse: matches!(step, Some(Step::Served(_))),
                hint: hint_for_refusal(&source),
                source,
            }
        }
    }
}

/// What a step does, in words.
fn action(step: &Step) -> String {
    let shown = |path: &CString| escape(path.to_bytes());
    match step {
        Step::Directory(path) | Step::File(path, _) | Step::Attributes(path, ..) => {
            format!("make `{}`", shown(path))
        }
        Step::Symlink(target, at) => format!("link `{}` to `{}`", shown(at), shown(target)),
        Step::Device(device) => {
            format!("show `{}` as `{}`", shown(&device.host), shown(&device.at))
        }
        Step::Tmpfs(at, _) | Step::Terminals(at) => format!("mount `{}`", shown(at)),
        Step::Bind(from, at, _) => format!("show `{}` as `{}`", shown(from), shown(at)),
        Step::Served(request) => format!("mount `{}` by FUSE", shown(&request.target)),
        Step::Overlay(overlay) => format!("mount `{}`", shown(&overlay.at)),
    }
}

/// Why there is no exit code, where bubblewrap printed this at first.
fn no_exit_code(ended: ExitStatus, printed: &str) -> SandboxError {
    if ended.code().is_none() {
        SandboxError::NoStatus
    } else {
        SandboxError::SetUp {
            hint: hint_for_message(printed),
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
        ears: &mut Ears<'_>,
        stopping: &mut Stopping<'_>,
    ) -> io::Result<Option<Stopped>> {
        let mut stopped = None;
        loop {
            let is_running = stopped.is_none();
            let start = ears.start_deadline;
            let start = start.map(|end| end.saturating_duration_since(Instant::now()));
            let asked = stopping.cancel().deadline();
            let asked = asked.map(|end| end.saturating_duration_since(Instant::now()));
            let patience = [watch.patience(), stopping.left(), start, asked];
            let patience = patience.into_iter().flatten().min();
            let wishes = Wishes {
                cancel: stopping.cancel(),
                typed: ears.relays.interrupted(),
                signals: stopping.signals(),
            };
            let ready = wait(
                &self.descriptor,
                status,
                ears.voice,
                wishes.while_running(is_running),
                patience.filter(|_| is_running),
            )?;
            status.read()?;
            ears.listen()?;
            if ready.end {
                return Ok(stopped);
            }
            if let Some(first) = status.take_child() {
                ears.relays.set_first(first);
                stopping.set_first(first);
            }
            if !is_running {
                continue;
            }
            if ready.signals || ready.cancel {
                stopping.hand_on();
            }
            let is_cancelled = ready.typed || ready.cancel && stopping.ask() || stopping.is_over();
            let hangs = ears.start_deadline.is_some_and(|end| Instant::now() >= end);
            stopped = match is_cancelled {
                true => Some(Stopped::Cancelled),
                false if hangs => Some(Stopped::Hanging),
                false => watch.look()?.map(|hit| Stopped::Limit(Box::new(hit))),
            };
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

/// What the caller may want.
struct Wishes<'w> {
    /// The end.
    cancel: &'w Cancel,
    /// The end, typed at the program's terminal.
    typed: Option<BorrowedFd<'w>>,
    /// To send signals.
    signals: Option<BorrowedFd<'w>>,
}

impl Wishes<'_> {
    const NONE: Wishes<'static> = Wishes {
        cancel: &NEVER,
        typed: None,
        signals: None,
    };

    fn while_running(self, is_running: bool) -> Self {
        if is_running { self } else { Wishes::NONE }
    }
}

/// What a call of [`wait`] found.
struct Ready {
    end: bool,
    cancel: bool,
    typed: bool,
    signals: bool,
}

/// Waits until everything ended, bubblewrap or the stub reports, the caller wants something, or for as long
/// as there is patience.
fn wait(
    supervisor: &OwnedFd,
    status: &Status,
    voice: &Voice,
    wishes: Wishes<'_>,
    patience: Option<Duration>,
) -> io::Result<Ready> {
    let patience = patience.map(timespec);
    let descriptors = [
        Some(supervisor.as_fd()),
        wishes.typed,
        wishes.signals,
        status.pipe().map(AsFd::as_fd),
        voice.socket().map(AsFd::as_fd),
    ];
    let present = descriptors.iter().flatten();
    let mut events: Vec<_> = present
        .copied()
        .chain(wishes.cancel.descriptors())
        .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN))
        .collect();
    loop {
        match poll(&mut events, patience.as_ref()) {
            Err(Errno::INTR) => {}
            result => {
                result?;
                break;
            }
        }
    }
    let mut ready = events.iter().map(|event| !event.revents().is_empty());
    let [end, typed, signals, ..] =
        descriptors.map(|descriptor| descriptor.is_some() && ready.next() == Some(true));
    Ok(Ready {
        end,
        cancel: wishes.cancel.is_cancelled(),
        typed,
        signals,
    })
}

/// Writes what `from` reads to the program's standard input, which may end before.
fn feed(from: &mut FileReader<'_>, to: &OwnedFd) -> Result<(), io::Error> {
    let mut buffer = vec![0; FEED_BYTES];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            match rustix::io::write(to, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                // No process can read it any more.
                Err(Errno::PIPE) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
