//! Records of names that a repository keeps: own ones, those that were put here, and answers of the
//! network.
//!
//! Each record is a file `names/NAME`, whose time of change tells when the record was last seen to be
//! the newest. A file is replaced as a whole, by a rename, and only under a lock on the directory. So a
//! sequence number never goes back, whatever processes do at the same time.

use std::cmp::Ordering;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::FlockOperation;

use super::file::{self, FileError, failed};
use super::record::{Record, RecordError};
use crate::limits;
use crate::name::KeyName;

/// Why a record cannot be kept or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NameStoreError {
    /// The disk failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file of a record is damaged.
    #[error("{} holds no record of its name", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<RecordError>,
    },
    /// A newer record is here.
    #[error("the record has the sequence number {found}, and the repository has one with {kept}")]
    Older {
        /// That of the record.
        found: u64,
        /// That of the record that is kept.
        kept: u64,
    },
    /// Another record with the same sequence number is here.
    #[error("the repository has another record with the sequence number {sequence}")]
    Differs {
        /// The number.
        sequence: u64,
    },
}

/// A record that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The record. Its signature is right; it may have expired.
    pub record: Record,
    /// When it was last seen to be the newest.
    pub seen: SystemTime,
}

impl Stored {
    /// Whether the record can be used at `now` without asking the network.
    pub fn is_fresh(&self, now: SystemTime) -> bool {
        let age = now.duration_since(self.seen).unwrap_or_default();
        self.is_valid(now) && age < self.record.ttl()
    }

    /// Whether the record has not expired at `now`.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        self.record.check_time(now).is_ok()
    }
}

/// The records of one repository.
#[derive(Clone, Debug)]
pub struct NameStore {
    directory: PathBuf,
}

impl NameStore {
    /// The records of the repository at `repository`; nothing is looked at.
    pub fn of_repository(repository: &Path) -> NameStore {
        NameStore {
            directory: repository.join("names"),
        }
    }

    /// The record of `name`, valid or expired.
    ///
    /// # Errors
    /// [`NameStoreError::Malformed`] where the file is damaged.
    pub fn get(&self, name: &KeyName) -> Result<Option<Stored>, NameStoreError> {
        let path = self.path(name);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed("open", &path))?,
        };
        let seen = file.metadata().and_then(|metadata| metadata.modified());
        let seen = seen.map_err(failed("examine", &path))?;
        let mut bytes = Vec::new();
        file.take(limits::MAX_RECORD_BYTES as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(failed("read", &path))?;
        let record = Record::decode(&bytes).and_then(|record| {
            record.verify(name)?;
            Ok(record)
        });
        match record {
            Ok(record) => Ok(Some(Stored { record, seen })),
            Err(source) => Err(NameStoreError::Malformed {
                path,
                source: Box::new(source),
            }),
        }
    }

    /// Keeps all other processes from changing records.
    ///
    /// # Errors
    /// [`NameStoreError::File`].
    pub fn lock(&self) -> Result<NameLock<'_>, NameStoreError> {
        let path = &self.directory;
        file::ensure_directory(path)?;
        let directory = File::open(path).map_err(failed("open", path))?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&directory, FlockOperation::LockExclusive))
            .map_err(|errno| failed("lock", path)(errno.into()))?;
        Ok(NameLock {
            store: self,
            directory,
        })
    }

    /// Keeps an answer of the network, unless a newer record is here. Gives the one that counts.
    ///
    /// # Errors
    /// As those of [`NameStore::get`], and where the record cannot be written.
    pub fn keep_newest(&self, name: &KeyName, record: Record) -> Result<Record, NameStoreError> {
        let lock = self.lock()?;
        if let Some(kept) = self.get(name)?
            && kept.record.precedence(&record) == Ordering::Greater
        {
            return Ok(kept.record);
        }
        lock.replace(name, &record)?;
        Ok(record)
    }

    /// Keeps a record that a user hands in. The caller has verified it for `name`.
    ///
    /// # Errors
    /// [`NameStoreError::Older`], [`NameStoreError::Differs`].
    pub fn put(&self, name: &KeyName, record: &Record) -> Result<(), NameStoreError> {
        let lock = self.lock()?;
        if let Some(Stored { record: kept, .. }) = self.get(name)? {
            let (found, kept_sequence) = (record.sequence(), kept.sequence());
            match found.cmp(&kept_sequence) {
                Ordering::Less => {
                    return Err(NameStoreError::Older {
                        found,
                        kept: kept_sequence,
                    });
                }
                Ordering::Equal if kept != *record => {
                    return Err(NameStoreError::Differs { sequence: found });
                }
                Ordering::Equal | Ordering::Greater => {}
            }
        }
        lock.replace(name, record)
    }

    fn path(&self, name: &KeyName) -> PathBuf {
        self.directory.join(name.to_string())
    }
}

