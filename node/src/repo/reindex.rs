//! Rebuilds the database from the segments.
//!
//! ```text
//! repo.db.new    made beside the old one: segments are scanned, pins are taken over, roots are pinned
//! repo.db.links  the blocks that another block links to; removed at the end
//! repo.db        gets the name repo.db.old-N; then repo.db.new gets its name, by a rename
//! ```
//!
//! A process that is killed before the rename leaves the repository as it was, or without a database:
//! it can be rebuilt again in both cases. Memory is that of one block and of SQLite's cache, however
//! many blocks there are.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::layout::{Layout, remove_if_present};
use super::old::{self, CopyError};
use super::options::RepositoryOptions;
use super::pins;
use super::recover::{self, Data, Rest, Section};
use super::segment::{self, Location};
use super::wait::Waiting;
use super::{RepoError, database, owner, store};
use crate::block::{self, Cid, Multihash};
use crate::dag;
use crate::progress::{Event, Reporter};

/// The name of the pins of roots that were found.
const RECOVERED: &str = "recovered";

/// Roots that are pinned together.
const ROOTS_A_ROUND: i64 = 1024;

/// How often the segments are read to find what is above a block whose links cannot be followed.
const MAX_ROUNDS: usize = 64;

/// Copies a table of the old database, and counts its rows.
type Copy = fn(&Connection, &Connection) -> Result<u64, CopyError>;

/// Is called with a block, its content and the blocks that it links to.
type Visit<'v> = dyn FnMut(&Cid, &[u8], &[Cid]) -> rusqlite::Result<()> + 'v;

const LINKS_SCHEMA: &str = "
    PRAGMA links.journal_mode = OFF;
    PRAGMA links.synchronous = OFF;
    -- Blocks that another one links to. Zeros are in it, too: freed space looks like them.
    CREATE TABLE links.below (hash BLOB PRIMARY KEY) WITHOUT ROWID;
    -- Blocks whose DAG cannot be walked.
    CREATE TABLE links.opaque (hash BLOB PRIMARY KEY) WITHOUT ROWID;
";

/// What was rebuilt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reindexed {
    /// Segments read.
    pub segments: u64,
    /// Blocks that are here and whole.
    pub blocks: u64,
    /// Bytes of their data.
    pub bytes: u64,
    /// Blocks whose data does not match their hash.
    pub damaged: u64,
    /// Segments that hold bytes that are no blocks, or that another program wrote. Nothing is written
    /// to them.
    pub sealed: Vec<PathBuf>,
    /// Pins taken over from the old database.
    pub kept_pins: u64,
    /// Roots that nothing pinned, and that are pinned now.
    pub recovered_pins: u64,
    /// The old database under its new name.
    pub old_database: Option<PathBuf>,
    /// Whether all of the old database could be read.
    pub old_was_readable: bool,
}

pub(super) fn reindex(
    path: &Path,
    options: RepositoryOptions,
    reporter: &dyn Reporter,
) -> Result<Reindexed, RepoError> {
    let waiting = Waiting::new(options.cancel);
    let layout = Layout::at(path, options.sharing)?;
    owner::check(&layout)?;
    let directory = layout.take_turn(&waiting)?;
    let _claim = layout.claim()?;
    layout.make_directories()?;
    let unfinished = Unfinished { layout: &layout };
    database::create(&layout.new_database())?;
    let mut rebuild = Rebuild::begin(&layout, reporter)?;
    rebuild.take_over()?;
    rebuild.index_segments()?;
    rebuild.separate_opaque()?;
    rebuild.pin_roots()?;
    let mut reindexed = rebuild.finish()?;
    reindexed.old_database = old::put_in_place(&layout)?;
    drop(unfinished);
    directory
        .sync_all()
        .map_err(RepoError::io("sync", layout.root()))?;
    Ok(reindexed)
}

fn links_database(layout: &Layout) -> PathBuf {
    layout.root().join("repo.db.links")
}

/// Removes the files of a rebuild that did not come to its end.
struct Unfinished<'l> {
    layout: &'l Layout,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        for path in [self.layout.new_database(), links_database(self.layout)] {
            if let Err(error) = remove_if_present(&path) {
                // The next rebuild removes it.
                tracing::debug!(path = %path.display(), %error, "an unfinished database stays");
            }
        }
    }
}

/// A database that is being filled.
struct Rebuild<'r> {
    layout: &'r Layout,
    reporter: &'r dyn Reporter,
    path: PathBuf,
    connection: Connection,
    reindexed: Reindexed,
}

