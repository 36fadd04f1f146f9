//! A walk through the entries of a directory and of the directories below it, depth first.

use super::UnixfsError;
use super::directory::{Entry, Listing};
use crate::block::{Cid, ReadBlocks};
use crate::limits;

/// Entries that a visitor sees together.
const BATCH_ENTRIES: usize = 512;

/// Learns what a walk finds.
pub trait Visitor {
    /// Ends a walk. [`UnixfsError`] is one of the reasons.
    type Error: From<UnixfsError>;

    /// Entries of one directory, each of which [`Visitor::entry`] gets next. A visitor that needs their
    /// blocks can have them fetched together.
    ///
    /// # Errors
    /// Ends the walk.
    fn batch(&mut self, _entries: &[Entry]) -> Result<(), Self::Error> {
        Ok(())
    }

    /// An entry, with its path below the root. The walk lists it next if this is true; it must be a directory
    /// then.
    ///
    /// # Errors
    /// Ends the walk.
    fn entry(&mut self, path: &[u8], entry: &Entry) -> Result<bool, Self::Error>;

    /// A directory below the root of which part cannot be listed, or an entry with a forbidden name. The walk
    /// goes on beside it.
    ///
    /// # Errors
    /// Ends the walk.
    fn unreadable(&mut self, path: &[u8], error: UnixfsError) -> Result<(), Self::Error>;
}

/// A directory that is still to be listed.
struct Below {
    cid: Cid,
    path: Vec<u8>,
    depth: usize,
}

/// Walks through the directory `root`. Memory is that of one batch, and of the directories beside the path to it.
///
/// # Errors
/// Those of the visitor, and [`UnixfsError`] where `root` cannot be listed or the tree is deeper than
/// [`limits::MAX_DIRECTORY_DEPTH`].
pub fn walk<V: Visitor>(
    blocks: &dyn ReadBlocks,
    root: &Cid,
    visitor: &mut V,
) -> Result<(), V::Error> {
    let mut pending = vec![Below {
        cid: *root,
        path: Vec::new(),
        depth: 1,
    }];
    while let Some(directory) = pending.pop() {
        if directory.depth > limits::MAX_DIRECTORY_DEPTH {
            let limit = limits::MAX_DIRECTORY_DEPTH;
            let cid = directory.cid;
            return Err(UnixfsError::TooDeep { cid, limit }.into());
        }
        let mut below = Vec::new();
        let mut listing = Listing::new(directory.cid);
        let mut batch = Vec::new();
        loop {
            let next = listing.next(blocks);
            let is_end = !matches!(next, Ok(Some(_)));
            if is_end || batch.len() >= BATCH_ENTRIES {
                visit(&directory, &mut batch, visitor, &mut below)?;
            }
            match next {
                Ok(Some(entry)) => batch.push(entry),
                Ok(None) => break,
                Err(error) if directory.path.is_empty() => return Err(error.into()),
                Err(error) => {
                    visitor.unreadable(&directory.path, error)?;
                    break;
                }
            }
        }
        pending.extend(below.into_iter().rev());
    }
    Ok(())
}

fn visit<V: Visitor>(
    directory: &Below,
    batch: &mut Vec<Entry>,
    visitor: &mut V,
    below: &mut Vec<Below>,
) -> Result<(), V::Error> {
    visitor.batch(batch)?;
    for entry in batch.drain(..) {
        let mut path = directory.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&entry.name);
        if let Err(error) = entry.checked_name(&directory.cid) {
            visitor.unreadable(&path, error)?;
        } else if visitor.entry(&path, &entry)? {
            below.push(Below {
                cid: entry.cid,
                path,
                depth: directory.depth + 1,
            });
        }
    }
    Ok(())
}
