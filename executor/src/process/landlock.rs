//! Landlock, beside the namespaces: <https://docs.kernel.org/userspace-api/landlock.html>.

use std::ptr;

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

/// `struct landlock_ruleset_attr` of Linux.
#[repr(C)]
struct RulesetAttributes {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// What a ruleset restricts, as far as this kernel knows how: the fields of `RulesetAttributes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Restriction {
    /// Changes of files that are denied where no rule allows them; 0 where there is to be no ruleset.
    pub(crate) access_fs: u64,
    /// What lies outside and cannot be reached.
    pub(crate) scoped: u64,
    /// Bytes of the structure that the kernel knows.
    pub(crate) bytes: u64,
}

impl Restriction {
    /// A restriction by which nothing can be written where no rule allows it; and, where the kernel knows
    /// how (Linux 6.12), nothing outside can be signalled or reached by abstract sockets. It is empty where
    /// the kernel has too little of it.
    pub(crate) fn of_kernel() -> Restriction {
        let Some(version) = landlock_version().filter(|version| *version >= REFERS) else {
            return Restriction::default();
        };
        let truncates = if version >= TRUNCATES { TRUNCATE } else { 0 };
        let has_scopes = version >= SCOPES;
        let bytes = match has_scopes {
            true => size_of::<RulesetAttributes>(),
            // What is not known yet cannot be named.
            false => size_of::<u64>(),
        };
        Restriction {
            access_fs: WRITE_FILE | truncates | CHANGE_DIRECTORY | REFER,
            scoped: if has_scopes {
                SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS
            } else {
                0
            },
            bytes: bytes as u64,
        }
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
