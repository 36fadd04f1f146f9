//! Pins: the roots that garbage collection keeps.

use crate::block::Cid;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

/// What a pin keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PinKind {
    /// The block and everything below it.
    Recursive,
    /// The block alone.
    Direct,
}

/// A CID that is to stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The CID.
    pub cid: Cid,
    /// How much of its DAG.
    pub kind: PinKind,
    /// A word for people; may be empty.
    pub name: String,
}

impl Pin {
    /// Keeps the whole DAG below `cid`.
    pub fn recursive(cid: Cid) -> Pin {
        Pin {
            cid,
            kind: PinKind::Recursive,
            name: String::new(),
        }
    }

    /// Keeps the block `cid` alone.
    pub fn direct(cid: Cid) -> Pin {
        Pin {
            cid,
            kind: PinKind::Direct,
            name: String::new(),
        }
    }
}

/// Adds pins. A recursive pin replaces a direct one, never the other way round; a new name
/// replaces the old, an empty one does not.
pub(super) fn add(transaction: &Connection, pins: &[Pin]) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO pins VALUES (?1, ?2, ?3) ON CONFLICT (cid) DO UPDATE SET
            recursive = max(recursive, excluded.recursive),
            name = CASE excluded.name WHEN '' THEN name ELSE excluded.name END",
    )?;
    for pin in pins {
        let recursive = pin.kind == PinKind::Recursive;
        statement.execute(params![pin.cid.to_bytes(), recursive, pin.name])?;
    }
    Ok(())
}

/// Removes a pin; false if there was none.
pub(super) fn remove(transaction: &Transaction<'_>, cid: &Cid) -> rusqlite::Result<bool> {
    Ok(transaction.execute("DELETE FROM pins WHERE cid = ?1", [cid.to_bytes()])? > 0)
}

pub(super) fn list(connection: &mut Connection) -> rusqlite::Result<Vec<Pin>> {
    let mut statement =
        connection.prepare_cached("SELECT cid, recursive, name FROM pins ORDER BY cid")?;
    statement.query_map([], from_row)?.collect()
}

pub(super) fn find(connection: &mut Connection, cid: &Cid) -> rusqlite::Result<Option<Pin>> {
    let mut statement =
        connection.prepare_cached("SELECT cid, recursive, name FROM pins WHERE cid = ?1")?;
    statement.query_row([cid.to_bytes()], from_row).optional()
}

pub(super) fn count(connection: &Connection) -> rusqlite::Result<u64> {
    Ok(connection.query_row("SELECT count(*) FROM pins", [], |row| row.get::<_, i64>(0))? as u64)
}

/// Reads a CID from a column.
pub(super) fn cid_column(row: &Row<'_>, column: usize) -> rusqlite::Result<Cid> {
    let bytes: Vec<u8> = row.get(column)?;
    Cid::try_from(&bytes[..]).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Blob,
            Box::new(error),
        )
    })
}

pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Pin> {
    let kind = if row.get(1)? {
        PinKind::Recursive
    } else {
        PinKind::Direct
    };
    Ok(Pin {
        cid: cid_column(row, 0)?,
        kind,
        name: row.get(2)?,
    })
}