/// The right to change records, until it is dropped.
#[derive(Debug)]
pub struct NameLock<'a> {
    store: &'a NameStore,
    directory: File,
}

impl NameLock<'_> {
    /// Puts `record` in the place of what is kept of `name`.
    ///
    /// # Errors
    /// [`NameStoreError::File`].
    pub fn replace(&self, name: &KeyName, record: &Record) -> Result<(), NameStoreError> {
        let unfinished = self.store.directory.join(".new");
        let path = self.store.path(name);
        file::write_unfinished(&unfinished, record.as_bytes())?;
        fs::rename(&unfinished, &path).map_err(failed("create", &path))?;
        let synced = self.directory.sync_all();
        Ok(synced.map_err(failed("sync", &self.store.directory))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{Publication, SigningKey};
    use std::time::Duration;

    const HOUR: Duration = Duration::from_secs(3600);

    fn record(key: &SigningKey, value: &str, sequence: u64) -> Record {
        let now = SystemTime::now();
        let value = value.parse().unwrap();
        let publication = Publication::new(&value, sequence, now, 2 * HOUR, HOUR).unwrap();
        Record::sign(key, &publication).unwrap()
    }

    #[test]
    fn sequence_numbers_never_go_back() {
        let directory = tempfile::tempdir().unwrap();
        let store = NameStore::of_repository(directory.path());
        let key = SigningKey::generate();
        let name = key.name();
        assert_eq!(store.get(&name).unwrap(), None);
        let (old, new) = (record(&key, "bafkqaaa", 4), record(&key, "bafkqaaa/a", 5));
        store.put(&name, &new).unwrap();
        let refused = store.put(&name, &old);
        assert!(matches!(
            refused,
            Err(NameStoreError::Older { found: 4, kept: 5 })
        ));
        let refused = store.put(&name, &record(&key, "bafkqaaa/b", 5));
        assert!(matches!(
            refused,
            Err(NameStoreError::Differs { sequence: 5 })
        ));
        store.put(&name, &new).unwrap();
        assert_eq!(store.keep_newest(&name, old.clone()).unwrap(), new);
        assert_eq!(store.get(&name).unwrap().unwrap().record, new);
        // Only a caller that replaces without a look can do it.
        store.lock().unwrap().replace(&name, &old).unwrap();
        assert_eq!(store.keep_newest(&name, new.clone()).unwrap(), new);
        assert_eq!(
            fs::read_dir(directory.path().join("names"))
                .unwrap()
                .count(),
            1
        );
    }

    #[test]
    fn a_record_is_fresh_for_its_time_to_live() {
        let key = SigningKey::generate();
        let seen = SystemTime::now();
        let record = record(&key, "bafkqaaa", 0);
        let stored = Stored { record, seen };
        for (age, is_fresh, is_valid) in [
            (Duration::ZERO, true, true),
            (HOUR / 2, true, true),
            (HOUR + HOUR / 2, false, true),
            (3 * HOUR, false, false),
        ] {
            assert_eq!(stored.is_fresh(seen + age), is_fresh, "{age:?}");
            assert_eq!(stored.is_valid(seen + age), is_valid, "{age:?}");
        }
    }

    #[test]
    fn a_damaged_file_is_named_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let store = NameStore::of_repository(directory.path());
        let (key, other) = (SigningKey::generate(), SigningKey::generate());
        store
            .put(&key.name(), &record(&key, "bafkqaaa", 0))
            .unwrap();
        let path = store.path(&key.name());
        // Also one of another name.
        for bytes in [&b"x"[..], record(&other, "bafkqaaa", 9).as_bytes(), b""] {
            fs::write(&path, bytes).unwrap();
            let refused = store.put(&key.name(), &record(&key, "bafkqaaa", 1));
            assert!(matches!(refused, Err(NameStoreError::Malformed { .. })));
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }
}
