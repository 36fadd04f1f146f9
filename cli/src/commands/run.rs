//! `run`: the computation.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, ValueEnum};
use ipfs_exec_executor::archive::DEFAULT_BUDGET;
use ipfs_exec_executor::input::InputMode;
use ipfs_exec_executor::limits::{Limit, Limits};
use ipfs_exec_executor::mount::Observer;
use ipfs_exec_executor::run::{EXIT_FAILED, Part, keep_free};
use ipfs_exec_executor::trace::Trace;
use ipfs_exec_executor::{Job, Outcome, Run, RunError, RunOptions};
use ipfs_exec_node::limits::MAX_EXPORT_ENTRIES;
use ipfs_exec_node::network::Source;
use ipfs_exec_node::path::{ContentPath, escape};
use ipfs_exec_node::repo::{Repository, Session};
use ipfs_exec_node::unixfs::{self, ImportOptions, Imported};
use ipfs_exec_node::{Cid, KeepFree, ReadBlocks};
use rustix::fs::CWD;

use crate::content::resolve;
use crate::context::Context;
use crate::error::{CommandError, LocalError};
use crate::limits::LimitArgs;
use crate::names;
use crate::profile::ProfileArgs;
use crate::program::ProgramArgs;
use crate::progress::Progress;
use crate::report::{self, Content, Known, Sources};
use crate::rootfs::{self, LeftOut};
use crate::selection::{IgnoreArgs, Selection};
use crate::serving::{self, ServingArgs, Until};
use crate::{duration, output, signals, size};

/// Run a program in a sandbox, and print the CID of its output
///
/// Starts `/sbin/init` of the root file system ROOTFS with the arguments ARG. The program reads INPUT
/// at `/input`. It sees no other files of this machine and has no network. It can write only to
/// `/output` and `/tmp`.
///
/// When the program and all processes that it started have ended, `run` adds `/output` to the
/// repository, pins it, and prints its CID. It does so for every exit code of the program.
///
/// The standard output of the program goes to stderr. Its standard input is empty. `--stdin` gives it
/// content, and `--interactive` gives it the standard input of this command. If this command is at a
/// terminal, the program gets a terminal of its own, unless `--no-tty` is given.
#[derive(Args, Debug)]
#[command(after_long_help = HELP, override_usage = "ipfs-exec run [OPTIONS] ROOTFS INPUT [ARG]...")]
pub(crate) struct RunArgs {
    /// Root file system, input and arguments of the program. ROOTFS is an archive or a directory;
    /// ROOTFS and INPUT are content paths or local paths. The program gets each ARG unchanged
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, allow_hyphen_values = true,
          value_names = ["ROOTFS", "INPUT", "ARG"])]
    command: Vec<OsString>,

    /// Set an environment variable of the program; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    env: Vec<(OsString, OsString)>,

    /// Refuse a root file system with more bytes than this
    #[arg(long, value_name = "SIZE", default_value = "16GiB", value_parser = size::parse_nonzero)]
    max_rootfs_size: u64,

    /// Refuse a root file system with more entries than this
    #[arg(long, value_name = "NUMBER", default_value_t = DEFAULT_BUDGET.max_entries,
          value_parser = clap::value_parser!(u64).range(1..))]
    max_rootfs_entries: u64,

    /// How the program reads its input. `mount` fetches only the blocks that the program reads. `copy`
    /// fetches the whole input first. `auto` is `mount`, but copies the input to disk if this machine
    /// has no FUSE
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Mode::Auto)]
    input_mode: Mode,

    /// Record each access to the input in FILE, as one JSON object a line
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// Print to stderr the resources that the program used, and the number of input blocks that it read
    #[arg(long)]
    stats: bool,

    /// Refuse to copy an input with more bytes than this
    #[arg(long, value_name = "SIZE", default_value = "1TiB", value_parser = size::parse_nonzero)]
    max_input_size: u64,

    /// Refuse to copy an input with more files, directories and links than this
    #[arg(long, value_name = "NUMBER", default_value_t = MAX_EXPORT_ENTRIES,
          value_parser = clap::value_parser!(u64).range(1..))]
    max_input_entries: u64,

    /// Pin the output
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "true", default_missing_value = "true")]
    pin: std::primitive::bool,

    /// End with 0 if there is an output, whatever the exit code of the program is; a note shows that code
    #[arg(long)]
    ignore_exit_code: bool,

    /// Record the permissions of files in the output and in a local INPUT
    #[arg(long)]
    preserve_mode: bool,

    /// Print JSON instead of the CID
    #[arg(long)]
    json: bool,

    /// Serve the output to peers after the run: until a signal, for a time (`--serve=10m`), or until
    /// this number of peers has fetched all of it (`--serve=until=3`)
    #[arg(long, value_name = "DURATION|until=N", num_args = 0..=1, require_equals = true,
          default_missing_value = "", value_parser = parse_until, help_heading = "Serving")]
    serve: Option<Until>,

    #[command(flatten)]
    program: ProgramArgs,

    #[command(flatten)]
    limits: LimitArgs,

    #[command(flatten)]
    profile: ProfileArgs,

    #[command(flatten)]
    serving: ServingArgs,
}

