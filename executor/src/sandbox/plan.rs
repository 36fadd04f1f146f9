//! The arguments of bubblewrap: a pure value.
//!
//! Each option stands beside its reason. Order matters: bubblewrap mounts in the order of its arguments. The
//! threat model is that of [`security`](crate::security). The [stage](super::stage) holds the files to mount.
//! The stub holds the arguments and the environment of the program.
//!
//! Bubblewrap binds the root file system in one piece, read-only from the start. The root file system already
//! holds every mount point as a real directory, or `/input` as a file. So bubblewrap makes nothing below it
//! and has no link of it to follow. A mounted root file system has no mount point for an input that is a
//! file. In that case, the root is an empty tmpfs. Our own mounts come first on it, and the entries of the
//! root file system follow one by one. None of them is on a path that leads through another.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::Path;

use super::probe::Version;
use super::stage::{Places, Root};

/// Most arguments that bubblewrap takes: its `MAX_ARGS`.
const MAX_ARGUMENTS: usize = 9000;

/// One entry of `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TopEntry {
    /// Its name.
    pub name: OsString,
    /// What it is.
    pub kind: TopEntryKind,
}

/// What an entry of `/` is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopEntryKind {
    /// A directory.
    Directory,
    /// A file, or what else is no directory.
    File,
    /// A symbolic link.
    Symlink {
        /// Where it leads, as it stands there.
        target: OsString,
    },
}

/// First version that can disable user namespaces inside.
pub(crate) const DISABLES_USER_NAMESPACES: Version = Version {
    major: 0,
    minor: 8,
    patch: 0,
};

/// Why no plan can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Bubblewrap would refuse so many.
    #[error(
        "the sandbox takes {count} arguments, more than the {MAX_ARGUMENTS} that bubblewrap allows: `/` has \
         too many entries"
    )]
    TooManyArguments {
        /// Arguments as bubblewrap counts them.
        count: usize,
    },
}

/// The arguments of bubblewrap, without its own name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan(Vec<OsString>);

/// The arguments for a sandbox on the host's own files: to find out whether one can be made and the
/// program confined. `dev` is for `/dev`; bubblewrap executes the stub at this path.
pub(super) fn trial(version: Version, dev: &Path, stub: String) -> Vec<OsString> {
    let mut plan = Plan(Vec::new());
    plan.isolation(version);
    plan.option("--ro-bind", ["/", "/"]);
    plan.proc();
    plan.option("--dev-bind", [dev.as_os_str(), "/dev".as_ref()]);
    plan.stub(stub);
    plan.0
}

impl Plan {
    /// Plans a sandbox with these `places`. Bubblewrap reports to descriptor `status`, and executes the
    /// stub at this path.
    ///
    /// # Errors
    /// [`PlanError::TooManyArguments`].
    pub(super) fn new(
        version: Version,
        places: &Places<'_>,
        status: RawFd,
        stub: String,
    ) -> Result<Plan, PlanError> {
        let mut plan = Plan(Vec::new());
        plan.isolation(version);
        plan.mounts(places);
        // Tells the program's own exit code apart from bubblewrap's.
        plan.option("--json-status-fd", [status.to_string()]);
        plan.stub(stub);
        match plan.0.len() {
            count if count > MAX_ARGUMENTS => Err(PlanError::TooManyArguments { count }),
            _ => Ok(plan),
        }
    }

    /// The arguments.
    pub(super) fn arguments(&self) -> &[OsString] {
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
        // Otherwise it could push input into our terminal (TIOCSTI); and the stub takes a terminal of the
        // sandbox's own for this session.
        self.flag("--new-session");
        // The program is process 1: its end ends the whole tree, and its status is the result.
        self.flag("--as-pid-1");
        // Nothing of the caller's environment; the stub brings that of the job.
        self.flag("--clearenv");
    }

    fn mounts(&mut self, places: &Places<'_>) {
        match &places.root {
            Root::Whole(tree) => {
                // Read-only before anything else happens below it.
                self.option("--ro-bind", [tree.as_os_str(), "/".as_ref()]);
                self.own_mounts(places);
            }
            Root::Entries(tree, entries) => {
                // On bubblewrap's own empty root, where there is no link yet.
                self.own_mounts(places);
                for entry in *entries {
                    self.top_entry(tree, entry);
                }
                // It was writable for the mount points only.
                self.option("--remount-ro", ["/"]);
            }
        }
        // The working directory is the same everywhere, and exists.
        self.option("--chdir", ["/"]);
    }

