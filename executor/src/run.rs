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
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread::Scope;
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

use ipfs_exec_node::block::ReadBlocks;
use ipfs_exec_node::budget::{Budget, BudgetError, FreeSpace, KeepFree};
use ipfs_exec_node::path::escape;
use ipfs_exec_node::progress::{Reporter, Silent};
use ipfs_exec_node::repo::{Pin, Repository, Session};
use ipfs_exec_node::tree::{self, TreeError};
use ipfs_exec_node::unixfs::{ExportOptions, FileReader, ImportOptions, Imported, Node};

use crate::archive::{self, Warning};
use crate::beneath;
use crate::caller::{Caller, DEFAULT_STOP_TIMEOUT};
use crate::input::{
    self, ExportedInput, InputError, InputKind, InputMode, InputTree, MountedInput,
};
use crate::job::Job;
use crate::limits::{Held, Limits, Usage};
use crate::mount::{MountError, Observer};
use crate::output::{self, Output, StrayLink, WritableDirectories};
use crate::rootfs::{MountedRootfs, RootTree, Rootfs, RootfsCache, RootfsError, RootfsOptions};
use crate::sandbox::{
    self, Bubblewrap, Conduct, Ended, Exit, HostPaths, Isolation, SandboxError, StandardInput,
};

use self::clock::Clock;
pub use self::clock::Part;
pub use self::error::{
    EXIT_FAILED, EXIT_KILLED, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, EXIT_REFUSED, EXIT_TIME,
    FirstError, RunError,
};

mod clock;
mod error;

/// Entries of scratch that are needed until the output is imported, and until the program has ended.
const OUTPUT: [&str; 1] = [output::WRITABLE];
const NOT_OUTPUT: [&str; 3] = [input::EXPORT, output::WORK, output::LOWER];

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

/// A run of a job, to be started by [`Run::execute`].
///
/// ```no_run
/// # use ipfs_exec_executor::{Job, Run};
/// # use ipfs_exec_node::{Cancel, Repository};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (repository, job): (Repository, Job) = todo!();
/// # let cancel = Cancel::default();
/// let run = Run::new(&repository, &repository, &job).caller(&cancel);
/// println!("{}", run.execute()?.output.cid);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a run begins with `execute`"]
pub struct Run<'r> {
    repository: &'r Repository,
    blocks: &'r dyn ReadBlocks,
    job: &'r Job,
    options: RunOptions,
    caller: Option<&'r dyn Caller>,
    observer: Option<&'r dyn Observer>,
    reporter: &'r dyn Reporter,
}

impl<'r> Run<'r> {
    /// The run reads from `blocks` and writes its output to `repository`. It has no caller, no observer and a
    /// silent reporter.
    pub fn new(repository: &'r Repository, blocks: &'r dyn ReadBlocks, job: &'r Job) -> Run<'r> {
        Run {
            repository,
            blocks,
            job,
            options: RunOptions::default(),
            caller: None,
            observer: None,
            reporter: &Silent,
        }
    }

    /// Sets limits, budgets, the pin and the other options.
    pub fn options(mut self, options: RunOptions) -> Run<'r> {
        self.options = options;
        self
    }