/// How the program gets to its input.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    Auto,
    Mount,
    Copy,
}

impl From<Mode> for InputMode {
    fn from(mode: Mode) -> InputMode {
        match mode {
            Mode::Auto => InputMode::Auto,
            Mode::Mount => InputMode::Mount,
            Mode::Copy => InputMode::Copy,
        }
    }
}

const HELP: &str = "\
ROOTFS:
  An archive is a tar file, plain or compressed with gzip, zstd, xz or bzip2. `run` unpacks it
  once and keeps the result for later runs. A directory is mounted; `image unpack` makes one of
  an archive. `run` adds a local directory with its modes and times. It leaves out devices,
  FIFOs, sockets and other file systems that are mounted in the directory.

  The program can execute files without a recorded mode: their mode is 0555. This holds for
  ROOTFS and INPUT, so that the output of one run can be either of them in the next run.

Examples:
  ipfs-exec run $busybox $input sh -c 'tr a-z A-Z < /input/hello > /output/shout'
  ipfs-exec run --env LEVEL=3 ./rootfs.tar.gz ./data compute
  ipfs-exec run /srv/chroots/debian ./data sort /input/words
  ipfs-exec run --peer $address --serve=until=1 $rootfs $input sort /input/words
  tar c ./photos | ipfs-exec run -i $rootfs $input sh -c 'tar x -C /output'
  ipfs-exec run --memory 2GiB --timeout 10m --pids 100 $rootfs $input compute
  ipfs-exec run --entrypoint /usr/bin/sort --workdir /input $rootfs $input words

Limits:
  A program that reaches a limit is killed with all processes that it started, and has no
  output. Control groups enforce the limits if this process may make one. Otherwise `run` checks
  the processes at short intervals. `--json` shows the mechanism of each limit.

Signals:
  SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2 go to the program. After SIGTERM, SIGINT or
  SIGHUP the program has the time of `--stop-timeout` to end.

Exit codes:
  0-255    exit code of the program; 128+N if signal N killed it
  123      /output holds a file that UnixFS cannot store, such as a socket
  124      the program reached a limit of time
  125      ipfs-exec failed, or the command line is wrong
  126      the program cannot be executed
  127      the program does not exist
  137      the program reached another limit";

fn parse_variable(text: &str) -> Result<(OsString, OsString), String> {
    let (name, value) = text.split_once('=').ok_or("it has no `=`")?;
    Ok((name.into(), value.into()))
}

fn parse_until(text: &str) -> Result<Until, String> {
    if text.is_empty() {
        return Ok(Until::Signal);
    }
    match text.strip_prefix("until=") {
        Some(count) => match count.parse() {
            Ok(0) | Err(_) => Err("give a number of peers, such as until=3".to_owned()),
            Ok(count) => Ok(Until::Taken(count)),
        },
        None => duration::parse_nonzero(text).map(Until::Passed),
    }
}

pub(crate) fn run(context: &Context, arguments: &RunArgs) -> Result<ExitCode, CommandError> {
    let failed = |error| fail(arguments, error);
    let mut limits = arguments.limits.limits(&context.config.limits);
    limits.started = Some(Instant::now());
    let repository = match context.repository_until(limits.total_deadline()) {
        Ok(repository) => repository,
        Err(error) => {
            let error = out_of_time(context, &limits, error).map_err(failed)?;
            return Err(explain(arguments, &error, Sources::default()));
        }
    };
    let (outcome, sources) = compute(context, arguments, &repository, limits).map_err(failed)?;
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => return Err(explain(arguments, &error, sources)),
    };
    let failed = |error: CommandError| error.with_code(EXIT_FAILED);
    let code = report(arguments, &outcome, &sources).map_err(failed)?;
    if let Some(until) = arguments.serve {
        let root = &outcome.output.cid;
        serving::serve_until(context, &repository, &arguments.serving, root, until)
            .map_err(failed)?;
    }
    if context.interrupt.was_typed() {
        signals::die();
    }
    Ok(code)
}

