//! Many users of one repository at once.

use ipfs_exec_node::{Pin, ReadBlocksExt, Repository, WriteBlocksExt};

use crate::support::{content, raw};

#[test]
fn many_open_an_empty_place_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/repository");
    std::thread::scope(|scope| {
        for number in 0..16u64 {
            let path = &path;
            scope.spawn(move || {
                let repository = Repository::open(path).unwrap();
                let block = raw(&content(5000, number));
                repository.put(std::slice::from_ref(&block)).unwrap();
                assert_eq!(repository.get(block.cid()).unwrap(), block.data());
            });
        }
    });
    let repository = Repository::open(&path).unwrap();
    assert_eq!(repository.statistics().unwrap().blocks, 16);
}

#[test]
fn writers_and_collections_do_not_harm_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("repository");
    let shared = content(40_000, 0);
    std::thread::scope(|scope| {
        for writer in 1..5u64 {
            let (path, shared) = (&path, &shared);
            scope.spawn(move || {
                let repository = Repository::open(path).unwrap();
                for round in 0..25 {
                    // One block is new, one is everybody's and garbage in between.
                    let own = raw(&content(20_000, writer * 1000 + round));
                    let common = raw(shared);
                    let session = repository.session().unwrap();
                    session.put(&[own.clone(), common.clone()]).unwrap();
                    let pin = Pin::direct(*common.cid());
                    session.commit(&[Pin::direct(*own.cid()), pin]).unwrap();
                    assert_eq!(repository.get(own.cid()).unwrap(), own.data());
                    if round % 5 == 0 {
                        let _ = repository.unpin(common.cid());
                    }
                }
            });
        }
        let path = &path;
        scope.spawn(move || {
            let repository = Repository::open(path).unwrap();
            for _ in 0..20 {
                repository.collect_garbage().unwrap();
            }
        });
    });
    let repository = Repository::open(&path).unwrap();
    let mut damages = Vec::new();
    let verified = repository
        .verify(&mut |damage| damages.push(damage))
        .unwrap();
    assert!(damages.is_empty(), "{damages:?}");
    assert!(verified.pins >= 100);
}
