//! Directories: imported, exported, listed and searched, flat and sharded.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use ipfs_exec_node::block::MemoryBlocks;
use ipfs_exec_node::profile::ShardThreshold;
use ipfs_exec_node::unixfs::{
    self, DirectoryBuilder, ImportOptions, Metadata, Mtime, NodeKind, UnixfsError,
};
use ipfs_exec_node::{Cid, EntryName, Profile, ReadBlocks, WriteBlocks, WriteBlocksExt};
use proptest::prelude::*;

use crate::support::{content, export_to, import_bytes, import_tree, put, raw};

fn build(blocks: &dyn WriteBlocks, profile: &Profile, entries: &[(Vec<u8>, Cid)]) -> Cid {
    let mut builder = DirectoryBuilder::new(Metadata::default());
    for (name, cid) in entries {
        builder.add(&EntryName::new(name).unwrap(), cid, 1);
    }
    builder
        .finish(profile, &mut |block| Ok(blocks.put(&[block])?))
        .unwrap()
        .cid
}

fn listed(blocks: &dyn ReadBlocks, cid: &Cid) -> BTreeMap<Vec<u8>, Cid> {
    let mut entries = BTreeMap::new();
    unixfs::list(blocks, cid, &mut |entry| {
        assert!(entries.insert(entry.name.to_vec(), entry.cid).is_none());
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    entries
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the names, a directory lists and finds what was put into it, in both forms and
    /// for every fanout.
    #[test]
    fn entries_come_back(
        names in proptest::collection::btree_set(proptest::collection::vec(1u8..=255, 1..12), 0..200),
        sharded: bool,
        fanout in proptest::sample::select(vec![8u64, 16, 64, 256, 1024]),
    ) {
        let names: Vec<Vec<u8>> =
            names.into_iter().filter(|name| EntryName::new(name).is_ok()).collect();
        let blocks = MemoryBlocks::default();
        let entries: Vec<_> =
            names.iter().map(|name| (name.clone(), *raw(name).cid())).collect();
        let shard_threshold = if sharded { ShardThreshold::LinkBytes(0) } else { ShardThreshold::Never };
        let profile = Profile { shard_threshold, hamt_fanout: fanout, ..Profile::default() };
        let cid = build(&blocks, &profile, &entries);
        prop_assert_eq!(listed(&blocks, &cid), entries.iter().cloned().collect::<BTreeMap<_, _>>());
        for (name, target) in &entries {
            let found = unixfs::lookup(&blocks, &cid, &EntryName::new(name).unwrap()).unwrap();
            prop_assert_eq!(found.cid, *target);
        }
        let absent = unixfs::lookup(&blocks, &cid, &EntryName::new(b"a name that is not there").unwrap());
        let is_absent = matches!(absent, Err(UnixfsError::NotFound { .. }));
        prop_assert!(is_absent);
    }
}

#[test]
fn a_hamt_of_many_names_has_several_layers() {
    let blocks = MemoryBlocks::default();
    let leaf = put(&blocks, &raw(b"x"));
    let entries: Vec<_> = (0..20_000)
        .map(|n| (format!("name-{n}").into_bytes(), leaf))
        .collect();
    let cid = build(&blocks, &Profile::default(), &entries);
    assert_eq!(
        unixfs::Node::load(&blocks, &cid).unwrap().kind(),
        NodeKind::ShardedDirectory
    );
    assert_eq!(listed(&blocks, &cid).len(), entries.len());
    assert!(unixfs::lookup(&blocks, &cid, &EntryName::new(b"name-19999").unwrap()).is_ok());
}

#[test]
fn two_entries_of_one_name_are_refused() {
    for shard_threshold in [ShardThreshold::LinkBytes(0), ShardThreshold::Never] {
        let mut builder = DirectoryBuilder::new(Metadata::default());
        for _ in 0..2 {
            builder.add(&EntryName::new(b"same").unwrap(), raw(b"x").cid(), 1);
        }
        let profile = Profile {
            shard_threshold,
            ..Profile::default()
        };
        let outcome = builder.finish(&profile, &mut |_| Ok(()));
        assert!(matches!(outcome, Err(UnixfsError::DuplicateName { name }) if name == "same"));
    }
}

fn make_tree(root: &Path) {
    std::fs::create_dir_all(root.join("a/empty")).unwrap();
    std::fs::write(root.join("a/large"), content(700_000, 1)).unwrap();
    std::fs::write(root.join(".hidden"), b"hidden").unwrap();
    std::fs::write(root.join("a/nothing"), b"").unwrap();
    std::fs::write(root.join("name\nwith \x1b[2J"), b"odd").unwrap();
    symlink("../outside", root.join("a/link")).unwrap();
    std::fs::set_permissions(root.join("a/large"), PermissionsExt::from_mode(0o4751)).unwrap();
    std::fs::set_permissions(root.join("a/empty"), PermissionsExt::from_mode(0o500)).unwrap();
    set_times(root, 89);
}

fn set_times(root: &Path, nanoseconds: i64) {
    let time = rustix::fs::Timespec {
        tv_sec: 1_000_000_007,
        tv_nsec: nanoseconds,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    for name in ["a/large", "a/empty", "a/link", "a"] {
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, root.join(name), &times, flags).unwrap();
    }
}

#[test]
fn a_tree_comes_back_with_its_recorded_metadata() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("tree");
    make_tree(&root);
    let blocks = MemoryBlocks::default();
    let options = ImportOptions {
        preserve_mode: true,
        preserve_mtime: true,
        ..ImportOptions::default()
    };
    let imported = import_tree(&blocks, &root, &options).unwrap();
    export_to(&blocks, &imported.cid, directory.path()).unwrap();
    let out = directory.path().join("out");
    let stat = |name: &str| std::fs::symlink_metadata(out.join(name)).unwrap();
    assert_eq!(
        std::fs::read(out.join("a/large")).unwrap(),
        content(700_000, 1)
    );
    // Set-id bits are content from outside; they are recorded and never restored.
    assert_eq!(stat("a/large").mode() & 0o7777, 0o751);
    assert_eq!(stat("a/empty").mode() & 0o7777, 0o500);
    for name in ["a/large", "a/empty", "a/link", "a"] {
        assert_eq!(
            (stat(name).mtime(), stat(name).mtime_nsec()),
            (1_000_000_007, 89),
            "{name}"
        );
    }
    assert_eq!(
        std::fs::read_link(out.join("a/link")).unwrap(),
        Path::new("../outside")
    );
    assert_eq!(std::fs::read(out.join(".hidden")).unwrap(), b"hidden");
    // Imported again it is the same, but for the set-id bit.
    let large = unixfs::resolve(
        &blocks,
        &format!("{}/a/large", imported.cid).parse().unwrap(),
    )
    .unwrap();
    assert_eq!(
        unixfs::Node::load(&blocks, &large).unwrap().metadata().mode,
        Some(0o4751)
    );
}

/// What an import leaves out, by path.
#[derive(Default)]
struct LeftOut(std::sync::Mutex<Vec<(std::path::PathBuf, String)>>);

impl ipfs_exec_node::progress::Reporter for LeftOut {
    fn report(&self, _event: ipfs_exec_node::progress::Event) {}

    fn left_out(&self, path: &Path, kind: &str) {
        let mut all = self.0.lock().unwrap();
        all.push((path.to_owned(), kind.to_owned()));
    }

    fn cancel(&self) -> &ipfs_exec_node::Cancel {
        &ipfs_exec_node::cancel::NEVER
    }
}

/// The tree of a root file system holds devices and sockets, which made its import fail, and set-id
/// programs. An archive of it would hold modes and whole seconds.
#[test]
fn the_tree_of_a_root_file_system_is_imported_as_an_archive_holds_it() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("tree");
    make_tree(&root);
    let options = ImportOptions {
        root_file_system: true,
        ..ImportOptions::default()
    };
    let blocks = MemoryBlocks::default();
    let alone = import_tree(&blocks, &root, &options).unwrap();
    let mode = rustix::fs::Mode::RWXU;
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, root.join("a/fifo"), fifo, mode, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    // Making them changed the times of their directories.
    set_times(&root, 5);
    let mut paths = Vec::new();
    let left_out = LeftOut::default();
    let mut visit = |entry: unixfs::ImportedEntry| paths.push((entry.path, entry.target));
    let (cwd, path) = (rustix::fs::CWD, &*root);
    let imported =
        unixfs::import_path(&blocks, cwd, path, &options, &left_out, &mut visit).unwrap();
    let mut left_out = left_out.0.into_inner().unwrap();
    left_out.sort();
    let wanted = [("a/fifo", "a FIFO"), ("socket", "a socket")];
    assert_eq!(
        left_out,
        wanted.map(|(path, kind)| (root.join(path), kind.to_owned()))
    );
    let link = (Path::new("a/link").to_owned(), Some(b"../outside".to_vec()));
    assert!(paths.contains(&link), "{paths:?}");
    assert!(paths.iter().all(|(path, _)| !path.ends_with("fifo")));
    let metadata = |path: &str| {
        let path = format!("{}/{path}", imported.cid).parse().unwrap();
        let cid = unixfs::resolve(&blocks, &path).unwrap();
        *unixfs::Node::load(&blocks, &cid).unwrap().metadata()
    };
    let time = |seconds| {
        Some(unixfs::Mtime {
            seconds,
            nanoseconds: 0,
        })
    };
    for (path, mode) in [
        ("a/large", Some(0o751)),
        ("a/empty", Some(0o500)),
        ("a/link", None),
    ] {
        assert_eq!(metadata(path).mode, mode, "{path}");
        assert_eq!(metadata(path).mtime, time(1_000_000_007), "{path}");
    }
    let a = |root: &ipfs_exec_node::unixfs::Imported| {
        unixfs::resolve(&blocks, &format!("{}/a", root.cid).parse().unwrap()).unwrap()
    };
    assert_eq!(a(&imported), a(&alone));
}

