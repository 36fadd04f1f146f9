//! Takes the results in order and builds the trees.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::fs::{Mode, OFlags};

use super::super::UnixfsError;
use super::super::data::{self, Metadata};
use super::super::directory::DirectoryBuilder;
use super::holes::Extents;
use super::source::{self, Step};
use super::tree::{Child, TreeBuilder};
use super::work::{self, ChunkBuffer, Done, Job, Work};
use super::{ImportOptions, Imported, ImportedEntry, Mtime};
use crate::block::{Block, DAG_PB, WriteBlocks};
use crate::budget::{BudgetError, Spending};
use crate::path::EntryName;
use crate::profile::Profile;
use crate::progress::{Event, Reporter};

/// Content in flight, in bytes: keeps every thread busy, and stays small against what an operation
/// may use.
const IN_FLIGHT_BYTES: usize = 8 << 20;

/// Entries in flight, where files are small.
const MAX_IN_FLIGHT: usize = 256;

/// Blocks handed to the store at once, in number and in bytes.
const PUT_BLOCKS: usize = 256;
const PUT_BYTES: usize = 1 << 20;

/// The result of a job, when it comes.
type Pending = Receiver<Result<Done, UnixfsError>>;

/// A part of a file, in order.
enum Piece {
    /// A chunk for a worker.
    Chunk(Work),
    /// So many whole chunks of zeros.
    Zeros(u64),
}

/// A [`Piece`] that is being worked on.
enum Waiting {
    Chunk(Pending),
    Zeros(u64),
}

/// What the calling thread takes in order.
enum Ordered {
    Step(Step),
    File { name: EntryName, result: Pending },
    Failed(UnixfsError),
}

pub(super) fn import_path(
    blocks: &dyn WriteBlocks,
    directory: BorrowedFd<'_>,
    path: &Path,
    options: &ImportOptions,
    reporter: &dyn Reporter,
    on_entry: &mut dyn FnMut(ImportedEntry),
) -> Result<Imported, UnixfsError> {
    let (parent, name) = split(path);
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let parent = rustix::fs::openat(directory, parent, flags, Mode::empty())
        .map_err(UnixfsError::errno("open", path))?;
    // The root's own name is in no directory.
    let root = EntryName::new(b"root").expect("a plain word is a name");
    let profile = options.effective_profile();
    let spending = Spending::new(&options.budget);
    with_workers(options, &profile, |jobs| {
        let (steps_in, steps) = bounded(in_flight(&profile));
        std::thread::scope(|scope| {
            let walk = move || {
                let mut sink = |step| queue(step, jobs, &steps_in);
                if let Err(error) = source::walk(parent, name, root, path, options, &mut sink) {
                    let _ = steps_in.send(Ordered::Failed(error));
                }
            };
            let walker = std::thread::Builder::new().spawn_scoped(scope, walk);
            walker.map_err(UnixfsError::Thread)?;
            let mut assembler = Assembler::new(blocks, &profile, &spending, path, reporter, jobs);
            let outcome = assembler.run(&steps, on_entry);
            // The walker must see that nobody takes its steps any more.
            drop(steps);
            outcome
        })
    })
}

/// Splits off the last name. A path without one (`/`, `..`, `a/.`) names a directory, which is then
/// opened as itself.
fn split(path: &Path) -> (&Path, &std::ffi::OsStr) {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if !path.as_os_str().as_bytes().ends_with(b"/.") => (
            if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            },
            name,
        ),
        _ => (path, ".".as_ref()),
    }
}

pub(super) fn import_stream(
    blocks: &dyn WriteBlocks,
    stream: &mut (dyn Read + Send),
    options: &ImportOptions,
    reporter: &dyn Reporter,
) -> Result<Imported, UnixfsError> {
    let profile = options.effective_profile();
    let spending = Spending::new(&options.budget);
    let metadata = options.metadata(0, super::Mtime::default());
    let metadata = Metadata {
        mode: options.mode.and(metadata.mode),
        mtime: options.mtime.and(metadata.mtime),
    };
    with_workers(options, &profile, |jobs| {
        let path = Path::new("-");
        let mut assembler = Assembler::new(blocks, &profile, &spending, path, reporter, jobs);
        assembler.within(assembler.spending.take_entry())?;
        let imported = assembler.stream(stream, path, &metadata)?;
        assembler.flush()?;
        Ok(imported)
    })
}

