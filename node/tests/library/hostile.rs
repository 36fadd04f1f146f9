//! DAGs that no honest writer makes: each is one error that names its object, in bounded time.

use std::time::{Duration, Instant};

use ipfs_exec_node::block::{Block, BlockError, DAG_PB, MemoryBlocks, ReadBlocks};
use ipfs_exec_node::budget::FreeSpace;
use ipfs_exec_node::cancel::NEVER;
use ipfs_exec_node::dag::{self, DagError};
use ipfs_exec_node::progress::Quiet;
use ipfs_exec_node::unixfs::{self, ExportOptions, Node, UnixfsError};
use ipfs_exec_node::{Budget, BudgetError, Cid, EntryName, KeepFree};

use crate::support::{
    content, export_to, export_within, import_bytes, node, profile, put, raw, read_all,
};

const DIRECTORY: &[u8] = &[8, 1];

/// The message of a file with one part of each of these sizes.
fn branch(sizes: &[u64]) -> Vec<u8> {
    let mut message = vec![8, 2];
    let number = |message: &mut Vec<u8>, tag, mut value: u64| {
        message.push(tag);
        while value >= 0x80 {
            message.push(value as u8 | 0x80);
            value >>= 7;
        }
        message.push(value as u8);
    };
    number(&mut message, 0x18, sizes.iter().sum());
    for size in sizes {
        number(&mut message, 0x20, *size);
    }
    message
}

fn export_error(blocks: &dyn ReadBlocks, cid: &Cid) -> UnixfsError {
    let directory = tempfile::tempdir().unwrap();
    let canary = directory.path().join("canary");
    std::fs::write(&canary, b"old").unwrap();
    let error = export_to(blocks, cid, directory.path()).unwrap_err();
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        1,
        "something stays behind"
    );
    assert_eq!(std::fs::read(canary).unwrap(), b"old");
    error
}

#[test]
fn entry_names_that_leave_the_directory() {
    let blocks = MemoryBlocks::default();
    let leaf = put(&blocks, &raw(b"x"));
    for name in [
        &b".."[..],
        b".",
        b"",
        b"a/b",
        b"/etc",
        b"a\0b",
        &[b'x'; 256],
    ] {
        let directory = put(
            &blocks,
            &node(&[(b"good", &leaf, 1), (name, &leaf, 1)], DIRECTORY),
        );
        let error = export_error(&blocks, &directory);
        assert!(
            matches!(error, UnixfsError::EntryName { directory: named, .. } if named == directory),
            "{name:?}"
        );
    }
}

#[test]
fn two_entries_of_one_name_even_through_a_link() {
    let blocks = MemoryBlocks::default();
    let below = put(
        &blocks,
        &node(&[(b"file", &put(&blocks, &raw(b"x")), 1)], DIRECTORY),
    );
    let link = put(&blocks, &node(&[], &[&[8, 4, 0x12, 2][..], b".."].concat()));
    // Were the link followed, `same/file` would be written outside.
    let directory = put(
        &blocks,
        &node(&[(b"same", &link, 1), (b"same", &below, 1)], DIRECTORY),
    );
    assert!(
        matches!(export_error(&blocks, &directory), UnixfsError::DuplicateEntry { name, .. } if name == "same")
    );
}

#[test]
fn sizes_that_lie() {
    let blocks = MemoryBlocks::default();
    let leaf = put(&blocks, &raw(b"12345"));
    for declared in [4, 6, 1 << 40] {
        let file = put(&blocks, &node(&[(b"", &leaf, 5)], &branch(&[declared])));
        assert!(
            matches!(read_all(&blocks, &file), Err(UnixfsError::SizeMismatch { cid, actual: 5, .. }) if cid == leaf)
        );
        if declared < 1 << 40 {
            assert!(matches!(
                export_error(&blocks, &file),
                UnixfsError::SizeMismatch { .. }
            ));
        }
    }
    let huge = put(
        &blocks,
        &node(
            &[(b"", &leaf, 5), (b"", &leaf, 5)],
            &branch(&[1 << 62, 1 << 62]),
        ),
    );
    assert!(matches!(
        Node::load(&blocks, &huge),
        Err(UnixfsError::Invalid { .. })
    ));
    let unequal = put(&blocks, &node(&[(b"", &leaf, 5)], &branch(&[2, 3])));
    assert!(matches!(
        Node::load(&blocks, &unequal),
        Err(UnixfsError::Invalid { .. })
    ));
    let wrong_total = put(&blocks, &node(&[], &[8, 2, 0x12, 1, b'x', 0x18, 9]));
    assert!(matches!(
        Node::load(&blocks, &wrong_total),
        Err(UnixfsError::SizeMismatch {
            declared: 9,
            actual: 1,
            ..
        })
    ));
}

