//! The contract of [`Blocks`], over every implementation.

use ipfs_exec_node::block::{
    BLAKE3, Block, BlockError, Blocks, IDENTITY, MemoryBlocks, RAW, SHA2_512,
};
use ipfs_exec_node::{Cid, limits};

use crate::support::{content, raw, repository};

type Multihash = ipfs_exec_node::block::Multihash;

fn contract(blocks: &dyn Blocks) {
    let [a, b] = [raw(b"a"), raw(&content(300_000, 1))];
    assert!(!blocks.has(a.cid()).unwrap());
    assert!(matches!(blocks.get(a.cid()), Err(BlockError::Missing { cid }) if cid == *a.cid()));
    blocks.put(&[a.clone(), b.clone(), a.clone()]).unwrap();
    blocks.put(&[]).unwrap();
    for block in [&a, &b] {
        assert!(blocks.has(block.cid()).unwrap());
        assert_eq!(&blocks.get(block.cid()).unwrap(), block.data());
    }
    // One block under another name is the same block.
    let other_codec = Cid::new_v1(0x71, *a.cid().hash());
    assert_eq!(&blocks.get(&other_codec).unwrap(), a.data());
    // An identity CID needs no store.
    let inline = Cid::new_v1(
        RAW,
        Multihash::wrap(IDENTITY, &[7; limits::MAX_IDENTITY_BYTES]).unwrap(),
    );
    assert_eq!(
        &blocks.get(&inline).unwrap()[..],
        &[7; limits::MAX_IDENTITY_BYTES]
    );
}

#[test]
fn memory() {
    contract(&MemoryBlocks::default());
}

#[test]
fn a_repository() {
    let (_directory, repository) = repository();
    contract(&repository);
}

#[test]
fn a_session() {
    let (_directory, repository) = repository();
    let session = repository.session().unwrap();
    contract(&session);
    session.commit(&[]).unwrap();
    assert!(repository.has(raw(b"a").cid()).unwrap());
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
