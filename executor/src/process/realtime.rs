//! Precedence of a process over thousands of others.
//!
//! If a program starts processes without end, each of them waits for a processor. The processes that are to
//! end them wait, too. Root may make some of the latter real-time processes, which get a processor first.
//! They do nearly nothing. For other users, the kernel limits the number of processes.

use std::io;

use rustix::process::Pid;

use super::check;

/// Priority among real-time processes: the lowest.
const PRIORITY: libc::c_int = 1;

/// Has a process, or this thread where it is `None`, served before all usual ones; not what it starts.
/// Gives whether that is allowed.
pub(super) fn prefer(process: Option<Pid>) -> bool {
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    set(process, policy, PRIORITY).is_ok()
}

/// The scheduling class of this thread.
pub(super) fn policy() -> libc::c_int {
    // SAFETY: takes an integer.
    unsafe { libc::sched_getscheduler(0) & !libc::SCHED_RESET_ON_FORK }
}

/// Gives a process, or this thread where it is `None`, a scheduling class.
pub(super) fn set(
    process: Option<Pid>,
    policy: libc::c_int,
    priority: libc::c_int,
) -> io::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    let process = Pid::as_raw(process);
    // SAFETY: the kernel reads the structure. A process that is gone, or that may not be hastened, is an
    // error that changes nothing.
    check(unsafe { libc::sched_setscheduler(process, policy, &raw const parameters) }.into())
}

/// This thread while it is served first. Dropped on the same thread, it is one of many again.
#[derive(Debug)]
pub(crate) struct RealtimePriority(());

impl RealtimePriority {
    /// `None` where that is not allowed, or where the thread is a real-time one already.
    pub(crate) fn take() -> Option<RealtimePriority> {
        (policy() == libc::SCHED_OTHER && prefer(None)).then_some(RealtimePriority(()))
    }
}

impl Drop for RealtimePriority {
    fn drop(&mut self) {
        // Only root may take back that it does not hold for children, and it says nothing here.
        if let Err(error) = set(None, libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK, 0) {
            tracing::debug!(%error, "a thread stays a real-time one");
        }
    }
}
