//! From a content path to the CID of the node it names.

use super::{Node, UnixfsError, lookup};
use crate::block::{Cid, ReadBlocks};
use crate::path::{ContentPath, PathRoot};

/// Follows the names of `path` through directories. Symbolic links are not followed: they are
/// content.
///
/// # Errors
/// [`UnixfsError::NotFound`], [`UnixfsError::NotDirectory`], [`UnixfsError::UnresolvedName`] for a
/// mutable name, or where a block is missing or malformed.
pub fn resolve(blocks: &dyn ReadBlocks, path: &ContentPath) -> Result<Cid, UnixfsError> {
    let mut cid = match &path.root {
        PathRoot::Cid(cid) => *cid,
        PathRoot::Name(name) => {
            return Err(UnixfsError::UnresolvedName {
                name: name.to_string(),
            });
        }
    };
    for segment in &path.segments {
        let node = Node::load(blocks, &cid)?;
        if !node.kind().is_directory() {
            return Err(UnixfsError::NotDirectory {
                cid,
                kind: node.kind(),
            });
        }
        cid = lookup(blocks, &cid, segment)?.cid;
    }
    Ok(cid)
}
