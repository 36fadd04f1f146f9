//! The built program from outside, as people and scripts use it.
//!
//! Each test has a home and a repository of its own. What it needs from the machine (bubblewrap, a
//! static busybox, the published fixtures) it demands: without, it fails and says what to install.

#![expect(
    clippy::unwrap_used,
    reason = "where a test cannot go on, the panic is its result"
)]

mod machine;
mod memory;

mod commands;
mod companions;
mod directories;
mod escapes;
mod transfer;
mod usage;

mod fixtures;
mod vectors;

mod images;
mod json;
mod leaks;
mod mount;
mod names;
mod output;
mod overlays;
mod rootfs;
mod run;
mod sandbox;
mod selection;
mod signals;
mod terminal;

mod network;

mod bad_input;
mod budget;
mod concurrency;
mod determinism;
mod doctor;
mod faults;
mod file_systems;
mod kills;
mod limits;
mod permissions;
mod program;
mod recovery;
mod unified;
