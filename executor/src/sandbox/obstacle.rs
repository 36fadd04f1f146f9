//! Reasons why a machine makes no sandbox, and what to do about each.
//!
//! Bubblewrap says what it could not do. Its words name the kind of obstacle; settings of the machine tell
//! more where namespaces are refused, for which there are several reasons.

use std::fs;
use std::io;
use std::path::Path;

/// What a user can do, by words in the message of bubblewrap. The first that fits counts.
const BY_WORDS: [(&str, Remedy); 11] = [
    (
        "Resource temporarily unavailable",
        Remedy::Hint(PROCESSES_HINT),
    ),
    ("Cannot allocate memory", Remedy::Hint(MEMORY_HINT)),
    ("Out of memory", Remedy::Hint(MEMORY_HINT)),
    ("Too many open files", Remedy::Hint(DESCRIPTORS_HINT)),
    ("max_*_namespaces", Remedy::Hint(COUNT_HINT)),
    // `/proc` of a container is partly covered; the kernel then refuses a new one.
    ("mount proc", Remedy::Hint(PROC_HINT)),
    ("pivot_root", Remedy::Hint(ROOT_HINT)),
    ("namespace", Remedy::Machine),
    ("uid map", Remedy::Machine),
    ("gid map", Remedy::Machine),
    ("loopback", Remedy::Machine),
];

const PROCESSES_HINT: &str = "allow more processes (`ulimit -u`), or run fewer at a time";
const MEMORY_HINT: &str = "free memory of this machine, or of the control group of this process";
const DESCRIPTORS_HINT: &str = "allow more open files (`ulimit -n`)";
const COUNT_HINT: &str = "allow more namespaces (`sysctl user.max_user_namespaces` and the other \
    `user.max_*_namespaces`), or leave the sandbox in which this runs";
const PROC_HINT: &str = "let the container show all of `/proc`: `docker run --security-opt \
    systempaths=unconfined`, or `podman run --security-opt unmask=ALL`";
const ROOT_HINT: &str = "start from a file system that is no initramfs: the kernel does not let a process \
    replace that root";
const CONTAINER_HINT: &str = "let the container make namespaces: `docker run --security-opt \
    seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined`, or \
    `podman run --security-opt unmask=ALL --security-opt seccomp=unconfined`";

/// Where a remedy is found.
#[derive(Clone, Copy)]
enum Remedy {
    Hint(&'static str),
    /// In the settings of this machine.
    Machine,
}

/// A setting that keeps users from making namespaces.
struct Setting {
    path: &'static str,
    /// The value that forbids; none where it is enough that the file is there.
    forbidding: Option<&'static str>,
    hint: &'static str,
}

/// The most likely one first.
const SETTINGS: [Setting; 5] = [
    Setting {
        path: "/proc/sys/user/max_user_namespaces",
        forbidding: Some("0"),
        hint: "allow user namespaces (`sysctl user.max_user_namespaces=10000`)",
    },
    Setting {
        path: "/proc/sys/kernel/unprivileged_userns_clone",
        forbidding: Some("0"),
        hint: "allow user namespaces (`sysctl kernel.unprivileged_userns_clone=1`)",
    },
    Setting {
        path: "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        forbidding: Some("1"),
        hint: "give `ipfs-exec` and `bwrap` AppArmor profiles that allow user namespaces; the README has \
               them in \"AppArmor on Ubuntu\"",
    },
    Setting {
        path: "/.dockerenv",
        forbidding: None,
        hint: CONTAINER_HINT,
    },
    Setting {
        path: "/run/.containerenv",
        forbidding: None,
        hint: CONTAINER_HINT,
    },
];

/// What to do about a message of bubblewrap, where that is known.
pub(crate) fn hint_for_message(message: &str) -> Option<&'static str> {
    let known = BY_WORDS.iter().find(|(words, _)| message.contains(words));
    match known?.1 {
        Remedy::Hint(hint) => Some(hint),
        Remedy::Machine => hint_of_machine(),
    }
}

/// What to do where the kernel refused a namespace or a mount, where that is known.
pub(crate) fn hint_for_refusal(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        // `ENOSPC` says that there may be no more namespaces.
        io::ErrorKind::StorageFull => Some(hint_of_machine().unwrap_or(COUNT_HINT)),
        io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput => hint_of_machine(),
        io::ErrorKind::WouldBlock => Some(PROCESSES_HINT),
        io::ErrorKind::OutOfMemory => Some(MEMORY_HINT),
        _ => None,
    }
}

fn hint_of_machine() -> Option<&'static str> {
    let is_forbidding = |setting: &&Setting| match setting.forbidding {
        // A setting that this kernel does not have forbids nothing.
        Some(value) => fs::read_to_string(setting.path).is_ok_and(|found| found.trim() == value),
        None => Path::new(setting.path).exists(),
    };
    let setting = SETTINGS.iter().find(is_forbidding)?;
    Some(setting.hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full process table once got the hint for Docker.
    #[test]
    fn each_message_has_its_own_hint() {
        for (message, word) in [
            (
                "bwrap: Can't fork: Resource temporarily unavailable",
                "ulimit -u",
            ),
            ("bwrap: Out of memory", "memory"),
            (
                "bwrap: Creating new namespace failed: nesting depth or \
                 /proc/sys/user/max_*_namespaces exceeded (ENOSPC)",
                "user.max_user_namespaces",
            ),
            (
                "bwrap: Can't mount proc on /newroot/proc: Operation not permitted",
                "systempaths=unconfined",
            ),
            ("bwrap: pivot_root: Invalid argument", "initramfs"),
        ] {
            let hint = hint_for_message(message);
            assert!(
                hint.is_some_and(|hint| hint.contains(word)),
                "{message}: {hint:?}"
            );
        }
        assert_eq!(
            hint_for_message("bwrap: Can't find source path /x: No such file"),
            None
        );
    }
}
