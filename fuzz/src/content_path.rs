//! See `ipfs_exec_node::fuzzing::content_path`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ipfs_exec_node::fuzzing::content_path(bytes));
