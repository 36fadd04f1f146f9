//! Names in a sandbox and in its stage that several modules share.

/// Names in `/` on which the sandbox mounts.
pub const MOUNT_POINTS: [&str; 5] = ["dev", "input", "output", "proc", "tmp"];

/// Directory of the stage of a sandbox on which a root file system is mounted.
pub(crate) const STAGED_ROOTFS: &str = "rootfs";
