//! Files with holes: the import does not read the holes, and its result is the same as with reading them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use ipfs_exec_node::block::{Block, BlockError, MemoryBlocks, NoBlocks, WriteBlocks};
use ipfs_exec_node::progress::Silent;
use ipfs_exec_node::unixfs::{self, ImportOptions, Imported, Mtime, Node, UnixfsError};
use ipfs_exec_node::{Budget, BudgetError, Cid, KeepFree, Profile};
use proptest::prelude::*;

use crate::support::{content, import_tree, profile, read_all, repository};

/// Makes a file of `size` bytes with data at these places and holes elsewhere.
fn sparse_file(path: &Path, size: u64, data: &[(u64, Vec<u8>)]) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (offset, bytes) in data {
        let room = size.saturating_sub(*offset) as usize;
        file.write_all_at(&bytes[..bytes.len().min(room)], *offset)
            .unwrap();
    }
}

/// What the plain reader of streams, which sees no holes, makes of the same content.
fn import_plainly(path: &Path, options: &ImportOptions) -> Imported {
    let mut stream = File::open(path).unwrap();
    unixfs::import_stream(&NoBlocks, &mut stream, options, &Silent).unwrap()
}

fn options(profile: Profile) -> ImportOptions {
    ImportOptions {
        profile,
        ..ImportOptions::default()
    }
}

/// With 4096 bytes a chunk, which is the unit of holes, and 3 links a node; and the profiles of Kubo.
fn profiles() -> Vec<(&'static str, Profile)> {
    vec![
        ("small, dag-pb leaves", profile(4096, 3, false)),
        ("small, raw leaves", profile(4096, 3, true)),
        ("chunks that end inside pages", profile(5000, 4, false)),
        ("unixfs-v0-2015", Profile::UNIXFS_V0_2015),
        ("unixfs-v1-2025", Profile::UNIXFS_V1_2025),
    ]
}

#[test]
fn holes_are_zeros_whatever_the_shape() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    for (name, profile) in profiles() {
        let chunk = profile.chunk_bytes as u64;
        let node = chunk * profile.links_per_node.min(200) as u64;
        let sizes = [
            (chunk - 1, "chunk - 1"),
            (chunk, "one chunk"),
            (chunk + 1, "two chunks"),
            (node - 1, "a node less a byte"),
            (node, "a full node"),
            (node + 1, "a second level"),
            (3 * node + chunk / 2, "half a chunk behind three nodes"),
        ];
        for (size, shape) in sizes {
            let places: [(&str, Vec<u64>); 6] = [
                ("all a hole", vec![]),
                ("data at the start", vec![0]),
                ("data in the middle", vec![size / 2]),
                ("data at the end", vec![size - 1]),
                ("hole in the middle", vec![0, size - 1]),
                (
                    "data in every third chunk",
                    (0..size).step_by(3 * chunk as usize).collect(),
                ),
            ];
            for (place, offsets) in places {
                let data: Vec<_> = offsets
                    .iter()
                    .map(|at| (*at, content(700, *at + 1)))
                    .collect();
                sparse_file(&path, size, &data);
                let options = options(profile.clone());
                let imported = import_tree(&NoBlocks, &path, &options).unwrap();
                let plain = import_plainly(&path, &options);
                assert_eq!(imported, plain, "{name}: {shape}, {place}");
                assert_eq!(imported.bytes, size, "{name}: {shape}, {place}");
            }
        }
    }
}

/// 174 * 174 chunks and one more: a third level. Its CID is that of `ipfs add` of as many zeros.
#[test]
fn a_third_level_of_zeros_is_that_of_kubo() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let chunk = 4096;
    for links in [174, 1024] {
        let profile = profile(chunk, links, false);
        for size in [174 * 174 * chunk as u64, 174 * 174 * chunk as u64 + 1] {
            sparse_file(&path, size, &[]);
            let options = options(profile.clone());
            let imported = import_tree(&NoBlocks, &path, &options).unwrap();
            assert_eq!(
                imported,
                import_plainly(&path, &options),
                "{size} with {links} links"
            );
        }
    }
}

