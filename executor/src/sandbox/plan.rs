//! What bubblewrap is told: a pure value.
//!
//! Each option stands beside its reason. Order matters to bubblewrap: it mounts in the order of
//! its arguments. The threat model is that of [`security`](crate::security).
//!
//! The root file system is bound in one piece, read-only from the start, and holds every mount
//! point as a real directory already. So bubblewrap makes nothing below it and has no link of it
//! to follow. Where `/input` is a file there is no mount point for it, because the tree is shared
//! with runs whose input is a directory; then the root is an empty tmpfs, on which our own mounts
//! come first and the entries of the root file system one by one after them, none of them on a
//! path that leads through another.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::Path;

use crate::job::Job;
use crate::rootfs::{TopEntry, TopEntryKind};
use crate::sandbox::masks::Masked;
use crate::sandbox::probe::Version;
use crate::sandbox::seccomp::FILTERS;

/// Path of the program in every root file system.
pub const INIT: &str = "/sbin/init";

/// Most arguments that bubblewrap takes, the program's included: its `MAX_ARGS`.
const MAX_ARGUMENTS: usize = 9000;

/// First version that can disable user namespaces inside.
pub(crate) const DISABLES_USER_NAMESPACES: Version = Version {
    major: 0,
    minor: 8,
    patch: 0,
};

/// First version that can limit a tmpfs.
const SIZES_FILE_SYSTEMS: Version = Version {
    major: 0,
    minor: 7,
    patch: 0,
};

/// What `/dev/shm` can hold.
const SHARED_MEMORY_BYTES: u64 = 1 << 30;

/// Tells one boot of a machine from the next.
const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";

/// What stands there inside: a UUID as all others, so that programs take it for one.
pub const BOOT_ID: &str = "6f2d1c0e-3b7a-4c5d-8e9f-0a1b2c3d4e5f\n";

/// Why no plan can be made for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Bubblewrap would refuse so many.
    #[error(
        "the sandbox takes {count} arguments, more than the {MAX_ARGUMENTS} that bubblewrap allows"
    )]
    TooManyArguments {
        /// Arguments, variables and mounts, as bubblewrap counts them.
        count: usize,
    },
}

/// How `/` is put together.
#[derive(Clone, Copy, Debug)]
pub enum RootLayout<'p> {
    /// The tree as it is. `/input` is a directory.
    Whole(&'p Path),
    /// The entries of the tree, each on its own. `/input` may be a file.
    Entries {
        /// The tree.
        tree: &'p Path,
        /// What stands in it, without the mount points.
        entries: &'p [TopEntry],
    },
}

/// The host's side of each mount.
#[derive(Clone, Copy, Debug)]
pub struct HostPaths<'p> {
    /// For `/`.
    pub root: RootLayout<'p>,
    /// For `/input`.
    pub input: &'p Path,
    /// For `/output`.
    pub output: &'p Path,
    /// For `/tmp`.
    pub tmp: &'p Path,
}

/// What a plan depends on beside its job.
#[derive(Clone, Copy, Debug)]
pub struct Host<'h> {
    /// That of bubblewrap.
    pub version: Version,
    /// What of `/proc` tells of the host and nothing of the sandbox, as far as this kernel has it.
    pub masked: &'h [Masked],
}

/// Numbers of the descriptors that bubblewrap inherits.
#[derive(Clone, Copy, Debug)]
pub struct Descriptors {
    /// To which it writes what becomes of the program.
    pub status: RawFd,
    /// From which it reads a byte when the sandbox is complete, before it executes the program.
    pub gate: RawFd,
    /// From which it reads the filters of system calls, in this order.
    pub filters: [RawFd; FILTERS],
    /// From which it reads the identity of the boot.
    pub boot_id: RawFd,
    /// A program that confines itself, takes the terminal, and executes its arguments.
    pub opener: RawFd,
}

/// The arguments of bubblewrap, without its own name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan(Vec<OsString>);