/// The error of a command that could not begin to run anything.
pub(super) fn fail(arguments: &RunArgs, error: CommandError) -> CommandError {
    let error = error.with_code(EXIT_FAILED);
    report::failure(arguments.json, error, Known::default())
}

/// Everything up to the output; the outer error is one of preparation.
fn compute(
    context: &Context,
    arguments: &RunArgs,
    repository: &Repository,
    limits: Limits,
) -> Result<(Result<Outcome, RunError>, Sources), CommandError> {
    let cancel = context.interrupt.cancel();
    let progress = Progress::new(cancel.until(limits.total_deadline()));
    let keep_free =
        keep_free(&limits, repository.path()).map_err(|error| CommandError::from_chain(&error))?;
    context.with_blocks_keeping(keep_free, repository, &progress, |source| {
        let own = Own {
            context,
            limits,
            keep_free,
            progress: &progress,
        };
        let (outcome, content) = compute_from(context, arguments, repository, source, own)?;
        let fetched = source.fetched();
        Ok((outcome, Sources { content, fetched }))
    })
}

/// What holds for all parts of one run.
#[derive(Clone, Copy)]
struct Own<'o> {
    context: &'o Context,
    limits: Limits,
    keep_free: KeepFree,
    progress: &'o Progress,
}

impl Own<'_> {
    /// How a local file or directory is imported.
    fn import_options(&self) -> ImportOptions {
        let mut options = ImportOptions::default();
        options.budget.keep_free = self.keep_free;
        options.budget.deadline = self.limits.total_deadline();
        options
    }

    /// How a local file or directory is imported as the input.
    fn input_options(&self, arguments: &RunArgs) -> ImportOptions {
        ImportOptions {
            preserve_mode: arguments.preserve_mode,
            ..self.import_options()
        }
    }

    /// How a local archive or directory is imported as the root file system.
    fn rootfs_options(&self, arguments: &RunArgs) -> ImportOptions {
        let mut options = self.import_options();
        options.root_file_system = true;
        options.budget.max_bytes = arguments.max_rootfs_size;
        options.budget.max_entries = arguments.max_rootfs_entries;
        options
    }
}

/// An error that came before the run itself: the limit of time for everything, or that error.
fn out_of_time(
    context: &Context,
    limits: &Limits,
    error: CommandError,
) -> Result<RunError, CommandError> {
    let has_passed = limits
        .total_deadline()
        .is_some_and(|end| Instant::now() >= end);
    match limits.total_timeout {
        Some(allowed) if has_passed && !context.interrupt.asked() => Ok(RunError::OutOfTime {
            limit: Limit::TotalTimeout,
            allowed,
            part: Part::Content,
        }),
        _ => Err(error),
    }
}

