//! Children that inherit nothing by accident and die with this process.
//!
//! Two invariants hold. First, the child starts with descriptors 0, 1, 2 and the named ones, default signal
//! dispositions, an empty signal mask and umask 022. The descriptors, dispositions, mask and umask that this
//! process has from its own parent do not matter. Second, the child and all processes that it started die
//! when this process lets the leash go or is killed, at any moment.
//!
//! ```text
//! this process ---(leash)--- supervisor --- child --- ...
//! ```
//!
//! The kernel can kill a child with its parent (`PR_SET_PDEATHSIG`), but only after the child has asked for
//! that. If the parent dies before, the child goes on alone. So a supervisor stands between this process and
//! the child. The supervisor inherits such orphans. Its own end of a pipe tells it that this process is gone.
//!
//! This is the only module of the crate that holds unsafe code. Three kinds of code need it: code between
//! `fork` and `exec`, code that runs in a sandbox before the program, and system calls that no safe library
//! has.
#![expect(
    unsafe_code,
    reason = "code between fork and exec needs `pre_exec` and libc's calls"
)]

mod attributes;
mod bounds;
mod clock;
mod cover;
mod fd_passing;
mod inherited;
mod landlock;
mod namespace;
mod realtime;
mod rights;
mod signal_sets;
mod stage;
mod supervisor;
mod usage;

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::ptr;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal};
use rustix::termios::Termios;

pub(crate) use bounds::{Bounds, GroupEntry};
pub(crate) use clock::Clock;
pub(crate) use cover::Covered;
pub(crate) use fd_passing::{open as socket_pair, receive_bytes};
pub use inherited::stdout_was_closed;
pub(crate) use landlock::{REFERS, Restriction, SCOPES, landlock_version};
pub(crate) use realtime::RealtimePriority;
pub(crate) use rights::{open_with_all_rights, with_all_rights};
pub(crate) use signal_sets::{signal_bit, signal_sets};
pub(crate) use stage::{
    BOOT_ID, Device, EMPTY_DIRECTORY, EMPTY_FILE, Overlay, Part, Place, Stage, Staged, Step,
};
pub(crate) use usage::{ProcessUsage, wait};

use attributes::Courtesy;
use cover::Covers;
use fd_passing::Note;
use namespace::Mapping;
use supervisor::Meeting;

/// Files that the child creates are writable by their owner only, whatever the caller's umask.
const UMASK: u32 = 0o022;

/// First descriptor that is not one of the standard three.
const FIRST_EXTRA_DESCRIPTOR: libc::c_uint = 3;

/// Highest signal number of Linux, real-time signals included.
const LAST_SIGNAL: libc::c_long = 64;

/// A `struct sigaction` of the kernel that asks for the default disposition.
const DEFAULT_ACTION: [u64; 4] = [0; 4];

/// Flag of `clone3`, which the type of libc's constant cannot hold.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Size of the kernel's signal set.
const SIGNAL_SET_BYTES: usize = 8;

/// A file system that a process serves over a device, and that the child is to see.
///
/// The kernel takes a device only from the user namespace that it was opened in. So the child opens
/// it, in place of a descriptor that we hold, whose number the options can name.
#[derive(Clone, Debug)]
pub(crate) struct MountRequest {
    /// Where, in the stage.
    pub(crate) target: CString,
    /// Whether a file is mounted, and not a directory.
    pub(crate) is_file: bool,
    /// The type of the file system.
    pub(crate) kind: &'static CStr,
    /// The device.
    pub(crate) device: &'static CStr,
    /// The descriptor that becomes one of the device.
    pub(crate) descriptor: RawFd,
    /// What the kernel is told, that number included.
    pub(crate) options: CString,
}

/// What the child has as descriptors 0, 1 and 2.
#[derive(Debug)]
pub(crate) struct Streams {
    /// Descriptor 0.
    pub(crate) stdin: OwnedFd,
    /// Descriptors 1 and 2.
    pub(crate) output: OwnedFd,
    /// That of the user, where they are one of the child's own: the supervisor gives it back.
    pub(crate) terminal: Option<HostTerminal>,
}

impl Streams {
    /// Streams that are no terminal.
    pub(crate) fn new(stdin: OwnedFd, output: OwnedFd) -> Streams {
        Streams {
            stdin,
            output,
            terminal: None,
        }
    }
}

