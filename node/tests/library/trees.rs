//! Merging and comparing directory trees.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipfs_exec_node::block::{Block, BlockError, Cid, MemoryBlocks, ReadBlocks};
use ipfs_exec_node::path::EntryName;
use ipfs_exec_node::profile::Profile;
use ipfs_exec_node::progress::Silent;
use ipfs_exec_node::unixfs::{
    self, Change, DirectoryBuilder, ImportOptions, Metadata, Node, UnixfsError,
};
use ipfs_exec_node::{Cancel, ReadBlocksExt, WriteBlocksExt};

/// A file, in chunks of so many bytes.
fn file(blocks: &MemoryBlocks, content: &[u8], chunk_bytes: usize) -> Cid {
    let options = ImportOptions {
        profile: Profile {
            chunk_bytes,
            links_per_node: 4,
            ..Profile::UNIXFS_V0_2015
        },
        ..ImportOptions::default()
    };
    let mut content = content;
    unixfs::import_stream(blocks, &mut content, &options, &Silent)
        .unwrap()
        .cid
}

fn directory(blocks: &MemoryBlocks, entries: &[(&str, Cid)]) -> Cid {
    directory_with(blocks, entries, Metadata::default())
}

fn directory_with(blocks: &MemoryBlocks, entries: &[(&str, Cid)], metadata: Metadata) -> Cid {
    let mut builder = DirectoryBuilder::new(metadata);
    for (name, cid) in entries {
        let size = Node::load(blocks, cid).unwrap().cumulative_size();
        builder.add(&EntryName::new(name.as_bytes()).unwrap(), cid, size);
    }
    let built = builder.finish(&Profile::UNIXFS_V0_2015, &mut |block| {
        Ok(blocks.put(&[block])?)
    });
    built.unwrap().cid
}

fn merge(blocks: &MemoryBlocks, trees: &[Cid]) -> Result<Cid, UnixfsError> {
    let mut put = |block| Ok(blocks.put(&[block])?);
    let profile = Profile::UNIXFS_V0_2015;
    Ok(unixfs::merge(blocks, trees, &profile, &Silent, &mut put)?.cid)
}

/// The example in the README of the tool `ipfs-merge`.
#[test]
fn two_trees_become_the_known_one() {
    let blocks = MemoryBlocks::default();
    let empty = directory(&blocks, &[]);
    let text = directory(&blocks, &[("txt", empty)]);
    let one = directory(&blocks, &[("bbb", empty), ("common", text)]);
    assert_eq!(
        one.to_string(),
        "QmX6HcULwFs85dYxhhsEVdf6ng6Wjqtq5d9Xxewx7LybYi"
    );
    let two = file(&blocks, b"2\n", 256 * 1024);
    let text = directory(&blocks, &[("txt", two)]);
    let other = directory(&blocks, &[("aaa", empty), ("common", text)]);
    assert_eq!(
        other.to_string(),
        "QmQomi23vpduW6dyBGPJasU5hvbx5E7yPXmnrR6LXmBYWg"
    );
    let merged = merge(&blocks, &[one, other]).unwrap();
    assert_eq!(
        merged.to_string(),
        "QmWt3BC8VcKeR2h5n9sB8Jeo8GAL3SL81sVpnY5frdgLLB"
    );
}

#[test]
fn later_trees_win_and_directories_are_merged() {
    let blocks = MemoryBlocks::default();
    let [a, b, c] = [b"a", b"b", b"c"].map(|content| file(&blocks, content, 1024));
    let of_a = directory(&blocks, &[("a", a), ("same", a)]);
    let of_b = directory(&blocks, &[("b", b), ("same", b)]);
    let both = directory(&blocks, &[("a", a), ("b", b), ("same", b)]);
    let tree = |content| directory(&blocks, &[("x", content)]);
    for (case, trees, wanted) in [
        ("one tree", vec![of_a], of_a),
        ("the same twice", vec![of_a, of_a], of_a),
        ("files", vec![of_a, of_b], both),
        (
            "back again",
            vec![of_a, of_b, of_a],
            directory(&blocks, &[("a", a), ("b", b), ("same", a)]),
        ),
        (
            "directories below",
            vec![tree(of_a), tree(of_b)],
            tree(both),
        ),
        (
            "a file replaces a directory",
            vec![tree(of_a), tree(c)],
            tree(c),
        ),
        (
            "a directory replaces a file",
            vec![tree(c), tree(of_b)],
            tree(of_b),
        ),
        (
            "and what was before the file is gone",
            vec![tree(of_a), tree(c), tree(of_b)],
            tree(of_b),
        ),
    ] {
        assert_eq!(merge(&blocks, &trees).unwrap(), wanted, "{case}");
    }
    assert!(matches!(
        merge(&blocks, &[of_a, c]),
        Err(UnixfsError::NotDirectory { .. })
    ));
}

