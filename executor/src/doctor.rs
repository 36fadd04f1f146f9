//! Checks whether this machine can run programs: one finding a check, with a remedy for each problem.
//!
//! A finding gives the same advice as the error of a run for the same reason.

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
use crate::sandbox::obstacle::hint_for_message;
use crate::sandbox::plan::DISABLES_USER_NAMESPACES;
use crate::sandbox::probe::find_program;
use crate::sandbox::trial::TrialError;
use crate::sandbox::{Bubblewrap, ProbeError};

/// What a sandbox needs of the kernel: `close_range` and `mount_setattr`.
const LEAST_KERNEL: (u32, u32) = (5, 12);

/// What a finding means. Text, JSON and help have the same three words for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// A run has all that it needs.
    Ok,
    /// Something is slower, weaker or missing, and runs go on without it.
    Warning,
    /// A run would fail.
    Error,
}

impl Status {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Error => "error",
        }
    }
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
    /// That a run has what it needs.
    pub fn ok(check: &'static str, message: impl Into<String>) -> Finding {
        Finding {
            check,
            status: Status::Ok,
            message: message.into(),
            remedy: None,
        }
    }

    /// That something is missing.
    pub fn warning(
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding {
            status: Status::Warning,
            remedy: Some(remedy.into()),
            ..Finding::ok(check, message)
        }
    }

    /// That a run would fail.
    pub fn error(
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding {
            status: Status::Error,
            ..Finding::warning(check, message, remedy)
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
        return Finding::ok("kernel", format!("Linux {release}"));
    }
    let (major, minor) = LEAST_KERNEL;
    Finding::error(
        "kernel",
        format!("Linux {release} is older than {major}.{minor}"),
        "install a newer kernel",
    )
}

