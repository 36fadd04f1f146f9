//! Writes a UnixFS DAG to disk.
//!
//! Everything is made relative to descriptors of directories that this export itself made, and
//! only under names that do not exist yet. So the export never follows a symbolic link, whether the
//! link comes from the DAG or from another program.
//!
//! Threads work on one stack of tasks, the newest first. So the depth of the DAG bounds the number of
//! pending tasks, and its width does not. Leaves of one file are written at their offsets as they come,
//! by one thread at a time. Modes and times are set when the last task below a file or directory is done.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use self::file::{OpenFile, reserved_bytes};
use self::finish::{Finish, timestamps};
use super::directory::{Branch, expand};
use super::node::{Content, FilePart, Node};
use super::read::load_part;
use super::tasks;
use super::{Metadata, Mtime, UnixfsError};
use crate::block::{Cid, ReadBlocks};
use crate::budget::{Budget, BudgetError, Spending};
use crate::limits;
use crate::path::EntryName;
use crate::progress::{Event, Reporter};
use crate::tree::remove_tree;

mod file;
mod finish;

/// Mode bits that content from outside may set: permissions and the sticky bit, never set-id.
const ALLOWED_MODE: u32 = 0o1777;

/// What an export writes where the DAG records nothing, and how much it may write.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// What the export may take. Each file, directory and link is one entry and one inode.
    pub budget: Budget,
    /// Mode of files that record none; by default 0666 less the umask.
    pub file_mode: Option<u32>,
    /// Mode of directories that record none; by default 0777 less the umask.
    pub directory_mode: Option<u32>,
    /// Time of entries that record none; by default that of the export.
    pub mtime: Option<Mtime>,
}

impl Default for ExportOptions {
    fn default() -> ExportOptions {
        ExportOptions {
            budget: Budget {
                max_bytes: limits::MAX_EXPORT_BYTES,
                max_entries: limits::MAX_EXPORT_ENTRIES,
                ..Budget::UNLIMITED
            },
            file_mode: None,
            directory_mode: None,
            mtime: None,
        }
    }
}

/// Writes the file, directory or symbolic link `cid` as the new entry `name` of `directory`.
///
/// # Errors
/// Where a block is missing or malformed, an entry name is forbidden, the disk fails, or `name`
/// exists. [`UnixfsError::ExportBudget`] when it takes more than it may. What was made is removed
/// again.
pub fn export(
    blocks: &dyn ReadBlocks,
    cid: &Cid,
    directory: BorrowedFd<'_>,
    name: &EntryName,
    options: &ExportOptions,
    reporter: &dyn Reporter,
) -> Result<(), UnixfsError> {
    let path = PathBuf::from(as_os_str(name.as_bytes()));
    match rustix::fs::statat(directory, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => {}
        Ok(_) => return Err(UnixfsError::errno("create", &path)(Errno::EXIST)),
        Err(errno) => return Err(UnixfsError::errno("create", &path)(errno)),
    }
    let directory = directory
        .try_clone_to_owned()
        .map_err(UnixfsError::io("open", &path))?;
    let parent = Arc::new(Directory {
        descriptor: directory,
        cid: *cid,
        path: PathBuf::new(),
        depth: 0,
        finish: None,
    });
    let exporter = Exporter {
        blocks,
        options,
        reporter,
        root: *cid,
        spending: Spending::new(&options.budget),
    };
    let first = Task::Entry {
        parent: Arc::clone(&parent),
        name: name.clone(),
        cid: *cid,
    };
    let outcome = tasks::run(first, &|task, follow| exporter.perform(task, follow));
    if outcome.is_err()
        && let Err(error) = remove_tree(parent.descriptor.as_fd(), name.as_bytes())
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove the unfinished export");
    }
    outcome
}

fn as_os_str(bytes: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

/// A directory that is being filled.
#[derive(Debug)]
struct Directory {
    descriptor: OwnedFd,
    cid: Cid,
    /// Below the export's parent, for messages.
    path: PathBuf,
    depth: usize,
    /// What remains to be done when it is full; `None` for the parent, which is not ours.
    finish: Option<Finish>,
}

/// One step of the export.
#[derive(Debug)]
enum Task {
    /// Make an entry of a directory.
    Entry {
        parent: Arc<Directory>,
        name: EntryName,
        cid: Cid,
    },
    /// Make the entries in a further shard of a directory.
    Shard {
        directory: Arc<Directory>,
        shard: Branch,
    },
    /// Write a part of a file.
    Part {
        file: Arc<OpenFile>,
        part: FilePart,
        offset: u64,
        depth: usize,
    },
}

struct Exporter<'a> {
    blocks: &'a dyn ReadBlocks,
    options: &'a ExportOptions,
    reporter: &'a dyn Reporter,
    root: Cid,
    spending: Spending<'a>,
}

