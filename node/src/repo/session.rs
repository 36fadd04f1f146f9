//! Sessions: operations that write.
//!
//! ```text
//! put -> append to the segment -> batch full -> committer thread: sync data, then one transaction
//! commit -> the last batch, the pins and the end of the lease in one durable transaction
//! ```
//!
//! While one batch is synced the next is appended. A session that is dropped uncommitted leaves
//! no block of its unfinished batch; finished batches stay as garbage. The space behind the last
//! committed byte is given back.
//!
//! A block that is here already is not written again, only noted under the session's lease. Until
//! that note is committed garbage collection could remove it, so an unfinished batch holds the
//! gate (a shared lock that collection takes exclusively for its short deleting step).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use rusqlite::{Transaction, params};

use super::gate::Gate;
use super::pins::{self, Pin};
use super::scratch::Scratch;
use super::segment::{self, Location, Writer};
use super::store::{self, Store};
use super::{RepoError, leases};
use crate::block::{self, Block, BlockError, Cid, Multihash, ReadBlocks, WriteBlocks};
use crate::budget::{FreeSpace, KeepFree};
use crate::cancel::Cancel;

/// Data in a batch, in bytes: what a crash can cost, against the price of a sync.
const BATCH_BYTES: u64 = 64 << 20;

/// Blocks in a batch: bounds the memory of the index rows where blocks are small.
const BATCH_BLOCKS: usize = 32 * 1024;

/// One operation that writes to a repository, or reads what must stay.
///
/// As [`ReadBlocks`] it has the committed blocks and its own. Nothing of it is promised before
/// [`Session::commit`] returns. Dropping it ends it.
#[derive(Debug)]
pub struct Session<'r> {
    store: &'r Store,
    scratch: Scratch,
    lease: OnceLock<i64>,
    state: Mutex<State>,
}

/// What changes under the session's lock.
#[derive(Debug, Default)]
struct State {
    writer: Option<Writer>,
    batch: Batch,
    /// The batch before, while it is being committed.
    committing: Option<Committing>,
    /// Another file may have joined the directory since it was synced.
    new_segment: bool,
}

/// Blocks appended and not yet visible.
#[derive(Debug, Default)]
struct Batch {
    written: HashMap<Multihash, Location>,
    /// Blocks that were here already.
    relied_on: Vec<Multihash>,
    bytes: u64,
    /// Held from the first block on.
    gate: Option<Gate>,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.written.len() + self.relied_on.len() >= BATCH_BLOCKS
    }
}

/// A batch on its way to disk.
#[derive(Debug)]
struct Committing {
    batch: Arc<Batch>,
    sync: JoinHandle<std::io::Result<()>>,
    segment: Option<(u64, u64)>,
}