/// A terminal that was changed, and what it was before.
#[derive(Debug)]
pub(crate) struct HostTerminal {
    pub(crate) descriptor: OwnedFd,
    pub(crate) before: Termios,
}

/// A child with its supervisor.
#[derive(Debug)]
pub(crate) struct Supervised {
    /// The supervisor. It ends as the child did, after everything that the child started.
    pub(crate) supervisor: Child,
    /// Dropped, it has all of them killed.
    pub(crate) leash: OwnedFd,
    /// The devices of what was mounted, in order.
    pub(crate) devices: Vec<OwnedFd>,
    /// Where it was to be counted: the time of all of them, from before the child's start.
    pub(crate) clock: Option<Clock>,
    /// What became of the stage.
    pub(crate) staged: Staged,
    /// What the supervisor tells at its end.
    pub(crate) report: OwnedFd,
}

/// What a child finds.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) stage: Stage,
    /// Where the supervisor meets the stub.
    pub(crate) meeting: OwnedFd,
    /// What is covered then.
    pub(crate) covered: Covered,
}

/// Why a child did not start.
#[derive(Debug)]
pub(crate) enum SpawnError {
    /// The stage could not be made.
    Stage(Place, io::Error),
    /// The child could not be started.
    Start(io::Error),
}

impl From<io::Error> for SpawnError {
    fn from(error: io::Error) -> SpawnError {
        SpawnError::Start(error)
    }
}