#[test]
fn imported_content_can_be_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    sparse_file(
        &path,
        100_000,
        &[(0, content(10, 1)), (50_000, content(5000, 2))],
    );
    let blocks = MemoryBlocks::default();
    let imported = import_tree(&blocks, &path, &options(profile(4096, 3, false))).unwrap();
    assert_eq!(
        read_all(&blocks, &imported.cid).unwrap(),
        std::fs::read(&path).unwrap()
    );
    let node = Node::load(&blocks, &imported.cid).unwrap();
    assert_eq!(node.cumulative_size(), imported.cumulative_bytes);
}

#[test]
fn metadata_stands_in_the_root_of_a_sparse_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    for size in [4095, 4096, 4097, 3 * 4096, 100_000] {
        sparse_file(&path, size, &[]);
        let options = ImportOptions {
            mode: Some(0o640),
            mtime: Some(Mtime {
                seconds: 5,
                nanoseconds: 0,
            }),
            ..options(profile(4096, 3, true))
        };
        let blocks = MemoryBlocks::default();
        let imported = import_tree(&blocks, &path, &options).unwrap();
        let node = Node::load(&blocks, &imported.cid).unwrap();
        assert_eq!(node.metadata().mode, Some(0o640), "{size}");
        assert_eq!(read_all(&blocks, &imported.cid).unwrap().len() as u64, size);
        assert_eq!(imported.cid, import_plainly(&path, &options).cid, "{size}");
    }
}

/// A program may leave a file of any size: it must not cost the time to read it.
#[test]
fn the_largest_file_there_is_takes_a_moment() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let largest = i64::MAX as u64;
    let file = File::create(&path).unwrap();
    if let Err(error) = file.set_len(largest) {
        // ext4 holds 16 TiB; tmpfs, XFS and btrfs hold the largest.
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        file.set_len(15 << 40).unwrap();
    }
    let size = file.metadata().unwrap().len();
    for offset in [1 << 30, 1 << 42, size - 5000] {
        file.write_all_at(b"data", offset).unwrap();
    }
    for (name, profile) in profiles() {
        let blocks = MemoryBlocks::default();
        let started = Instant::now();
        let imported = import_tree(&blocks, &path, &options(profile)).unwrap();
        assert!(started.elapsed() < Duration::from_secs(5), "{name}");
        assert_eq!(imported.bytes, size, "{name}");
        let node = Node::load(&blocks, &imported.cid).unwrap();
        assert_eq!(node.size(), size, "{name}");
        assert_eq!(node.cumulative_size(), imported.cumulative_bytes, "{name}");
        assert!(imported.cumulative_bytes > size, "{name}");
        let mut found = [0; 6];
        let mut reader = unixfs::FileReader::open(&blocks, &imported.cid).unwrap();
        io::Seek::seek(&mut reader, io::SeekFrom::Start(size - 5001)).unwrap();
        reader.read_exact(&mut found).unwrap();
        assert_eq!(&found, b"\0data\0", "{name}");
        assert!(blocks.len() < 2000, "{name}: {} blocks", blocks.len());
    }
}

#[test]
fn sizes_that_no_link_can_tell_are_refused() {
    // 15 bytes of block for each byte of content.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let file = File::create(&path).unwrap();
    if file.set_len(i64::MAX as u64).is_ok() {
        let outcome = import_tree(&NoBlocks, &path, &options(profile(1, 174, false)));
        assert!(
            matches!(outcome, Err(UnixfsError::SizeOverflow)),
            "{outcome:?}"
        );
    }
    // Three of the largest files have more content than 64 bits count.
    let tree = directory.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    for name in ["a", "b", "c"] {
        let file = File::create(tree.join(name)).unwrap();
        if file.set_len(i64::MAX as u64).is_err() {
            return;
        }
    }
    let outcome = import_tree(&NoBlocks, &tree, &ImportOptions::default());
    assert!(outcome.is_err());
}

/// Counts what is put: zeros that are data are put once, too.
#[derive(Default)]
struct Counting(std::sync::Mutex<Vec<Cid>>);

impl WriteBlocks for Counting {
    fn put_within(&self, batch: &[Block], _keep_free: &KeepFree) -> Result<(), BlockError> {
        let mut put = self.0.lock().unwrap();
        put.extend(batch.iter().map(|block| *block.cid()));
        Ok(())
    }
}

