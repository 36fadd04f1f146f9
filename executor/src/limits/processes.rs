//! All processes below one, and what they use, as `/proc` tells. Files and units are those of proc(5).

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{major, minor, statvfs};
use rustix::param::{clock_ticks_per_second, page_size};

/// Open files that are looked at in one go: what takes less than a tenth of a second.
const MAX_DESCRIPTORS: usize = 20_000;

/// Open files between two looks at whether there is time.
const DESCRIPTORS_A_LOOK: usize = 256;

/// Where programs keep shared memory.
const SHARED_MEMORY: &str = "dev/shm";

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    parent: u32,
    /// With that of children that were waited for.
    ticks: u64,
    own_ticks: u64,
    /// With its number this says which process it is.
    started: u64,
    threads: u64,
    resident_pages: u64,
}

/// Processes and threads of the whole machine, or of as much of it as is seen here: one short read.
pub(super) fn count_all() -> Option<u64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    let (_, all) = text.split(' ').nth(3)?.split_once('/')?;
    all.parse().ok()
}

/// Processes of the whole machine that the kernel has ended because memory ran out. Linux 4.13.
pub(super) fn count_kills() -> u64 {
    let text = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Whether there are more than `limit` processes and threads below `root`, without bubblewrap, which is
/// its child. Looks at no more than that many, since they may come faster than anybody can look; `None`
/// where the kernel has no lists of children.
pub(super) fn are_more(root: u32, limit: u64) -> Option<bool> {
    fs::metadata("/proc/thread-self/children").ok()?;
    let mut pending = vec![(root, false)];
    let mut count = 0;
    while let Some((pid, is_counted)) = pending.pop() {
        // Whatever ends meanwhile is none.
        let threads = fs::read_dir(format!("/proc/{pid}/task"));
        for thread in threads.into_iter().flatten().flatten() {
            count += u64::from(is_counted);
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            let children = children.split(' ').filter_map(|child| child.parse().ok());
            pending.extend(children.map(|child| (child, pid != root)));
        }
        if count + pending.iter().filter(|(_, is_counted)| *is_counted).count() as u64 > limit {
            return Some(true);
        }
    }
    Some(false)
}

/// What some processes use.
#[derive(Clone, Debug, Default)]
pub(super) struct Census {
    pub(super) pids: Vec<u32>,
    pub(super) threads: u64,
    /// With that of children that were waited for.
    pub(super) cpu_time: Duration,
    /// By process.
    own_ticks: HashMap<(u32, u64), u64>,
    /// Pages that several have count several times.
    resident_bytes: u64,
}

impl Census {
    /// Counts the processes below `root`, without bubblewrap, which is its child.
    pub(super) fn take(root: u32) -> io::Result<Census> {
        let mut children: HashMap<u32, Vec<(u32, Process)>> = HashMap::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let pid = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            // One that ends meanwhile is none.
            let process = pid.and_then(|pid: u32| {
                let process = parse(&fs::read(entry.path().join("stat")).ok()?)?;
                if process.resident_pages > 0 || process.threads == 1 {
                    return Some((pid, process));
                }
                let seen = parse(&fs::read(living(pid).join("stat")).ok()?)?;
                let resident_pages = seen.resident_pages;
                Some((
                    pid,
                    Process {
                        resident_pages,
                        ..process
                    },
                ))
            });
            if let Some((pid, process)) = process {
                children
                    .entry(process.parent)
                    .or_default()
                    .push((pid, process));
            }
        }
        let mut census = Census::default();
        let mut pending = vec![root];
        let mut seen = HashSet::new();
        let mut ticks = 0;
        while let Some(parent) = pending.pop() {
            for (pid, process) in children.remove(&parent).unwrap_or_default() {
                if !seen.insert(pid) {
                    continue;
                }
                pending.push(pid);
                ticks += process.ticks;
                let identity = (pid, process.started);
                census.own_ticks.insert(identity, process.own_ticks);
                if parent != root {
                    census.pids.push(pid);
                    census.threads += process.threads;
                    census.resident_bytes += process.resident_pages * page_size() as u64;
                }
            }
        }
        census.cpu_time = duration(ticks);
        Ok(census)
    }

    /// Bytes of memory, exactly where they may be more than `limit`; `nameless` bytes of files in memory
    /// that have no name count too.
    pub(super) fn memory(&self, limit: u64, nameless: u64) -> MemoryParts {
        let files = self.shared_memory().saturating_add(nameless);
        let parts = MemoryParts {
            private: self.resident_bytes,
            files,
        };
        if parts.all() <= limit {
            return parts;
        }
        // Each page once; what is mapped of files in memory is part of those.
        let parts: Vec<_> = self
            .pids
            .iter()
            .filter_map(|pid| proportional(*pid).or_else(|| Some((resident_bytes(*pid)?, 0))))
            .collect();
        let private: u64 = parts.iter().map(|part| part.0).sum();
        let mapped: u64 = parts.iter().map(|part| part.1).sum();
        MemoryParts {
            private,
            files: mapped.max(files),
        }
    }

    /// Bytes in the sandbox's `/dev/shm`.
    fn shared_memory(&self) -> u64 {
        let host = fs::metadata(Path::new("/").join(SHARED_MEMORY)).map(|host| host.dev());
        let used = self.pids.iter().find_map(|pid| {
            let path = living(*pid).join("root").join(SHARED_MEMORY);
            let is_its_own = fs::metadata(&path).ok()?.dev() != *host.as_ref().ok()?;
            let status = is_its_own.then(|| statvfs(&path).ok()).flatten()?;
            Some((status.f_blocks - status.f_bfree) * status.f_frsize)
        });
        used.unwrap_or(0)
    }

    /// Open or mapped files on the file systems `devices` that have no name any more; `None` if not all can be
    /// seen.
    pub(super) fn nameless(&self, devices: &[u64]) -> Option<Nameless> {
        self.nameless_while(devices, &|| true)
    }

    /// The same; `None` also if `has_time` says no during the search.
    pub(super) fn nameless_while(
        &self,
        devices: &[u64],
        has_time: &dyn Fn() -> bool,
    ) -> Option<Nameless> {
        let open = self.open_files(devices, usize::MAX, has_time)?;
        let is_known = |inode| open.nameless.contains_key(&inode);
        let mapped = self
            .pids
            .iter()
            .flat_map(|pid| mapped_nameless(*pid, devices));
        let is_complete = mapped.into_iter().all(is_known);
        is_complete.then(|| Nameless {
            bytes: open.nameless.values().sum(),
            inodes: open.nameless.len() as u64,
        })
    }

    /// The files that the processes have open; `None` if not all can be seen.
    /// The search ends early when it has found `enough` pipes and sockets.
    fn open_files(
        &self,
        devices: &[u64],
        enough: usize,
        has_time: &dyn Fn() -> bool,
    ) -> Option<OpenFiles> {
        let mut open = OpenFiles::default();
        let mut looked_at = 0;
        for pid in &self.pids {
            let process = living(*pid);
            let descriptors = match fs::read_dir(process.join("fd")) {
                Ok(descriptors) => descriptors,
                // It executed a file that it may not read.
                Err(_) if resident_bytes(*pid).is_some_and(|bytes| bytes > 0) => return None,
                Err(_) => continue,
            };
            for entry in descriptors.flatten() {
                looked_at += 1;
                let is_due = looked_at % DESCRIPTORS_A_LOOK == 0;
                if looked_at > MAX_DESCRIPTORS || is_due && !has_time() {
                    return None;
                }
                let Ok(file) = fs::metadata(entry.path()) else {
                    continue;
                };
                let kind = file.file_type();
                if kind.is_socket() && holds_descriptors(&process, &entry.file_name()) {
                    return None;
                }
                if kind.is_socket() || kind.is_fifo() {
                    open.buffers.insert((file.dev(), file.ino()));
                    if open.buffers.len() >= enough {
                        return Some(open);
                    }
                }
                if file.nlink() == 0 && devices.contains(&file.dev()) {
                    open.nameless.insert(file.ino(), file.blocks() * 512);
                }
            }
        }
        Some(open)
    }

    /// The number of pipes and sockets, counted up to `enough`; `None` if not all can be seen.
    pub(super) fn buffers(&self, enough: u64) -> Option<u64> {
        let enough = usize::try_from(enough).unwrap_or(usize::MAX);
        let open = self.open_files(&[], enough, &|| true)?;
        Some(open.buffers.len() as u64)
    }

    /// Bytes of page tables.
    pub(super) fn page_tables(&self) -> u64 {
        let of = |pid: &u32| status_bytes(&living(*pid), &["VmPTE:", "VmPMD:"]);
        self.pids.iter().map(of).sum()
    }
}

