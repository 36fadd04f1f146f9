//! The old database of a rebuild: the rows that are copied from it, and the name under which it is kept.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::layout::{Layout, beside, remove_if_present};
use super::{RepoError, database, pins, provides};

/// Which database a copy failed on.
pub(super) enum CopyError {
    Old(rusqlite::Error),
    New(rusqlite::Error),
}

/// Opens the old database. It stays as it is.
pub(super) fn open_old(path: &Path) -> rusqlite::Result<(Connection, i64)> {
    let old = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    old.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let version = old.query_row("SELECT version FROM layout", [], |row| row.get(0))?;
    Ok((old, version))
}

/// Copies the pins, until one cannot be read; gives their number.
pub(super) fn copy_pins(old: &Connection, new: &Connection) -> Result<u64, CopyError> {
    let sql = "SELECT cid, recursive, name FROM pins";
    let mut statement = old.prepare(sql).map_err(CopyError::Old)?;
    let rows = statement.query_map([], pins::from_row);
    let mut copied = 0;
    for pin in rows.map_err(CopyError::Old)? {
        pins::add(new, &[pin.map_err(CopyError::Old)?]).map_err(CopyError::New)?;
        copied += 1;
    }
    Ok(copied)
}

pub(super) fn copy_provides(old: &Connection, new: &Connection) -> Result<u64, CopyError> {
    let provided = provides::list(old).map_err(CopyError::Old)?;
    for provide in &provided {
        provides::restore(new, provide).map_err(CopyError::New)?;
    }
    Ok(0)
}

pub(super) fn copy_rootfs(old: &Connection, new: &Connection) -> Result<u64, CopyError> {
    for entry in database::rootfs_entries(old).map_err(CopyError::Old)? {
        let insert = "INSERT OR REPLACE INTO rootfs VALUES (?1, ?2, ?3)";
        let used = database::seconds(entry.used);
        new.execute(insert, params![entry.key, entry.bytes as i64, used])
            .map_err(CopyError::New)?;
    }
    Ok(0)
}

/// Gives the old database another name, and the new one its name.
pub(super) fn put_in_place(layout: &Layout) -> Result<Option<PathBuf>, RepoError> {
    let database = layout.database();
    let log = beside(&database, "-wal");
    let exists = |path: &Path| path.try_exists().map_err(RepoError::io("find", path));
    let mut kept = None;
    if exists(&database)? || exists(&log)? {
        let name = free_name(layout)?;
        if is_checkpointed(&database) && is_linked(&database, &name) {
            // The log is empty: the database is whole without it, also if this is all that is done.
            remove_if_present(&log)?;
        } else {
            rename_if_present(&database, &name)?;
            rename_if_present(&log, &beside(&name, "-wal"))?;
        }
        remove_if_present(&beside(&database, "-shm"))?;
        kept = Some(name);
    }
    let new = layout.new_database();
    fs::rename(&new, &database).map_err(RepoError::io("create", &database))?;
    Ok(kept)
}

/// Moves all of the log of a database into it; false where that cannot be done.
fn is_checkpointed(database: &Path) -> bool {
    let checkpoint = || {
        let (old, _) = open_old(database)?;
        let busy = old.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
            row.get::<_, i64>(0)
        });
        busy.optional().map(|busy| busy == Some(0))
    };
    checkpoint().unwrap_or_else(|error| {
        tracing::debug!(%error, "the log of the old database stays beside it");
        false
    })
}

/// Gives the file a second name; false on a file system without links.
fn is_linked(path: &Path, name: &Path) -> bool {
    fs::hard_link(path, name)
        .inspect_err(|error| tracing::debug!(%error, "the old database is renamed"))
        .is_ok()
}

fn rename_if_present(from: &Path, to: &Path) -> Result<(), RepoError> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RepoError::io("rename", from)(error))
        }
        _ => Ok(()),
    }
}

/// The first name for an old database that is not taken.
fn free_name(layout: &Layout) -> Result<PathBuf, RepoError> {
    let mut number = 1_u64;
    loop {
        let name = layout.root().join(format!("repo.db.old-{number}"));
        let mut is_taken = false;
        for path in [name.clone(), beside(&name, "-wal")] {
            match fs::symlink_metadata(&path) {
                Ok(_) => is_taken = true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(RepoError::io("find", &path)(error)),
            }
        }
        if !is_taken {
            return Ok(name);
        }
        number += 1;
    }
}