    /// Sets the caller, which may end the run, and whose signals and terminal the program gets.
    pub fn caller(mut self, caller: &'r dyn Caller) -> Run<'r> {
        self.caller = Some(caller);
        self
    }

    /// Sets the observer of the files that the program touches in its input. The input then has to be mounted.
    pub fn observer(mut self, observer: &'r dyn Observer) -> Run<'r> {
        self.observer = Some(observer);
        self
    }

    /// Sets the receiver of progress. Its [`Reporter::cancel`] ends the parts of the run beside the program.
    pub fn reporter(mut self, reporter: &'r dyn Reporter) -> Run<'r> {
        self.reporter = reporter;
        self
    }

    /// Runs the job.
    ///
    /// If the caller ends the run, the result is [`RunError::Interrupted`], and nothing is kept. A program that
    /// handles the caller's signal has some time to end by itself; then the run goes on. When this process is
    /// killed, the program dies too.
    ///
    /// # Errors
    /// [`RunError`]. That the program failed is none: see [`Outcome::exit`].
    pub fn execute(&self) -> Result<Outcome, RunError> {
        let session = self.repository.session()?;
        let started = self.options.limits.started.unwrap_or_else(Instant::now);
        let limits = Limits {
            started: Some(started),
            ..self.options.limits
        };
        let underway = Underway {
            run: self,
            session: &session,
            limits,
            clock: Clock::start(&limits),
            removed: Cell::new(None),
            keep_free: keep_free(&limits, session.scratch()).map_err(RunError::Disk)?,
        };
        let outcome = thread::scope(|scope| {
            let steps = underway.steps(scope);
            let result = steps.map_err(|error| underway.interruption(error));
            underway.clean_up(result)
        })?;
        let pins = self.options.pin.as_ref().map(|name| {
            let mut pin = Pin::recursive(outcome.output.cid);
            pin.name.clone_from(name);
            pin
        });
        session.commit(pins.as_slice())?;
        Ok(outcome)
    }
}

impl fmt::Debug for Run<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("Run");
        debug
            .field("job", &self.job)
            .field("options", &self.options);
        debug.finish_non_exhaustive()
    }
}

/// What all steps of a run share.
struct Underway<'r> {
    run: &'r Run<'r>,
    session: &'r Session<'r>,
    limits: Limits,
    clock: Clock,
    /// Tells the result of the early removal, if there was one.
    removed: Cell<Option<Receiver<Result<(), TreeError>>>>,
    /// What stays free on the disk of the repository.
    keep_free: KeepFree,
}

