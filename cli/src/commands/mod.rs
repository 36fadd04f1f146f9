//! The commands: each file parses its arguments, calls the libraries and prints.

mod add;
mod cat;
mod diff;
mod doctor;
mod export;
mod fetch;
mod gc;
mod get;
mod id;
mod image;
mod import;
mod key;
mod ls;
mod ls_r;
mod merge;
mod mkdir;
mod mount;
mod name;
mod peers;
mod pin;
mod provide;
mod repo;
mod run;
mod serve;
mod stat;
mod umount;
mod verify;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::api_mount;
use crate::context::{Context, GlobalArgs};
use crate::error::CommandError;

/// Run programs on IPFS content in a sandbox
///
/// `ipfs-exec run` takes a root file system and an input, each by its content address. It runs a
/// program of the root file system in a sandbox without a network. Then it prints the content address
/// of the files that the program wrote. ipfs-exec needs no daemon and no other IPFS program.
#[derive(Debug, Parser)]
#[command(name = "ipfs-exec", version, max_term_width = 100, after_long_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: GlobalArgs,

    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  Add a root file system and an input, and run a program on them:
    rootfs=$(ipfs-exec add rootfs.tar.gz)
    input=$(ipfs-exec add data/)
    output=$(ipfs-exec run $rootfs $input sh -c 'sort /input/words > /output/sorted')
    ipfs-exec cat $output/sorted

Exit codes: 0 if the command succeeds, 1 if it fails, 2 if the command line is wrong. `run` ends
with the exit code of the program; see `ipfs-exec run --help`.";

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::RunArgs>),
    Add(add::AddArgs),
    Cat(cat::CatArgs),
    Get(get::GetArgs),
    Ls(ls::LsArgs),
    LsR(ls_r::LsRArgs),
    Diff(diff::DiffArgs),
    Merge(merge::MergeArgs),
    Stat(stat::StatArgs),
    Mkdir(mkdir::MkdirArgs),
    Mount(mount::MountArgs),
    Umount(umount::UmountArgs),
    Pin(pin::PinArgs),
    Key(key::KeyArgs),
    Name(name::NameArgs),
    Image(image::ImageArgs),
    Import(import::ImportArgs),
    Export(export::ExportArgs),
    Fetch(fetch::FetchArgs),
    Serve(serve::ServeArgs),
    Provide(provide::ProvideArgs),
    Peers(peers::PeersArgs),
    Id(id::IdArgs),
    Gc(gc::GcArgs),
    Verify(verify::VerifyArgs),
    Repo(repo::RepoArgs),
    Doctor(doctor::DoctorArgs),
}

/// What is reported, and where.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logging {
    /// How often more was asked for.
    pub(crate) verbosity: u8,
    /// The file that messages are appended to; standard error without one.
    pub(crate) file: Option<PathBuf>,
}

impl Cli {
    /// What the command reports beside its results.
    pub(crate) fn logging(&self) -> Logging {
        match &self.command {
            Command::Mount(arguments) => arguments.logging(),
            _ => Logging::default(),
        }
    }

    pub(crate) fn execute(self) -> Result<ExitCode, CommandError> {
        if let Command::Doctor(arguments) = &self.command {
            let (context, configuration) = Context::examined(&self.global)?;
            return doctor::doctor(&context, configuration, arguments);
        }
        let context = Context::new(&self.global).map_err(|error| match &self.command {
            Command::Run(arguments) => run::fail(arguments, error),
            _ => error,
        })?;
        let done = |()| ExitCode::SUCCESS;
        match self.command {
            Command::Run(arguments) => run::run(&context, &arguments),
            Command::Add(arguments) => add::add(&context, arguments).map(done),
            Command::Cat(arguments) => cat::cat(&context, arguments).map(done),
            Command::Get(arguments) => get::get(&context, arguments).map(done),
            Command::Ls(arguments) => ls::ls(&context, arguments).map(done),
            Command::Diff(arguments) => diff::diff(&context, &arguments),
            Command::LsR(arguments) => ls_r::ls_r(&context, &arguments).map(done),
            Command::Merge(arguments) => merge::merge(&context, &arguments).map(done),
            Command::Stat(arguments) => stat::stat(&context, arguments).map(done),
            Command::Mkdir(arguments) => mkdir::mkdir(&context, arguments).map(done),
            Command::Mount(arguments) => mount::mount(&context, &arguments),
            Command::Umount(arguments) => umount::umount(&arguments).map(done),
            Command::Pin(arguments) => pin::pin(&context, arguments).map(done),
            Command::Key(arguments) => key::key(&context, arguments).map(done),
            Command::Name(arguments) => name::name(&context, arguments).map(done),
            Command::Image(arguments) => image::image(&context, arguments).map(done),
            Command::Import(arguments) => import::import(&context, arguments).map(done),
            Command::Export(arguments) => export::export(&context, arguments).map(done),
            Command::Fetch(arguments) => fetch::fetch(&context, arguments).map(done),
            Command::Serve(arguments) => serve::serve(&context, arguments).map(done),
            Command::Provide(arguments) => provide::provide(&context, arguments).map(done),
            Command::Peers(arguments) => peers::peers(&context, arguments).map(done),
            Command::Id(arguments) => id::id(&context, arguments).map(done),
            Command::Gc(arguments) => gc::gc(&context, arguments).map(done),
            Command::Verify(arguments) => verify::verify(&context, arguments).map(done),
            Command::Repo(arguments) => repo::repo(&context, arguments).map(done),
            Command::Doctor(_) => unreachable!("the doctor has its own context"),
        }
    }
}

/// Name of the subcommand that runs programs.
pub(crate) const RUN: &str = "run";

/// Called under the name of one of the tools that it replaces, the program takes that tool's
/// arguments.
///
/// # Errors
/// Where a tool with options of its own does not take the arguments.
pub(crate) fn as_subcommand(mut arguments: Vec<OsString>) -> Result<Vec<OsString>, clap::Error> {
    let called = arguments
        .first()
        .and_then(|path| Path::new(path).file_name());
    let words: &[&str] = match called.and_then(|name| name.to_str()) {
        // The original passed its standard input on, and had no use for the exit code of the program.
        Some("ipfs-execute") => &[RUN, "--interactive", "--ignore-exit-code"],
        Some("ipfs-ls-r") => &["ls-r"],
        Some("ipfs-merge") => &["merge"],
        Some("ipfs-mkdir") => &["mkdir"],
        Some("ipfs-publish-swap") => &["name", "swap"],
        Some("ipfs-orphans") => &["pin", "orphans"],
        Some("ipfs-api-mount") => return with_name(api_mount::one(&arguments)?),
        Some("ipfs-api-mount-whole") => return with_name(api_mount::whole(&arguments)?),
        _ => return Ok(arguments),
    };
    let words = ["ipfs-exec"].iter().chain(words).map(OsString::from);
    let words: Vec<OsString> = words.collect();
    arguments.splice(0..1, words);
    Ok(arguments)
}

fn with_name(mut words: Vec<OsString>) -> Result<Vec<OsString>, clap::Error> {
    words.insert(0, "ipfs-exec".into());
    Ok(words)
}
