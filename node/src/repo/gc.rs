//! Garbage collection: it removes blocks that no pin or lease reaches, and gives their space back.
//!
//! ```text
//! mark    pins and lease roots are walked; no process waits for this
//! delete  under the closed gate: newer pins and roots are walked, unreached index rows go
//! reclaim segment by segment: tails are cut, gaps become holes, mostly dead segments are rewritten
//! ```
//!
//! A crash between any two steps costs nothing: bytes without an index row are garbage to the next
//! collection. A segment to which a process writes is left to a later collection, and so is a segment
//! that [`recover`] does not settle.

use std::collections::HashMap;
use std::fs::File;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt;

use rusqlite::params;

use super::gate::Gate;
use super::holes::{self, Zeros};
use super::pins::{self, PinKind};
use super::segment::{self, HEADER, Location};
use super::store::{self, Store};
use super::{RepoError, Repository, leases, recover, scratch};
use crate::block::{Multihash, ReadBlocks};
use crate::dag::{Seen, walk_unseen};

/// Segments handled together: each costs one open descriptor.
const SEGMENTS_A_ROUND: i64 = 64;

/// A segment with less than one part in this many alive is rewritten rather than punched.
const REWRITE_BELOW: u64 = 4;

/// What a collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blocks removed.
    pub blocks: u64,
    /// Bytes of their data.
    pub bytes: u64,
    /// Bytes that the file system got back.
    pub disk_bytes: u64,
}

/// Collects.
pub(super) fn collect(store: &Store, blocks: &Repository) -> Result<Collected, RepoError> {
    scratch::remove_dead(&store.layout().run())?;
    // What killed processes left becomes garbage that this collection removes. Bytes that no killed
    // process explains are adopted after it, so that they stay until the next one.
    if recover::was_killed(store)? {
        recover::settle_all(store)?;
    }
    // Roots of the dead must not be marked.
    lease_floor(store)?;
    let mut reached = Seen::default();
    mark(store, blocks, &mut reached)?;
    let mut collected = {
        let _closed = Gate::close(store.layout(), store.waiting())?;
        mark(store, blocks, &mut reached)?;
        delete(store, &reached, lease_floor(store)?)?
    };
    collected.disk_bytes = reclaim(store)?;
    Ok(collected)
}

/// Adds to `reached` what pins and lease roots reach. Blocks that are not here are no matter.
fn mark(store: &Store, blocks: &dyn ReadBlocks, reached: &mut Seen) -> Result<(), RepoError> {
    let (pins, roots) = store
        .database()
        .with(|connection| Ok((pins::list(connection)?, leases::roots(connection)?)))?;
    let recursive = pins
        .iter()
        .filter(|pin| pin.kind == PinKind::Recursive)
        .map(|pin| pin.cid);
    for root in recursive.chain(roots) {
        let walked: ControlFlow<()> =
            walk_unseen(blocks, &root, reached, &mut |_| ControlFlow::Continue(()))
                .map_err(|source| RepoError::Dag { cid: root, source })?;
        debug_assert!(walked.is_continue());
    }
    for pin in pins.iter().filter(|pin| pin.kind == PinKind::Direct) {
        reached.insert_alone(&pin.cid);
    }
    Ok(())
}

/// The lowest number of a living lease. Leases of the dead are removed.
fn lease_floor(store: &Store) -> Result<i64, RepoError> {
    let leases = store
        .database()
        .with(|connection| leases::list(connection))?;
    let mut floor = i64::MAX;
    for (lease, holder) in leases {
        if scratch::is_alive(&store.layout().run(), &holder)? {
            floor = floor.min(lease);
        } else {
            store
                .database()
                .write(|transaction| leases::remove(transaction, lease))?;
        }
    }
    Ok(floor)
}

/// Removes the index rows of blocks that are neither reached nor held by a lease.
fn delete(store: &Store, reached: &Seen, floor: i64) -> Result<Collected, RepoError> {
    store.database().write_durably(|transaction| {
        let mut collected = Collected::default();
        let mut rows = transaction.prepare("SELECT hash, length FROM blocks WHERE lease < ?1")?;
        let mut rows = rows.query([floor])?;
        let mut dead = Vec::new();
        while let Some(row) = rows.next()? {
            let hash: Vec<u8> = row.get(0)?;
            if Multihash::from_bytes(&hash).is_ok_and(|hash| !reached.contains(&hash)) {
                collected.blocks += 1;
                collected.bytes += row.get::<_, i64>(1)? as u64;
                dead.push(hash);
            }
        }
        let mut delete = transaction.prepare("DELETE FROM blocks WHERE hash = ?1")?;
        for hash in dead {
            delete.execute([hash])?;
        }
        Ok(collected)
    })
}

/// A segment that is being reclaimed, held against writers.
struct Victim {
    id: i64,
    file: File,
    committed: u64,
    live: Vec<(Vec<u8>, Location)>,
}

impl Victim {
    fn live_bytes(&self) -> u64 {
        self.live
            .iter()
            .map(|(_, location)| location.end() - location.start())
            .sum()
    }

    /// The ranges between the header, the live sections and the end.
    fn gaps(&self) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut end = HEADER.len() as u64;
        for (_, location) in &self.live {
            if location.start() > end {
                gaps.push(end..location.start());
            }
            end = end.max(location.end());
        }
        if self.committed > end {
            gaps.push(end..self.committed);
        }
        gaps
    }
}

