//! See `ipfs_exec_node::fuzzing::dag_pb`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ipfs_exec_node::fuzzing::dag_pb(bytes));
