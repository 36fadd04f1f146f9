//! `ipfs-exec`: pure computation on IPFS, from the command line.
//!
//! Everything is done by the two libraries; this crate turns words into calls, and results into
//! words and exit codes.

#![deny(unsafe_code)]

mod background;
mod commands;
mod config;
mod context;
mod disk;
mod duration;
mod error;
mod limits;
mod memory;
mod output;
mod profile;
mod program;
mod progress;
mod rootfs;
mod selection;
mod serving;
mod signals;
mod size;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use ipfs_exec_executor::run::EXIT_FAILED;
use rustix::process::{Resource, getrlimit, setrlimit};

use commands::Cli;

fn main() -> ExitCode {
    let arguments = commands::as_subcommand(std::env::args_os().collect());
    let parsed = Cli::command()
        .try_get_matches_from(&arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, &arguments),
    };
    start_logging();
    allow_open_files();
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

/// Prints help where that was asked for, else what is wrong with the arguments. `run` has its own
/// code for that, since any lower one may be that of a program.
fn refuse(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    // There is nowhere to tell that stderr cannot be written.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let lenient = Cli::command()
        .ignore_errors(true)
        .try_get_matches_from(arguments);
    let run = lenient.is_ok_and(|matches| matches.subcommand_name() == Some(commands::RUN));
    ExitCode::from(if run { EXIT_FAILED } else { error::USAGE })
}

/// Logs go to stderr, warnings and worse by default, except that a DHT without peers is nothing to
/// warn of; `IPFS_EXEC_LOG` takes a filter such as
/// `debug`.
fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("IPFS_EXEC_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,libp2p_kad=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .init();
}