#[test]
fn a_new_export_never_replaces_anything() {
    let directory = tempfile::tempdir().unwrap();
    let blocks = MemoryBlocks::default();
    let file = import_bytes(&blocks, b"new", Profile::default()).cid;
    let canary = directory.path().join("canary");
    std::fs::write(&canary, b"old").unwrap();
    symlink(&canary, directory.path().join("out")).unwrap();
    assert!(export_to(&blocks, &file, directory.path()).is_err());
    assert_eq!(std::fs::read(&canary).unwrap(), b"old");
    assert!(directory.path().join("out").is_symlink());
}

#[test]
fn unrecorded_modes_follow_the_options() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("tree");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("file"), b"x").unwrap();
    let blocks = MemoryBlocks::default();
    let imported = import_tree(&blocks, &root, &ImportOptions::default()).unwrap();
    let options = unixfs::ExportOptions {
        file_mode: Some(0o444),
        directory_mode: Some(0o555),
        mtime: Some(Mtime::default()),
        ..unixfs::ExportOptions::default()
    };
    let parent = std::fs::File::open(directory.path()).unwrap();
    let name = EntryName::new(b"out").unwrap();
    let silent = ipfs_exec_node::progress::Silent;
    let parent = std::os::fd::AsFd::as_fd(&parent);
    unixfs::export(&blocks, &imported.cid, parent, &name, &options, &silent).unwrap();
    for (name, mode) in [("out", 0o555), ("out/file", 0o444)] {
        let stat = std::fs::symlink_metadata(directory.path().join(name)).unwrap();
        assert_eq!((stat.mode() & 0o7777, stat.mtime()), (mode, 0), "{name}");
    }
    std::fs::set_permissions(
        directory.path().join("out"),
        PermissionsExt::from_mode(0o755),
    )
    .unwrap();
}

