//! `ipfs-exec`: pure computation on IPFS, from the command line.
//!
//! Everything is done by the two libraries; this crate turns words into calls, and results into
//! words and exit codes.

#![deny(unsafe_code)]

mod api_mount;
mod arguments;
mod background;
mod commands;
mod config;
mod content;
mod context;
mod decimal;
mod disk;
mod duration;
mod error;
mod limits;
mod memory;
mod names;
mod output;
mod profile;
mod program;
mod progress;
mod report;
mod rootfs;
mod selection;
mod serving;
mod signals;
mod size;

use std::ffi::OsString;
use std::fs::File;
use std::process::ExitCode;
use std::sync::Arc;

use ipfs_exec_executor::run::EXIT_FAILED;
use rustix::fs::Mode;
use rustix::process::{Resource, getrlimit, setrlimit, umask};
use tracing_subscriber::EnvFilter;

use commands::Logging;
use error::{CommandError, LocalError};

fn main() -> ExitCode {
    let arguments = match commands::as_subcommand(std::env::args_os().collect()) {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error, &[]),
    };
    if ipfs_exec_executor::stdout_was_closed() {
        return stdout_closed(&arguments).report();
    }
    if arguments.len() < 2 {
        output::tell(&arguments::help());
        return ExitCode::from(error::USAGE);
    }
    let cli = match arguments::parse(&arguments) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, &arguments),
    };
    if let Err(error) = start_logging(&cli.logging()) {
        return error.report();
    }
    allow_open_files();
    allow_owner();
    if let Err(error) = signals::report_file_size_limit() {
        tracing::debug!(%error, "the limit of file sizes ends this process");
    }
    match cli.execute() {
        Ok(code) => code,
        Err(error) => {
            let code = error.report();
            if error.is_interruption() {
                signals::die();
            }
            code
        }
    }
}

/// Takes as many open files as this user may have: a deep tree needs more than the usual first limit.
/// Programs in a sandbox have their own.
fn allow_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays");
    }
}

/// Gives the owner all rights on the files that this process makes, whatever the umask: a repository whose
/// owner cannot write to it is useless.
fn allow_owner() {
    let caller = umask(Mode::RWXU | Mode::RWXG | Mode::RWXO);
    umask(caller - Mode::RWXU);
}

/// Prints help where that was asked for, else what is wrong with the arguments. `run` has its own
/// code for that, since any lower one may be that of a program.
fn refuse(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    if !error.use_stderr() {
        return match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => CommandError::from(error).report(),
        };
    }
    let message = error.render();
    if output::is_stderr_coloured() {
        output::tell(&message.ansi().to_string());
    } else {
        output::tell(&message.to_string());
    }
    let is_run = arguments::is_run(arguments);
    ExitCode::from(if is_run { EXIT_FAILED } else { error::USAGE })
}

/// Results would vanish: that is an error before any work is done.
fn stdout_closed(arguments: &[OsString]) -> CommandError {
    let failed = CommandError::failed("standard output is closed").with_hint(
        "redirect it to a file, or to /dev/null if you do not need the result (`>/dev/null`)",
    );
    if arguments::is_run(arguments) {
        failed.with_code(EXIT_FAILED)
    } else {
        failed
    }
}

/// Logs go to stderr or to a file, warnings and worse by default, except that a DHT without peers is nothing to
/// warn of; `IPFS_EXEC_LOG` takes a filter such as `debug`.
fn start_logging(logging: &Logging) -> Result<(), CommandError> {
    let level = match logging.verbosity {
        0 => "warn,libp2p_kad=error",
        1 => "info,libp2p_kad=error",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("IPFS_EXEC_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(false);
    match &logging.file {
        None => builder
            .without_time()
            .with_writer(|| output::Messages)
            .init(),
        Some(path) => {
            let file = File::options().create(true).append(true).open(path);
            let file = file.map_err(|source| LocalError {
                action: "open the log",
                path: path.clone(),
                source,
            })?;
            builder.with_writer(Arc::new(file)).init();
        }
    }
    Ok(())
}
