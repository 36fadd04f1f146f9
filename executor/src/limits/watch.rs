//! Holds the limits of one run.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Access, MemfdFlags, access, fstat, memfd_create};
use rustix::process::geteuid;
use rustix::thread::{CpuSet, sched_getaffinity};

use super::cgroup::{Door, Group};
use super::disk::{Tally, Tree};
use super::processes::{Census, Seen, are_more, count_all, count_kills, count_memory_files};
use super::{Directories, Held, Hit, Limit, LimitError, Limits, Mechanism, Usage};
use crate::process::{Bounds, Clock, Haste, ProcessUsage};

/// How often it is looked at what is used, at first. Looking may take a fifth of the time.
const INTERVAL: Duration = Duration::from_millis(20);
const MAX_INTERVAL: Duration = Duration::from_millis(400);

/// And this often whether thousands of processes have come, which they do in a moment: one short read.
const GLANCE: Duration = Duration::from_millis(10);

/// What a single file may have in any case, so that none fails for a limit that is not its own.
const LARGE_FILE: u64 = 4 << 30;

/// How long one look at a directory may take. It goes on where what was not seen may be too much.
const LOOK: Duration = Duration::from_millis(300);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Watch {
    limits: Limits,
    group: Option<Group>,
    door: Option<Door>,
    cpus: Option<CpuSet>,
    held: Held,
    output: Tree,
    tmp: Tree,
    /// Bytes that stay free on their file system.
    kept_free: u64,
    printed: Arc<AtomicU64>,
    /// When the program was started, and by whom.
    started: Option<(Instant, u32)>,
    /// Processes and threads of the machine at that time.
    others: u64,
    /// Processes that the kernel had ended by then because memory ran out.
    kills: u64,
    /// Bytes of files in memory of the machine by then.
    memory_files: u64,
    /// The file system of files in memory that never had a name.
    memory_device: u64,
    next: Option<Instant>,
    interval: Duration,
    next_glance: Option<Instant>,
    seen: Seen,
    /// What counts the time of all processes where no group does.
    clock: Option<Clock>,
    /// While nothing but our looking keeps processes from being thousands.
    haste: Option<Haste>,
}

impl Watch {
    /// Prepares to hold `limits` of a program that `starter` starts.
    ///
    /// # Errors
    /// [`LimitError::Unenforceable`] or [`LimitError::Full`] where one of them cannot be held.
    pub(crate) fn new(
        limits: &Limits,
        directories: Directories<'_>,
        starter: &Path,
    ) -> Result<Watch, LimitError> {
        let group = Group::create(limits);
        let door = group.as_ref().map(Group::door).transpose();
        let open = |path| Tree::open(path).map_err(LimitError::Watch);
        let output = open(directories.output)?;
        let mut watch = Watch {
            limits: *limits,
            group,
            door: door.map_err(LimitError::Watch)?,
            cpus: limits
                .cpus
                .map(processors)
                .transpose()
                .map_err(LimitError::Watch)?,
            held: Held::new(),
            kept_free: kept_free(limits, &output)?,
            output,
            tmp: open(directories.tmp)?,
            printed: Arc::default(),
            started: None,
            others: 0,
            kills: 0,
            memory_files: 0,
            memory_device: memory_device().map_err(LimitError::Watch)?,
            next: None,
            interval: INTERVAL,
            next_glance: None,
            seen: Seen::default(),
            clock: None,
            haste: None,
        };
        watch.held = watch.mechanisms(starter)?;
        Ok(watch)
    }