/// Starts `program` with an empty environment, in a session of its own, so that signals of the
/// terminal reach only us; where there is a `scene`, in namespaces in which that is made.
///
/// `inherited` descriptors are kept open under their numbers; all others above 2 are closed.
pub(crate) fn spawn(
    program: &Path,
    arguments: &[OsString],
    streams: Streams,
    inherited: &[BorrowedFd<'_>],
    scene: Option<Scene>,
    bounds: Bounds,
) -> Result<Supervised, SpawnError> {
    let (collar, leash) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
    let (sender, receiver) = fd_passing::open()?;
    let (has_scene, is_counted) = (scene.is_some(), bounds.counts_time);
    let mut preparation = Preparation {
        inherited: inherited.iter().map(AsRawFd::as_raw_fd).collect(),
        mapping: Mapping::new(),
        bounds,
        scene,
        sender,
        collar: collar.as_raw_fd(),
        terminal: streams.terminal,
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .stdin(Stdio::from(streams.stdin))
        .stdout(Stdio::from(streams.output.try_clone()?))
        .stderr(Stdio::from(streams.output));
    // SAFETY: `Preparation::run` makes system calls only: it neither allocates nor takes a lock
    // that a thread of the parent could hold, and touches no memory but its own copy of itself.
    unsafe { command.pre_exec(move || preparation.run()) };
    let spawned = command.spawn();
    // The closure holds the other end, without which receiving would not end.
    drop(command);
    let mut supervisor = match spawned {
        Ok(supervisor) => supervisor,
        Err(error) => return Err(failed_at(&receiver, error)),
    };
    // All was sent before `exec`, which has succeeded.
    match Sent::receive(&receiver, is_counted, has_scene) {
        Ok(sent) => Ok(Supervised {
            supervisor,
            leash,
            devices: sent.devices,
            clock: sent.clock.map(Clock::from),
            staged: sent.staged,
            report: receiver,
        }),
        Err(error) => {
            drop(leash);
            supervisor.wait()?;
            Err(error.into())
        }
    }
}

/// What the child said last, where it did not start.
fn failed_at(receiver: &OwnedFd, error: io::Error) -> SpawnError {
    loop {
        match fd_passing::receive(receiver) {
            Ok((Note::Failed(place), _)) => return SpawnError::Stage(Place::of(place), error),
            Ok(_) => {}
            Err(_) => return SpawnError::Start(error),
        }
    }
}

/// What a child sends before it executes anything.
#[derive(Default)]
struct Sent {
    clock: Option<OwnedFd>,
    devices: Vec<OwnedFd>,
    staged: Staged,
}

impl Sent {
    fn receive(receiver: &OwnedFd, is_counted: bool, has_scene: bool) -> io::Result<Sent> {
        let mut sent = Sent::default();
        if is_counted {
            sent.clock = fd_passing::receive(receiver)?.1;
        }
        if !has_scene {
            return Ok(sent);
        }
        loop {
            match fd_passing::receive(receiver)? {
                (Note::Staged(numbers), _) => {
                    sent.staged = Staged::of(numbers);
                    return Ok(sent);
                }
                (_, device) => sent.devices.extend(device),
            }
        }
    }
}

/// What is done between `fork` and `exec`.
struct Preparation {
    inherited: Vec<RawFd>,
    mapping: Mapping,
    bounds: Bounds,
    scene: Option<Scene>,
    /// By which the clock and the devices of the mounts get to us, and at the end what was read and written.
    sender: OwnedFd,
    /// Our end of the leash.
    collar: RawFd,
    terminal: Option<HostTerminal>,
}

impl Preparation {
    /// Splits the process in two. The supervisor never returns from here.
    fn run(&mut self) -> io::Result<()> {
        reset_signals()?;
        rustix::process::setsid()?;
        rustix::process::umask(Mode::from_raw_mode(UMASK));
        attributes::make_usual()?;
        let courtesy = Courtesy::read();
        if self.bounds.counts_time {
            let clock = Clock::start()?;
            fd_passing::send(&self.sender, Note::Descriptor, Some(clock.as_fd()))?;
        }
        bounds::apply_usual_limits()?;
        let meeting = match &self.scene {
            Some(scene) => Some(scene.set(&mut self.mapping, &self.sender)?),
            None => None,
        };
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let supervisor = rustix::process::getpid();
        let forked = match self.bounds.group {
            GroupEntry::Birth(group) => fork_into(group),
            _ => fork(),
        };
        match forked? {
            Some(child) => {
                let ends = supervisor::Ends {
                    collar: self.collar,
                    report: self.sender.as_raw_fd(),
                    terminal: self.terminal.as_ref(),
                    meeting,
                };
                supervisor::supervise(child, &ends)
            }
            None => {
                die_with(supervisor)?;
                // A group of its own, by which the supervisor finds what it starts.
                rustix::process::setsid()?;
                self.bounds.apply()?;
                courtesy.keep()?;
                go_first()?;
                fix_addresses()?;
                keep_only(&self.inherited)?;
                // The last one: until now more descriptors may be open than it allows.
                bounds::limit_descriptors()
            }
        }
    }
}

impl Scene {
    /// Makes the stage, tells what became of it, and leaves it.
    fn set(&self, mapping: &mut Mapping, sender: &OwnedFd) -> io::Result<Meeting<'_>> {
        match self.stage.make(mapping, sender) {
            Ok(staged) => fd_passing::send(sender, staged.note(), None)?,
            Err((place, error)) => {
                fd_passing::send(sender, Note::Failed(place.number()), None)?;
                return Err(error);
            }
        }
        let meeting = Meeting {
            socket: self.meeting.as_raw_fd(),
            covers: Covers::take()?,
            covered: &self.covered,
        };
        // Wherever the caller is: that may have been removed.
        rustix::process::chdir(c"/")?;
        Ok(meeting)
    }
}

/// Gives the child in the parent, nothing in the child.
fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: this process has one thread and goes on, on both sides, as code does that runs
    // between `fork` and `exec`.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        number => Ok(Pid::from_raw(number)),
    }
}

/// As [`fork`], with the child in a control group of version 2, whose directory this is.
fn fork_into(group: RawFd) -> io::Result<Option<Pid>> {
    let arguments = libc::clone_args {
        flags: CLONE_INTO_CGROUP,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: group as u64,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
    };
    let size = size_of::<libc::clone_args>();
    // SAFETY: without a flag that shares memory, this is `fork`; see there. What the C library notes
    // about a thread, and is not told here, is used by nothing between `fork` and `exec`.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size) } {
        -1 => {}
        number => return Ok(Pid::from_raw(number as libc::pid_t)),
    }
    // Some containers forbid the call, whose arguments no filter can see.
    let forked = fork()?;
    if forked.is_none() {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let members = rustix::fs::openat(borrow(group), c"cgroup.procs", flags, Mode::empty())?;
        rustix::io::write(&members, b"0")?;
    }
    Ok(forked)
}

