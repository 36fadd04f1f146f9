//! `doctor`: whether this machine can run programs.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use ipfs_exec_executor::doctor::{Finding, Status, examine};
use ipfs_exec_executor::limits::check;
use ipfs_exec_executor::sandbox::Bubblewrap;
use rustix::fs::{Access, access, statvfs};
use serde_json::json;

use super::peers;
use crate::context::Context;
use crate::error::CommandError;
use crate::limits::LimitArgs;
use crate::output;

/// Free bytes below which nothing can be done, and below which little can.
const LEAST_FREE: u64 = 32 << 20;
const LITTLE_FREE: u64 = 1 << 30;

/// Check whether this machine can run programs
///
/// Prints one line for each check. The line begins with `ok`, with `warning` if runs work with a
/// restriction, or with `error` if a run would fail. After a warning or an error, the next line says
/// what to do. The key `status` in JSON has the same three words.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  ipfs-exec doctor
  ipfs-exec doctor --network --peer /ip4/192.0.2.7/tcp/4001
  ipfs-exec doctor --json | jq 'select(.status == \"error\")'

Exit codes: 0 if a run would work, 1 if a run would fail.")]
pub(crate) struct DoctorArgs {
    /// Also start a network node, and connect to the known peers
    #[arg(long)]
    network: bool,

    /// Print one JSON object for each check
    #[arg(long)]
    json: bool,
}

/// `configuration` is why the settings could not be read; `context` then has the default ones.
pub(crate) fn doctor(
    context: &Context,
    configuration: Option<CommandError>,
    arguments: &DoctorArgs,
) -> Result<ExitCode, CommandError> {
    let mut findings = examine();
    findings.extend(configuration.map(|error| broken("configuration", &error)));
    match context.repository_path() {
        Some(path) => findings.extend([disk(path), repository(context, path)]),
        None => findings.push(Finding::error(
            "repository",
            "there is no place for it: HOME is not set",
            "give one with `--repo DIR` or IPFS_EXEC_PATH",
        )),
    }
    findings.push(limits(context));
    if arguments.network {
        findings.push(network(context)?);
    }
    for finding in &findings {
        print(finding, arguments.json)?;
    }
    let fails = findings
        .iter()
        .any(|finding| finding.status == Status::Error);
    Ok(ExitCode::from(u8::from(fails)))
}

fn print(finding: &Finding, is_json: bool) -> Result<(), CommandError> {
    if is_json {
        output::line(json!(finding))?;
        return Ok(());
    }
    let word = finding.status.word();
    let colour = match finding.status {
        Status::Ok => 32,
        Status::Warning => 33,
        Status::Error => 31,
    };
    let mut stdout = output::stdout();
    let (on, off) = if std::io::stdout().is_terminal() {
        (format!("\x1b[{colour}m"), "\x1b[0m")
    } else {
        (String::new(), "")
    };
    writeln!(
        stdout,
        "{on}{word:7}{off} {}: {}",
        finding.check, finding.message
    )?;
    if let Some(remedy) = &finding.remedy {
        writeln!(stdout, "        {remedy}")?;
    }
    stdout.flush()?;
    Ok(())
}

/// Those of the configuration, which every run has.
fn limits(context: &Context) -> Finding {
    let limits = context.config.limits.limits(&LimitArgs::default());
    let place = context.repository_path().and_then(existing);
    let place = place.and_then(|path| path.canonicalize().ok());
    let place = place.filter(|path| path.is_dir());
    let place = place.unwrap_or_else(|| PathBuf::from("/"));
    // Where there is none that is told elsewhere.
    let bubblewrap = Bubblewrap::find().map_or_else(|_| PathBuf::new(), |found| found.path);
    match check(&limits, &place, &bubblewrap) {
        Ok(held) => {
            let names: Vec<_> = held.iter().map(|(limit, _)| limit.option()).collect();
            Finding::ok("limits", format!("can be held: {}", names.join(", ")))
        }
        Err(error) => {
            let failed = CommandError::from_chain(&error);
            let remedy = error
                .hint()
                .unwrap_or("change `[limits]` in the configuration");
            Finding::error("limits", failed.message(), remedy)
        }
    }
}

