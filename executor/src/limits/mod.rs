//! Limits of a program: their values, the mechanism that enforces each, and the resources used.
//!
//! ```text
//! Limits ── Watch ──┬── cgroup       the kernel enforces the limits and reports hits
//!                   │     └── scope  for users whose systemd has a group for them
//!                   ├── processes    without a group: checks all processes often,
//!                   │                and reads the kernel's counters of their time
//!                   │     └── machine  memory of no process, by counters of the machine
//!                   ├── disk         sizes of /output and /tmp, and the free space
//!                   │     └── pace     time of the next check, before the disk can be full
//!                   └── the clock
//! ```
//!
//! A run ends when its program hits a limit: a program that was stopped half-way leaves no result. If a limit
//! cannot be enforced, the run fails before the program starts, unless the caller sets `best_effort`.

mod cgroup;
mod disk;
mod disk_watch;
mod files;
mod machine;
mod pace;
mod processes;
mod scope;
mod watch;

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use ipfs_exec_node::KeepFree;
use ipfs_exec_node::budget::FreeSpace;
use ipfs_exec_node::quantity::{Measured, Size, Time};
use serde::Serialize;

pub(crate) use watch::Watch;

/// What a program may use. What is `None` is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of memory of all processes together, with shared memory and `tmpfs`.
    pub memory: Option<u64>,
    /// Processors. The program also sees no more than this, rounded up.
    pub cpus: Option<f64>,
    /// Time on processors, of all processes together.
    pub cpu_time: Option<Duration>,
    /// Time from the program's start to the end of the import of its output.
    pub timeout: Option<Duration>,
    /// Time for everything, what is fetched and unpacked included.
    pub total_timeout: Option<Duration>,
    /// When the time for everything began. Where this is `None` it is when the run is called.
    pub started: Option<Instant>,
    /// Processes and threads at a time. Where this is `None` it is [`Limits::DEFAULT_PIDS`], so that no
    /// program makes its host unusable by these.
    pub pids: Option<u64>,
    /// Bytes of the files in `/output`, holes included.
    pub output_size: Option<u64>,
    /// Files, links and directories in `/output`.
    pub output_files: Option<u64>,
    /// Bytes of disk that `/tmp` takes: each entry takes 4 KiB at least.
    pub tmp_size: Option<u64>,
    /// Bytes that the program prints.
    pub log_size: Option<u64>,
    /// Bytes that stay free on the disk of `/output` and `/tmp`; see [`KeepFree::chosen`]. Programs are spared
    /// that have little of the disk: others have taken it.
    pub keep_free: Option<u64>,
    /// Whether what cannot be held is left out. Otherwise it is an error.
    pub best_effort: bool,
    /// Processes in the sandbox that are not the program's, and that `pids` does not count.
    pub(crate) own_processes: u64,
}

impl Limits {
    /// More than sensible programs have.
    pub const DEFAULT_PIDS: u64 = 4096;

    /// When the time for everything is over; never where it has no limit.
    pub fn total_deadline(&self) -> Option<Instant> {
        self.started?.checked_add(self.total_timeout?)
    }

    /// What stays free of `space`. Where the limits ask for more than is free and may be missed, that is the
    /// default.
    pub fn kept_free(&self, space: &FreeSpace) -> KeepFree {
        let is_missed = |bytes: &u64| self.best_effort && *bytes > space.bytes.free;
        KeepFree::chosen(self.keep_free.filter(|bytes| !is_missed(bytes)), space)
    }

    /// How much a program may add to empty directories before it breaks a limit.
    fn room(&self) -> pace::Space {
        let bytes = [self.output_size, self.tmp_size];
        pace::Space {
            bytes: bytes.into_iter().flatten().min().unwrap_or(u64::MAX),
            inodes: self.output_files.unwrap_or(u64::MAX),
        }
    }

    /// With our own processes.
    fn most_pids(&self) -> u64 {
        let pids = self.pids.unwrap_or(Limits::DEFAULT_PIDS);
        pids.saturating_add(self.own_processes)
    }
}

