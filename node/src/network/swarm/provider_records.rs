//! Provider records: entries that peers leave in a DHT, each of which says that a peer has some content.
//!
//! Number and size of the records are bounded, and a record is dropped when it expires.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::kad::store::{Error, Result};
use libp2p::kad::{ProviderRecord, RecordKey};
use libp2p::{Multiaddr, PeerId};

use crate::limits;

/// How often what has expired is looked for, and how often where room is needed: it is asked for by
/// strangers.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);
const SWEEP_INTERVAL_WHEN_FULL: Duration = Duration::from_secs(60);

/// The records of one DHT.
pub(super) struct ProviderRecords {
    local: PeerId,
    /// Of each content, none without a record.
    records: HashMap<RecordKey, Vec<ProviderRecord>>,
    swept: Instant,
}

impl ProviderRecords {
    pub(super) fn new(local: PeerId) -> ProviderRecords {
        ProviderRecords {
            local,
            records: HashMap::new(),
            swept: Instant::now(),
        }
    }

    fn sweep(&mut self, now: Instant) {
        self.records.retain(|_, records| {
            records.retain(|record| !record.is_expired(now));
            !records.is_empty()
        });
        self.swept = now;
    }

    fn add(&mut self, mut record: ProviderRecord, now: Instant) -> Result<()> {
        let is_own = record.provider == self.local;
        if record.key.as_ref().len() > limits::MAX_DHT_KEY_BYTES {
            return Err(Error::ValueTooLarge);
        }
        let is_short = |address: &Multiaddr| address.len() <= limits::MAX_PROVIDER_ADDRESS_BYTES;
        record.addresses.retain(is_short);
        record.addresses.truncate(limits::MAX_PROVIDER_ADDRESSES);
        // There may have been thousands.
        record.addresses.shrink_to_fit();

        let is_full = |this: &Self| this.records.len() >= limits::MAX_PROVIDED_KEYS;
        let is_new = !self.records.contains_key(&record.key);
        let interval = match is_new && is_full(self) {
            true => SWEEP_INTERVAL_WHEN_FULL,
            false => SWEEP_INTERVAL,
        };
        if now.saturating_duration_since(self.swept) >= interval {
            self.sweep(now);
        }
        if is_new && is_full(self) && !is_own {
            return Err(Error::MaxProvidedKeys);
        }
        let records = self.records.entry(record.key.clone()).or_default();
        records.retain(|kept| kept.provider != record.provider && !kept.is_expired(now));
        // Whoever came first stays: else a crowd of made-up peers would replace them.
        if records.len() < limits::MAX_PROVIDERS_KEPT || is_own {
            records.push(record);
        }
        Ok(())
    }

    pub(super) fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        self.add(record, Instant::now())
    }

    pub(super) fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        self.records.get(key).cloned().unwrap_or_default()
    }

    /// The records of this node.
    pub(super) fn provided(&self) -> std::vec::IntoIter<Cow<'_, ProviderRecord>> {
        let records = self.records.values().flatten();
        let own = records.filter(|record| record.provider == self.local);
        own.map(Cow::Borrowed).collect::<Vec<_>>().into_iter()
    }

    pub(super) fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if let Some(records) = self.records.get_mut(key) {
            records.retain(|record| record.provider != *provider);
            if records.is_empty() {
                self.records.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn record(number: usize, provider: PeerId, expires: Instant) -> ProviderRecord {
        ProviderRecord {
            expires: Some(expires),
            ..ProviderRecord::new(number.to_be_bytes().to_vec(), provider, Vec::new())
        }
    }

    #[test]
    fn expired_records_make_room() {
        let (local, other, now) = (PeerId::random(), PeerId::random(), Instant::now());
        let mut store = ProviderRecords::new(local);
        for number in 0..limits::MAX_PROVIDED_KEYS {
            store.add(record(number, other, now + DAY), now).unwrap();
        }
        let one_more = |store: &mut ProviderRecords, provider, now| {
            store.add(record(usize::MAX, provider, now + DAY), now)
        };
        let refused = one_more(&mut store, other, now);
        assert!(matches!(refused, Err(Error::MaxProvidedKeys)));
        // What this node has to say finds room.
        one_more(&mut store, local, now).unwrap();
        assert_eq!(store.provided().count(), 1);
        store.remove_provider(&RecordKey::from(usize::MAX.to_be_bytes().to_vec()), &local);
        assert_eq!(store.provided().count(), 0);
        // Said again in time.
        store
            .add(record(0, other, now + 2 * DAY), now + DAY / 2)
            .unwrap();
        one_more(&mut store, other, now + DAY).unwrap();
        assert_eq!(store.records.len(), 2);
    }

    #[test]
    fn expired_records_go_even_with_room() {
        let (other, now) = (PeerId::random(), Instant::now());
        let mut store = ProviderRecords::new(PeerId::random());
        for number in 0..10 {
            store
                .add(record(number, other, now + DAY / 2), now)
                .unwrap();
        }
        store
            .add(record(10, other, now + 2 * DAY), now + DAY)
            .unwrap();
        assert_eq!(store.records.len(), 1);
    }

    #[test]
    fn records_are_bounded() {
        let now = Instant::now();
        let mut store = ProviderRecords::new(PeerId::random());
        let address = |length: usize| {
            format!("/dns/{}/tcp/1", "x".repeat(length))
                .parse()
                .unwrap()
        };
        for _ in 0..2 * limits::MAX_PROVIDERS_KEPT {
            let mut record = record(0, PeerId::random(), now + DAY);
            record.addresses = vec![address(200); 3];
            record.addresses.extend(vec![address(20); 20]);
            record.addresses.reserve(8000);
            store.add(record, now).unwrap();
        }
        let kept = &store.records.values().next().unwrap();
        assert_eq!(kept.len(), limits::MAX_PROVIDERS_KEPT);
        assert!(kept.iter().all(|record| {
            record.addresses.capacity() <= 2 * limits::MAX_PROVIDER_ADDRESSES
                && record.addresses == vec![address(20); limits::MAX_PROVIDER_ADDRESSES]
        }));
        let long = ProviderRecord::new(
            vec![0; limits::MAX_DHT_KEY_BYTES + 1],
            PeerId::random(),
            Vec::new(),
        );
        assert!(matches!(store.add(long, now), Err(Error::ValueTooLarge)));
    }
}