/// Only directories that are merged are read: the rest of a tree need not be here.
#[test]
fn a_merge_reads_only_directories_that_it_merges() {
    let (blocks, here) = (MemoryBlocks::default(), MemoryBlocks::default());
    let far = file(&blocks, &[7; 5000], 1024);
    let of_far = directory(&blocks, &[("far", far)]);
    let one = directory(&blocks, &[("deep", of_far), ("x", far)]);
    let other = directory(&blocks, &[("y", far)]);
    for cid in [one, other] {
        let data = blocks.get(&cid).unwrap();
        here.put(&[Block::verified(cid, data).unwrap()]).unwrap();
    }
    let wanted = directory(&blocks, &[("deep", of_far), ("x", far), ("y", far)]);
    assert_eq!(merge(&here, &[one, other]).unwrap(), wanted);
}

/// Differences as lines.
fn differences(blocks: &dyn ReadBlocks, from: &Cid, to: &Cid) -> Vec<String> {
    let mut lines = Vec::new();
    unixfs::diff(blocks, from, to, &Silent, &mut |difference| {
        let path = String::from_utf8(difference.path).unwrap();
        lines.push(match difference.change {
            Change::Added(_) => format!("+ {path}"),
            Change::Removed(_) => format!("- {path}"),
            Change::Changed(changed) => {
                let range = changed.first_difference.clone();
                let range = range.map_or(String::new(), |range| {
                    format!(" {}..{}", range.start, range.end)
                });
                let metadata = if changed.has_other_metadata {
                    " metadata"
                } else {
                    ""
                };
                let same = if changed.has_same_bytes() {
                    " same bytes"
                } else {
                    ""
                };
                format!("~ {path}{range}{metadata}{same}")
            }
        });
        Ok(())
    })
    .unwrap();
    lines
}

#[test]
fn each_difference_is_found() {
    let blocks = MemoryBlocks::default();
    let [a, b] = [b"aaaa", b"abba"].map(|content| file(&blocks, content, 1024));
    let of_a = directory(&blocks, &[("file", a)]);
    let of_b = directory(&blocks, &[("file", b)]);
    let timed = Metadata {
        mode: Some(0o755),
        ..Metadata::default()
    };
    let of_time = directory_with(&blocks, &[("file", a)], timed);
    let tree = |entries: &[(&str, Cid)]| directory(&blocks, entries);
    for (from, to, wanted) in [
        (a, a, vec![]),
        (a, b, vec!["~  1..3"]),
        (of_a, of_a, vec![]),
        (of_a, of_b, vec!["~ file 1..3"]),
        (tree(&[("x", a)]), tree(&[("y", a)]), vec!["- x", "+ y"]),
        (
            tree(&[("d", of_a), ("e", a)]),
            tree(&[("d", of_b), ("e", of_a)]),
            vec!["~ e", "~ d/file 1..3"],
        ),
        (
            tree(&[("d", of_a)]),
            tree(&[("d", of_time)]),
            vec!["~ d metadata"],
        ),
        (of_a, a, vec!["~ "]),
    ] {
        assert_eq!(differences(&blocks, &from, &to), wanted);
    }
}

