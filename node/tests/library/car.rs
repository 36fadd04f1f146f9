//! CAR files, whole and broken.

use ipfs_exec_node::block::{BlockError, MemoryBlocks};
use ipfs_exec_node::car::{self, CarError, CarReader};
use ipfs_exec_node::progress::Silent;
use ipfs_exec_node::{Budget, ReadBlocks, dag};
use proptest::prelude::*;

use crate::support::{content, import_bytes, profile, raw};

fn exported() -> (ipfs_exec_node::Cid, Vec<u8>) {
    let blocks = MemoryBlocks::default();
    let root = import_bytes(&blocks, &content(1000, 1), profile(100, 4, false)).cid;
    let mut bytes = Vec::new();
    car::export(&blocks, &root, &mut bytes, &Silent).unwrap();
    (root, bytes)
}

#[test]
fn an_exported_car_is_imported() {
    let (root, bytes) = exported();
    let blocks = MemoryBlocks::default();
    let imported = car::import(&blocks, &bytes[..], &Budget::UNLIMITED, &Silent).unwrap();
    assert_eq!(imported.roots, [root]);
    assert!(dag::first_missing(&blocks, &root).unwrap().is_none());
}

/// Wraps a version 1 as a version 2, with padding before it and an index behind.
fn version_2(inner: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x0a\xa1gversion\x02".to_vec();
    let offset = 11 + 40 + 7;
    bytes.extend_from_slice(&[0; 16]);
    for number in [offset, inner.len() as u64, offset + inner.len() as u64] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&[0; 7]);
    bytes.extend_from_slice(inner);
    bytes.extend_from_slice(b"an index that nobody reads");
    bytes
}

#[test]
fn version_2_is_read() {
    let (root, bytes) = exported();
    let blocks = MemoryBlocks::default();
    assert_eq!(
        car::import(&blocks, &version_2(&bytes)[..], &Budget::UNLIMITED, &Silent)
            .unwrap()
            .roots,
        [root]
    );
    assert!(dag::first_missing(&blocks, &root).unwrap().is_none());
}

#[test]
fn zeros_at_the_end_are_padding() {
    let (_, mut bytes) = exported();
    bytes.extend_from_slice(&[0; 5000]);
    assert!(
        car::import(
            &MemoryBlocks::default(),
            &bytes[..],
            &Budget::UNLIMITED,
            &Silent
        )
        .is_ok()
    );
    bytes.push(1);
    let outcome = car::import(
        &MemoryBlocks::default(),
        &bytes[..],
        &Budget::UNLIMITED,
        &Silent,
    );
    assert!(matches!(outcome, Err(CarError::InvalidSection { .. })));
}

#[test]
fn a_cut_anywhere_is_an_error_or_a_section_boundary() {
    let (_, bytes) = exported();
    let mut boundaries = vec![];
    let mut reader = CarReader::new(&bytes[..]).unwrap();
    let mut at = bytes.len();
    let mut sections = Vec::new();
    while let Some(block) = reader.next_block().unwrap() {
        sections.push(block);
    }
    for block in sections.iter().rev() {
        boundaries.push(at);
        let body = block.cid().encoded_len() + block.data().len();
        at -= body + if body < 128 { 1 } else { 2 };
    }
    boundaries.push(at);
    for length in 0..bytes.len() {
        let outcome = car::import(
            &MemoryBlocks::default(),
            &bytes[..length],
            &Budget::UNLIMITED,
            &Silent,
        );
        assert_eq!(
            outcome.is_ok(),
            boundaries.contains(&length),
            "cut at {length}"
        );
    }
}

#[test]
fn any_flipped_bit_of_a_block_is_noticed() {
    let (_, bytes) = exported();
    let last = bytes.len() - 1;
    for at in [last, last - 50] {
        let mut bytes = bytes.clone();
        bytes[at] ^= 4;
        let outcome = car::import(
            &MemoryBlocks::default(),
            &bytes[..],
            &Budget::UNLIMITED,
            &Silent,
        );
        assert!(
            matches!(outcome, Err(CarError::Block(BlockError::Mismatch { .. }))),
            "{at}"
        );
    }
}

#[test]
fn lengths_are_bounded_before_they_are_believed() {
    let header = exported().1[..60].to_vec();
    let huge: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0x7f];
    assert!(car::import(&MemoryBlocks::default(), huge, &Budget::UNLIMITED, &Silent).is_err());
    let mut section = header;
    section.truncate(usize::from(section[0]) + 1);
    section.extend_from_slice(huge);
    let outcome = car::import(
        &MemoryBlocks::default(),
        &section[..],
        &Budget::UNLIMITED,
        &Silent,
    );
    assert!(matches!(outcome, Err(CarError::InvalidSection { .. })));
}

#[test]
fn an_incomplete_dag_is_not_exported() {
    let blocks = MemoryBlocks::default();
    let root = import_bytes(&blocks, &content(1000, 1), profile(100, 4, true)).cid;
    blocks.remove(raw(&content(1000, 1)[..100]).cid());
    let outcome = car::export(&blocks, &root, &mut Vec::new(), &Silent);
    assert!(matches!(
        outcome,
        Err(CarError::Block(BlockError::Missing { .. }))
    ));
    assert!(blocks.has(&root).unwrap());
}

proptest! {
    #[test]
    fn any_bytes_are_handled(bytes in proptest::collection::vec(any::<u8>(), 0..400), inside: bool) {
        let bytes = if inside { [&exported().1[..60], &bytes].concat() } else { bytes };
        let _ = car::import(&MemoryBlocks::default(), &bytes[..], &Budget::UNLIMITED, &Silent);
    }
}
