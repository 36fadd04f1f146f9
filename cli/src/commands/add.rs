//! `add`: local files and directories become content.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use ipfs_exec_node::block::NoBlocks;
use ipfs_exec_node::unixfs::{self, ImportOptions, Imported, ImportedEntry, Mtime};
use ipfs_exec_node::{Pin, WriteBlocks};
use rustix::fs::CWD;
use serde_json::json;

use crate::context::Context;
use crate::disk::DiskArgs;
use crate::error::CommandError;
use crate::output;
use crate::profile::ProfileArgs;
use crate::selection::{IgnoreArgs, Selection};

/// Add files and directories, and print their CIDs
///
/// Pins each argument, and prints its CID. Kubo gives the same CID. A directory is added with all
/// entries below it; symbolic links stay links. Hidden files are added as well, as by `ipfs add -r -H`;
/// `--ignore '.*'` gives the CID of `ipfs add -r`. `add` leaves out repositories of ipfs-exec, because
/// they hold private keys.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct AddArgs {
    /// Files or directories; `-` reads the content of one file from stdin
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// No effect: directories are always added with all entries. Kubo needs this option
    #[arg(long, short)]
    recursive: bool,

    /// Print the CID of every entry
    #[arg(long, short, conflicts_with = "quieter")]
    quiet: bool,

    /// Print only the last CID
    #[arg(long, short = 'Q')]
    quieter: bool,

    /// Print one JSON object for every entry
    #[arg(long, conflicts_with_all = ["quiet", "quieter"])]
    json: bool,

    /// Only compute the CIDs, and store nothing
    #[arg(long, short = 'n')]
    only_hash: bool,

    /// Pin the added content
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "true", default_missing_value = "true")]
    pin: std::primitive::bool,

    /// Name of the pin
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pin_name: String,

    #[command(flatten)]
    ignore: IgnoreArgs,

    #[command(flatten)]
    disk: DiskArgs,

    #[command(flatten)]
    profile: ProfileArgs,

    #[command(flatten)]
    metadata: MetadataArgs,
}

const EXAMPLES: &str = "\
Examples:
  ipfs-exec add data/
  ipfs-exec add --profile unixfs-v1-2025 -Q rootfs.tar.gz
  tar c image | ipfs-exec add -";

/// What is recorded beside the content.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Metadata options")]
pub(crate) struct MetadataArgs {
    /// Record the permissions of each file and directory
    #[arg(long)]
    preserve_mode: bool,

    /// Record the modification time of each file and directory
    #[arg(long)]
    preserve_mtime: bool,

    /// Record this mode for all files and directories: an octal number such as 0644
    #[arg(long, value_name = "MODE", value_parser = parse_mode)]
    mode: Option<u32>,

    /// Record this time for all files and directories, in seconds since 1970
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    mtime: Option<i64>,

    /// Nanoseconds of `--mtime`
    #[arg(long, value_name = "NSECS", requires = "mtime",
          value_parser = clap::value_parser!(u32).range(0..1_000_000_000))]
    mtime_nsecs: Option<u32>,
}

/// Reads an octal number with a leading 0. Kubo reads `644` as a decimal number, `chmod` as an octal one:
/// a call that works in both worlds has the 0.
fn parse_mode(text: &str) -> Result<u32, String> {
    let octal = |digits: &str| {
        let is_octal = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
        let mode = is_octal.then(|| u32::from_str_radix(digits, 8).ok());
        mode.flatten().filter(|mode| *mode <= 0o7777)
    };
    let digits = text.strip_prefix("0o").or(text.strip_prefix('0'));
    match digits.and_then(|digits| {
        if digits.is_empty() {
            Some(0)
        } else {
            octal(digits)
        }
    }) {
        Some(mode) if text != "0o" => Ok(mode),
        _ if octal(text).is_some() => Err(format!("a mode is octal: write `0{text}`")),
        _ => Err("a mode is an octal number from 0 to 07777: write it as in `0644`".to_owned()),
    }
}

impl AddArgs {
    fn options(&self) -> Result<ImportOptions, CommandError> {
        let metadata = &self.metadata;
        let recorded = metadata.preserve_mode
            || metadata.preserve_mtime
            || metadata.mode.is_some()
            || metadata.mtime.is_some();
        if recorded && self.profile.raw_leaves == Some(true) {
            return Err(
                CommandError::usage("raw leaves have no place for mode and time")
                    .with_hint("leave out `--raw-leaves`, or what is to be recorded"),
            );
        }
        Ok(ImportOptions {
            profile: self.profile.profile()?,
            preserve_mode: metadata.preserve_mode,
            preserve_mtime: metadata.preserve_mtime,
            mode: metadata.mode,
            mtime: metadata.mtime.map(|seconds| Mtime {
                seconds,
                nanoseconds: metadata.mtime_nsecs.unwrap_or(0),
            }),
            ..ImportOptions::default()
        })
    }
}

