//! The output of a run: the content of `/output` after the program's end.
//!
//! The run makes the directory before the program starts. It imports the directory after every process of the
//! sandbox is dead, by descriptor, without following a link. Sockets, FIFOs and other entries that UnixFS
//! cannot hold are an error. The error names the entry, and counts as a fault of the program.
//!
//! A symbolic link into `/input` stays a link, as every other link does. The run reports it, because the link
//! leads nowhere without the run. The import does not replace a link by its target, for two reasons. A link
//! costs a program nothing, even if it leads to an input of many terabytes that is not on this machine: a
//! replacement would fetch all of that input. And a tree that the program prepares for another run may need
//! the link.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ipfs_exec_node::block::WriteBlocks;
use ipfs_exec_node::path::escape;
use ipfs_exec_node::progress::Reporter;
use ipfs_exec_node::unixfs::{self, ImportOptions, Imported, ImportedEntry, UnixfsError};
use rustix::fs::{Mode, fchmod, mkdirat};
use rustix::io::Errno;

use crate::beneath;

/// Name in scratch of the directory with both.
pub(crate) const WRITABLE: &str = "writable";

/// Name in scratch of what an overlay on it needs.
pub(crate) const WORK: &str = "work";

/// Name in scratch of an empty directory, the lower layer of that overlay.
pub(crate) const LOWER: &str = "lower";

/// Names in the first of what stands at `/output` and `/tmp`.
const OUTPUT: &str = "output";
const TMP: &str = "tmp";

/// Mode of `/output`.
const OUTPUT_MODE: u32 = 0o755;

/// Mode of `/tmp`, as on every system.
const TMP_MODE: u32 = 0o1777;

/// Mode of directories that hold them.
const OWN_MODE: u32 = 0o700;

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// A directory for the program could not be made.
    #[error("cannot make `{path}`", path = path.display())]
    Make {
        /// The directory.
        path: PathBuf,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The program left what UnixFS cannot hold.
    #[error("`/output` holds an entry that cannot be part of an output")]
    Refused(#[source] UnixfsError),
    /// What the program left could not be imported, for another reason.
    #[error("cannot import the output of the program")]
    Import(#[source] UnixfsError),
}

impl OutputError {
    fn of_import(error: UnixfsError) -> OutputError {
        match error {
            UnixfsError::SpecialFile { .. }
            | UnixfsError::LocalName { .. }
            | UnixfsError::LocalTooDeep { .. }
            | UnixfsError::HashCollision { .. }
            | UnixfsError::DirectoryTooLarge { .. } => OutputError::Refused(error),
            error => OutputError::Import(error),
        }
    }
}

/// A symbolic link of the output that leads nowhere after the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StrayLink {
    /// Its path in the output, escaped.
    pub name: String,
    /// Its target, escaped.
    pub target: String,
    /// The directory of the run to which it leads.
    pub place: &'static str,
}

impl fmt::Display for StrayLink {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StrayLink {
            name,
            target,
            place,
        } = self;
        write!(
            formatter,
            "`{name}` of the output is a symbolic link to `{target}`, which leads nowhere without the \
             `{place}` of this run; "
        )?;
        formatter.write_str(match *place {
            "/output" => "link by a path relative to the link",
            _ => "copy what it leads to",
        })
    }
}

/// What a program left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The directory.
    pub imported: Imported,
    /// Files, links and directories in it.
    pub files: u64,
    /// The first [`Output::MAX_LINKS`] links that lead nowhere after the run, in the order of the import.
    pub links: Vec<StrayLink>,
    /// How many there are beyond these.
    pub more_links: u64,
}

impl Output {
    /// Most links kept: more than anybody reads.
    pub const MAX_LINKS: usize = 100;
}

/// Counts what is imported.
#[derive(Default)]
struct Counted {
    nodes: u64,
    links: Vec<StrayLink>,
    more_links: u64,
}

impl Counted {
    fn count(&mut self, entry: &ImportedEntry) {
        self.nodes += 1;
        let Some(target) = &entry.target else {
            return;
        };
        match place_of_run(&entry.path, target) {
            None => {}
            Some(_) if self.links.len() >= Output::MAX_LINKS => self.more_links += 1,
            Some(place) => self.links.push(StrayLink {
                name: escape(entry.path.as_os_str().as_bytes()),
                target: escape(target),
                place,
            }),
        }
    }
}

/// The directory to which a link of the output leads, if only this run has it: `/input`, what is in `/tmp`,
/// or `/output` by its name. Told by the names alone: other links on the way are not followed. Links to
/// other places may be meant for the root file system of another run.
fn place_of_run(link: &Path, target: &[u8]) -> Option<&'static str> {
    let directory = link.parent().unwrap_or(link).as_os_str().as_bytes();
    let mut names: Vec<&[u8]> = vec![OUTPUT.as_bytes()];
    names.extend(directory.split(|byte| *byte == b'/'));
    names.retain(|name| !name.is_empty());
    let mut has_left = target.starts_with(b"/");
    if has_left {
        names.clear();
    }
    for name in target.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop();
                has_left |= names.is_empty();
            }
            name => names.push(name),
        }
    }
    match names[..] {
        [b"input", ..] => Some("/input"),
        [b"output", ..] if has_left => Some("/output"),
        [b"tmp", _, ..] => Some("/tmp"),
        _ => None,
    }
}

/// The directories that a program may write to.
#[derive(Debug)]
pub struct WritableDirectories {
    /// The directory with both.
    inside: OwnedFd,
    output: PathBuf,
    tmp: PathBuf,
    writable: PathBuf,
    work: PathBuf,
    lower: PathBuf,
}