/// The arguments for a sandbox on the host's own files, up to its program: to find out whether one can
/// be made and the program confined.
pub(super) fn trial(version: Version, filters: [RawFd; FILTERS], opener: RawFd) -> Vec<OsString> {
    let mut plan = Plan(Vec::new());
    plan.isolation(version);
    plan.option("--ro-bind", ["/", "/"]);
    plan.option("--proc", ["/proc"]);
    plan.option("--dev", ["/dev"]);
    plan.filters(filters);
    plan.opener(opener);
    plan.0
}

impl Plan {
    /// Plans `job` for a host.
    ///
    /// # Errors
    /// [`PlanError::TooManyArguments`].
    pub fn new(
        job: &Job,
        paths: &HostPaths<'_>,
        descriptors: Descriptors,
        host: Host<'_>,
    ) -> Result<Plan, PlanError> {
        let mut plan = Plan(Vec::new());
        plan.isolation(host.version);
        plan.environment(job);
        plan.mounts(paths, descriptors, host);
        plan.reporting(descriptors);
        plan.filters(descriptors.filters);
        plan.program(job, descriptors.opener);
        match plan.0.len() {
            count if count > MAX_ARGUMENTS => Err(PlanError::TooManyArguments { count }),
            _ => Ok(plan),
        }
    }

    /// The arguments.
    pub fn arguments(&self) -> &[OsString] {
        &self.0
    }

    fn isolation(&mut self, version: Version) {
        // Identifiers and capabilities of the sandbox mean nothing outside.
        self.flag("--unshare-user");
        // It sees and signals its own processes only, and all die with the first.
        self.flag("--unshare-pid");
        // No network: only a loopback of its own.
        self.flag("--unshare-net");
        // No shared memory or message queues of the host.
        self.flag("--unshare-ipc");
        // So that its host name is its own.
        self.flag("--unshare-uts");
        // The host's control groups stay unknown.
        self.flag("--unshare-cgroup");
        if version >= DISABLES_USER_NAMESPACES {
            // Nested namespaces give capabilities, and with them a large part of the kernel.
            self.flag("--disable-userns");
        }
        // Results must not depend on the machine.
        self.option("--hostname", ["sandbox"]);
        // Programs see the same user wherever they run.
        self.option("--uid", ["0"]);
        self.option("--gid", ["0"]);
        // Identity 0 inside gets no power from it; also where the user is root.
        self.option("--cap-drop", ["ALL"]);
        // Nothing runs on when we or bubblewrap are killed.
        self.flag("--die-with-parent");
        // Otherwise it could push input into our terminal (TIOCSTI); and what is typed at its own one
        // would reach bubblewrap as well.
        self.flag("--new-session");
        // The program is process 1: its end ends the whole tree, and its status is the result.
        self.flag("--as-pid-1");
    }

    fn environment(&mut self, job: &Job) {
        // Nothing of the caller's environment.
        self.flag("--clearenv");
        for (name, value) in job.environment() {
            self.option("--setenv", [name, value]);
        }
    }

    fn mounts(&mut self, paths: &HostPaths<'_>, descriptors: Descriptors, host: Host<'_>) {
        match paths.root {
            RootLayout::Whole(tree) => {
                // Read-only before anything else happens below it.
                self.option("--ro-bind", [tree.as_os_str(), "/".as_ref()]);
                self.own_mounts(paths, descriptors, host);
            }
            RootLayout::Entries { tree, entries } => {
                // On bubblewrap's own empty root, where there is no link yet.
                self.own_mounts(paths, descriptors, host);
                for entry in entries {
                    self.top_entry(tree, entry);
                }
                // It was writable for the mount points only.
                self.option("--remount-ro", ["/"]);
            }
        }
        // The working directory is the same everywhere, and exists.
        self.option("--chdir", ["/"]);
    }

