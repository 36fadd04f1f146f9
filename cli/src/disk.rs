//! Disk space that a command leaves free: set by its argument, else by the configuration.

use std::os::fd::AsFd;
use std::path::Path;

use clap::Args;
use ipfs_exec_node::KeepFree;
use ipfs_exec_node::budget::FreeSpace;

use crate::context::Context;
use crate::error::CommandError;
use crate::size;

/// The option of commands that write much.
#[derive(Args, Debug)]
pub(crate) struct DiskArgs {
    /// Disk space that stays free [default: 1GiB, less if the disk is small or nearly full]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    keep_free: Option<u64>,
}

impl DiskArgs {
    /// What stays free on the disk that `path` is on.
    pub(crate) fn keep_free(
        &self,
        context: &Context,
        path: &Path,
    ) -> Result<KeepFree, CommandError> {
        keep_free(self.keep_free, context, path)
    }

    /// The same of the disk that an open directory is on.
    pub(crate) fn keep_free_of(
        &self,
        context: &Context,
        directory: impl AsFd,
    ) -> Result<KeepFree, CommandError> {
        let space = FreeSpace::of(directory).map_err(|error| CommandError::from_chain(&error))?;
        let wanted = self.keep_free.or(context.config.limits.keep_free());
        Ok(KeepFree::chosen(wanted, &space))
    }
}

/// What stays free on the disk that `path` is on, where a command has no option for it.
pub(crate) fn default_keep_free(context: &Context, path: &Path) -> Result<KeepFree, CommandError> {
    keep_free(None, context, path)
}

fn keep_free(
    wanted: Option<u64>,
    context: &Context,
    path: &Path,
) -> Result<KeepFree, CommandError> {
    let wanted = wanted.or(context.config.limits.keep_free());
    let space = FreeSpace::at(path)
        .map_err(|error| CommandError::from_chain(&error).about(&path.display().to_string()))?;
    Ok(KeepFree::chosen(wanted, &space))
}