impl<'r> Underway<'r> {
    fn steps<'s>(&self, scope: &'s Scope<'s, '_>) -> Result<Outcome, RunError>
    where
        'r: 's,
    {
        // Found first: without it all other work would be for nothing.
        let bubblewrap = Bubblewrap::find().map_err(SandboxError::from)?;
        let content = [self.run.job.rootfs(), self.run.job.input()].into_iter();
        let content: Vec<_> = content.chain(self.run.job.stdin()).copied().collect();
        self.session.protect(&content)?;
        let root = self.root()?;
        let program = self.run.job.program();
        root.check(program)?;
        let manager = (!self.run.job.has_entrypoint()).then(|| root.service_manager(program));
        if let Some(manager) = manager.flatten() {
            tracing::warn!(
                "`{}` is {manager}, which manages services and does nothing with arguments: name a \
                 program with `--entrypoint`",
                escape(program.as_bytes())
            );
        }
        let directories = WritableDirectories::create(self.session.scratch())?;
        self.enter(Part::Input)?;
        let mut input = self.input()?;
        self.enter(Part::Program)?;
        let is_fuse_refused = |result: &Result<_, RunError>| {
            let error = result.as_ref().err();
            error.is_some_and(RunError::is_fuse_refused)
        };
        let mut result = self.execute(&bubblewrap, &*root, &*input, &directories);
        if input.mount().is_some() && self.may_copy() && is_fuse_refused(&result) {
            tracing::info!("the input cannot be mounted in the sandbox");
            drop(input);
            self.remove(input::EXPORT)?;
            input = self.copied_input()?;
            result = self.execute(&bubblewrap, &*root, &*input, &directories);
        }
        // An input that failed fails the run, whatever the program made of it.
        let finished = root.finish().map_err(RunError::from);
        let finished = finished.and(input.finish().map_err(RunError::from));
        let ended = result?;
        finished?;
        self.clock.program_ended(ended.usage.wall_seconds);
        self.enter(Part::Output)?;
        self.remove_early(scope);
        let output = self.import(&directories)?;
        let (warnings, more_warnings) = root.warnings();
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
            warnings: warnings.to_vec(),
            more_warnings,
        })
    }

    /// A directory is shown as it is, an archive is unpacked.
    fn root(&self) -> Result<Box<dyn RootTree + '_>, RootfsError> {
        let (blocks, cid) = (self.run.blocks, self.run.job.rootfs());
        // The blocks of an archive may be gone once it is unpacked.
        if !RootfsCache::new(self.run.repository).has(cid)? {
            let node = Node::load(blocks, cid)
                .map_err(|source| RootfsError::Content { cid: *cid, source })?;
            if node.kind().is_directory() {
                return Ok(Box::new(MountedRootfs::new(blocks, cid)?));
            }
        }
        Ok(Box::new(self.rootfs()?))
    }

    fn rootfs(&self) -> Result<Rootfs, RootfsError> {
        let options = RootfsOptions {
            unpack: self.bounded(self.run.options.rootfs),
            cache_cap_bytes: self.run.options.cache_cap_bytes,
        };
        let cid = self.run.job.rootfs();
        RootfsCache::new(self.run.repository).ensure(
            self.session,
            self.run.blocks,
            cid,
            &options,
            self.run.reporter,
        )
    }

    /// Mounted, as long as that is possible.
    fn input(&self) -> Result<Box<dyn InputTree + '_>, InputError> {
        let cid = self.run.job.input();
        if self.run.options.input_mode == InputMode::Copy {
            let budget = self.bounded(self.run.options.input.budget);
            input::fetch_all(self.run.blocks, cid, &budget, self.run.reporter)?;
        }
        match MountedInput::new(self.run.blocks, cid, self.run.observer) {
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
        self.run.options.input_mode != InputMode::Mount && self.run.observer.is_none()
    }

    fn copied_input(&self) -> Result<Box<dyn InputTree + '_>, InputError> {
        let (scratch, cid) = (self.session.scratch(), self.run.job.input());
        tracing::info!(%cid, "the input is copied");
        let options = ExportOptions {
            budget: self.bounded(self.run.options.input.budget),
            ..self.run.options.input.clone()
        };
        let copied =
            ExportedInput::new(scratch, self.run.blocks, cid, &options, self.run.reporter)?;
        Ok(Box::new(copied))
    }

    /// The budget, with what the limits keep free on the disk, and the end of all time.
    fn bounded(&self, budget: Budget) -> Budget {
        let keep_free = KeepFree {
            bytes: self.keep_free.bytes.max(budget.keep_free.bytes),
            inodes: self.keep_free.inodes.max(budget.keep_free.inodes),
        };
        let deadlines = [budget.deadline, self.clock.total_deadline()];
        Budget {
            keep_free,
            deadline: deadlines.into_iter().flatten().min(),
            ..budget
        }
    }

    /// Removes an entry of the scratch directory.
    fn remove(&self, name: &str) -> Result<(), RunError> {
        remove_leavings(self.session.scratch(), &[name]).map_err(|source| RunError::CleanUp {
            first: FirstError(None),
            source,
        })
    }

    fn execute(
        &self,
        bubblewrap: &Bubblewrap,
        root: &dyn RootTree,
        input: &dyn InputTree,
        directories: &WritableDirectories,
    ) -> Result<Ended, RunError> {
        let covered = (input.kind() == InputKind::File).then_some(sandbox::INPUT);
        let entries = covered.map(|_| root.top_entries()).transpose()?;
        let stand_in = root.stand_in(covered)?;
        // It is mounted over this directory in namespaces of its own, where nothing reads blocks. A directory
        // made for it would take as long to remove as two mounts.
        let stage = self.run.repository.blocks_directory();
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
            self.run.job,
            &paths,
            &mounts,
            &self.limits,
            content.as_mut(),
            &Conduct {
                stdin: self.run.options.stdin,
                caller: self.run.caller,
                stop_timeout: self.run.options.stop_timeout,
            },
        ) {
            Err(SandboxError::NotExecuted(source))
                if source.kind() != io::ErrorKind::ArgumentListTooLong =>
            {
                Err(root.not_executed(self.run.job.program(), source).into())
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
        let Some(cid) = self.run.job.stdin() else {
            return Ok(None);
        };
        let reader = Node::load(self.run.blocks, cid)
            .and_then(|node| FileReader::new(self.run.blocks, node))
            .map_err(|source| RunError::StandardInput { cid: *cid, source })?;
        Ok(Some(reader))
    }

    fn import(&self, directories: &WritableDirectories) -> Result<Output, RunError> {
        // A program is not to blame where others have filled the disk: it does not lose its output.
        let space = FreeSpace::at(self.session.scratch()).map_err(RunError::Disk)?;
        let mut budget = self.bounded(self.run.options.output.budget);
        budget.keep_free = budget.keep_free.or_half(&space);
        let deadlines = [budget.deadline, self.clock.output_deadline()];
        budget.deadline = deadlines.into_iter().flatten().min();
        let options = ImportOptions {
            make_readable: true,
            budget,
            ..self.run.options.output.clone()
        };
        Ok(directories.import(self.session, &options, self.run.reporter)?)
    }

    /// Goes on with a part, unless the caller asked to stop or time is over.
    fn enter(&self, part: Part) -> Result<(), RunError> {
        if self.run.reporter.cancel().is_cancelled() || self.clock.is_over() {
            return Err(RunError::Interrupted);
        }
        self.clock.enter(part);
        Ok(())
    }

    /// What an error means: where the caller asked to stop, or time is over, steps fail in many ways.
    fn interruption(&self, error: RunError) -> RunError {
        if self.was_cancelled() {
            return RunError::Interrupted;
        }
        match self.clock.out_of_time(&error) {
            Some(late) => late,
            None if self.run.reporter.cancel().is_cancelled() => RunError::Interrupted,
            None => error.normalised(),
        }
    }

    /// Removes what only the program needed while its output is imported.
    fn remove_early<'s>(&self, scope: &'s Scope<'s, '_>)
    where
        'r: 's,
    {
        let scratch = self.session.scratch();
        let (tell, removed) = mpsc::channel();
        let remove = move || {
            // Without a receiver the run has failed, and says so.
            let _ = tell.send(remove_leavings(scratch, &NOT_OUTPUT));
        };
        let thread = thread::Builder::new().name("run-removal".to_owned());
        match thread.spawn_scoped(scope, remove) {
            Ok(_) => self.removed.set(Some(removed)),
            Err(error) => tracing::debug!(%error, "no thread to remove files"),
        }
    }

    /// Empties the scratch directory of what a run leaves there.
    fn clean_up(&self, result: Result<Outcome, RunError>) -> Result<Outcome, RunError> {
        let scratch = self.session.scratch();
        let of_output = remove_leavings(scratch, &OUTPUT);
        let early = self.removed.take().and_then(|removed| removed.recv().ok());
        let rest = early.unwrap_or_else(|| remove_leavings(scratch, &NOT_OUTPUT));
        match of_output.and(rest) {
            Ok(()) => result,
            Err(source) => Err(RunError::CleanUp {
                first: FirstError(result.err().map(Box::new)),
                source,
            }),
        }
    }

    /// Whether the caller itself asked to stop.
    fn was_cancelled(&self) -> bool {
        self.run
            .caller
            .is_some_and(|caller| caller.cancel().is_requested())
    }
}

/// What stays free on the disk of `directory`, see [`Limits::kept_free`].
///
/// # Errors
/// [`BudgetError::Disk`].
pub fn keep_free(limits: &Limits, directory: &Path) -> Result<KeepFree, BudgetError> {
    Ok(limits.kept_free(&FreeSpace::at(directory)?))
}

/// Removes these entries of the scratch directory.
fn remove_leavings(scratch: &Path, names: &[&str]) -> Result<(), TreeError> {
    let scratch = beneath::open_root(scratch).map_err(|errno| TreeError::new(b"scratch", errno))?;
    names
        .iter()
        .try_for_each(|name| tree::remove_tree(scratch.as_fd(), name.as_bytes()))
}

#[cfg(test)]
mod tests;
