//! The repository: durability, damage, leases and garbage.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use ipfs_exec_node::block::BlockError;
use ipfs_exec_node::car::CarReader;
use ipfs_exec_node::repo::{Damage, RepoError};
use ipfs_exec_node::{Block, Pin, Profile, ReadBlocks, ReadBlocksExt, Repository, WriteBlocksExt};

use crate::support::{content, import_bytes, raw, repository};

fn segments(repository: &Repository) -> Vec<PathBuf> {
    let directory = repository.path().join("blocks");
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
}

fn disk_bytes(repository: &Repository) -> u64 {
    repository.statistics().unwrap().disk_bytes
}

/// Flips a byte of the first block that contains `needle`.
fn damage(repository: &Repository, needle: &[u8]) {
    for path in segments(repository) {
        let bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes
            .windows(needle.len())
            .position(|window| window == needle)
        {
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.write_all_at(&[needle[0] ^ 1], at as u64).unwrap();
            return;
        }
    }
    panic!("the data is in no segment");
}

fn assert_clean(repository: &Repository) {
    let mut damages = Vec::new();
    repository
        .verify(&mut |damage| damages.push(damage))
        .unwrap();
    assert!(damages.is_empty(), "{damages:?}");
}

/// Every segment is a CAR file that verifies, holes included.
fn assert_segments_are_car_files(repository: &Repository) {
    for path in segments(repository) {
        let mut reader = CarReader::new(std::fs::File::open(&path).unwrap()).unwrap();
        while reader
            .next_block()
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .is_some()
        {}
    }
}

#[test]
fn committed_blocks_are_there_after_reopening() {
    let (directory, repository) = repository();
    let bytes = content(3_000_000, 1);
    let session = repository.session().unwrap();
    let cid = import_bytes(&session, &bytes, Profile::default()).cid;
    session.commit(&[Pin::recursive(cid)]).unwrap();
    drop(repository);
    let repository = Repository::open(&directory.path().join("repository")).unwrap();
    assert_eq!(crate::support::read_all(&repository, &cid).unwrap(), bytes);
    assert_eq!(repository.pins().unwrap(), [Pin::recursive(cid)]);
    assert_clean(&repository);
    assert_segments_are_car_files(&repository);
}

#[test]
fn uncommitted_blocks_leave_nothing() {
    let (_directory, repository) = repository();
    repository.put(&[raw(b"kept")]).unwrap();
    let before = disk_bytes(&repository);
    let session = repository.session().unwrap();
    let block = raw(&content(1_000_000, 2));
    session.put(std::slice::from_ref(&block)).unwrap();
    assert_eq!(session.get(block.cid()).unwrap(), block.data());
    assert!(!repository.has(block.cid()).unwrap());
    let scratch = session.scratch().to_owned();
    drop(session);
    assert!(!repository.has(block.cid()).unwrap());
    assert_eq!(disk_bytes(&repository), before);
    assert!(!scratch.exists());
}

#[test]
fn damage_is_named_never_used_and_healed_by_the_next_writer() {
    let (_directory, repository) = repository();
    let block = raw(b"some data that will be damaged");
    repository.put(&[raw(b"other"), block.clone()]).unwrap();
    damage(&repository, b"some data that");
    for _ in 0..2 {
        let read = repository.get(block.cid());
        assert!(matches!(read, Err(BlockError::Damaged { cid }) if cid == *block.cid()));
    }
    assert!(!repository.has(block.cid()).unwrap());
    let mut found = Vec::new();
    repository.verify(&mut |damage| found.push(damage)).unwrap();
    assert!(
        matches!(&found[..], [Damage::Block { error: BlockError::Damaged { cid } }] if cid == block.cid())
    );
    repository.put(std::slice::from_ref(&block)).unwrap();
    assert_eq!(repository.get(block.cid()).unwrap(), block.data());
    assert_clean(&repository);
}

#[test]
fn a_lost_segment_is_damage() {
    let (_directory, repository) = repository();
    let block = raw(b"data");
    repository.put(std::slice::from_ref(&block)).unwrap();
    let repository = {
        let path = repository.path().to_owned();
        std::fs::remove_file(&segments(&repository)[0]).unwrap();
        drop(repository);
        Repository::open(&path).unwrap()
    };
    assert!(matches!(
        repository.get(block.cid()),
        Err(BlockError::Damaged { .. })
    ));
    // Writing goes on elsewhere and heals.
    repository.put(std::slice::from_ref(&block)).unwrap();
    assert_eq!(repository.get(block.cid()).unwrap(), block.data());
}

#[test]
fn garbage_goes_and_its_space_comes_back() {
    let (_directory, repository) = repository();
    let large: Vec<Block> = (0..40).map(|n| raw(&content(200_000, n))).collect();
    let session = repository.session().unwrap();
    session.put(&large).unwrap();
    let pins: Vec<_> = large
        .iter()
        .step_by(4)
        .map(|block| Pin::direct(*block.cid()))
        .collect();
    session.commit(&pins).unwrap();
    let before = disk_bytes(&repository);
    let collected = repository.collect_garbage().unwrap();
    assert_eq!((collected.blocks, collected.bytes), (30, 30 * 200_000));
    assert!(before - disk_bytes(&repository) > 5_000_000);
    for (index, block) in large.iter().enumerate() {
        assert_eq!(
            repository.has(block.cid()).unwrap(),
            index % 4 == 0,
            "{index}"
        );
    }
    assert_clean(&repository);
    assert_segments_are_car_files(&repository);
    // Nothing more to find, and nothing is punched twice.
    let again = repository.collect_garbage().unwrap();
    assert_eq!((again.blocks, again.disk_bytes), (0, 0));
}

