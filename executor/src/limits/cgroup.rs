//! Control groups of the kernel, of both versions.
//!
//! Version 2: one hierarchy, in which an ordinary user has a part where it was delegated to him. A group
//! whose children are to be limited can have no processes of its own, so the group is made beside ours
//! or above where it cannot be made below. Version 1: a hierarchy for each controller, for root.
//! <https://docs.kernel.org/admin-guide/cgroup-v2.html>

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{Access, FlockOperation, access, flock};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::scope;
use super::{Limit, Limits, Mechanism};
use crate::process::GroupEntry;

/// Start of the names of our groups; the number of the process that made it follows, as seen in its own
/// namespace of processes. A group in use is told by a lock on its directory.
const PREFIX: &str = "ipfs-exec-";

/// How many names are tried: processes in other namespaces have the same numbers.
const MAX_TRIES: u64 = 1000;

/// Name of the group that we step aside into.
const ASIDE: &str = "ipfs-exec";

/// In which time a share of processors is counted, in microseconds.
const PERIOD: u64 = 100_000;

/// What of a group is limited or counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Controller {
    Memory,
    Pids,
    Cpu,
    /// Counts alone. In version 2 every group does.
    CpuAccounting,
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Pids => "pids",
            Controller::Cpu => "cpu",
            Controller::CpuAccounting => "cpuacct",
        }
    }
}

/// A group for one run. Dropped, it is removed.
#[derive(Debug)]
pub(super) struct Group {
    is_unified: bool,
    /// By controller. In version 2 all are the same.
    directories: Vec<(Controller, PathBuf)>,
    /// Locks that keep other runs from removing them.
    locks: Vec<File>,
}

