//! The order of a run, and its clean-up. All work is done elsewhere.
//!
//! ```text
//! session, leases -> rootfs -> init? -> input -> /output, /tmp -> sandbox -> import
//!                                                                    |         |
//!                    interrupted, or it cannot be set up <-----------+    clean up, commit
//! ```
//!
//! Nothing of a run outlives it but blocks, the pin of its output and the cached root file system.
//! The scratch directory is emptied here, because the program may have left trees in it that only
//! [`tree`] can remove; a process that is killed leaves it to the repository.

use std::cell::Cell;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fmt, fs, io};

use ipfs_exec_node::Cid;
use ipfs_exec_node::block::Blocks;
use ipfs_exec_node::budget::{Budget, BudgetError, FreeSpace, KeepFree};
use ipfs_exec_node::path::escape;
use ipfs_exec_node::progress::Reporter;
use ipfs_exec_node::repo::{Pin, RepoError, Repository, Session};
use ipfs_exec_node::unixfs::{
    ExportOptions, FileReader, ImportOptions, Imported, Node, UnixfsError,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::archive::{self, ArchiveError, Warning};
use crate::beneath;
use crate::caller::{Caller, DEFAULT_STOP_TIMEOUT};
use crate::input::{
    self, ExportedInput, InputError, InputKind, InputMode, InputTree, MountedInput,
};
use crate::job::{INIT, Job};
use crate::limits::{Held, Limit, Limits, Usage};
use crate::mount::{MountError, Observer, SandboxMount};
use crate::output::{self, Output, OutputError, StrayLink, WritableDirectories};
use crate::rootfs::{
    InitError, MountedRootfs, Rootfs, RootfsCache, RootfsError, RootfsOptions, TopEntry,
};
use crate::sandbox::{
    self, Bubblewrap, Conduct, Ended, Exit, HostPaths, Isolation, RootSource, SandboxError,
    StandardInput,
};
use ipfs_exec_node::tree::{self, TreeError};

/// Exit code of a run that failed by itself.
pub const EXIT_FAILED: u8 = 125;
/// Exit code of a program that left what cannot be its output.
pub const EXIT_REFUSED: u8 = 123;
/// Exit code of a program that took longer than it may.
pub const EXIT_TIME: u8 = 124;
/// Exit code of a program that was killed because of any other limit, as by SIGKILL.
pub const EXIT_KILLED: u8 = 137;
/// Exit code where `/sbin/init` cannot be executed.
pub const EXIT_NOT_EXECUTABLE: u8 = 126;
/// Exit code where there is no `/sbin/init`.
pub const EXIT_NOT_FOUND: u8 = 127;

/// Name in scratch of the directory for the stage.
const STAGE: &str = "stage";

/// What a run does beside computing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunOptions {
    /// What the archive of the root file system may take.
    pub rootfs: Budget,
    /// Bytes that the cache of root file systems may keep.
    pub cache_cap_bytes: u64,
    /// How the program gets to its input.
    pub input_mode: InputMode,
    /// Bounds on the input where it is copied.
    pub input: ExportOptions,
    /// How the output is imported. What its owner cannot read is made readable in any case: a
    /// program may leave such files behind.
    pub output: ImportOptions,
    /// What the program may use. [`Limits::keep_free`] also holds for the root file system that is
    /// unpacked, the input that is copied, and the blocks of the output.
    pub limits: Limits,
    /// Where the program's standard input comes from, unless the job names it.
    pub stdin: StandardInput,
    /// How long a program may take that the caller has asked to end by a signal.
    pub stop_timeout: Duration,
    /// Name of the pin that keeps the output; no pin where there is none.
    pub pin: Option<String>,
}

impl Default for RunOptions {
    fn default() -> RunOptions {
        RunOptions {
            rootfs: archive::DEFAULT_BUDGET,
            cache_cap_bytes: RootfsOptions::DEFAULT_CACHE_CAP_BYTES,
            input_mode: InputMode::default(),
            input: ExportOptions::default(),
            output: ImportOptions::default(),
            limits: Limits::default(),
            stdin: StandardInput::default(),
            stop_timeout: DEFAULT_STOP_TIMEOUT,
            pin: Some(String::new()),
        }
    }
}

