//! The blocks of a repository, and behind them the blocks of the network, if there is one.

use bytes::Bytes;

use super::{FetchOptions, Fetched, Fetcher, LazyNetwork};
use crate::block::{BlockError, Cid, ReadBlocks};
use crate::cancel::Cancel;
use crate::progress::Reporter;
use crate::repo::{RepoError, Repository};

/// Local blocks, then the network.
pub enum Source<'r> {
    /// There is no network: a block that is missing here is missing.
    Local(&'r Repository),
    /// A block that is missing here is fetched.
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

    /// Counts the blocks that were fetched so far.
    pub fn fetched(&self) -> Fetched {
        match self {
            Source::Local(_) => Fetched::default(),
            Source::Fetching(fetcher) => fetcher.fetched(),
        }
    }

    /// Keeps the blocks that have arrived.
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