/// Bubblewrap, and whether it can make a sandbox.
fn bubblewrap(found: &Result<Bubblewrap, ProbeError>) -> Vec<Finding> {
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            return vec![Finding::error(
                "bubblewrap",
                error.to_string(),
                error.hint(),
            )];
        }
    };
    let mut findings = vec![version(found)];
    findings.push(match found.try_out() {
        Ok(()) => Finding::ok(
            "namespaces",
            "a sandbox can be made, and a program confined in it",
        ),
        Err(TrialError::Confinement(error)) => {
            let cause = std::error::Error::source(&error);
            let cause = cause.map_or(String::new(), |cause| format!(": {cause}"));
            let hint = error.hint().unwrap_or_default();
            Finding::error("confinement", format!("{error}{cause}"), hint)
        }
        Err(TrialError::Sandbox(said)) => {
            let hint = hint_for_message(&said)
                .unwrap_or("look at what bubblewrap says, and at the log of the kernel (`dmesg`)");
            Finding::error(
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
        return Finding::warning(
            "bubblewrap",
            format!("{message}, set-uid root: a hole in it is one in this machine"),
            format!("allow user namespaces, and take the bit away (`chmod u-s {path}`)"),
        );
    }
    if version < DISABLES_USER_NAMESPACES {
        return Finding::warning(
            "bubblewrap",
            format!("{message}, which leaves nested user namespaces to the filter of system calls"),
            "install bubblewrap 0.8 or newer",
        );
    }
    Finding::ok("bubblewrap", message)
}

fn filter() -> Finding {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail");
    if actions.is_ok_and(|actions| actions.split_whitespace().any(|action| action == "errno")) {
        return Finding::ok("seccomp", "system calls are filtered");
    }
    Finding::error(
        "seccomp",
        "this kernel cannot filter system calls",
        "use a kernel with CONFIG_SECCOMP_FILTER",
    )
}

fn landlock() -> Finding {
    match process::landlock_version() {
        Some(version) if version >= process::SCOPES => {
            Finding::ok("landlock", format!("version {version}"))
        }
        Some(version) if version >= process::REFERS => Finding::warning(
            "landlock",
            format!("version {version} cannot confine signals: namespaces alone do"),
            "nothing needs to be done; Linux 6.12 has it",
        ),
        Some(version) => Finding::warning(
            "landlock",
            format!("version {version} knows too little: mounts and namespaces alone confine"),
            "nothing needs to be done; Linux 5.19 has more",
        ),
        None => Finding::warning(
            "landlock",
            "this kernel has no Landlock: mounts and namespaces alone confine",
            "nothing needs to be done; `lsm=landlock,...` on the kernel's command line switches it on",
        ),
    }
}

fn device() -> Finding {
    let Err(error) = mount::probe_device() else {
        return Finding::ok("fuse", "inputs are mounted, and read as they are needed");
    };
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    let cause = cause.unwrap_or_default();
    let effect = "inputs are copied whole, and a directory cannot be a root file system";
    Finding::warning(
        "fuse",
        format!("{error}: {cause}: {effect}"),
        error.hint().unwrap_or_default(),
    )
}

/// What `ipfs-exec mount` needs beside the device.
fn helper() -> Finding {
    const CHECK: &str = "fusermount3";
    if let Err(error) = mount::probe_device() {
        return Finding::warning(
            CHECK,
            "`ipfs-exec mount` does not work without the FUSE device",
            error.hint().unwrap_or_default(),
        );
    }
    if geteuid().is_root()
        || find_program(&env::var_os("PATH").unwrap_or_default(), CHECK).is_some()
    {
        return Finding::ok(CHECK, "`ipfs-exec mount` works");
    }
    Finding::warning(
        CHECK,
        "`fusermount3` is missing: `ipfs-exec mount` does not work",
        mount::HELPER_HINT,
    )
}

fn groups(bubblewrap: &Path) -> Finding {
    let held = match limits::probe(bubblewrap) {
        Ok(held) => held,
        Err(error) => return Finding::warning("cgroups", error.to_string(), limits::GROUP_HINT),
    };
    let each: Vec<_> = held
        .iter()
        .map(|(limit, mechanism)| format!("`{}` by {}", limit.option(), means(*mechanism)))
        .collect();
    let each = each.join(", ");
    let is_group = |mechanism| matches!(mechanism, Mechanism::CgroupV1 | Mechanism::CgroupV2);
    if held.iter().all(|(_, mechanism)| is_group(*mechanism)) {
        return Finding::ok("cgroups", format!("limits are held: {each}"));
    }
    Finding::warning(
        "cgroups",
        format!("not every limit has a control group: {each}"),
        limits::GROUP_HINT,
    )
}

/// How a limit is held, in words that follow "by".
fn means(mechanism: Mechanism) -> &'static str {
    match mechanism {
        Mechanism::CgroupV2 => "a control group (version 2)",
        Mechanism::CgroupV1 => "a control group (version 1)",
        Mechanism::Affinity => "a choice of processors",
        Mechanism::Perf => "a counter of the kernel",
        Mechanism::Rlimit => "frequent checks and a limit of the kernel",
        Mechanism::Supervision => "frequent checks",
        // The probe asks for a part of a processor.
        Mechanism::None => "a choice of processors, in whole numbers only",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_runs_programs() {
        let findings = examine();
        let errors: Vec<_> = findings
            .iter()
            .filter(|finding| finding.status == Status::Error)
            .collect();
        assert!(errors.is_empty(), "{errors:?}");
        let is_told = |finding: &Finding| {
            finding.remedy.is_some() == (finding.status != Status::Ok)
                && !finding.message.is_empty()
        };
        assert!(findings.iter().all(is_told), "{findings:?}");
    }

    /// JSON had `green`, the text `ok`, and the help both.
    #[test]
    fn text_and_json_have_the_same_words() {
        for status in [Status::Ok, Status::Warning, Status::Error] {
            let json = serde_json::to_value(status).unwrap();
            assert_eq!(json.as_str(), Some(status.word()));
        }
    }
}
