//! `run`: the computation.

use std::process::ExitCode;

use clap::Args;

use crate::context::Context;
use crate::error::CommandError;

/// Run
#[derive(Args, Debug)]
pub(crate) struct RunArgs {}

pub(crate) fn run(_context: &Context, _arguments: RunArgs) -> Result<ExitCode, CommandError> {
    Err(CommandError::failed("x"))
}
