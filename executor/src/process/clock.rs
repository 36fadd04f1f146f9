//! Processor time of a process and of all processes that it starts, including those that no process waits
//! for: a counter of the kernel, perf_event_open(2).
//!
//! The kernel ends the counter when the process executes a file that it may not read.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// `struct perf_event_attr`, in its first version, which every kernel takes.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    config1: u64,
}

const PERF_TYPE_SOFTWARE: u32 = 1;

const PERF_COUNT_SW_TASK_CLOCK: u64 = 1;

/// Flag: of all that the process starts, too.
const INHERIT: u64 = 1 << 1;

/// Flags without which an ordinary user gets no counter. This one counts time in the kernel all the same.
const EXCLUDE_KERNEL_AND_HYPERVISOR: u64 = 1 << 5 | 1 << 6;

const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;

/// Such a counter.
#[derive(Debug)]
pub(crate) struct Clock(OwnedFd);

impl Clock {
    /// Counts this process from now on, and what it will start. Takes no memory: it runs between `fork` and
    /// `exec`.
    ///
    /// # Errors
    /// `EACCES` or `EPERM` where `/proc/sys/kernel/perf_event_paranoid` or a container forbids it.
    pub(crate) fn start() -> io::Result<Clock> {
        let attributes = Attributes {
            kind: PERF_TYPE_SOFTWARE,
            size: size_of::<Attributes>() as u32,
            config: PERF_COUNT_SW_TASK_CLOCK,
            flags: INHERIT | EXCLUDE_KERNEL_AND_HYPERVISOR,
            ..Attributes::default()
        };
        let (this_process, any_processor, no_group) = (0, -1, -1);
        // SAFETY: the kernel reads the structure, whose size it holds.
        let descriptor = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                this_process,
                any_processor,
                no_group,
                PERF_FLAG_FD_CLOEXEC,
            )
        };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was opened just now, and nobody else knows it.
        Ok(Clock(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) }))
    }

    /// What was used since, also after the end of all that used it.
    pub(crate) fn read(&self) -> io::Result<Duration> {
        let mut nanoseconds = [0; 8];
        rustix::io::read(&self.0, &mut nanoseconds)?;
        Ok(Duration::from_nanos(u64::from_ne_bytes(nanoseconds)))
    }
}

impl From<OwnedFd> for Clock {
    /// One that another process has started.
    fn from(descriptor: OwnedFd) -> Clock {
        Clock(descriptor)
    }
}

impl std::os::fd::AsFd for Clock {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}
