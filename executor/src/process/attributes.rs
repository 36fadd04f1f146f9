//! Attributes of a process that its children inherit and that a program can read. Each gets its value on a
//! machine with default settings.

use std::ffi::CStr;
use std::io;

use super::realtime;
use super::{check, write_setting};

/// How much later than asked a timer may end, in nanoseconds: the kernel's default.
const TIMER_SLACK: libc::c_ulong = 50_000;

/// Deduplication of memory, of Linux 6.4.
const PR_SET_MEMORY_MERGE: libc::c_int = 67;

/// Which memory a core dump has: private, shared and ELF headers, as the kernel chooses.
const COREDUMP_FILTER: &CStr = c"0x33";

/// The NIS domain of a machine that has none.
const NO_DOMAIN: &CStr = c"(none)";

/// Sets them for this process and all that it starts.
pub(super) fn make_usual() -> io::Result<()> {
    set(libc::PR_SET_TIMERSLACK, TIMER_SLACK)?;
    set(libc::PR_SET_THP_DISABLE, 0)?;
    set(libc::PR_MCE_KILL, libc::PR_MCE_KILL_CLEAR as libc::c_ulong)?;
    set(PR_SET_MEMORY_MERGE, 0)?;
    match write_setting(c"/proc/self/coredump_filter", COREDUMP_FILTER) {
        // A kernel that writes no cores, or a container that shows the file without letting it be changed.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::EROFS) => {}
        result => result?,
    }
    Ok(())
}

/// Sets one, where the kernel knows it.
fn set(attribute: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: takes integers.
    let result = unsafe { libc::prctl(attribute, value, 0, 0, 0) };
    match check(result.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        result => result,
    }
}

/// Gives this process, which has all rights over its user namespace, a host name and NIS domain of its
/// own, and takes the domain away. Bubblewrap sets the host name.
pub(super) fn leave_domain() -> io::Result<()> {
    // SAFETY: the flag asks for a new namespace, and nothing else changes.
    check(unsafe { libc::unshare(libc::CLONE_NEWUTS) }.into())?;
    let name = NO_DOMAIN.to_bytes();
    // SAFETY: the kernel reads as many bytes as are given.
    check(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }.into())
}

/// How much of the processors the caller's user takes: the nice value and the scheduling class, which a
/// real-time process does not hand on to its children.
pub(super) struct Courtesy {
    nice: libc::c_int,
    policy: libc::c_int,
}

impl Courtesy {
    /// That of this process.
    pub(super) fn read() -> Courtesy {
        // SAFETY: takes integers. It does not fail for the process that asks.
        let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let policy = realtime::policy();
        Courtesy { nice, policy }
    }

    /// Gives it to this process. A real-time class is not kept: the program would be served before all
    /// others.
    pub(super) fn keep(&self) -> io::Result<()> {
        if [libc::SCHED_BATCH, libc::SCHED_IDLE].contains(&self.policy) {
            realtime::set(None, self.policy, 0)?;
        }
        // A lower value than the present one is for root alone, and nobody else loses one.
        let nice = self.nice.max(0);
        // SAFETY: takes integers.
        check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }.into())
    }
}
