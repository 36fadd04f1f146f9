//! Requests to provide content: the DHT is to know that the content is here.
//!
//! One process speaks to the DHT for a repository: the process that serves it. Other processes record
//! their requests here, and see here when a request was carried out. The table is made when it is first
//! needed. Older programs ignore the table.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::database;
use super::pins::cid_column;
use crate::block::Cid;

const SCHEMA: &str = "
    -- `announced` is the second, since 1970, at which the DHT was told last; 0 is never.
    CREATE TABLE IF NOT EXISTS provides (cid BLOB PRIMARY KEY, announced INTEGER NOT NULL)
        WITHOUT ROWID;
";

/// Content that is to be provided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provide {
    /// The root of the content.
    pub cid: Cid,
    /// When the DHT was last told; `None` before that.
    pub announced: Option<SystemTime>,
}

/// Asks for `cid` to be provided, as soon as may be.
pub(super) fn ask(transaction: &Transaction<'_>, cid: &Cid) -> rusqlite::Result<()> {
    transaction.execute_batch(SCHEMA)?;
    transaction.execute(
        "INSERT INTO provides VALUES (?1, 0) ON CONFLICT (cid) DO UPDATE SET announced = 0",
        [cid.to_bytes()],
    )?;
    Ok(())
}

/// Notes that the DHT was told at `when`. Nothing happens where nobody has asked for it.
pub(super) fn announced(
    transaction: &Transaction<'_>,
    cid: &Cid,
    when: SystemTime,
) -> rusqlite::Result<()> {
    transaction.execute_batch(SCHEMA)?;
    let second = when
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
        .max(1);
    transaction.execute(
        "UPDATE provides SET announced = ?2 WHERE cid = ?1",
        params![cid.to_bytes(), second as i64],
    )?;
    Ok(())
}

pub(super) fn remove(transaction: &Transaction<'_>, cid: &Cid) -> rusqlite::Result<()> {
    transaction.execute_batch(SCHEMA)?;
    transaction.execute("DELETE FROM provides WHERE cid = ?1", [cid.to_bytes()])?;
    Ok(())
}

/// Records what another database recorded.
pub(super) fn restore(connection: &Connection, provide: &Provide) -> rusqlite::Result<()> {
    connection.execute_batch(SCHEMA)?;
    let announced = provide.announced.map_or(0, database::seconds);
    connection.execute(
        "INSERT OR REPLACE INTO provides VALUES (?1, ?2)",
        params![provide.cid.to_bytes(), announced],
    )?;
    Ok(())
}

pub(super) fn list(connection: &Connection) -> rusqlite::Result<Vec<Provide>> {
    let exists = connection
        .query_row(
            "SELECT 1 FROM sqlite_schema WHERE name = 'provides'",
            [],
            |_| Ok(()),
        )
        .optional()?;
    if exists.is_none() {
        return Ok(Vec::new());
    }
    let mut statement =
        connection.prepare_cached("SELECT cid, announced FROM provides ORDER BY cid")?;
    let rows = statement.query_map([], |row| {
        let second: i64 = row.get(1)?;
        Ok(Provide {
            cid: cid_column(row, 0)?,
            announced: (second > 0).then(|| UNIX_EPOCH + Duration::from_secs(second as u64)),
        })
    })?;
    rows.collect()
}
