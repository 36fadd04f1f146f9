//! Content as file systems: on the host, and as the input of a run.

mod host;
mod input;
mod rootfs;
