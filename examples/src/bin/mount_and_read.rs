//! Mounts a directory for as long as a value lives, and lists it as any program would.
//!
//!     cargo run -p ipfs-exec-examples --bin mount_and_read -- REPOSITORY CID DIRECTORY

#![expect(
    clippy::print_stdout,
    reason = "the names are the data of this program"
)]

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::thread;

use ipfs_exec_executor::mount::{self, Mount, Top, Unobserved};
use ipfs_exec_node::cancel::NEVER;
use ipfs_exec_node::{Cid, ReadBlocks, Repository};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [repository, cid, directory] = &arguments[..] else {
        return Err("usage: mount_and_read REPOSITORY CID DIRECTORY".into());
    };
    let repository = Repository::open(repository.as_ref())?;
    with_mount(&repository, &cid.parse()?, directory.as_ref(), |place| {
        for entry in fs::read_dir(place)? {
            println!("{}", entry?.file_name().display());
        }
        Ok(())
    })
}

/// Calls `work` with the directory at which `cid` is mounted. The mount is gone when this returns.
fn with_mount(
    blocks: &dyn ReadBlocks,
    cid: &Cid,
    directory: &Path,
    work: impl FnOnce(&Path) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let mount = Mount::new(blocks, Top::Dag(cid), directory, false, &Unobserved)?;
    thread::scope(|scope| {
        let serving = scope.spawn(|| mount.serve(&NEVER));
        let outcome = work(mount.directory());
        // The server ends when the directory is unmounted, and the last open file in it is closed.
        mount::unmount(mount.directory(), true)?;
        serving.join().map_err(|_| "the server has panicked")??;
        outcome
    })
}