/// Ends the process without running anything of the program that it is a copy of.
fn exit_now(code: i32) -> ! {
    // SAFETY: the call does not return and touches no memory.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor but these, some of which may be the same.
fn close_all_but<const N: usize>(mut kept: [RawFd; N]) -> io::Result<()> {
    kept.sort_unstable();
    let mut from = 0;
    for descriptor in kept {
        let descriptor = descriptor as libc::c_uint;
        if from < descriptor {
            close_range(from, descriptor - 1, 0)?;
        }
        from = from.max(descriptor + 1);
    }
    close_range(from, libc::c_uint::MAX, 0)
}

/// Borrows a descriptor that stays open up to the end of this process or to `exec`.
fn borrow(kept: RawFd) -> BorrowedFd<'static> {
    // SAFETY: nobody closes it; see the callers.
    unsafe { BorrowedFd::borrow_raw(kept) }
}

/// Has the kernel kill this process when its parent dies, also when that happened already.
fn die_with(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() == Some(parent) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}

/// Who the child is in a user namespace: who it was.
struct Identity {
    uids: CString,
    gids: CString,
}

impl Identity {
    /// Made before `fork`, since it takes memory.
    fn maps() -> Identity {
        let map = |id: u32| CString::new(format!("{id} {id} 1")).expect("digits have no NUL");
        Identity {
            uids: map(rustix::process::geteuid().as_raw()),
            gids: map(rustix::process::getegid().as_raw()),
        }
    }

    /// In the user namespace that this process has just made.
    fn put_on(&self) -> io::Result<()> {
        write_setting(c"/proc/self/setgroups", c"deny")?;
        write_setting(c"/proc/self/uid_map", &self.uids)?;
        write_setting(c"/proc/self/gid_map", &self.gids)
    }
}

fn write_setting(path: &CStr, value: &CStr) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value.to_bytes())?;
    Ok(())
}

impl MountRequest {
    fn fulfil(&self, sender: &OwnedFd) -> io::Result<()> {
        let opened = rustix::fs::open(self.device, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        // SAFETY: takes integers; the descriptor that is replaced is one that we hold and that
        // nothing in this process uses.
        let replaced = unsafe { libc::dup3(opened.as_raw_fd(), self.descriptor, libc::O_CLOEXEC) };
        if replaced < 0 {
            return Err(io::Error::last_os_error());
        }
        let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV;
        stage::mount(c"ipfs-exec", &self.target, self.kind, flags, &self.options)?;
        // Only now: the device of a mount that failed is not served.
        fd_passing::send(sender, Note::Descriptor, Some(borrow(self.descriptor)))
    }
}

/// Has the kernel end this process and what it starts before all others where it runs out of memory.
fn go_first() -> io::Result<()> {
    match write_setting(c"/proc/self/oom_score_adj", c"1000") {
        // Some containers show it without letting it be changed.
        Err(error) if error.raw_os_error() == Some(libc::EROFS) => Ok(()),
        result => result,
    }
}

/// Has the kernel lay out the memory of programs the same way each time: an address that a program
/// prints, hashes or sorts by is then part of its input.
fn fix_addresses() -> io::Result<()> {
    // SAFETY: takes an integer, which concerns programs that are executed later.
    let before = unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) };
    match io::Error::last_os_error() {
        // Some containers forbid it: addresses are random there.
        error if before < 0 && error.raw_os_error() != Some(libc::EPERM) => Err(error),
        _ => Ok(()),
    }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Undoes what `nohup`, shells and runtimes ignore or block: a program must not compute something
/// else because of who started it.
fn reset_signals() -> io::Result<()> {
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: the kernel reads a `struct sigaction` of at most 32 bytes with a mask of 8, and
        // all zeros say `SIG_DFL` without flags. Not libc's function, which leaves out the signals
        // that it reserves. SIGKILL and SIGSTOP fail with EINVAL; they are never ignored.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT_ACTION.as_ptr(),
                ptr::null_mut::<u64>(),
                SIGNAL_SET_BYTES,
            )
        };
    }
    let mut empty = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set that `sigprocmask` then reads; the old mask is
    // not asked for. After `fork` the process has one thread.
    let result = unsafe {
        libc::sigemptyset(empty.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, empty.as_ptr(), ptr::null_mut())
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Has `exec` close every descriptor above 2 but `inherited`.
fn keep_only(inherited: &[RawFd]) -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    close_range(FIRST_EXTRA_DESCRIPTOR, libc::c_uint::MAX, flags)?;
    inherited
        .iter()
        .try_for_each(|descriptor| inherit(*descriptor))
}