/// Sizes at the edges of chunks and of nodes (4 links), changed at each of their ends.
#[test]
fn the_first_range_is_found_whatever_the_chunks_are() {
    let blocks = MemoryBlocks::default();
    let content: Vec<u8> = (0..1000_u32).map(|index| (index * 7) as u8).collect();
    for (chunk, other_chunk) in [(10, 10), (10, 7), (256, 10), (1000, 999), (4, 16)] {
        let original = file(&blocks, &content, chunk);
        let same = file(&blocks, &content, other_chunk);
        let found = differences(&blocks, &original, &same);
        let wanted: &[&str] = if chunk == other_chunk {
            &[]
        } else {
            &["~  same bytes"]
        };
        assert_eq!(found, wanted, "{chunk} {other_chunk}");
        for (start, end) in [
            (0, 1),
            (9, 11),
            (10, 20),
            (160, 161),
            (500, 1000),
            (0, 1000),
        ] {
            let mut changed = content.clone();
            for byte in &mut changed[start..end] {
                *byte ^= 0x80;
            }
            // A later change is not told.
            if end + 1 < changed.len() {
                let last = changed.len() - 1;
                changed[last] ^= 0x80;
            }
            let changed = file(&blocks, &changed, other_chunk);
            let wanted = [format!("~  {start}..{end}")];
            assert_eq!(
                differences(&blocks, &original, &changed),
                wanted,
                "{chunk} {other_chunk}"
            );
        }
        for length in [0, 1, 10, 999] {
            let shorter = file(&blocks, &content[..length], other_chunk);
            let wanted = [format!("~  {length}..1000")];
            assert_eq!(differences(&blocks, &original, &shorter), wanted);
            assert_eq!(differences(&blocks, &shorter, &original), wanted);
        }
    }
}

/// Counts reads.
#[derive(Debug)]
struct Counted<'b> {
    blocks: &'b MemoryBlocks,
    reads: AtomicUsize,
}

impl ReadBlocks for Counted<'_> {
    fn read(&self, cid: &Cid, cancel: &Cancel) -> Result<Bytes, BlockError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.blocks.read(cid, cancel)
    }

    fn has(&self, cid: &Cid) -> Result<bool, BlockError> {
        self.blocks.has(cid)
    }

    fn size(&self, cid: &Cid) -> Result<Option<u64>, BlockError> {
        self.blocks.size(cid)
    }

    fn expect(&self, cids: &[Cid]) {
        self.blocks.expect(cids);
    }

    fn expect_all(&self, root: &Cid) {
        self.blocks.expect_all(root);
    }
}

/// A directory of 100,000 entries is a HAMT, of which only the way to the difference is read.
#[test]
fn one_byte_of_a_hundred_thousand_files_is_found_by_few_blocks() {
    let blocks = MemoryBlocks::default();
    let common = file(&blocks, b"common", 1024);
    let before = file(&blocks, &[b'x'; 100_000], 1024);
    let mut after = [b'x'; 100_000];
    after[77_777] = b'y';
    let after = file(&blocks, &after, 1024);
    let tree = |changed: Cid, is_one_more: bool| {
        let mut builder = DirectoryBuilder::new(Metadata::default());
        for number in 0..100_000 {
            let cid = if number == 54_321 { changed } else { common };
            let name = EntryName::new(format!("file-{number}").as_bytes()).unwrap();
            builder.add(&name, &cid, 100);
        }
        if is_one_more {
            builder.add(&EntryName::new(b"one more").unwrap(), &common, 100);
        }
        let mut put = |block| Ok(blocks.put(&[block])?);
        builder
            .finish(&Profile::UNIXFS_V0_2015, &mut put)
            .unwrap()
            .cid
    };
    let (from, to) = (tree(before, false), tree(after, true));
    let counted = Counted {
        blocks: &blocks,
        reads: AtomicUsize::new(0),
    };
    let begun = Instant::now();
    let found: BTreeSet<_> = differences(&counted, &from, &to).into_iter().collect();
    let took = begun.elapsed();
    assert_eq!(
        found,
        BTreeSet::from([
            "+ one more".to_owned(),
            "~ file-54321 77777..77778".to_owned()
        ])
    );
    let reads = counted.reads.into_inner();
    assert!(reads < 100, "{reads} blocks");
    assert!(took < Duration::from_millis(500), "{took:?}");
    // From a directory of one block to a HAMT everything is compared.
    let small = directory(&blocks, &[("file-1", common), ("other", common)]);
    let found = differences(&blocks, &small, &from);
    assert_eq!(found.len(), 100_000);
    assert!(found.contains(&"- other".to_owned()));
}