impl Group {
    /// Makes a group that holds what it can of `limits`; none where it can hold nothing.
    pub(super) fn create(limits: &Limits) -> Option<Group> {
        // The kernel counts the processes of ordinary users by itself, and not those of root. For root the
        // group is there in any case.
        let is_root = geteuid().is_root();
        let asked = [
            (limits.memory.is_some(), Controller::Memory),
            (limits.pids.is_some(), Controller::Pids),
            (limits.cpus.is_some(), Controller::Cpu),
            (limits.cpu_time.is_some(), Controller::CpuAccounting),
        ];
        let is_wanted = |(is_asked, each): &_| *is_asked || is_root && *each == Controller::Pids;
        let wanted = asked.into_iter().filter(is_wanted);
        let wanted: Vec<_> = wanted.map(|(_, controller)| controller).collect();
        if wanted.is_empty() {
            return None;
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        // What nobody asked for is no reason to change the groups that are there.
        let is_asked = asked.iter().any(|(is_asked, _)| *is_asked);
        let unified = || Group::unified(&wanted, &memberships()?, &mounts, is_asked);
        let mut group = unified();
        let is_whole = |group: &Group| group.directories.len() == wanted.len();
        if !group.as_ref().is_some_and(is_whole) && may_have_scope(&mounts) {
            match scope::enter() {
                Ok(()) => group = unified().or(group),
                Err(error) => tracing::debug!(%error, "no group of the service manager"),
            }
        }
        if !group.as_ref().is_some_and(is_whole) {
            // Both versions may be there, with the controllers in one of them.
            let split = memberships().and_then(|own| Group::split(&wanted, &own, &mounts));
            let count = |group: &Group| group.directories.len();
            group = split.into_iter().chain(group).max_by_key(count);
        }
        let group = group?;
        match group.limit(limits) {
            Ok(()) => Some(group),
            Err(error) => {
                tracing::debug!(%error, "a control group takes no limits");
                None
            }
        }
    }

    fn unified(
        wanted: &[Controller],
        memberships: &str,
        mounts: &str,
        may_step_aside: bool,
    ) -> Option<Group> {
        let own = directory(mounts, "cgroup2", None, membership(memberships, "")?)?;
        let top = own.mount.clone();
        let mut best: Option<(PathBuf, Vec<Controller>)> = None;
        for base in own
            .path
            .ancestors()
            .take_while(|base| base.starts_with(&top))
        {
            // Where we stepped aside before we would do so again, deeper each time.
            if base.ends_with(ASIDE) || !is_writable(base) || !has_room(base, may_step_aside) {
                continue;
            }
            // An administrator may have handed down some of them alone.
            let has = |controller: &Controller| is_enabled(base, *controller);
            let enabled: Vec<_> = wanted.iter().copied().filter(has).collect();
            if enabled.len() > best.as_ref().map_or(0, |(_, best)| best.len()) {
                let is_whole = enabled.len() == wanted.len();
                best = Some((base.to_owned(), enabled));
                if is_whole {
                    break;
                }
            }
        }
        let (base, enabled) = best?;
        let (made, lock) = make(&base)?;
        let directories = enabled.iter().map(|each| (*each, made.clone())).collect();
        Some(Group {
            is_unified: true,
            directories,
            locks: vec![lock],
        })
    }

    fn split(wanted: &[Controller], memberships: &str, mounts: &str) -> Option<Group> {
        let mut group = Group {
            is_unified: false,
            directories: Vec::new(),
            locks: Vec::new(),
        };
        for controller in wanted {
            let name = controller.name();
            let made = membership(memberships, name)
                .and_then(|path| directory(mounts, "cgroup", Some(name), path))
                .filter(|own| is_writable(&own.path))
                .and_then(|own| make(&own.path));
            if let Some((made, lock)) = made {
                group.directories.push((*controller, made));
                group.locks.push(lock);
            }
        }
        (!group.directories.is_empty()).then_some(group)
    }

    fn of(&self, controller: Controller) -> Option<&Path> {
        let mut found = self.directories.iter();
        let found = found.find(|(each, _)| *each == controller);
        found.map(|(_, path)| path.as_path())
    }

    /// Its directories, each once.
    fn paths(&self) -> Vec<&PathBuf> {
        let mut paths: Vec<_> = self.directories.iter().map(|(_, path)| path).collect();
        paths.sort();
        paths.dedup();
        paths
    }

    /// What holds the limit, if this does.
    pub(super) fn mechanism(&self, limit: Limit) -> Option<Mechanism> {
        let controller = match limit {
            Limit::Memory => Controller::Memory,
            Limit::Pids => Controller::Pids,
            Limit::Cpus => Controller::Cpu,
            Limit::CpuTime => Controller::CpuAccounting,
            _ => return None,
        };
        self.of(controller).map(|_| match self.is_unified {
            true => Mechanism::CgroupV2,
            false => Mechanism::CgroupV1,
        })
    }

    fn limit(&self, limits: &Limits) -> io::Result<()> {
        if let Some((bytes, path)) = limits.memory.zip(self.of(Controller::Memory)) {
            if self.is_unified {
                write(&path.join("memory.max"), bytes)?;
                // All die together: what is left of a program without some of its processes is nothing.
                write_if_there(&path.join("memory.oom.group"), 1)?;
                write_if_there(&path.join("memory.swap.max"), 0)?;
            } else {
                write(&path.join("memory.limit_in_bytes"), bytes)?;
                write_if_there(&path.join("memory.memsw.limit_in_bytes"), bytes)?;
            }
        }
        if let Some(path) = self.of(Controller::Pids) {
            // One for bubblewrap, which waits beside the program.
            write(&path.join("pids.max"), limits.most_pids().saturating_add(1))?;
        }
        if let Some((cpus, path)) = limits.cpus.zip(self.of(Controller::Cpu)) {
            let quota = (cpus * PERIOD as f64).ceil() as u64;
            if self.is_unified {
                write(&path.join("cpu.max"), format_args!("{quota} {PERIOD}"))?;
            } else {
                write(&path.join("cpu.cfs_period_us"), PERIOD)?;
                write(&path.join("cpu.cfs_quota_us"), quota)?;
            }
        }
        Ok(())
    }

    /// What a process needs to get into it.
    pub(super) fn door(&self) -> io::Result<Door> {
        let paths = self.paths();
        let open = |path: &&PathBuf| OpenOptions::new().write(true).open(path.join("tasks"));
        Ok(match self.is_unified {
            true => Door::Directory(File::open(paths[0])?),
            false => Door::Tasks(paths.iter().map(open).collect::<io::Result<_>>()?),
        })
    }

    /// What the kernel had to stop the program from.
    pub(super) fn hit(&self) -> Option<Limit> {
        if let Some(path) = self.of(Controller::Memory) {
            let (killed, reached) = match self.is_unified {
                true => {
                    let events = path.join("memory.events");
                    (field(&events, "oom_kill"), field(&events, "oom"))
                }
                false => {
                    let killed = field(&path.join("memory.oom_control"), "oom_kill");
                    let of = |name| number(&path.join(name));
                    let limit = of("memory.limit_in_bytes");
                    let peak = of("memory.max_usage_in_bytes");
                    // Each processor keeps some pages in stock.
                    let is_near = |(limit, peak): (u64, u64)| peak >= limit - limit / 16;
                    (killed, limit.zip(peak).map(|both| u64::from(is_near(both))))
                }
            };
            let happened = |count: Option<u64>| count.is_some_and(|count| count > 0);
            if happened(killed) {
                // Others may have used up the memory of the machine.
                let is_its_own = happened(reached);
                return Some(if is_its_own {
                    Limit::Memory
                } else {
                    Limit::MachineMemory
                });
            }
        }
        let pids = self.of(Controller::Pids)?;
        let refused = field(&pids.join("pids.events"), "max");
        refused.filter(|count| *count > 0).map(|_| Limit::Pids)
    }

    /// Whether the kernel refused or reclaimed memory because the limit was reached. That happens to healthy
    /// programs, too.
    pub(super) fn was_short(&self) -> bool {
        let Some(path) = self.of(Controller::Memory) else {
            return false;
        };
        let counts = match self.is_unified {
            true => {
                let events = path.join("memory.events");
                ["max", "oom", "oom_kill"].map(|name| field(&events, name))
            }
            false => {
                let killed = field(&path.join("memory.oom_control"), "oom_kill");
                let of = |name| number(&path.join(name));
                [killed, of("memory.failcnt"), of("memory.kmem.failcnt")]
            }
        };
        counts.into_iter().flatten().any(|count| count > 0)
    }

    /// Time on processors so far.
    pub(super) fn cpu_time(&self) -> Option<Duration> {
        let path = self.of(Controller::CpuAccounting)?;
        match self.is_unified {
            true => field(&path.join("cpu.stat"), "usage_usec").map(Duration::from_micros),
            false => number(&path.join("cpuacct.usage")).map(Duration::from_nanos),
        }
    }

    /// Time on processors in the end, in programs and in the kernel.
    pub(super) fn cpu_times(&self) -> Option<(Duration, Duration)> {
        let path = self.of(Controller::CpuAccounting)?;
        Some(match self.is_unified {
            true => {
                let of = |name| field(&path.join("cpu.stat"), name).map(Duration::from_micros);
                (of("user_usec")?, of("system_usec")?)
            }
            false => {
                let of = |name| number(&path.join(name)).map(Duration::from_nanos);
                (of("cpuacct.usage_user")?, of("cpuacct.usage_sys")?)
            }
        })
    }

    /// Most memory at a time, in bytes.
    pub(super) fn peak_memory(&self) -> Option<u64> {
        let path = self.of(Controller::Memory)?;
        match self.is_unified {
            true => number(&path.join("memory.peak")),
            false => number(&path.join("memory.max_usage_in_bytes")),
        }
    }

    /// Most processes and threads at a time, without bubblewrap.
    pub(super) fn peak_pids(&self) -> Option<u64> {
        let peak = number(&self.of(Controller::Pids)?.join("pids.peak"))?;
        Some(peak.saturating_sub(1))
    }
}

/// What is open for a process that is to get into a group.
#[derive(Debug)]
pub(super) enum Door {
    /// Of version 2.
    Directory(File),
    /// Of version 1, in each hierarchy.
    Tasks(Vec<File>),
}

impl Door {
    pub(super) fn entry(&self) -> GroupEntry {
        match self {
            Door::Directory(directory) => GroupEntry::Birth(directory.as_raw_fd()),
            Door::Tasks(tasks) => GroupEntry::Tasks(tasks.iter().map(AsRawFd::as_raw_fd).collect()),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for path in self.paths() {
            if let Err(error) = fs::remove_dir(path) {
                tracing::debug!(path = %path.display(), %error, "a control group stays");
            }
        }
    }
}

/// Where a hierarchy is mounted, and where we are in it.
struct Own {
    mount: PathBuf,
    path: PathBuf,
}

fn memberships() -> Option<String> {
    fs::read_to_string("/proc/self/cgroup").ok()
}

/// Whether a service manager could give us a part of the hierarchy of version 2. Root needs none.
fn may_have_scope(mounts: &str) -> bool {
    let hierarchy = directory(mounts, "cgroup2", None, "/");
    let controllers = hierarchy.map(|own| own.mount.join("cgroup.controllers"));
    let controllers = controllers.and_then(|path| fs::read_to_string(path).ok());
    !geteuid().is_root() && controllers.is_some_and(|names| !names.trim().is_empty())
}

/// Our path in the hierarchy with this controller; that of version 2 has no name.
fn membership<'m>(memberships: &'m str, controller: &str) -> Option<&'m str> {
    memberships.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let is_it = controllers.split(',').any(|each| each == controller);
        is_it.then_some(path)
    })
}