/// The node of a symbolic link.
pub(super) fn symlink(
    target: &[u8],
    mtime: Option<Mtime>,
    version: cid::Version,
) -> (Block, Imported) {
    let message = data::symlink(target, mtime);
    let node = crate::dag::pb::PbWriter::default().finish(&message);
    let block = Block::new(version, DAG_PB, node.into());
    let imported = Imported {
        cid: *block.cid(),
        bytes: 0,
        cumulative_bytes: block.data().len() as u64,
    };
    (block, imported)
}

/// How many results may be waited for at once.
fn in_flight(profile: &Profile) -> usize {
    (IN_FLIGHT_BYTES / profile.chunk_bytes).clamp(4, MAX_IN_FLIGHT)
}

/// Runs `body` beside threads that perform the jobs it sends.
fn with_workers<T>(
    options: &ImportOptions,
    profile: &Profile,
    body: impl FnOnce(&Jobs<'_>) -> Result<T, UnixfsError>,
) -> Result<T, UnixfsError> {
    let (queue, jobs) = bounded::<Job>(in_flight(profile));
    std::thread::scope(|scope| {
        let start = || {
            let jobs = jobs.clone();
            let work = move || work::work(&jobs, options, profile);
            Builder::new().spawn_scoped(scope, work).map(drop)
        };
        // Its end is the end of the queue, and so of the threads.
        let jobs = Jobs {
            queue,
            start: &start,
            started: Mutex::new(0),
            most: std::thread::available_parallelism().map_or(1, usize::from),
        };
        body(&jobs)
    })
}

/// Where jobs are sent. Threads that perform them are started as jobs come: few inputs need all.
struct Jobs<'a> {
    queue: Sender<Job>,
    start: &'a (dyn Fn() -> io::Result<()> + Sync),
    started: Mutex<usize>,
    most: usize,
}

impl Jobs<'_> {
    /// Waits while the queue is full.
    ///
    /// # Errors
    /// Where not even one thread can be started.
    fn send(&self, job: Job) -> Result<(), UnixfsError> {
        self.ensure_threads().map_err(UnixfsError::Thread)?;
        // The threads take jobs to the end.
        self.queue.send(job).map_err(|_| UnixfsError::Interrupted)
    }

    /// Starts another thread where all that were started have something to do.
    fn ensure_threads(&self) -> io::Result<()> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let is_needed = *started == 0 || (*started < self.most && !self.queue.is_empty());
        if !is_needed {
            return Ok(());
        }
        match (self.start)() {
            Ok(()) => *started += 1,
            Err(error) if *started == 0 => return Err(error),
            Err(error) => {
                tracing::debug!(%error, started = *started, "fewer threads than processors");
                *started = self.most;
            }
        }
        Ok(())
    }
}

/// Sends a step on, with a job for it where there is work; false when nobody takes it.
fn queue(step: Step, jobs: &Jobs<'_>, steps: &Sender<Ordered>) -> bool {
    let Step::File {
        directory,
        name,
        path,
    } = step
    else {
        return steps.send(Ordered::Step(step)).is_ok();
    };
    // The root's entry name is not its name on disk.
    let file_name = path.file_name().unwrap_or_default().to_owned();
    let (done, result) = bounded(1);
    let work = Work::File {
        directory,
        name: file_name,
        path,
    };
    if let Err(error) = jobs.ensure_threads() {
        // Nobody would do the job.
        let _ = steps.send(Ordered::Failed(UnixfsError::Thread(error)));
        return false;
    }
    // The order is taken first: it is what bounds how much is in flight.
    steps.send(Ordered::File { name, result }).is_ok() && jobs.send(Job { work, done }).is_ok()
}

/// A directory whose entries are still coming.
struct OpenDirectory {
    name: EntryName,
    builder: DirectoryBuilder,
    bytes: u64,
    /// Bytes of all blocks below.
    cumulative_bytes: u64,
}

