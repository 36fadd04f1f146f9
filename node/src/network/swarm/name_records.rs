//! Records of mutable names that peers leave in a DHT.
//!
//! A record is kept only if it is valid, signed by the key of its name, and newer than the one that is
//! here. Number and size of the records are bounded.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::{Instant, SystemTime};

use libp2p::PeerId;
use libp2p::kad::store::{Error, Result};
use libp2p::kad::{Record, RecordKey};

use crate::limits;
use crate::name::KeyName;
use crate::names;

/// What stands before the name in the key of the DHT.
const PREFIX: &[u8] = b"/ipns/";

/// The key under which the DHT has the record of `name`.
pub(super) fn key_of(name: &KeyName) -> RecordKey {
    RecordKey::from([PREFIX, &name.to_bytes()].concat())
}

/// The name whose record the DHT has under `key`.
pub(super) fn name_of(key: &RecordKey) -> Option<KeyName> {
    KeyName::from_bytes(key.as_ref().strip_prefix(PREFIX)?)
}

/// The records of one DHT.
#[derive(Default)]
pub(super) struct NameRecords {
    records: HashMap<RecordKey, Record>,
}

impl NameRecords {
    /// The record, unless it has expired.
    pub(super) fn get(&self, key: &RecordKey, now: SystemTime) -> Option<Cow<'_, Record>> {
        let record = self.records.get(key)?;
        accept(record, now)?;
        Some(Cow::Borrowed(record))
    }

    /// Keeps `record`, which `local` may have made.
    pub(super) fn put(
        &mut self,
        record: Record,
        local: &PeerId,
        instant: Instant,
        now: SystemTime,
    ) -> Result<()> {
        let new = accept(&record, now).ok_or(Error::ValueTooLarge)?;
        if let Some(kept) = self.records.get(&record.key)
            && let Some(kept) = accept(kept, now)
            && kept.precedence(&new) == Ordering::Greater
        {
            return Err(Error::ValueTooLarge);
        }
        let is_own = record.publisher.as_ref() == Some(local);
        let is_new = !self.records.contains_key(&record.key);
        if is_new && self.records.len() >= limits::MAX_RECORDS_KEPT {
            self.records
                .retain(|_, record| !record.is_expired(instant) && accept(record, now).is_some());
            if self.records.len() >= limits::MAX_RECORDS_KEPT && !is_own {
                return Err(Error::MaxRecords);
            }
        }
        self.records.insert(record.key.clone(), record);
        Ok(())
    }

    pub(super) fn remove(&mut self, key: &RecordKey) {
        self.records.remove(key);
    }
}

/// The record in an entry of the DHT, if it may be kept or given.
fn accept(record: &Record, now: SystemTime) -> Option<names::Record> {
    let name = name_of(&record.key)?;
    match names::Record::accept(&record.value, &name, now) {
        Ok(record) => Some(record),
        Err(error) => {
            tracing::debug!(%name, %error, "a record is not kept");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{Publication, SigningKey};
    use std::time::Duration;

    const HOUR: Duration = Duration::from_secs(3600);

    fn entry(key: &SigningKey, sequence: u64, now: SystemTime) -> Record {
        let value = "/ipfs/bafkqaaa".parse().unwrap();
        let publication = Publication::new(&value, sequence, now, HOUR, HOUR).unwrap();
        let record = names::Record::sign(key, &publication).unwrap();
        Record::new(key_of(&key.name()), record.as_bytes().to_vec())
    }

    #[test]
    fn only_newer_valid_records_of_the_name_are_kept() {
        let (key, other, local) = (
            SigningKey::generate(),
            SigningKey::generate(),
            PeerId::random(),
        );
        let (instant, now) = (Instant::now(), SystemTime::now());
        let mut store = NameRecords::default();
        let mut put = |record| store.put(record, &local, instant, now);
        put(entry(&key, 2, now)).unwrap();
        put(entry(&key, 3, now)).unwrap();
        put(entry(&key, 2, now)).unwrap_err();
        put(Record::new(key_of(&key.name()), b"nonsense".to_vec())).unwrap_err();
        // Signed by another key, under another prefix, and expired.
        put(Record::new(
            key_of(&key.name()),
            entry(&other, 9, now).value,
        ))
        .unwrap_err();
        put(Record::new(b"/pk/x".to_vec(), entry(&key, 9, now).value)).unwrap_err();
        put(entry(&key, 9, now - 2 * HOUR)).unwrap_err();
        let name = key_of(&key.name());
        assert_eq!(
            store.get(&name, now).unwrap().value,
            entry(&key, 3, now).value
        );
        assert_eq!(store.get(&name, now + 2 * HOUR), None);
        store
            .put(
                entry(&key, 0, now + 2 * HOUR),
                &local,
                instant,
                now + 2 * HOUR,
            )
            .unwrap();
    }

    #[test]
    fn records_are_bounded_and_the_own_one_finds_room() {
        let (local, instant, now) = (PeerId::random(), Instant::now(), SystemTime::now());
        let mut store = NameRecords::default();
        for _ in 0..limits::MAX_RECORDS_KEPT {
            let record = entry(&SigningKey::generate(), 0, now);
            store.put(record, &local, instant, now).unwrap();
        }
        let mut record = entry(&SigningKey::generate(), 0, now);
        let refused = store.put(record.clone(), &local, instant, now);
        assert!(matches!(refused, Err(Error::MaxRecords)));
        record.publisher = Some(local);
        store.put(record, &local, instant, now).unwrap();
        let late = now + 2 * HOUR;
        let record = entry(&SigningKey::generate(), 0, late);
        store.put(record, &local, instant, late).unwrap();
        assert_eq!(store.records.len(), 1);
    }
}