fn compute_from(
    context: &Context,
    arguments: &RunArgs,
    repository: &Repository,
    source: &Source<'_>,
    own: Own<'_>,
) -> Result<(Result<Outcome, RunError>, Option<Content>), CommandError> {
    let [rootfs, input, program @ ..] = &arguments.command[..] else {
        return Err(CommandError::usage("ROOTFS and INPUT are missing"));
    };
    let blocks: &dyn ReadBlocks = source;
    let output = ImportOptions {
        profile: arguments.profile.profile()?,
        preserve_mode: arguments.preserve_mode,
        ..ImportOptions::default()
    };
    // Live as long as the run: what is imported for it must not be collected meanwhile.
    let find = |argument, options| content(repository, blocks, own, argument, options);
    let found = find(rootfs, own.rootfs_options(arguments))
        .and_then(|rootfs| Ok((rootfs, find(input, own.input_options(arguments))?)));
    let found = found.and_then(|content| {
        let stdin = arguments.program.stdin();
        let stdin = stdin.map(|argument| standard_input(repository, blocks, own, argument));
        Ok((content, stdin.transpose()?))
    });
    let (((rootfs, _rootfs_lease), (input, _input_lease)), stdin) = match found {
        Ok(found) => found,
        Err(error) => {
            let error = out_of_time(context, &own.limits, error)?;
            return Ok((Err(error), None));
        }
    };
    let job = Job::new(
        rootfs,
        input,
        program.to_vec(),
        arguments.env.iter().cloned(),
    )
    .and_then(|job| {
        arguments
            .program
            .complete(job, stdin.as_ref().map(|(cid, _)| *cid))
    })
    .map_err(|error| CommandError::usage(error.to_string()))?;
    let mut options = RunOptions::default();
    options.rootfs.max_bytes = arguments.max_rootfs_size;
    options.rootfs.max_entries = arguments.max_rootfs_entries;
    options.cache_cap_bytes = context.config.rootfs_cache();
    options.input.budget.max_bytes = arguments.max_input_size;
    options.input.budget.max_entries = arguments.max_input_entries;
    options.input_mode = arguments.input_mode.into();
    options.output = output;
    options.limits = own.limits;
    options.stdin = arguments.program.standard_input();
    options.stop_timeout = arguments.program.stop_timeout();
    options.pin = arguments.pin.then(String::new);
    context
        .interrupt
        .watch_all()
        .map_err(|error| CommandError::failed(format!("cannot take over signals: {error}")))?;
    let trace = Trace::default();
    let observer =
        (arguments.trace.is_some() || arguments.stats).then_some(&trace as &dyn Observer);
    if observer.is_some() && matches!(arguments.input_mode, Mode::Copy) {
        return Err(CommandError::usage(
            "what is copied cannot be traced: leave out `--input-mode copy`",
        ));
    }
    // Made first: a run is too dear for a file that cannot be written.
    let file = arguments.trace.as_deref().map(create_trace).transpose()?;
    let mut run = Run::new(repository, blocks, &job)
        .options(options)
        .caller(&context.interrupt)
        .reporter(own.progress);
    if let Some(observer) = observer {
        run = run.observer(observer);
    }
    let outcome = run.execute();
    if let Some((path, file)) = arguments.trace.as_deref().zip(file) {
        write_trace(&trace, path, file)?;
    }
    if arguments.stats {
        tell_stats(&trace, blocks)?;
    }
    Ok((outcome, Some(Content { rootfs, input })))
}

fn create_trace(path: &Path) -> Result<File, CommandError> {
    File::create(path).map_err(|error| unwritten(path, error))
}

/// Also of a run that failed: it tells what the program got to.
fn write_trace(trace: &Trace, path: &Path, file: File) -> Result<(), CommandError> {
    if trace.is_cut() {
        return Err(CommandError::failed(
            "the program touched more of its input than a trace can hold",
        ));
    }
    let mut file = BufWriter::new(file);
    trace
        .lines()
        .iter()
        .try_for_each(|line| writeln!(file, "{line}"))
        .and_then(|()| file.flush())
        .map_err(|error| unwritten(path, error))
}

fn unwritten(path: &Path, source: std::io::Error) -> CommandError {
    let (action, path) = ("write", path.to_owned());
    LocalError {
        action,
        path,
        source,
    }
    .into()
}

fn tell_stats(trace: &Trace, blocks: &dyn ReadBlocks) -> Result<(), CommandError> {
    let all = trace.blocks();
    let mut bytes = 0;
    for cid in &all {
        bytes += blocks.size(cid)?.unwrap_or(0);
    }
    output::tell_line(format_args!("input: {} blocks, {bytes} bytes", all.len()));
    Ok(())
}

/// The CID that an argument stands for; a local file or directory is imported, and stays while the
/// session lives that comes with it.
fn content<'r>(
    repository: &'r Repository,
    blocks: &dyn ReadBlocks,
    own: Own<'_>,
    argument: &OsStr,
    options: ImportOptions,
) -> Result<(Cid, Option<Session<'r>>), CommandError> {
    let parsed = argument.to_str().map(str::parse::<ContentPath>);
    let local = Path::new(argument);
    match parsed {
        Some(Ok(path)) => {
            let path = names::without_name(own.context, repository, path)?;
            Ok((resolve(blocks, &path)?, None))
        }
        _ if local.symlink_metadata().is_ok() => {
            let (cid, lease) = import(repository, own, local, options)?;
            Ok((cid, Some(lease)))
        }
        Some(Err(error)) if is_content_path(argument) => Err(error.into()),
        _ => Err(CommandError::failed(format!(
            "`{}` is neither a content path nor a local file or directory",
            escape(argument.as_bytes())
        ))
        .with_hint("give a CID, `CID/path`, `/ipfs/CID/path`, or the name of a file that exists")),
    }
}

