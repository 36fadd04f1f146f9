//! Whether this machine can run programs, and what to do where it cannot: one finding a question.
//!
//! What a finding advises is what the error of a run would say for the same reason.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::geteuid;
use rustix::system::uname;
use serde::Serialize;

use crate::limits::{self, Mechanism};
use crate::mount;
use crate::process;
use crate::sandbox::plan::DISABLES_USER_NAMESPACES;
use crate::sandbox::probe::{find_program, obstacle};
use crate::sandbox::trial::TrialError;
use crate::sandbox::{Bubblewrap, ProbeError};

/// What a sandbox needs of the kernel: `close_range` and `mount_setattr`.
const LEAST_KERNEL: (u32, u32) = (5, 12);

/// What a finding means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// All is well.
    Green,
    /// Something is slower, weaker or missing, and runs go on without it.
    Yellow,
    /// A run would fail.
    Red,
}

/// An answer to one question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: a word.
    pub check: &'static str,
    /// What that means.
    pub status: Status,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Finding {
    /// That all is well.
    pub fn green(check: &'static str, message: impl Into<String>) -> Finding {
        Finding {
            check,
            status: Status::Green,
            message: message.into(),
            remedy: None,
        }
    }

    /// That something is missing.
    pub fn yellow(
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding {
            status: Status::Yellow,
            remedy: Some(remedy.into()),
            ..Finding::green(check, message)
        }
    }

    /// That a run would fail.
    pub fn red(
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding {
            status: Status::Red,
            ..Finding::yellow(check, message, remedy)
        }
    }
}

/// Looks at all that a sandbox needs.
pub fn examine() -> Vec<Finding> {
    let mut findings = vec![kernel()];
    let found = Bubblewrap::find();
    // Where there is none, that is told.
    let path = found.as_ref().map_or(Path::new(""), |found| &found.path);
    let groups = groups(path);
    findings.extend(bubblewrap(&found));
    findings.extend([filter(), landlock(), device(), helper(), groups]);
    findings
}

fn kernel() -> Finding {
    let name = uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= LEAST_KERNEL {
        return Finding::green("kernel", format!("Linux {release}"));
    }
    let (major, minor) = LEAST_KERNEL;
    Finding::red(
        "kernel",
        format!("Linux {release} is older than {major}.{minor}"),
        "install a newer kernel",
    )
}

/// Bubblewrap, and whether it can make a sandbox.
fn bubblewrap(found: &Result<Bubblewrap, ProbeError>) -> Vec<Finding> {
    let found = match found {
        Ok(found) => found,
        Err(error) => return vec![Finding::red("bubblewrap", error.to_string(), error.hint())],
    };
    let mut findings = vec![version(found)];
    findings.push(match found.try_out() {
        Ok(()) => Finding::green(
            "namespaces",
            "a sandbox can be made, and a program confined in it",
        ),
        Err(TrialError::Confinement(error)) => {
            let cause = std::error::Error::source(&error);
            let cause = cause.map_or(String::new(), |cause| format!(": {cause}"));
            let hint = error.hint().unwrap_or_default();
            Finding::red("confinement", format!("{error}{cause}"), hint)
        }
        Err(TrialError::Sandbox(said)) => {
            let obstacle = obstacle();
            let hint = obstacle.map_or(
                "look at what bubblewrap says, and at the log of the kernel (`dmesg`)",
                |obstacle| obstacle.hint,
            );
            Finding::red(
                "namespaces",
                format!("no sandbox can be made: {said}"),
                hint,
            )
        }
    });
    findings
}

fn version(bubblewrap: &Bubblewrap) -> Finding {
    let (version, path) = (bubblewrap.version, bubblewrap.path.display());
    let message = format!("version {version} at `{path}`");
    let is_set_uid =
        fs::metadata(&bubblewrap.path).is_ok_and(|file| file.permissions().mode() & 0o4000 != 0);
    if is_set_uid {
        return Finding::yellow(
            "bubblewrap",
            format!("{message}, set-uid root: a hole in it is one in this machine"),
            format!("allow user namespaces, and take the bit away (`chmod u-s {path}`)"),
        );
    }
    if version < DISABLES_USER_NAMESPACES {
        return Finding::yellow(
            "bubblewrap",
            format!("{message}, which leaves nested user namespaces to the filter of system calls"),
            "install bubblewrap 0.8 or newer",
        );
    }
    Finding::green("bubblewrap", message)
}

