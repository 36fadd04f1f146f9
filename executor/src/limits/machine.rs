//! Memory counters of the whole machine, for programs without a control group.
//!
//! Some memory belongs to no process: the content of pipes and sockets, and shared memory of System V that no
//! process has attached. The kernel counts it for all programs together. So the growth of the counter is an
//! upper bound for one program. The known share of other programs is subtracted.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::statvfs;

use super::processes::status_bytes;

/// Growth that is ignored: the use of other programs and of the kernel varies by about this much.
const NOISE_BYTES: u64 = 64 << 20;

/// The most memory that one pipe or socket can hold: 16 parts, each of which may pin a huge page of 2 MiB.
const BUFFER_BYTES: u64 = 16 * (2 << 20);

/// Pipes and sockets that most programs have: standard streams and a pipeline. They count as usual ones, of
/// [`USUAL_BUFFER_BYTES`], so that a small program is not blamed for the growth of others.
const FEW_BUFFERS: u64 = 8;

/// The most that a pipe holds if its pages are those of usual writes: `fs.pipe-max-size`.
const USUAL_BUFFER_BYTES: u64 = 1 << 20;

/// Memory that stays available on large machines; small ones keep a part of their own.
const MOST_SPARED_BYTES: u64 = 512 << 20;

/// Counters of the machine, in bytes. Fields are those of `/proc/meminfo`: proc(5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) total: u64,
    pub(super) available: u64,
    /// Of files in memory and shared memory, also of mounted `tmpfs`.
    pub(super) files: u64,
    /// Of the kernel, without its caches and without page tables and stacks. No counter has the pages in pipes
    /// and sockets, so this is the total without all that is counted elsewhere.
    pub(super) kernel: u64,
    /// Of page tables. Each process shows its own.
    pub(super) tables: u64,
}

impl Memory {
    pub(super) fn read() -> io::Result<Memory> {
        Ok(Memory::parse(&fs::read_to_string("/proc/meminfo")?))
    }

    fn parse(text: &str) -> Memory {
        let field = |name: &str| {
            let kib = text.lines().find_map(|line| {
                let value = line.strip_prefix(name)?.strip_prefix(':')?;
                value.trim().strip_suffix(" kB")?.parse::<u64>().ok()
            });
            kib.unwrap_or(0) * 1024
        };
        let known = [
            "MemFree",
            "Buffers",
            "Cached",
            "SwapCached",
            "AnonPages",
            "SReclaimable",
            "PageTables",
            "KernelStack",
            "Hugetlb",
            "Balloon",
        ];
        let known: u64 = known.into_iter().map(field).sum();
        Memory {
            total: field("MemTotal"),
            available: field("MemAvailable"),
            files: field("Shmem"),
            tables: field("PageTables"),
            kernel: field("MemTotal").saturating_sub(known),
        }
    }
}

/// The counters at the start of a program, and the share of other programs at the first look.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Baseline {
    memory: Memory,
    others: Option<u64>,
}

impl Baseline {
    pub(super) fn take() -> io::Result<Baseline> {
        Ok(Baseline {
            memory: Memory::read()?,
            others: None,
        })
    }

    /// Growth of the files in memory, in bytes.
    pub(super) fn files_growth(&self, now: Memory) -> u64 {
        now.files.saturating_sub(self.memory.files)
    }

    /// Growth of all page tables, in bytes.
    pub(super) fn tables_growth(&self, now: Memory) -> u64 {
        now.tables.saturating_sub(self.memory.tables)
    }

    /// Bytes of kernel memory that a program may hold at most. `buffers` counts its pipes and sockets up to a
    /// number, and gives `None` if they cannot be seen.
    pub(super) fn kernel_bytes(
        &self,
        now: Memory,
        buffers: impl FnOnce(u64) -> Option<u64>,
    ) -> u64 {
        let growth = now.kernel.saturating_sub(self.memory.kernel);
        let growth = growth.saturating_sub(NOISE_BYTES);
        if growth == 0 {
            return 0;
        }
        let enough = growth.div_ceil(BUFFER_BYTES).max(FEW_BUFFERS + 1);
        let most = match buffers(enough) {
            None => u64::MAX,
            Some(few) if few <= FEW_BUFFERS => few * USUAL_BUFFER_BYTES,
            Some(many) => many.saturating_mul(BUFFER_BYTES),
        };
        growth.min(most)
    }

    /// Bytes of shared memory that the processes `pids` may hold, beside the `seen` bytes.
    pub(super) fn hidden_files(&self, now: Memory, seen: u64, pids: &[u32]) -> u64 {
        let growth = self.files_growth(now).saturating_sub(seen);
        if growth <= NOISE_BYTES {
            return 0;
        }
        let of_others = others(pids).saturating_sub(self.others.unwrap_or(0));
        growth.saturating_sub(of_others).saturating_sub(NOISE_BYTES)
    }

    /// Stores the share of other programs, once.
    pub(super) fn see_others(&mut self, pids: &[u32]) {
        self.others.get_or_insert_with(|| others(pids));
    }

