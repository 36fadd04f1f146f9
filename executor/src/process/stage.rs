//! The files of a sandbox, prepared in a mount namespace of ours before bubblewrap starts.
//!
//! A stage is a small `tmpfs` with what a sandbox needs beside its content: the device nodes, an empty
//! file and an empty directory to cover parts of `/proc` with, and mount points on which the root file
//! system, `/output` and `/tmp` appear as overlays of the run's own. An overlay gives each run inodes of
//! its own, so that runs which share a tree share no locks, leases or watches; and it is mounted under
//! relative names, because a program reads those in `/proc/self/mountinfo`. Where an overlay cannot be
//! mounted, another step stands in for it.
//!
//! A [`Stage`] is a value: steps in their order, all memory taken before `fork`. Paths are relative to
//! the stage.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, stat};
use rustix::process::geteuid;

use super::fd_passing::Note;
use super::namespace::{self, Mapping};
use super::realtime::prefer;
use super::{MountRequest, attributes, check, write_setting};

/// What `mountinfo` shows as the source of each mount.
const SOURCE: &CStr = c"ipfs-exec";

/// The file and the directory that cover parts of `/proc`, and what stands for the identity of the boot.
pub(crate) const EMPTY_FILE: &CStr = c"empty";
pub(crate) const EMPTY_DIRECTORY: &CStr = c"none";
pub(crate) const BOOT_ID: &CStr = c"boot_id";

/// What the `tmpfs` of a stage can hold.
const STAGE_OPTIONS: &CStr = c"mode=755,size=256k,nr_inodes=1024";

/// Pseudo terminals are a pool of the machine, of 4,096 by default.
const TERMINAL_OPTIONS: &CStr = c"newinstance,ptmxmode=0666,mode=620,max=64";

/// Instances and watches of inotify that all processes of a sandbox can have together: the kernel has as
/// many for each user, and by default gives 128 instances.
const INOTIFY_LIMITS: [(&CStr, &CStr); 2] = [
    (c"/proc/sys/user/max_inotify_instances", c"64"),
    (c"/proc/sys/user/max_inotify_watches", c"16384"),
];

/// Mounts give no rights by set-id bits, and no devices.
const PLAIN: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV;

/// One step of a stage.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// An empty directory.
    Directory(CString),
    /// A file that nobody may write, with this content.
    File(CString, &'static [u8]),
    /// A symbolic link: its target, and where it stands.
    Symlink(CString, CString),
    /// The mode of a directory, and its time of modification in seconds and nanoseconds.
    Attributes(CString, u32, (i64, i64)),
    /// A device.
    Device(Device),
    /// A `tmpfs` with these options.
    Tmpfs(CString, CString),
    /// Pseudo terminals.
    Terminals(CString),
    /// Shows a file or tree of the host, at another place; whether it is read-only.
    Bind(CString, CString, bool),
    /// A file system that a process serves.
    Served(MountRequest),
    /// An overlay.
    Overlay(Overlay),
}

/// A device file.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) at: CString,
    pub(crate) number: (u32, u32),
    /// Where one is made, in the stage.
    pub(crate) own: CString,
    /// The file of the host that stands in where none can be made.
    pub(crate) host: CString,
}

/// An overlay, and what is done where the kernel or the file system has none.
#[derive(Clone, Debug)]
pub(crate) struct Overlay {
    /// Which one it is, for [`Staged`].
    pub(crate) part: Part,
    pub(crate) at: CString,
    pub(crate) options: CString,
    pub(crate) is_writable: bool,
    /// A served file system that shows the same, with inodes of the run's own.
    pub(crate) by_server: Option<MountRequest>,
    /// Steps that show the same without, where that fails as well.
    pub(crate) otherwise: Vec<Step>,
}

/// A part of the sandbox that is an overlay where that is possible. Each is a bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Part {
    Root = 1,
    Writable = 2,
}

/// What became of a stage.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Staged {
    overlays: u8,
    /// The part that a served file system shows because there can be no overlay.
    stand_ins: u8,
    /// Whether the devices are ours, and not the host's.
    pub(crate) has_own_devices: bool,
    /// Number of the file system that `/output` and `/tmp` are on.
    pub(crate) device: u64,
}

impl Staged {
    /// Whether an overlay is there: the run has inodes of its own.
    pub(crate) fn is_overlay(self, part: Part) -> bool {
        self.overlays & part as u8 != 0
    }

    /// Whether a served file system stands in for the overlay: the run has inodes of its own as well.
    pub(crate) fn is_stand_in(self, part: Part) -> bool {
        self.stand_ins & part as u8 != 0
    }

    pub(super) fn note(self) -> Note {
        let flags = [self.overlays, self.stand_ins, self.has_own_devices.into()];
        let flags = flags.into_iter().rev();
        let flags = flags.fold(0, |all, flags| all << u8::BITS | u64::from(flags));
        Note::Staged([flags, self.device])
    }

