//! Waiting for other processes ends when the user wants that.

use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ipfs_exec_node::block::BlockError;
use ipfs_exec_node::repo::{RepoError, RepositoryOptions};
use ipfs_exec_node::{CancelSource, Pin, Repository, WriteBlocksExt};
use rustix::fs::{FlockOperation, flock};

use crate::support::{raw, repository};

/// Long enough for the work to come to its wait, and no time for a person.
const BEFORE: Duration = Duration::from_millis(200);
/// Far below the two minutes that a transaction waits otherwise.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Does `work`, which must wait, on the repository at `path`, and interrupts it.
#[track_caller]
fn interrupt(path: &Path, work: impl FnOnce(Repository) -> Result<(), RepoError> + Send) {
    let source = CancelSource::new().unwrap();
    let mut options = RepositoryOptions::default();
    options.cancel = source.token();
    let (outcome, waited) = thread::scope(|scope| {
        let work = scope.spawn(|| Repository::open_with(path, options).and_then(work));
        thread::sleep(BEFORE);
        assert!(!work.is_finished(), "it does not wait");
        source.cancel();
        let asked = Instant::now();
        (work.join().unwrap(), asked.elapsed())
    });
    assert!(
        matches!(outcome, Err(RepoError::Interrupted { .. })),
        "{outcome:?}"
    );
    assert!(waited < AT_ONCE, "{waited:?}");
}

fn put(repository: Repository) -> Result<(), RepoError> {
    match repository.put(&[raw(b"new")]) {
        Ok(()) => Ok(()),
        Err(BlockError::Store { source }) => Err(*source.downcast().unwrap()),
        Err(error) => Err(error.into()),
    }
}

#[test]
fn of_a_transaction() {
    let (_directory, repository) = repository();
    let path = repository.path().to_owned();
    let other = rusqlite::Connection::open(path.join("repo.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    interrupt(&path, put);
    interrupt(&path, |repository| {
        repository.note_provided(raw(b"x").cid())
    });
    interrupt(&path, |repository| {
        let pin = Pin::direct(*raw(b"x").cid());
        repository.session()?.commit(&[pin])
    });
    other.execute_batch("ROLLBACK").unwrap();
    repository.put(&[raw(b"new")]).unwrap();
}

#[test]
fn of_the_gate_of_garbage_collection() {
    let (_directory, repository) = repository();
    let path = repository.path().to_owned();
    for held in ["rootfs", "run"] {
        let holder = File::open(path.join(held)).unwrap();
        flock(&holder, FlockOperation::LockExclusive).unwrap();
        interrupt(&path, put);
        interrupt(&path, |repository| repository.collect_garbage().map(drop));
    }
    repository.put(&[raw(b"new")]).unwrap();
    repository.collect_garbage().unwrap();
}

#[test]
fn of_the_making_of_a_repository() {
    let directory = tempfile::tempdir().unwrap();
    let holder = File::open(directory.path()).unwrap();
    flock(&holder, FlockOperation::LockExclusive).unwrap();
    interrupt(directory.path(), |_| Ok(()));
    drop(holder);
    Repository::open(directory.path()).unwrap();
}

/// An interrupted operation cleans up, which must not fail because it was interrupted.
#[test]
fn a_free_lock_is_taken_after_an_interruption() {
    let directory = tempfile::tempdir().unwrap();
    let source = CancelSource::new().unwrap();
    source.cancel();
    let mut options = RepositoryOptions::default();
    options.cancel = source.token();
    let repository = Repository::open_with(&directory.path().join("new"), options).unwrap();
    repository.put(&[raw(b"new")]).unwrap();
    repository.collect_garbage().unwrap();
}
