//! Runs a program in the sandbox and prints the CID of its output: both libraries.
//!
//!     cargo run -p ipfs-exec-examples --bin run_job -- REPOSITORY ROOTFS INPUT [ARG...]

#![expect(clippy::print_stdout, reason = "the CID is the data of this program")]

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;

use ipfs_exec_executor::{Job, Run};
use ipfs_exec_node::{Repository, unixfs};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut words = env::args().skip(1);
    let (Some(repository), Some(rootfs), Some(input)) = (words.next(), words.next(), words.next())
    else {
        return Err("usage: run_job REPOSITORY ROOTFS INPUT [ARG...]".into());
    };
    let repository = Repository::open(repository.as_ref())?;

    // A job names everything by CID: paths are resolved before.
    let rootfs = unixfs::resolve(&repository, &rootfs.parse()?)?;
    let input = unixfs::resolve(&repository, &input.parse()?)?;
    let variables = [(OsString::from("GREETING"), OsString::from("hello"))];
    let job = Job::new(
        rootfs,
        input,
        words.map(OsString::from).collect(),
        variables,
    )?;

    let outcome = Run::new(&repository, &repository, &job).execute()?;
    println!("{}", outcome.output.cid);
    Ok(ExitCode::from(outcome.exit.code()))
}