impl<'r> Session<'r> {
    pub(super) fn begin(store: &'r Store) -> Result<Session<'r>, RepoError> {
        let scratch = Scratch::create(&store.layout().run())?;
        Ok(Session {
            store,
            scratch,
            lease: OnceLock::new(),
            state: Mutex::default(),
        })
    }

    /// A private directory on the file system of the repository, for whatever the operation needs
    /// on disk. Removed with all that is in it when the session ends; also, by the next process,
    /// when this one is killed.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Takes what writing needs, before there is anything to write: it can be done while something
    /// else is waited for.
    ///
    /// # Errors
    /// Where disk or database fail.
    pub fn prepare(&self) -> Result<(), RepoError> {
        self.lease()?;
        self.ensure_writer(&mut self.lock())
    }

    fn ensure_writer(&self, state: &mut State) -> Result<(), RepoError> {
        if state.writer.is_none() {
            state.writer = Some(self.store.take_segment()?);
            state.new_segment = true;
        }
        Ok(())
    }

    /// Keeps the DAGs below `roots` from garbage collection for as long as the session lives.
    ///
    /// # Errors
    /// Where the database fails.
    pub fn protect(&self, roots: &[Cid]) -> Result<(), RepoError> {
        let lease = self.lease()?;
        // A collection that is deleting does not look at leases any more: it is let finish first.
        let _gate = self.pass_gate(&mut self.lock())?;
        self.store
            .database()
            .write(|transaction| leases::add_roots(transaction, lease, roots))
    }

    /// Ends the session: all its blocks and `pins` become visible and are on disk when this
    /// returns.
    ///
    /// # Errors
    /// Where disk or database fail; then no pin was made.
    pub fn commit(mut self, pins: &[Pin]) -> Result<(), RepoError> {
        self.commit_last_batch(pins)?;
        // Its row is gone with the batch.
        self.lease.take();
        Ok(())
    }

    /// Makes what was put so far visible and durable, and goes on: for blocks that come slowly.
    ///
    /// # Errors
    /// Where disk or database fail.
    pub fn flush(&self) -> Result<(), RepoError> {
        let mut state = self.lock();
        self.start_committing(&mut state)?;
        self.finish_committing(&mut state)
    }

    fn commit_last_batch(&self, pins: &[Pin]) -> Result<(), RepoError> {
        let mut state = self.lock();
        self.finish_committing(&mut state)?;
        let batch = std::mem::take(&mut state.batch);
        let mut committed = None;
        if let Some(writer) = state.writer.as_ref().filter(|_| !batch.written.is_empty()) {
            let path = self.store.layout().segment(writer.id);
            writer
                .file
                .sync_data()
                .map_err(RepoError::io("sync", &path))?;
            committed = Some((writer.id, writer.offset));
        }
        self.sync_directory(&mut state)?;
        let lease = self.lease.get().copied();
        // What is pinned without having been written must not be deleted at this moment.
        let _gate = if batch.gate.is_none() && !pins.is_empty() {
            Some(Gate::enter(self.store.layout(), self.store.waiting())?)
        } else {
            None
        };
        let known = batch.written.is_empty() && self.all_pinned(pins)?;
        if known && lease.is_none() {
            return Ok(());
        }
        let commit = |transaction: &Transaction<'_>| {
            index(transaction, &batch, lease.unwrap_or(0))?;
            if let Some((id, length)) = committed {
                store::set_committed(transaction, id, length)?;
            }
            pins::add(transaction, pins)?;
            lease.map_or(Ok(()), |lease| leases::remove(transaction, lease))
        };
        // The end of a lease alone need not be on disk: a crash ends it as well.
        if known {
            self.store.database().write(commit)
        } else {
            self.store.database().write_durably(commit)
        }
    }

