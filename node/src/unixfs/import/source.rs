//! Walks local directories by descriptor.
//!
//! Below the root of an import nothing is opened by a path. Each step opens one name in a directory
//! that is open already, and follows no link. So a program that changes the tree meanwhile cannot lead
//! the walk elsewhere.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata as Stat};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::super::{Metadata, Mtime, UnixfsError};
use super::{ImportOptions, root};
use crate::limits;
use crate::path::EntryName;

/// What a walk meets, in order.
pub(super) enum Step {
    /// A directory begins.
    Enter { name: EntryName, metadata: Metadata },
    /// It ends.
    Leave,
    /// A regular file.
    File {
        directory: Arc<OwnedFd>,
        name: EntryName,
        path: PathBuf,
    },
    /// A symbolic link.
    Symlink {
        name: EntryName,
        target: Vec<u8>,
        metadata: Metadata,
    },
    /// What is no part of the import.
    LeftOut {
        path: PathBuf,
        /// What it is, with its article.
        kind: &'static str,
    },
}

/// A regular file, open.
pub(super) struct OpenedFile {
    pub(super) file: File,
    pub(super) stat: Stat,
    /// From before it was made readable.
    pub(super) mode: u32,
}

/// A directory on the way down.
struct Level {
    descriptor: Arc<OwnedFd>,
    entries: Dir,
    path: PathBuf,
}

/// Walks the entry `name` of `directory` and all that is below it. `sink` returns false to end the
/// walk.
pub(super) fn walk(
    directory: OwnedFd,
    name: &OsStr,
    root: EntryName,
    path: &Path,
    options: &ImportOptions,
    sink: &mut dyn FnMut(Step) -> bool,
) -> Result<(), UnixfsError> {
    let mut walk = Walk {
        options,
        sink,
        root: path,
        levels: Vec::new(),
        device: None,
    };
    let directory = Arc::new(directory);
    let kind = kind_of(&*directory, name, path, FileType::Unknown)?;
    if !walk.visit(&directory, name, root, path.to_owned(), kind)? {
        return Ok(());
    }
    while let Some(level) = walk.levels.last_mut() {
        let Some(entry) = level.entries.read() else {
            walk.levels.pop();
            if !(walk.sink)(Step::Leave) {
                return Ok(());
            }
            continue;
        };
        let entry = entry.map_err(UnixfsError::errno("read", &level.path))?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let path = level.path.join(name);
        let kind = kind_of(&*level.descriptor, name, &path, entry.file_type())?;
        if !takes_entry(options, walk.root, &path, kind) {
            continue;
        }
        let checked = EntryName::new(name.as_bytes()).map_err(|source| UnixfsError::LocalName {
            path: path.clone(),
            source,
        })?;
        let directory = Arc::clone(&level.descriptor);
        if !walk.visit(&directory, name, checked, path, kind)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether the filter of the import takes the entry at `path`, which is below `root`.
fn takes_entry(options: &ImportOptions, root: &Path, path: &Path, kind: FileType) -> bool {
    let Some(filter) = &options.filter else {
        return true;
    };
    let below = path.strip_prefix(root).expect("an entry is below its root");
    filter.takes_entry(below, kind == FileType::Directory)
}

/// The type of an entry; a file system may leave it out of the listing.
fn kind_of(
    directory: impl AsFd,
    name: &OsStr,
    path: &Path,
    listed: FileType,
) -> Result<FileType, UnixfsError> {
    if listed != FileType::Unknown {
        return Ok(listed);
    }
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(UnixfsError::errno("read", path))?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

struct Walk<'a> {
    options: &'a ImportOptions,
    sink: &'a mut dyn FnMut(Step) -> bool,
    /// The root of the import, as its caller named it.
    root: &'a Path,
    levels: Vec<Level>,
    /// The file system of the root of the import, once that was entered.
    device: Option<u64>,
}

impl Walk<'_> {
    fn visit(
        &mut self,
        directory: &Arc<OwnedFd>,
        name: &OsStr,
        entry: EntryName,
        path: PathBuf,
        kind: FileType,
    ) -> Result<bool, UnixfsError> {
        match kind {
            FileType::Directory => self.enter(directory, name, entry, path),
            FileType::RegularFile => {
                let directory = Arc::clone(directory);
                Ok((self.sink)(Step::File {
                    directory,
                    name: entry,
                    path,
                }))
            }
            FileType::Symlink => self.symlink(directory, name, entry, &path),
            other if self.options.root_file_system => Ok((self.sink)(Step::LeftOut {
                path,
                kind: describe_with_article(other),
            })),
            other => Err(UnixfsError::SpecialFile {
                path,
                kind: describe(other),
            }),
        }
    }

    fn enter(
        &mut self,
        parent: &Arc<OwnedFd>,
        name: &OsStr,
        entry: EntryName,
        path: PathBuf,
    ) -> Result<bool, UnixfsError> {
        if self.levels.len() >= limits::MAX_DIRECTORY_DEPTH {
            return Err(UnixfsError::LocalTooDeep { path });
        }
        if self.options.root_file_system && self.is_mounted_on(parent, name, &path)? {
            return Ok(self.pass_over(entry, path));
        }
        let needed = Mode::RUSR | Mode::XUSR;
        let (descriptor, mode) =
            open_readable(&**parent, name, OFlags::DIRECTORY, needed, self.options)
                .map_err(UnixfsError::errno("open", &path))?;
        if !self.takes_directory(&path, &descriptor)? {
            return Ok(true);
        }
        let stat = rustix::fs::fstat(&descriptor).map_err(UnixfsError::errno("stat", &path))?;
        self.device.get_or_insert(stat.st_dev);
        let metadata = self
            .options
            .metadata(mode.unwrap_or(stat.st_mode), stat_mtime(&stat));
        let entries = Dir::read_from(&descriptor).map_err(UnixfsError::errno("read", &path))?;
        self.levels.push(Level {
            descriptor: Arc::new(descriptor),
            entries,
            path,
        });
        Ok((self.sink)(Step::Enter {
            name: entry,
            metadata,
        }))
    }

    /// Whether another file system than that of the root of the import is mounted on a directory. It need
    /// not be opened for that: it may be as large as `/proc`, or of another machine that does not answer.
    fn is_mounted_on(
        &self,
        parent: &Arc<OwnedFd>,
        name: &OsStr,
        path: &Path,
    ) -> Result<bool, UnixfsError> {
        let Some(device) = self.device else {
            return Ok(false);
        };
        let stat = rustix::fs::statat(&**parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(UnixfsError::errno("read", path))?;
        Ok(stat.st_dev != device)
    }

    /// Takes a directory as an empty one.
    fn pass_over(&mut self, name: EntryName, path: PathBuf) -> bool {
        let enter = Step::Enter {
            name,
            metadata: root::mounted_on(),
        };
        let left_out = Step::LeftOut {
            path,
            kind: "another file system",
        };
        [enter, left_out, Step::Leave]
            .into_iter()
            .all(|step| (self.sink)(step))
    }

    /// Asks the filter of the import; it cannot leave the root out.
    fn takes_directory(&self, path: &Path, directory: &OwnedFd) -> Result<bool, UnixfsError> {
        let Some(filter) = &self.options.filter else {
            return Ok(true);
        };
        let takes = filter
            .takes_directory(path, directory.as_fd())
            .map_err(UnixfsError::errno("examine", path))?;
        if !takes && self.levels.is_empty() {
            return Err(UnixfsError::RootLeftOut {
                path: path.to_owned(),
            });
        }
        Ok(takes)
    }

    fn symlink(
        &mut self,
        directory: &Arc<OwnedFd>,
        name: &OsStr,
        entry: EntryName,
        path: &Path,
    ) -> Result<bool, UnixfsError> {
        let target = rustix::fs::readlinkat(&**directory, name, Vec::new())
            .map_err(UnixfsError::errno("read the link", path))?;
        let stat = rustix::fs::statat(&**directory, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(UnixfsError::errno("read", path))?;
        let metadata = Metadata {
            mode: None,
            ..self.options.metadata(stat.st_mode, stat_mtime(&stat))
        };
        Ok((self.sink)(Step::Symlink {
            name: entry,
            target: target.into_bytes(),
            metadata,
        }))
    }
}

fn stat_mtime(stat: &rustix::fs::Stat) -> Mtime {
    Mtime {
        seconds: stat.st_mtime,
        nanoseconds: stat.st_mtime_nsec as u32,
    }
}

fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        _ => "special file",
    }
}

fn describe_with_article(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        _ => "a special file",
    }
}