    pub(super) fn of([flags, device]: [u64; 2]) -> Staged {
        let [overlays, stand_ins, has_own_devices, ..] = flags.to_le_bytes();
        Staged {
            overlays,
            stand_ins,
            has_own_devices: has_own_devices != 0,
            device,
        }
    }
}

/// Steps by which a stage is made in `directory`.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    /// An empty directory of the host. The stage is mounted there.
    pub(crate) directory: CString,
    pub(crate) steps: Vec<Step>,
    /// Where `/output` and `/tmp` are, for [`Staged::device`].
    pub(crate) writable: CString,
}

/// Where making a stage failed: before its steps, or at which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Namespaces,
    Step(u32),
}

impl Place {
    const BEFORE: u32 = u32::MAX;

    pub(super) fn number(self) -> u32 {
        match self {
            Place::Namespaces => Place::BEFORE,
            Place::Step(index) => index,
        }
    }

    pub(super) fn of(number: u32) -> Place {
        match number {
            Place::BEFORE => Place::Namespaces,
            index => Place::Step(index),
        }
    }
}

impl Stage {
    /// Makes the stage, in namespaces of this process's own. Takes no memory.
    pub(super) fn make(
        &self,
        mapping: &mut Mapping,
        sender: &OwnedFd,
    ) -> Result<Staged, (Place, io::Error)> {
        let before = |error| (Place::Namespaces, error);
        let mut staged = Staged {
            has_own_devices: geteuid().is_root() && self.make_devices().is_ok(),
            ..Staged::default()
        };
        mapping.enter().map_err(before)?;
        if !staged.has_own_devices {
            self.mount().map_err(before)?;
        }
        attributes::leave_domain().map_err(before)?;
        change_directory(&self.directory).map_err(before)?;
        for (setting, value) in INOTIFY_LIMITS {
            match write_setting(setting, value) {
                // A kernel without inotify.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.map_err(before)?,
            }
        }
        for (index, step) in self.steps.iter().enumerate() {
            step.take(&mut staged, sender)
                .map_err(|error| (Place::Step(index as u32), error))?;
        }
        // A trial has none.
        staged.device = stat(self.writable.as_c_str()).map_or(0, |status| status.st_dev);
        Ok(staged)
    }

    fn mount(&self) -> io::Result<()> {
        mount(SOURCE, &self.directory, c"tmpfs", PLAIN, STAGE_OPTIONS)
    }

    /// Mounts the stage where the kernel lets root make devices, which no other user namespace has.
    fn make_devices(&self) -> io::Result<()> {
        // Later this is not allowed any more. What is started is served as usual.
        prefer(None);
        namespace::enter_mount_namespace()?;
        mount(
            SOURCE,
            &self.directory,
            c"tmpfs",
            libc::MS_NOSUID,
            STAGE_OPTIONS,
        )?;
        change_directory(&self.directory)?;
        let made = self.steps.iter().try_for_each(|step| match step {
            Step::Device(device) => make_device(&device.own, device.number),
            _ => Ok(()),
        });
        if made.is_err() {
            change_directory(c"/")?;
            // SAFETY: the path ends in NUL.
            check(unsafe { libc::umount2(self.directory.as_ptr(), libc::MNT_DETACH) }.into())?;
        }
        made
    }
}

impl Step {
    fn take(&self, staged: &mut Staged, sender: &OwnedFd) -> io::Result<()> {
        match self {
            Step::Directory(path) => make_directory(path),
            Step::File(path, content) => make_file(path, content),
            Step::Symlink(target, at) => Ok(rustix::fs::symlink(target.as_c_str(), at.as_c_str())?),
            Step::Attributes(path, mode, (seconds, nanoseconds)) => {
                rustix::fs::chmod(path.as_c_str(), Mode::from_raw_mode(*mode))?;
                let time = Timespec {
                    tv_sec: *seconds,
                    tv_nsec: *nanoseconds,
                };
                let times = Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                let flags = AtFlags::empty();
                Ok(rustix::fs::utimensat(CWD, path.as_c_str(), &times, flags)?)
            }
            Step::Device(device) => {
                make_file(&device.at, &[])?;
                let from = if staged.has_own_devices {
                    &device.own
                } else {
                    &device.host
                };
                // Root of the host is the owner of its files also inside, and could change their modes.
                bind(
                    from,
                    &device.at,
                    libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID,
                )
            }
            Step::Tmpfs(at, options) => mount(SOURCE, at, c"tmpfs", PLAIN, options),
            Step::Terminals(at) => {
                let flags = libc::MS_NOSUID | libc::MS_NOEXEC;
                mount(SOURCE, at, c"devpts", flags, TERMINAL_OPTIONS)
            }
            Step::Bind(from, at, is_read_only) => {
                let nothing = libc::MOUNT_ATTR_NOSUID;
                let read_only = if *is_read_only {
                    libc::MOUNT_ATTR_RDONLY
                } else {
                    0
                };
                bind(from, at, nothing | read_only)
            }
            Step::Served(request) => request.fulfil(sender),
            Step::Overlay(overlay) => overlay.mount(staged, sender),
        }
    }
}

