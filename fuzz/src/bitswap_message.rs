//! See `ipfs_exec_node::fuzzing::bitswap_message`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ipfs_exec_node::fuzzing::bitswap_message(bytes));