    /// Whether committing `pins` would change nothing: spares a run whose output is known the
    /// price of a sync.
    fn all_pinned(&self, pins: &[Pin]) -> Result<bool, RepoError> {
        for pin in pins {
            let found = self
                .store
                .database()
                .with(|connection| pins::find(connection, &pin.cid))?;
            if found.as_ref() != Some(pin) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session's lease; taken when it is first needed.
    fn lease(&self) -> Result<i64, RepoError> {
        if let Some(lease) = self.lease.get() {
            return Ok(*lease);
        }
        let lease = self
            .store
            .database()
            .write(|transaction| leases::add(transaction, self.scratch.name()))?;
        match self.lease.set(lease) {
            Ok(()) => Ok(lease),
            // Another thread was faster; a second lease of one holder does no harm.
            Err(_) => Ok(self.lease.get().copied().unwrap_or(lease)),
        }
    }

    fn append(
        &self,
        state: &mut State,
        blocks: &[Block],
        keep_free: &KeepFree,
    ) -> Result<(), BlockError> {
        self.enter_gate(state)?;
        let mut fresh = Vec::with_capacity(blocks.len());
        let mut in_batch = HashSet::with_capacity(blocks.len());
        for block in blocks
            .iter()
            .filter(|block| block.cid().hash().code() != block::IDENTITY)
        {
            let hash = block.cid().hash();
            if self.is_pending(state, hash) || !in_batch.insert(*hash) {
                continue;
            }
            match self.store.find(hash)? {
                Some(location) if !location.damaged => state.batch.relied_on.push(*hash),
                _ => fresh.push(block),
            }
        }
        self.check_room(&fresh, keep_free)?;
        Ok(self.write(state, &fresh)?)
    }

    /// Fails when `blocks`, once written, would leave less of the disk free than is to be kept.
    fn check_room(&self, blocks: &[&Block], keep_free: &KeepFree) -> Result<(), BlockError> {
        if blocks.is_empty() || *keep_free == KeepFree::NOTHING {
            return Ok(());
        }
        let bytes = blocks.iter().map(|block| block.data().len() as u64).sum();
        let path = self.store.layout().blocks();
        FreeSpace::at(&path)
            .and_then(|space| keep_free.check(&space, bytes, 0))
            .map_err(|source| BlockError::NoRoom { path, source })
    }

    /// Enters the gate for the batch, if it is not in yet.
    fn enter_gate(&self, state: &mut State) -> Result<(), RepoError> {
        self.lease()?;
        if let Some(gate) = self.pass_gate(state)? {
            state.batch.gate = Some(gate);
        }
        Ok(())
    }

    /// Enters the gate; `None` when the batch holds it already. A collection that waits there waits
    /// also for the batch before, which is then finished first.
    fn pass_gate(&self, state: &mut State) -> Result<Option<Gate>, RepoError> {
        if state.batch.gate.is_some() {
            return Ok(None);
        }
        let (layout, waiting) = (self.store.layout(), self.store.waiting());
        if let Some(gate) = Gate::try_enter(layout, waiting)? {
            return Ok(Some(gate));
        }
        self.finish_committing(state)?;
        Gate::enter(layout, waiting).map(Some)
    }

    /// Whether the block is in this batch or the one before.
    fn is_pending(&self, state: &State, hash: &Multihash) -> bool {
        self.pending(state, hash).is_some()
    }

    fn pending(&self, state: &State, hash: &Multihash) -> Option<Location> {
        let committing = state
            .committing
            .as_ref()
            .and_then(|before| before.batch.written.get(hash));
        state.batch.written.get(hash).or(committing).copied()
    }

    fn write(&self, state: &mut State, blocks: &[&Block]) -> Result<(), RepoError> {
        if blocks.is_empty() {
            return Ok(());
        }
        if state
            .writer
            .as_ref()
            .is_some_and(|writer| writer.offset >= segment::MAX_BYTES)
        {
            // The batch must end with its segment.
            self.start_committing(state)?;
            self.finish_committing(state)?;
            state.writer = None;
            self.enter_gate(state)?;
        }
        self.ensure_writer(state)?;
        let writer = state.writer.as_mut().expect("a segment was just taken");
        let path = self.store.layout().segment(writer.id);
        let locations = writer
            .append(blocks)
            .map_err(RepoError::io("write", &path))?;
        for (block, location) in blocks.iter().zip(locations) {
            state.batch.bytes += u64::from(location.length);
            state.batch.written.insert(*block.cid().hash(), location);
        }
        Ok(())
    }

    /// Hands the batch to a thread that syncs it; the one before is finished first.
    fn start_committing(&self, state: &mut State) -> Result<(), RepoError> {
        self.finish_committing(state)?;
        let batch = Arc::new(std::mem::take(&mut state.batch));
        let writer = state.writer.as_ref();
        let path = self.store.layout().blocks();
        let file: Option<File> = writer
            .map(|writer| writer.file.try_clone())
            .transpose()
            .map_err(RepoError::io("open", &path))?;
        let sync = std::thread::Builder::new()
            .name("sync".to_owned())
            .spawn(move || file.map_or(Ok(()), |file| file.sync_data()))
            .map_err(RepoError::io("start a thread for", &path))?;
        let segment = writer.map(|writer| (writer.id, writer.offset));
        state.committing = Some(Committing {
            batch,
            sync,
            segment,
        });
        Ok(())
    }

    /// Waits until the batch before is on disk and makes it visible.
    fn finish_committing(&self, state: &mut State) -> Result<(), RepoError> {
        let Some(committing) = state.committing.take() else {
            return Ok(());
        };
        let path = self
            .store
            .layout()
            .segment(committing.segment.map_or(0, |(id, _)| id));
        let synced = committing
            .sync
            .join()
            .expect("syncing a file does not panic");
        synced.map_err(RepoError::io("sync", &path))?;
        self.sync_directory(state)?;
        let lease = self.lease()?;
        self.store.database().write(|transaction| {
            index(transaction, &committing.batch, lease)?;
            match committing.segment {
                Some((id, length)) => store::set_committed(transaction, id, length),
                None => Ok(()),
            }
        })
    }

    /// Makes the names of new segments as durable as their content.
    fn sync_directory(&self, state: &mut State) -> Result<(), RepoError> {
        if std::mem::take(&mut state.new_segment) {
            self.store.sync_blocks_directory()
        } else {
            Ok(())
        }
    }

    /// Gives back what was appended and never committed, and the lease.
    fn abandon(&mut self) -> Result<(), RepoError> {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(committing) = state.committing.take() {
            // Its outcome no longer matters, but its file must not be cut while it is synced.
            let _ = committing.sync.join();
        }
        let writer = state.writer.take();
        let lease = self.lease.take();
        if let Some(writer) = writer {
            let committed = self.store.committed_length(writer.id)?;
            let path = self.store.layout().segment(writer.id);
            if let Some(committed) = committed.filter(|length| writer.offset > *length) {
                writer
                    .file
                    .set_len(committed)
                    .map_err(RepoError::io("truncate", &path))?;
            }
        }
        if let Some(lease) = lease {
            self.store
                .database()
                .write(|transaction| leases::remove(transaction, lease))?;
        }
        Ok(())
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.abandon() {
            // The next writer of the segment cuts the tail, garbage collection drops the lease.
            tracing::debug!(%error, "session ended untidily");
        }
    }
}

/// Adds the batch to the index.
fn index(transaction: &Transaction<'_>, batch: &Batch, lease: i64) -> rusqlite::Result<()> {
    // In the order of the keys, which is that of the table: half the page writes.
    let mut rows: Vec<_> = batch
        .written
        .iter()
        .map(|(hash, location)| (hash.to_bytes(), location))
        .collect();
    rows.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    for (hash, location) in rows {
        store::insert_block(transaction, &hash, location, lease, false)?;
    }
    let mut touch = transaction
        .prepare_cached("UPDATE blocks SET lease = ?2 WHERE hash = ?1 AND lease < ?2")?;
    for hash in &batch.relied_on {
        touch.execute(params![hash.to_bytes(), lease])?;
    }
    Ok(())
}

impl ReadBlocks for Session<'_> {
    fn read(&self, cid: &Cid, _cancel: &Cancel) -> Result<Bytes, BlockError> {
        let pending = self.pending(&self.lock(), cid.hash());
        match pending {
            Some(location) => self.store.read_at(cid, &location),
            None => self.store.read(cid),
        }
    }

    fn has(&self, cid: &Cid) -> Result<bool, BlockError> {
        if self.is_pending(&self.lock(), cid.hash()) {
            return Ok(true);
        }
        Ok(self
            .store
            .find(cid.hash())?
            .is_some_and(|location| !location.damaged))
    }

    fn size(&self, cid: &Cid) -> Result<Option<u64>, BlockError> {
        let pending = self.pending(&self.lock(), cid.hash());
        let location = match pending {
            Some(location) => Some(location),
            None => self.store.find(cid.hash())?,
        };
        Ok(location
            .filter(|location| !location.damaged)
            .map(|location| u64::from(location.length)))
    }

    fn expect(&self, _cids: &[Cid]) {}

    fn expect_all(&self, _root: &Cid) {}
}

impl WriteBlocks for Session<'_> {
    fn put_within(&self, batch: &[Block], keep_free: &KeepFree) -> Result<(), BlockError> {
        let mut state = self.lock();
        self.append(&mut state, batch, keep_free)?;
        if state.batch.is_full() {
            self.start_committing(&mut state)?;
        }
        Ok(())
    }
}