#[test]
fn a_small_dag_of_a_huge_file_is_bounded_by_bytes() {
    let blocks = MemoryBlocks::default();
    let mut cid = put(&blocks, &raw(&content(1000, 1)));
    let mut size = 1000u64;
    for _ in 0..10 {
        let links: Vec<_> = (0..100).map(|_| (&b""[..], &cid, size)).collect();
        let sizes = vec![size; 100];
        let Some(total) = size.checked_mul(100).filter(|total| *total < 1 << 62) else {
            break;
        };
        cid = put(&blocks, &node(&links, &branch(&sizes)));
        size = total;
    }
    assert!(matches!(
        export_error(&blocks, &cid),
        UnixfsError::ExportBudget { cid: named, source: BudgetError::Bytes { .. } } if named == cid
    ));
}

#[test]
fn parts_of_no_bytes_are_not_followed() {
    // 100^20 empty parts: nobody could visit them.
    let blocks = MemoryBlocks::default();
    let mut cid = put(&blocks, &raw(b""));
    for _ in 0..20 {
        let links: Vec<_> = (0..100).map(|_| (&b""[..], &cid, 0)).collect();
        cid = put(&blocks, &node(&links, &branch(&[0; 100])));
    }
    assert_eq!(read_all(&blocks, &cid).unwrap(), b"");
}

#[test]
fn chains_that_are_too_deep() {
    let blocks = MemoryBlocks::default();
    let mut file = put(&blocks, &raw(b"x"));
    let mut directory = put(&blocks, &node(&[], DIRECTORY));
    for _ in 0..100_000 {
        file = put(&blocks, &node(&[(b"", &file, 1)], &branch(&[1])));
        directory = put(&blocks, &node(&[(b"d", &directory, 1)], DIRECTORY));
    }
    assert!(matches!(
        read_all(&blocks, &file),
        Err(UnixfsError::TooDeep { .. })
    ));
    assert!(matches!(
        export_error(&blocks, &file),
        UnixfsError::TooDeep { .. }
    ));
    assert!(matches!(
        export_error(&blocks, &directory),
        UnixfsError::TooDeep { .. }
    ));
    for root in [&file, &directory] {
        assert!(matches!(
            dag::first_missing(&blocks, root),
            Err(DagError::TooDeep { .. })
        ));
    }
}

/// The message of a shard.
fn shard(bitfield: &[u8], fanout: u8, hash: u8) -> Vec<u8> {
    [
        &[8, 5, 0x12, bitfield.len() as u8][..],
        bitfield,
        &[0x28, hash, 0x30, fanout],
    ]
    .concat()
}

