//! Databases that do not fit the segments: lost, damaged, or put back from a backup.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ipfs_exec_node::block::{BlockError, DAG_PB};
use ipfs_exec_node::progress::Silent;
use ipfs_exec_node::repo::{Damage, Reindexed, RepoError, RepositoryOptions};
use ipfs_exec_node::{
    Block, Cid, Pin, Profile, ReadBlocks, ReadBlocksExt, Repository, WriteBlocksExt,
};

use crate::support::{content, import_bytes, node, raw, read_all, repository};

fn segment(root: &Path, number: u64) -> PathBuf {
    root.join(format!("blocks/{number}.car"))
}

/// The content of every file below `blocks`.
fn segments(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(root.join("blocks")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: PathBuf| (path.clone(), fs::read(path).unwrap());
    paths.into_iter().map(read).collect()
}

/// A file of two levels, pinned under a name.
fn pinned_file(repository: &Repository, seed: u64) -> (Cid, Vec<u8>) {
    let bytes = content(600_000, seed);
    let session = repository.session().unwrap();
    let cid = import_bytes(&session, &bytes, Profile::default()).cid;
    let pin = Pin {
        name: format!("file {seed}"),
        ..Pin::recursive(cid)
    };
    session.commit(&[pin]).unwrap();
    (cid, bytes)
}

fn reindex(root: &Path) -> Reindexed {
    try_reindex(root).unwrap()
}

fn try_reindex(root: &Path) -> Result<Reindexed, RepoError> {
    Repository::reindex(root, RepositoryOptions::default(), &Silent)
}

/// Copies `repo.db` and its log away, as a backup does.
fn back_up(root: &Path, to: &Path) {
    for name in ["repo.db", "repo.db-wal"] {
        fs::copy(root.join(name), to.join(name)).unwrap();
    }
}

fn restore(from: &Path, root: &Path) {
    remove_database(root);
    for name in ["repo.db", "repo.db-wal"] {
        fs::copy(from.join(name), root.join(name)).unwrap();
    }
}

fn remove_database(root: &Path) {
    for name in ["repo.db", "repo.db-wal", "repo.db-shm"] {
        fs::remove_file(root.join(name)).unwrap();
    }
}

fn damages(repository: &Repository) -> Vec<Damage> {
    let mut damages = Vec::new();
    repository
        .verify(&mut |damage| damages.push(damage))
        .unwrap();
    damages
}

#[track_caller]
fn assert_clean(repository: &Repository) {
    let damages = damages(repository);
    assert!(damages.is_empty(), "{damages:?}");
}

/// `rm repo.db*` and the next `add` cut `blocks/1.car` to the new block.
#[test]
fn a_repository_without_its_database_is_not_emptied() {
    let (directory, repository) = repository();
    let (cid, bytes) = pinned_file(&repository, 1);
    drop(repository);
    let root = directory.path().join("repository");
    remove_database(&root);
    let before = segments(&root);
    for _ in 0..2 {
        let opened = Repository::open(&root);
        assert!(matches!(opened, Err(RepoError::NoDatabase { .. })));
    }
    assert!(segments(&root) == before, "the segments were written to");
    assert!(!root.join("repo.db").exists());

    let reindexed = reindex(&root);
    assert_eq!((reindexed.kept_pins, reindexed.recovered_pins), (0, 1));
    assert!(segments(&root) == before, "the segments were written to");
    let repository = Repository::open(&root).unwrap();
    assert_eq!(repository.collect_garbage().unwrap().blocks, 0);
    assert_eq!(read_all(&repository, &cid).unwrap(), bytes);
    let recovered = Pin {
        name: "recovered".to_owned(),
        ..Pin::recursive(cid)
    };
    assert_eq!(repository.pins().unwrap(), [recovered]);
    assert_clean(&repository);
}

/// A `blocks/1.car` in a directory that was never a repository was overwritten.
#[test]
fn foreign_files_keep_a_directory_from_becoming_a_repository() {
    for name in ["blocks/1.car", "blocks/notes.txt", "repo.db-wal"] {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(name);
        fs::create_dir(place.path().join("blocks")).unwrap();
        fs::write(&path, "something else").unwrap();
        let opened = Repository::open(place.path());
        assert!(
            matches!(opened, Err(RepoError::NoDatabase { .. })),
            "{name}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"something else");
        assert!(!place.path().join("repo.db").exists());
    }
}

/// Settings and keys may be written before the first use; a creation may have been killed.
#[test]
fn a_directory_with_settings_alone_is_new() {
    let place = tempfile::tempdir().unwrap();
    for name in ["keys", "blocks", "run"] {
        fs::create_dir(place.path().join(name)).unwrap();
    }
    for name in [
        "keys/self",
        "config.toml",
        "swarm.key",
        "repo.db.new",
        "repo.db.new-wal",
    ] {
        fs::write(place.path().join(name), "x").unwrap();
    }
    let repository = Repository::open(place.path()).unwrap();
    repository.put(&[raw(b"block")]).unwrap();
    assert_clean(&repository);
}

/// An older `repo.db` was put back, and the next writer cut off what it did not know.
#[test]
fn blocks_behind_an_older_database_are_adopted() {
    let (directory, repository) = repository();
    let root = repository.path().to_owned();
    let (old, old_bytes) = pinned_file(&repository, 1);
    back_up(&root, directory.path());
    let (new, new_bytes) = pinned_file(&repository, 2);
    drop(repository);
    restore(directory.path(), &root);
    let before = segments(&root).remove(0).1;

    let repository = Repository::open(&root).unwrap();
    assert!(!repository.has(&new).unwrap());
    // No killed process explains these bytes: the first collection adopts and keeps them.
    repository.collect_garbage().unwrap();
    repository.put(&[raw(b"another")]).unwrap();
    let after = segments(&root).remove(0).1;
    assert!(after.starts_with(&before), "known bytes were changed");
    assert_eq!(read_all(&repository, &new).unwrap(), new_bytes);
    drop(repository);

    let reindexed = reindex(&root);
    assert_eq!((reindexed.kept_pins, reindexed.recovered_pins), (1, 2));
    let repository = Repository::open(&root).unwrap();
    repository.collect_garbage().unwrap();
    assert_eq!(read_all(&repository, &old).unwrap(), old_bytes);
    assert_eq!(read_all(&repository, &new).unwrap(), new_bytes);
    assert_eq!(repository.pin(&old).unwrap().unwrap().name, "file 1");
    assert_clean(&repository);
}

/// The database is older than whole segments.
#[test]
fn a_segment_that_the_database_does_not_know_is_refused_and_kept() {
    let (directory, repository) = repository();
    let root = repository.path().to_owned();
    let (old, old_bytes) = pinned_file(&repository, 1);
    back_up(&root, directory.path());
    // The session holds the first segment, so that the next writer makes another.
    let session = repository.session().unwrap();
    session.put(&[raw(b"in the first segment")]).unwrap();
    let (new, new_bytes) = pinned_file(&repository, 2);
    drop(session);
    drop(repository);
    restore(directory.path(), &root);
    let before = segments(&root);
    assert_eq!(before.len(), 2);

    let opened = Repository::open(&root);
    let unknown = segment(&root, 2);
    assert!(matches!(opened, Err(RepoError::UnknownSegment { path }) if path == unknown));
    assert!(segments(&root) == before, "the segments were written to");

    let reindexed = reindex(&root);
    assert_eq!((reindexed.kept_pins, reindexed.recovered_pins), (1, 1));
    let repository = Repository::open(&root).unwrap();
    repository.collect_garbage().unwrap();
    assert_eq!(read_all(&repository, &old).unwrap(), old_bytes);
    assert_eq!(read_all(&repository, &new).unwrap(), new_bytes);
    assert_clean(&repository);
}

/// Tails as writers leave them that were killed, and as nothing of this program leaves them.
#[test]
fn only_the_torn_end_of_a_tail_is_cut_off() {
    let block = raw(&content(5000, 7));
    let mut section = vec![0xac, 0x27];
    section.extend_from_slice(&block.cid().to_bytes());
    section.extend_from_slice(block.data());
    let mut damaged = section.clone();
    damaged[100] ^= 1;
    let torn = &section[..3000];
    let [garbage, begun] = [&content(10_000, 3)[..], &section[..10]];
    let zeros = &[0; 4096][..];
    // What comes behind the committed bytes, how much of it stays, and whether the block is found.
    let cases: [(&str, Vec<u8>, Option<usize>, bool); 8] = [
        ("whole", section.clone(), Some(5038), true),
        ("torn", torn.to_vec(), Some(0), false),
        ("begun", begun.to_vec(), Some(0), false),
        ("zeros", zeros.to_vec(), Some(0), false),
        (
            "whole, then torn",
            [&section, torn].concat(),
            Some(5038),
            true,
        ),
        ("damaged at the end", damaged.clone(), Some(0), false),
        (
            "damaged, then whole",
            [&damaged, &section[..]].concat(),
            Some(2 * 5038),
            true,
        ),
        (
            "whole, then other bytes",
            [&section, garbage].concat(),
            None,
            true,
        ),
    ];
    for (case, tail, kept, is_found) in cases {
        let (_directory, repository) = repository();
        let root = repository.path();
        repository.put(&[raw(b"first")]).unwrap();
        let path = segment(root, 1);
        let committed = fs::read(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&tail, committed.len() as u64).unwrap();
        repository.put(&[raw(b"second")]).unwrap();
        let after = fs::read(&path).unwrap();
        let known = [&committed[..], &tail[..kept.unwrap_or(tail.len())]].concat();
        assert!(after.starts_with(&known), "{case}");
        // Where other bytes are in the way, another segment is written to.
        assert_eq!(after.len() == known.len(), kept.is_none(), "{case}");
        assert_eq!(repository.has(block.cid()).unwrap(), is_found, "{case}");
        for data in [&b"first"[..], b"second"] {
            assert_eq!(&repository.get(raw(data).cid()).unwrap()[..], data);
        }
        for _ in 0..2 {
            repository.collect_garbage().unwrap();
        }
        if kept.is_none() {
            assert_eq!(fs::read(&path).unwrap(), after, "{case}: gc wrote to it");
        }
        assert_clean(&repository);
    }
}

/// `gc` failed for ever with "failed to fill whole buffer", and made the segment anew, empty.
#[test]
fn a_lost_or_cut_segment_does_not_stop_collections() {
    for is_lost in [true, false] {
        let (_directory, repository) = repository();
        let root = repository.path().to_owned();
        let (pinned, _) = pinned_file(&repository, 1);
        let garbage = raw(&content(100_000, 9));
        repository.put(std::slice::from_ref(&garbage)).unwrap();
        drop(repository);
        let path = segment(&root, 1);
        if is_lost {
            fs::remove_file(&path).unwrap();
        } else {
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(100)
                .unwrap();
        }
        let repository = Repository::open(&root).unwrap();
        // Three leaves, their root, the garbage, and the pin.
        assert_eq!(damages(&repository).len(), 6);
        for _ in 0..2 {
            repository.collect_garbage().unwrap();
        }
        assert_eq!(path.exists(), !is_lost);
        assert!(!repository.has(garbage.cid()).unwrap());
        let damages = damages(&repository);
        let is_told = |damage: &Damage| {
            matches!(damage, Damage::IncompletePin { pin, error: BlockError::Damaged { .. } }
                if *pin == pinned)
        };
        assert!(damages.iter().any(is_told), "{damages:?}");
        // The content heals elsewhere.
        let session = repository.session().unwrap();
        import_bytes(&session, &content(600_000, 1), Profile::default());
        session.commit(&[]).unwrap();
        assert_clean(&repository);
        assert_eq!(path.exists(), !is_lost);
    }
}

/// A damaged index had no hint and no way out.
#[test]
fn a_damaged_database_is_named_kept_and_rebuilt() {
    type Case = (&'static str, fn(&Path));
    let cases: [Case; 4] = [
        ("empty", |path| fs::write(path, "").unwrap()),
        ("cut", |path| {
            let length = fs::metadata(path).unwrap().len();
            let file = File::options().write(true).open(path).unwrap();
            file.set_len(length / 2).unwrap();
        }),
        ("text", |path| {
            fs::write(path, "this is no database".repeat(1000)).unwrap()
        }),
        ("overwritten", |path| {
            let file = File::options().write(true).open(path).unwrap();
            let length = file.metadata().unwrap().len() as usize;
            file.write_all_at(&content(length - 4096, 5), 4096).unwrap();
        }),
    ];
    for (case, harm) in cases {
        let (_directory, repository) = repository();
        let root = repository.path().to_owned();
        let (cid, bytes) = pinned_file(&repository, 1);
        drop(repository);
        let path = root.join("repo.db");
        // All of it into the file itself.
        let database = rusqlite::Connection::open(&path).unwrap();
        database
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .unwrap();
        database.close().unwrap();
        harm(&path);
        let harmed = fs::read(&path).unwrap();
        let before = segments(&root);
        let read = Repository::open(&root)
            .and_then(|repository| read_all(&repository, &cid).map_err(unwrap_repo));
        assert!(
            matches!(read, Err(RepoError::DamagedDatabase { .. })),
            "{case}: {read:?}"
        );
        assert!(segments(&root) == before, "{case}");

        let reindexed = reindex(&root);
        assert_eq!(reindexed.kept_pins + reindexed.recovered_pins, 1, "{case}");
        assert!(!reindexed.old_was_readable, "{case}");
        let old = reindexed.old_database.unwrap();
        assert_eq!(fs::read(old).unwrap(), harmed, "{case}");
        let repository = Repository::open(&root).unwrap();
        repository.collect_garbage().unwrap();
        assert_eq!(read_all(&repository, &cid).unwrap(), bytes, "{case}");
        assert_clean(&repository);
    }
}

/// The error of the repository inside an error of UnixFS.
fn unwrap_repo(error: ipfs_exec_node::unixfs::UnixfsError) -> RepoError {
    use ipfs_exec_node::unixfs::UnixfsError;
    match error {
        UnixfsError::Block(BlockError::Store { source }) => *source.downcast().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_rebuild_keeps_pins_provides_and_root_file_systems() {
    let (_directory, repository) = repository();
    let root = repository.path().to_owned();
    let (cid, _) = pinned_file(&repository, 1);
    let direct = raw(b"direct");
    let unpinned = raw(b"unpinned");
    repository.put(&[direct.clone(), unpinned.clone()]).unwrap();
    let session = repository.session().unwrap();
    session.commit(&[Pin::direct(*direct.cid())]).unwrap();
    repository.ask_to_provide(&cid).unwrap();
    repository.note_provided(&cid).unwrap();
    repository.ask_to_provide(unpinned.cid()).unwrap();
    repository.record_rootfs("key", 123).unwrap();
    let state = |repository: &Repository| {
        let mut pins = repository.pins().unwrap();
        pins.retain(|pin| pin.name != "recovered");
        let provides = repository.provides().unwrap();
        (pins, provides, repository.rootfs_entries().unwrap())
    };
    let before = state(&repository);
    drop(repository);

    for round in 1..=2 {
        let reindexed = reindex(&root);
        assert!(reindexed.old_was_readable);
        let old = root.join(format!("repo.db.old-{round}"));
        assert_eq!(reindexed.old_database, Some(old));
        let repository = Repository::open(&root).unwrap();
        assert_eq!(state(&repository), before);
        let recovered = repository.pin(unpinned.cid()).unwrap().unwrap();
        assert_eq!(recovered.name, "recovered");
        assert_clean(&repository);
    }
}

/// A process that is killed leaves one of these, and nothing is lost.
#[test]
fn a_rebuild_that_was_killed_is_done_again() {
    let (_directory, repository) = repository();
    let root = repository.path().to_owned();
    let (cid, bytes) = pinned_file(&repository, 1);
    drop(repository);
    let unfinished = ["repo.db.new", "repo.db.new-wal", "repo.db.links"];
    // Before the rename: the old database is still there, under one name or two.
    for is_linked in [false, true] {
        for name in unfinished {
            fs::write(root.join(name), "unfinished").unwrap();
        }
        if is_linked {
            fs::hard_link(root.join("repo.db"), root.join("repo.db.old-2")).unwrap();
        }
        let opened = Repository::open(&root).unwrap();
        assert_eq!(read_all(&opened, &cid).unwrap(), bytes);
        drop(opened);
        assert_eq!(reindex(&root).kept_pins, 1);
        for name in unfinished {
            assert!(!root.join(name).exists(), "{name}");
        }
    }
    // Between two renames, where the old database could not be read.
    fs::rename(root.join("repo.db"), root.join("repo.db.old-7")).unwrap();
    let opened = Repository::open(&root);
    assert!(matches!(opened, Err(RepoError::NoDatabase { .. })));
    assert_eq!(reindex(&root).recovered_pins, 1);
    let repository = Repository::open(&root).unwrap();
    assert_eq!(read_all(&repository, &cid).unwrap(), bytes);
    assert_clean(&repository);
}

#[test]
fn a_repository_in_use_is_not_rebuilt() {
    let (_directory, repository) = repository();
    let root = repository.path().to_owned();
    let (cid, _) = pinned_file(&repository, 1);
    assert!(matches!(try_reindex(&root), Err(RepoError::InUse { .. })));
    assert!(!root.join("repo.db.new").exists());
    assert!(repository.has(&cid).unwrap());
    drop(repository);
    assert_eq!(reindex(&root).kept_pins, 1);
}

/// Freed space is made of sections of zeros, which are no content.
#[test]
fn freed_space_is_not_pinned() {
    let (_directory, repository) = repository();
    let root = repository.path().to_owned();
    let large: Vec<Block> = (0..8).map(|n| raw(&content(200_000, n))).collect();
    let session = repository.session().unwrap();
    session.put(&large).unwrap();
    let kept: Vec<_> = large.iter().step_by(2).map(|block| *block.cid()).collect();
    let pins: Vec<_> = kept.iter().map(|cid| Pin::direct(*cid)).collect();
    session.commit(&pins).unwrap();
    repository.collect_garbage().unwrap();
    drop(repository);
    remove_database(&root);
    let reindexed = reindex(&root);
    assert_eq!(reindexed.recovered_pins, 4);
    let repository = Repository::open(&root).unwrap();
    for cid in &kept {
        assert!(repository.pin(cid).unwrap().is_some());
    }
    assert_clean(&repository);
}

/// A recursive pin on a DAG that cannot be walked would make every collection fail.
#[test]
fn roots_that_cannot_be_walked_are_pinned_one_by_one() {
    const DAG_JSON: u64 = 0x0129;
    let (_directory, repository) = repository();
    let root = repository.path().to_owned();
    let leaf = raw(b"leaf");
    let opaque = Block::new(cid::Version::V1, DAG_JSON, b"{}".to_vec().into());
    let invalid = Block::new(cid::Version::V1, DAG_PB, b"no protobuf".to_vec().into());
    let inner = node(
        &[(b"leaf", leaf.cid(), 4), (b"opaque", opaque.cid(), 2)],
        b"",
    );
    let top = node(&[(b"inner", inner.cid(), 100)], b"");
    let sound = node(&[(b"leaf", leaf.cid(), 4)], b"\x08\x01");
    let blocks = [leaf, opaque, inner, top, invalid, sound];
    // Parents first, so that one look at the file is not enough.
    for block in blocks.iter().rev() {
        repository.put(std::slice::from_ref(block)).unwrap();
    }
    drop(repository);
    remove_database(&root);
    reindex(&root);
    let repository = Repository::open(&root).unwrap();
    assert_eq!(repository.collect_garbage().unwrap().blocks, 0);
    for block in &blocks {
        assert!(repository.has(block.cid()).unwrap(), "{}", block.cid());
    }
}

/// A flipped bit in a section must cost that block alone.
#[test]
fn a_rebuild_passes_over_damaged_blocks_and_names_them() {
    let (_directory, repository) = repository();
    let root = repository.path().to_owned();
    let blocks: Vec<_> = (0..3).map(|n| raw(&content(1000, n))).collect();
    repository.put(&blocks).unwrap();
    drop(repository);
    let path = segment(&root, 1);
    let mut bytes = fs::read(&path).unwrap();
    let needle = &blocks[1].data()[..20];
    let at = bytes.windows(20).position(|window| window == needle);
    bytes[at.unwrap()] ^= 1;
    fs::write(&path, &bytes).unwrap();
    remove_database(&root);
    let reindexed = reindex(&root);
    assert_eq!((reindexed.blocks, reindexed.damaged), (2, 1));
    assert_eq!(reindexed.recovered_pins, 2);
    let repository = Repository::open(&root).unwrap();
    let read = repository.get(blocks[1].cid());
    assert!(matches!(read, Err(BlockError::Damaged { .. })));
    assert_eq!(damages(&repository).len(), 1);
}

/// The CAR file of another program is taken in, and stays as it is.
#[test]
fn a_rebuild_takes_in_the_car_files_of_other_programs() {
    let (_directory, repository) = repository();
    let root = repository.path().to_owned();
    let (cid, bytes) = pinned_file(&repository, 1);
    let mut car = Vec::new();
    let other = {
        let (_directory, other) = crate::support::repository();
        let (other_cid, _) = pinned_file(&other, 2);
        ipfs_exec_node::car::export(&other, &other_cid, &mut car, &Silent).unwrap();
        other_cid
    };
    drop(repository);
    fs::write(segment(&root, 5), &car).unwrap();
    fs::write(segment(&root, 6), "no CAR file at all").unwrap();
    let reindexed = reindex(&root);
    assert_eq!(reindexed.sealed, [segment(&root, 5), segment(&root, 6)]);
    let repository = Repository::open(&root).unwrap();
    repository.put(&[raw(b"new")]).unwrap();
    repository.unpin(&other).unwrap();
    repository.collect_garbage().unwrap();
    assert_eq!(fs::read(segment(&root, 5)).unwrap(), car);
    assert_eq!(fs::read(segment(&root, 6)).unwrap(), b"no CAR file at all");
    assert_eq!(read_all(&repository, &cid).unwrap(), bytes);
    assert_clean(&repository);
}