/// One of the [`Limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the fields of `Limits` say it")]
pub enum Limit {
    Memory,
    Cpus,
    CpuTime,
    Timeout,
    TotalTimeout,
    Pids,
    OutputSize,
    OutputFiles,
    TmpSize,
    LogSize,
    KeepFree,
    /// What the machine has, where the kernel ended a process of the program because that was used up.
    MachineMemory,
    /// The machine's table of open files, where the program has taken most of it.
    MachineFiles,
}

impl Limit {
    /// The option of the command line.
    pub fn option(self) -> &'static str {
        match self {
            Limit::Memory | Limit::MachineMemory => "--memory",
            Limit::MachineFiles => "--pids",
            Limit::Cpus => "--cpus",
            Limit::CpuTime => "--cpu-time",
            Limit::Timeout => "--timeout",
            Limit::TotalTimeout => "--total-timeout",
            Limit::Pids => "--pids",
            Limit::OutputSize => "--output-size",
            Limit::OutputFiles => "--output-files",
            Limit::TmpSize => "--tmp-size",
            Limit::LogSize => "--log-size",
            Limit::KeepFree => "--keep-free",
        }
    }

    /// What the user can do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Limit::Memory => "allow more with `--memory`, such as `--memory 2GiB`",
            Limit::Cpus => "allow more with `--cpus`",
            Limit::CpuTime => "allow more with `--cpu-time`, such as `--cpu-time 1h`",
            Limit::Timeout => "allow more with `--timeout`, such as `--timeout 1h`",
            Limit::TotalTimeout => {
                "allow more with `--total-timeout`, such as `--total-timeout 2h`"
            }
            Limit::Pids => "allow more with `--pids`",
            Limit::OutputSize => "allow more with `--output-size`, such as `--output-size 20GiB`",
            Limit::OutputFiles => "allow more with `--output-files`",
            Limit::TmpSize => "allow more with `--tmp-size`, such as `--tmp-size 20GiB`",
            Limit::LogSize => "allow more with `--log-size`, such as `--log-size 100MiB`",
            Limit::MachineFiles => {
                "run it with fewer processes, or have it open fewer files at a time"
            }
            Limit::MachineMemory => {
                "run it where there is more memory, or fewer programs at a time"
            }
            Limit::KeepFree => "make room there, or allow more with a lower `--keep-free`",
        }
    }

    /// Whether it is one of time.
    pub fn is_time(self) -> bool {
        matches!(self, Limit::CpuTime | Limit::Timeout | Limit::TotalTimeout)
    }
}

/// By what a limit is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Mechanism {
    /// A group of version 2.
    CgroupV2,
    /// A group of version 1.
    CgroupV1,
    /// The processors that the program may run on, which it cannot change.
    Affinity,
    /// A counter of the kernel, which we read often, and kill. Processes that have executed a file which
    /// they may not read are missing in it: those are looked at.
    Perf,
    /// We look often, and kill; and the kernel lets the sandbox's user have no more than a quarter above
    /// [`Limits::DEFAULT_PIDS`], or above what was asked for if that is more.
    Rlimit,
    /// We look often, and kill.
    Supervision,
    /// Nothing: it is not held.
    None,
}

/// That a limit was hit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Which one.
    pub limit: Limit,
    limits: Limits,
}

impl Hit {
    /// What the user can do about it.
    pub fn hint(&self) -> &'static str {
        self.limit.hint()
    }
}

impl fmt::Display for Hit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits = &self.limits;
        let count = |count: Option<u64>| count.unwrap_or_default();
        let size = |bytes: Option<u64>| Size(bytes.unwrap_or_default());
        let time = |time: Option<Duration>| Time(time.unwrap_or_default());
        match self.limit {
            Limit::Memory => write!(
                formatter,
                "it used more memory than {}",
                size(limits.memory)
            ),
            Limit::Cpus => formatter.write_str("it used more processors than it may"),
            Limit::CpuTime => write!(
                formatter,
                "it computed for more than {}",
                time(limits.cpu_time)
            ),
            Limit::TotalTimeout => write!(
                formatter,
                "it still ran when the whole job had taken {}",
                time(limits.total_timeout)
            ),
            Limit::Timeout => {
                write!(formatter, "it ran for more than {}", time(limits.timeout))
            }
            Limit::Pids => write!(
                formatter,
                "it had more than {} processes and threads",
                limits.most_pids()
            ),
            Limit::OutputSize => write!(
                formatter,
                "its output has more than {}",
                size(limits.output_size)
            ),
            Limit::OutputFiles => write!(
                formatter,
                "its output has more than {} files",
                count(limits.output_files)
            ),
            Limit::TmpSize => write!(
                formatter,
                "it put more than {} into /tmp",
                size(limits.tmp_size)
            ),
            Limit::LogSize => write!(formatter, "it printed more than {}", size(limits.log_size)),
            Limit::KeepFree => formatter.write_str("it filled the disk that its output is on"),
            Limit::MachineMemory => formatter.write_str("the machine ran out of memory"),
            Limit::MachineFiles => {
                formatter.write_str("it filled the machine's table of open files")
            }
        }
    }
}

