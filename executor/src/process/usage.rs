//! The end of a child, and what it used.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::process::Pid;

use super::supervisor;

/// What a child used, with all of its descendants that were waited for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProcessUsage {
    /// On processors, in the program.
    pub(crate) user: Duration,
    /// On processors, in the kernel.
    pub(crate) system: Duration,
    /// Of the largest of them.
    pub(crate) peak_memory_bytes: u64,
    /// By system calls.
    pub(crate) read_bytes: u64,
    /// By system calls.
    pub(crate) written_bytes: u64,
}

/// Waits for the end of `child`, a supervisor, and so of all below it, and takes its `report`.
pub(crate) fn wait(child: &Child, report: &OwnedFd) -> io::Result<(ExitStatus, ProcessUsage)> {
    let pid = Pid::from_child(child).as_raw_pid();
    let mut status: libc::c_int = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are valid for writes of their types while the call lasts.
    while unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let mut counters = [0; supervisor::COUNTER_BYTES];
    // Nothing where it was killed; its end of the socket is closed in any case.
    let length = rustix::io::read(report, &mut counters[..])?;
    let counters = String::from_utf8_lossy(&counters[..length]);
    // SAFETY: it holds integers only, for which zero is a value.
    let usage = unsafe { usage.assume_init() };
    let time = |time: libc::timeval| {
        let micros = time.tv_sec * 1_000_000 + time.tv_usec;
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    };
    let counter = |name| {
        let mut lines = counters.lines();
        let value = lines.find_map(|line| line.strip_prefix(name));
        value
            .and_then(|value| value.trim().parse().ok())
            .unwrap_or(0)
    };
    let process_usage = ProcessUsage {
        user: time(usage.ru_utime),
        system: time(usage.ru_stime),
        peak_memory_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
        read_bytes: counter("rchar:"),
        written_bytes: counter("wchar:"),
    };
    Ok((ExitStatus::from_raw(status), process_usage))
}