impl Overlay {
    fn mount(&self, staged: &mut Staged, sender: &OwnedFd) -> io::Result<()> {
        let read_only = if self.is_writable { 0 } else { libc::MS_RDONLY };
        let flags = PLAIN | read_only;
        // It fails without a module, on a file system that cannot be a layer, and on too many layers.
        if mount(SOURCE, &self.at, c"overlay", flags, &self.options).is_ok() {
            staged.overlays |= self.part as u8;
            return Ok(());
        }
        if let Some(request) = &self.by_server
            && request.fulfil(sender).is_ok()
        {
            staged.stand_ins |= self.part as u8;
            return Ok(());
        }
        let mut otherwise = self.otherwise.iter();
        otherwise.try_for_each(|step| step.take(staged, sender))
    }
}

fn make_directory(path: &CStr) -> io::Result<()> {
    Ok(rustix::fs::mkdir(path, Mode::from_raw_mode(0o755))?)
}

fn make_file(path: &CStr, content: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o444))?;
    rustix::io::write(&file, content)?;
    Ok(())
}

fn make_device(at: &CStr, (major, minor): (u32, u32)) -> io::Result<()> {
    let mode = libc::S_IFCHR | 0o666;
    // SAFETY: the path ends in NUL.
    check(unsafe { libc::mknod(at.as_ptr(), mode, libc::makedev(major, minor)) }.into())?;
    // Whatever the mask of modes says.
    Ok(rustix::fs::chmod(at, Mode::from_raw_mode(0o666))?)
}

fn change_directory(path: &CStr) -> io::Result<()> {
    Ok(rustix::process::chdir(path)?)
}

pub(super) fn mount(
    source: &CStr,
    at: &CStr,
    kind: &CStr,
    flags: libc::c_ulong,
    options: &CStr,
) -> io::Result<()> {
    let (source, at, kind) = (source.as_ptr(), at.as_ptr(), kind.as_ptr());
    // SAFETY: all pointers end in NUL.
    check(unsafe { libc::mount(source, at, kind, flags, options.as_ptr().cast()) }.into())
}

/// Binds `from`, with all that is mounted below it, and adds `attributes` to the top: those that it has
/// may be locked.
pub(super) fn bind(from: &CStr, at: &CStr, attributes: u64) -> io::Result<()> {
    let flags = libc::MS_BIND | libc::MS_REC;
    let (from, none) = (from.as_ptr(), ptr::null());
    // SAFETY: all pointers are null or end in NUL.
    check(unsafe { libc::mount(from, at.as_ptr(), none, flags, ptr::null()) }.into())?;
    set_attributes(libc::AT_FDCWD, at, 0, attributes)
}

/// Adds attributes to a mount. Linux 5.12.
fn set_attributes(
    directory: libc::c_int,
    path: &CStr,
    flags: libc::c_int,
    attributes: u64,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the kernel reads the structure, whose size is given, and the path, which ends in NUL.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })
}

/// A copy of what stands at `path` of the stage that is mounted nowhere yet, and that nobody may write.
pub(super) fn detached(path: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path ends in NUL.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    if tree < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it, for nobody but us, and a descriptor is a small number.
    let tree = unsafe { OwnedFd::from_raw_fd(tree as libc::c_int) };
    let plain = libc::MOUNT_ATTR_RDONLY
        | libc::MOUNT_ATTR_NOSUID
        | libc::MOUNT_ATTR_NODEV
        | libc::MOUNT_ATTR_NOEXEC;
    set_attributes(tree.as_raw_fd(), c"", libc::AT_EMPTY_PATH, plain)?;
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device is matched to its mount by what is told here.
    #[test]
    fn the_result_of_a_stage_is_reported() {
        for number in 0..8 {
            let bit = |bit: u8| number & bit != 0;
            let staged = Staged {
                overlays: u8::from(bit(1)) * (Part::Root as u8 | Part::Writable as u8),
                stand_ins: u8::from(bit(2)) * Part::Root as u8,
                has_own_devices: bit(4),
                device: u64::MAX - 1,
            };
            let Note::Staged(numbers) = staged.note() else {
                panic!("another note");
            };
            let told = Staged::of(numbers);
            assert_eq!(told.is_overlay(Part::Root), bit(1));
            assert_eq!(told.is_overlay(Part::Writable), bit(1));
            assert_eq!(told.is_stand_in(Part::Root), bit(2));
            assert!(!told.is_stand_in(Part::Writable));
            assert_eq!(told.has_own_devices, bit(4));
            assert_eq!(told.device, u64::MAX - 1);
        }
    }
}
