//! `cat`: the content of files on stdout.

use std::io::Write;

use clap::Args;
use ipfs_exec_node::network::Source;
use ipfs_exec_node::unixfs::FileReader;
use ipfs_exec_node::{ContentPath, ReadBlocks};

use crate::content::resolve;
use crate::context::Context;
use crate::error::CommandError;
use crate::names;
use crate::size;
use ipfs_exec_node::progress::Quiet;

/// Write the content of files to stdout
#[derive(Args, Debug)]
#[command(
    after_long_help = "Example:\n  ipfs-exec cat QmeugpFaBp7aafV2uN7GC3E2GbAycnEU3c2Q3FS7mSLbo4/test"
)]
pub(crate) struct CatArgs {
    /// Content paths of files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,

    /// Start at this byte of the first file
    #[arg(
        long,
        short,
        value_name = "BYTES",
        default_value = "0",
        hide_default_value = true,
        value_parser = size::parse
    )]
    offset: u64,

    /// Write at most this number of bytes
    #[arg(long, short, value_name = "BYTES", value_parser = size::parse)]
    length: Option<u64>,
}

pub(crate) fn cat(context: &Context, arguments: CatArgs) -> Result<(), CommandError> {
    let repository = context.repository()?;
    let paths = names::paths(context, &repository, &arguments.paths)?;
    context.with_blocks(
        &repository,
        &Quiet(context.interrupt.cancel().clone()),
        |source| write(context, &arguments, &paths, source),
    )
}

fn write(
    context: &Context,
    arguments: &CatArgs,
    paths: &[ContentPath],
    source: &Source<'_>,
) -> Result<(), CommandError> {
    use std::io::Seek;
    let mut offset = arguments.offset;
    let mut left = arguments.length.unwrap_or(u64::MAX);
    let mut stdout = std::io::stdout().lock();
    for path in paths {
        let cid = resolve(source, path)?;
        // A part of a file does not need all of it.
        if arguments.offset == 0 && arguments.length.is_none() {
            source.expect_all(&cid);
        }
        let mut file = FileReader::open(source, &cid)?;
        let skipped = offset.min(file.size());
        offset -= skipped;
        if skipped > 0 {
            file.seek(std::io::SeekFrom::Start(skipped))?;
        }
        while left > 0 {
            let bytes = file.next_bytes()?;
            if bytes.is_empty() || context.interrupt.asked() {
                break;
            }
            let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            stdout.write_all(&bytes[..count])?;
            left -= count as u64;
        }
    }
    stdout.flush()?;
    if context.interrupt.asked() {
        Err(CommandError::interrupted())
    } else {
        Ok(())
    }
}
