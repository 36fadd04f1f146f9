//! Own records given to the DHT again before it forgets them, and renewed before they expire.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use crate::name::KeyName;
use crate::names::store::{NameStore, NameStoreError};
use crate::names::{Keystore, KeystoreError, Publication, Record, RecordError, SigningKey};
use crate::network::{Network, NetworkEvent};

/// How often all records are given out again: the interval of Kubo. A DHT keeps a record for 48 hours, and
/// peers that keep it come and go.
const ROUND_INTERVAL: Duration = Duration::from_secs(4 * 3600);

/// How often it is looked for records that other processes have signed.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// When a record that nobody took is given out again.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// A record that expires within this time is signed again: one round, and half of another.
const RENEWAL: Duration = Duration::from_secs(6 * 3600);

/// How long a renewed record is valid.
const LIFETIME: Duration = Duration::from_secs(48 * 3600);

/// Why own records cannot be refreshed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RefreshError {
    /// The keys cannot be read.
    #[error(transparent)]
    Keys(#[from] KeystoreError),
    /// The records cannot be read or written.
    #[error(transparent)]
    Records(#[from] NameStoreError),
    /// A record cannot be signed.
    #[error(transparent)]
    Signing(#[from] RecordError),
}

/// Gives the records of a repository's keys to the DHTs and routers, for as long as it is called.
#[derive(Debug)]
pub struct Refresher {
    keys: Keystore,
    records: NameStore,
    /// Whether a DHT was joined or a router is known.
    has_joined: bool,
    next_check: Instant,
    next_round: Instant,
    /// The records that were given out since the last round began.
    published: HashMap<KeyName, Published>,
}

#[derive(Debug)]
struct Published {
    record: Record,
    /// When to give it out again, where nobody took it.
    retry: Option<Instant>,
}

impl Refresher {
    /// Begins nothing yet.
    pub fn new(keys: Keystore, records: NameStore, has_routers: bool, now: Instant) -> Refresher {
        Refresher {
            keys,
            records,
            has_joined: has_routers,
            next_check: now,
            next_round: now + ROUND_INTERVAL,
            published: HashMap::new(),
        }
    }

    /// Takes an event of the node.
    pub fn event(&mut self, event: &NetworkEvent, now: Instant) {
        match event {
            NetworkEvent::Joined => {
                self.has_joined = true;
                self.published.clear();
                self.next_check = now;
            }
            NetworkEvent::NamePublished { name, takers: 0 } => {
                tracing::debug!(%name, "no DHT peer and no router took the record");
                if let Some(published) = self.published.get_mut(name) {
                    published.retry = Some(now + RETRY_INTERVAL);
                }
            }
            _ => {}
        }
    }

    /// Does what is due; to be called after events, and a few times a second.
    ///
    /// # Errors
    /// [`RefreshError`]. It is tried again later.
    pub fn step(
        &mut self,
        network: &Network,
        instant: Instant,
        now: SystemTime,
    ) -> Result<(), RefreshError> {
        if !self.has_joined || instant < self.next_check {
            return Ok(());
        }
        self.next_check = instant + CHECK_INTERVAL;
        if instant >= self.next_round {
            self.next_round = instant + ROUND_INTERVAL;
            self.published.clear();
        }
        for label in self.keys.labels()? {
            let key = self.keys.key(&label)?;
            let name = key.name();
            let Some(record) = renewed(&self.records, &key, now)? else {
                continue;
            };
            let is_due = self.published.get(&name).is_none_or(|published| {
                published.record != record || published.retry.is_some_and(|at| instant >= at)
            });
            if is_due {
                network.publish_name(&name, &record);
                let retry = None;
                self.published.insert(name, Published { record, retry });
            }
        }
        Ok(())
    }
}

/// The record of `key`, signed again if it expires soon; `None` where there is none.
fn renewed(
    records: &NameStore,
    key: &SigningKey,
    now: SystemTime,
) -> Result<Option<Record>, RefreshError> {
    let name = key.name();
    let Some(kept) = records.get(&name)? else {
        return Ok(None);
    };
    if kept.record.until() > now + RENEWAL {
        return Ok(Some(kept.record));
    }
    let value = kept.record.value()?;
    let ttl = kept.record.ttl().min(LIFETIME);
    let publication = Publication::new(&value, kept.record.sequence(), now, LIFETIME, ttl)?;
    let publication = match kept.record.has_version_1() {
        true => publication,
        false => publication.without_version_1(),
    };
    let record = Record::sign(key, &publication)?;
    Ok(Some(records.keep_newest(&name, record)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_renewed_before_it_expires() {
        let directory = tempfile::tempdir().unwrap();
        let records = NameStore::of_repository(directory.path());
        let (key, now) = (SigningKey::generate(), SystemTime::now());
        assert_eq!(renewed(&records, &key, now).unwrap(), None);
        let value = "/ipfs/bafkqaaa/a".parse().unwrap();
        let publication = Publication::new(&value, 7, now, 2 * RENEWAL, RENEWAL).unwrap();
        let record = Record::sign(&key, &publication.without_version_1()).unwrap();
        records.put(&key.name(), &record).unwrap();
        let at = |time| renewed(&records, &key, time).unwrap().unwrap();
        assert_eq!(at(now), record);
        assert_eq!(at(now + RENEWAL - Duration::from_secs(1)), record);
        let later = at(now + RENEWAL);
        assert!(later.until() > record.until() && !later.has_version_1());
        assert_eq!((later.sequence(), later.value().unwrap()), (7, value));
        assert_eq!(records.get(&key.name()).unwrap().unwrap().record, later);
        // Also one that has expired while no process served.
        let revived = at(now + 10 * LIFETIME);
        revived.check_time(now + 10 * LIFETIME + RENEWAL).unwrap();
    }
}
