//! Adds a file or directory to a repository, and reads what a content path names: the node library
//! alone.
//!
//!     cargo run -p ipfs-exec-examples --bin add_and_cat -- REPOSITORY add PATH
//!     cargo run -p ipfs-exec-examples --bin add_and_cat -- REPOSITORY cat CID/NAME

#![expect(clippy::print_stdout, reason = "the CID is the data of this program")]

use std::env;
use std::error::Error;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use ipfs_exec_node::progress::Silent;
use ipfs_exec_node::unixfs::{self, FileReader, ImportOptions};
use ipfs_exec_node::{Cid, ContentPath, Pin, Repository};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [repository, "add", path] => {
            println!(
                "{}",
                add(&Repository::open(repository.as_ref())?, path.as_ref())?
            );
            Ok(())
        }
        [repository, "cat", path] => cat(&Repository::open(repository.as_ref())?, path),
        _ => Err("usage: add_and_cat REPOSITORY add PATH | cat CID[/NAME]...".into()),
    }
}

/// Imports `path` and pins it. Blocks and pin are on disk, together, when this returns.
fn add(repository: &Repository, path: &Path) -> Result<Cid, Box<dyn Error>> {
    let session = repository.session()?;
    let here = std::fs::File::open(".")?;
    let options = ImportOptions::default();
    let imported =
        unixfs::import_path(&session, here.as_fd(), path, &options, &Silent, &mut |_| {})?;
    session.commit(&[Pin::recursive(imported.cid)])?;
    Ok(imported.cid)
}

/// Writes the file that `path` names to standard output.
fn cat(repository: &Repository, path: &str) -> Result<(), Box<dyn Error>> {
    let path: ContentPath = path.parse()?;
    let cid = unixfs::resolve(repository, &path)?;
    let mut file = FileReader::open(repository, &cid)?;
    io::copy(&mut file, &mut io::stdout().lock())?;
    Ok(())
}
