//! Landlock, beside the namespaces: <https://docs.kernel.org/userspace-api/landlock.html>.

use std::io;
use std::ptr;

use super::check;

/// Where the kernel has it, keeps signals and abstract sockets inside by Landlock as well as by the
/// namespaces.
pub(super) fn confine() -> io::Result<()> {
    let rules = LandlockRules {
        scoped: SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS,
        ..LandlockRules::default()
    };
    // SAFETY: the kernel reads the structure, whose size is given, and no other memory.
    let created = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const rules,
            size_of::<LandlockRules>(),
            0,
        )
    };
    if created < 0 {
        // A kernel without it, or without these scopes (Linux 6.12).
        return Ok(());
    }
    rustix::thread::set_no_new_privs(true)?;
    // SAFETY: takes integers. The descriptor is closed with all others that are not inherited.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, created, 0) })
}

/// The version of Landlock's interface; none where the kernel has none of it.
pub(crate) fn landlock_version() -> Option<i64> {
    const ASK_VERSION: libc::c_uint = 1;
    let nothing = ptr::null::<LandlockRules>();
    // SAFETY: with this flag the kernel reads no memory.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0, ASK_VERSION) };
    (version > 0).then_some(version)
}

/// `struct landlock_ruleset_attr` of Linux.
#[repr(C)]
#[derive(Default)]
struct LandlockRules {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

const SCOPE_ABSTRACT_SOCKETS: u64 = 1 << 0;
const SCOPE_SIGNALS: u64 = 1 << 1;