/// The directory of `path` in a mounted hierarchy. Fields of `mountinfo` are those of proc(5).
fn directory(mounts: &str, kind: &str, controller: Option<&str>, path: &str) -> Option<Own> {
    mounts.lines().find_map(|line| {
        let (mount, options) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let mut options = options.split(' ');
        if options.next()? != kind {
            return None;
        }
        let options = options.nth(1)?;
        if controller.is_some_and(|wanted| !options.split(',').any(|each| each == wanted)) {
            return None;
        }
        // A container may see a part of the hierarchy alone.
        let below = path.strip_prefix(root).unwrap_or(path);
        let own = Path::new(point).join(below.trim_start_matches('/'));
        let mount = PathBuf::from(point);
        Some(Own {
            path: if own.is_dir() { own } else { mount.clone() },
            mount,
        })
    })
}

fn is_writable(directory: &Path) -> bool {
    let may_write = |path: &Path| access(path, Access::WRITE_OK).is_ok();
    may_write(directory) && may_write(&directory.join("cgroup.procs"))
}

/// Whether the children of a group of version 2 have the controller, or can be given it.
fn is_enabled(base: &Path, controller: Controller) -> bool {
    if controller == Controller::CpuAccounting {
        return true;
    }
    let (control, name) = (base.join("cgroup.subtree_control"), controller.name());
    let enabled = fs::read_to_string(&control).unwrap_or_default();
    if enabled.split_whitespace().any(|each| each == name) {
        return true;
    }
    write(&control, format_args!("+{name}")).is_ok()
}