/// Bytes of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MemoryParts {
    pub(super) private: u64,
    /// Of files in memory and of shared memory.
    pub(super) files: u64,
}

impl MemoryParts {
    pub(super) fn all(self) -> u64 {
        self.private.saturating_add(self.files)
    }
}

/// Files without a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Nameless {
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

/// Files that some processes have open.
#[derive(Debug, Default)]
struct OpenFiles {
    /// Bytes by inode.
    nameless: HashMap<u64, u64>,
    /// Pipes and sockets.
    buffers: HashSet<(u64, u64)>,
}

/// The sum of some fields of a `status`, in bytes. A missing field counts as 0.
pub(super) fn status_bytes(process: &Path, names: &[&str]) -> u64 {
    let text = fs::read_to_string(process.join("status")).unwrap_or_default();
    let kib = |line: &str| {
        let value = names.iter().find_map(|name| line.strip_prefix(name))?;
        value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    };
    text.lines().filter_map(kib).sum::<u64>() * 1024
}

/// Whether somebody sent descriptors into a socket that nobody has received.
fn holds_descriptors(process: &Path, descriptor: &OsStr) -> bool {
    let told = fs::read_to_string(process.join("fdinfo").join(descriptor));
    let told = told.unwrap_or_default();
    let mut counts = told
        .lines()
        .filter_map(|line| line.strip_prefix("scm_fds:"));
    counts.any(|count| count.trim() != "0")
}