    fn own_mounts(&mut self, paths: &HostPaths<'_>, descriptors: Descriptors, host: Host<'_>) {
        // The processes of the sandbox. Read-only: where the user is root on the host, the kernel
        // takes the program for the owner of `/proc/sys`, which bubblewrap does not cover, and
        // with it of settings that make the host run programs.
        self.option("--proc", ["/proc"]);
        self.option("--remount-ro", ["/proc"]);
        // Memory, keys and timers of the host: what reads them needs capabilities, or should.
        for masked in host.masked {
            match masked {
                Masked::File(path) => self.option("--ro-bind", ["/dev/null", path]),
                Masked::Directory(path) => {
                    self.option("--tmpfs", [path]);
                    self.option("--remount-ro", [path]);
                }
            }
        }
        // The same on every machine, after every boot.
        self.option("--perms", ["0444"]);
        self.option(
            "--ro-bind-data",
            [&*descriptors.boot_id.to_string(), BOOT_ID_PATH],
        );
        // `null`, `zero`, `full`, `random`, `urandom`, `tty`, and pseudo terminals of its own.
        self.option("--dev", ["/dev"]);
        // POSIX shared memory and semaphores live here; gone with the sandbox. World-writable, as
        // on every system.
        self.option("--perms", ["1777"]);
        if host.version >= SIZES_FILE_SYSTEMS {
            // It is memory.
            self.option("--size", [SHARED_MEMORY_BYTES.to_string()]);
        }
        self.option("--tmpfs", ["/dev/shm"]);
        // All persistent effects belong into `/output`. Mounts below it stay as they are.
        self.option("--remount-ro", ["/dev"]);
        // What the program may read.
        self.option("--ro-bind", [paths.input.as_os_str(), "/input".as_ref()]);
        // What it may write, and what becomes the result.
        self.option("--bind", [paths.output.as_os_str(), "/output".as_ref()]);
        // What it may write, and what is thrown away; on disk, because memory is scarcer.
        self.option("--bind", [paths.tmp.as_os_str(), "/tmp".as_ref()]);
    }

    fn top_entry(&mut self, tree: &Path, entry: &TopEntry) {
        let mut inside = OsString::from("/");
        inside.push(&entry.name);
        match &entry.kind {
            // Of no use as a mount: it is made as it stands.
            TopEntryKind::Symlink { target } => self.option("--symlink", [target, &inside]),
            TopEntryKind::Real => {
                let source = tree.join(&entry.name).into_os_string();
                self.option("--ro-bind", [source, inside]);
            }
        }
    }

    fn reporting(&mut self, descriptors: Descriptors) {
        // Tells the program's own exit code apart from bubblewrap's.
        self.option("--json-status-fd", [descriptors.status.to_string()]);
        // Tells a sandbox that could not be set up apart from a program that cannot be executed.
        self.option("--block-fd", [descriptors.gate.to_string()]);
    }

    fn filters(&mut self, filters: [RawFd; FILTERS]) {
        // What of the kernel the program reaches. Loaded when the sandbox is complete.
        for filter in filters {
            self.option("--add-seccomp-fd", [filter.to_string()]);
        }
    }

    fn program(&mut self, job: &Job, opener: RawFd) {
        self.opener(opener);
        self.flag(INIT);
        self.0.extend_from_slice(job.arguments());
    }

    fn opener(&mut self, descriptor: RawFd) {
        // What follows is never taken for an option.
        self.flag("--");
        // Does what only a process of the finished sandbox can, and becomes what follows.
        self.0.push(format!("/proc/self/fd/{descriptor}").into());
    }

    fn flag(&mut self, name: &str) {
        self.0.push(name.into());
    }

