//! Where content comes from that is not in the repository.

use std::path::Path;
use std::sync::Arc;

use super::http::Url;
use super::{
    Identity, LazyNetwork, Mdns, Multiaddr, Network, NetworkError, NetworkOptions,
    PUBLIC_BOOTSTRAP, private,
};
use crate::block::NoBlocks;

/// The peers and servers that are asked for missing content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstreams {
    /// Peers that are connected at once, and asked for everything.
    pub peers: Vec<Multiaddr>,
    /// Peers that are connected at once for the sake of the DHT that they keep.
    pub bootstrap: Vec<Multiaddr>,
    /// Gateways, asked over HTTP for what no peer has.
    pub gateways: Vec<Url>,
    /// Delegated routing servers, asked over HTTP who has content.
    pub routers: Vec<Url>,
    /// Whether peers are looked for on the local network.
    pub mdns: Mdns,
}

impl Upstreams {
    /// No upstream: all content is in the repository.
    pub fn none() -> Upstreams {
        Upstreams {
            peers: Vec::new(),
            bootstrap: Vec::new(),
            gateways: Vec::new(),
            routers: Vec::new(),
            mdns: Mdns::Off,
        }
    }

    /// These peers alone.
    pub fn peers(peers: impl IntoIterator<Item = Multiaddr>) -> Upstreams {
        Upstreams {
            peers: peers.into_iter().collect(),
            ..Upstreams::none()
        }
    }

    /// The addresses by which one enters the DHT of the public network.
    pub fn public_bootstrap() -> Vec<Multiaddr> {
        let public = PUBLIC_BOOTSTRAP.iter().map(|address| address.parse());
        public
            .map(|address| address.expect("the addresses are well-formed"))
            .collect()
    }

    /// Whether there is no upstream at all.
    pub fn is_empty(&self) -> bool {
        !self.has_persistent()
            && self.gateways.is_empty()
            && self.routers.is_empty()
            && self.mdns == Mdns::Off
    }

    fn has_persistent(&self) -> bool {
        !self.peers.is_empty() || !self.bootstrap.is_empty()
    }

    /// Options of a node with these upstreams and this identity. The node belongs to the private network of the
    /// repository in the directory `repository`.
    ///
    /// # Errors
    /// Where the key of the private network cannot be read.
    pub fn options(
        &self,
        identity: Identity,
        repository: Option<&Path>,
    ) -> Result<NetworkOptions, NetworkError> {
        let mut options = NetworkOptions::new(identity);
        if let Some(repository) = repository {
            options.swarm_key = private::swarm_key(repository)?;
        }
        let all = self.clone();
        options.peers = all.peers;
        options.bootstrap = all.bootstrap;
        options.gateways = all.gateways;
        options.routers = all.routers;
        options.mdns = all.mdns;
        Ok(options)
    }

    /// A node that fetches from them, and starts when it is first needed; `None` if there is no upstream.
    pub fn network(&self, repository: Option<&Path>) -> Option<LazyNetwork> {
        if self.is_empty() {
            return None;
        }
        let (upstreams, repository) = (self.clone(), repository.map(Path::to_owned));
        let start = move || {
            let options = upstreams.options(Identity::passing(), repository.as_deref())?;
            Network::start(Arc::new(NoBlocks), options)
        };
        Some(LazyNetwork::new(self.has_persistent(), self.mdns, start))
    }
}