#[test]
fn a_chunk_of_zeros_is_put_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, vec![0; 40 * 4096]).unwrap();
    let options = options(profile(4096, 100, false));
    let blocks = Counting::default();
    let imported = import_tree(&blocks, &path, &options).unwrap();
    assert_eq!(blocks.0.lock().unwrap().len(), 2);
    let blocks = Counting::default();
    let mut stream = File::open(&path).unwrap();
    let streamed = unixfs::import_stream(&blocks, &mut stream, &options, &Silent).unwrap();
    assert_eq!(blocks.0.lock().unwrap().len(), 2);
    assert_eq!(imported, streamed);
}

#[test]
fn an_import_stops_at_each_bound() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    sparse_file(&tree.join("large"), 1 << 40, &[]);
    std::fs::write(tree.join("small"), "x").unwrap();
    let (_place, repository) = repository();
    let session = repository.session().unwrap();
    let bounds = [
        (
            "bytes",
            Budget {
                max_bytes: 1 << 39,
                ..Budget::UNLIMITED
            },
        ),
        (
            "entries",
            Budget {
                max_entries: 2,
                ..Budget::UNLIMITED
            },
        ),
        (
            "deadline",
            Budget {
                deadline: Some(Instant::now()),
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
        let options = ImportOptions {
            budget,
            ..ImportOptions::default()
        };
        let error = import_tree(&session, &tree, &options).unwrap_err();
        let is_meant = match error.budget() {
            Some(BudgetError::Bytes { limit }) => bound == "bytes" && *limit == 1 << 39,
            Some(BudgetError::Entries { limit: 2 }) => bound == "entries",
            Some(BudgetError::Deadline) => bound == "deadline",
            Some(BudgetError::FreeBytes { .. }) => bound == "free bytes",
            _ => false,
        };
        assert!(is_meant, "{bound}: {error}");
        let named = match &error {
            UnixfsError::ImportBudget { path, .. } => path == &tree,
            UnixfsError::Block(BlockError::NoRoom { path, .. }) => path.ends_with("blocks"),
            _ => false,
        };
        assert!(named, "{bound}: {error}");
    }
    let exact = ImportOptions {
        budget: Budget {
            max_bytes: (1 << 40) + 1,
            max_entries: 3,
            ..Budget::UNLIMITED
        },
        ..ImportOptions::default()
    };
    import_tree(&session, &tree, &exact).unwrap();
    // What is here already takes no room.
    let known = ImportOptions {
        budget: Budget {
            keep_free: KeepFree {
                bytes: u64::MAX,
                inodes: 0,
            },
            ..Budget::UNLIMITED
        },
        ..ImportOptions::default()
    };
    import_tree(&session, &tree, &known).unwrap();
}

/// A stream has no size that could be refused at first.
#[test]
fn an_endless_stream_stops_at_each_bound() {
    let bounds = [
        Budget {
            max_bytes: 10 << 20,
            ..Budget::UNLIMITED
        },
        Budget {
            deadline: Some(Instant::now() + Duration::from_millis(300)),
            ..Budget::UNLIMITED
        },
    ];
    for budget in bounds {
        let options = ImportOptions {
            budget,
            ..ImportOptions::default()
        };
        let outcome = unixfs::import_stream(&NoBlocks, &mut io::repeat(7), &options, &Silent);
        let error = outcome.unwrap_err();
        assert!(error.budget().is_some(), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_file_with_holes_is_its_content(
        size in 0u64..400_000,
        data in proptest::collection::vec((0u64..400_000, 1usize..20_000, 0u64..3), 0..6),
        chunk in prop_oneof![Just(4096usize), Just(8192), 100usize..20_000],
        links in 2usize..6,
        raw_leaves: bool,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let data: Vec<_> = data
            .into_iter()
            .map(|(offset, length, seed)| {
                // Zeros that are data, too.
                let bytes = if seed == 0 { vec![0; length] } else { content(length, seed) };
                (offset.min(size), bytes)
            })
            .collect();
        sparse_file(&path, size, &data);
        let options = options(profile(chunk, links, raw_leaves));
        let blocks = MemoryBlocks::default();
        let imported = import_tree(&blocks, &path, &options).unwrap();
        prop_assert_eq!(imported, import_plainly(&path, &options));
        prop_assert_eq!(read_all(&blocks, &imported.cid).unwrap(), std::fs::read(&path).unwrap());
    }
}
