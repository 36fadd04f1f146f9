//! The contract of [`ReadBlocks`] and [`WriteBlocks`] over the stores.

use ipfs_exec_node::block::{
    BLAKE3, Block, BlockError, MemoryBlocks, Multihash, NoBlocks, RAW, ReadBlocks, ReadBlocksExt,
    SHA2_512, WriteBlocks, WriteBlocksExt,
};
use ipfs_exec_node::{Cid, limits};

use crate::contract;
use crate::support::{content, raw, repository};

/// What was put is there, and nothing else.
fn keeps<B: ReadBlocks + WriteBlocks>(blocks: &B) {
    let [a, b] = contract::samples();
    contract::lacks(blocks, &a);
    blocks.put(&[a.clone(), b.clone(), a.clone()]).unwrap();
    blocks.put(&[]).unwrap();
    contract::reads(blocks, &[a, b]);
    contract::lacks(blocks, &raw(b"another"));
}

#[test]
fn memory() {
    keeps(&MemoryBlocks::default());
    keeps(&&MemoryBlocks::default());
}

#[test]
fn no_blocks() {
    let [block, _] = contract::samples();
    contract::lacks(&NoBlocks, &block);
}

#[test]
fn a_repository() {
    let (_directory, repository) = repository();
    keeps(&repository);
}

#[test]
fn a_session() {
    let (_directory, repository) = repository();
    let session = repository.session().unwrap();
    keeps(&session);
    session.commit(&[]).unwrap();
    contract::reads(&repository, &contract::samples());
}

#[test]
fn a_reference() {
    contract::hands_on(|blocks, check| check(&blocks));
}

#[test]
fn every_supported_hash_is_verified() {
    use sha2::Digest;
    let data = content(1000, 3);
    let hashes = [
        Multihash::wrap(SHA2_512, &sha2::Sha512::digest(&data)).unwrap(),
        Multihash::wrap(BLAKE3, blake3::hash(&data).as_bytes()).unwrap(),
    ];
    let (_directory, repository) = repository();
    for hash in hashes {
        let cid = Cid::new_v1(RAW, hash);
        let block = Block::verified(cid, data.clone().into()).unwrap();
        repository.put(&[block]).unwrap();
        assert_eq!(&repository.get(&cid).unwrap()[..], data);
        let wrong = Block::verified(cid, b"other".as_slice().into());
        assert!(matches!(wrong, Err(BlockError::Mismatch { .. })));
    }
}

#[test]
fn unverifiable_blocks_are_refused() {
    let sha1 = Cid::new_v1(RAW, Multihash::wrap(0x11, &[0; 20]).unwrap());
    assert!(matches!(
        Block::verified(sha1, b"x".as_slice().into()),
        Err(BlockError::UnsupportedHash { code: 0x11, .. })
    ));
    let large = vec![0; limits::MAX_BLOCK_BYTES + 1];
    assert!(matches!(
        Block::verified(*raw(&large).cid(), large.into()),
        Err(BlockError::TooLarge { .. })
    ));
    // A digest too short to identify anything.
    let short = Cid::new_v1(
        RAW,
        Multihash::wrap(BLAKE3, &blake3::hash(b"x").as_bytes()[..4]).unwrap(),
    );
    assert!(Block::verified(short, b"x".as_slice().into()).is_err());
}