impl<'r> Rebuild<'r> {
    fn begin(layout: &'r Layout, reporter: &'r dyn Reporter) -> Result<Rebuild<'r>, RepoError> {
        let path = layout.new_database();
        let links = links_database(layout);
        database::create_file(&links)?;
        let open = || {
            let connection = Connection::open(&path)?;
            // No process reads the file before it is complete and synced.
            connection.pragma_update(None, "journal_mode", "OFF")?;
            connection.pragma_update(None, "synchronous", "OFF")?;
            let name = links.as_os_str().as_encoded_bytes();
            connection.execute("ATTACH CAST(?1 AS TEXT) AS links", [name])?;
            connection.execute_batch(LINKS_SCHEMA)?;
            connection.execute_batch("BEGIN")?;
            Ok(connection)
        };
        let connection = open().map_err(|source| database::failure(&path, source))?;
        Ok(Rebuild {
            layout,
            reporter,
            path,
            connection,
            reindexed: Reindexed {
                old_was_readable: true,
                ..Reindexed::default()
            },
        })
    }

    fn failed(&self) -> impl Fn(rusqlite::Error) -> RepoError + use<> {
        let path = self.path.clone();
        move |source| database::failure(&path, source)
    }

    /// Takes over from the old database what the segments do not tell.
    fn take_over(&mut self) -> Result<(), RepoError> {
        let path = self.layout.database();
        if !path.try_exists().map_err(RepoError::io("find", &path))? {
            self.reindexed.old_was_readable = false;
            return Ok(());
        }
        let connection = match old::open_old(&path) {
            Ok((connection, version)) => {
                database::check_version(version, self.layout.root())?;
                connection
            }
            Err(error) => {
                tracing::debug!(%error, "the old database cannot be read");
                self.reindexed.old_was_readable = false;
                return Ok(());
            }
        };
        let copies: [Copy; 3] = [old::copy_provides, old::copy_rootfs, old::copy_pins];
        for copy in copies {
            match copy(&connection, &self.connection) {
                Ok(rows) => self.reindexed.kept_pins = rows,
                Err(CopyError::New(source)) => return Err(self.failed()(source)),
                Err(CopyError::Old(error)) => {
                    tracing::debug!(%error, "a table of the old database cannot be read");
                    self.reindexed.old_was_readable = false;
                    // Those rows that could be read are taken over.
                    self.reindexed.kept_pins =
                        pins::count(&self.connection).map_err(self.failed())?;
                }
            }
        }
        Ok(())
    }

    fn index_segments(&mut self) -> Result<(), RepoError> {
        let numbers = segment::numbers(self.layout)?;
        let mut bytes = 0;
        for id in &numbers {
            let path = self.layout.segment(*id);
            bytes += fs::metadata(&path)
                .map_err(RepoError::io("stat", &path))?
                .len();
        }
        self.reporter.report(Event::Total { bytes });
        for id in numbers {
            let path = self.layout.segment(id);
            let file = File::open(&path).map_err(RepoError::io("open", &path))?;
            let scanned = recover::scan(&file, &path, id, 0, &mut |section| {
                self.check_interrupted(&path)?;
                self.reporter.report(Event::Advanced {
                    bytes: u64::from(section.location.length),
                });
                self.index(&section).map_err(self.failed())
            })?;
            // A torn section stays for the next writer to cut off.
            let committed = if scanned.own_header && scanned.rest != Rest::Other {
                scanned.end
            } else {
                self.reindexed.sealed.push(path);
                segment::SEALED
            };
            let insert = "INSERT INTO segments VALUES (?1, ?2)";
            self.connection
                .execute(insert, params![id as i64, committed as i64])
                .map_err(self.failed())?;
            self.reindexed.segments += 1;
        }
        Ok(())
    }

    fn check_interrupted(&self, path: &Path) -> Result<(), RepoError> {
        if self.reporter.cancel().is_cancelled() {
            return Err(RepoError::Interrupted {
                path: path.to_owned(),
            });
        }
        Ok(())
    }

    fn index(&self, section: &Section<'_>) -> rusqlite::Result<()> {
        let location = &section.location;
        let hash = section.cid.hash();
        let is_damaged = !matches!(section.data, Data::Sound(_));
        store::insert_block(&self.connection, &hash.to_bytes(), location, 0, is_damaged)?;
        if let Data::Sound(data) = section.data {
            match dag::links(&section.cid, data) {
                Ok(links) => self.note_below(&section.cid, data, &links)?,
                Err(_) => _ = self.note("opaque", hash)?,
            }
        }
        Ok(())
    }

    fn note_below(&self, cid: &Cid, data: &[u8], links: &[Cid]) -> rusqlite::Result<()> {
        for link in links {
            self.note("below", link.hash())?;
        }
        if cid.codec() == block::RAW && data.iter().all(|byte| *byte == 0) {
            self.note("below", cid.hash())?;
        }
        Ok(())
    }

    /// Adds to a table of hashes; false where it was there.
    fn note(&self, table: &str, hash: &Multihash) -> rusqlite::Result<bool> {
        let insert = format!("INSERT OR IGNORE INTO links.{table} VALUES (?1)");
        let mut insert = self.connection.prepare_cached(&insert)?;
        Ok(insert.execute([hash.to_bytes()])? > 0)
    }

    fn is_opaque(&self, hash: &Multihash) -> rusqlite::Result<bool> {
        let find = "SELECT 1 FROM links.opaque WHERE hash = ?1";
        let mut find = self.connection.prepare_cached(find)?;
        find.exists([hash.to_bytes()])
    }

    /// A DAG that holds a block with links that cannot be followed cannot be pinned as a whole: a
    /// collection could not walk it. Its upper blocks are pinned one by one, and what is below them
    /// counts as roots.
    fn separate_opaque(&self) -> Result<(), RepoError> {
        let count = "SELECT count(*) FROM links.opaque";
        let count: i64 = self
            .connection
            .query_row(count, [], |row| row.get(0))
            .map_err(self.failed())?;
        if count == 0 {
            return Ok(());
        }
        for _ in 0..MAX_ROUNDS {
            let mut has_grown = false;
            self.each_node(&mut |cid, _, links| {
                let mut is_above = false;
                for link in links {
                    is_above = is_above || self.is_opaque(link.hash())?;
                }
                has_grown |= is_above && self.note("opaque", cid.hash())?;
                Ok(())
            })?;
            if !has_grown {
                break;
            }
        }
        self.connection
            .execute("DELETE FROM links.below", [])
            .map_err(self.failed())?;
        self.each_node(&mut |cid, data, links| {
            if self.is_opaque(cid.hash())? {
                return Ok(());
            }
            self.note_below(cid, data, links)
        })
    }

    /// Visits every whole block whose own links can be followed.
    fn each_node(&self, visit: &mut Visit<'_>) -> Result<(), RepoError> {
        for id in segment::numbers(self.layout)? {
            let path = self.layout.segment(id);
            let file = File::open(&path).map_err(RepoError::io("open", &path))?;
            recover::scan(&file, &path, id, 0, &mut |section| {
                self.check_interrupted(&path)?;
                let Data::Sound(data) = section.data else {
                    return Ok(());
                };
                match dag::links(&section.cid, data) {
                    Ok(links) => visit(&section.cid, data, &links).map_err(self.failed()),
                    Err(_) => Ok(()),
                }
            })?;
        }
        Ok(())
    }

    /// Pins every block that no other block links to.
    fn pin_roots(&mut self) -> Result<(), RepoError> {
        let before = pins::count(&self.connection).map_err(self.failed())?;
        let mut after = Vec::new();
        loop {
            let roots = self.roots_after(&after).map_err(self.failed())?;
            let Some((last, _)) = roots.last() else {
                break;
            };
            after = last.to_bytes();
            for (hash, location) in &roots {
                let cid = segment::stored_cid(self.layout, hash, location);
                let cid = cid.unwrap_or_else(|| Cid::new_v1(block::RAW, *hash));
                self.pin(&cid).map_err(self.failed())?;
            }
        }
        let count = pins::count(&self.connection).map_err(self.failed())?;
        self.reindexed.recovered_pins = count - before;
        Ok(())
    }

    fn roots_after(&self, after: &[u8]) -> rusqlite::Result<Vec<(Multihash, Location)>> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT hash, {} FROM blocks WHERE hash > ?1 AND damaged = 0
             AND NOT EXISTS (SELECT 1 FROM links.below WHERE below.hash = blocks.hash)
             ORDER BY hash LIMIT ?2",
            store::LOCATION_COLUMNS
        ))?;
        let rows = statement.query_map(params![after, ROOTS_A_ROUND], |row| {
            Ok((store::hash_column(row, 0)?, store::location(row, 1)?))
        })?;
        rows.collect()
    }

    /// Pins a root, unless it is pinned.
    fn pin(&self, cid: &Cid) -> rusqlite::Result<()> {
        let is_recursive = !self.is_opaque(cid.hash())?;
        let insert = "INSERT OR IGNORE INTO pins VALUES (?1, ?2, ?3)";
        let mut insert = self.connection.prepare_cached(insert)?;
        insert.execute(params![cid.to_bytes(), is_recursive, RECOVERED])?;
        Ok(())
    }

    /// Completes the file: closed and on disk.
    fn finish(mut self) -> Result<Reindexed, RepoError> {
        let failed = self.failed();
        let count =
            "SELECT count(*), coalesce(sum(length), 0), (SELECT count(*) FROM blocks WHERE damaged)
             FROM blocks WHERE NOT damaged";
        let complete = || {
            self.connection.execute_batch("COMMIT")?;
            self.connection.flush_prepared_statement_cache();
            self.connection.execute_batch("DETACH links")?;
            self.connection.pragma_update(None, "journal_mode", "WAL")?;
            self.connection.query_row(count, [], |row| {
                let number = |column| row.get::<_, i64>(column).map(|number| number as u64);
                Ok((number(0)?, number(1)?, number(2)?))
            })
        };
        let counts = complete().map_err(&failed)?;
        (
            self.reindexed.blocks,
            self.reindexed.bytes,
            self.reindexed.damaged,
        ) = counts;
        self.connection
            .close()
            .map_err(|(_, source)| failed(source))?;
        File::open(&self.path)
            .and_then(|file| file.sync_all())
            .map_err(RepoError::io("sync", &self.path))?;
        Ok(self.reindexed)
    }
}
