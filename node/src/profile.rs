//! Import profiles: every choice that decides which CID a tree gets.
//!
//! The two named profiles are those of [IPIP-499]; each field can be varied as Kubo's options do.
//!
//! [IPIP-499]: https://specs.ipfs.tech/ipips/ipip-0499/

use cid::Version;

/// When a directory becomes a HAMT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShardThreshold {
    /// Above this many bytes of entry names and CIDs, summed: the rule of Kubo before IPIP-499.
    LinkBytes(u64),
    /// Above this many bytes of the encoded directory block.
    BlockBytes(u64),
    /// Never, whatever the size; a directory block above the block limit is then an error.
    Never,
}

/// How files and directories become blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Version of the CIDs of dag-pb nodes. Raw leaves always have a CIDv1.
    pub cid_version: Version,
    /// Whether leaves are raw blocks, or dag-pb nodes of UnixFS type file.
    pub raw_leaves: bool,
    /// Bytes of content a leaf, 1 to [`limits::MAX_CHUNK_BYTES`](crate::limits::MAX_CHUNK_BYTES).
    pub chunk_bytes: usize,
    /// Links a file node, 2 to [`limits::MAX_FILE_LINKS`](crate::limits::MAX_FILE_LINKS).
    pub links_per_node: usize,
    /// When directories are sharded.
    pub shard_threshold: ShardThreshold,
    /// Entries a HAMT shard: a power of two within [`limits::HAMT_FANOUT`](crate::limits::HAMT_FANOUT).
    pub hamt_fanout: u64,
}

impl Profile {
    /// `unixfs-v0-2015`: what `ipfs add` has always done.
    pub const UNIXFS_V0_2015: Profile = Profile {
        cid_version: Version::V0,
        raw_leaves: false,
        chunk_bytes: 256 * 1024,
        links_per_node: 174,
        shard_threshold: ShardThreshold::LinkBytes(256 * 1024),
        hamt_fanout: 256,
    };

    /// `unixfs-v1-2025`: CIDv1, raw leaves, larger blocks.
    pub const UNIXFS_V1_2025: Profile = Profile {
        cid_version: Version::V1,
        raw_leaves: true,
        chunk_bytes: 1024 * 1024,
        links_per_node: 1024,
        shard_threshold: ShardThreshold::BlockBytes(256 * 1024),
        hamt_fanout: 256,
    };

    /// The profile of that name.
    pub fn named(name: &str) -> Option<Profile> {
        match name {
            "unixfs-v0-2015" => Some(Profile::UNIXFS_V0_2015),
            "unixfs-v1-2025" => Some(Profile::UNIXFS_V1_2025),
            _ => None,
        }
    }
}

impl Default for Profile {
    fn default() -> Profile {
        Profile::UNIXFS_V0_2015
    }
}
