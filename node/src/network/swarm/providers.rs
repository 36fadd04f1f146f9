//! Providers of content: questions to the DHTs and routers, their answers, and announcements to the DHTs.

use futures::FutureExt;
use libp2p::kad::{self, GetProvidersOk, QueryResult};
use libp2p::{Multiaddr, PeerId};

use super::dht_store::DhtStore;
use super::queries::{Dht, Query};
use super::{Node, ServerAnswer};
use crate::block::Cid;
use crate::limits;
use crate::network::event::NetworkEvent;
use crate::network::http::{HttpError, root_cause, routing};

/// Contents that a DHT is asked for as soon as it is entered: the newest.
const MAX_WANTED: usize = 256;

impl Node {
    /// A DHT that was empty may have its first peers: searches that came too early begin now.
    pub(super) fn join(&mut self) {
        let mut entered = self.ask_each(|which, _| Some(which));
        entered.retain(|which| self.joined.insert(*which));
        if entered.is_empty() {
            return;
        }
        self.tell(NetworkEvent::Joined);
        for cid in self.wanted.clone() {
            self.ask_dhts(cid, &entered);
        }
    }

    /// The DHT, where this node takes part in it.
    pub(super) fn dht(&mut self, dht: Dht) -> Option<&mut kad::Behaviour<DhtStore>> {
        let behaviour = self.swarm.behaviour_mut();
        match dht {
            Dht::Public => behaviour.public_dht.as_mut(),
            Dht::Lan => Some(&mut behaviour.lan_dht),
        }
    }

    /// Asks each DHT that this node knows a peer of.
    pub(super) fn ask_each<T>(
        &mut self,
        mut ask: impl FnMut(Dht, &mut kad::Behaviour<DhtStore>) -> Option<T>,
    ) -> Vec<T> {
        let mut answers = Vec::new();
        for which in [Dht::Public, Dht::Lan] {
            if let Some(dht) = self.dht(which)
                && dht.kbuckets().next().is_some()
            {
                answers.extend(ask(which, dht));
            }
        }
        answers
    }

    pub(super) fn find_providers(&mut self, cid: Cid) {
        if !self.wanted.contains(&cid) {
            if self.wanted.len() >= MAX_WANTED {
                self.wanted.remove(0);
            }
            self.wanted.push(cid);
        }
        if !self.searches.is_open(&cid) {
            self.ask_routers(cid);
            self.ask_dhts(cid, &[Dht::Public, Dht::Lan]);
        }
        if !self.searches.is_open(&cid) {
            self.tell(NetworkEvent::ProvidersSearched { cid });
        }
    }

    /// Begins the queries of these DHTs for providers of `cid`, where there is somebody to ask.
    fn ask_dhts(&mut self, cid: Cid, wanted: &[Dht]) {
        let key = kad::RecordKey::from(cid.hash().to_bytes());
        let queries = self.ask_each(|which, dht| {
            if !wanted.contains(&which) {
                return None;
            }
            let query = dht.get_providers(key.clone());
            Some(Query::Dht(which, query))
        });
        self.searching(cid, queries);
    }

    pub(super) fn ask_routers(&mut self, cid: Cid) {
        let Some(client) = self.http.clone() else {
            return;
        };
        let mut queries = Vec::new();
        for router in self.routers.clone() {
            let client = client.clone();
            let asking = async move {
                ServerAnswer::Providers(routing::providers(&client, &router, &cid).await)
            };
            queries.push(self.ask_server(asking.boxed()));
        }
        self.searching(cid, queries);
    }

    pub(super) fn searching(&mut self, cid: Cid, queries: Vec<Query>) {
        if !queries.is_empty() {
            self.searches.add(cid, queries);
            self.tell(NetworkEvent::Searching { cid });
        }
    }

    /// A router has answered who has content.
    pub(super) fn providers_answered(
        &mut self,
        query: &Query,
        answer: Result<Vec<routing::Provider>, HttpError>,
    ) {
        let Some(cid) = self.searches.about(query) else {
            return;
        };
        match answer {
            Ok(providers) => {
                for provider in providers {
                    self.provider(cid, provider.peer, provider.addresses);
                }
            }
            Err(error) => {
                let reason = root_cause(&error);
                tracing::warn!(%error, reason, "a router does not say who has the content");
            }
        }
        self.end_search(query);
    }

    /// Somebody is said to have `cid`. Dialled here, since a DHT knows the addresses that it found
    /// for as long as the query lasts.
    pub(super) fn provider(&mut self, cid: Cid, peer: PeerId, addresses: Vec<Multiaddr>) {
        if peer == self.peer_id() {
            return;
        }
        self.dial(peer, addresses);
        self.tell(NetworkEvent::Provider { cid, peer });
    }

    pub(super) fn end_search(&mut self, query: &Query) {
        if let Some(answered) = self.searches.end(query, true) {
            let cid = answered.cid;
            self.tell(NetworkEvent::ProvidersSearched { cid });
        }
    }

    pub(super) fn provide(&mut self, cid: Cid) {
        let key = kad::RecordKey::from(cid.hash().to_bytes());
        let queries = self.ask_each(|which, dht| {
            let begun = dht.start_providing(key.clone());
            // Others keep it. Whoever asks this node asks it for the block, too.
            dht.stop_providing(&key);
            match begun {
                Ok(query) => Some(Query::Dht(which, query)),
                Err(error) => {
                    tracing::warn!(%cid, ?error, "cannot tell the DHT");
                    None
                }
            }
        });
        if queries.is_empty() {
            self.tell(NetworkEvent::Provided { cid, dhts: 0 });
        } else {
            self.announcements.add(cid, queries);
        }
    }

    pub(super) fn handle_dht(&mut self, dht: Dht, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed {
                id, result, step, ..
            } => self.dht_answered(Query::Dht(dht, id), result, step.last),
            event => tracing::trace!(?event, "dht"),
        }
    }

    pub(super) fn dht_answered(&mut self, query: Query, result: QueryResult, is_last: bool) {
        match result {
            QueryResult::GetProviders(result) => {
                let Some(cid) = self.searches.about(&query) else {
                    return;
                };
                if let Ok(GetProvidersOk::FoundProviders { providers, .. }) = result {
                    for peer in providers.into_iter().take(limits::MAX_PROVIDERS) {
                        self.provider(cid, peer, Vec::new());
                    }
                }
                if is_last {
                    self.end_search(&query);
                }
            }
            QueryResult::StartProviding(result) if is_last => {
                if let Some(ended) = self.announcements.end(&query, result.is_ok()) {
                    self.tell(NetworkEvent::Provided {
                        cid: ended.cid,
                        dhts: ended.succeeded,
                    });
                }
            }
            result => self.name_answered(&query, result, is_last),
        }
    }
}
