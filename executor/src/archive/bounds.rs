//! How much of an archive is kept in memory.

/// Most regions of one file: 16 MiB of map in memory.
pub(super) const MAX_REGIONS: usize = 1 << 20;

/// Most bytes of the paths of all directories together, which are kept until the end: about a
/// million directories.
pub(super) const MAX_DIRECTORY_BYTES: usize = 48 * 1024 * 1024;