#[test]
fn shards_that_make_no_sense() {
    let blocks = MemoryBlocks::default();
    let leaf = put(&blocks, &raw(b"x"));
    let flat = put(&blocks, &node(&[], DIRECTORY));
    let inner_16 = put(
        &blocks,
        &node(&[(b"0name", &leaf, 1)], &shard(&[1], 16, 0x22)),
    );
    let other = put(&blocks, &raw(b"y"));
    let cases: [(&str, Block); 10] = [
        (
            "fanout 3",
            node(&[(b"0x", &leaf, 1)], &shard(&[1], 3, 0x22)),
        ),
        ("fanout 0", node(&[], &shard(&[], 0, 0x22))),
        (
            "unknown hash",
            node(&[(b"0x", &leaf, 1)], &shard(&[1], 8, 0x12)),
        ),
        (
            "bitfield of two for one link",
            node(&[(b"0x", &leaf, 1)], &shard(&[3], 8, 0x22)),
        ),
        (
            "link without a prefix",
            node(&[(b"", &leaf, 1)], &shard(&[1], 8, 0x22)),
        ),
        (
            "a prefix that is no position",
            node(&[(b"8x", &leaf, 1)], &shard(&[1], 8, 0x22)),
        ),
        (
            "a name where its hash does not lead",
            node(&[(b"0x", &leaf, 1)], &shard(&[1], 8, 0x22)),
        ),
        (
            "a position twice",
            node(
                &[(b"0", &leaf, 1), (b"0", &other, 1)],
                &shard(&[3], 8, 0x22),
            ),
        ),
        (
            "a plain directory as a shard",
            node(&[(b"0", &flat, 1)], &shard(&[1], 8, 0x22)),
        ),
        (
            "another fanout below",
            node(&[(b"0", &inner_16, 1)], &shard(&[1], 8, 0x22)),
        ),
    ];
    for (name, block) in cases {
        let cid = put(&blocks, &block);
        let error = export_error(&blocks, &cid);
        assert!(
            matches!(error, UnixfsError::Invalid { .. }),
            "{name}: {error}"
        );
    }
}

#[test]
fn shards_without_end() {
    let blocks = MemoryBlocks::default();
    let mut cid = put(
        &blocks,
        &node(
            &[(b"0x", &put(&blocks, &raw(b"x")), 1)],
            &shard(&[1], 8, 0x22),
        ),
    );
    for _ in 0..100 {
        cid = put(&blocks, &node(&[(b"0", &cid, 1)], &shard(&[1], 8, 0x22)));
    }
    assert!(matches!(
        export_error(&blocks, &cid),
        UnixfsError::TooDeep { .. }
    ));
    let name = EntryName::new(b"x").unwrap();
    assert!(unixfs::lookup(&blocks, &cid, &name).is_err());
}

#[test]
fn links_of_the_wrong_kind() {
    let blocks = MemoryBlocks::default();
    let directory = put(&blocks, &node(&[], DIRECTORY));
    let file = put(&blocks, &node(&[(b"", &directory, 1)], &branch(&[1])));
    assert!(
        matches!(read_all(&blocks, &file), Err(UnixfsError::NotFile { cid, .. }) if cid == directory)
    );
    for (name, message) in [
        ("no type", &[0x18, 0][..]),
        ("unknown type", &[8, 9]),
        ("metadata type", &[8, 3]),
        ("no protobuf", &[0xff; 4]),
        ("a link without a target", &[8, 4]),
        ("a link with a NUL byte", &[8, 4, 0x12, 1, 0]),
    ] {
        let cid = put(&blocks, &node(&[], message));
        assert!(
            matches!(Node::load(&blocks, &cid), Err(UnixfsError::Invalid { .. })),
            "{name}"
        );
    }
    let garbage = put(
        &blocks,
        &Block::new(cid::Version::V0, DAG_PB, (&[0xffu8; 50][..]).into()),
    );
    assert!(matches!(
        Node::load(&blocks, &garbage),
        Err(UnixfsError::InvalidPb { .. })
    ));
}

#[test]
fn a_missing_block_is_named() {
    let blocks = MemoryBlocks::default();
    let bytes = content(100, 1);
    let imported = import_bytes(&blocks, &bytes, profile(10, 3, true));
    let gone = *raw(&bytes[50..60]).cid();
    blocks.remove(&gone);
    let named =
        |error| matches!(error, UnixfsError::Block(BlockError::Missing { cid }) if cid == gone);
    assert!(named(read_all(&blocks, &imported.cid).unwrap_err()));
    assert!(named(export_error(&blocks, &imported.cid)));
    let missing = dag::first_missing(&blocks, &imported.cid).unwrap();
    assert!(matches!(missing, Some(BlockError::Missing { cid }) if cid == gone));
}

