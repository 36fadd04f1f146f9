//! Making a DAG of members, without files.
//!
//! A member goes to the same place as where it is unpacked, and is refused for the same: links of the
//! archive are followed inside the tree, the last of several entries with one path counts, and paths
//! through files and hard links to what is not there are refused.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};

use ipfs_exec_node::Cid;
use ipfs_exec_node::block::WriteBlocks;
use ipfs_exec_node::budget::{Budget, KeepFree};
use ipfs_exec_node::path::{EntryName, escape};
use ipfs_exec_node::profile::Profile;
use ipfs_exec_node::progress::Reporter;
use ipfs_exec_node::unixfs::{
    self, DirectoryBuilder, ImportOptions, Imported, Metadata, Mtime, UnixfsError,
};
use rustix::fs::Timespec;
use rustix::io::Errno;

use super::Destination;
use super::bounds::MAX_DIRECTORY_BYTES;
use super::error::{ArchiveError, Refusal};
use super::follow::{self, Standing, Tree, follow};
use super::member::{Members, NO_TIME};
use super::path::{self, EntryPath};
use super::sparse::Layout;
use super::tree_writer::{DIRECTORY_MODE_MASK, FILE_MODE_MASK, IMPLIED_MODE};

/// Memory that an entry takes beside its path, in bytes, roughly.
const ENTRY_OVERHEAD_BYTES: usize = 320;

/// What was planted at a path.
#[derive(Clone)]
enum Planted {
    Directory { mode: u32, mtime: Timespec },
    File(Imported),
    Link { imported: Imported, target: Vec<u8> },
}

impl Planted {
    /// Memory that it takes beside its path and [`ENTRY_OVERHEAD_BYTES`].
    fn own_bytes(&self) -> usize {
        match self {
            Planted::Link { target, .. } => target.len(),
            _ => 0,
        }
    }
}

/// Writes the members of an archive as a UnixFS directory.
pub(super) struct DagWriter<'b> {
    blocks: &'b dyn WriteBlocks,
    profile: &'b Profile,
    budget: &'b Budget,
    reporter: &'b dyn Reporter,
    /// By path, that of the top the empty one.
    entries: BTreeMap<Vec<u8>, Planted>,
    entry_bytes: usize,
}

impl<'b> DagWriter<'b> {
    pub(super) fn new(
        blocks: &'b dyn WriteBlocks,
        profile: &'b Profile,
        budget: &'b Budget,
        reporter: &'b dyn Reporter,
    ) -> DagWriter<'b> {
        let top = Planted::Directory {
            mode: IMPLIED_MODE,
            mtime: NO_TIME,
        };
        DagWriter {
            blocks,
            profile,
            budget,
            reporter,
            entry_bytes: bytes_of(b"", &top),
            entries: BTreeMap::from([(Vec::new(), top)]),
        }
    }

    /// Builds the directories, the deepest first.
    pub(super) fn finish(self) -> Result<Imported, ArchiveError> {
        let mut children: HashMap<Vec<u8>, Vec<(Vec<u8>, Imported)>> = HashMap::new();
        let mut paths: Vec<(Vec<u8>, Planted)> = self.entries.into_iter().collect();
        paths.sort_by_key(|(path, _)| std::cmp::Reverse(depth(path)));
        let mut root = None;
        let keep_free = &self.budget.keep_free;
        for (path, planted) in paths {
            let imported = match planted {
                Planted::File(imported) | Planted::Link { imported, .. } => imported,
                Planted::Directory { mode, mtime } => {
                    let metadata = Metadata {
                        mode: Some(mode),
                        mtime: recorded(mtime),
                    };
                    let entries = children.remove(&path).unwrap_or_default();
                    build(self.blocks, self.profile, keep_free, metadata, entries)
                        .map_err(|source| kept(&path, source))?
                }
            };
            match path.iter().rposition(|byte| *byte == b'/') {
                _ if path.is_empty() => root = Some(imported),
                Some(slash) => {
                    let siblings = children.entry(path[..slash].to_vec()).or_default();
                    siblings.push((path[slash + 1..].to_vec(), imported));
                }
                None => children
                    .entry(Vec::new())
                    .or_default()
                    .push((path, imported)),
            }
        }
        Ok(root.expect("the top is an entry"))
    }

    /// Where the entry `path` goes, without links; directories on the way are made where they are missing.
    fn spot(&mut self, path: &EntryPath) -> Result<EntryPath, ArchiveError> {
        let (parent, name) = path.split().ok_or_else(|| path.refused(Refusal::NoName))?;
        let refused = |reason| path.refused(reason);
        if let Some(Planted::Directory { .. }) = self.entries.get(parent) {
            return Ok(path.clone());
        }
        let parent = follow(self, parent).map_err(|stray| stray.of(path))?;
        self.imply(path, parent.as_bytes())?;
        parent.join(name).map_err(refused)
    }

    /// Makes the directory `parent`, a path without links, and those above it, where they are missing.
    fn imply(&mut self, path: &EntryPath, parent: &[u8]) -> Result<(), ArchiveError> {
        let ends = parent.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let ends: Vec<usize> = ends.map(|(at, _)| at).chain([parent.len()]).collect();
        for end in ends {
            if !self.entries.contains_key(&parent[..end]) {
                let implied = Planted::Directory {
                    mode: IMPLIED_MODE,
                    mtime: NO_TIME,
                };
                self.keep(path, &parent[..end], implied)?;
            }
        }
        Ok(())
    }

    /// Keeps `planted` at `spot`, in place of what an earlier entry left there.
    fn keep(
        &mut self,
        entry: &EntryPath,
        spot: &[u8],
        planted: Planted,
    ) -> Result<(), ArchiveError> {
        self.entry_bytes += bytes_of(spot, &planted);
        if let Some(earlier) = self.entries.insert(spot.to_owned(), planted) {
            self.entry_bytes -= bytes_of(spot, &earlier);
        }
        match self.entry_bytes > MAX_DIRECTORY_BYTES {
            true => Err(entry.refused(Refusal::TooManyDirectories)),
            false => Ok(()),
        }
    }

    /// Memory that the entries take, in bytes, roughly.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.entry_bytes
    }

    /// Forgets what an earlier entry left at `spot`.
    fn remove(&mut self, spot: &EntryPath) {
        let gone = self.entries.range(path::below(spot.as_bytes()));
        let gone = gone.map(|(path, _)| path.clone());
        for path in gone.chain([spot.as_bytes().to_vec()]).collect::<Vec<_>>() {
            if let Some(planted) = self.entries.remove(&path) {
                self.entry_bytes -= bytes_of(&path, &planted);
            }
        }
    }
}