/// Inodes on the file systems `devices` of files without a name that are mapped.
fn mapped_nameless(pid: u32, devices: &[u64]) -> Vec<u64> {
    let maps = fs::read(living(pid).join("maps")).unwrap_or_default();
    let name = |device: &u64| format!("{:02x}:{:02x}", major(*device), minor(*device));
    let devices: Vec<String> = devices.iter().map(name).collect();
    let nameless = |line: &[u8]| {
        let line = String::from_utf8_lossy(line.strip_suffix(b" (deleted)")?).into_owned();
        let mut fields = line.split_ascii_whitespace().skip(3);
        let device = fields.next()?;
        let is_there = devices.iter().any(|each| each == device);
        is_there.then(|| fields.next()?.parse().ok())?
    };
    maps.split(|byte| *byte == b'\n')
        .filter_map(nameless)
        .collect()
}

/// Time on processors of all processes that were ever seen, also of those that nobody waited for. What
/// they took after they were last seen is missing.
#[derive(Debug, Default)]
pub(super) struct Seen {
    living: HashMap<(u32, u64), u64>,
    gone: u64,
}

impl Seen {
    pub(super) fn add(&mut self, census: &Census) -> Duration {
        let before = std::mem::replace(&mut self.living, census.own_ticks.clone());
        let gone = before
            .iter()
            .filter(|(process, _)| !self.living.contains_key(process));
        self.gone += gone.map(|(_, ticks)| ticks).sum::<u64>();
        duration(self.gone + self.living.values().sum::<u64>())
    }
}

fn duration(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / clock_ticks_per_second())
}

/// The process, or a thread of it where its first one has ended: of that nothing can be seen any more.
fn living(pid: u32) -> PathBuf {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let has_memory = |path: &Path| {
        let stat = fs::read(path.join("stat")).ok();
        stat.and_then(|stat| parse(&stat))
            .is_some_and(|seen| seen.resident_pages > 0)
    };
    if has_memory(&process) {
        return process;
    }
    let threads = fs::read_dir(process.join("task"))
        .into_iter()
        .flatten()
        .flatten();
    let mut threads = threads.map(|thread| thread.path());
    threads.find(|thread| has_memory(thread)).unwrap_or(process)
}

/// Bytes of memory of a process, those that it shares included.
fn resident_bytes(pid: u32) -> Option<u64> {
    let stat = fs::read(living(pid).join("stat")).ok()?;
    Some(parse(&stat)?.resident_pages * page_size() as u64)
}

