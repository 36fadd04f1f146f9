//! Verification: every block is read and hashed, every pin is walked.

use std::ops::ControlFlow;

use crossbeam_channel::{Receiver, Sender};

use super::pins::PinKind;
use super::segment::Location;
use super::store::{self, Store};
use super::{ForeignFile, RepoError, Repository};
use crate::block::{BlockError, Cid, Multihash, ReadBlocks, ReadBlocksExt};
use crate::cancel::NEVER;
use crate::dag::{DagError, Seen, walk_unseen};
use crate::threads::start_some;

/// Index rows between the thread that reads them and those that hash.
const QUEUE: usize = 256;

/// Something that is not as it should be.
#[derive(Debug)]
#[non_exhaustive]
pub enum Damage {
    /// A block that is indexed cannot be read or does not match its hash.
    Block {
        /// What is wrong with which block.
        error: BlockError,
    },
    /// A pinned DAG lacks a block.
    IncompletePin {
        /// The pin.
        pin: Cid,
        /// What is wrong with the first block lacking.
        error: BlockError,
    },
    /// A file of the repository belongs to another user than the repository.
    ForeignFile {
        /// The file and its owner.
        file: ForeignFile,
    },
    /// A pinned DAG cannot be walked.
    MalformedPin {
        /// The pin.
        pin: Cid,
        /// Why.
        error: DagError,
    },
}

/// What was verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Blocks read.
    pub blocks: u64,
    /// Bytes of their data.
    pub bytes: u64,
    /// Pins walked.
    pub pins: u64,
    /// Damages reported.
    pub damages: u64,
}

pub(super) fn verify(
    store: &Store,
    blocks: &Repository,
    on_damage: &mut dyn FnMut(Damage),
) -> Result<Verified, RepoError> {
    let mut verified = Verified::default();
    verify_blocks(store, blocks, &mut verified, on_damage)?;
    verify_pins(blocks, &mut verified, on_damage)?;
    for file in blocks.foreign_files()? {
        verified.damages += 1;
        on_damage(Damage::ForeignFile { file });
    }
    Ok(verified)
}

type Outcome = Result<u64, BlockError>;

fn verify_blocks(
    store: &Store,
    blocks: &Repository,
    verified: &mut Verified,
    on_damage: &mut dyn FnMut(Damage),
) -> Result<(), RepoError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (rows_in, rows) = crossbeam_channel::bounded(QUEUE);
    let (outcomes_in, outcomes) = crossbeam_channel::bounded(QUEUE);
    std::thread::scope(|scope| {
        let started = start_some(scope, threads, || {
            let (rows, outcomes) = (rows.clone(), outcomes_in.clone());
            move || hash_rows(store, blocks, &rows, &outcomes)
        });
        // Only the threads hold these ends now, so that the channels end with them.
        drop((rows, outcomes_in));
        started.map_err(RepoError::Thread)?;
        let send = move || send_rows(store, &rows_in);
        let reader = std::thread::Builder::new().spawn_scoped(scope, send);
        let reader = reader.map_err(RepoError::Thread)?;
        for outcome in outcomes {
            match outcome {
                Ok(bytes) => {
                    verified.blocks += 1;
                    verified.bytes += bytes;
                }
                Err(error) => {
                    verified.damages += 1;
                    on_damage(Damage::Block { error });
                }
            }
        }
        reader.join().expect("reading rows does not panic")
    })
}

/// Sends every index row in the order of the disk.
fn send_rows(store: &Store, rows_in: &Sender<(Multihash, Location)>) -> Result<(), RepoError> {
    store.database().with(|connection| {
        let mut statement = connection.prepare(&format!(
            "SELECT hash, {} FROM blocks ORDER BY segment, offset",
            store::LOCATION_COLUMNS
        ))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let hash = store::hash_column(row, 0)?;
            if rows_in.send((hash, store::location(row, 1)?)).is_err() {
                break;
            }
        }
        Ok(())
    })
}

fn hash_rows(
    store: &Store,
    blocks: &Repository,
    rows: &Receiver<(Multihash, Location)>,
    outcomes: &Sender<Outcome>,
) {
    for (hash, location) in rows {
        let cid = store.stored_cid(&hash, &location);
        let outcome = match blocks.read(&cid, &NEVER) {
            // Collected since its row was read.
            Err(BlockError::Missing { .. }) => continue,
            outcome => outcome.map(|data| data.len() as u64),
        };
        if outcomes.send(outcome).is_err() {
            return;
        }
    }
}

fn verify_pins(
    blocks: &Repository,
    verified: &mut Verified,
    on_damage: &mut dyn FnMut(Damage),
) -> Result<(), RepoError> {
    let mut seen = Seen::default();
    for pin in blocks.pins()? {
        verified.pins += 1;
        let damage = match pin.kind {
            PinKind::Recursive => walk_pin(blocks, &pin.cid, &mut seen),
            PinKind::Direct => blocks
                .get(&pin.cid)
                .err()
                .map(|error| Damage::IncompletePin {
                    pin: pin.cid,
                    error,
                }),
        };
        if let Some(damage) = damage {
            verified.damages += 1;
            on_damage(damage);
        }
    }
    Ok(())
}

fn walk_pin(blocks: &Repository, pin: &Cid, seen: &mut Seen) -> Option<Damage> {
    let outcome = walk_unseen(blocks, pin, seen, &mut |visit| match visit.data {
        Ok(_) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    });
    match outcome {
        Ok(ControlFlow::Continue(())) => None,
        Ok(ControlFlow::Break(error)) => Some(Damage::IncompletePin { pin: *pin, error }),
        Err(error) => Some(Damage::MalformedPin { pin: *pin, error }),
    }
}
