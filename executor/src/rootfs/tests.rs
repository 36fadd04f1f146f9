//! The rootfs cache: one build of an entry, many uses, and eviction of entries that are not in use.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use ipfs_exec_node::cancel::{Cancel, CancelSource, NEVER};
use ipfs_exec_node::progress::Quiet;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::*;
use crate::job::INIT as INIT_PATH;
use crate::sandbox::TopEntryKind;
use crate::testing::add_bytes;

fn repository() -> (TempDir, Repository) {
    let directory = tempfile::tempdir().unwrap();
    let repository = Repository::open(&directory.path().join("repository")).unwrap();
    (directory, repository)
}

/// Adds an archive of (type, path, link target or content).
fn add(repository: &Repository, entries: &[(EntryType, &str, &str)]) -> Cid {
    let mut archive = Builder::new(Vec::new());
    for (kind, path, text) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_size(0);
        if *kind == EntryType::Symlink {
            archive.append_link(&mut header, path, text).unwrap();
        } else {
            header.set_size(text.len() as u64);
            archive
                .append_data(&mut header, path, text.as_bytes())
                .unwrap();
        }
    }
    add_bytes(repository, &archive.into_inner().unwrap())
}

const FILE: EntryType = EntryType::Regular;
const LINK: EntryType = EntryType::Symlink;
const DIRECTORY: EntryType = EntryType::Directory;
const INIT: (EntryType, &str, &str) = (FILE, "sbin/init", "#!/bin/sh\n");

fn ensure_with(
    repository: &Repository,
    cid: &Cid,
    options: &RootfsOptions,
) -> Result<Rootfs, RootfsError> {
    ensure_while(repository, cid, options, Cancel::default())
}

fn ensure_while(
    repository: &Repository,
    cid: &Cid,
    options: &RootfsOptions,
    cancel: Cancel,
) -> Result<Rootfs, RootfsError> {
    let session = repository.session().unwrap();
    let reporter = Quiet(cancel);
    RootfsCache::new(repository).ensure(&session, repository, cid, options, &reporter)
}

fn ensure(repository: &Repository, cid: &Cid) -> Result<Rootfs, RootfsError> {
    ensure_with(repository, cid, &RootfsOptions::default())
}

fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {}", chain(source)));
    format!("{error}{}", source.unwrap_or_default())
}

fn cached(repository: &Repository) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(repository.rootfs_directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Evicts all that can be until `kept` entries are left. Tests of the sandbox fork this process,
/// and their children hold its locks for the moment until they close them.
fn evict_until(repository: &Repository, kept: usize) {
    for _ in 0..500 {
        let session = repository.session().unwrap();
        RootfsCache::new(repository).evict(&session, 0).unwrap();
        if cached(repository).len() == kept {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{:?} are kept", cached(repository));
}

/// Nothing half made: not in the cache, not in scratch.
fn assert_clean(repository: &Repository) {
    assert_eq!(cached(repository), Vec::<String>::new());
    assert_eq!(
        fs::read_dir(repository.path().join("run")).unwrap().count(),
        0
    );
}

#[test]
fn built_once_and_sealed() {
    let (_directory, repository) = repository();
    let cid = add(&repository, &[INIT, (EntryType::Fifo, "fifo", "")]);
    let first = ensure(&repository, &cid).unwrap();
    let inode = fs::metadata(first.tree()).unwrap().ino();
    for name in MOUNT_POINTS {
        let status = fs::symlink_metadata(first.tree().join(name)).unwrap();
        assert!(status.is_dir(), "{name}");
        assert_eq!(
            (status.mode() & 0o7777, status.mtime()),
            (0o755, 0),
            "{name}"
        );
    }
    assert_eq!(fs::metadata(first.tree()).unwrap().mtime(), 0);
    first.check(INIT_PATH.as_ref()).unwrap();
    assert_eq!(first.warnings().len(), 1);
    drop(first);
    let second = ensure(&repository, &cid).unwrap();
    assert_eq!(fs::metadata(second.tree()).unwrap().ino(), inode);
    assert_eq!(second.warnings().len(), 1);
    assert_eq!(cached(&repository).len(), 1);
    let top = second.top_entries().unwrap();
    assert_eq!(
        top,
        [TopEntry {
            name: "sbin".into(),
            kind: TopEntryKind::Directory
        }]
    );
}

#[test]
fn one_entry_for_both_versions_of_a_cid() {
    let (_directory, repository) = repository();
    let cid = add(&repository, &[INIT]);
    let first = ensure(&repository, &cid).unwrap();
    let second = ensure(&repository, &Cid::new_v1(cid.codec(), *cid.hash())).unwrap();
    assert_eq!(first.tree(), second.tree());
}

#[test]
fn concurrent_first_uses_unpack_once() {
    const USERS: usize = 16;
    let (_directory, repository) = repository();
    let content = "x".repeat(1 << 20);
    let cid = add(&repository, &[INIT, (FILE, "large", &content)]);
    let barrier = Barrier::new(USERS);
    let inodes: Vec<_> = thread::scope(|scope| {
        let users: Vec<_> = (0..USERS)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    let rootfs = ensure(&repository, &cid).unwrap();
                    fs::metadata(rootfs.tree()).unwrap().ino()
                })
            })
            .collect();
        users.into_iter().map(|user| user.join().unwrap()).collect()
    });
    assert!(inodes.iter().all(|inode| *inode == inodes[0]), "{inodes:?}");
    assert_eq!(cached(&repository).len(), 1, "a lock stays behind");
}

