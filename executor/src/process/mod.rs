//! Starting a child that inherits nothing by accident.
//!
//! The invariant: whatever descriptors, signal dispositions, signal mask or file mode mask the
//! caller's own parent handed down, the child starts with descriptors 0, 1, 2 and those that were
//! named, default dispositions, an empty mask and umask 022.
//!
//! This is the only module of the crate that holds unsafe code: what runs between `fork` and
//! `exec` cannot be said otherwise.
#![expect(
    unsafe_code,
    reason = "code between fork and exec needs `pre_exec` and libc's signal calls"
)]

use std::ffi::{CStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::ptr;

use rustix::fs::{Mode, stat};
use rustix::process::{Pid, Signal};

/// Files that the child creates are writable by their owner only, whatever the caller's umask.
const UMASK: u32 = 0o022;

/// First descriptor that is not one of the standard three.
const FIRST_EXTRA_DESCRIPTOR: libc::c_uint = 3;

/// Highest signal number of Linux, real-time signals included.
const LAST_SIGNAL: libc::c_long = 64;

/// A `struct sigaction` of the kernel that asks for the default disposition.
const DEFAULT_ACTION: [u64; 4] = [0; 4];

/// Size of the kernel's signal set.
const SIGNAL_SET_BYTES: usize = 8;

/// Devices that the child may open. Our own files of them must not be changed through it.
const DEVICES: [&CStr; 6] = [
    c"/dev/null",
    c"/dev/zero",
    c"/dev/full",
    c"/dev/random",
    c"/dev/urandom",
    c"/dev/tty",
];

/// What the child has as descriptors 0, 1 and 2.
#[derive(Debug)]
pub(crate) struct Streams {
    /// Descriptor 0.
    pub(crate) stdin: OwnedFd,
    /// Descriptors 1 and 2.
    pub(crate) output: OwnedFd,
}

/// Starts `program` with an empty environment. The child leads a session of its own, so that
/// signals of the terminal reach only us, and is killed when the calling thread ends.
///
/// Where the device files belong to us, the child sees them as read-only: their devices can be
/// written, but not their modes.
///
/// `inherited` descriptors are kept open under their numbers; all others above 2 are closed.
pub(crate) fn spawn(
    program: &Path,
    arguments: &[OsString],
    streams: Streams,
    inherited: &[BorrowedFd<'_>],
) -> io::Result<Child> {
    let inherited: Vec<RawFd> = inherited.iter().map(AsRawFd::as_raw_fd).collect();
    let parent = rustix::process::getpid();
    let owns_devices = stat(DEVICES[0])?.st_uid == rustix::process::geteuid().as_raw();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .stdin(Stdio::from(streams.stdin))
        .stdout(Stdio::from(streams.output.try_clone()?))
        .stderr(Stdio::from(streams.output));
    // SAFETY: `prepare` makes system calls only: it neither allocates nor takes a lock that a
    // thread of the parent could hold, and touches no memory but its own copy of `inherited`.
    unsafe { command.pre_exec(move || prepare(parent, owns_devices, &inherited)) };
    command.spawn()
}

/// Runs in the child, before `exec`.
fn prepare(parent: Pid, owns_devices: bool, inherited: &[RawFd]) -> io::Result<()> {
    die_with(parent)?;
    if owns_devices {
        seal_devices()?;
    }
    rustix::process::setsid()?;
    rustix::process::umask(Mode::from_raw_mode(UMASK));
    reset_signals()?;
    keep_only(inherited)
}

/// Has the kernel kill this process when the parent dies, also when that happened already.
fn die_with(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() == Some(parent) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}

/// Makes the device files read-only in a mount namespace of the child's own.
///
/// Root of the host stays the owner of what belongs to it also in a user namespace without any
/// capability, and so could change the mode of the host's `/dev/null` from inside a sandbox.
fn seal_devices() -> io::Result<()> {
    let none = ptr::null();
    // SAFETY: the flag asks for a new mount namespace; memory and descriptors stay shared with
    // nobody, as `fork` left them.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) }.into())?;
    let private = libc::MS_REC | libc::MS_SLAVE;
    // SAFETY: all pointers are null or end in NUL.
    check(unsafe { libc::mount(none, c"/".as_ptr(), none, private, ptr::null()) }.into())?;
    DEVICES.into_iter().try_for_each(seal_device)
}

/// Puts a read-only mount of the device file on itself.
fn seal_device(path: &CStr) -> io::Result<()> {
    let (path, none) = (path.as_ptr(), ptr::null());
    // SAFETY: all pointers are null or end in NUL.
    check(unsafe { libc::mount(path, path, none, libc::MS_BIND, ptr::null()) }.into())?;
    // Adds to the flags of the mount, some of which may be locked. Linux 5.12.
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the kernel reads the structure, whose size is given, and the path, which ends in NUL.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path,
            0,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })
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
    // SAFETY: the call changes descriptor flags only, it closes nothing. Needs Linux 5.11; an
    // older kernel fails with EINVAL or ENOSYS, and the child does not start.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST_EXTRA_DESCRIPTOR,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    check(result)?;
    inherited
        .iter()
        .try_for_each(|descriptor| inherit(*descriptor))
}

fn inherit(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: `F_SETFD` takes an integer and changes nothing but the descriptor's own flag.
    check(unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) }.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    use rustix::pipe::{PipeFlags, pipe_with};

    fn streams(output: OwnedFd) -> Streams {
        let stdin = File::open("/dev/null").unwrap().into();
        Streams { stdin, output }
    }

    /// What a shell prints.
    fn shell(script: &str, inherited: &[BorrowedFd<'_>]) -> String {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let arguments = ["-c", script].map(OsString::from);
        let shell = Path::new("/bin/sh");
        let mut child = spawn(shell, &arguments, streams(writer), inherited).unwrap();
        let output = std::io::read_to_string(File::from(reader)).unwrap();
        assert!(child.wait().unwrap().success());
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
        let error = spawn(Path::new("/nonexistent"), &[], streams(output), &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