/// As [`content`], with `-` for all of our standard input.
fn standard_input<'r>(
    repository: &'r Repository,
    blocks: &dyn ReadBlocks,
    own: Own<'_>,
    argument: &OsStr,
) -> Result<(Cid, Option<Session<'r>>), CommandError> {
    if argument != "-" {
        return content(repository, blocks, own, argument, own.import_options());
    }
    let options = own.import_options();
    let (cid, lease) = keep(repository, |session| {
        let mut stdin = std::io::stdin();
        let imported = unixfs::import_stream(session, &mut stdin, &options, own.progress)?;
        Ok(imported)
    })?;
    Ok((cid, Some(lease)))
}

/// Whether the argument says itself that it is one, and so cannot mean a local file.
fn is_content_path(argument: &OsStr) -> bool {
    let prefixes = ["/ipfs/", "/ipns/", "ipfs://", "ipns://"];
    prefixes
        .iter()
        .any(|prefix| argument.as_bytes().starts_with(prefix.as_bytes()))
}

fn import<'r>(
    repository: &'r Repository,
    own: Own<'_>,
    path: &Path,
    mut options: ImportOptions,
) -> Result<(Cid, Session<'r>), CommandError> {
    // A link that a person names stands for what it points to.
    let target = path
        .canonicalize()
        .map_err(|source| crate::error::LocalError {
            action: "find",
            path: path.to_owned(),
            source,
        })?;
    // Nothing is recorded of an archive: the tree in it is the root file system.
    options.root_file_system &= target.is_dir();
    let selection = Selection::new(Some(repository.path()), &IgnoreArgs::default())?;
    selection.check_argument(&target)?;
    let options = selection.applied(&options);
    keep(repository, |session| {
        let left_out = LeftOut::new(own.progress, &target);
        let imported = unixfs::import_path(session, CWD, &target, &options, &left_out, &mut |_| {})
            .map_err(rootfs::import_failed)?;
        left_out.finish();
        own.progress.finish();
        selection.tell_left_out();
        Ok(imported)
    })
}

/// Imports something for this run; it stays while the session lives that is given.
fn keep<'r>(
    repository: &'r Repository,
    import: impl FnOnce(&Session<'_>) -> Result<Imported, CommandError>,
) -> Result<(Cid, Session<'r>), CommandError> {
    let session = repository.session()?;
    let lease = repository.session()?;
    let imported = import(&session)?;
    lease.protect(&[imported.cid])?;
    session.commit(&[])?;
    Ok((imported.cid, lease))
}

fn report(
    arguments: &RunArgs,
    outcome: &Outcome,
    sources: &Sources,
) -> Result<ExitCode, CommandError> {
    for warning in &outcome.warnings {
        tracing::warn!("{warning}");
    }
    if outcome.more_warnings > 0 {
        tracing::warn!("{} more warnings are not shown", outcome.more_warnings);
    }
    for link in &outcome.stray_links {
        tracing::warn!("{link}");
    }
    if outcome.more_stray_links > 0 {
        let more = outcome.more_stray_links;
        tracing::warn!("{more} more links of the output lead nowhere without this run");
    }
    let code = outcome.exit.code();
    output::end_open_line();
    if arguments.json {
        output::line(report::succeeded(outcome, sources))?;
    } else {
        output::line(outcome.output.cid)?;
    }
    if arguments.stats {
        report::tell_usage(&outcome.usage, sources.fetched);
        output::tell_line(format_args!(
            "output: {} files, {} bytes",
            outcome.output_files, outcome.output.bytes
        ));
    }
    if arguments.ignore_exit_code && code != 0 {
        tracing::warn!("the program ended with exit code {code}");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(code))
}

/// The error of a run that has no output, with what is known of it.
fn explain(arguments: &RunArgs, error: &RunError, sources: Sources) -> CommandError {
    if matches!(error, RunError::Interrupted) {
        return CommandError::interrupted();
    }
    let known = Known::of(error, sources);
    if arguments.stats {
        known.tell_usage();
    }
    let mut failed = CommandError::from_chain(error).with_code(error.exit_code());
    if let Some(hint) = error.hint() {
        failed = failed.with_hint(hint);
    }
    report::failure(arguments.json, failed, known)
}