    fn mechanisms(&self, starter: &Path) -> Result<Held, LimitError> {
        let limits = &self.limits;
        let set = [
            (Limit::Memory, limits.memory.is_some()),
            (Limit::Cpus, limits.cpus.is_some()),
            (Limit::CpuTime, limits.cpu_time.is_some()),
            (Limit::Timeout, limits.timeout.is_some()),
            (Limit::TotalTimeout, limits.total_timeout.is_some()),
            (Limit::Pids, true),
            (Limit::OutputSize, limits.output_size.is_some()),
            (Limit::OutputFiles, limits.output_files.is_some()),
            (Limit::TmpSize, limits.tmp_size.is_some()),
            (Limit::LogSize, limits.log_size.is_some()),
            (Limit::KeepFree, self.kept_free > 0),
        ];
        let set = set.into_iter().filter(|(_, is_set)| *is_set);
        set.map(|(limit, _)| Ok((limit, self.mechanism(limit, starter)?)))
            .collect()
    }

    fn mechanism(&self, limit: Limit, starter: &Path) -> Result<Mechanism, LimitError> {
        if let Some(mechanism) = self.group.as_ref().and_then(|group| group.mechanism(limit)) {
            return Ok(mechanism);
        }
        match limit {
            Limit::Cpus => {}
            Limit::CpuTime if is_followed(starter) && Clock::start().is_ok() => {
                return Ok(Mechanism::Perf);
            }
            // The kernel does not count those of root.
            Limit::Pids if !geteuid().is_root() => return Ok(Mechanism::Rlimit),
            _ => return Ok(Mechanism::Supervision),
        }
        let is_whole = self.limits.cpus.is_some_and(|cpus| cpus.fract() == 0.0);
        match is_whole {
            true => Ok(Mechanism::Affinity),
            false if self.limits.best_effort => Ok(Mechanism::None),
            false => Err(LimitError::Unenforceable {
                limit,
                reason: "a part of a processor takes a control group with `cpu`",
            }),
        }
    }

    /// By what each limit is held.
    pub(crate) fn held(&self) -> &Held {
        &self.held
    }

    /// What the program is started with.
    pub(crate) fn bounds(&self) -> Bounds {
        let sizes = [self.limits.output_size, self.limits.tmp_size];
        let both = sizes.into_iter().collect::<Option<Vec<_>>>();
        Bounds {
            group: self.door.as_ref().map(Door::entry).unwrap_or_default(),
            counts_time: self.held.contains(&(Limit::CpuTime, Mechanism::Perf)),
            cpus: self.cpus,
            // One byte more, so that it can be seen that it was too much. Files in memory are limited by
            // what they take there.
            file_bytes: both
                .and_then(|both| both.into_iter().max())
                .map(|most| most.max(LARGE_FILE).saturating_add(1)),
        }
    }

    /// Where the bytes that the program prints are counted, and how many it may print.
    pub(crate) fn log(&self) -> Option<(Arc<AtomicU64>, u64)> {
        let limit = self.limits.log_size?;
        Some((Arc::clone(&self.printed), limit))
    }

    /// The program is about to start, below process `supervisor`; `clock` counts as [`bounds`](Self::bounds)
    /// asked for.
    pub(crate) fn start(&mut self, supervisor: u32, clock: Option<Clock>) {
        let now = Instant::now();
        self.clock = clock;
        self.started = Some((now, supervisor));
        self.others = count_all().unwrap_or(0);
        self.kills = count_kills();
        if self.limits.memory.is_some() {
            self.memory_files = count_memory_files();
        }
        self.next = self.next_look(now, INTERVAL);
        self.next_glance = self.is_supervised(Limit::Pids).then_some(now + GLANCE);
        let is_alone = self.held.contains(&(Limit::Pids, Mechanism::Supervision));
        self.haste = is_alone.then(Haste::take).flatten();
        self.door = None;
    }

    /// Most processes and threads that the kernel is to let the sandbox's user have. More than the program
    /// may have, so that it can be seen that it was too much: a process that is refused one may be gone
    /// before anybody looks. It is the same wherever the job runs.
    pub(crate) fn most_processes(&self) -> u64 {
        let most = self.limits.most_pids().max(Limits::DEFAULT_PIDS);
        most.saturating_add(most / 4)
    }