impl Tree for DagWriter<'_> {
    fn look(&self, path: &[u8]) -> Result<Standing, Errno> {
        Ok(match self.entries.get(path) {
            None => Standing::Nothing,
            Some(Planted::Directory { .. }) => Standing::Directory,
            Some(Planted::Link { target, .. }) => Standing::Link(target.clone()),
            Some(Planted::File(_)) => Standing::Other,
        })
    }
}

impl Destination for DagWriter<'_> {
    fn directory(
        &mut self,
        path: &EntryPath,
        mode: u32,
        mtime: Timespec,
    ) -> Result<(), ArchiveError> {
        let planted = Planted::Directory {
            mode: mode & DIRECTORY_MODE_MASK,
            mtime,
        };
        if path.split().is_none() {
            return self.keep(path, b"", planted);
        }
        let spot = self.spot(path)?;
        match self.entries.get(spot.as_bytes()) {
            None | Some(Planted::Directory { .. }) => {}
            Some(_) => self.remove(&spot),
        }
        self.keep(path, spot.as_bytes(), planted)
    }

    fn file<R: Read + Send>(
        &mut self,
        path: &EntryPath,
        mode: u32,
        mtime: Timespec,
        layout: &Layout,
        members: &mut Members<'_, R>,
    ) -> Result<(), ArchiveError> {
        let spot = self.spot(path)?;
        self.remove(&spot);
        let mut content = Content {
            members,
            layout,
            region: 0,
            position: 0,
            failure: None,
        };
        let options = ImportOptions {
            profile: self.profile.clone(),
            mode: Some(mode & FILE_MODE_MASK),
            mtime: recorded(mtime),
            // Bytes and entries are counted over the whole archive, where it is read.
            budget: Budget {
                deadline: self.budget.deadline,
                keep_free: self.budget.keep_free,
                ..Budget::UNLIMITED
            },
            ..ImportOptions::default()
        };
        let imported = unixfs::import_stream(self.blocks, &mut content, &options, self.reporter);
        if let Some(failure) = content.failure {
            return Err(failure);
        }
        let imported = imported.map_err(|source| kept(path.as_bytes(), source))?;
        self.keep(path, spot.as_bytes(), Planted::File(imported))
    }

    fn symlink(
        &mut self,
        path: &EntryPath,
        target: &[u8],
        mtime: Timespec,
    ) -> Result<(), ArchiveError> {
        path.check_target(target)?;
        let spot = self.spot(path)?;
        self.remove(&spot);
        let version = self.profile.cid_version;
        let keep_free = &self.budget.keep_free;
        let mtime = recorded(mtime);
        let imported = unixfs::import_symlink(self.blocks, target, mtime, version, keep_free);
        let imported = imported.map_err(|source| kept(path.as_bytes(), source))?;
        let target = target.to_owned();
        self.keep(path, spot.as_bytes(), Planted::Link { imported, target })
    }

    fn hard_link(&mut self, path: &EntryPath, target: &[u8]) -> Result<(), ArchiveError> {
        let refuse = |reason| path.refused(reason);
        let target = follow::target(self, target).map_err(|stray| stray.of(path))?;
        let planted = match self.entries.get(target.as_bytes()) {
            None => return Err(refuse(Refusal::MissingTarget)),
            Some(Planted::Directory { .. }) => return Err(refuse(Refusal::DirectoryTarget)),
            Some(planted) => planted.clone(),
        };
        let spot = self.spot(path)?;
        if spot == target {
            return Ok(());
        }
        if target.is_below(&spot) {
            return Err(refuse(Refusal::TargetReplaced));
        }
        self.remove(&spot);
        self.keep(path, spot.as_bytes(), planted)
    }
}