    fn option<const N: usize>(&mut self, name: &str, values: [impl Into<OsString>; N]) {
        self.flag(name);
        self.0.extend(values.map(Into::into));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipfs_exec_node::Cid;

    const VERSION: Version = Version {
        major: 0,
        minor: 8,
        patch: 0,
    };

    const DESCRIPTORS: Descriptors = Descriptors {
        status: 7,
        gate: 8,
        filters: [9, 10, 11],
        boot_id: 12,
        opener: 13,
    };

    fn job(arguments: &[&str]) -> Job {
        let arguments = arguments.iter().map(OsString::from).collect();
        Job::new(
            Cid::default(),
            Cid::default(),
            arguments,
            [("A".into(), "b c".into())],
        )
        .unwrap()
    }

    fn plan(root: RootLayout<'_>, version: Version) -> String {
        let paths = HostPaths {
            root,
            input: Path::new("/scratch/input"),
            output: Path::new("/scratch/output"),
            tmp: Path::new("/scratch/tmp"),
        };
        let host = Host {
            version,
            masked: &[Masked::File("/proc/keys"), Masked::Directory("/proc/acpi")],
        };
        let plan = Plan::new(&job(&["", "--bind", "a b"]), &paths, DESCRIPTORS, host).unwrap();
        let words: Vec<_> = plan
            .arguments()
            .iter()
            .map(|word| word.to_str().unwrap())
            .collect();
        words.join("|").replace("|--", "\n--")
    }

    #[test]
    fn whole() {
        let wanted = "\
--unshare-user
--unshare-pid
--unshare-net
--unshare-ipc
--unshare-uts
--unshare-cgroup
--disable-userns
--hostname|sandbox
--uid|0
--gid|0
--cap-drop|ALL
--die-with-parent
--new-session
--as-pid-1
--clearenv
--setenv|A|b c
--setenv|HOME|/tmp
--setenv|LC_ALL|C
--setenv|PATH|/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
--setenv|SOURCE_DATE_EPOCH|0
--setenv|TMPDIR|/tmp
--setenv|TZ|UTC
--ro-bind|/cache/tree|/
--proc|/proc
--remount-ro|/proc
--ro-bind|/dev/null|/proc/keys
--tmpfs|/proc/acpi
--remount-ro|/proc/acpi
--perms|0444
--ro-bind-data|12|/proc/sys/kernel/random/boot_id
--dev|/dev
--perms|1777
--size|1073741824
--tmpfs|/dev/shm
--remount-ro|/dev
--ro-bind|/scratch/input|/input
--bind|/scratch/output|/output
--bind|/scratch/tmp|/tmp
--chdir|/
--json-status-fd|7
--block-fd|8
--add-seccomp-fd|9
--add-seccomp-fd|10
--add-seccomp-fd|11
--|/proc/self/fd/13|/sbin/init|
--bind|a b";
        assert_eq!(
            plan(RootLayout::Whole(Path::new("/cache/tree")), VERSION),
            wanted
        );
    }

    #[test]
    fn our_mounts_come_before_the_entries() {
        let entries = [
            TopEntry {
                name: "bin".into(),
                kind: TopEntryKind::Symlink {
                    target: "/oldroot/tmp".into(),
                },
            },
            TopEntry {
                name: "usr".into(),
                kind: TopEntryKind::Real,
            },
        ];
        let tree = Path::new("/cache/tree");
        let text = plan(
            RootLayout::Entries {
                tree,
                entries: &entries,
            },
            VERSION,
        );
        let wanted = "\
--bind|/scratch/tmp|/tmp
--symlink|/oldroot/tmp|/bin
--ro-bind|/cache/tree/usr|/usr
--remount-ro|/
--chdir|/
";
        assert!(text.contains(wanted), "{text}");
        assert!(!text.contains("tree|/\n"), "{text}");
    }

    #[test]
    fn older_versions_cannot_disable_user_namespaces() {
        let version = Version {
            major: 0,
            minor: 7,
            patch: 9,
        };
        let text = plan(RootLayout::Whole(Path::new("/cache/tree")), version);
        assert!(!text.contains("--disable-userns"));
    }

    #[test]
    fn more_arguments_than_bubblewrap_takes() {
        let root = Path::new("/");
        let paths = HostPaths {
            root: RootLayout::Whole(root),
            input: root,
            output: root,
            tmp: root,
        };
        let job = job(&["x"; MAX_ARGUMENTS]);
        let host = Host {
            version: VERSION,
            masked: &[],
        };
        let error = Plan::new(&job, &paths, DESCRIPTORS, host).unwrap_err();
        assert!(matches!(error, PlanError::TooManyArguments { count } if count > MAX_ARGUMENTS));
    }
}
