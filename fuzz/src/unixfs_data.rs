//! See `ipfs_exec_node::fuzzing::unixfs_data`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ipfs_exec_node::fuzzing::unixfs_data(bytes));
