//! What of `/proc` is hidden, because it tells of the host and nothing of the sandbox.

use std::path::Path;

/// An entry of `/proc` that the program gets empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masked {
    /// One that cannot be opened.
    File(&'static str),
    /// One with nothing in it.
    Directory(&'static str),
}

/// Entries of `/proc` that tell of the host, also in a process namespace.
const MASKED: [Masked; 9] = [
    // All of its memory.
    Masked::File("/proc/kcore"),
    // Those of the user, also of other sandboxes.
    Masked::File("/proc/keys"),
    Masked::File("/proc/key-users"),
    // What runs when.
    Masked::File("/proc/timer_list"),
    Masked::File("/proc/sched_debug"),
    Masked::File("/proc/latency_stats"),
    // Hot keys of the console.
    Masked::File("/proc/sysrq-trigger"),
    // Devices.
    Masked::Directory("/proc/acpi"),
    Masked::Directory("/proc/scsi"),
];

/// Those of them that this kernel has.
pub(super) fn masked() -> Vec<Masked> {
    let is_there = |masked: &Masked| match masked {
        Masked::File(path) | Masked::Directory(path) => Path::new(path).exists(),
    };
    MASKED.into_iter().filter(is_there).collect()
}
