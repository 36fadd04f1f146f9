//! Leases: blocks that living processes need stay, whether they are pinned or not.
//!
//! Lease numbers only grow. A block carries the number of the newest lease whose holder wrote the block
//! or relied on it. So a block may go only if that number is below every living lease. No list of
//! blocks is needed, and holders never wait for each other. A lease may also name roots, whose
//! whole DAGs stay.
//!
//! The lock on the scratch directory of a holder tells whether the holder lives. The kernel releases the
//! lock however the process ends.

use crate::block::Cid;
use rusqlite::{Connection, Transaction, params};

use super::pins::cid_column;

pub(super) fn add(transaction: &Transaction<'_>, holder: &str) -> rusqlite::Result<i64> {
    transaction.execute("INSERT INTO leases (holder) VALUES (?1)", [holder])?;
    Ok(transaction.last_insert_rowid())
}

pub(super) fn add_roots(
    transaction: &Transaction<'_>,
    lease: i64,
    roots: &[Cid],
) -> rusqlite::Result<()> {
    for root in roots {
        transaction.execute(
            "INSERT INTO lease_roots VALUES (?1, ?2)",
            params![lease, root.to_bytes()],
        )?;
    }
    Ok(())
}

pub(super) fn remove(transaction: &Transaction<'_>, lease: i64) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM lease_roots WHERE lease = ?1", [lease])?;
    transaction.execute("DELETE FROM leases WHERE id = ?1", [lease])?;
    Ok(())
}

/// All leases as (number, holder), lowest number first.
pub(super) fn list(connection: &Connection) -> rusqlite::Result<Vec<(i64, String)>> {
    let mut statement = connection.prepare_cached("SELECT id, holder FROM leases ORDER BY id")?;
    statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// The roots that leases name.
pub(super) fn roots(connection: &Connection) -> rusqlite::Result<Vec<Cid>> {
    let mut statement = connection.prepare_cached("SELECT cid FROM lease_roots")?;
    statement.query_map([], |row| cid_column(row, 0))?.collect()
}