fn filter() -> Finding {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail");
    if actions.is_ok_and(|actions| actions.split_whitespace().any(|action| action == "errno")) {
        return Finding::green("seccomp", "system calls are filtered");
    }
    Finding::red(
        "seccomp",
        "this kernel cannot filter system calls",
        "use a kernel with CONFIG_SECCOMP_FILTER",
    )
}

fn landlock() -> Finding {
    match process::landlock_version() {
        Some(version) if version >= process::SCOPES => {
            Finding::green("landlock", format!("version {version}"))
        }
        Some(version) if version >= process::REFERS => Finding::yellow(
            "landlock",
            format!("version {version} cannot confine signals: namespaces alone do"),
            "nothing needs to be done; Linux 6.12 has it",
        ),
        Some(version) => Finding::yellow(
            "landlock",
            format!("version {version} knows too little: mounts and namespaces alone confine"),
            "nothing needs to be done; Linux 5.19 has more",
        ),
        None => Finding::yellow(
            "landlock",
            "this kernel has no Landlock: mounts and namespaces alone confine",
            "nothing needs to be done; `lsm=landlock,...` on the kernel's command line switches it on",
        ),
    }
}

fn device() -> Finding {
    match mount::probe_device() {
        Ok(()) => Finding::green("fuse", "inputs are mounted, and read as they are needed"),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            let cause = cause.unwrap_or_default();
            Finding::yellow(
                "fuse",
                format!(
                    "{error}: {cause}: inputs are copied whole, and a directory is no root file system"
                ),
                error.hint().unwrap_or_default(),
            )
        }
    }
}

fn helper() -> Finding {
    if geteuid().is_root()
        || find_program(&env::var_os("PATH").unwrap_or_default(), "fusermount3").is_some()
    {
        return Finding::green("fusermount3", "`ipfs-exec mount` works");
    }
    Finding::yellow(
        "fusermount3",
        "`fusermount3` is missing: `ipfs-exec mount` does not work",
        mount::HELPER_HINT,
    )
}

fn groups(bubblewrap: &Path) -> Finding {
    let held = match limits::probe(bubblewrap) {
        Ok(held) => held,
        Err(error) => return Finding::yellow("cgroups", error.to_string(), limits::GROUP_HINT),
    };
    let by = |mechanism| held.iter().all(|(_, held)| *held == mechanism);
    if by(Mechanism::CgroupV2) {
        return Finding::green("cgroups", "limits are held by control groups, version 2");
    }
    if by(Mechanism::CgroupV1) {
        return Finding::green("cgroups", "limits are held by control groups, version 1");
    }
    let with = |wanted: fn(Mechanism) -> bool| {
        let limits = held.iter().filter(|(_, held)| wanted(*held));
        let limits: Vec<_> = limits
            .map(|(limit, _)| format!("`{}`", limit.option()))
            .collect();
        limits.join(", ")
    };
    let lacking = with(|held| !matches!(held, Mechanism::CgroupV1 | Mechanism::CgroupV2));
    if lacking.is_empty() {
        let message = "limits are held by control groups of both versions";
        return Finding::green("cgroups", message);
    }
    let means = [
        (
            with(|held| matches!(held, Mechanism::Supervision | Mechanism::Rlimit)),
            "looking often",
        ),
        (
            with(|held| held == Mechanism::Perf),
            "a counter of the kernel",
        ),
        (
            // It was asked for a part of one.
            with(|held| held == Mechanism::None),
            "whole processors alone",
        ),
    ];
    let means = means.iter().filter(|(limits, _)| !limits.is_empty());
    let means: Vec<_> = means
        .map(|(limits, means)| format!("{limits} by {means}"))
        .collect();
    Finding::yellow(
        "cgroups",
        format!(
            "no control group can be made for {lacking}: held are {}",
            means.join(", ")
        ),
        limits::GROUP_HINT,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_runs_programs() {
        let findings = examine();
        let red: Vec<_> = findings
            .iter()
            .filter(|finding| finding.status == Status::Red)
            .collect();
        assert!(red.is_empty(), "{red:?}");
        let is_told = |finding: &Finding| {
            finding.remedy.is_some() == (finding.status != Status::Green)
                && !finding.message.is_empty()
        };
        assert!(findings.iter().all(is_told), "{findings:?}");
    }
}