/// Whether groups can be made below: the group, if it is not the root, has no processes of its own, or
/// only us, who step aside.
fn has_room(base: &Path, may_step_aside: bool) -> bool {
    if !base.join("cgroup.type").exists() {
        return true;
    }
    let members = fs::read_to_string(base.join("cgroup.procs"));
    let has_room =
        |members: &str| members.is_empty() || may_step_aside && step_aside(base, members).is_ok();
    members.is_ok_and(|members| has_room(&members))
}

/// Moves this process, the only one of `members`, into a group below.
fn step_aside(base: &Path, members: &str) -> io::Result<()> {
    let own = std::process::id();
    if members
        .split_whitespace()
        .any(|member| member.parse() != Ok(own))
    {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    let aside = base.join(ASIDE);
    match fs::create_dir(&aside) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    write(&aside.join("cgroup.procs"), own)
}

/// Makes a group with a name of its own and locks it, after those of processes that are gone were removed.
fn make(base: &Path) -> Option<(PathBuf, File)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    remove_stale(base);
    for _ in 0..MAX_TRIES {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("{PREFIX}{}-{number}", std::process::id()));
        match make_locked(&path) {
            Ok(Some(lock)) => return Some((path, lock)),
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "cannot make a control group");
                return None;
            }
        }
    }
    tracing::debug!(base = %base.display(), "no name is left for a control group");
    None
}

/// Makes a group and locks it; nothing where there is one, or another run takes this one for stale.
fn make_locked(path: &Path) -> io::Result<Option<File>> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        made => made?,
    }
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(directory) if try_lock(&directory)? && path.exists() => Ok(Some(directory)),
        Ok(_) => Ok(None),
    }
}

/// Whether the group was not in use; it is as long as the file is open.
fn try_lock(directory: &File) -> io::Result<bool> {
    match flock(directory, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::AGAIN) => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}

/// Removes groups of runs that were killed.
fn remove_stale(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX));
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let removed = File::open(entry.path()).and_then(|directory| {
            if try_lock(&directory)? {
                fs::remove_dir(entry.path())?;
            }
            Ok(())
        });
        if let Err(error) = removed {
            tracing::debug!(?name, %error, "a control group of a run that is gone stays");
        }
    }
}

