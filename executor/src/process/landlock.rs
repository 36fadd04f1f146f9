//! Landlock, beside the namespaces: <https://docs.kernel.org/userspace-api/landlock.html>.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::fs::{FileType, fstat};

use super::check;

/// `LANDLOCK_ACCESS_FS_*` of Linux that change something, by the version in which they came.
const WRITE_FILE: u64 = 1 << 1;
const CHANGE_DIRECTORY: u64 = 0x1ff << 4;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;

/// First versions of the interface that know what they are called after. Before the first of them
/// nothing could be moved to another directory, whatever the rules said.
pub(crate) const REFERS: i64 = 2;
const TRUNCATES: i64 = 3;
pub(crate) const SCOPES: i64 = 6;

const SCOPE_ABSTRACT_SOCKETS: u64 = 1 << 0;
const SCOPE_SIGNALS: u64 = 1 << 1;

const RULE_PATH_BENEATH: libc::c_int = 1;

/// `struct landlock_ruleset_attr` of Linux.
#[repr(C)]
struct RulesetAttributes {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr` of Linux.
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent: libc::c_int,
}

/// What a program is confined to.
#[derive(Debug)]
pub(crate) struct Ruleset {
    pub(crate) descriptor: OwnedFd,
    /// The changes that are denied where no rule allows them.
    pub(crate) handled: u64,
}

impl Ruleset {
    /// Rules by which nothing can be written but what is beneath the `writable` files and directories;
    /// and, where the kernel knows how (Linux 6.12), nothing outside can be signalled or reached by
    /// abstract sockets. `None` where the kernel has too little of it.
    pub(crate) fn new(writable: &[BorrowedFd<'_>]) -> io::Result<Option<Ruleset>> {
        let Some(version) = landlock_version().filter(|version| *version >= REFERS) else {
            return Ok(None);
        };
        let truncates = if version >= TRUNCATES { TRUNCATE } else { 0 };
        let files = WRITE_FILE | truncates;
        let attributes = RulesetAttributes {
            handled_access_fs: files | CHANGE_DIRECTORY | REFER,
            handled_access_net: 0,
            scoped: SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS,
        };
        let size = match version >= SCOPES {
            true => size_of::<RulesetAttributes>(),
            // What is not known yet cannot be named.
            false => size_of::<u64>(),
        };
        // SAFETY: the kernel reads the structure, of which at least that size is given, and no other
        // memory.
        let created = unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                &raw const attributes,
                size,
                0,
            )
        };
        if created < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just opened it, for nobody but us, and a descriptor is a small number.
        let descriptor = unsafe { OwnedFd::from_raw_fd(created as libc::c_int) };
        let handled = attributes.handled_access_fs;
        let ruleset = Ruleset {
            descriptor,
            handled,
        };
        for each in writable {
            let is_directory = FileType::from_raw_mode(fstat(each)?.st_mode).is_dir();
            ruleset.allow(each, if is_directory { handled } else { files })?;
        }
        Ok(Some(ruleset))
    }

    fn allow(&self, beneath: &BorrowedFd<'_>, access: u64) -> io::Result<()> {
        let rule = PathBeneath {
            allowed_access: access,
            parent: beneath.as_raw_fd(),
        };
        // SAFETY: the kernel reads the structure, whose size its kind says.
        check(unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                self.descriptor.as_raw_fd(),
                RULE_PATH_BENEATH,
                &raw const rule,
                0,
            )
        })
    }
}

/// The version of Landlock's interface; none where the kernel has none of it.
pub(crate) fn landlock_version() -> Option<i64> {
    const ASK_VERSION: libc::c_uint = 1;
    let nothing = ptr::null::<RulesetAttributes>();
    // SAFETY: with this flag the kernel reads no memory.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0, ASK_VERSION) };
    (version > 0).then_some(version)
}