#[test]
fn a_segment_that_is_mostly_dead_is_rewritten() {
    let (_directory, repository) = repository();
    // Smaller than a page: holes alone would free nothing.
    let small: Vec<Block> = (0..4000).map(|n| raw(&content(1000, n))).collect();
    let session = repository.session().unwrap();
    session.put(&small).unwrap();
    let kept: Vec<_> = small.iter().step_by(50).collect();
    session
        .commit(
            &kept
                .iter()
                .map(|block| Pin::direct(*block.cid()))
                .collect::<Vec<_>>(),
        )
        .unwrap();
    let before = disk_bytes(&repository);
    repository.collect_garbage().unwrap();
    assert!(
        disk_bytes(&repository) < before / 10,
        "{} of {before}",
        disk_bytes(&repository)
    );
    for block in kept {
        assert_eq!(repository.get(block.cid()).unwrap(), block.data());
    }
    assert_clean(&repository);
    assert_segments_are_car_files(&repository);
}

#[test]
fn collection_spares_blocks_of_living_sessions() {
    let (_directory, repository) = repository();
    let [known, fresh, rooted] = [raw(b"known before"), raw(b"fresh"), raw(b"only protected")];
    repository.put(&[known.clone(), rooted.clone()]).unwrap();
    let session = repository.session().unwrap();
    session.put(&[known.clone(), fresh.clone()]).unwrap();
    let holder = repository.session().unwrap();
    holder.protect(&[*rooted.cid()]).unwrap();
    // The unfinished batch holds the gate; the collection waits for it, and then spares its blocks.
    let pin = Pin::direct(*fresh.cid());
    std::thread::scope(|scope| {
        let collection = scope.spawn(|| repository.collect_garbage().unwrap());
        session.commit(&[pin]).unwrap();
        collection.join().unwrap();
    });
    assert!(repository.has(fresh.cid()).unwrap());
    assert!(repository.has(rooted.cid()).unwrap());
    drop(holder);
    repository.collect_garbage().unwrap();
    assert!(!repository.has(rooted.cid()).unwrap());
    assert!(!repository.has(known.cid()).unwrap());
    assert!(repository.has(fresh.cid()).unwrap());
}

#[test]
fn a_lease_of_the_dead_holds_nothing() {
    let (_directory, repository) = repository();
    let block = raw(b"protected by the dead");
    repository.put(std::slice::from_ref(&block)).unwrap();
    // What kill -9 leaves: rows, and a scratch directory that nobody locks.
    let scratch = repository.path().join("run/1-dead");
    std::fs::create_dir_all(scratch.join("output/unfinished")).unwrap();
    let database = rusqlite::Connection::open(repository.path().join("repo.db")).unwrap();
    database
        .execute("INSERT INTO leases VALUES (1000000, '1-dead')", [])
        .unwrap();
    let root = block.cid().to_bytes();
    database
        .execute("INSERT INTO lease_roots VALUES (1000000, ?1)", [root])
        .unwrap();
    repository.collect_garbage().unwrap();
    assert!(!repository.has(block.cid()).unwrap());
    drop(repository.session().unwrap());
    assert!(
        !scratch.exists(),
        "the next process removes the scratch directory of the dead"
    );
}

#[test]
fn removing_a_missing_pin_is_an_error() {
    let (_directory, repository) = repository();
    let cid = *raw(b"x").cid();
    assert!(matches!(
        repository.unpin(&cid),
        Err(RepoError::NotPinned { .. })
    ));
    let session = repository.session().unwrap();
    session
        .commit(&[Pin {
            name: "name".to_owned(),
            ..Pin::direct(cid)
        }])
        .unwrap();
    let session = repository.session().unwrap();
    session.commit(&[Pin::recursive(cid)]).unwrap();
    let pin = repository.pin(&cid).unwrap().unwrap();
    assert_eq!(
        pin,
        Pin {
            name: "name".to_owned(),
            ..Pin::recursive(cid)
        }
    );
    repository.unpin(&cid).unwrap();
    assert!(repository.pins().unwrap().is_empty());
}

#[test]
fn a_newer_layout_is_refused() {
    let (directory, repository) = repository();
    drop(repository);
    let path = directory.path().join("repository");
    let database = rusqlite::Connection::open(path.join("repo.db")).unwrap();
    database
        .execute("UPDATE layout SET version = 99", [])
        .unwrap();
    drop(database);
    assert!(matches!(
        Repository::open(&path),
        Err(RepoError::TooNew { found: 99, .. })
    ));
}

#[test]
fn batches_end_where_segments_do() {
    let (_directory, repository) = repository();
    let session = repository.session().unwrap();
    // 80 MiB: more than one batch, committed while the next is written.
    for n in 0..80 {
        session.put(&[raw(&content(1 << 20, n))]).unwrap();
    }
    session.commit(&[]).unwrap();
    assert_eq!(repository.statistics().unwrap().blocks, 80);
    assert_clean(&repository);
    assert_segments_are_car_files(&repository);
}