/// The path itself, or the nearest directory above it that is there.
fn existing(path: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    absolute
        .ancestors()
        .find(|path| path.exists())
        .map(Path::to_owned)
}

fn disk(path: &Path) -> Finding {
    const REMEDY: &str =
        "free space on that file system; `ipfs-exec gc` removes what is not pinned";
    let status = existing(path).and_then(|path| statvfs(&path).ok());
    let Some(status) = status else {
        return Finding::error(
            "disk",
            format!("cannot read the free space of {}", path.display()),
            REMEDY,
        );
    };
    let free = status.f_bavail * status.f_frsize;
    let message = format!(
        "{} are free for {}",
        indicatif::BinaryBytes(free),
        path.display()
    );
    match free {
        0..LEAST_FREE => Finding::error("disk", message, REMEDY),
        LEAST_FREE..LITTLE_FREE => Finding::warning("disk", message, REMEDY),
        _ => Finding::ok("disk", message),
    }
}

/// Without making it.
fn repository(context: &Context, path: &Path) -> Finding {
    const CHECK: &str = "repository";
    const OTHER: &str = "choose a place that you may write to with `--repo DIR` or IPFS_EXEC_PATH";
    let place = existing(path);
    if place.as_deref() != std::path::absolute(path).ok().as_deref() {
        let is_writable = place
            .as_deref()
            .is_some_and(|place| is_writable(place) && place.is_dir());
        let message = format!("{} does not exist yet", path.display());
        return if is_writable {
            Finding::ok(CHECK, format!("{message}, and can be made"))
        } else {
            Finding::error(CHECK, format!("{message}, and cannot be made"), OTHER)
        };
    }
    // A repository of which only the index is writable cannot hold a result.
    let closed = WRITTEN.map(|part| path.join(part)).into_iter();
    let closed = closed
        .filter(|part| part.exists())
        .find(|part| !is_writable(part));
    if let Some(part) = closed {
        let message = format!(
            "{} cannot be written: no run can keep its output",
            part.display()
        );
        return Finding::error(CHECK, message, OTHER);
    }
    let opened = context
        .repository()
        .and_then(|repository| Ok((repository.statistics()?, repository.foreign_files()?)));
    match opened {
        Ok((_, foreign)) if !foreign.is_empty() => Finding::error(
            CHECK,
            format!(
                "{} of its files belong to another user, such as {} to {}",
                foreign.len(),
                foreign[0].path.display(),
                foreign[0].owner
            ),
            "give them to the owner of the repository with `sudo chown`; `ipfs-exec verify` lists \
             them",
        ),
        Ok((statistics, _)) => Finding::ok(
            CHECK,
            format!("{} blocks at {}", statistics.blocks, path.display()),
        ),
        Err(failed) => broken(CHECK, &failed),
    }
}

/// Parts of a repository that every run writes to; the first is the repository itself.
const WRITTEN: [&str; 5] = ["", "repo.db", "blocks", "rootfs", "run"];

/// Whether this user may write to a file or directory, on a file system that can be written.
fn is_writable(path: &Path) -> bool {
    let needed = if path.is_dir() {
        Access::WRITE_OK | Access::EXEC_OK
    } else {
        Access::WRITE_OK
    };
    access(path, needed).is_ok()
}

/// The finding for an error that every run would end with.
fn broken(check: &'static str, error: &CommandError) -> Finding {
    let remedy = error.hint().unwrap_or(
        "look at the permissions of the directory, or use another repository with `--repo DIR`",
    );
    Finding::error(check, error.message(), remedy)
}

fn network(context: &Context) -> Result<Finding, CommandError> {
    let network = match peers::start(context) {
        Ok(network) => network,
        Err(failed) => {
            return Ok(Finding::warning(
                "network",
                failed.message(),
                "use `--offline`",
            ));
        }
    };
    let (reached, unreachable) = peers::count(context, &network)?;
    let message = format!("{reached} peers answer, {unreachable} cannot be reached");
    Ok(if reached > 0 {
        Finding::ok("network", message)
    } else {
        let remedy =
            "name a peer with `--peer MULTIADDR`, or enter the public network by `--public`";
        Finding::warning("network", message, remedy)
    })
}