pub(crate) fn add(context: &Context, arguments: AddArgs) -> Result<(), CommandError> {
    let mut options = arguments.options()?;
    if arguments.only_hash {
        let roots = add_all(context, &NoBlocks, &arguments, &options)?;
        return print_roots(&arguments, &roots);
    }
    let repository = context.repository()?;
    options.budget.keep_free = arguments.disk.keep_free(context, repository.path())?;
    let session = repository.session()?;
    let roots = add_all(context, &session, &arguments, &options)?;
    let pins: Vec<Pin> = roots
        .iter()
        .filter(|_| arguments.pin)
        .map(|(_, root)| Pin {
            name: arguments.pin_name.clone(),
            ..Pin::recursive(root.cid)
        })
        .collect();
    session.commit(&pins)?;
    // Not before it is safe on disk.
    print_roots(&arguments, &roots)
}

type Roots = Vec<(PathBuf, Imported)>;

fn add_all(
    context: &Context,
    blocks: &dyn WriteBlocks,
    arguments: &AddArgs,
    options: &ImportOptions,
) -> Result<Roots, CommandError> {
    let progress = context.progress();
    let selection = Selection::new(context.repository_path(), &arguments.ignore)?;
    let options = &selection.applied(options);
    let mut roots = Vec::with_capacity(arguments.paths.len());
    for path in &arguments.paths {
        let imported = if path.as_os_str() == "-" {
            unixfs::import_stream(blocks, &mut std::io::stdin(), options, &progress)?
        } else {
            selection.check_argument(path)?;
            let mut lines = EntryLines::new(arguments, path);
            let imported =
                unixfs::import_path(blocks, CWD, path, options, &progress, &mut |entry| {
                    lines.print(&entry);
                })?;
            lines.outcome?;
            imported
        };
        roots.push((path.clone(), imported));
    }
    progress.finish();
    selection.tell_left_out();
    Ok(roots)
}

/// Prints what is below a root while it is added.
struct EntryLines<'a> {
    arguments: &'a AddArgs,
    root: &'a Path,
    outcome: std::io::Result<()>,
}

impl<'a> EntryLines<'a> {
    fn new(arguments: &'a AddArgs, root: &'a Path) -> EntryLines<'a> {
        EntryLines {
            arguments,
            root,
            outcome: Ok(()),
        }
    }

    fn print(&mut self, entry: &ImportedEntry) {
        let below = !entry.path.as_os_str().is_empty();
        if below && self.outcome.is_ok() && (self.arguments.quiet || self.arguments.json) {
            let path = self.root.join(&entry.path);
            self.outcome = print_entry(self.arguments, &path, &entry.imported);
        }
    }
}

fn print_entry(arguments: &AddArgs, path: &Path, imported: &Imported) -> std::io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    if arguments.json {
        output::line(json!({
            "cid": imported.cid.to_string(),
            "name": output::json_text(path.as_os_str().as_bytes()),
            "size": imported.bytes,
            "cumulative_size": imported.cumulative_bytes,
        }))
    } else {
        output::line(imported.cid)
    }
}

fn print_roots(arguments: &AddArgs, roots: &Roots) -> Result<(), CommandError> {
    let skipped = if arguments.quieter {
        roots.len().saturating_sub(1)
    } else {
        0
    };
    for (path, imported) in roots.iter().skip(skipped) {
        print_entry(arguments, path, imported)?;
    }
    std::io::stdout().flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::parse_mode;

    /// `--mode 644` recorded the decimal number 644, which is 01204.
    #[test]
    fn modes_are_octal_and_say_so() {
        for (text, mode) in [
            ("0", 0),
            ("0644", 0o644),
            ("0o755", 0o755),
            ("07777", 0o7777),
        ] {
            assert_eq!(parse_mode(text), Ok(mode), "{text}");
        }
        for (text, hint) in [
            ("644", "`0644`"),
            ("7777", "`07777`"),
            ("999", "`0644`"),
            ("0999", "`0644`"),
            ("0x1ff", "`0644`"),
            ("010000", "07777"),
            ("0o", "`0644`"),
            ("", "`0644`"),
            ("-1", "`0644`"),
            ("0+7", "`0644`"),
            ("u=rw", "`0644`"),
        ] {
            let error = parse_mode(text).unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }
}