struct Assembler<'a> {
    blocks: &'a dyn WriteBlocks,
    profile: &'a Profile,
    /// What is imported, for messages.
    root: &'a Path,
    spending: &'a Spending<'a>,
    reporter: &'a dyn Reporter,
    jobs: &'a Jobs<'a>,
    /// The leaf of a chunk of zeros, once it was put.
    zero_leaf: Option<Child>,
    /// Blocks on their way to the store.
    batch: Vec<Block>,
    batch_bytes: usize,
    total: u64,
}

impl<'a> Assembler<'a> {
    fn new(
        blocks: &'a dyn WriteBlocks,
        profile: &'a Profile,
        spending: &'a Spending<'a>,
        root: &'a Path,
        reporter: &'a dyn Reporter,
        jobs: &'a Jobs<'a>,
    ) -> Assembler<'a> {
        let batch = Vec::with_capacity(PUT_BLOCKS);
        Assembler {
            blocks,
            profile,
            root,
            spending,
            reporter,
            jobs,
            zero_leaf: None,
            batch,
            batch_bytes: 0,
            total: 0,
        }
    }

    fn run(
        &mut self,
        steps: &Receiver<Ordered>,
        on_entry: &mut dyn FnMut(ImportedEntry),
    ) -> Result<Imported, UnixfsError> {
        let mut open: Vec<OpenDirectory> = Vec::new();
        let mut root = None;
        for step in steps {
            self.check_stop()?;
            if !matches!(
                step,
                Ordered::Failed(_) | Ordered::Step(Step::Leave | Step::LeftOut { .. })
            ) {
                self.within(self.spending.take_entry())?;
            }
            let mut link = None;
            let (name, imported) = match step {
                Ordered::Failed(error) => return Err(error),
                Ordered::Step(Step::Enter { name, metadata }) => {
                    let builder = DirectoryBuilder::new(metadata);
                    open.push(OpenDirectory {
                        name,
                        builder,
                        bytes: 0,
                        cumulative_bytes: 0,
                    });
                    continue;
                }
                Ordered::Step(Step::Leave) => {
                    let directory = open.pop().expect("every directory left was entered");
                    self.directory(directory)?
                }
                Ordered::Step(Step::Symlink {
                    name,
                    target,
                    metadata,
                }) => {
                    let imported = self.symlink(&target, &metadata)?;
                    link = Some(target);
                    (name, imported)
                }
                Ordered::Step(Step::LeftOut { path, kind }) => {
                    self.reporter.left_out(&path, kind);
                    continue;
                }
                Ordered::Step(Step::File { .. }) => unreachable!("files come with their results"),
                Ordered::File { name, result } => (name, self.file(&result)?),
            };
            self.reporter.report(Event::Entry);
            let at_root = open.is_empty();
            let path = if at_root {
                PathBuf::new()
            } else {
                entry_path(&open, &name)
            };
            on_entry(ImportedEntry {
                path,
                imported,
                target: link,
            });
            match open.last_mut() {
                Some(parent) => {
                    parent
                        .builder
                        .add(&name, &imported.cid, imported.cumulative_bytes);
                    // All content of the import together fits: it was counted.
                    parent.bytes += imported.bytes;
                    parent.cumulative_bytes = parent
                        .cumulative_bytes
                        .checked_add(imported.cumulative_bytes)
                        .ok_or(UnixfsError::SizeOverflow)?;
                }
                None => root = Some(imported),
            }
        }
        self.flush()?;
        root.ok_or(UnixfsError::Interrupted)
    }

    fn directory(
        &mut self,
        directory: OpenDirectory,
    ) -> Result<(EntryName, Imported), UnixfsError> {
        let built = directory
            .builder
            .finish(self.profile, &mut |block| self.put(block))?;
        let imported = Imported {
            cid: built.cid,
            bytes: directory.bytes,
            cumulative_bytes: built.cumulative_size,
        };
        Ok((directory.name, imported))
    }

    fn symlink(&mut self, target: &[u8], metadata: &Metadata) -> Result<Imported, UnixfsError> {
        let (block, imported) = symlink(target, metadata.mtime, self.profile.cid_version);
        self.put(block)?;
        Ok(imported)
    }

    fn file(&mut self, result: &Pending) -> Result<Imported, UnixfsError> {
        match wait(result)? {
            Done::Leaf(leaf) => {
                self.within(self.spending.take_bytes(leaf.child.bytes))?;
                self.leaf(leaf.block, leaf.child.bytes)?;
                Ok(leaf.child.into())
            }
            Done::Zeros => {
                self.within(self.spending.take_bytes(self.profile.chunk_bytes as u64))?;
                Ok(self.zeros(1)?.into())
            }
            Done::Open {
                file,
                path,
                size: 0,
                metadata,
            } => {
                let mut file = file;
                self.stream(&mut file, &path, &metadata)
            }
            Done::Open {
                file,
                path,
                size,
                metadata,
            } => self.chunks(file, path, size, &metadata),
        }
    }

    /// Imports a large file; its chunks are read at any offset, several at once. Holes are not read.
    fn chunks(
        &mut self,
        file: File,
        path: PathBuf,
        size: u64,
        metadata: &Metadata,
    ) -> Result<Imported, UnixfsError> {
        self.within(self.spending.take_bytes(size))?;
        self.expect(size);
        let chunk = self.profile.chunk_bytes as u64;
        let (file, path) = (Arc::new(file), Arc::new(path));
        let mut extents = Extents::default();
        let mut next = 0;
        self.tree(metadata, &mut || {
            if next >= size {
                return Ok(None);
            }
            let hole = extents
                .hole_at(&file, next, size)
                .map_err(UnixfsError::errno("find the holes of", &path))?;
            let zeros = hole / chunk;
            if zeros > 0 {
                next += zeros * chunk;
                check_length(&file, &path, next)?;
                return Ok(Some(Piece::Zeros(zeros)));
            }
            let length = chunk.min(size - next) as usize;
            let work = Work::Chunk {
                file: Arc::clone(&file),
                path: Arc::clone(&path),
                offset: next,
                length,
            };
            next += length as u64;
            Ok(Some(Piece::Chunk(work)))
        })
    }

    /// Imports what only sequential reading gives.
    fn stream(
        &mut self,
        stream: &mut dyn Read,
        path: &Path,
        metadata: &Metadata,
    ) -> Result<Imported, UnixfsError> {
        let chunk = self.profile.chunk_bytes;
        let mut fill = || {
            let mut buffer = ChunkBuffer::new(chunk);
            buffer
                .read_from(stream)
                .map_err(UnixfsError::io("read", path))?;
            Ok::<_, UnixfsError>(buffer)
        };
        let (spending, root) = (self.spending, self.root);
        let mut ahead = Some(fill()?);
        let mut first = true;
        self.tree(metadata, &mut || {
            let Some(buffer) = ahead.take() else {
                return Ok(None);
            };
            let length = buffer.content_length();
            spending
                .take_bytes(length as u64)
                .map_err(over_budget(root))?;
            if length == chunk {
                ahead = Some(fill()?).filter(|next| next.content_length() > 0);
            }
            // Alone, a leaf is the file and records what the file does.
            let alone = std::mem::take(&mut first) && ahead.is_none();
            let metadata = if alone {
                *metadata
            } else {
                Metadata::default()
            };
            Ok(Some(Piece::Chunk(Work::Buffer { buffer, metadata })))
        })
    }

    /// Builds a file from the pieces that `next` gives, with several in work.
    fn tree(
        &mut self,
        metadata: &Metadata,
        next: &mut dyn FnMut() -> Result<Option<Piece>, UnixfsError>,
    ) -> Result<Imported, UnixfsError> {
        let mut tree = TreeBuilder::new(self.profile);
        let window = in_flight(self.profile);
        let mut waiting: VecDeque<Waiting> = VecDeque::with_capacity(window);
        let mut more = true;
        loop {
            while more && waiting.len() < window {
                match next()? {
                    Some(piece) => waiting.push_back(self.begin(piece)?),
                    None => more = false,
                }
            }
            let Some(piece) = waiting.pop_front() else {
                break;
            };
            self.check_stop()?;
            let (leaf, count) = self.end(piece)?;
            tree.push_run(leaf, count, &mut |block| self.put(block))?;
        }
        tree.finish(metadata, &mut |block| self.put(block))
    }

    fn begin(&self, piece: Piece) -> Result<Waiting, UnixfsError> {
        let work = match piece {
            Piece::Chunk(work) => work,
            Piece::Zeros(count) => return Ok(Waiting::Zeros(count)),
        };
        let (done, result) = bounded(1);
        self.jobs.send(Job { work, done })?;
        Ok(Waiting::Chunk(result))
    }

    /// Gives a leaf, and how many times it comes.
    fn end(&mut self, piece: Waiting) -> Result<(Child, u64), UnixfsError> {
        let result = match piece {
            Waiting::Chunk(result) => result,
            Waiting::Zeros(count) => return Ok((self.zeros(count)?, count)),
        };
        match wait(&result)? {
            Done::Leaf(leaf) => {
                self.leaf(leaf.block, leaf.child.bytes)?;
                Ok((leaf.child, 1))
            }
            Done::Zeros => Ok((self.zeros(1)?, 1)),
            Done::Open { .. } => unreachable!("a chunk becomes a leaf"),
        }
    }

    /// Gives the leaf of a chunk of zeros, of which `count` are done. It is put once.
    fn zeros(&mut self, count: u64) -> Result<Child, UnixfsError> {
        self.reporter.report(Event::Advanced {
            bytes: count * self.profile.chunk_bytes as u64,
        });
        if let Some(child) = self.zero_leaf {
            return Ok(child);
        }
        let leaf = work::zero_leaf(self.profile);
        self.put(leaf.block)?;
        Ok(*self.zero_leaf.insert(leaf.child))
    }

    /// Fails where the caller or the clock says so.
    fn check_stop(&self) -> Result<(), UnixfsError> {
        if self.reporter.cancel().is_cancelled() {
            return Err(UnixfsError::Interrupted);
        }
        self.within(self.spending.check_time())
    }

    fn within(&self, outcome: Result<impl Sized, BudgetError>) -> Result<(), UnixfsError> {
        outcome.map(drop).map_err(over_budget(self.root))
    }

    fn leaf(&mut self, block: Block, bytes: u64) -> Result<(), UnixfsError> {
        self.reporter.report(Event::Advanced { bytes });
        self.put(block)
    }

    fn expect(&mut self, bytes: u64) {
        self.total = self.total.saturating_add(bytes);
        self.reporter.report(Event::Total { bytes: self.total });
    }

    fn put(&mut self, block: Block) -> Result<(), UnixfsError> {
        self.batch_bytes += block.data().len();
        self.batch.push(block);
        if self.batch.len() >= PUT_BLOCKS || self.batch_bytes >= PUT_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), UnixfsError> {
        let keep_free = &self.spending.budget().keep_free;
        self.blocks.put_within(&self.batch, keep_free)?;
        self.batch.clear();
        self.batch_bytes = 0;
        Ok(())
    }
}

fn over_budget(root: &Path) -> impl FnOnce(BudgetError) -> UnixfsError {
    move |source| UnixfsError::ImportBudget {
        path: root.to_owned(),
        source,
    }
}

/// Fails where the file is shorter than `length`: behind its end there are no holes.
fn check_length(file: &File, path: &Path, length: u64) -> Result<(), UnixfsError> {
    let status = file.metadata().map_err(UnixfsError::io("stat", path))?;
    if status.len() < length {
        return Err(UnixfsError::Changed {
            path: path.to_owned(),
        });
    }
    Ok(())
}

fn wait(result: &Pending) -> Result<Done, UnixfsError> {
    // A worker that is gone without a result was told to stop.
    result.recv().unwrap_or(Err(UnixfsError::Interrupted))
}

/// The path of `name` below the root, which is the first of the open directories.
fn entry_path(open: &[OpenDirectory], name: &EntryName) -> PathBuf {
    let names = open
        .iter()
        .skip(1)
        .map(|directory| &directory.name)
        .chain([name]);
    names
        .map(|name| std::ffi::OsStr::from_bytes(name.as_bytes()))
        .collect()
}