/// Bytes of memory of a process, its part of what it shares: without files, swapped out included; and of
/// shared memory.
fn proportional(pid: u32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(living(pid).join("smaps_rollup")).ok()?;
    let field = |name| {
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name))?;
        let kib = value
            .trim()
            .strip_suffix(" kB")?
            .trim()
            .parse::<u64>()
            .ok()?;
        Some(kib * 1024)
    };
    // Linux before 5.4 has the sum alone.
    let private = field("Pss_Anon:").or_else(|| field("Pss:"))?;
    let swapped = field("SwapPss:").unwrap_or(0);
    Some((private + swapped, field("Pss_Shmem:").unwrap_or(0)))
}

/// Reads a `stat`: behind the name, which may hold anything, stand numbers.
fn parse(stat: &[u8]) -> Option<Process> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let text = std::str::from_utf8(&stat[end + 1..]).ok()?;
    // The first is the state, field 3.
    let fields: Vec<&str> = text.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<i64>().ok();
    let positive = |number| field(number).map(|value| u64::try_from(value).unwrap_or(0));
    Some(Process {
        parent: u32::try_from(field(4)?).ok()?,
        ticks: (14..=17).filter_map(positive).sum(),
        own_ticks: (14..=15).filter_map(positive).sum(),
        started: positive(22)?,
        threads: positive(20)?,
        resident_pages: positive(24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_behind_the_name() {
        let stat = b"7 (a) b) R 3 7 7 0 -1 4 0 0 0 0 10 20 30 40 20 0 5 0 100 0 6 0";
        let process = parse(stat).unwrap();
        assert_eq!(process.parent, 3);
        assert_eq!(
            (process.ticks, process.threads, process.resident_pages),
            (100, 5, 6)
        );
        assert_eq!((process.own_ticks, process.started), (30, 100));
        assert_eq!(parse(b"7 (a"), None);
        assert_eq!(parse(b"7 (a) R x"), None);
    }

    #[test]
    fn totals_include_ended_processes() {
        let census = |ticks: &[(u32, u64)]| Census {
            own_ticks: ticks.iter().map(|(pid, own)| ((*pid, 1), *own)).collect(),
            ..Census::default()
        };
        let mut seen = Seen::default();
        for (ticks, wanted) in [
            (&[(1, 10)][..], 10),
            (&[(1, 20), (2, 5)], 25),
            (&[(1, 20)], 25),
            (&[(1, 30), (3, 7)], 42),
            (&[], 42),
        ] {
            assert_eq!(seen.add(&census(ticks)), duration(wanted));
        }
    }

    #[test]
    fn the_machine_has_processes() {
        assert!(count_all().unwrap() > 0);
    }

    /// A file that is open and has no name is found by any of the file systems as which it may be seen.
    #[test]
    fn files_without_a_name_are_found() {
        let place = tempfile::tempdir().unwrap();
        let device = fs::metadata(place.path()).unwrap().dev();
        // The second sleeper has a pipe, too.
        let script = "exec 5> $0; rm $0; head -c 100000 /dev/zero >&5; sleep 60 & sleep 60 | sleep 60 & echo; wait";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script])
            .arg(place.path().join("file"))
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
        let census = Census::take(std::process::id()).unwrap();
        let none = Nameless::default();
        assert_eq!(census.nameless(&[device + 1]), Some(none));
        for devices in [&[device][..], &[device + 1, device], &[device, device]] {
            let found = census.nameless(devices).unwrap();
            assert_eq!(found.inodes, 1, "{devices:?}");
            assert!((100_000..200_000).contains(&found.bytes), "{found:?}");
        }
        assert_eq!(
            census.nameless_while(&[device], &|| true),
            census.nameless(&[device])
        );
        // That of the output, and the one between the two.
        assert!(census.buffers(u64::MAX).unwrap() >= 2);
        assert_eq!(census.buffers(1), Some(1));
        assert!(census.page_tables() > 0);
        for pid in &census.pids {
            let pid = rustix::process::Pid::from_raw(*pid as i32).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        child.wait().unwrap();
    }

    #[test]
    fn a_child_of_a_child_is_counted() {
        let script = "sleep 60 & echo; wait";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
        let census = Census::take(std::process::id()).unwrap();
        // The shell is a child, as bubblewrap would be; `sleep` is below.
        assert_eq!(census.threads as usize, census.pids.len());
        assert!(!census.pids.is_empty());
        for pid in &census.pids {
            let pid = rustix::process::Pid::from_raw(*pid as i32).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        child.wait().unwrap();
    }
}
