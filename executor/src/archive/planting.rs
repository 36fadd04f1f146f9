//! Making a DAG of members, without files.
//!
//! What a member is refused for is the same as where it is unpacked: names that stand already, paths
//! through links or files, links to what is not there.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};

use ipfs_exec_node::block::Blocks;
use ipfs_exec_node::budget::{Budget, KeepFree};
use ipfs_exec_node::path::{EntryName, escape};
use ipfs_exec_node::profile::Profile;
use ipfs_exec_node::progress::Reporter;
use ipfs_exec_node::unixfs::{
    self, DirectoryBuilder, ImportOptions, Imported, Metadata, Mtime, UnixfsError,
};
use ipfs_exec_node::{Cid, limits};
use rustix::fs::Timespec;

use super::Destination;
use super::bounds::MAX_DIRECTORY_BYTES;
use super::error::{ArchiveError, Refusal};
use super::member::{Members, NO_TIME};
use super::path::EntryPath;
use super::placement::{DIRECTORY_MODE_MASK, FILE_MODE_MASK, IMPLIED_MODE, refused};
use super::sparse::Layout;

/// Memory that an entry takes beside its path, in bytes, roughly.
const ENTRY_OVERHEAD_BYTES: usize = 320;

/// What was planted at a path.
#[derive(Clone)]
enum Planted {
    Directory { mode: u32, mtime: Timespec },
    File(Imported),
    Link(Imported),
}

/// See the [module](self).
pub(super) struct Planting<'b> {
    blocks: &'b dyn Blocks,
    profile: &'b Profile,
    budget: &'b Budget,
    reporter: &'b dyn Reporter,
    /// By path, that of the top the empty one.
    entries: BTreeMap<Vec<u8>, Planted>,
    entry_bytes: usize,
}

impl<'b> Planting<'b> {
    pub(super) fn new(
        blocks: &'b dyn Blocks,
        profile: &'b Profile,
        budget: &'b Budget,
        reporter: &'b dyn Reporter,
    ) -> Planting<'b> {
        let top = Planted::Directory {
            mode: IMPLIED_MODE,
            mtime: NO_TIME,
        };
        Planting {
            blocks,
            profile,
            budget,
            reporter,
            entries: BTreeMap::from([(Vec::new(), top)]),
            entry_bytes: 0,
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
                Planted::File(imported) | Planted::Link(imported) => imported,
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

    /// Makes room for an entry that is no directory.
    fn place(&mut self, path: &EntryPath) -> Result<(), ArchiveError> {
        let (parent, _) = path.split().ok_or_else(|| refused(path, Refusal::NoName))?;
        self.imply(path, parent)?;
        match self.entries.contains_key(path.as_bytes()) {
            true => Err(refused(path, Refusal::Collision)),
            false => Ok(()),
        }
    }

    /// Makes the directories on the way to `path`, as far as they are missing.
    fn imply(&mut self, path: &EntryPath, parent: &[u8]) -> Result<(), ArchiveError> {
        if matches!(self.entries.get(parent), Some(Planted::Directory { .. })) {
            return Ok(());
        }
        let ends = parent.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let ends: Vec<usize> = ends.map(|(at, _)| at).chain([parent.len()]).collect();
        for end in ends {
            match self.entries.get(&parent[..end]) {
                Some(Planted::Directory { .. }) => {}
                Some(Planted::Link(_)) => return Err(refused(path, Refusal::ThroughLink)),
                Some(Planted::File(_)) => return Err(refused(path, Refusal::ThroughFile)),
                None => {
                    let implied = Planted::Directory {
                        mode: IMPLIED_MODE,
                        mtime: NO_TIME,
                    };
                    self.keep(path, &parent[..end], implied)?;
                }
            }
        }
        Ok(())
    }

    fn keep(
        &mut self,
        entry: &EntryPath,
        path: &[u8],
        planted: Planted,
    ) -> Result<(), ArchiveError> {
        if self.entries.insert(path.to_owned(), planted).is_none() {
            self.entry_bytes += path.len() + ENTRY_OVERHEAD_BYTES;
        }
        match self.entry_bytes > MAX_DIRECTORY_BYTES {
            true => Err(refused(entry, Refusal::TooManyDirectories)),
            false => Ok(()),
        }
    }
}

impl Destination for Planting<'_> {
    fn directory(
        &mut self,
        path: &EntryPath,
        mode: u32,
        mtime: Timespec,
    ) -> Result<(), ArchiveError> {
        if let Some((parent, _)) = path.split() {
            self.imply(path, parent)?;
        }
        match self.entries.get(path.as_bytes()) {
            None | Some(Planted::Directory { .. }) => {}
            Some(_) => return Err(refused(path, Refusal::Collision)),
        }
        let mode = mode & DIRECTORY_MODE_MASK;
        self.keep(path, path.as_bytes(), Planted::Directory { mode, mtime })
    }

    fn file<R: Read + Send>(
        &mut self,
        path: &EntryPath,
        mode: u32,
        mtime: Timespec,
        layout: &Layout,
        members: &mut Members<'_, R>,
    ) -> Result<(), ArchiveError> {
        self.place(path)?;
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
        self.keep(path, path.as_bytes(), Planted::File(imported))
    }

    fn symlink(
        &mut self,
        path: &EntryPath,
        target: &[u8],
        mtime: Timespec,
    ) -> Result<(), ArchiveError> {
        if target.is_empty() || target.len() > limits::MAX_SYMLINK_BYTES || target.contains(&0) {
            return Err(refused(path, Refusal::InvalidTarget));
        }
        self.place(path)?;
        let version = self.profile.cid_version;
        let keep_free = &self.budget.keep_free;
        let mtime = recorded(mtime);
        let imported = unixfs::import_symlink(self.blocks, target, mtime, version, keep_free);
        let imported = imported.map_err(|source| kept(path.as_bytes(), source))?;
        self.keep(path, path.as_bytes(), Planted::Link(imported))
    }

    fn hard_link(&mut self, path: &EntryPath, target: &[u8]) -> Result<(), ArchiveError> {
        let refuse = |reason| refused(path, reason);
        let target = EntryPath::parse(target).map_err(|_| refuse(Refusal::TargetOutside))?;
        let (parent, _) = target.split().ok_or(refuse(Refusal::DirectoryTarget))?;
        let mut above = parent;
        loop {
            match self.entries.get(above) {
                Some(Planted::Link(_)) => return Err(refuse(Refusal::TargetOutside)),
                Some(Planted::File(_)) => return Err(refuse(Refusal::MissingTarget)),
                Some(Planted::Directory { .. }) | None => {}
            }
            match above.iter().rposition(|byte| *byte == b'/') {
                Some(slash) => above = &above[..slash],
                None => break,
            }
        }
        let planted = match self.entries.get(target.as_bytes()) {
            None => return Err(refuse(Refusal::MissingTarget)),
            Some(Planted::Directory { .. }) => return Err(refuse(Refusal::DirectoryTarget)),
            Some(planted) => planted.clone(),
        };
        self.place(path)?;
        self.keep(path, path.as_bytes(), planted)
    }
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
    blocks: &dyn Blocks,
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