#[test]
fn special_files_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
    for path in [directory.path(), &fifo] {
        let outcome = import_tree(&MemoryBlocks::default(), path, &ImportOptions::default());
        assert!(
            matches!(outcome, Err(UnixfsError::SpecialFile { path, kind: "FIFO" }) if path == fifo)
        );
    }
}

/// Leaves out entries named `skipped`, and every directory that holds a file `marker`.
#[derive(Debug)]
struct Selective;

impl unixfs::Filter for Selective {
    fn takes_entry(&self, path: &Path, _is_directory: bool) -> bool {
        path != Path::new("sub/skipped")
    }

    fn takes_directory(
        &self,
        _path: &Path,
        directory: std::os::fd::BorrowedFd<'_>,
    ) -> Result<bool, rustix::io::Errno> {
        use rustix::fs::{Access, AtFlags, accessat};
        match accessat(directory, "marker", Access::EXISTS, AtFlags::empty()) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::NOENT) => Ok(true),
            Err(errno) => Err(errno),
        }
    }
}

/// A local tree may hold the repository itself, with its private key. An import must be able to leave
/// such a directory out by what it is, and an entry by its path; the rest keeps its CID.
#[test]
fn a_filter_leaves_entries_out() {
    let directory = tempfile::tempdir().unwrap();
    let (whole, rest) = (
        directory.path().join("whole"),
        directory.path().join("rest"),
    );
    for root in [&whole, &rest] {
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(root.join("skipped"), b"only the one in sub is left out").unwrap();
        std::fs::write(root.join("sub/file"), b"x").unwrap();
    }
    std::fs::write(whole.join("sub/skipped"), b"y").unwrap();
    std::fs::create_dir_all(whole.join("sub/marked")).unwrap();
    std::fs::write(whole.join("sub/marked/marker"), b"").unwrap();
    let filtered = ImportOptions {
        filter: Some(std::sync::Arc::new(Selective)),
        ..ImportOptions::default()
    };
    let blocks = MemoryBlocks::default();
    let imported = import_tree(&blocks, &whole, &filtered).unwrap();
    let expected = import_tree(&blocks, &rest, &ImportOptions::default()).unwrap();
    assert_eq!(imported, expected);
    let marked = whole.join("sub/marked");
    let outcome = import_tree(&blocks, &marked, &filtered);
    assert!(
        matches!(&outcome, Err(UnixfsError::RootLeftOut { path }) if *path == marked),
        "{outcome:?}"
    );
}
