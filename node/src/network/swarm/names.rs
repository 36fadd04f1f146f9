//! Records of mutable names: questions to DHTs and servers, their answers, and records that are given to
//! DHTs and routers.

use bytes::Bytes;
use futures::FutureExt;
use libp2p::kad::{self, GetRecordOk, PutRecordError, QueryResult};

use super::queries::{Answered, Dht, Query};
use super::{Node, ServerAnswer, name_records};
use crate::name::KeyName;
use crate::network::event::NetworkEvent;
use crate::network::http::{HttpError, names, root_cause};

impl Node {
    /// Asks all DHTs and servers that are not being asked already for records of `name`.
    pub(super) fn find_name(&mut self, name: KeyName) {
        let cid = name.cid();
        let mut queries = Vec::new();
        if !self.name_searches.is_open(&cid) {
            queries = self.ask_servers_for(name);
        }
        let free = [Dht::Public, Dht::Lan].map(|dht| (dht, !self.name_searches.asks(&cid, dht)));
        let key = name_records::key_of(&name);
        queries.extend(self.ask_each(|which, dht| {
            free.contains(&(which, true))
                .then(|| Query::Dht(which, dht.get_record(key.clone())))
        }));
        if !queries.is_empty() {
            self.name_searches.add(cid, queries);
        } else if !self.name_searches.is_open(&cid) {
            self.tell(NetworkEvent::NameSearched { name, asked: 0 });
        }
    }

    fn ask_servers_for(&mut self, name: KeyName) -> Vec<Query> {
        let Some(client) = self.http.clone() else {
            return Vec::new();
        };
        let routers = self.routers.iter().map(|url| names::at_router(url, &name));
        let gateways = self
            .gateways
            .iter()
            .map(|url| names::at_gateway(url, &name));
        let urls: Vec<_> = routers.chain(gateways).collect();
        let ask = urls.into_iter().map(|url| {
            let client = client.clone();
            async move { ServerAnswer::Record(names::get(&client, url).await) }.boxed()
        });
        let ask: Vec<_> = ask.collect();
        ask.into_iter()
            .map(|asking| self.ask_server(asking))
            .collect()
    }

    /// Gives `record`, a record of `name`, to all DHTs and routers that it is not being given to already.
    /// While another record of the name is being given out, it waits.
    pub(super) fn publish_name(&mut self, name: KeyName, record: Bytes) {
        let cid = name.cid();
        if !self.name_turns.begin(cid, &record) {
            return;
        }
        let mut queries = Vec::new();
        if !self.name_publications.is_open(&cid)
            && let Some(client) = self.http.clone()
        {
            for router in self.routers.clone() {
                let (client, record) = (client.clone(), record.clone());
                let url = names::at_router(&router, &name);
                let putting =
                    async move { ServerAnswer::Published(names::put(&client, url, record).await) };
                queries.push(self.ask_server(putting.boxed()));
            }
        }
        let free =
            [Dht::Public, Dht::Lan].map(|dht| (dht, !self.name_publications.asks(&cid, dht)));
        let entry = kad::Record::new(name_records::key_of(&name), record.to_vec());
        queries.extend(self.ask_each(|which, dht| {
            if !free.contains(&(which, true)) {
                return None;
            }
            match dht.put_record(entry.clone(), kad::Quorum::All) {
                Ok(query) => Some(Query::Dht(which, query)),
                Err(error) => {
                    tracing::warn!(%name, ?error, "cannot give the record to the DHT");
                    None
                }
            }
        }));
        if !queries.is_empty() {
            self.name_publications.add(cid, queries);
        } else if !self.name_publications.is_open(&cid) {
            self.name_published(name, 0);
        }
    }

    /// A server has answered a question for a record.
    pub(super) fn record_answered(
        &mut self,
        query: &Query,
        answer: Result<Option<Bytes>, HttpError>,
    ) {
        let about = self.name_searches.about(query);
        let Some(name) = about.and_then(|cid| KeyName::from_cid(&cid)) else {
            return;
        };
        match answer {
            Ok(Some(record)) => self.tell(NetworkEvent::NameRecord { name, record }),
            Ok(None) => {}
            Err(error) => {
                let reason = root_cause(&error);
                tracing::warn!(%error, reason, "a server does not give the record");
            }
        }
        self.end_name_search(query);
    }

    /// A router has taken a record, or has not.
    pub(super) fn publication_answered(&mut self, query: &Query, answer: Result<(), HttpError>) {
        if let Err(error) = &answer {
            let reason = root_cause(error);
            tracing::warn!(%error, reason, "a router does not take the record");
        }
        self.end_publication(query, answer.is_ok());
    }

    pub(super) fn name_answered(&mut self, query: &Query, result: QueryResult, is_last: bool) {
        match result {
            QueryResult::GetRecord(result) => {
                if let Ok(GetRecordOk::FoundRecord(found)) = result
                    && let Some(name) = name_records::name_of(&found.record.key)
                {
                    let record = found.record.value.into();
                    self.tell(NetworkEvent::NameRecord { name, record });
                }
                if is_last {
                    self.end_name_search(query);
                }
            }
            QueryResult::PutRecord(result) if is_last => {
                let is_taken = match result {
                    Ok(_) => true,
                    // All peers near the key were asked. Some of them are never there.
                    Err(
                        PutRecordError::QuorumFailed { success, .. }
                        | PutRecordError::Timeout { success, .. },
                    ) => !success.is_empty(),
                };
                self.end_publication(query, is_taken);
            }
            result => tracing::trace!(?result, "dht"),
        }
    }

    fn end_name_search(&mut self, query: &Query) {
        if let Some(Answered { cid, asked, .. }) = self.name_searches.end(query, true)
            && let Some(name) = KeyName::from_cid(&cid)
        {
            self.tell(NetworkEvent::NameSearched { name, asked });
        }
    }

    fn end_publication(&mut self, query: &Query, is_taken: bool) {
        if let Some(Answered { cid, succeeded, .. }) = self.name_publications.end(query, is_taken)
            && let Some(name) = KeyName::from_cid(&cid)
        {
            self.name_published(name, succeeded);
        }
    }

    fn name_published(&mut self, name: KeyName, takers: usize) {
        let next = self.name_turns.end(&name.cid());
        self.tell(NetworkEvent::NamePublished { name, takers });
        if let Some(record) = next {
            self.publish_name(name, record);
        }
    }
}
