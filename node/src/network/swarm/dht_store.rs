//! Records that this node keeps for one DHT: providers of content, and records of names.

use std::borrow::Cow;
use std::iter;
use std::time::{Instant, SystemTime};

use libp2p::PeerId;
use libp2p::kad::store::{RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};

use super::name_records::NameRecords;
use super::provider_records::ProviderRecords;

/// The records of one DHT.
pub(super) struct DhtStore {
    local: PeerId,
    providers: ProviderRecords,
    names: NameRecords,
}

impl DhtStore {
    pub(super) fn new(local: PeerId) -> DhtStore {
        DhtStore {
            local,
            providers: ProviderRecords::new(local),
            names: NameRecords::default(),
        }
    }
}

impl RecordStore for DhtStore {
    type RecordsIter<'a> = iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::vec::IntoIter<Cow<'a, ProviderRecord>>;

    fn get(&self, key: &RecordKey) -> Option<Cow<'_, Record>> {
        self.names.get(key, SystemTime::now())
    }

    fn put(&mut self, record: Record) -> Result<()> {
        let (instant, now) = (Instant::now(), SystemTime::now());
        self.names.put(record, &self.local, instant, now)
    }

    fn remove(&mut self, key: &RecordKey) {
        self.names.remove(key);
    }

    /// None: the owner of a name repeats its record by itself.
    fn records(&self) -> Self::RecordsIter<'_> {
        iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        self.providers.add_provider(record)
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        self.providers.providers(key)
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        self.providers.provided()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        self.providers.remove_provider(key, provider);
    }
}
