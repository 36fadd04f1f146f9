//! The content of a run's stage: a pure value, which `process` makes.
//!
//! ```text
//! STAGE/empty, none, boot_id     cover parts of /proc
//! STAGE/dev                      /dev: devices, terminals, shared memory
//! STAGE/root                     overlay: shadow over tree, the unpacked root file system; else FUSE; else a bind
//! STAGE/rootfs                   or FUSE, where that is a directory
//! STAGE/input                    FUSE
//! STAGE/writable/output, tmp     an overlay: the run's directories over nothing
//! ```
//!
//! Links name the layers of an overlay, because a program reads the names in `/proc/self/mountinfo`. `shadow`
//! is an empty directory with the mode and time of the tree's top. The file system of the uppermost layer
//! decides the answer of `statfs` for `/`. That must not be the host's disk.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::stat;

use super::plan::{TopEntry, TopEntryKind};
use crate::layout::STAGED_ROOTFS;
use crate::mount::SandboxMount;
use crate::process::{
    BOOT_ID, Device, EMPTY_DIRECTORY, EMPTY_FILE, MountRequest, Overlay, Part, Stage, Step,
};

/// What stands for the identity of the boot: a UUID as all others, so that programs take it for one.
pub const BOOT_IDENTITY: &str = "6f2d1c0e-3b7a-4c5d-8e9f-0a1b2c3d4e5f\n";

/// What `/dev/shm` can hold, in bytes and files.
const SHARED_MEMORY_OPTIONS: &str = "mode=1777,size=1g,nr_inodes=262144";

/// Names in a stage.
pub(crate) const INPUT: &str = "input";
pub(crate) const ROOT: &str = "root";
const WRITABLE: &str = "writable";
const OUTPUT: &str = "output";
const TMP: &str = "tmp";
const DEV: &str = "dev";

/// Devices of `/dev`: all that they do is give or take bytes, and `tty` is that of the program's session.
pub(crate) const DEVICES: [(&str, (u32, u32)); 6] = [
    ("full", (1, 7)),
    ("null", (1, 3)),
    ("random", (1, 8)),
    ("tty", (5, 0)),
    ("urandom", (1, 9)),
    ("zero", (1, 5)),
];

/// Links of `/dev`, as everywhere on Linux.
pub(crate) const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("ptmx", "pts/ptmx"),
    ("stderr", "/proc/self/fd/2"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
];

/// Where the root file system comes from.
#[derive(Clone, Copy, Debug)]
pub enum RootSource<'p> {
    /// A tree on the host. Its entries are given where `/input` is a file.
    Unpacked {
        /// The tree.
        tree: &'p Path,
        /// What stands in it, without the mount points.
        entries: Option<&'p [TopEntry]>,
        /// Shows it as `root` of the stage where there can be no overlay.
        stand_in: Option<&'p SandboxMount<'p>>,
    },
    /// It is mounted in the stage, at `rootfs`. Its entries are given where `/input` is a file.
    Mounted {
        /// What stands in it, without the mount points.
        entries: Option<&'p [TopEntry]>,
    },
}

/// Where the input comes from.
#[derive(Clone, Copy, Debug)]
pub enum InputSource<'p> {
    /// A file or tree on the host.
    Exported(&'p Path),
    /// It is mounted in the stage, at `input`.
    Mounted,
}

/// The host's side of a sandbox.
#[derive(Clone, Copy, Debug)]
pub struct HostPaths<'p> {
    /// An empty directory, for the stage.
    pub stage: &'p Path,
    /// For `/`.
    pub root: RootSource<'p>,
    /// For `/input`.
    pub input: InputSource<'p>,
    /// A directory with `output` and `tmp`, for `/output` and `/tmp`.
    pub writable: &'p Path,
    /// Two empty directories on the same file system, for an overlay on it. Where all layers are on one, the
    /// overlay has one device number.
    pub work: &'p Path,
    /// The second.
    pub lower: &'p Path,
}

