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
use super::disk_watch::DiskWatch;
use super::files::OpenFiles;
use super::machine::{Baseline, Memory};
use super::pace::LONGEST;
use super::processes::{Census, Seen, are_more, count_all, count_kills};
use super::{Directories, Held, Hit, Limit, LimitError, Limits, Mechanism, Usage};
use crate::process::{Bounds, Clock, ProcessUsage, RealtimePriority};

/// How often it is looked at what is used, at first. Looking may take a fifth of the time.
const INTERVAL: Duration = Duration::from_millis(20);
const MAX_INTERVAL: Duration = LONGEST;

/// And this often whether thousands of processes have come, which they do in a moment: one short read.
const GLANCE: Duration = Duration::from_millis(10);

/// What a single file may have in any case, so that none fails for a limit that is not its own.
const LARGE_FILE: u64 = 4 << 30;

/// Holds the limits of one program, and counts what it uses.
#[derive(Debug)]
pub(crate) struct Watch {
    limits: Limits,
    group: Option<Group>,
    door: Option<Door>,
    cpus: Option<CpuSet>,
    held: Held,
    disk: DiskWatch,
    printed: Arc<AtomicU64>,
    /// When the program was started, and by whom.
    started: Option<(Instant, u32)>,
    /// Processes and threads of the machine at that time.
    others: u64,
    /// Processes that the kernel had ended by then because memory ran out.
    kills: u64,
    /// Open files of the machine by then.
    files: OpenFiles,
    /// Counters of the machine at that time, if no group counts the program's memory.
    memory: Option<Baseline>,
    /// The file system of files in memory that never had a name.
    memory_device: u64,
    next: Option<Instant>,
    interval: Duration,
    next_glance: Option<Instant>,
    seen: Seen,
    /// What counts the time of all processes where no group does.
    clock: Option<Clock>,
    /// While nothing but our looking keeps processes from being thousands.
    realtime: Option<RealtimePriority>,
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
            disk: DiskWatch::new(limits, directories)?,
            printed: Arc::default(),
            started: None,
            others: 0,
            kills: 0,
            files: OpenFiles::default(),
            memory: None,
            memory_device: memory_device().map_err(LimitError::Watch)?,
            next: None,
            interval: INTERVAL,
            next_glance: None,
            seen: Seen::default(),
            clock: None,
            realtime: None,
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
            (Limit::KeepFree, self.disk.keeps_free()),
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

    /// Adds device numbers under which the program sees its directories, such as those of overlays. Files without
    /// a name on them take the same disk.
    pub(crate) fn add_devices(&mut self, devices: &[u64]) {
        self.disk.add_devices(devices);
    }