    fn own_mounts(&mut self, places: &Places<'_>) {
        self.proc();
        let bind = |path: &Path| path.as_os_str().to_owned();
        // Devices, terminals of its own, and shared memory, which is gone with the sandbox.
        self.option("--dev-bind", [bind(&places.dev), "/dev".into()]);
        // What the program may read.
        self.option("--ro-bind", [bind(&places.input), "/input".into()]);
        // What it may write, and what becomes the result.
        self.option("--bind", [bind(&places.output), "/output".into()]);
        // What it may write, and what is thrown away; on disk, because memory is scarcer.
        self.option("--bind", [bind(&places.tmp), "/tmp".into()]);
    }

    fn proc(&mut self) {
        // The processes of the sandbox; the supervisor covers what tells of the host. Read-only: where the
        // user is root on the host, the kernel takes the program for the owner of `/proc/sys`, which
        // bubblewrap does not cover, and with it of settings that make the host run programs.
        self.option("--proc", ["/proc"]);
        self.option("--remount-ro", ["/proc"]);
    }

    fn top_entry(&mut self, tree: &Path, entry: &TopEntry) {
        let mut inside = OsString::from("/");
        inside.push(&entry.name);
        match &entry.kind {
            // Of no use as a mount: it is made as it stands.
            TopEntryKind::Symlink { target } => self.option("--symlink", [target, &inside]),
            TopEntryKind::Directory | TopEntryKind::File => {
                let source = tree.join(&entry.name).into_os_string();
                self.option("--ro-bind", [source, inside]);
            }
        }
    }

    fn stub(&mut self, path: String) {
        // What follows is never taken for an option.
        self.flag("--");
        // Does what only a process of the finished sandbox can, and becomes the program.
        self.0.push(path.into());
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

    const VERSION: Version = Version {
        major: 0,
        minor: 8,
        patch: 0,
    };

    fn places(root: Root<'_>) -> Places<'_> {
        Places {
            root,
            dev: "/stage/dev".into(),
            input: "/stage/input".into(),
            output: "/stage/output".into(),
            tmp: "/stage/tmp".into(),
        }
    }

    fn plan(root: Root<'_>, version: Version) -> String {
        let stub = "/proc/self/fd/13".to_owned();
        let plan = Plan::new(version, &places(root), 7, stub).unwrap();
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
--ro-bind|/stage/root|/
--proc|/proc
--remount-ro|/proc
--dev-bind|/stage/dev|/dev
--ro-bind|/stage/input|/input
--bind|/stage/output|/output
--bind|/stage/tmp|/tmp
--chdir|/
--json-status-fd|7
--|/proc/self/fd/13";
        assert_eq!(plan(Root::Whole("/stage/root".into()), VERSION), wanted);
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
                kind: TopEntryKind::Directory,
            },
        ];
        let text = plan(Root::Entries("/stage/rootfs".into(), &entries), VERSION);
        let wanted = "\
--bind|/stage/tmp|/tmp
--symlink|/oldroot/tmp|/bin
--ro-bind|/stage/rootfs/usr|/usr
--remount-ro|/
--chdir|/
";
        assert!(text.contains(wanted), "{text}");
        assert!(!text.contains("rootfs|/\n"), "{text}");
    }

    #[test]
    fn older_versions_cannot_disable_user_namespaces() {
        let version = Version {
            major: 0,
            minor: 7,
            patch: 9,
        };
        let text = plan(Root::Whole("/stage/root".into()), version);
        assert!(!text.contains("--disable-userns"));
    }

    #[test]
    fn more_entries_than_bubblewrap_takes() {
        let entry = |number: usize| TopEntry {
            name: number.to_string().into(),
            kind: TopEntryKind::File,
        };
        let entries: Vec<_> = (0..MAX_ARGUMENTS).map(entry).collect();
        let places = places(Root::Entries("/stage/rootfs".into(), &entries));
        let error = Plan::new(VERSION, &places, 7, String::new()).unwrap_err();
        assert!(matches!(error, PlanError::TooManyArguments { count } if count > MAX_ARGUMENTS));
    }
}
