//! `umount`: the end of a mount.

use std::path::PathBuf;

use clap::Args;
use ipfs_exec_executor::mount;

use super::mount::explain;
use crate::error::CommandError;

/// End a mount
///
/// Unmounts the directory. The process that serves the mount ends.
#[derive(Args, Debug)]
#[command(after_long_help = HELP)]
pub(crate) struct UmountArgs {
    /// Unmount even if files of the mount are open. Programs can still read the open files
    #[arg(short = 'z', long)]
    lazy: bool,

    /// Directory of the mount
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

const HELP: &str = "\
Example:
  ipfs-exec mount --background $CID /mnt
  ipfs-exec umount /mnt";

pub(crate) fn umount(arguments: &UmountArgs) -> Result<(), CommandError> {
    mount::unmount(&arguments.directory, arguments.lazy).map_err(explain)
}