#[test]
fn an_export_stops_at_its_limit() {
    let blocks = MemoryBlocks::default();
    let imported = import_bytes(&blocks, &content(100, 1), profile(10, 3, true));
    let directory = tempfile::tempdir().unwrap();
    let parent = std::fs::File::open(directory.path()).unwrap();
    let name = EntryName::new(b"out").unwrap();
    for (max_bytes, fits) in [(99, false), (100, true)] {
        let options = ExportOptions {
            budget: Budget {
                max_bytes,
                ..Budget::UNLIMITED
            },
            ..ExportOptions::default()
        };
        let parent = std::os::fd::AsFd::as_fd(&parent);
        let silent = ipfs_exec_node::progress::Silent;
        let outcome = unixfs::export(&blocks, &imported.cid, parent, &name, &options, &silent);
        assert_eq!(outcome.is_ok(), fits, "{max_bytes}");
    }
}

/// A small DAG of directories may have more paths than any disk has inodes.
#[test]
fn an_export_stops_at_its_entries() {
    let blocks = MemoryBlocks::default();
    let mut cid = put(&blocks, &node(&[], DIRECTORY));
    for _ in 0..60 {
        cid = put(
            &blocks,
            &node(&[(b"a", &cid, 1), (b"b", &cid, 1)], DIRECTORY),
        );
    }
    let directory = tempfile::tempdir().unwrap();
    let bounds = [
        (
            "entries",
            Budget {
                max_entries: 1000,
                ..Budget::UNLIMITED
            },
        ),
        (
            "inodes",
            Budget {
                max_inodes: 1000,
                ..Budget::UNLIMITED
            },
        ),
        (
            "deadline",
            Budget {
                deadline: Some(Instant::now() + Duration::from_millis(200)),
                ..Budget::UNLIMITED
            },
        ),
        (
            "free inodes",
            Budget {
                keep_free: KeepFree {
                    bytes: 0,
                    inodes: u64::MAX,
                },
                ..Budget::UNLIMITED
            },
        ),
        (
            "free bytes",
            Budget {
                keep_free: KeepFree {
                    bytes: u64::MAX,
                    inodes: 0,
                },
                ..Budget::UNLIMITED
            },
        ),
    ];
    for (bound, budget) in bounds {
        let counts_inodes = FreeSpace::at(directory.path()).unwrap().inodes.is_some();
        if bound == "free inodes" && !counts_inodes {
            continue;
        }
        let options = ExportOptions {
            budget,
            ..ExportOptions::default()
        };
        let error = export_within(&blocks, &cid, directory.path(), &options).unwrap_err();
        let UnixfsError::ExportBudget { cid: named, source } = error else {
            panic!("{bound}: {error}");
        };
        assert_eq!(named, cid);
        let is_meant = match source {
            BudgetError::Entries { limit } => bound == "entries" && limit == 1000,
            BudgetError::Inodes { limit } => bound == "inodes" && limit == 1000,
            BudgetError::Deadline => bound == "deadline",
            BudgetError::FreeInodes { .. } => bound == "free inodes",
            BudgetError::FreeBytes { .. } => bound == "free bytes",
            _ => false,
        };
        assert!(is_meant, "{bound}: {source}");
        assert_eq!(
            std::fs::read_dir(directory.path()).unwrap().count(),
            0,
            "{bound}"
        );
    }
}

/// Without a bound that it would reach, an interruption ends it.
#[test]
fn an_export_of_endless_paths_can_be_interrupted() {
    let blocks = MemoryBlocks::default();
    let mut cid = put(&blocks, &node(&[], DIRECTORY));
    for _ in 0..60 {
        cid = put(
            &blocks,
            &node(&[(b"a", &cid, 1), (b"b", &cid, 1)], DIRECTORY),
        );
    }
    let directory = tempfile::tempdir().unwrap();
    let parent = std::fs::File::open(directory.path()).unwrap();
    let name = EntryName::new(b"out").unwrap();
    let soon = Quiet(NEVER.until(Some(Instant::now() + Duration::from_millis(200))));
    let options = ExportOptions::default();
    let parent = std::os::fd::AsFd::as_fd(&parent);
    let outcome = unixfs::export(&blocks, &cid, parent, &name, &options, &soon);
    assert!(matches!(outcome, Err(UnixfsError::Interrupted)));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