impl Exporter<'_> {
    /// Does `task` and stacks what follows from it, so that the last pushed is done first.
    fn perform(&self, task: Task, follow: &mut Vec<Task>) -> Result<(), UnixfsError> {
        if self.reporter.cancel().is_cancelled() {
            return Err(UnixfsError::Interrupted);
        }
        self.within(self.spending.check_time())?;
        match task {
            Task::Entry { parent, name, cid } => {
                self.within(self.spending.take_entry())?;
                self.within(self.spending.take_inode(&parent.descriptor))?;
                let node = Node::load(self.blocks, &cid)?;
                self.make_entry(&parent, &name, &node, follow)?;
                self.reporter.report(Event::Entry);
                self.leave_directory(parent)
            }
            Task::Shard { directory, shard } => {
                let node = Node::load(self.blocks, &shard.cid)?;
                self.fill(&directory, &node, &shard, follow)?;
                self.leave_directory(directory)
            }
            Task::Part {
                file,
                part,
                offset,
                depth,
            } => {
                let node = load_part(self.blocks, &part, depth)?;
                self.write_node(&file, &node, offset, depth, follow)?;
                self.leave_file(&file)
            }
        }
    }

    fn make_entry(
        &self,
        parent: &Arc<Directory>,
        name: &EntryName,
        node: &Node,
        follow: &mut Vec<Task>,
    ) -> Result<(), UnixfsError> {
        let path = parent.path.join(as_os_str(name.as_bytes()));
        match &node.content {
            Content::File { .. } => self.make_file(parent, name, path, node, follow),
            Content::Symlink { target } => self.make_symlink(parent, name, &path, target, node),
            Content::Directory | Content::Shard(_) => {
                self.make_directory(parent, name, path, node, follow)
            }
        }
    }

    fn make_file(
        &self,
        parent: &Arc<Directory>,
        name: &EntryName,
        path: PathBuf,
        node: &Node,
        follow: &mut Vec<Task>,
    ) -> Result<(), UnixfsError> {
        self.count(node.size())?;
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let descriptor = rustix::fs::openat(
            &parent.descriptor,
            name.as_bytes(),
            flags,
            Mode::from(0o666),
        )
        .map_err(|errno| creation_error(parent, name, &path, errno))?;
        let finish = self.finish(parent, node.metadata(), self.options.file_mode);
        let mut file = OpenFile::new(descriptor, path, finish);
        let reserved = reserved_bytes(node.size());
        if reserved > 0 {
            self.within(self.spending.take_disk(&file.descriptor, reserved))?;
            file.reserve(reserved);
        }
        let file = Arc::new(file);
        self.write_node(&file, node, 0, 0, follow)?;
        self.leave_file(&file)
    }

    fn make_symlink(
        &self,
        parent: &Arc<Directory>,
        name: &EntryName,
        path: &Path,
        target: &[u8],
        node: &Node,
    ) -> Result<(), UnixfsError> {
        rustix::fs::symlinkat(target, &parent.descriptor, name.as_bytes())
            .map_err(|errno| creation_error(parent, name, path, errno))?;
        if let Some(mtime) = node.metadata().mtime.or(self.options.mtime) {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(
                &parent.descriptor,
                name.as_bytes(),
                &timestamps(mtime),
                flags,
            )
            .map_err(UnixfsError::errno("set the time of", path))?;
        }
        Ok(())
    }

    fn make_directory(
        &self,
        parent: &Arc<Directory>,
        name: &EntryName,
        path: PathBuf,
        node: &Node,
        follow: &mut Vec<Task>,
    ) -> Result<(), UnixfsError> {
        let depth = parent.depth + 1;
        if depth > limits::MAX_DIRECTORY_DEPTH {
            return Err(UnixfsError::TooDeep {
                cid: *node.cid(),
                limit: limits::MAX_DIRECTORY_DEPTH,
            });
        }
        rustix::fs::mkdirat(&parent.descriptor, name.as_bytes(), Mode::from(0o777))
            .map_err(|errno| creation_error(parent, name, &path, errno))?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let descriptor =
            rustix::fs::openat(&parent.descriptor, name.as_bytes(), flags, Mode::empty())
                .map_err(UnixfsError::errno("open", &path))?;
        let finish = Some(self.finish(parent, node.metadata(), self.options.directory_mode));
        let directory = Arc::new(Directory {
            descriptor,
            cid: *node.cid(),
            path,
            depth,
            finish,
        });
        self.fill(&directory, node, &Branch::root(*node.cid()), follow)?;
        self.leave_directory(directory)
    }

    /// The obligation to finish an entry of `parent`, which waits for it.
    fn finish(&self, parent: &Arc<Directory>, recorded: &Metadata, default: Option<u32>) -> Finish {
        parent.enter();
        let mode = recorded.mode.map(|mode| mode & ALLOWED_MODE).or(default);
        let mtime = recorded.mtime.or(self.options.mtime);
        Finish::new(Arc::clone(parent), mode, mtime)
    }

    /// Stacks a task for everything in one node of a directory.
    fn fill(
        &self,
        directory: &Arc<Directory>,
        node: &Node,
        from: &Branch,
        follow: &mut Vec<Task>,
    ) -> Result<(), UnixfsError> {
        let (entries, shards) = expand(node, from)?;
        for shard in shards.into_iter().rev() {
            directory.enter();
            follow.push(Task::Shard {
                directory: Arc::clone(directory),
                shard,
            });
        }
        for entry in entries.into_iter().rev() {
            let name = entry.checked_name(&directory.cid)?;
            directory.enter();
            follow.push(Task::Entry {
                parent: Arc::clone(directory),
                name,
                cid: entry.cid,
            });
        }
        Ok(())
    }

    /// Writes the content of a node of a file and stacks tasks for its parts.
    fn write_node(
        &self,
        file: &Arc<OpenFile>,
        node: &Node,
        offset: u64,
        depth: usize,
        follow: &mut Vec<Task>,
    ) -> Result<(), UnixfsError> {
        let Content::File { inline, parts } = &node.content else {
            return Ok(());
        };
        if !inline.is_empty() {
            let bytes = file.unreserved(offset, inline.len() as u64);
            self.within(self.spending.take_disk(&file.descriptor, bytes))?;
            file.finish.enter();
            for _ in 0..file.write(inline.clone(), offset)? {
                self.leave_file(file)?;
            }
        }
        self.reporter.report(Event::Advanced {
            bytes: inline.len() as u64,
        });
        let first = follow.len();
        let mut offset = offset + inline.len() as u64;
        for part in parts.iter().filter(|part| part.size > 0) {
            file.finish.enter();
            let file = Arc::clone(file);
            follow.push(Task::Part {
                file,
                part: *part,
                offset,
                depth: depth + 1,
            });
            offset += part.size;
        }
        follow[first..].reverse();
        Ok(())
    }

    fn count(&self, bytes: u64) -> Result<(), UnixfsError> {
        let bytes = self.within(self.spending.take_bytes(bytes))?;
        self.reporter.report(Event::Total { bytes });
        Ok(())
    }

    fn within<T>(&self, outcome: Result<T, BudgetError>) -> Result<T, UnixfsError> {
        outcome.map_err(|source| UnixfsError::ExportBudget {
            cid: self.root,
            source,
        })
    }

    fn leave_file(&self, file: &OpenFile) -> Result<(), UnixfsError> {
        if !file.finish.leave() {
            return Ok(());
        }
        file.finish.apply(file.descriptor.as_fd(), &file.path)?;
        self.leave_directory(Arc::clone(&file.finish.parent))
    }

    /// Counts one task below `directory` as done; the last one finishes it, and so on upwards.
    fn leave_directory(&self, mut directory: Arc<Directory>) -> Result<(), UnixfsError> {
        while let Some(finish) = directory.finish.as_ref().filter(|finish| finish.leave()) {
            finish.apply(directory.descriptor.as_fd(), &directory.path)?;
            let parent = Arc::clone(&finish.parent);
            directory = parent;
        }
        Ok(())
    }
}

impl Directory {
    fn enter(&self) {
        if let Some(finish) = &self.finish {
            finish.enter();
        }
    }
}

/// Everything below the export is new, so what is in the way came from the DAG itself.
fn creation_error(parent: &Directory, name: &EntryName, path: &Path, errno: Errno) -> UnixfsError {
    if errno == Errno::EXIST && parent.finish.is_some() {
        UnixfsError::DuplicateEntry {
            directory: parent.cid,
            name: name.to_string(),
        }
    } else {
        UnixfsError::errno("create", path)(errno)
    }
}
