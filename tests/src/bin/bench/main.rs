//! Measures `ipfs-exec` beside the limit of the machine, in the same minutes, and prints a table in
//! Markdown.
//!
//!     cargo run --release -p ipfs-exec-tests --bin bench -- [--rounds N] [--only NAME] [--dir DIR]
//!
//! Absolute times differ from machine to machine and from hour to hour; the ratio to what `dd`,
//! `cp`, SHA-256 or bare bubblewrap need for the same work does not. So every round measures ours
//! and theirs in turn, on the same file system, and the table shows medians of the rounds. Inputs
//! are in the page cache; each import gets a fresh repository; between two measurements everything
//! is written back and out of the way, so that none pays for the one before. Memory is touched before
//! each of the longer measurements, because a virtual machine may have given it back, and fetching it
//! again can take longer than the work. Files are removed at the end only: ext4 without a journal
//! makes new ones slowly for a minute after thousands were removed. Nothing else should run.
//!
//! The works that fetch stand beside two Kubos, which `tests/peers/install.sh DIR` installs; set
//! `IPFS_EXEC_PEERS` to that directory.

#![expect(clippy::print_stdout, reason = "the table is the data of this program")]
#![expect(
    clippy::print_stderr,
    reason = "progress of a program that takes minutes"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;

mod measure;
mod mount;
mod network;
mod sandbox;
mod storage;
mod usage;

use measure::Work;

/// Measures ipfs-exec beside the limits of this machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// Measure each work this many times (quick ones ten times as often)
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// Measure only the works whose name contains NAME; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,

    /// Keep inputs and repositories in DIR, on the disk that is to be measured [default: TMPDIR]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prepares a work with the program under test in a directory of its own.
type Maker = fn(&Path, &Path) -> Work;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let binary = release_binary();
    let parent = arguments.dir.unwrap_or_else(std::env::temp_dir);
    let place = tempfile::Builder::new()
        .prefix("ipfs-exec-bench-")
        .tempdir_in(&parent)
        .unwrap_or_else(|error| panic!("cannot work in {}: {error}", parent.display()));

    let wanted = |name: &str| {
        arguments.only.is_empty()
            || arguments
                .only
                .iter()
                .any(|only| name.contains(only.as_str()))
    };
    let makers: [(&str, Maker); 17] = [
        ("import-file", storage::import_file),
        ("import-tree", storage::import_tree),
        ("export-file", storage::export_file),
        ("export-tree", storage::export_tree),
        ("run-true", sandbox::run_true),
        ("mount-cold", mount::cold),
        ("mount-again", mount::again),
        ("mount-random", mount::random),
        ("mount-names", mount::names),
        ("mount-attributes", mount::attributes),
        ("fetch-file", network::fetch_file),
        ("fetch-file-quic", network::fetch_file_quic),
        ("fetch-file-two", network::fetch_file_two),
        ("fetch-tree", network::fetch_tree),
        ("fetch-far", network::fetch_far),
        ("first-block-tcp", network::first_block_tcp),
        ("first-block-quic", network::first_block_quic),
    ];
    let mut measured = false;
    println!("{}", measure::HEAD);
    for (name, make) in makers.iter().filter(|(name, _)| wanted(name)) {
        let place = place.path().join(name);
        std::fs::create_dir(&place).expect("the place is new and ours");
        let mut work = make(&binary, &place);
        eprintln!("{name}: {}", work.title);
        println!(
            "{}",
            measure::rows(&mut work, usize::from(arguments.rounds))
        );
        measured = true;
    }
    if measured {
        ExitCode::SUCCESS
    } else {
        eprintln!("error: no work has such a name");
        ExitCode::from(2)
    }
}

/// The program to measure: `IPFS_EXEC_BIN`, or the release build of this workspace, made now.
fn release_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("IPFS_EXEC_BIN") {
        return PathBuf::from(path);
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args([
            "build",
            "--release",
            "--package",
            "ipfs-exec",
            "--manifest-path",
        ])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"))
        .status()
        .expect("cargo started this program");
    assert!(
        built.success(),
        "cannot build ipfs-exec; or set IPFS_EXEC_BIN"
    );
    let own = std::env::current_exe().expect("a program knows its own path");
    let target = own
        .ancestors()
        .nth(2)
        .expect("cargo puts programs into TARGET/PROFILE");
    target.join("release/ipfs-exec")
}
