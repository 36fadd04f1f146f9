//! What each implementation of [`ReadBlocks`] owes its callers.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipfs_exec_node::block::{
    self, Block, BlockError, IDENTITY, MemoryBlocks, Multihash, RAW, ReadBlocks, ReadBlocksExt,
    WriteBlocksExt,
};
use ipfs_exec_node::cancel::NEVER;
use ipfs_exec_node::{Cancel, CancelSource, Cid, limits};

/// Longer than a cancelled read may take on a busy machine, and shorter than any time-out.
const SOON: Duration = Duration::from_secs(5);

fn raw(data: &'static [u8]) -> Block {
    let cid = Cid::new_v1(RAW, block::sha2_256(&[data]));
    Block::verified(cid, Bytes::from_static(data)).unwrap()
}

/// Some blocks that no test of the contract puts anywhere but where it says so.
pub(crate) fn samples() -> [Block; 2] {
    let long: &'static [u8] = &[b'b'; 300_000];
    [raw(b"contract"), raw(long)]
}

/// `blocks` has `there` at hand.
pub(crate) fn reads(blocks: &dyn ReadBlocks, there: &[Block]) {
    let never = NEVER.clone();
    for block in there {
        let size = block.data().len() as u64;
        assert!(blocks.has(block.cid()).unwrap());
        assert_eq!(blocks.size(block.cid()).unwrap(), Some(size));
        assert_eq!(&blocks.read(block.cid(), &never).unwrap(), block.data());
        assert_eq!(&blocks.get(block.cid()).unwrap(), block.data());
        // One block under another name is the same block.
        let other_codec = Cid::new_v1(0x71, *block.cid().hash());
        assert!(blocks.has(&other_codec).unwrap());
        assert_eq!(&blocks.get(&other_codec).unwrap(), block.data());
    }
    let cids: Vec<_> = there.iter().map(|block| *block.cid()).collect();
    blocks.expect(&cids);
    cids.iter().for_each(|cid| blocks.expect_all(cid));
    // An identity CID needs no store.
    let data = [7; limits::MAX_IDENTITY_BYTES];
    let inline = Cid::new_v1(RAW, Multihash::wrap(IDENTITY, &data).unwrap());
    assert_eq!(blocks.get(&inline).unwrap()[..], data);
}

/// `blocks` does not have `missing`, and cannot get it.
pub(crate) fn lacks(blocks: &dyn ReadBlocks, missing: &Block) {
    let cid = missing.cid();
    assert!(!blocks.has(cid).unwrap());
    assert_eq!(blocks.size(cid).unwrap(), None);
    for _ in 0..2 {
        let error = blocks.get(cid).unwrap_err();
        let (BlockError::Missing { cid: named } | BlockError::Unavailable { cid: named, .. }) =
            error
        else {
            panic!("{error:?}");
        };
        assert_eq!(named, *cid);
        // That it was said to be wanted changes nothing.
        blocks.expect(&[*cid]);
    }
}

/// `wrap` makes a store that answers from the one that it is given, and calls a check with it. All that it
/// is asked for the first time reaches the inner one, cancellation too.
pub(crate) fn hands_on(wrap: impl Fn(&dyn ReadBlocks, &dyn Fn(&dyn ReadBlocks))) {
    let [a, b] = samples();
    let inner = Spy::default();
    inner.blocks.put(&[a.clone(), b.clone()]).unwrap();
    wrap(&inner, &|blocks| {
        inner.calls.lock().unwrap().clear();
        reads(blocks, &[a.clone(), b.clone()]);
        lacks(blocks, &raw(b"another"));
        blocks.expect_all(b.cid());
        let calls = std::mem::take(&mut *inner.calls.lock().unwrap());
        for wanted in [
            Call::Read(*a.cid()),
            Call::Has(*a.cid()),
            Call::Size(*a.cid()),
            Call::Expect(vec![*a.cid(), *b.cid()]),
            Call::ExpectAll(*b.cid()),
        ] {
            assert!(calls.contains(&wanted), "{wanted:?} is lost");
        }
    });
    let (endless, begun) = Endless::new();
    wrap(&endless, &|blocks| {
        ends_when_cancelled(blocks, a.cid(), &begun);
        // The next reader is not told that somebody else no longer wanted it.
        ends_when_cancelled(blocks, a.cid(), &begun);
    });
}

/// A read of `cid`, of which `begun` tells that it waits, ends soon after it is cancelled.
pub(crate) fn ends_when_cancelled(blocks: &dyn ReadBlocks, cid: &Cid, begun: &Receiver<()>) {
    let source = CancelSource::new().unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| (blocks.read(cid, &source.token()), Instant::now()));
        begun.recv_timeout(SOON).unwrap();
        let cancelled = Instant::now();
        source.cancel();
        let (outcome, ended) = reader.join().unwrap();
        assert!(outcome.is_err());
        assert!(ended - cancelled < SOON, "{:?}", ended - cancelled);
    });
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    Read(Cid),
    Has(Cid),
    Size(Cid),
    Expect(Vec<Cid>),
    ExpectAll(Cid),
}

/// Notes what it is asked.
#[derive(Default)]
struct Spy {
    blocks: MemoryBlocks,
    calls: Mutex<Vec<Call>>,
}

impl Spy {
    fn note(&self, call: Call) {
        self.calls.lock().unwrap().push(call);
    }
}

impl ReadBlocks for Spy {
    fn read(&self, cid: &Cid, cancel: &Cancel) -> Result<Bytes, BlockError> {
        self.note(Call::Read(*cid));
        self.blocks.read(cid, cancel)
    }

    fn has(&self, cid: &Cid) -> Result<bool, BlockError> {
        self.note(Call::Has(*cid));
        self.blocks.has(cid)
    }

    fn size(&self, cid: &Cid) -> Result<Option<u64>, BlockError> {
        self.note(Call::Size(*cid));
        self.blocks.size(cid)
    }

    fn expect(&self, cids: &[Cid]) {
        self.note(Call::Expect(cids.to_vec()));
    }

    fn expect_all(&self, root: &Cid) {
        self.note(Call::ExpectAll(*root));
    }
}

/// Reads that only a cancellation ends.
pub(crate) struct Endless {
    begun: Mutex<Sender<()>>,
}

impl Endless {
    pub(crate) fn new() -> (Endless, Receiver<()>) {
        let (sender, receiver) = channel();
        let begun = Mutex::new(sender);
        (Endless { begun }, receiver)
    }
}

impl ReadBlocks for Endless {
    fn read(&self, cid: &Cid, cancel: &Cancel) -> Result<Bytes, BlockError> {
        self.begun.lock().unwrap().send(()).unwrap();
        while !cancel.is_cancelled() {
            cancel.sleep(SOON).unwrap();
        }
        Err(BlockError::Missing { cid: *cid })
    }

    fn has(&self, _: &Cid) -> Result<bool, BlockError> {
        Ok(false)
    }

    fn size(&self, _: &Cid) -> Result<Option<u64>, BlockError> {
        Ok(None)
    }

    fn expect(&self, _: &[Cid]) {}

    fn expect_all(&self, _: &Cid) {}
}