    /// Notes the counters of the machine, before anything of the program starts.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) fn prepare(&mut self) -> io::Result<()> {
        self.others = count_all().unwrap_or(0);
        self.kills = count_kills();
        self.files = OpenFiles::read().unwrap_or_default();
        if self.limits.memory.is_some() && self.is_supervised(Limit::Memory) {
            self.memory = Some(Baseline::take()?);
        }
        Ok(())
    }

    /// The program starts, below process `supervisor`; `clock` counts as [`bounds`](Self::bounds) asked for.
    ///
    /// # Errors
    /// If the disk cannot be looked at.
    pub(crate) fn start(&mut self, supervisor: u32, clock: Option<Clock>) -> io::Result<()> {
        let now = Instant::now();
        self.clock = clock;
        self.started = Some((now, supervisor));
        self.disk.start(now)?;
        self.next = self.next_look(now, INTERVAL);
        self.next_glance = self.is_supervised(Limit::Pids).then_some(now + GLANCE);
        let is_alone = self.held.contains(&(Limit::Pids, Mechanism::Supervision));
        self.realtime = is_alone.then(RealtimePriority::take).flatten();
        self.door = None;
        Ok(())
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
        let times = [self.next, self.next_glance, self.disk.next()];
        let next = times.into_iter().flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// When a limit on time is over.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let program = self.limits.timeout.zip(self.started);
        let program = program.and_then(|(timeout, (started, _))| started.checked_add(timeout));
        [program, self.limits.total_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    fn next_look(&self, now: Instant, interval: Duration) -> Option<Instant> {
        let is_watched = self
            .held
            .iter()
            .any(|(limit, _)| !matches!(limit, Limit::Timeout | Limit::TotalTimeout));
        let look = is_watched.then_some(now + interval);
        [self.deadline(), look].into_iter().flatten().min()
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
        if self.disk.next().is_some_and(|next| next <= before)
            && let Some((_, supervisor)) = self.started
            && let Some(limit) = self.disk.glance(supervisor)?
        {
            return Ok(Some(self.hit(limit)));
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
        if let Some(now) = OpenFiles::read()
            && now.are_scarce(self.files)
            && now.are_of(self.files, &Census::take(supervisor)?.pids)
        {
            return Ok(Some(Limit::MachineFiles));
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
        if self.is_supervised(Limit::Memory)
            && let Some(limit) = self.find_memory_hit(&census)?
        {
            return Ok(Some(limit));
        }
        let limits = &self.limits;
        if limits
            .log_size
            .is_some_and(|limit| self.printed.load(Ordering::Relaxed) > limit)
        {
            return Ok(Some(Limit::LogSize));
        }
        if let Some(limit) = self.disk.find_hit(&census)? {
            return Ok(Some(limit));
        }
        self.disk.glance(supervisor)
    }

    /// The limit on memory that the program has hit, if no group holds it.
    fn find_memory_hit(&mut self, census: &Census) -> io::Result<Option<Limit>> {
        let (Some(limit), Some(mut baseline)) = (self.limits.memory, self.memory) else {
            return Ok(None);
        };
        let now = Memory::read()?;
        baseline.see_others(&census.pids);
        self.memory = Some(baseline);
        let kernel = baseline.kernel_bytes(now, |enough| census.buffers(enough));
        if kernel > limit {
            return Ok(Some(Limit::Memory));
        }
        // Files that cannot be seen are at most the growth of all such files of the machine.
        let nameless = census.nameless(&[self.memory_device]);
        let nameless = nameless.map_or_else(|| baseline.files_growth(now), |files| files.bytes);
        let used = census.memory(limit, nameless);
        if used.all() > limit {
            return Ok(Some(Limit::Memory));
        }
        let shortage = baseline.shortage(now);
        // The program's own share is computed only if it may decide, because that is slow.
        let files = baseline.files_growth(now).saturating_sub(used.files);
        let tables = baseline.tables_growth(now);
        let most = [used.all(), kernel, files, tables].into_iter();
        let most = most.fold(0, u64::saturating_add);
        if most <= limit && shortage.is_none_or(|much| most < much) {
            return Ok(None);
        }
        let used = census.memory(0, nameless);
        let hidden = baseline.hidden_files(now, used.files, &census.pids);
        let all = [used.all(), kernel, hidden, census.page_tables()].into_iter();
        let all = all.fold(0, u64::saturating_add);
        if all > limit {
            return Ok(Some(Limit::Memory));
        }
        let is_to_blame = shortage.is_some_and(|much| all >= much);
        Ok(is_to_blame.then_some(Limit::MachineMemory))
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
            None => self.disk.last_hit()?,
        };
        Ok(limit.map(|limit| self.hit(limit)))
    }

    /// The limit that ended a sandbox which did not report the end of its program. If the memory of the group runs
    /// out, bubblewrap gets no memory either, and may fail without being killed.
    pub(crate) fn unexplained_end(&self) -> Option<Hit> {
        let was_short = self.group.as_ref().is_some_and(Group::was_short);
        was_short.then(|| self.hit(Limit::Memory))
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
            peak_pids: group
                .and_then(Group::peak_pids)
                .map(|peak| peak.saturating_sub(self.limits.own_processes)),
            read_bytes: process.read_bytes,
            written_bytes: process.written_bytes,
        }
    }
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