/// What a program has used, all of its processes together.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Usage {
    /// Seconds from its start to its end.
    pub wall_seconds: f64,
    /// Seconds on processors, in the program. With a limit of that time, those of children that nobody
    /// waits for count too, where the kernel counts them.
    pub user_seconds: f64,
    /// Seconds on processors, in the kernel.
    pub system_seconds: f64,
    /// Most memory at a time, in bytes: of all processes where a group was there to count, otherwise of
    /// the largest.
    pub peak_memory_bytes: u64,
    /// Most processes and threads at a time, where something counted them.
    pub peak_pids: Option<u64>,
    /// Bytes that it read by system calls.
    pub read_bytes: u64,
    /// Bytes that it wrote by system calls.
    pub written_bytes: u64,
}

/// By what each of these limits would be held here, for a program that `bubblewrap` starts and that writes
/// to the disk that `directory` is on.
///
/// # Errors
/// [`LimitError::Unenforceable`] or [`LimitError::Full`] where one of them cannot be held: a run would
/// fail.
pub fn check(limits: &Limits, directory: &Path, bubblewrap: &Path) -> Result<Held, LimitError> {
    let directories = Directories {
        output: directory,
        tmp: directory,
    };
    Watch::new(limits, directories, bubblewrap).map(|watch| watch.held().clone())
}

/// By what memory, processors, time on them and processes would be held for us here.
///
/// # Errors
/// [`LimitError::Watch`].
pub(crate) fn probe(bubblewrap: &Path) -> Result<Held, LimitError> {
    let limits = Limits {
        memory: Some(1 << 40),
        cpus: Some(0.5),
        cpu_time: Some(Duration::MAX),
        pids: Some(1 << 20),
        keep_free: Some(0),
        best_effort: true,
        ..Limits::default()
    };
    check(&limits, Path::new("/"), bubblewrap)
}

/// Which limits there were, and by what each was held.
pub type Held = Vec<(Limit, Mechanism)>;

/// What to do where there is no control group.
pub(crate) const GROUP_HINT: &str = "run as root, in a delegated control group, or where the user's own \
    systemd answers (`systemctl --user status`; `loginctl enable-linger` keeps it running), or accept \
    it with `--best-effort-limits`";

/// Why limits cannot be held.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// This machine has nothing that could.
    #[error("cannot enforce the limit `{}` here: {reason}", .limit.option())]
    Unenforceable {
        /// Which one.
        limit: Limit,
        /// What is missing.
        reason: &'static str,
    },
    /// Not even now is so much of the disk free as should stay.
    #[error("cannot keep {} of the disk free: {} are free now", Size(*.bytes), Measured(*.available))]
    Full {
        /// What should stay free.
        bytes: u64,
        /// What is.
        available: u64,
    },
    /// Looking at what is used failed.
    #[error("cannot measure the resources of the program")]
    Watch(#[source] std::io::Error),
}

impl LimitError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            LimitError::Unenforceable { .. } => Some(GROUP_HINT),
            LimitError::Full { .. } => Some(
                "make room (`ipfs-exec gc` removes what is not pinned), or give a lower `--keep-free`",
            ),
            LimitError::Watch(_) => None,
        }
    }
}

/// The directories of a run whose size may be limited.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Directories<'d> {
    pub(crate) output: &'d Path,
    pub(crate) tmp: &'d Path,
}