/// What a run gave.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// What the program left in `/output`, also when it failed.
    pub output: Imported,
    /// Files, links and directories in it.
    pub output_files: u64,
    /// How the program ended.
    pub exit: Exit,
    /// What it used.
    pub usage: Usage,
    /// By what each limit was held.
    pub held: Held,
    /// What of the sandbox was the run's own.
    pub isolation: Isolation,
    /// Whether the same job gives the same output: the program had no input that the job does not name.
    pub is_repeatable: bool,
    /// What was left out of the root file system: the first warnings.
    pub warnings: Vec<Warning>,
    /// How many further warnings there were.
    pub more_warnings: u64,
    /// Links of the output that lead nowhere after the run: the first of them.
    pub stray_links: Vec<StrayLink>,
    /// How many further links of that kind there are.
    pub more_stray_links: u64,
}

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Part {
    /// The content of root file system and input is looked for or imported, before [`run`].
    Content,
    /// The root file system is fetched and unpacked.
    RootFileSystem,
    /// The input is looked for, or copied.
    Input,
    /// The program runs.
    Program,
    /// The output is imported.
    Output,
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Part::Content => "it looked for its content",
            Part::RootFileSystem => "it prepared the root file system",
            Part::Input => "it prepared the input",
            Part::Program => "the program ran",
            Part::Output => "it imported the output",
        })
    }
}

