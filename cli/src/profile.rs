//! The options that decide CIDs, as Kubo names them.

use clap::Args;
use ipfs_exec_node::limits;
use ipfs_exec_node::profile::{Profile, ShardThreshold};

use crate::error::CommandError;

/// How content becomes blocks.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "CID options")]
pub(crate) struct ProfileArgs {
    /// Import profile: `unixfs-v0-2015` or `unixfs-v1-2025`
    #[arg(long, value_name = "NAME", default_value = "unixfs-v0-2015")]
    profile: String,

    /// CID version, 0 or 1. Version 1 turns on raw leaves unless `--raw-leaves=false` is given
    #[arg(long, value_name = "N")]
    cid_version: Option<u8>,

    /// Use raw blocks for leaves
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) raw_leaves: Option<bool>,

    /// Size of a chunk: `size-N`, with N in bytes
    #[arg(long, short = 's', value_name = "CHUNKER")]
    chunker: Option<String>,

    /// Maximum number of links of a file node
    #[arg(long, value_name = "N")]
    max_file_links: Option<usize>,

    /// Directories above this size become HAMT directories; 0 turns this off
    #[arg(long, value_name = "BYTES")]
    hamt_threshold: Option<u64>,
}

impl ProfileArgs {
    /// The profile that the options describe.
    pub(crate) fn profile(&self) -> Result<Profile, CommandError> {
        let mut profile = Profile::named(&self.profile).ok_or_else(|| {
            CommandError::usage(format!("there is no profile `{}`", self.profile))
                .with_hint("the profiles are `unixfs-v0-2015` and `unixfs-v1-2025`")
        })?;
        match self.cid_version {
            None => {}
            Some(0) => profile.cid_version = cid::Version::V0,
            Some(1) => {
                profile.cid_version = cid::Version::V1;
                profile.raw_leaves = true;
            }
            Some(other) => {
                return Err(CommandError::usage(format!(
                    "there is no CID version {other}"
                )));
            }
        }
        profile.raw_leaves = self.raw_leaves.unwrap_or(profile.raw_leaves);
        if let Some(chunker) = &self.chunker {
            profile.chunk_bytes = parse_chunker(chunker)?;
        }
        if let Some(links) = self.max_file_links {
            if !(2..=limits::MAX_FILE_LINKS).contains(&links) {
                return Err(CommandError::usage(format!(
                    "a file node has 2 to {} links, not {links}",
                    limits::MAX_FILE_LINKS
                )));
            }
            profile.links_per_node = links;
        }
        profile.shard_threshold = self.threshold(profile.shard_threshold);
        Ok(profile)
    }

    fn threshold(&self, of_profile: ShardThreshold) -> ShardThreshold {
        match (self.hamt_threshold, of_profile) {
            (None, unchanged) => unchanged,
            (Some(0), _) => ShardThreshold::Never,
            (Some(bytes), ShardThreshold::BlockBytes(_)) => ShardThreshold::BlockBytes(bytes),
            (Some(bytes), _) => ShardThreshold::LinkBytes(bytes),
        }
    }
}

fn parse_chunker(text: &str) -> Result<usize, CommandError> {
    let size = match text {
        "default" => Some(256 * 1024),
        _ => text
            .strip_prefix("size-")
            .and_then(|size| size.parse().ok()),
    };
    size.filter(|size| (1..=limits::MAX_CHUNK_BYTES).contains(size))
        .ok_or_else(|| {
            CommandError::usage(format!("`{text}` is no chunker that is supported"))
                .with_hint("give `size-N` with N from 1 to 2096896, such as `size-262144`")
        })
}