fn reclaim(store: &Store) -> Result<u64, RepoError> {
    let mut zeros = Zeros::default();
    let mut freed = 0;
    let mut first = 0;
    while let Some(victims) = take_round(store, &mut first)? {
        for victim in victims {
            let before = disk_bytes(store, &victim)?;
            reclaim_segment(store, &victim, &mut zeros)?;
            freed += before.saturating_sub(disk_bytes(store, &victim)?);
        }
    }
    Ok(freed)
}

/// Locks the next segments that no process writes and reads which of their blocks live.
fn take_round(store: &Store, first: &mut i64) -> Result<Option<Vec<Victim>>, RepoError> {
    let last = *first + SEGMENTS_A_ROUND - 1;
    let newest: i64 = store.database().with(|connection| {
        connection.query_row("SELECT coalesce(max(id), 0) FROM segments", [], |row| {
            row.get(0)
        })
    })?;
    if *first > newest {
        return Ok(None);
    }
    let mut files = HashMap::new();
    for id in (*first).max(1)..=last.min(newest) {
        // Segments that are lost, too short or sealed are passed over.
        if let Some(file) = segment::lock(store.layout(), id as u64)?
            && recover::settle(store, id as u64, &file)?.is_some()
        {
            files.insert(id, file);
        }
    }
    // After the locks: what the last holders committed is in.
    let victims = store.database().with(|connection| {
        let mut victims = HashMap::new();
        let mut statement =
            connection.prepare("SELECT id, committed FROM segments WHERE id BETWEEN ?1 AND ?2")?;
        let mut rows = statement.query([*first, last])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            if let Some(file) = files.remove(&id) {
                let committed = row.get::<_, i64>(1)? as u64;
                victims.insert(
                    id,
                    Victim {
                        id,
                        file,
                        committed,
                        live: Vec::new(),
                    },
                );
            }
        }
        let mut statement = connection.prepare(&format!(
            "SELECT hash, {} FROM blocks WHERE segment BETWEEN ?1 AND ?2 ORDER BY segment, offset",
            store::LOCATION_COLUMNS
        ))?;
        let mut rows = statement.query([*first, last])?;
        while let Some(row) = rows.next()? {
            let location = store::location(row, 1)?;
            if let Some(victim) = victims.get_mut(&(location.segment as i64)) {
                victim.live.push((row.get(0)?, location));
            }
        }
        Ok(victims)
    })?;
    *first = last + 1;
    Ok(Some(victims.into_values().collect()))
}

fn reclaim_segment(store: &Store, victim: &Victim, zeros: &mut Zeros) -> Result<(), RepoError> {
    let path = store.layout().segment(victim.id as u64);
    let gaps = victim.gaps();
    if gaps.is_empty() {
        return Ok(());
    }
    let dead: u64 = gaps.iter().map(|gap| gap.end - gap.start).sum();
    let sound = victim.live.iter().all(|(_, location)| !location.damaged);
    if sound && !victim.live.is_empty() && victim.live_bytes() < dead / REWRITE_BELOW {
        return rewrite(store, victim);
    }
    let mut end = victim.committed;
    for gap in gaps {
        if gap.end == victim.committed {
            end = gap.start;
        } else {
            holes::punch(&victim.file, gap, zeros)
                .map_err(RepoError::io("punch holes into", &path))?;
        }
    }
    cut(store, victim, end)
}

/// Makes `end` the end of the segment: first for writers, then for the file system. A file that is
/// cut to its bare header keeps it.
fn cut(store: &Store, victim: &Victim, end: u64) -> Result<(), RepoError> {
    let path = store.layout().segment(victim.id as u64);
    store.database().write_durably(|transaction| {
        transaction.execute(
            "UPDATE segments SET committed = ?2 WHERE id = ?1",
            params![victim.id, end as i64],
        )
    })?;
    victim
        .file
        .set_len(end)
        .map_err(RepoError::io("truncate", &path))
}

/// Copies the live sections to another segment and empties this one.
fn rewrite(store: &Store, victim: &Victim) -> Result<(), RepoError> {
    let path = store.layout().segment(victim.id as u64);
    let mut writer = store.take_segment()?;
    let target = store.layout().segment(writer.id);
    let mut moved = Vec::with_capacity(victim.live.len());
    for (hash, old) in &victim.live {
        let mut section = vec![0; (old.end() - old.start()) as usize];
        victim
            .file
            .read_exact_at(&mut section, old.start())
            .map_err(RepoError::io("read", &path))?;
        writer
            .file
            .write_all_at(&section, writer.offset)
            .map_err(RepoError::io("write", &target))?;
        moved.push((hash, old, writer.offset + u64::from(old.header)));
        writer.offset += section.len() as u64;
    }
    writer
        .file
        .sync_data()
        .map_err(RepoError::io("sync", &target))?;
    store.sync_blocks_directory()?;
    store.database().write_durably(|transaction| {
        let mut update = transaction.prepare(
            "UPDATE blocks SET segment = ?4, offset = ?5 WHERE hash = ?1 AND segment = ?2 AND offset = ?3",
        )?;
        for (hash, old, offset) in moved {
            update.execute(params![
                hash,
                old.segment as i64,
                old.offset as i64,
                writer.id as i64,
                offset as i64
            ])?;
        }
        store::set_committed(transaction, writer.id, writer.offset)
    })?;
    cut(store, victim, HEADER.len() as u64)
}

fn disk_bytes(store: &Store, victim: &Victim) -> Result<u64, RepoError> {
    use std::os::unix::fs::MetadataExt;
    let path = store.layout().segment(victim.id as u64);
    Ok(victim
        .file
        .metadata()
        .map_err(RepoError::io("stat", &path))?
        .blocks()
        * 512)
}