/// Why a run gave no output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The repository failed.
    #[error("cannot use the repository")]
    Repository(#[from] RepoError),
    /// The root file system could not be had.
    #[error("cannot prepare the root file system")]
    Rootfs(#[from] RootfsError),
    /// The root file system has no program.
    #[error("cannot start the program")]
    Init(#[from] InitError),
    /// The input could not be shown to the program.
    #[error("cannot use the input")]
    Input(#[from] InputError),
    /// The content for the program's standard input is no file, or cannot be read.
    #[error("cannot use {cid} as standard input")]
    StandardInput {
        /// The content.
        cid: Cid,
        /// What UnixFS says.
        #[source]
        source: UnixfsError,
    },
    /// The program could not be run.
    #[error("cannot run the program")]
    Sandbox(#[from] SandboxError),
    /// The output could not be kept.
    #[error("cannot keep the output")]
    Output(#[from] OutputError),
    /// The disk of the repository could not be looked at.
    #[error("cannot use the disk of the repository")]
    Disk(#[source] BudgetError),
    /// Time ran out. What the program itself took too long for is a [`SandboxError::Limit`].
    #[error("the run was stopped while {part}: it had taken {} s", .allowed.as_secs_f64())]
    OutOfTime {
        /// `Timeout` or `TotalTimeout`.
        limit: Limit,
        /// The time that it had.
        allowed: Duration,
        /// What was going on.
        part: Part,
    },
    /// The caller asked to stop; the program is dead.
    #[error("the run was interrupted")]
    Interrupted,
    /// The run left something behind.
    #[error("cannot clean up after the run{first}")]
    CleanUp {
        /// The error that ended the run before, if there was one.
        first: FirstError,
        /// Where removal stopped.
        #[source]
        source: TreeError,
    },
}

/// The error of a run whose clean-up failed too.
#[derive(Debug)]
pub struct FirstError(Option<Box<RunError>>);

impl FirstError {
    /// The error, if there was one.
    pub fn error(&self) -> Option<&RunError> {
        self.0.as_deref()
    }
}

impl fmt::Display for FirstError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(error) => write!(formatter, ", which failed: {error}"),
            None => Ok(()),
        }
    }
}

impl RunError {
    /// The conventional exit code: 127 where there is no program, 126 where it cannot be executed, 124
    /// where it took too long, 137 where it hit another limit, 123 where it left what cannot be an output,
    /// 125 for all else.
    pub fn exit_code(&self) -> u8 {
        match self {
            RunError::Init(InitError::NotFound { .. }) => EXIT_NOT_FOUND,
            RunError::Init(InitError::NotExecutable { .. } | InitError::Refused { .. })
            | RunError::Sandbox(SandboxError::NotExecuted(_)) => EXIT_NOT_EXECUTABLE,
            RunError::Sandbox(SandboxError::Limit { hit, .. }) if hit.limit.is_time() => EXIT_TIME,
            RunError::Sandbox(SandboxError::Limit { .. }) => EXIT_KILLED,
            RunError::OutOfTime { .. } => EXIT_TIME,
            RunError::Output(OutputError::Refused(_)) => EXIT_REFUSED,
            RunError::CleanUp { first, .. } => {
                first.error().map_or(EXIT_FAILED, RunError::exit_code)
            }
            _ => EXIT_FAILED,
        }
    }

    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            RunError::Sandbox(SandboxError::NotExecuted(_)) => Some(
                "the kernel takes 2 MiB of arguments and environment together (a quarter of `ulimit -s`): put \
                 long lists into a file of INPUT",
            ),
            RunError::Sandbox(error) => error.hint(),
            RunError::OutOfTime { limit, .. } => Some(limit.hint()),
            RunError::Init(InitError::NotFound { program, .. }) if program != INIT => {
                Some("name a program of the root file system by its absolute path")
            }
            RunError::Init(InitError::NotFound { .. }) => Some(
                "name a program with `--entrypoint`, or put a program at `/sbin/init` of the root file system: it gets the arguments that follow \
                 INPUT",
            ),
            RunError::Rootfs(RootfsError::Unpack { source, .. }) if source.hint().is_some() => {
                source.hint()
            }
            RunError::Input(InputError::Mount(error))
            | RunError::Rootfs(RootfsError::Mount(error)) => error.hint(),
            RunError::CleanUp { first, .. } => first.error().and_then(RunError::hint),
            error => error.budget_hint(),
        }
    }

    /// The option by which the bound that was reached can be changed.
    fn budget_hint(&self) -> Option<&'static str> {
        match self {
            RunError::Rootfs(
                RootfsError::Unpack {
                    source: ArchiveError::Budget(source),
                    ..
                }
                | RootfsError::Budget { source, .. },
            ) => match source {
                BudgetError::Bytes { .. } => {
                    Some("allow more with `--max-rootfs-size`, such as `--max-rootfs-size 64GiB`")
                }
                BudgetError::Entries { .. } => Some("allow more with `--max-rootfs-entries`"),
                _ => None,
            },
            RunError::Input(InputError::Content { source, .. }) => match source.budget()? {
                BudgetError::Bytes { .. } => Some("allow more with `--max-input-size`"),
                BudgetError::Entries { .. } => {
                    Some("allow more with `--max-input-entries`, or mount the input")
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Gives interruption one face, wherever it came through.
    fn normalised(self) -> RunError {
        match self {
            RunError::Rootfs(RootfsError::Interrupted { .. })
            | RunError::Sandbox(SandboxError::Interrupted) => RunError::Interrupted,
            error => error,
        }
    }
}

/// Runs `job`: reads come from `blocks`, the output goes to `repository`.
///
/// Where the `caller` wants the end, that is [`RunError::Interrupted`], with nothing kept. A program that
/// handles the caller's signal has some time to end by itself; then the run goes on. When this process is
/// killed, the program dies too. `observer` learns what the program touches of its input, which then has to be mounted.
///
/// # Errors
/// [`RunError`]. That the program failed is none: see [`Outcome::exit`].
pub fn run(
    repository: &Repository,
    blocks: &dyn Blocks,
    job: &Job,
    options: &RunOptions,
    caller: Option<&dyn Caller>,
    observer: Option<&dyn Observer>,
    reporter: &dyn Reporter,
) -> Result<Outcome, RunError> {
    let session = repository.session()?;
    let started = options.limits.started.unwrap_or_else(Instant::now);
    let run = Run {
        repository,
        session: &session,
        blocks,
        job,
        options,
        limits: Limits {
            started: Some(started),
            ..options.limits
        },
        caller,
        observer,
        reporter,
        keep_free: keep_free(&options.limits, session.scratch()).map_err(RunError::Disk)?,
        part: Cell::new(Part::RootFileSystem),
        output_deadline: Cell::new(None),
    };
    let result = run.steps().map_err(|error| run.interruption(error));
    let outcome = clean_up(&session, result)?;
    let pins = options.pin.as_ref().map(|name| {
        let mut pin = Pin::recursive(outcome.output.cid);
        pin.name.clone_from(name);
        pin
    });
    session.commit(pins.as_slice())?;
    Ok(outcome)
}

/// What all steps of a run share.
struct Run<'r> {
    repository: &'r Repository,
    session: &'r Session<'r>,
    blocks: &'r dyn Blocks,
    job: &'r Job,
    options: &'r RunOptions,
    limits: Limits,
    caller: Option<&'r dyn Caller>,
    observer: Option<&'r dyn Observer>,
    reporter: &'r dyn Reporter,
    /// What stays free on the disk of the repository.
    keep_free: KeepFree,
    /// What is going on.
    part: Cell<Part>,
    /// When the time of the program is over, once it has ended.
    output_deadline: Cell<Option<Instant>>,
}

impl Run<'_> {
    fn steps(&self) -> Result<Outcome, RunError> {
        // Found first: without it all other work would be for nothing.
        let bubblewrap = Bubblewrap::find().map_err(SandboxError::from)?;
        let content = [self.job.rootfs(), self.job.input()].into_iter();
        let content: Vec<_> = content.chain(self.job.stdin()).copied().collect();
        self.session.protect(&content)?;
        let root = self.root()?;
        let program = self.job.program();
        root.check(program)?;
        let manager = (!self.job.has_entrypoint()).then(|| root.service_manager(program));
        if let Some(manager) = manager.flatten() {
            tracing::warn!(
                "`{}` is {manager}, which manages services and does nothing with arguments: name a \
                 program with `--entrypoint`",
                escape(program.as_bytes())
            );
        }
        let directories = WritableDirectories::create(self.session.scratch())?;
        self.make_stage()?;
        self.enter(Part::Input)?;
        let mut input = self.input()?;
        self.enter(Part::Program)?;
        let mut result = self.execute(&bubblewrap, &root, &*input, &directories);
        if input.mount().is_some() && self.may_copy() && is_not_mounted(&result) {
            tracing::info!("the input cannot be mounted in the sandbox");
            drop(input);
            self.remove(input::EXPORT)?;
            input = self.copied_input()?;
            result = self.execute(&bubblewrap, &root, &*input, &directories);
        }
        // An input that failed fails the run, whatever the program made of it.
        let finished = root.finish().and(input.finish().map_err(RunError::from));
        let ended = result?;
        finished?;
        let wall = Duration::from_secs_f64(ended.usage.wall_seconds);
        let left = self
            .limits
            .timeout
            .map(|timeout| timeout.saturating_sub(wall));
        self.output_deadline
            .set(left.and_then(|left| Instant::now().checked_add(left)));
        self.enter(Part::Output)?;
        let output = self.import(&directories)?;
        Ok(Outcome {
            output: output.imported,
            output_files: output.files,
            stray_links: output.links,
            more_stray_links: output.more_links,
            exit: ended.exit,
            usage: ended.usage,
            held: ended.held,
            isolation: ended.isolation,
            is_repeatable: ended.is_repeatable,
            warnings: root.warnings().to_vec(),
            more_warnings: root.more_warnings(),
        })
    }

    /// An empty directory, on which the stage is mounted in namespaces of the sandbox's own.
    fn make_stage(&self) -> Result<(), OutputError> {
        let path = self.session.scratch().join(STAGE);
        fs::create_dir(&path).map_err(|source| OutputError::Make { path, source })
    }

    /// A directory is shown as it is, an archive is unpacked.
    fn root(&self) -> Result<Root<'_>, RootfsError> {
        let cid = self.job.rootfs();
        // The blocks of an archive may be gone once it is unpacked.
        if RootfsCache::new(self.repository).has(cid)? {
            return Ok(Root::Unpacked(Box::new(self.rootfs()?)));
        }
        let node = Node::load(self.blocks, cid)
            .map_err(|source| RootfsError::Content { cid: *cid, source })?;
        if node.kind().is_directory() {
            let mounted = MountedRootfs::new(self.blocks, cid)?;
            return Ok(Root::Mounted(Box::new(mounted)));
        }
        Ok(Root::Unpacked(Box::new(self.rootfs()?)))
    }

    fn rootfs(&self) -> Result<Rootfs, RootfsError> {
        let options = RootfsOptions {
            unpack: self.bounded(self.options.rootfs),
            cache_cap_bytes: self.options.cache_cap_bytes,
            cancel: self.caller.map(Caller::cancel),
        };
        let cid = self.job.rootfs();
        RootfsCache::new(self.repository).ensure(
            self.session,
            self.blocks,
            cid,
            &options,
            self.reporter,
        )
    }

    /// Mounted, as long as that is possible.
    fn input(&self) -> Result<Box<dyn InputTree + '_>, InputError> {
        let cid = self.job.input();
        if self.options.input_mode == InputMode::Copy {
            let budget = self.bounded(self.options.input.budget);
            input::fetch_all(self.blocks, cid, &budget, self.reporter)?;
        }
        match MountedInput::new(self.blocks, cid, self.observer) {
            Err(InputError::Mount(error))
                if self.may_copy() && matches!(*error, MountError::Device(_)) =>
            {
                tracing::info!(%error, "the input cannot be mounted");
                self.copied_input()
            }
            input => {
                tracing::info!(%cid, "the input is mounted");
                Ok(Box::new(input?))
            }
        }
    }

    fn may_copy(&self) -> bool {
        self.options.input_mode != InputMode::Mount && self.observer.is_none()
    }

    fn copied_input(&self) -> Result<Box<dyn InputTree + '_>, InputError> {
        let (scratch, cid) = (self.session.scratch(), self.job.input());
        tracing::info!(%cid, "the input is copied");
        let options = ExportOptions {
            budget: self.bounded(self.options.input.budget),
            ..self.options.input.clone()
        };
        let copied = ExportedInput::new(scratch, self.blocks, cid, &options, self.reporter)?;
        Ok(Box::new(copied))
    }

    /// The budget, with what the limits keep free on the disk, and the end of all time.
    fn bounded(&self, budget: Budget) -> Budget {
        let keep_free = KeepFree {
            bytes: self.keep_free.bytes.max(budget.keep_free.bytes),
            inodes: self.keep_free.inodes.max(budget.keep_free.inodes),
        };
        let deadlines = [budget.deadline, self.limits.total_deadline()];
        Budget {
            keep_free,
            deadline: deadlines.into_iter().flatten().min(),
            ..budget
        }
    }

    /// Removes an entry of the scratch directory.
    fn remove(&self, name: &str) -> Result<(), RunError> {
        let removed = beneath::open_root(self.session.scratch())
            .map_err(|errno| TreeError::new(b"scratch", errno))
            .and_then(|scratch| tree::remove_tree(scratch.as_fd(), name.as_bytes()));
        removed.map_err(|source| RunError::CleanUp {
            first: FirstError(None),
            source,
        })
    }

    fn execute(
        &self,
        bubblewrap: &Bubblewrap,
        root: &Root<'_>,
        input: &dyn InputTree,
        directories: &WritableDirectories,
    ) -> Result<Ended, RunError> {
        let entries = match input.kind() {
            InputKind::Directory => None,
            InputKind::File => Some(root.top_entries()?),
        };
        let stand_in = root.stand_in(input.kind())?;
        let stage = self.session.scratch().join(STAGE);
        let paths = HostPaths {
            stage: &stage,
            root: root.source(entries.as_deref(), stand_in.as_ref()),
            input: input.source(),
            writable: directories.writable(),
            work: directories.work(),
            lower: directories.lower(),
        };
        let mounts: Vec<_> = root.mount().into_iter().chain(input.mount()).collect();
        let mut content = self.stdin()?;
        match sandbox::execute(
            bubblewrap,
            self.job,
            &paths,
            &mounts,
            &self.limits,
            content.as_mut(),
            &Conduct {
                stdin: self.options.stdin,
                caller: self.caller,
                stop_timeout: self.options.stop_timeout,
            },
        ) {
            Err(SandboxError::NotExecuted(source))
                if source.kind() != io::ErrorKind::ArgumentListTooLong =>
            {
                Err(root.not_executed(self.job.program(), source).into())
            }
            Err(error) => Err(error.into()),
            // What could not be read fails the run, whatever the program made of it.
            Ok(ended) => match stand_in.and_then(|mount| mount.take_failure()) {
                Some(failure) => Err(RootfsError::Read(failure).into()),
                None => Ok(ended),
            },
        }
    }

    /// The content of the program's standard input, where the job names it.
    fn stdin(&self) -> Result<Option<FileReader<'_>>, RunError> {
        let Some(cid) = self.job.stdin() else {
            return Ok(None);
        };
        let reader = Node::load(self.blocks, cid)
            .and_then(|node| FileReader::new(self.blocks, node))
            .map_err(|source| RunError::StandardInput { cid: *cid, source })?;
        Ok(Some(reader))
    }

    fn import(&self, directories: &WritableDirectories) -> Result<Output, RunError> {
        // A program is not to blame where others have filled the disk: it does not lose its output.
        let space = FreeSpace::at(self.session.scratch()).map_err(RunError::Disk)?;
        let mut budget = self.bounded(self.options.output.budget);
        budget.keep_free = budget.keep_free.or_half(&space);
        let deadlines = [budget.deadline, self.output_deadline.get()];
        budget.deadline = deadlines.into_iter().flatten().min();
        let options = ImportOptions {
            make_readable: true,
            budget,
            ..self.options.output.clone()
        };
        Ok(directories.import(self.session, &options, self.reporter)?)
    }

    /// Goes on with a part, unless the caller asked to stop or time is over.
    fn enter(&self, part: Part) -> Result<(), RunError> {
        if self.reporter.interrupted() || has_passed(self.limits.total_deadline()) {
            return Err(RunError::Interrupted);
        }
        self.part.set(part);
        Ok(())
    }

    /// What an error means: where the caller asked to stop, or time is over, steps fail in many ways.
    fn interruption(&self, error: RunError) -> RunError {
        if self.was_cancelled() {
            return RunError::Interrupted;
        }
        let part = self.part.get();
        // The program may have hit another limit before.
        let is_hit = matches!(
            &error,
            RunError::Sandbox(SandboxError::Limit { hit, .. }) if hit.limit != Limit::TotalTimeout
        );
        let total = self
            .limits
            .total_timeout
            .filter(|_| has_passed(self.limits.total_deadline()) && !is_hit);
        if let Some(allowed) = total {
            let limit = Limit::TotalTimeout;
            return RunError::OutOfTime {
                limit,
                allowed,
                part,
            };
        }
        let timeout = self
            .limits
            .timeout
            .filter(|_| has_passed(self.output_deadline.get()));
        match timeout {
            Some(allowed) if is_out_of_time(&error) => RunError::OutOfTime {
                limit: Limit::Timeout,
                allowed,
                part,
            },
            _ if self.reporter.interrupted() => RunError::Interrupted,
            _ => error.normalised(),
        }
    }

    /// Whether the caller itself asked to stop.
    fn was_cancelled(&self) -> bool {
        self.caller.is_some_and(|caller| {
            let mut events = [PollFd::from_borrowed_fd(caller.cancel(), PollFlags::IN)];
            let now = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            poll(&mut events, Some(&now)).is_ok_and(|count| count > 0)
        })
    }
}

fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

fn is_out_of_time(error: &RunError) -> bool {
    match error {
        RunError::Output(OutputError::Import(source)) => {
            matches!(source.budget(), Some(BudgetError::Deadline))
        }
        _ => false,
    }
}

/// What stays free on the disk of `directory`, see [`Limits::kept_free`].
///
/// # Errors
/// [`BudgetError::Disk`].
pub fn keep_free(limits: &Limits, directory: &Path) -> Result<KeepFree, BudgetError> {
    Ok(limits.kept_free(&FreeSpace::at(directory)?))
}

/// What the sandbox has for `/`.
enum Root<'r> {
    Unpacked(Box<Rootfs>),
    Mounted(Box<MountedRootfs<'r>>),
}

impl Root<'_> {
    /// Where the sandbox takes it from; with its `entries`, where those are needed one by one, and with what
    /// stands in for an overlay.
    fn source<'p>(
        &'p self,
        entries: Option<&'p [TopEntry]>,
        stand_in: Option<&'p SandboxMount<'p>>,
    ) -> RootSource<'p> {
        match self {
            Root::Unpacked(rootfs) => RootSource::Unpacked {
                tree: rootfs.tree(),
                entries,
                stand_in,
            },
            Root::Mounted(_) => RootSource::Mounted { entries },
        }
    }

    fn check(&self, program: &OsStr) -> Result<(), InitError> {
        match self {
            Root::Unpacked(rootfs) => rootfs.check(program),
            Root::Mounted(rootfs) => rootfs.check(program),
        }
    }

    fn service_manager(&self, program: &OsStr) -> Option<&'static str> {
        match self {
            Root::Unpacked(rootfs) => rootfs.service_manager(program),
            Root::Mounted(rootfs) => rootfs.service_manager(program),
        }
    }

    fn not_executed(&self, program: &OsStr, source: io::Error) -> InitError {
        match self {
            Root::Unpacked(rootfs) => rootfs.not_executed(program, source),
            Root::Mounted(rootfs) => rootfs.not_executed(program, source),
        }
    }

    fn top_entries(&self) -> Result<Vec<TopEntry>, RootfsError> {
        match self {
            Root::Unpacked(rootfs) => rootfs.top_entries(),
            Root::Mounted(rootfs) => rootfs.top_entries(),
        }
    }

    /// What shows an unpacked tree where there can be no overlay.
    fn stand_in(&self, input: InputKind) -> Result<Option<SandboxMount<'_>>, RootfsError> {
        match self {
            Root::Unpacked(rootfs) => {
                rootfs.stand_in((input == InputKind::File).then_some(sandbox::INPUT))
            }
            Root::Mounted(_) => Ok(None),
        }
    }

    fn mount(&self) -> Option<&SandboxMount<'_>> {
        match self {
            Root::Unpacked(_) => None,
            Root::Mounted(rootfs) => Some(rootfs.mount()),
        }
    }

    fn warnings(&self) -> &[Warning] {
        match self {
            Root::Unpacked(rootfs) => rootfs.warnings(),
            Root::Mounted(_) => &[],
        }
    }

    fn more_warnings(&self) -> u64 {
        match self {
            Root::Unpacked(rootfs) => rootfs.more_warnings(),
            Root::Mounted(_) => 0,
        }
    }

    /// What kept the program from reading part of it.
    fn finish(&self) -> Result<(), RunError> {
        match self {
            Root::Unpacked(_) => Ok(()),
            Root::Mounted(rootfs) => match rootfs.take_failure() {
                None => Ok(()),
                Some(failure) => Err(RootfsError::Read(failure).into()),
            },
        }
    }
}

/// Whether the kernel refused a FUSE file system of the sandbox.
fn is_not_mounted(result: &Result<Ended, RunError>) -> bool {
    matches!(
        result,
        Err(RunError::Sandbox(SandboxError::Stage { is_fuse: true, .. }))
    )
}

/// Empties the scratch directory of what a run leaves there.
fn clean_up(session: &Session<'_>, result: Result<Outcome, RunError>) -> Result<Outcome, RunError> {
    match remove_leavings(session) {
        Ok(()) => result,
        Err(source) => Err(RunError::CleanUp {
            first: FirstError(result.err().map(Box::new)),
            source,
        }),
    }
}

fn remove_leavings(session: &Session<'_>) -> Result<(), TreeError> {
    let scratch =
        beneath::open_root(session.scratch()).map_err(|errno| TreeError::new(b"scratch", errno))?;
    [
        input::EXPORT,
        STAGE,
        output::WRITABLE,
        output::WORK,
        output::LOWER,
    ]
    .into_iter()
    .try_for_each(|name| tree::remove_tree(scratch.as_fd(), name.as_bytes()))
}

#[cfg(test)]
mod tests;
