//! Shared by the tests: repositories in temporary directories, and content of any size.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use bytes::Bytes;
use ipfs_exec_node::block::{Block, DAG_PB, RAW};
use ipfs_exec_node::dag::pb::PbWriter;
use ipfs_exec_node::progress::Silent;
use ipfs_exec_node::unixfs::{self, FileReader, ImportOptions, Imported, UnixfsError};
use ipfs_exec_node::{
    Cid, EntryName, Profile, ReadBlocks, Repository, WriteBlocks, WriteBlocksExt,
};

pub(crate) fn repository() -> (tempfile::TempDir, Repository) {
    let directory = tempfile::tempdir().unwrap();
    let repository = Repository::open(&directory.path().join("repository")).unwrap();
    (directory, repository)
}

pub(crate) fn raw(data: &[u8]) -> Block {
    Block::new(cid::Version::V1, RAW, Bytes::copy_from_slice(data))
}

/// A dag-pb node with these links, all nameless or named as given, and this UnixFS message.
pub(crate) fn node(links: &[(&[u8], &Cid, u64)], message: &[u8]) -> Block {
    let mut node = PbWriter::default();
    for (name, cid, size) in links {
        node.link(cid, name, *size);
    }
    Block::new(cid::Version::V0, DAG_PB, node.finish(message).into())
}

pub(crate) fn put(blocks: &dyn WriteBlocks, block: &Block) -> Cid {
    blocks.put(std::slice::from_ref(block)).unwrap();
    *block.cid()
}

/// Bytes that repeat nowhere, so that no two blocks are the same.
pub(crate) fn content(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn profile(chunk_bytes: usize, links_per_node: usize, raw_leaves: bool) -> Profile {
    Profile {
        chunk_bytes,
        links_per_node,
        raw_leaves,
        ..Profile::UNIXFS_V0_2015
    }
}

pub(crate) fn import_bytes(blocks: &dyn WriteBlocks, bytes: &[u8], profile: Profile) -> Imported {
    let options = ImportOptions {
        profile,
        ..ImportOptions::default()
    };
    unixfs::import_stream(blocks, &mut &bytes[..], &options, &Silent).unwrap()
}

pub(crate) fn import_tree(
    blocks: &dyn WriteBlocks,
    path: &Path,
    options: &ImportOptions,
) -> Result<Imported, UnixfsError> {
    unixfs::import_path(blocks, rustix::fs::CWD, path, options, &Silent, &mut |_| {})
}

pub(crate) fn read_all(blocks: &dyn ReadBlocks, cid: &Cid) -> Result<Vec<u8>, UnixfsError> {
    let mut bytes = Vec::new();
    let mut reader = FileReader::open(blocks, cid)?;
    match reader.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(*error
            .into_inner()
            .unwrap()
            .downcast::<UnixfsError>()
            .unwrap()),
    }
}

/// Exports `cid` as `out` below a directory.
pub(crate) fn export_to(
    blocks: &dyn ReadBlocks,
    cid: &Cid,
    directory: &Path,
) -> Result<(), UnixfsError> {
    export_within(blocks, cid, directory, &unixfs::ExportOptions::default())
}

/// The same with other options.
pub(crate) fn export_within(
    blocks: &dyn ReadBlocks,
    cid: &Cid,
    directory: &Path,
    options: &unixfs::ExportOptions,
) -> Result<(), UnixfsError> {
    let descriptor: OwnedFd = std::fs::File::open(directory).unwrap().into();
    let name = EntryName::new(b"out").unwrap();
    unixfs::export(
        blocks,
        cid,
        std::os::fd::AsFd::as_fd(&descriptor),
        &name,
        options,
        &Silent,
    )
}