#[test]
fn archives_that_do_not_serve_leave_nothing() {
    let (_directory, repository) = repository();
    let truncated = {
        let mut header = Header::new_gnu();
        header.set_path("a").unwrap();
        header.set_size(5000);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let cases = [
        (
            add_bytes(&repository, b"no archive"),
            "it is no tar archive",
        ),
        (
            add_bytes(&repository, &truncated),
            "the archive is truncated",
        ),
        (
            add(&repository, &[(LINK, "l", "l"), (FILE, "l/x", "")]),
            "archive entry `l/x` is refused",
        ),
        (
            add(&repository, &[(FILE, "output", "")]),
            "`/output` is a file; it must be",
        ),
        (
            add(&repository, &[(LINK, "input", "/tmp")]),
            "`/input` is a symlink; it must be",
        ),
        (
            add(&repository, &[(LINK, "proc", "x/../../tmp")]),
            "`/proc` is a symlink",
        ),
        (
            add(&repository, &[(LINK, "dev", "nowhere")]),
            "`/dev` is a symlink",
        ),
        (
            add(&repository, &[(LINK, "tmp", "usr"), (DIRECTORY, "usr", "")]),
            "`/tmp` is a symlink",
        ),
    ];
    for (cid, reason) in cases {
        let error = chain(&ensure(&repository, &cid).unwrap_err());
        assert!(error.contains(reason), "{error}");
        assert!(error.contains(&cid.to_string()), "{error}");
        assert_clean(&repository);
    }
}

#[test]
fn the_limit_holds_for_new_and_for_cached_entries() {
    let (_directory, repository) = repository();
    let cid = add(&repository, &[INIT, (FILE, "large", &"x".repeat(100_000))]);
    let mut small = RootfsOptions::default();
    small.unpack.max_bytes = 50_000;
    let error = chain(&ensure_with(&repository, &cid, &small).unwrap_err());
    assert!(error.contains("more than 50000 bytes"), "{error}");
    assert_clean(&repository);
    ensure(&repository, &cid).unwrap();
    let error = chain(&ensure_with(&repository, &cid, &small).unwrap_err());
    assert!(error.contains("more than 50000"), "{error}");
}

#[test]
fn missing_blocks_are_named() {
    let (_directory, repository) = repository();
    let cid: Cid = "QmdZKHQGNbmFfVtnUPwHV7eZsUEmZvEKAVnsPjVKDDGCHZ"
        .parse()
        .unwrap();
    let error = ensure(&repository, &cid).unwrap_err();
    assert!(matches!(error, RootfsError::Content { .. }), "{error:?}");
    assert_clean(&repository);
}

#[test]
fn init_is_looked_up_as_the_sandbox_does() {
    let (_directory, repository) = repository();
    let cases = [
        (&[INIT][..], ""),
        (
            &[
                (LINK, "sbin", "/usr/sbin"),
                (FILE, "usr/sbin/init", "#!/bin/sh\n"),
            ],
            "",
        ),
        (
            &[
                (LINK, "sbin/init", "../../../bin/busybox"),
                (FILE, "bin/busybox", "#!/bin/sh\n"),
            ],
            "",
        ),
        (&[(LINK, "sbin/init", "/input/program")], ""),
        (&[(FILE, "etc/x", "")], "has no `/sbin/init`"),
        (&[(FILE, "sbin", "")], "has no `/sbin/init`"),
        (
            &[(DIRECTORY, "sbin/init", "")],
            "cannot be executed: it is no file",
        ),
        (
            &[(LINK, "sbin/init", "init")],
            "cannot be executed: its symlinks form a loop",
        ),
        (
            &[
                (LINK, "sbin/init", "../bin/x"),
                (LINK, "bin/x", "/proc/self/exe"),
            ],
            "leads into `/proc`",
        ),
        (
            &[(FILE, "sbin/init", "#!/proc/self/exe\n")],
            "leads into `/proc`",
        ),
        (&[(LINK, "sbin", "/proc/1")], "leads into `/proc`"),
    ];
    for (entries, reason) in cases {
        let rootfs = ensure(&repository, &add(&repository, entries)).unwrap();
        let found = rootfs
            .check(INIT_PATH.as_ref())
            .map_or_else(|error| error.to_string(), |()| String::new());
        assert!(
            found.contains(reason) && found.is_empty() == reason.is_empty(),
            "{found}"
        );
    }
    let rootfs = ensure(&repository, &add(&repository, &[INIT])).unwrap();
    fs::set_permissions(
        rootfs.tree().join("sbin/init"),
        std::os::unix::fs::PermissionsExt::from_mode(0o055),
    )
    .unwrap();
    assert!(matches!(
        rootfs.check(INIT_PATH.as_ref()),
        Err(InitError::NotExecutable { .. })
    ));
}

#[test]
fn eviction_takes_the_least_recently_used_free_entry() {
    let (_directory, repository) = repository();
    let cids = ["1", "2", "3"].map(|name| add(&repository, &[INIT, (FILE, name, "")]));
    let options = RootfsOptions {
        cache_cap_bytes: 0,
        ..Default::default()
    };
    // In use, so that the cap cannot be kept.
    let first = ensure_with(&repository, &cids[0], &options).unwrap();
    let second = ensure_with(&repository, &cids[1], &options).unwrap();
    assert_eq!(cached(&repository).len(), 2);
    drop(first);
    let third = ensure_with(&repository, &cids[2], &options).unwrap();
    evict_until(&repository, 2);
    assert!(second.tree().is_dir() && third.tree().is_dir());
    drop(second);
    evict_until(&repository, 1);
    assert!(third.tree().is_dir());
    drop(third);
    evict_until(&repository, 0);
    assert_clean(&repository);
    assert!(repository.rootfs_entries().unwrap().is_empty());
}

/// Of two that nobody uses, the one that was used before the other goes first.
#[test]
fn eviction_stops_at_the_cap() {
    let (_directory, repository) = repository();
    let cids = ["1", "2"].map(|name| add(&repository, &[INIT, (FILE, name, "")]));
    let bytes = ensure(&repository, &cids[0]).unwrap().seal.unpacked.bytes;
    drop(ensure(&repository, &cids[1]).unwrap());
    drop(ensure(&repository, &cids[0]).unwrap());
    let session = repository.session().unwrap();
    for _ in 0..500 {
        RootfsCache::new(&repository)
            .evict(&session, bytes)
            .unwrap();
        if cached(&repository).len() == 1 {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(cached(&repository).len(), 1);
}

#[test]
fn an_entry_whose_builder_died_before_recording_it_is_evicted_all_the_same() {
    let (_directory, repository) = repository();
    let cid = add(&repository, &[INIT]);
    drop(ensure(&repository, &cid).unwrap());
    repository.forget_rootfs(&key(&cid)).unwrap();
    evict_until(&repository, 0);
    assert_clean(&repository);
}

#[test]
fn a_lock_file_that_stayed_behind_is_no_obstacle() {
    let (_directory, repository) = repository();
    let cid = add(&repository, &[INIT]);
    fs::write(
        repository
            .rootfs_directory()
            .join(format!("{}.lock", key(&cid))),
        "",
    )
    .unwrap();
    ensure(&repository, &cid).unwrap();
    assert_eq!(cached(&repository).len(), 1);
}

#[test]
fn waiting_for_another_builder_can_be_cancelled() {
    let (_directory, repository) = repository();
    let cid = add(&repository, &[INIT]);
    let path = repository
        .rootfs_directory()
        .join(format!("{}.lock", key(&cid)));
    let other = BuildLock::acquire(&path, &NEVER).unwrap().unwrap();
    let source = CancelSource::new().unwrap();
    source.cancel();
    let mut late = RootfsOptions::default();
    late.unpack.deadline = Some(Instant::now());
    for (options, cancel) in [
        (RootfsOptions::default(), source.token()),
        (late, Cancel::default()),
    ] {
        let error = ensure_while(&repository, &cid, &options, cancel).unwrap_err();
        assert!(
            matches!(error, RootfsError::Interrupted { .. }),
            "{error:?}"
        );
    }
    other.release().unwrap();
    ensure(&repository, &cid).unwrap();
}

/// Users and evictors at the same time: every user has a whole tree for as long as it looks.
#[test]
fn use_and_eviction_at_once() {
    let (_directory, repository) = repository();
    let cids = ["1", "2", "3"].map(|name| add(&repository, &[INIT, (FILE, name, "content")]));
    let options = RootfsOptions {
        cache_cap_bytes: 0,
        ..Default::default()
    };
    thread::scope(|scope| {
        for offset in 0..6 {
            let (repository, cids, options) = (&repository, &cids, &options);
            scope.spawn(move || {
                for round in 0..20 {
                    let index = (offset + round) % cids.len();
                    let rootfs = ensure_with(repository, &cids[index], options).unwrap();
                    let file = rootfs.tree().join((index + 1).to_string());
                    assert_eq!(fs::read_to_string(file).unwrap(), "content");
                    rootfs.check(INIT_PATH.as_ref()).unwrap();
                }
            });
        }
    });
}

#[test]
fn a_mount_point_may_be_there_with_content() {
    let (_directory, repository) = repository();
    let cid = add(
        &repository,
        &[INIT, (FILE, "dev/null", ""), (DIRECTORY, "output", "")],
    );
    let rootfs = ensure(&repository, &cid).unwrap();
    assert!(rootfs.tree().join("dev/null").is_file());
    // Sealing looks at what stands there, not at where it leads.
    symlink("/", rootfs.tree().join("link")).unwrap();
    assert!(
        rootfs
            .top_entries()
            .unwrap()
            .iter()
            .any(|entry| { entry.kind == TopEntryKind::Symlink { target: "/".into() } })
    );
}
