//! The blocks of a repository, and where somebody can be asked, those of others behind them.

use std::sync::Arc;

use bytes::Bytes;

use super::{FetchError, FetchOptions, Fetched, Fetcher, LazyNetwork};
use crate::block::{BlockError, Cid, ReadBlocks};
use crate::cancel::Cancel;
use crate::progress::Reporter;
use crate::repo::{RepoError, Repository};

/// Local blocks, then the network.
pub enum Source<'r> {
    /// Nobody can be asked.
    Local(&'r Repository),
    /// What is missing is fetched.
    Fetching(Box<Fetcher<'r>>),
}

impl<'r> Source<'r> {
    /// Reads from `repository`, and from `network` what is missing there.
    pub fn new(
        repository: &'r Repository,
        network: Option<&'r LazyNetwork>,
        options: FetchOptions,
        reporter: &'r dyn Reporter,
    ) -> Source<'r> {
        match network {
            None => Source::Local(repository),
            Some(network) => {
                let fetcher = Fetcher::new(repository, network, options, reporter);
                Source::Fetching(Box::new(fetcher))
            }
        }
    }

    fn blocks(&self) -> &dyn ReadBlocks {
        match self {
            Source::Local(repository) => *repository,
            Source::Fetching(fetcher) => &**fetcher,
        }
    }

    /// Fetches whatever of the DAG below `root` is missing, and verifies the rest. Nothing is done where nobody can be
    /// asked.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn complete(&self, root: &Cid) -> Result<Fetched, Arc<FetchError>> {
        match self {
            Source::Local(_) => Ok(Fetched::default()),
            Source::Fetching(fetcher) => fetcher.complete(root),
        }
    }

    /// What was fetched so far.
    pub fn fetched(&self) -> Fetched {
        match self {
            Source::Local(_) => Fetched::default(),
            Source::Fetching(fetcher) => fetcher.fetched(),
        }
    }

    /// Keeps what has arrived.
    ///
    /// # Errors
    /// Where disk or database fail.
    pub fn finish(self) -> Result<Fetched, RepoError> {
        match self {
            Source::Local(_) => Ok(Fetched::default()),
            Source::Fetching(fetcher) => fetcher.finish(),
        }
    }
}

impl ReadBlocks for Source<'_> {
    fn read(&self, cid: &Cid, cancel: &Cancel) -> Result<Bytes, BlockError> {
        self.blocks().read(cid, cancel)
    }

    fn has(&self, cid: &Cid) -> Result<bool, BlockError> {
        self.blocks().has(cid)
    }

    fn size(&self, cid: &Cid) -> Result<Option<u64>, BlockError> {
        self.blocks().size(cid)
    }

    fn expect(&self, cids: &[Cid]) {
        self.blocks().expect(cids);
    }

    fn expect_all(&self, root: &Cid) {
        self.blocks().expect_all(root);
    }
}