/// Closes descriptors, or has `exec` close them. Needs Linux 5.11; an older kernel fails with
/// `EINVAL` or `ENOSYS`, and the child does not start.
fn close_range(first: libc::c_uint, last: libc::c_uint, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: the caller is a process that runs nothing but this module, which uses no
    // descriptor that it closed.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) })
}

fn inherit(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: `F_SETFD` takes an integer and changes nothing but the descriptor's own flag.
    check(unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) }.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::{Duration, Instant};

    fn streams(output: OwnedFd) -> Streams {
        let stdin = File::open("/dev/null").unwrap().into();
        Streams::new(stdin, output)
    }

    /// What a shell prints.
    fn shell(script: &str, inherited: &[BorrowedFd<'_>]) -> String {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let arguments = ["-c", script].map(OsString::from);
        let shell = Path::new("/bin/sh");
        let mut child = spawn(
            shell,
            &arguments,
            streams(writer),
            inherited,
            None,
            Bounds::default(),
        )
        .unwrap();
        let output = std::io::read_to_string(File::from(reader)).unwrap();
        assert!(child.supervisor.wait().unwrap().success());
        output
    }

    #[test]
    fn descriptors_that_leak_into_us_do_not_leak_further() {
        let leaked = tempfile::NamedTempFile::new().unwrap();
        rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
        let named = tempfile::NamedTempFile::new().unwrap();
        let listed = shell("/bin/ls -l /proc/$$/fd", &[named.as_file().as_fd()]);
        let is_listed = |file: &tempfile::NamedTempFile| {
            listed.contains(file.path().file_name().unwrap().to_str().unwrap())
        };
        assert!(is_listed(&named), "{listed}");
        assert!(!is_listed(&leaked), "{listed}");
    }

    #[test]
    fn the_file_mode_mask_is_fixed() {
        assert_eq!(shell("umask", &[]).trim(), "0022");
    }

    #[test]
    fn the_environment_is_empty() {
        let listed = shell("tr '\\0' '\\n' < /proc/self/environ", &[]);
        assert!(
            listed.lines().all(|line| line.starts_with("PWD=")),
            "{listed}"
        );
    }

    #[test]
    fn signals_are_at_their_defaults() {
        let status = shell(
            "PATH=/usr/bin:/bin; grep -E '^Sig(Blk|Ign)' /proc/self/status",
            &[],
        );
        for line in status.lines() {
            assert!(line.ends_with("0000000000000000"), "{status}");
        }
    }

    #[test]
    fn a_missing_program_is_an_error() {
        let output = File::open("/dev/null").unwrap().into();
        let error = spawn(
            Path::new("/nonexistent"),
            &[],
            streams(output),
            &[],
            None,
            Bounds::default(),
        )
        .unwrap_err();
        assert!(
            matches!(&error, SpawnError::Start(error) if error.kind() == io::ErrorKind::NotFound),
            "{error:?}"
        );
    }

    #[test]
    fn the_supervisor_ends_as_the_child() {
        for (script, wanted) in [("exit 7", Some(7)), ("kill -KILL $$", None)] {
            let output = File::open("/dev/null").unwrap().into();
            let arguments = ["-c", script].map(OsString::from);
            let mut child = spawn(
                Path::new("/bin/sh"),
                &arguments,
                streams(output),
                &[],
                None,
                Bounds::default(),
            )
            .unwrap();
            assert_eq!(child.supervisor.wait().unwrap().code(), wanted, "{script}");
        }
    }

    /// Orphans of a process that died, in another session and deaf to all that can be ignored.
    #[test]
    fn letting_go_kills_everything_at_every_moment() {
        for microseconds in (0..4000).step_by(100) {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            let script = "trap '' HUP TERM INT; setsid sleep 60 & sleep 60 & (sleep 60 &) ; wait";
            let arguments = ["-c", script].map(OsString::from);
            let shell = Path::new("/bin/sh");
            let mut child = spawn(
                shell,
                &arguments,
                streams(writer),
                &[],
                None,
                Bounds::default(),
            )
            .unwrap();
            std::thread::sleep(Duration::from_micros(microseconds));
            let started = Instant::now();
            drop(child.leash);
            child.supervisor.wait().unwrap();
            // All of them hold the pipe.
            std::io::read_to_string(File::from(reader)).unwrap();
            assert!(started.elapsed() < Duration::from_secs(10));
        }
    }
}