    /// If the machine is short of memory: how many bytes a program must hold to be blamed for it.
    pub(super) fn shortage(&self, now: Memory) -> Option<u64> {
        let floor = (self.memory.available / 4)
            .min(now.total / 32)
            .min(MOST_SPARED_BYTES);
        let taken = self.memory.available.saturating_sub(now.available);
        (now.available < floor).then(|| floor.min(taken.div_ceil(2)).max(1))
    }
}

/// Bytes of files in memory of all processes but `pids`: their mapped files, and each `tmpfs` that is mounted
/// in one of their mount namespaces. A file may count several times.
fn others(pids: &[u32]) -> u64 {
    let ours: HashSet<u32> = pids.iter().copied().collect();
    let (mut namespaces, mut devices) = (HashSet::new(), HashSet::new());
    let mut bytes = 0_u64;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.filter(|pid| !ours.contains(pid)) else {
            continue;
        };
        let process = Path::new("/proc").join(pid.to_string());
        bytes = bytes.saturating_add(status_bytes(&process, &["RssShmem:"]));
        // The kernel hides the namespaces of other users.
        let namespace = fs::metadata(process.join("ns/mnt")).map(|namespace| namespace.ino());
        if namespace.is_ok_and(|namespace| namespaces.insert(namespace)) {
            bytes = bytes.saturating_add(named_files(&process, &mut devices));
        }
    }
    bytes
}

/// Bytes in each `tmpfs` that a process sees. Those in `devices` are skipped, new ones are added to it. Fields of `mountinfo` are those of proc(5).
fn named_files(process: &Path, devices: &mut HashSet<u64>) -> u64 {
    let mounts = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
    let mut bytes = 0_u64;
    for line in mounts.lines() {
        let Some((mount, options)) = line.split_once(" - ") else {
            continue;
        };
        let Some(point) = mount.split(' ').nth(4) else {
            continue;
        };
        if !options.starts_with("tmpfs ") && !options.starts_with("devtmpfs ") {
            continue;
        }
        let path = process.join("root").join(point.trim_start_matches('/'));
        let Ok(device) = fs::metadata(&path).map(|root| root.dev()) else {
            continue;
        };
        if devices.insert(device)
            && let Ok(status) = statvfs(&path)
        {
            let blocks = status.f_blocks.saturating_sub(status.f_bfree);
            bytes = bytes.saturating_add(blocks.saturating_mul(status.f_frsize));
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_rest_of_memory_counts_for_the_kernel() {
        let text = "MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:  600 kB\nBuffers:  10 kB\n\
                    Cached:  200 kB\nAnonPages:  300 kB\nShmem:  50 kB\nSReclaimable:  40 kB\n\
                    PageTables:  5 kB\nKernelStack:  3 kB\nHugePages_Total:  7\n";
        let memory = Memory::parse(text);
        assert_eq!(
            memory.kernel,
            (1000 - 100 - 10 - 200 - 300 - 40 - 5 - 3) * 1024
        );
        assert_eq!((memory.files, memory.available), (50 * 1024, 600 * 1024));
        let here = Memory::read().unwrap();
        assert!(here.kernel > 0 && here.kernel < here.total / 2, "{here:?}");
    }

    #[test]
    fn growth_counts_as_far_as_the_program_can_have_it() {
        let baseline = Baseline::default();
        let kernel = |kernel| Memory {
            kernel,
            ..Memory::default()
        };
        for (growth, buffers, wanted) in [
            (0, None, 0),
            (64 * MIB, None, 0),
            (164 * MIB, None, 100 * MIB),
            (164 * MIB, Some(0), 0),
            (164 * MIB, Some(8), 8 * MIB),
            (964 * MIB, Some(9), 288 * MIB),
            (164 * MIB, Some(100), 100 * MIB),
            (u64::MAX, Some(u64::MAX), u64::MAX - 64 * MIB),
        ] {
            let bytes = baseline.kernel_bytes(kernel(growth), |_| buffers);
            assert_eq!(bytes, wanted, "{growth} {buffers:?}");
        }
    }

    #[test]
    fn a_machine_is_short_of_memory_below_its_floor() {
        let baseline = Baseline {
            memory: Memory {
                available: 8192 * MIB,
                ..Memory::default()
            },
            others: None,
        };
        let now = |available| Memory {
            total: 16_384 * MIB,
            available: available * MIB,
            ..Memory::default()
        };
        assert_eq!(baseline.shortage(now(512)), None);
        assert_eq!(baseline.shortage(now(511)), Some(512 * MIB));
        let small = Baseline {
            memory: now(1000),
            others: None,
        };
        assert_eq!(small.shortage(now(249)), Some(250 * MIB));
        assert_eq!(small.shortage(now(251)), None);
    }

    /// Memory of the program itself is not counted as that of others.
    #[test]
    fn memory_of_other_processes_is_measured() {
        assert!(others(&[]) >= others(&[std::process::id()]));
    }
}