impl HostPaths<'_> {
    fn staged(&self, name: &str) -> PathBuf {
        self.stage.join(name)
    }

    /// What shows the root file system where there can be no overlay.
    pub(super) fn stand_in(&self) -> Option<&SandboxMount<'_>> {
        match self.root {
            RootSource::Unpacked { stand_in, .. } => stand_in,
            RootSource::Mounted { .. } => None,
        }
    }

    /// Where the host finds what the program writes to `/output` and `/tmp`.
    pub(super) fn written(&self) -> (PathBuf, PathBuf) {
        (self.writable.join(OUTPUT), self.writable.join(TMP))
    }

    /// What bubblewrap binds at each place of the sandbox.
    pub(super) fn places(&self) -> Places<'_> {
        Places {
            root: match self.root {
                RootSource::Mounted {
                    entries: Some(entries),
                } => Root::Entries(self.staged(STAGED_ROOTFS), entries),
                RootSource::Mounted { entries: None } => Root::Whole(self.staged(STAGED_ROOTFS)),
                RootSource::Unpacked { .. } => Root::Whole(self.staged(ROOT)),
            },
            dev: self.staged(DEV),
            input: match self.input {
                InputSource::Exported(path) => path.to_owned(),
                InputSource::Mounted => self.staged(INPUT),
            },
            output: self.staged(WRITABLE).join(OUTPUT),
            tmp: self.staged(WRITABLE).join(TMP),
        }
    }
}

/// What bubblewrap binds.
#[derive(Clone, Debug)]
pub(super) struct Places<'p> {
    pub(super) root: Root<'p>,
    pub(super) dev: PathBuf,
    pub(super) input: PathBuf,
    pub(super) output: PathBuf,
    pub(super) tmp: PathBuf,
}

/// How `/` is put together.
#[derive(Clone, Debug)]
pub(super) enum Root<'p> {
    /// The tree as it is.
    Whole(PathBuf),
    /// The entries of the tree, each on its own: so `/input` may be a file.
    Entries(PathBuf, &'p [TopEntry]),
}

/// The stage of a run, with these FUSE file systems.
///
/// # Errors
/// Where the unpacked tree cannot be looked at.
pub(super) fn stage(paths: &HostPaths<'_>, mounts: Vec<MountRequest>) -> io::Result<Stage> {
    let mut steps = base();
    if let RootSource::Unpacked { tree, entries, .. } = paths.root {
        let by_server = paths.stand_in().map(SandboxMount::request);
        root(&mut steps, tree, entries, by_server)?;
    }
    for mount in mounts {
        let kind = if mount.is_file {
            Step::File(mount.target.clone(), &[])
        } else {
            Step::Directory(mount.target.clone())
        };
        steps.extend([kind, Step::Served(mount)]);
    }
    steps.extend(writable(paths));
    Ok(Stage {
        directory: path(paths.stage),
        steps,
        writable: text(WRITABLE),
    })
}

/// A stage in `directory` for a sandbox on the host's own files.
pub(super) fn trial(directory: &Path) -> Stage {
    Stage {
        directory: path(directory),
        steps: base(),
        writable: text(WRITABLE),
    }
}

/// Where `/dev` of such a sandbox is.
pub(super) fn trial_devices(directory: &Path) -> PathBuf {
    directory.join(DEV)
}

/// What every sandbox needs.
fn base() -> Vec<Step> {
    let mut steps = vec![
        Step::Directory(EMPTY_DIRECTORY.to_owned()),
        Step::File(EMPTY_FILE.to_owned(), b""),
        Step::File(BOOT_ID.to_owned(), BOOT_IDENTITY.as_bytes()),
        Step::Directory(text(DEV)),
    ];
    let inside = |name: &str| text(&format!("{DEV}/{name}"));
    for (name, number) in DEVICES {
        steps.push(Step::Device(Device {
            at: inside(name),
            number,
            own: text(&format!("device-{name}")),
            host: text(&format!("/dev/{name}")),
        }));
    }
    for (name, target) in DEVICE_LINKS {
        steps.push(Step::Symlink(text(target), inside(name)));
    }
    let (pts, shm) = (inside("pts"), inside("shm"));
    steps.extend([
        Step::Directory(pts.clone()),
        Step::Terminals(pts),
        Step::Directory(shm.clone()),
        Step::Tmpfs(shm, text(SHARED_MEMORY_OPTIONS)),
        // Nothing can be put into `/dev` itself.
        Step::Bind(text(DEV), text(DEV), true),
    ]);
    steps
}

