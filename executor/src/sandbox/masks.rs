//! The parts of `/proc` that a program sees.
//!
//! Beside the program's own processes, `/proc` shows the host: memory, devices, interrupts, other programs. A
//! short list of entries stays visible, because programs rely on them. An empty file or directory covers
//! every other entry, even an entry of a newer kernel that this list does not know. An empty file also covers
//! each file that the host shows to root alone: the sandbox of root must show the same as that of another
//! user.

use std::ffi::{CStr, CString};
use std::io;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use crate::process::Covered;
use crate::security::VISIBLE_PROC;

/// Settings are in `/proc/sys`.
const ALL_SETTINGS: &CStr = c"/proc/sys";

/// Its directories that stay visible: others tell of devices and drivers of the host. `net` and `user` are
/// those of the sandbox's own namespaces.
const VISIBLE_SETTINGS: [&str; 5] = ["fs", "kernel", "net", "user", "vm"];

/// Those in which some files are for root alone.
const SETTINGS: [&CStr; 3] = [c"/proc/sys/fs", c"/proc/sys/kernel", c"/proc/sys/vm"];

/// Directories in them with nothing but such files, counters or devices of the host.
const SETTING_DIRECTORIES: [&CStr; 6] = [
    c"/proc/sys/fs/binfmt_misc",
    c"/proc/sys/fs/quota",
    c"/proc/sys/kernel/keys",
    c"/proc/sys/kernel/pty",
    c"/proc/sys/kernel/sched_domain",
    c"/proc/sys/kernel/usermodehelper",
];

/// Counters of the host among the settings.
const COUNTERS: [&CStr; 7] = [
    c"/proc/sys/fs/aio-nr",
    c"/proc/sys/fs/dentry-state",
    c"/proc/sys/fs/file-nr",
    c"/proc/sys/fs/inode-nr",
    c"/proc/sys/fs/inode-state",
    c"/proc/sys/kernel/random/entropy_avail",
    c"/proc/sys/kernel/tainted",
];

/// Read by all.
const OTHERS_READ: u32 = 0o004;

/// What is covered with this kernel.
pub(super) fn covered() -> io::Result<Covered> {
    let mut covered = Covered::default();
    entries(c"/proc", |_, name, kind| {
        let bytes = name.to_bytes();
        // Processes come last.
        if bytes[0].is_ascii_digit() {
            return Ok(false);
        }
        let is_visible = VISIBLE_PROC
            .iter()
            .any(|(visible, _)| visible.as_bytes() == bytes);
        match kind {
            _ if is_visible => {}
            FileType::Directory => covered.directories.push(join(c"/proc", name)),
            FileType::Symlink => {}
            _ => covered.files.push(join(c"/proc", name)),
        }
        Ok(true)
    })?;
    for directory in SETTINGS {
        entries(directory, |at, name, kind| {
            let mode = || statat(at, name, AtFlags::SYMLINK_NOFOLLOW).map(|status| status.st_mode);
            if kind == FileType::RegularFile && mode()? & OTHERS_READ == 0 {
                covered.files.push(join(directory, name));
            }
            Ok(true)
        })?;
    }
    entries(ALL_SETTINGS, |_, name, kind| {
        let is_visible = VISIBLE_SETTINGS
            .iter()
            .any(|visible| visible.as_bytes() == name.to_bytes());
        if kind == FileType::Directory && !is_visible {
            covered.directories.push(join(ALL_SETTINGS, name));
        }
        Ok(true)
    })?;
    covered
        .directories
        .extend(SETTING_DIRECTORIES.map(CStr::to_owned));
    covered.files.extend(COUNTERS.map(CStr::to_owned));
    Ok(covered)
}

/// Visits the entries of a directory, if it is there, for as long as `visit` wants more.
fn entries(
    path: &CStr,
    mut visit: impl FnMut(&std::os::fd::OwnedFd, &CStr, FileType) -> Result<bool, Errno>,
) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        directory => directory?,
    };
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if [&b"."[..], b".."].contains(&name.to_bytes()) {
            continue;
        }
        if !visit(&directory, name, entry.file_type())? {
            break;
        }
    }
    Ok(())
}

fn join(directory: &CStr, name: &CStr) -> CString {
    let path = [directory.to_bytes(), b"/", name.to_bytes()].concat();
    CString::new(path).expect("names have no NUL")
}
