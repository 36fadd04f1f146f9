//! Peers that have taken a whole DAG from here.

use std::collections::HashMap;

use libp2p::PeerId;

use crate::block::{Cid, IDENTITY, Multihash, ReadBlocks};
use crate::dag::{self, DagError};

/// Peers whose progress is watched. Beyond it new ones are not counted.
const MAX_PEERS: usize = 1024;

/// Watches what is sent of one DAG.
#[derive(Debug)]
pub struct DownloadTracker {
    /// Each block's place in the sets below.
    places: HashMap<Multihash, usize>,
    peers: HashMap<PeerId, Taken>,
}

/// The blocks that one peer has been sent, a bit each.
#[derive(Debug)]
struct Taken {
    bits: Vec<u64>,
    missing: usize,
}

impl DownloadTracker {
    /// Watches the DAG below `root`, which must be in `blocks` as a whole.
    ///
    /// # Errors
    /// Where it cannot be walked.
    pub fn of(blocks: &dyn ReadBlocks, root: &Cid) -> Result<DownloadTracker, DagError> {
        let mut places = HashMap::new();
        let walked = dag::walk(blocks, root, &mut |visit| {
            if let Err(error) = visit.data {
                return std::ops::ControlFlow::Break(error);
            }
            let hash = *visit.cid.hash();
            let place = places.len();
            // What a CID holds itself is never sent.
            if hash.code() != IDENTITY {
                places.entry(hash).or_insert(place);
            }
            std::ops::ControlFlow::Continue(())
        })?;
        match walked.break_value() {
            Some(error) => Err(error.into()),
            None => Ok(DownloadTracker {
                places,
                peers: HashMap::new(),
            }),
        }
    }

    /// Notes that `peer` was sent blocks.
    pub fn sent(&mut self, peer: PeerId, cids: &[Cid]) {
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&peer) {
            return;
        }
        let count = self.places.len();
        for place in cids.iter().filter_map(|cid| self.places.get(cid.hash())) {
            let taken = self.peers.entry(peer).or_insert_with(|| Taken {
                bits: vec![0; count.div_ceil(64)],
                missing: count,
            });
            let (word, bit) = (&mut taken.bits[place / 64], 1 << (place % 64));
            taken.missing -= usize::from(*word & bit == 0);
            *word |= bit;
        }
    }

    /// The peers that have taken all of it.
    pub fn complete(&self) -> impl Iterator<Item = &PeerId> {
        let is_complete = |(_, taken): &(&PeerId, &Taken)| taken.missing == 0;
        self.peers.iter().filter(is_complete).map(|(peer, _)| peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::MemoryBlocks;
    use crate::progress::Silent;
    use crate::unixfs::{self, ImportOptions};

    #[test]
    fn a_peer_is_complete_with_the_last_block_however_often_it_took_others() {
        let blocks = MemoryBlocks::default();
        let content = vec![7; 700_000];
        let options = ImportOptions::default();
        let root = unixfs::import_stream(&blocks, &mut &content[..], &options, &Silent)
            .unwrap()
            .cid;
        let mut cids = Vec::new();
        let walked = dag::walk(&blocks, &root, &mut |visit| {
            cids.push(*visit.cid);
            std::ops::ControlFlow::<()>::Continue(())
        });
        assert!(walked.is_ok() && cids.len() >= 3);
        let mut downloads = DownloadTracker::of(&blocks, &root).unwrap();
        let (fast, slow) = (PeerId::random(), PeerId::random());
        downloads.sent(fast, &cids);
        for _ in 0..3 {
            downloads.sent(slow, &cids[1..]);
        }
        assert_eq!(downloads.complete().collect::<Vec<_>>(), [&fast]);
        downloads.sent(slow, &cids[..1]);
        assert_eq!(downloads.complete().count(), 2);
    }
}
