//! `export`: a DAG as a CAR file.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use ipfs_exec_node::network::Source;
use ipfs_exec_node::path::ContentPath;
use ipfs_exec_node::progress::Reporter;
use ipfs_exec_node::{Cid, ReadBlocks, car};

use crate::content::resolve;
use crate::context::Context;
use crate::error::{CommandError, LocalError};
use crate::names;

/// Write a DAG as a CAR file (version 1)
#[derive(Args, Debug)]
#[command(after_long_help = "Example:\n  ipfs-exec export $output -o result.car")]
pub(crate) struct ExportArgs {
    /// Content path of the root
    path: String,

    /// Write to this file, which must not exist [default: stdout]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn export(context: &Context, arguments: ExportArgs) -> Result<(), CommandError> {
    let repository = context.repository()?;
    let path = names::path(context, &repository, &arguments.path)?;
    let progress = context.progress();
    context.with_blocks(&repository, &progress, |source| {
        write(source, &path, arguments.output.as_deref(), &progress)
    })
}

fn write(
    source: &Source<'_>,
    path: &ContentPath,
    output: Option<&Path>,
    reporter: &dyn Reporter,
) -> Result<(), CommandError> {
    let cid = resolve(source, path)?;
    source.expect_all(&cid);
    if let Some(path) = output {
        return export_to_file(source, &cid, path, reporter);
    }
    if std::io::stdout().is_terminal() {
        return Err(CommandError::usage("a CAR file is not for the terminal")
            .with_hint("name a file with `-o FILE`, or redirect stdout"));
    }
    let mut stdout = crate::output::stdout();
    car::export(source, &cid, &mut stdout, reporter)?;
    Ok(())
}

/// The file appears complete or not at all.
fn export_to_file(
    blocks: &dyn ReadBlocks,
    cid: &Cid,
    path: &Path,
    reporter: &dyn Reporter,
) -> Result<(), CommandError> {
    let failed = |action| {
        move |source| {
            CommandError::from(LocalError {
                action,
                path: path.to_owned(),
                source,
            })
        }
    };
    if path.symlink_metadata().is_ok() {
        return Err(failed("create")(std::io::ErrorKind::AlreadyExists.into()));
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}.part", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    let write = || {
        let file = File::create_new(&unfinished).map_err(failed("create"))?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        car::export(blocks, cid, &mut out, reporter)?;
        out.flush().map_err(failed("write"))?;
        std::fs::hard_link(&unfinished, path).map_err(failed("create"))
    };
    let written = write();
    let removed = std::fs::remove_file(&unfinished);
    written?;
    removed.map_err(failed("remove the unfinished copy of"))
}
