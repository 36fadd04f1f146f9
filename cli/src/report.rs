//! The report of a run: the object of `--json`, and the lines of `--stats`.

use ipfs_exec_executor::limits::{Limit, Usage};
use ipfs_exec_executor::run::Part;
use ipfs_exec_executor::sandbox::SandboxError;
use ipfs_exec_executor::{Outcome, RunError};
use ipfs_exec_node::Cid;
use ipfs_exec_node::network::Fetched;
use serde_json::{Value, json};

use crate::error::CommandError;
use crate::output;

/// What the arguments of a run stand for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content {
    pub(crate) rootfs: Cid,
    pub(crate) input: Cid,
}

/// Where the content of a run came from, and what it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sources {
    /// `None` where the run failed before it was known.
    pub(crate) content: Option<Content>,
    pub(crate) fetched: Fetched,
}

impl Sources {
    fn rootfs(&self) -> Option<String> {
        self.content.map(|content| content.rootfs.to_string())
    }

    fn input(&self) -> Option<String> {
        self.content.map(|content| content.input.to_string())
    }
}

/// The object for a run whose output was kept. [`failed`] has the same keys.
pub(crate) fn succeeded(outcome: &Outcome, sources: &Sources) -> Value {
    let held = outcome.held.iter();
    let limits: Vec<_> = held
        .map(|(limit, mechanism)| json!({ "limit": limit, "held_by": mechanism }))
        .collect();
    json!({
        "cid": outcome.output.cid.to_string(),
        "rootfs": sources.rootfs(),
        "input": sources.input(),
        "exit_code": outcome.exit.code(),
        "error": null,
        "limit": null,
        "during": null,
        "size": outcome.output.bytes,
        "cumulative_size": outcome.output.cumulative_bytes,
        "files": outcome.output_files,
        "usage": outcome.usage,
        "fetched": fetched(&sources.fetched),
        "limits": limits,
        "isolation": outcome.isolation,
        "repeatable": outcome.is_repeatable,
    })
}

/// Facts of a run without an output, as far as they are known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known<'k> {
    /// The limit that it hit, and what was going on.
    limit: Option<(Limit, Part)>,
    usage: Option<&'k Usage>,
    sources: Sources,
}

fn fetched(fetched: &Fetched) -> Value {
    json!({ "blocks": fetched.blocks, "bytes": fetched.bytes })
}

impl<'k> Known<'k> {
    pub(crate) fn of(error: &'k RunError, sources: Sources) -> Known<'k> {
        let (limit, usage) = match error {
            RunError::Sandbox(SandboxError::Limit { hit, usage }) => {
                (Some((hit.limit, Part::Program)), Some(&**usage))
            }
            RunError::OutOfTime { limit, part, .. } => (Some((*limit, *part)), None),
            _ => (None, None),
        };
        Known {
            limit,
            usage,
            sources,
        }
    }

    /// Prints the lines of `--stats`, as far as they are known.
    pub(crate) fn tell_usage(&self) {
        if let Some(usage) = self.usage {
            tell_usage(usage, self.sources.fetched);
        }
    }
}

/// The object for a run without an output.
fn failed(error: &CommandError, known: Known<'_>) -> Value {
    json!({
        "cid": null,
        "rootfs": known.sources.rootfs(),
        "input": known.sources.input(),
        "exit_code": error.code(),
        "error": error.message(),
        "limit": known.limit.map(|(limit, _)| limit),
        "during": known.limit.map(|(_, part)| part),
        "size": null,
        "cumulative_size": null,
        "files": null,
        "usage": known.usage,
        "fetched": fetched(&known.sources.fetched),
        "limits": [],
        "isolation": null,
        "repeatable": null,
    })
}

/// Prints the object for a run that failed with `error`, and passes the error on. A run that the user
/// broke off prints nothing.
pub(crate) fn failure(is_json: bool, error: CommandError, known: Known<'_>) -> CommandError {
    if is_json
        && !error.is_silent()
        && !error.is_interruption()
        && let Err(unwritten) = output::line(failed(&error, known))
    {
        // The failure of the run is the more important one, and decides the exit code.
        tracing::error!("{}", CommandError::from(unwritten).message());
    }
    error
}

/// Tells people what a program used.
pub(crate) fn tell_usage(usage: &Usage, fetched: Fetched) {
    let (wall, user, system) = (usage.wall_seconds, usage.user_seconds, usage.system_seconds);
    let (read, written) = (usage.read_bytes, usage.written_bytes);
    let pids = usage.peak_pids;
    let pids = pids.map_or_else(String::new, |count| {
        format!("; {count} processes and threads")
    });
    output::tell_line(format_args!(
        "time: {wall:.3} s, {user:.3} s user, {system:.3} s system\n\
         memory: {} bytes at most{pids}\n\
         io: {read} bytes read, {written} bytes written\n\
         fetched: {} blocks, {} bytes",
        usage.peak_memory_bytes, fetched.blocks, fetched.bytes
    ));
}
