//! A node to embed: a repository, the upstreams that give missing content, and names.
//!
//! ```no_run
//! use ipfs_exec_node::Node;
//! use ipfs_exec_node::network::Upstreams;
//! use ipfs_exec_node::progress::Silent;
//! use ipfs_exec_node::unixfs::FileReader;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let peer = "/ip4/192.0.2.7/tcp/4001".parse()?;
//! let node = Node::open("/var/lib/content".as_ref(), Upstreams::peers([peer]))?;
//! let content = node.content(&"/ipns/docs.ipfs.tech/index.html".parse()?, &Silent)?;
//! std::io::copy(&mut FileReader::open(&content.source, &content.cid)?, &mut std::io::stdout())?;
//! content.source.finish()?;
//! # Ok(())
//! # }
//! ```

use std::path::Path;
use std::sync::Arc;

use rustix::fs::CWD;

use crate::block::Cid;
use crate::names::{self, NameStore, ResolveError};
use crate::network::fetch::Source;
use crate::network::names::{Asking, Resolver};
use crate::network::{
    FetchOptions, Identity, IdentityError, LazyNetwork, Multiaddr, Network, NetworkError, Upstreams,
};
use crate::path::ContentPath;
use crate::progress::Reporter;
use crate::repo::{Pin, RepoError, Repository};
use crate::unixfs::{self, ImportOptions, Imported, UnixfsError};

/// Why a node cannot do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The repository fails.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// The name cannot be resolved.
    #[error(transparent)]
    Name(#[from] ResolveError),
    /// Content cannot be read, or written.
    #[error(transparent)]
    Content(#[from] UnixfsError),
    /// The key of the node cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The network cannot be used.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// A repository, and the upstreams of missing content. The network starts when the first block or name is
/// missing.
#[derive(Debug)]
pub struct Node {
    repository: Arc<Repository>,
    upstreams: Upstreams,
    network: Option<LazyNetwork>,
    fetching: FetchOptions,
}

/// Content, and where its blocks are read.
pub struct Content<'n> {
    /// Its root.
    pub cid: Cid,
    /// Local blocks, then the network. [`Source::finish`] keeps what was fetched.
    pub source: Source<'n>,
}

impl Node {
    /// Opens the repository in the directory `path`, or creates it.
    ///
    /// # Errors
    /// [`RepoError`].
    pub fn open(path: &Path, upstreams: Upstreams) -> Result<Node, RepoError> {
        Ok(Node::new(Arc::new(Repository::open(path)?), upstreams))
    }

    /// A node with an open repository.
    pub fn new(repository: Arc<Repository>, upstreams: Upstreams) -> Node {
        Node {
            network: upstreams.network(Some(repository.path())),
            repository,
            upstreams,
            fetching: FetchOptions::default(),
        }
    }

    /// How missing content is fetched.
    #[must_use]
    pub fn fetching(mut self, options: FetchOptions) -> Node {
        self.fetching = options;
        self
    }

    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Where blocks are read: here, then from the network.
    pub fn source<'n>(&'n self, reporter: &'n dyn Reporter) -> Source<'n> {
        let network = self.network.as_ref();
        Source::new(&self.repository, network, self.fetching, reporter)
    }

    /// Resolves `path`: first a name in it, then the entries. Reads only the blocks of the directories on the
    /// way.
    ///
    /// # Errors
    /// [`NodeError::Name`], [`NodeError::Content`].
    pub fn content<'n>(
        &'n self,
        path: &ContentPath,
        reporter: &'n dyn Reporter,
    ) -> Result<Content<'n>, NodeError> {
        let source = self.source(reporter);
        let cid = self.resolve(&source, path, reporter)?;
        Ok(Content { cid, source })
    }

    /// The CID of what `path` names, as [`Node::content`], with blocks from `source`.
    ///
    /// # Errors
    /// As [`Node::content`].
    pub fn resolve(
        &self,
        source: &Source<'_>,
        path: &ContentPath,
        reporter: &dyn Reporter,
    ) -> Result<Cid, NodeError> {
        let store = NameStore::of_repository(self.repository.path());
        let asking = self.network.as_ref().map(|network| Asking {
            network,
            may_discover: true,
            timeout: self.fetching.idle_timeout,
            reporter,
        });
        let lookup = Resolver {
            store: &store,
            asking,
            refresh: false,
            may_ask_dns: self.network.is_some(),
        };
        let path = names::resolve(path, &lookup)?;
        Ok(unixfs::resolve(source, &path)?)
    }

    /// Imports the file, directory tree or symbolic link `path`, and pins it. The import is durable when this
    /// returns.
    ///
    /// # Errors
    /// [`NodeError::Content`], [`NodeError::Repository`].
    pub fn import(
        &self,
        path: &Path,
        options: &ImportOptions,
        reporter: &dyn Reporter,
    ) -> Result<Imported, NodeError> {
        let session = self.repository.session()?;
        let imported = unixfs::import_path(&session, CWD, path, options, reporter, &mut |_| {})?;
        session.commit(&[Pin::recursive(imported.cid)])?;
        Ok(imported)
    }

    /// Serves the blocks of the repository at these addresses, until the result is dropped. The node has the
    /// identity of the repository, or a passing one while another process uses that identity.
    ///
    /// # Errors
    /// [`NodeError::Identity`], [`NodeError::Network`].
    pub fn serve(&self, listen: Vec<Multiaddr>) -> Result<Network, NodeError> {
        let path = self.repository.path();
        let identity = Identity::of_repository_or_passing(path)?;
        let mut options = self.upstreams.options(identity, Some(path))?;
        options.listen = listen;
        options.serve = true;
        Ok(Network::start(Arc::clone(&self.repository) as _, options)?)
    }
}
