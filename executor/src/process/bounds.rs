//! Bounds that a child has before it starts: control group, processors, limits of single processes.

use std::io;
use std::os::fd::RawFd;

use rustix::process::{Resource, Rlimit};
use rustix::thread::CpuSet;

use super::borrow;

/// What the child is held by from its start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bounds {
    /// The control group that it enters.
    pub(crate) group: GroupEntry,
    /// Whether a [`Clock`](super::Clock) counts its time.
    pub(crate) counts_time: bool,
    /// Processors that it may run on.
    pub(crate) cpus: Option<CpuSet>,
    /// Largest file that it can make, in bytes.
    pub(crate) file_bytes: Option<u64>,
}

/// How a child gets into a control group without waiting: to move a process, the kernel stops all others
/// from forking and exiting, which takes longer than a short program.
#[derive(Clone, Debug, Default)]
pub(crate) enum GroupEntry {
    /// It does not.
    #[default]
    None,
    /// Version 2: it is born there. The group's directory.
    Birth(RawFd),
    /// Version 1: it moves its only thread. The `tasks` file of each hierarchy.
    Tasks(Vec<RawFd>),
}

/// A resource, its limit, and what the limit can be raised to.
type UsualLimit = (Resource, Option<u64>, Option<u64>);

/// Limits of single processes that programs can see, and may work by, as on a machine that nobody has
/// configured: the first applies, and it can be raised to the second.
const USUAL_LIMITS: [UsualLimit; 14] = [
    (Resource::As, None, None),
    // The least, which keeps programs of the host from being run to take a core: core(5).
    (Resource::Core, Some(1), Some(1)),
    (Resource::Cpu, None, None),
    (Resource::Data, None, None),
    (Resource::Fsize, None, None),
    (Resource::Locks, None, None),
    (Resource::Memlock, Some(64 << 10), Some(64 << 10)),
    // Bytes of message queues.
    (Resource::Msgqueue, Some(819_200), Some(819_200)),
    (Resource::Nice, Some(0), Some(0)),
    (Resource::Rss, None, None),
    (Resource::Rtprio, Some(0), Some(0)),
    (Resource::Rttime, None, None),
    // Of the signals that may wait for the user's processes, all sandboxes together have no more.
    (Resource::Sigpending, Some(8192), Some(8192)),
    (Resource::Stack, Some(8 << 20), None),
];

/// That of descriptors.
const USUAL_DESCRIPTORS: UsualLimit = (Resource::Nofile, Some(1024), Some(4096));

/// Sets one of them, as far as this process may.
fn usual_limit((resource, current, maximum): UsualLimit) -> io::Result<()> {
    let usual = Rlimit { current, maximum };
    match rustix::process::setrlimit(resource, usual) {
        Err(rustix::io::Errno::PERM) => {}
        result => return Ok(result?),
    }
    // Only root may raise what cannot be exceeded.
    let allowed = rustix::process::getrlimit(resource).maximum;
    let lower = |limit: Option<u64>| match (limit, allowed) {
        (Some(limit), Some(allowed)) => Some(limit.min(allowed)),
        (limit, allowed) => limit.or(allowed),
    };
    let possible = Rlimit {
        current: lower(current),
        maximum: lower(maximum),
    };
    Ok(rustix::process::setrlimit(resource, possible)?)
}

/// Puts the usual limit of descriptors on this process and all that it starts.
pub(super) fn limit_descriptors() -> io::Result<()> {
    usual_limit(USUAL_DESCRIPTORS)
}

/// Puts the other usual limits on this process and all that it starts. A user namespace that is made later
/// has them too: the kernel counts waiting signals for all of its processes.
pub(super) fn apply_usual_limits() -> io::Result<()> {
    USUAL_LIMITS.into_iter().try_for_each(usual_limit)
}

impl Bounds {
    /// Puts them on this process and all that it starts.
    pub(super) fn apply(&self) -> io::Result<()> {
        if let GroupEntry::Tasks(tasks) = &self.group {
            for tasks in tasks {
                rustix::io::write(borrow(*tasks), b"0")?;
            }
        }
        if let Some(cpus) = &self.cpus {
            rustix::thread::sched_setaffinity(None, cpus)?;
        }
        if self.file_bytes.is_some() {
            let limit = Rlimit {
                current: self.file_bytes,
                maximum: self.file_bytes,
            };
            rustix::process::setrlimit(Resource::Fsize, limit)?;
        }
        Ok(())
    }
}
