//! Files: every shape of tree, read back whole and in ranges.

use std::io::{Read, Seek, SeekFrom};

use ipfs_exec_node::block::MemoryBlocks;
use ipfs_exec_node::dag;
use ipfs_exec_node::unixfs::{FileReader, ImportOptions, Metadata, Mtime, Node};
use proptest::prelude::*;

use crate::support::{content, import_bytes, import_tree, profile, read_all};

/// With 10 bytes a chunk and 3 links a node, sizes around every edge of the tree.
const SIZES: [(usize, &str); 12] = [
    (0, "an empty leaf"),
    (1, "one byte"),
    (9, "chunk - 1"),
    (10, "one chunk"),
    (11, "two chunks, the first branch"),
    (30, "a full branch"),
    (31, "a second level with one leaf in its last branch"),
    (60, "two full branches"),
    (90, "a full second level"),
    (91, "a third level, one leaf deep"),
    (270, "a full third level"),
    (271, "a fourth level"),
];

#[test]
fn content_comes_back_whatever_its_size() {
    for raw_leaves in [false, true] {
        for (size, shape) in SIZES {
            let blocks = MemoryBlocks::default();
            let bytes = content(size, 5);
            let imported = import_bytes(&blocks, &bytes, profile(10, 3, raw_leaves));
            assert_eq!(imported.bytes, size as u64, "{shape}");
            assert_eq!(read_all(&blocks, &imported.cid).unwrap(), bytes, "{shape}");
            let node = Node::load(&blocks, &imported.cid).unwrap();
            assert_eq!(node.size(), size as u64, "{shape}");
            assert_eq!(node.cumulative_size(), imported.cumulative_bytes, "{shape}");
            assert!(
                dag::first_missing(&blocks, &imported.cid)
                    .unwrap()
                    .is_none()
            );
        }
    }
}

#[test]
fn a_file_and_a_stream_give_the_same_tree() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    for (size, shape) in SIZES {
        let bytes = content(size, 6);
        std::fs::write(&path, &bytes).unwrap();
        let blocks = MemoryBlocks::default();
        let options = ImportOptions {
            profile: profile(10, 3, false),
            ..ImportOptions::default()
        };
        let from_disk = import_tree(&blocks, &path, &options).unwrap();
        assert_eq!(
            from_disk,
            import_bytes(&blocks, &bytes, profile(10, 3, false)),
            "{shape}"
        );
    }
}

#[test]
fn metadata_stands_in_the_root_of_any_tree() {
    let metadata = Metadata {
        mode: Some(0o640),
        mtime: Some(Mtime {
            seconds: -5,
            nanoseconds: 7,
        }),
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    for (size, shape) in SIZES {
        std::fs::write(&path, content(size, 7)).unwrap();
        let blocks = MemoryBlocks::default();
        let options = ImportOptions {
            // Raw leaves give way: a raw block has no place for metadata.
            profile: profile(10, 3, true),
            mode: metadata.mode,
            mtime: metadata.mtime,
            ..ImportOptions::default()
        };
        let imported = import_tree(&blocks, &path, &options).unwrap();
        let node = Node::load(&blocks, &imported.cid).unwrap();
        assert_eq!(*node.metadata(), metadata, "{shape}");
        assert_eq!(
            read_all(&blocks, &imported.cid).unwrap(),
            content(size, 7),
            "{shape}"
        );
    }
}

#[test]
fn a_file_without_a_size_is_read_to_its_end() {
    let blocks = MemoryBlocks::default();
    let path = std::path::Path::new("/proc/self/status");
    let imported = import_tree(&blocks, path, &ImportOptions::default()).unwrap();
    assert!(imported.bytes > 100);
}

proptest! {
    #[test]
    fn any_range_is_that_of_the_content(size in 0usize..400, offset in 0u64..450, length in 0usize..100, raw_leaves: bool) {
        let blocks = MemoryBlocks::default();
        let bytes = content(size, 8);
        let imported = import_bytes(&blocks, &bytes, profile(10, 3, raw_leaves));
        let mut reader = FileReader::open(&blocks, &imported.cid).unwrap();
        prop_assert_eq!(reader.seek(SeekFrom::Start(offset)).unwrap(), offset);
        let mut found = vec![0; length];
        let mut count = 0;
        while count < length {
            match reader.read(&mut found[count..]).unwrap() {
                0 => break,
                more => count += more,
            }
        }
        let start = (offset as usize).min(size);
        prop_assert_eq!(&found[..count], &bytes[start..(start + length).min(size)]);
    }
}