/// Opens a regular file; anything else that has come to stand in its place is refused.
pub(super) fn open_file(
    directory: impl AsFd,
    name: &OsString,
    path: &Path,
    options: &ImportOptions,
) -> Result<OpenedFile, UnixfsError> {
    // Not blocking: a FIFO that took the file's place must not stop us.
    let (descriptor, mode) = open_readable(directory, name, OFlags::NONBLOCK, Mode::RUSR, options)
        .map_err(UnixfsError::errno("open", path))?;
    let file = File::from(descriptor);
    let stat = file.metadata().map_err(UnixfsError::io("stat", path))?;
    if !stat.is_file() {
        let kind = if stat.file_type().is_fifo() {
            "FIFO"
        } else {
            "special file"
        };
        return Err(UnixfsError::SpecialFile {
            path: path.to_owned(),
            kind,
        });
    }
    Ok(OpenedFile {
        file,
        mode: mode.unwrap_or(stat.mode()),
        stat,
    })
}

/// Opens for reading; where that is not allowed and the options say so, first gives the owner the
/// right. Returns the mode from before, if it was changed.
fn open_readable(
    directory: impl AsFd,
    name: &OsStr,
    flags: OFlags,
    needed: Mode,
    options: &ImportOptions,
) -> Result<(OwnedFd, Option<u32>), Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(&directory, name, flags | OFlags::RDONLY, Mode::empty());
    match open() {
        Err(Errno::ACCESS) if options.make_readable => {}
        Ok(descriptor) if options.make_readable && flags.contains(OFlags::DIRECTORY) => {
            // Listing is allowed; entering may not be.
            let mode = rustix::fs::fstat(&descriptor)?.st_mode;
            if Mode::from_raw_mode(mode).contains(needed) {
                return Ok((descriptor, None));
            }
        }
        outcome => return Ok((outcome?, None)),
    }
    let handle = rustix::fs::openat(&directory, name, flags | OFlags::PATH, Mode::empty())?;
    let mode = rustix::fs::fstat(&handle)?.st_mode;
    // An O_PATH descriptor cannot be chmodded itself; its name in /proc can, and is no link to
    // anything else.
    let itself = format!("/proc/self/fd/{}", handle.as_raw_fd());
    rustix::fs::chmod(itself, Mode::from_raw_mode(mode) | needed)?;
    Ok((open()?, Some(mode)))
}