fn write(path: &Path, value: impl ToString) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(value.to_string().as_bytes())
}

fn write_if_there(path: &Path, value: impl ToString) -> io::Result<()> {
    match write(path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A line `name number` of a file.
fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memberships_of_both_versions() {
        let text = "8:pids:/a\n4:cpu,cpuacct:/b:c\n0::/user.slice\n";
        assert_eq!(membership(text, "pids"), Some("/a"));
        assert_eq!(membership(text, "cpuacct"), Some("/b:c"));
        assert_eq!(membership(text, ""), Some("/user.slice"));
        assert_eq!(membership(text, "memory"), None);
    }

    /// A group may refuse memory without killing a process.
    #[test]
    fn a_group_tells_that_memory_was_short() {
        let place = tempfile::tempdir().unwrap();
        let events =
            |max, oom, killed| format!("low 0\nhigh 0\nmax {max}\noom {oom}\noom_kill {killed}\n");
        let control = |killed| format!("oom_kill_disable 0\nunder_oom 0\noom_kill {killed}\n");
        type Case<'c> = (bool, &'c [(&'c str, String)], bool, Option<Limit>);
        let cases: [Case<'_>; 8] = [
            (true, &[], false, None),
            (true, &[("memory.events", events(0, 0, 0))], false, None),
            (true, &[("memory.events", events(7, 0, 0))], true, None),
            (true, &[("memory.events", events(7, 1, 0))], true, None),
            (
                true,
                &[("memory.events", events(7, 1, 1))],
                true,
                Some(Limit::Memory),
            ),
            (
                true,
                &[("memory.events", events(0, 0, 1))],
                true,
                Some(Limit::MachineMemory),
            ),
            (
                false,
                &[
                    ("memory.oom_control", control(0)),
                    ("memory.failcnt", "0\n".to_owned()),
                ],
                false,
                None,
            ),
            (
                false,
                &[
                    ("memory.oom_control", control(0)),
                    ("memory.failcnt", "9\n".to_owned()),
                ],
                true,
                None,
            ),
        ];
        for (is_unified, files, was_short, hit) in cases {
            let path = tempfile::tempdir_in(place.path()).unwrap().keep();
            for (name, content) in files {
                fs::write(path.join(name), content).unwrap();
            }
            let group = Group {
                is_unified,
                directories: vec![(Controller::Memory, path)],
                locks: Vec::new(),
            };
            assert_eq!(
                (group.was_short(), group.hit()),
                (was_short, hit),
                "{files:?}"
            );
        }
    }

    /// A run in another namespace of processes removed groups whose makers it could not see.
    #[test]
    fn a_group_in_use_is_not_removed() {
        let place = tempfile::tempdir().unwrap();
        let (first, lock) = make(place.path()).unwrap();
        let (second, _lock) = make(place.path()).unwrap();
        assert!(first.exists() && second.exists());
        drop(lock);
        // Another number space can have made the next one.
        let foreign = place.path().join(format!("{PREFIX}1-0"));
        fs::create_dir(&foreign).unwrap();
        remove_stale(place.path());
        assert!(!first.exists() && !foreign.exists());
        assert!(second.exists());
    }

    #[test]
    fn hierarchies_are_where_they_are_mounted() {
        let place = tempfile::tempdir().unwrap();
        let point = place.path().to_str().unwrap();
        fs::create_dir_all(place.path().join("own")).unwrap();
        let mounts = format!(
            "30 20 0:26 / {point} rw,nosuid shared:9 - cgroup2 cgroup2 rw\n\
             31 20 0:27 /docker/x {point} rw - cgroup cgroup rw,memory\n"
        );
        let unified = directory(&mounts, "cgroup2", None, "/own").unwrap();
        assert_eq!(unified.path, place.path().join("own"));
        let memory = directory(&mounts, "cgroup", Some("memory"), "/docker/x/own").unwrap();
        assert_eq!(memory.path, place.path().join("own"));
        // Not visible here: what is, is.
        let elsewhere = directory(&mounts, "cgroup", Some("memory"), "/other").unwrap();
        assert_eq!(elsewhere.path, place.path());
        assert!(directory(&mounts, "cgroup", Some("pids"), "/").is_none());
    }
}
