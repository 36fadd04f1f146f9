//! One UnixFS node, decoded and checked against itself.

use std::fmt;

use bytes::Bytes;

use super::UnixfsError;
use super::data::{self, Data, DataType, InvalidData, Metadata};
use super::hamt::ShardShape;
use crate::block::{Cid, DAG_PB, RAW, ReadBlocks, ReadBlocksExt};
use crate::dag::pb::{self, PbNode};
use crate::limits;

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeKind {
    /// A file, of one block or many.
    File,
    /// A directory of one block.
    Directory,
    /// A directory spread over a HAMT.
    ShardedDirectory,
    /// A symbolic link.
    Symlink,
}

impl NodeKind {
    /// Whether it is a directory of either form.
    pub fn is_directory(self) -> bool {
        matches!(self, NodeKind::Directory | NodeKind::ShardedDirectory)
    }
}

impl fmt::Display for NodeKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            NodeKind::File => "file",
            NodeKind::Directory | NodeKind::ShardedDirectory => "directory",
            NodeKind::Symlink => "symbolic link",
        })
    }
}

/// A link to a part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FilePart {
    pub(super) cid: Cid,
    /// Bytes of content below.
    pub(super) size: u64,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// Content of its own, then the parts in order.
    File {
        inline: Bytes,
        parts: Vec<FilePart>,
    },
    Directory,
    Shard(ShardShape),
    Symlink {
        target: Bytes,
    },
}

/// A decoded node.
#[derive(Clone, Debug)]
pub struct Node {
    cid: Cid,
    block: Bytes,
    pub(super) content: Content,
    metadata: Metadata,
    links: usize,
    below: u64,
}

impl Node {
    /// Reads the node `cid`.
    ///
    /// # Errors
    /// Where the block cannot be had, or is no well-formed node.
    pub fn load(blocks: &dyn ReadBlocks, cid: &Cid) -> Result<Node, UnixfsError> {
        Node::decode(cid, blocks.get(cid)?)
    }

    /// The same, or `None` for data that is no UnixFS: a directory may link to any.
    ///
    /// # Errors
    /// As [`Node::load`], but for [`UnixfsError::NotUnixfs`].
    pub fn load_if_unixfs(blocks: &dyn ReadBlocks, cid: &Cid) -> Result<Option<Node>, UnixfsError> {
        match Node::load(blocks, cid) {
            Err(UnixfsError::NotUnixfs { .. }) => Ok(None),
            loaded => loaded.map(Some),
        }
    }

    /// Reads a block as a node.
    ///
    /// # Errors
    /// As [`Node::load`].
    pub fn decode(cid: &Cid, block: Bytes) -> Result<Node, UnixfsError> {
        match cid.codec() {
            RAW => Ok(Node {
                cid: *cid,
                content: Content::File {
                    inline: block.clone(),
                    parts: Vec::new(),
                },
                block,
                metadata: Metadata::default(),
                links: 0,
                below: 0,
            }),
            DAG_PB => decode_pb(cid, block),
            codec => Err(UnixfsError::NotUnixfs { cid: *cid, codec }),
        }
    }

    /// Its CID.
    pub fn cid(&self) -> &Cid {
        &self.cid
    }

    /// What it is.
    pub fn kind(&self) -> NodeKind {
        match self.content {
            Content::File { .. } => NodeKind::File,
            Content::Directory => NodeKind::Directory,
            Content::Shard(_) => NodeKind::ShardedDirectory,
            Content::Symlink { .. } => NodeKind::Symlink,
        }
    }

    /// Mode and mtime, where they are recorded.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Bytes of the block.
    pub fn block_bytes(&self) -> usize {
        self.block.len()
    }

    /// How many links the block has.
    pub fn links(&self) -> usize {
        self.links
    }

    /// Bytes of content of a file, bytes of the target of a link, 0 for a directory.
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::File { inline, parts } => {
                inline.len() as u64 + parts.iter().map(|part| part.size).sum::<u64>()
            }
            Content::Symlink { target } => target.len() as u64,
            Content::Directory | Content::Shard(_) => 0,
        }
    }

    /// Bytes of the block and of all blocks below, as the links say.
    pub fn cumulative_size(&self) -> u64 {
        self.below.saturating_add(self.block.len() as u64)
    }

    /// The target, if this is a symbolic link.
    pub fn symlink_target(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Symlink { target } => Some(target),
            _ => None,
        }
    }

    /// The links and the data, decoded from the block once more.
    pub(super) fn pb(&self) -> Result<PbNode<'_>, UnixfsError> {
        pb::decode(&self.block).map_err(|source| UnixfsError::InvalidPb {
            cid: self.cid,
            source,
        })
    }
}

fn decode_pb(cid: &Cid, block: Bytes) -> Result<Node, UnixfsError> {
    let invalid = |InvalidData(reason)| UnixfsError::Invalid { cid: *cid, reason };
    let node = pb::decode(&block).map_err(|source| UnixfsError::InvalidPb { cid: *cid, source })?;
    let message = node.data.ok_or(invalid(InvalidData("it has no data")))?;
    let data = data::decode(message).map_err(invalid)?;
    let content = match data.kind {
        DataType::File | DataType::Raw => file_content(cid, &block, &node, &data)?,
        DataType::Directory => Content::Directory,
        DataType::HamtShard => {
            Content::Shard(ShardShape::of(&data, node.links.len()).map_err(invalid)?)
        }
        DataType::Symlink => Content::Symlink {
            target: symlink_target(&block, &data).map_err(invalid)?,
        },
    };
    Ok(Node {
        cid: *cid,
        content,
        metadata: data.metadata,
        links: node.links.len(),
        below: node
            .links
            .iter()
            .fold(0, |sum, link| sum.saturating_add(link.size)),
        block: block.clone(),
    })
}

/// Checks that a file node agrees with itself: a size for each link, and their sum.
fn file_content(
    cid: &Cid,
    block: &Bytes,
    node: &PbNode<'_>,
    data: &Data<'_>,
) -> Result<Content, UnixfsError> {
    let invalid = |reason| UnixfsError::Invalid { cid: *cid, reason };
    if node.links.len() != data.block_sizes.len() {
        return Err(invalid("it does not declare one size for each link"));
    }
    let inline = data
        .data
        .map_or_else(Bytes::new, |bytes| block.slice_ref(bytes));
    let actual = data
        .block_sizes
        .iter()
        .try_fold(inline.len() as u64, |sum, size| sum.checked_add(*size))
        .filter(|sum| i64::try_from(*sum).is_ok())
        .ok_or(invalid("its size does not fit 63 bits"))?;
    if let Some(declared) = data.file_size.filter(|declared| *declared != actual) {
        return Err(UnixfsError::SizeMismatch {
            cid: *cid,
            declared,
            actual,
        });
    }
    let links = node.links.iter().zip(&data.block_sizes);
    let parts = links
        .map(|(link, size)| FilePart {
            cid: link.cid,
            size: *size,
        })
        .collect();
    Ok(Content::File { inline, parts })
}

fn symlink_target(block: &Bytes, data: &Data<'_>) -> Result<Bytes, InvalidData> {
    let target = data.data.unwrap_or_default();
    if target.is_empty() {
        return Err(InvalidData("it is a symbolic link without a target"));
    }
    if target.len() > limits::MAX_SYMLINK_BYTES {
        return Err(InvalidData(
            "it is a symbolic link with a target of more than 4095 bytes",
        ));
    }
    if target.contains(&0) {
        return Err(InvalidData(
            "it is a symbolic link with a NUL byte in its target",
        ));
    }
    Ok(block.slice_ref(target))
}
