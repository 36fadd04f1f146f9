//! `ipfs-exec`: pure computation on IPFS, from the command line.
//!
//! Everything is done by the two libraries; this crate turns words into calls, and results into
//! words and exit codes.

#![forbid(unsafe_code)]

mod commands;
mod context;
mod error;
mod output;
mod profile;
mod progress;
mod signals;
mod size;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use commands::Cli;

/// Blocks come and go by the hundred kilobytes; the system's allocator would return their pages
/// and fault them in again each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = commands::as_subcommand(std::env::args_os().collect::<Vec<OsString>>());
    let matches = match Cli::command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => error.exit(),
    };
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    start_logging();
    match cli.execute() {
        Ok(code) => code,
        Err(error) => error.report(),
    }
}

/// Logs go to stderr, warnings and worse by default; `IPFS_EXEC_LOG` takes a filter such as
/// `debug`.
fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("IPFS_EXEC_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .init();
}
