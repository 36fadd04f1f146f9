//! Helpers that tests of several modules share.

use ipfs_exec_node::Cid;
use ipfs_exec_node::progress::Silent;
use ipfs_exec_node::repo::Repository;
use ipfs_exec_node::unixfs::{self, ImportOptions};

/// The contract of all stores of blocks, which those of this crate keep as well.
#[path = "../../node/tests/library/contract.rs"]
pub(crate) mod contract;

/// Adds a file of these bytes.
pub(crate) fn add_bytes(repository: &Repository, mut bytes: &[u8]) -> Cid {
    let session = repository.session().unwrap();
    let options = ImportOptions::default();
    let cid = unixfs::import_stream(&session, &mut bytes, &options, &Silent)
        .unwrap()
        .cid;
    session.commit(&[]).unwrap();
    cid
}