/// Shows an unpacked tree, with inodes of the run's own.
fn root(
    steps: &mut Vec<Step>,
    tree: &Path,
    entries: Option<&[TopEntry]>,
    by_server: Option<MountRequest>,
) -> io::Result<()> {
    let status = stat(tree)?;
    steps.extend([
        Step::Directory(text("shadow")),
        Step::Symlink(path(tree), text("tree")),
        Step::Directory(text(ROOT)),
    ]);
    if entries.is_some() {
        // A file in the upper layer hides the directory of that name.
        steps.push(Step::File(text("shadow/input"), b""));
    }
    let time = (status.st_mtime, status.st_mtime_nsec as i64);
    steps.push(Step::Attributes(
        text("shadow"),
        status.st_mode & 0o7777,
        time,
    ));
    let otherwise = match entries {
        None => vec![Step::Bind(text("tree"), text(ROOT), true)],
        Some(entries) => bound_entries(entries),
    };
    steps.push(Step::Overlay(Overlay {
        part: Part::Root,
        at: text(ROOT),
        options: text("lowerdir=shadow:tree"),
        is_writable: false,
        by_server,
        otherwise,
    }));
    Ok(())
}

/// Binds the entries of the tree one by one, where `/input` is a file and nothing else can hide the directory
/// of that name.
fn bound_entries(entries: &[TopEntry]) -> Vec<Step> {
    let inside = |name: &OsStr| {
        let path = [ROOT.as_bytes(), b"/", name.as_bytes()].concat();
        CString::new(path).expect("names have no NUL")
    };
    let mut steps = Vec::new();
    for name in ["dev", "output", "proc", "tmp"] {
        steps.push(Step::Directory(inside(name.as_ref())));
    }
    steps.push(Step::File(inside(INPUT.as_ref()), b""));
    for TopEntry { name, kind } in entries {
        let at = inside(name);
        let from = [b"tree/", name.as_bytes()].concat();
        let from = CString::new(from).expect("names have no NUL");
        match kind {
            TopEntryKind::Symlink { target } => steps.push(Step::Symlink(bytes(target), at)),
            TopEntryKind::Directory => {
                steps.extend([Step::Directory(at.clone()), Step::Bind(from, at, true)]);
            }
            TopEntryKind::File => {
                steps.extend([Step::File(at.clone(), b""), Step::Bind(from, at, true)]);
            }
        }
    }
    steps.push(Step::Bind(text(ROOT), text(ROOT), true));
    steps
}

/// Shows what the program may write to. One overlay has both, since making one takes a dozen inodes.
fn writable(paths: &HostPaths<'_>) -> [Step; 5] {
    // What the program writes is imported at once: nobody needs it on disk before.
    let options = "lowerdir=lower,upperdir=upper,workdir=work,volatile,userxattr";
    [
        Step::Symlink(path(paths.lower), text("lower")),
        Step::Symlink(path(paths.writable), text("upper")),
        Step::Symlink(path(paths.work), text("work")),
        Step::Directory(text(WRITABLE)),
        Step::Overlay(Overlay {
            part: Part::Writable,
            at: text(WRITABLE),
            options: text(options),
            is_writable: true,
            // What is written has no other inodes than those of the disk.
            by_server: None,
            otherwise: vec![Step::Bind(text("upper"), text(WRITABLE), false)],
        }),
    ]
}

fn text(text: &str) -> CString {
    CString::new(text).expect("names of a stage have no NUL")
}

fn path(path: &Path) -> CString {
    bytes(path.as_os_str())
}

fn bytes(text: &OsStr) -> CString {
    CString::new(text.as_bytes()).expect("paths and targets of links have no NUL")
}
