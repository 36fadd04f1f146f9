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

/// Check whether this machine can run programs, and say what to do where it cannot
///
/// Prints a line for each thing that was looked at: `ok` where all is well, `warning` where runs go on
/// without something, `error` where a run would fail, with the remedy on the next line.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  ipfs-exec doctor
  ipfs-exec doctor --network --peer /ip4/192.0.2.7/tcp/4001
  ipfs-exec doctor --json | jq 'select(.status == \"red\")'

Exit codes: 0 when a run would work, 1 when it would fail.")]
pub(crate) struct DoctorArgs {
    /// Also start a network node and connect to the peers that are known
    #[arg(long)]
    network: bool,

    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

pub(crate) fn doctor(context: &Context, arguments: &DoctorArgs) -> Result<ExitCode, CommandError> {
    let mut findings = examine();
    match context.repository_path() {
        Some(path) => findings.extend([disk(path), repository(context, path)]),
        None => findings.push(Finding::red(
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
    let fails = findings.iter().any(|finding| finding.status == Status::Red);
    Ok(ExitCode::from(u8::from(fails)))
}

fn print(finding: &Finding, is_json: bool) -> Result<(), CommandError> {
    if is_json {
        output::line(json!(finding))?;
        return Ok(());
    }
    let (word, colour) = match finding.status {
        Status::Green => ("ok", 32),
        Status::Yellow => ("warning", 33),
        Status::Red => ("error", 31),
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
            Finding::green("limits", format!("can be held: {}", names.join(", ")))
        }
        Err(error) => {
            let failed = CommandError::from_chain(&error);
            let remedy = error
                .hint()
                .unwrap_or("change `[limits]` in the configuration");
            Finding::red("limits", failed.message(), remedy)
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
        return Finding::red(
            "disk",
            format!("nothing is known of {}", path.display()),
            REMEDY,
        );
    };
    let free = status.f_bavail * status.f_frsize;
    let message = format!("{} MiB are free for {}", free >> 20, path.display());
    match free {
        0..LEAST_FREE => Finding::red("disk", message, REMEDY),
        LEAST_FREE..LITTLE_FREE => Finding::yellow("disk", message, REMEDY),
        _ => Finding::green("disk", message),
    }
}

/// Without making it.
fn repository(context: &Context, path: &Path) -> Finding {
    let place = existing(path);
    if place.as_deref() != std::path::absolute(path).ok().as_deref() {
        let is_writable = place.as_deref().is_some_and(|place| {
            access(place, Access::WRITE_OK | Access::EXEC_OK).is_ok() && place.is_dir()
        });
        let message = format!("{} does not exist yet", path.display());
        return if is_writable {
            Finding::green("repository", format!("{message}, and can be made"))
        } else {
            let remedy = "choose a place that you may write to with `--repo DIR` or IPFS_EXEC_PATH";
            Finding::red(
                "repository",
                format!("{message}, and cannot be made"),
                remedy,
            )
        };
    }
    let opened = context
        .repository()
        .and_then(|repository| Ok((repository.statistics()?, repository.foreign_files()?)));
    match opened {
        Ok((_, foreign)) if !foreign.is_empty() => Finding::red(
            "repository",
            format!(
                "{} of its files belong to another user, such as {} to {}",
                foreign.len(),
                foreign[0].path.display(),
                foreign[0].owner
            ),
            "give them to the owner of the repository with `sudo chown`; `ipfs-exec verify` lists \
             them",
        ),
        Ok((statistics, _)) => Finding::green(
            "repository",
            format!("{} blocks at {}", statistics.blocks, path.display()),
        ),
        Err(failed) => {
            let remedy = failed.hint().unwrap_or(
                "look at the permissions of the directory, or use another with `--repo DIR`",
            );
            Finding::red("repository", failed.message(), remedy)
        }
    }
}

fn network(context: &Context) -> Result<Finding, CommandError> {
    let network = match peers::start(context) {
        Ok(network) => network,
        Err(failed) => {
            return Ok(Finding::yellow(
                "network",
                failed.message(),
                "use `--offline`",
            ));
        }
    };
    let (reached, unreachable) = peers::count(context, &network)?;
    let message = format!("{reached} peers answer, {unreachable} cannot be reached");
    Ok(if reached > 0 {
        Finding::green("network", message)
    } else {
        let remedy =
            "name a peer with `--peer MULTIADDR`, or enter the public network by `--public`";
        Finding::yellow("network", message, remedy)
    })
}