impl WritableDirectories {
    /// Makes both, empty, in the directory `scratch`, whose owner removes them.
    ///
    /// # Errors
    /// [`OutputError::Make`].
    pub fn create(scratch: &Path) -> Result<WritableDirectories, OutputError> {
        let descriptor = beneath::open_root(scratch).map_err(failed(scratch))?;
        let make = |parent: &OwnedFd, path: &Path, name: &str, mode| {
            let path = path.join(name);
            make_directory(parent, name, mode)
                .map_err(failed(&path))
                .map(|directory| (path, directory))
        };
        let (work, _) = make(&descriptor, scratch, WORK, OWN_MODE)?;
        let (lower, _) = make(&descriptor, scratch, LOWER, OWN_MODE)?;
        let (writable, inside) = make(&descriptor, scratch, WRITABLE, OWN_MODE)?;
        let (output, _) = make(&inside, &writable, OUTPUT, OUTPUT_MODE)?;
        let (tmp, _) = make(&inside, &writable, TMP, TMP_MODE)?;
        Ok(WritableDirectories {
            inside,
            output,
            tmp,
            writable,
            work,
            lower,
        })
    }

    /// What to show at `/output`.
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// What to show at `/tmp`.
    pub fn tmp(&self) -> &Path {
        &self.tmp
    }

    /// The directory that holds both.
    pub fn writable(&self) -> &Path {
        &self.writable
    }

    /// An empty directory on the same file system, for an overlay to work in.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// An empty directory on the same file system, for its lower layer.
    pub fn lower(&self) -> &Path {
        &self.lower
    }

    /// Imports what stands at `/output`, and counts what is in it. No process may have access to it any
    /// more.
    ///
    /// # Errors
    /// [`OutputError::Refused`] and [`OutputError::Import`].
    pub fn import(
        &self,
        blocks: &dyn WriteBlocks,
        options: &ImportOptions,
        reporter: &dyn Reporter,
    ) -> Result<Output, OutputError> {
        let name = Path::new(OUTPUT);
        let mut counted = Counted::default();
        let directory = self.inside.as_fd();
        let mut count = |entry: ImportedEntry| counted.count(&entry);
        let imported = unixfs::import_path(blocks, directory, name, options, reporter, &mut count)
            .map_err(OutputError::of_import)?;
        Ok(Output {
            imported,
            // `/output` itself is none of its files.
            files: counted.nodes - 1,
            links: counted.links,
            more_links: counted.more_links,
        })
    }
}

/// Makes a directory with exactly this mode.
fn make_directory(parent: &OwnedFd, name: &str, mode: u32) -> Result<OwnedFd, Errno> {
    mkdirat(parent, name, Mode::RWXU)?;
    let directory = beneath::open_entry(parent, name.as_bytes())?;
    fchmod(&directory, Mode::from_raw_mode(mode))?;
    Ok(directory)
}

fn failed(path: &Path) -> impl FnOnce(Errno) -> OutputError + use<> {
    let path = path.to_owned();
    move |errno| OutputError::Make {
        path,
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use ipfs_exec_node::block::MemoryBlocks;
    use ipfs_exec_node::progress::Silent;

    use super::*;

    /// Programs link results to their input instead of copying them. Such a link came out of the run
    /// dangling, without a word.
    #[test]
    fn links_that_only_the_run_can_follow_are_told() {
        for (link, target, wanted) in [
            ("a", "/input", Some("/input")),
            ("a", "/input/x", Some("/input")),
            ("a", "../input/x", Some("/input")),
            ("a", "../../..//./input/x", Some("/input")),
            ("d/e/a", "../../../input", Some("/input")),
            ("d/e/a", "../../input", None),
            ("a", "/bin/../input/x", Some("/input")),
            ("a", "input/x", None),
            ("a", "/inputs", None),
            ("a", "/usr/input", None),
            ("a", "/tmp/x", Some("/tmp")),
            ("var/tmp", "/tmp", None),
            ("a", "/output/b", Some("/output")),
            ("a", "../output/b", Some("/output")),
            ("d/a", "../b", None),
            ("a", "b", None),
            ("a", "/etc/passwd", None),
            ("a", "..", None),
            ("a", "/", None),
        ] {
            assert_eq!(
                place_of_run(Path::new(link), target.as_bytes()),
                wanted,
                "{link} -> {target}"
            );
        }
    }

    #[test]
    fn told_links_are_bounded_and_the_output_stays_as_it_is() {
        let scratch = tempfile::tempdir().unwrap();
        let directories = WritableDirectories::create(scratch.path()).unwrap();
        for number in 0..Output::MAX_LINKS + 3 {
            symlink(
                "/input/\u{1b}",
                directories.output().join(format!("{number:03}")),
            )
            .unwrap();
        }
        let blocks = MemoryBlocks::default();
        let options = ImportOptions::default();
        let output = directories.import(&blocks, &options, &Silent).unwrap();
        assert_eq!((output.links.len(), output.more_links), (100, 3));
        assert_eq!(output.files, 103);
        let mut links = output.links;
        links.sort_by(|one, other| one.name.cmp(&other.name));
        assert!(links[0].target.contains("\\u{1b}"), "{:?}", links[0]);
        let directory = beneath::open_root(scratch.path()).unwrap();
        let name = Path::new("writable/output");
        let added = unixfs::import_path(
            &blocks,
            directory.as_fd(),
            name,
            &options,
            &Silent,
            &mut |_| {},
        );
        assert_eq!(output.imported, added.unwrap());
    }
}