/// Memory that an entry takes.
fn bytes_of(path: &[u8], planted: &Planted) -> usize {
    path.len() + ENTRY_OVERHEAD_BYTES + planted.own_bytes()
}

/// The content of the current member, holes as zeros.
struct Content<'m, 'r, R> {
    members: &'m mut Members<'r, R>,
    layout: &'m Layout,
    /// The region that is being read or comes next.
    region: usize,
    position: u64,
    /// What ended it: an [`io::Error`] cannot tell.
    failure: Option<ArchiveError>,
}

impl<R: Read> Read for Content<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let regions = &self.layout.regions;
        while let Some(region) = regions.get(self.region)
            && region.offset + region.length <= self.position
        {
            self.region += 1;
        }
        let next = regions.get(self.region);
        let hole_ends = next.map_or(self.layout.size, |region| region.offset);
        if hole_ends > self.position {
            let length = buffer.len().min((hole_ends - self.position) as usize);
            buffer[..length].fill(0);
            self.position += length as u64;
            return Ok(length);
        }
        let Some(region) = next else {
            return Ok(0);
        };
        let left = region.offset + region.length - self.position;
        match self.members.content(left.min(buffer.len() as u64)) {
            Ok(part) => {
                let length = part.len();
                buffer[..length].copy_from_slice(part);
                self.members.take_content(length);
                self.position += length as u64;
                Ok(length)
            }
            Err(error) => {
                self.failure = Some(error);
                Err(io::ErrorKind::InvalidData.into())
            }
        }
    }
}

fn build(
    blocks: &dyn WriteBlocks,
    profile: &Profile,
    keep_free: &KeepFree,
    metadata: Metadata,
    entries: Vec<(Vec<u8>, Imported)>,
) -> Result<Imported, UnixfsError> {
    let mut builder = DirectoryBuilder::new(metadata);
    let mut bytes = 0;
    for (name, imported) in entries {
        let name = EntryName::new(&name).expect("names were checked when they were read");
        builder.add(&name, &imported.cid, imported.cumulative_bytes);
        bytes += imported.bytes;
    }
    let mut put = |block| Ok(blocks.put_within(&[block], keep_free)?);
    let built = builder.finish(profile, &mut put)?;
    let cid: Cid = built.cid;
    Ok(Imported {
        cid,
        bytes,
        cumulative_bytes: built.cumulative_size,
    })
}

fn depth(path: &[u8]) -> usize {
    match path {
        [] => 0,
        path => 1 + path.iter().filter(|byte| **byte == b'/').count(),
    }
}

/// As where a tree is added with its times, so that it has the same CID.
fn recorded(mtime: Timespec) -> Option<Mtime> {
    Some(Mtime {
        seconds: mtime.tv_sec,
        nanoseconds: mtime.tv_nsec as u32,
    })
}

fn kept(path: &[u8], source: UnixfsError) -> ArchiveError {
    match source {
        UnixfsError::Interrupted => ArchiveError::Interrupted,
        UnixfsError::ImportBudget { source, .. } => ArchiveError::Budget(source),
        source => ArchiveError::Keep {
            name: escape(path),
            source: Box::new(source),
        },
    }
}