    /// How long nobody has to look; for ever where there is nothing to look at.
    pub(crate) fn patience(&self) -> Option<Duration> {
        let next = self.next.into_iter().chain(self.next_glance).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn next_look(&self, now: Instant, interval: Duration) -> Option<Instant> {
        let deadline = self.limits.timeout.zip(self.started);
        let deadline = deadline.and_then(|(timeout, (started, _))| started.checked_add(timeout));
        let is_watched = self
            .held
            .iter()
            .any(|(limit, _)| !matches!(limit, Limit::Timeout | Limit::TotalTimeout));
        let look = is_watched.then_some(now + interval);
        let total = self.limits.total_deadline();
        [deadline, total, look].into_iter().flatten().min()
    }

    /// Looks, if it is time to: gives the limit that was hit.
    pub(crate) fn look(&mut self) -> io::Result<Option<Hit>> {
        let before = Instant::now();
        if self.next_glance.is_some_and(|next| next <= before) {
            if self.may_be_many() && self.are_many() == Some(true) {
                return Ok(Some(self.hit(Limit::Pids)));
            }
            self.next_glance = Some(Instant::now() + GLANCE);
        }
        if self.next.is_none_or(|next| before < next) {
            return Ok(None);
        }
        let limit = self.find_hit()?;
        let now = Instant::now();
        // Less and less often: most programs that take long stay far from their limits.
        let interval = (self.interval * 5 / 4).max((now - before) * 4);
        self.interval = interval.min(MAX_INTERVAL);
        self.next = self.next_look(now, self.interval);
        Ok(limit.map(|limit| self.hit(limit)))
    }

    fn hit(&self, limit: Limit) -> Hit {
        Hit {
            limit,
            limits: self.limits,
        }
    }

    fn find_hit(&mut self) -> io::Result<Option<Limit>> {
        let Some((started, supervisor)) = self.started else {
            return Ok(None);
        };
        let limits = &self.limits;
        if limits
            .timeout
            .is_some_and(|timeout| started.elapsed() >= timeout)
        {
            return Ok(Some(Limit::Timeout));
        }
        if limits
            .total_deadline()
            .is_some_and(|deadline| Instant::now() >= deadline)
        {
            return Ok(Some(Limit::TotalTimeout));
        }
        let group = self.group.as_ref();
        if let Some(limit) = group.and_then(Group::hit) {
            return Ok(Some(limit));
        }
        // First of all, and without looking at all of them: when there are too many, that takes too long.
        let mut needs_count =
            self.is_supervised(Limit::Pids) && (limits.pids.is_some() || self.may_be_many());
        if needs_count && let Some(are_many) = self.are_many() {
            if are_many {
                return Ok(Some(Limit::Pids));
            }
            needs_count = false;
        }
        let counts = [Limit::Memory, Limit::CpuTime];
        let needs_census = counts.into_iter().any(|limit| self.is_supervised(limit))
            || limits.tmp_size.is_some()
            || needs_count;
        let census = needs_census.then(|| Census::take(supervisor)).transpose()?;
        let census = census.unwrap_or_default();
        if let Some(limit) = limits.cpu_time {
            let used = match group.and_then(Group::cpu_time) {
                Some(used) => used,
                None => {
                    let counted = self.clock.as_ref().map(Clock::read).transpose()?;
                    let seen = self.seen.add(&census).max(census.cpu_time);
                    seen.max(counted.unwrap_or_default())
                }
            };
            if used >= limit {
                return Ok(Some(Limit::CpuTime));
            }
        }
        let exceeds = |wanted, limit: Option<u64>, used: &dyn Fn(u64) -> u64| {
            self.is_supervised(wanted) && limit.is_some_and(|limit| used(limit) > limit)
        };
        if exceeds(Limit::Pids, Some(limits.most_pids()), &|_| census.threads) {
            return Ok(Some(Limit::Pids));
        }
        let memory = |limit| {
            // What cannot be seen is at most what all of the machine have more than at first.
            let nameless = census.nameless_bytes(self.memory_device);
            let more = || count_memory_files().saturating_sub(self.memory_files);
            census.memory(limit, nameless.unwrap_or_else(more))
        };
        if exceeds(Limit::Memory, limits.memory, &memory) {
            return Ok(Some(Limit::Memory));
        }
        if limits
            .log_size
            .is_some_and(|limit| self.printed.load(Ordering::Relaxed) > limit)
        {
            return Ok(Some(Limit::LogSize));
        }
        if let Some(limit) = self.find_disk_hit(&census, true)? {
            return Ok(Some(limit));
        }
        let is_full = self.output.available_bytes()? < self.kept_free;
        let is_hit = is_full && self.is_to_blame(supervisor)?;
        Ok(is_hit.then_some(Limit::KeepFree))
    }

    /// Whether the program itself has so much of the disk that its end gives back what should be free, or
    /// most of what was taken since it started.
    fn is_to_blame(&self, supervisor: u32) -> io::Result<bool> {
        let lost = self.output.lost_bytes()?;
        let much = self.kept_free.min(lost.div_ceil(2)).max(1);
        let enough = Tally {
            allocated: much,
            ..Tally::MAX
        };
        let mut taken = 0_u64;
        for tree in [&self.output, &self.tmp] {
            let allocated = tree.measure(enough, deadline(true))?.allocated;
            taken = taken.saturating_add(allocated);
        }
        // What cannot be told apart is counted as the program's.
        let nameless = Census::take(supervisor)?.nameless_bytes(self.output.device);
        taken = taken.saturating_add(nameless.unwrap_or(lost));
        Ok(taken >= much)
    }

    /// Whether so many processes have come that those of the program may be too many. Who did not ask for
    /// a limit pays no more than this.
    fn may_be_many(&self) -> bool {
        let all = count_all().unwrap_or(u64::MAX);
        all.saturating_sub(self.others) > self.limits.most_pids()
    }

    /// Whether looking holds it, and not a group.
    fn is_supervised(&self, wanted: Limit) -> bool {
        let by = |mechanism| self.held.contains(&(wanted, mechanism));
        by(Mechanism::Supervision) || by(Mechanism::Rlimit) || by(Mechanism::Perf)
    }

    /// Whether there are more than there may be; `None` where that takes looking at all of them.
    fn are_many(&self) -> Option<bool> {
        let (_, supervisor) = self.started?;
        are_more(supervisor, self.limits.most_pids())
    }

    /// Where the program is not running any more, nobody is left who could change anything.
    fn find_disk_hit(&self, census: &Census, is_running: bool) -> io::Result<Option<Limit>> {
        let limits = &self.limits;
        let exceeds = |used: u64, limit: Option<u64>| limit.is_some_and(|limit| used > limit);
        if limits.output_size.is_some() || limits.output_files.is_some() {
            let enough = Tally {
                bytes: limits.output_size.unwrap_or(u64::MAX),
                entries: limits.output_files.unwrap_or(u64::MAX),
                ..Tally::MAX
            };
            let tally = self.output.measure(enough, deadline(is_running))?;
            if exceeds(tally.entries, limits.output_files) {
                return Ok(Some(Limit::OutputFiles));
            }
            if exceeds(tally.bytes, limits.output_size) {
                return Ok(Some(Limit::OutputSize));
            }
        }
        let Some(most) = limits.tmp_size else {
            return Ok(None);
        };
        let tree = &self.tmp;
        let enough = Tally {
            allocated: most,
            ..Tally::MAX
        };
        // Files without a name are on the same disk, wherever they were made.
        let nameless = match census.nameless_bytes(tree.device) {
            Some(bytes) => bytes,
            None => tree.lost_bytes()?,
        };
        let allocated = tree.measure(enough, deadline(is_running))?.allocated;
        let allocated = allocated.saturating_add(nameless);
        Ok((allocated > most).then_some(Limit::TmpSize))
    }

    /// What the program hit that nobody saw before it ended, by SIGKILL or otherwise.
    pub(crate) fn last_look(&self, was_killed: bool) -> io::Result<Option<Hit>> {
        let limits = &self.limits;
        let limit = match self.group.as_ref().and_then(Group::hit) {
            Some(limit) => Some(limit),
            None if limits
                .log_size
                .is_some_and(|limit| self.printed.load(Ordering::Relaxed) > limit) =>
            {
                Some(Limit::LogSize)
            }
            None if was_killed && count_kills() > self.kills => Some(Limit::MachineMemory),
            None => self.find_disk_hit(&Census::default(), false)?,
        };
        Ok(limit.map(|limit| self.hit(limit)))
    }

    /// What was used in all.
    pub(crate) fn usage(&self, process: &ProcessUsage) -> Usage {
        let group = self.group.as_ref();
        let wall = self
            .started
            .map_or(Duration::ZERO, |(started, _)| started.elapsed());
        let counted = self.clock.as_ref().and_then(|clock| clock.read().ok());
        let others = counted.map(|all| all.saturating_sub(process.system));
        let waited_for = (
            others.max(Some(process.user)).unwrap_or_default(),
            process.system,
        );
        let (user, system) = group.and_then(Group::cpu_times).unwrap_or(waited_for);
        Usage {
            wall_seconds: wall.as_secs_f64(),
            user_seconds: user.as_secs_f64(),
            system_seconds: system.as_secs_f64(),
            peak_memory_bytes: group
                .and_then(Group::peak_memory)
                .unwrap_or(process.peak_memory_bytes),
            peak_pids: group.and_then(Group::peak_pids),
            read_bytes: process.read_bytes,
            written_bytes: process.written_bytes,
        }
    }
}

fn deadline(is_running: bool) -> Option<Instant> {
    is_running.then(|| Instant::now() + LOOK)
}

/// What stays free on the disk of `output`.
fn kept_free(limits: &Limits, output: &Tree) -> Result<u64, LimitError> {
    let available = output.available_bytes().map_err(LimitError::Watch)?;
    match limits.keep_free {
        Some(bytes) if bytes <= available => return Ok(bytes),
        Some(bytes) if !limits.best_effort => return Err(LimitError::Full { bytes, available }),
        _ => {}
    }
    let twentieth = output.capacity().map_err(LimitError::Watch)? / 20;
    let half = available / 2;
    Ok(Limits::DEFAULT_KEEP_FREE.min(twentieth).min(half))
}

/// Whether the kernel goes on counting the time of a process that executes `program`, as it does where
/// that gives no rights and can be read.
fn is_followed(program: &Path) -> bool {
    const SET_ID: u32 = 0o6000;
    let mode = fs::metadata(program).map(|file| file.mode());
    let is_plain =
        mode.is_ok_and(|mode| mode & SET_ID == 0) && access(program, Access::READ_OK).is_ok();
    geteuid().is_root() || is_plain
}

fn memory_device() -> io::Result<u64> {
    let file = memfd_create(c"ipfs-exec", MemfdFlags::CLOEXEC)?;
    Ok(fstat(&file)?.st_dev)
}

/// As many processors of those that we may use; others for each process, so that not all use the same.
fn processors(count: f64) -> io::Result<CpuSet> {
    let ours = sched_getaffinity(None)?;
    let all: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|cpu| ours.is_set(*cpu))
        .collect();
    let count = (count.ceil().max(1.0) as usize).min(all.len());
    let first = std::process::id() as usize % all.len().max(1);
    let mut chosen = CpuSet::new();
    for cpu in all.iter().cycle().skip(first).take(count) {
        chosen.set(*cpu);
    }
    Ok(chosen)
}
