//! Waiting for a child together with what it used: the only unsafe code of this crate, because no
//! safe interface tells the memory peak of one child.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};

/// How a process ended and what it cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) status: ExitStatus,
    /// Largest resident set, in bytes. Never below that of this process at the start of the child,
    /// because the kernel counts the memory that both share until `execve`: keep it small.
    pub(crate) peak_bytes: u64,
}

/// Waits until the child has ended.
///
/// # Errors
/// Those of `wait4`.
pub(crate) fn wait(child: Child) -> io::Result<Usage> {
    let process = libc::pid_t::try_from(child.id()).expect("a process id is positive");
    let mut status: libc::c_int = 0;
    // SAFETY: `rusage` holds integers only, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are valid for writes of their types while the call lasts.
        let ended = unsafe { libc::wait4(process, &raw mut status, 0, &raw mut usage) };
        if ended == process {
            return Ok(Usage {
                status: ExitStatus::from_raw(status),
                peak_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
            });
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
