//! Blocks: bytes named by the hash of their content, and the trait of stores that hold blocks.
//!
//! Nothing here knows disks, DAGs or peers. Two properties hold everywhere: the data that
//! [`ReadBlocks::read`] returns matches its CID, and a block is never larger than
//! [`limits::MAX_BLOCK_BYTES`].

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use sha2::{Digest, Sha256, Sha512};

use crate::budget::{BudgetError, KeepFree};
use crate::cancel::{Cancel, NEVER};
use crate::limits;

/// A content identifier. Wide enough for an identity CID of [`limits::MAX_IDENTITY_BYTES`].
pub type Cid = cid::CidGeneric<{ limits::MAX_IDENTITY_BYTES }>;

/// The hash in a CID.
pub type Multihash = multihash::Multihash<{ limits::MAX_IDENTITY_BYTES }>;

/// Multicodec of plain bytes.
pub const RAW: u64 = 0x55;
/// Multicodec of dag-pb.
pub const DAG_PB: u64 = 0x70;
/// Multicodec of dag-cbor.
pub const DAG_CBOR: u64 = 0x71;
/// Multicodec of a public key: a CID with it is a mutable name.
pub const LIBP2P_KEY: u64 = 0x72;

/// Multihash code of the identity "hash": the digest is the data.
pub const IDENTITY: u64 = 0x00;
/// Multihash code of SHA-256.
pub const SHA2_256: u64 = 0x12;
/// Multihash code of SHA-512.
pub const SHA2_512: u64 = 0x13;
/// Multihash code of BLAKE3.
pub const BLAKE3: u64 = 0x1e;

/// Why a block could not be had, kept or believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// No source that was asked has the block.
    #[error("block {cid} is not in the repository")]
    Missing {
        /// The block.
        cid: Cid,
    },
    /// The block is not here, and was not to be had elsewhere.
    #[error("block {cid} is not in the repository")]
    Unavailable {
        /// The block.
        cid: Cid,
        /// Why nobody else gave it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The block is recorded here, but what the disk gives back does not match its CID.
    #[error("block {cid} is damaged on disk")]
    Damaged {
        /// The block.
        cid: Cid,
    },
    /// The block is recorded here and damaged, and was not to be had elsewhere.
    #[error("block {cid} is damaged on disk, and no other source has it")]
    Irreplaceable {
        /// The block.
        cid: Cid,
        /// Why no other source gave it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Data offered as this block hashes to something else.
    #[error("the bytes of block {cid} do not match its hash")]
    Mismatch {
        /// The block.
        cid: Cid,
    },
    /// The CID names a hash function that is not supported.
    #[error("block {cid} uses an unsupported hash function, code 0x{code:x}")]
    UnsupportedHash {
        /// The block.
        cid: Cid,
        /// Its multihash code.
        code: u64,
    },
    /// The block is larger than any peer would accept.
    #[error("block {cid} has {size} bytes, more than the limit of {limit}", limit = limits::MAX_BLOCK_BYTES)]
    TooLarge {
        /// The block.
        cid: Cid,
        /// Its size in bytes.
        size: u64,
    },
    /// The disk that blocks are kept on is too full for more of them.
    #[error("cannot put blocks into {}", path.display())]
    NoRoom {
        /// The directory of the blocks.
        path: PathBuf,
        /// Which bound was reached.
        #[source]
        source: BudgetError,
    },
    /// What holds the blocks failed.
    #[error("cannot access the block store")]
    Store {
        /// The store's own error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A CID with the data that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    cid: Cid,
    data: Bytes,
}

impl Block {
    /// Hashes `data` with SHA-256 and names it with `version` and `codec`. CIDv0 exists for
    /// dag-pb only; other codecs get a CIDv1 whatever `version` says.
    pub fn new(version: cid::Version, codec: u64, data: Bytes) -> Block {
        let hash = sha2_256(&[&data]);
        Block {
            cid: name(version, codec, hash),
            data,
        }
    }

    /// Takes `data` that came from outside as the block `cid`.
    ///
    /// # Errors
    /// [`BlockError::Mismatch`] when it is not, [`BlockError::TooLarge`],
    /// [`BlockError::UnsupportedHash`].
    pub fn verified(cid: Cid, data: Bytes) -> Result<Block, BlockError> {
        verify(&cid, &data)?;
        Ok(Block { cid, data })
    }

    /// The same bytes under `cid`; `None` where that names another hash.
    pub fn renamed(&self, cid: Cid) -> Option<Block> {
        (cid.hash() == self.cid.hash()).then(|| Block {
            cid,
            data: self.data.clone(),
        })
    }

    /// Hashes `data` with the function `code` to a digest of `digest_length` bytes, and names it
    /// with `version` and `codec`; `None` where that function or length is not supported.
    #[cfg(feature = "network")]
    pub(crate) fn hashed(
        version: cid::Version,
        codec: u64,
        (code, digest_length): (u64, usize),
        data: Bytes,
    ) -> Option<Block> {
        let cid = name(version, codec, hash(code, digest_length, &data)?);
        Some(Block { cid, data })
    }

    /// The name.
    pub fn cid(&self) -> &Cid {
        &self.cid
    }

    /// The bytes.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The bytes, owned.
    pub fn into_data(self) -> Bytes {
        self.data
    }
}

/// The SHA-256 multihash of `parts` in a row.
pub fn sha2_256(parts: &[&[u8]]) -> Multihash {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    wrap(SHA2_256, &hasher.finalize())
}

/// The CID of `hash`, in version 0 where that exists and was asked for.
pub fn name(version: cid::Version, codec: u64, hash: Multihash) -> Cid {
    if version == cid::Version::V0 && codec == DAG_PB && hash.code() == SHA2_256 {
        Cid::new_v0(hash).expect("a SHA-256 multihash of 32 bytes makes a CIDv0")
    } else {
        Cid::new_v1(codec, hash)
    }
}

/// Checks that `data` is the block `cid`.
///
/// # Errors
/// As [`Block::verified`].
pub fn verify(cid: &Cid, data: &[u8]) -> Result<(), BlockError> {
    if data.len() > limits::MAX_BLOCK_BYTES {
        return Err(BlockError::TooLarge {
            cid: *cid,
            size: data.len() as u64,
        });
    }
    let wanted = cid.hash();
    let matches = match wanted.code() {
        IDENTITY => wanted.digest() == data,
        code if digest_lengths(code).is_none() => {
            return Err(BlockError::UnsupportedHash { cid: *cid, code });
        }
        code => hash(code, wanted.digest().len(), data).as_ref() == Some(wanted),
    };
    if matches {
        Ok(())
    } else {
        Err(BlockError::Mismatch { cid: *cid })
    }
}

/// The data of an identity CID; `None` for any other.
pub fn inline_data(cid: &Cid) -> Option<Bytes> {
    (cid.hash().code() == IDENTITY).then(|| Bytes::copy_from_slice(cid.hash().digest()))
}

/// Whether [`verify`] can check digests of this function and length, the identity excepted.
#[cfg(feature = "network")]
pub(crate) fn is_verifiable(hash: &Multihash) -> bool {
    digest_lengths(hash.code()).is_some_and(|lengths| lengths.contains(&hash.digest().len()))
}

/// Bytes that digests of the function `code` may have; `None` where it is not supported. BLAKE3
/// digests may have any length; below 20 bytes they no longer identify anything.
fn digest_lengths(code: u64) -> Option<RangeInclusive<usize>> {
    match code {
        SHA2_256 => Some(32..=32),
        SHA2_512 => Some(64..=64),
        BLAKE3 => Some(20..=64),
        _ => None,
    }
}

/// The multihash of `data`; `None` where [`verify`] could not check it.
fn hash(code: u64, digest_length: usize, data: &[u8]) -> Option<Multihash> {
    if !digest_lengths(code)?.contains(&digest_length) {
        return None;
    }
    Some(match code {
        SHA2_256 => wrap(code, &Sha256::digest(data)),
        SHA2_512 => wrap(code, &Sha512::digest(data)),
        _ => wrap(code, &blake3(data)[..digest_length]),
    })
}

fn blake3(data: &[u8]) -> [u8; 64] {
    let mut digest = [0; 64];
    let mut hasher = blake3::Hasher::new();
    hasher.update(data);
    hasher.finalize_xof().fill(&mut digest);
    digest
}

fn wrap(code: u64, digest: &[u8]) -> Multihash {
    Multihash::wrap(code, digest).expect("a digest of this hash fits")
}

/// Where blocks are read: a repository, a session that writes to one, memory, or peers behind one of them.
/// Calls may block, and may come from many threads at once.
///
/// No method has a body here, so that no implementation forgets to hand one on.
pub trait ReadBlocks: Send + Sync {
    /// Reads the block `cid`, which is not an identity CID, and verifies it. A read that waits for others ends
    /// with an error soon after it is cancelled; one that needs only the disk does not look at `cancel`.
    ///
    /// # Errors
    /// [`BlockError::Missing`] or [`BlockError::Damaged`] where it cannot be had; both mean that
    /// another source may still have it.
    fn read(&self, cid: &Cid, cancel: &Cancel) -> Result<Bytes, BlockError>;

    /// Whether [`ReadBlocks::read`] would find the block without asking anybody else. The data is not
    /// verified.
    ///
    /// # Errors
    /// Only where the store itself fails.
    fn has(&self, cid: &Cid) -> Result<bool, BlockError>;

    /// Bytes of the block `cid` if [`ReadBlocks::has`] finds it. Stores that know sizes answer
    /// without reading.
    ///
    /// # Errors
    /// Only where the store itself fails.
    fn size(&self, cid: &Cid) -> Result<Option<u64>, BlockError>;

    /// Says that these blocks will be read soon, so that what has to come from afar can come
    /// together. Does nothing where all is at hand.
    fn expect(&self, cids: &[Cid]);

    /// Says that all blocks below `root` will be read, in the order of the DAG. Does nothing where all is at
    /// hand.
    fn expect_all(&self, root: &Cid);
}

/// Where blocks are kept.
pub trait WriteBlocks: Send + Sync {
    /// Keeps `batch`, whose blocks the caller has verified, if `keep_free` of the store's disk stays free after
    /// it. A store that is not on a disk has room for all. Blocks that are here already are skipped, and need
    /// no room.
    ///
    /// # Errors
    /// [`BlockError::NoRoom`], and where the store fails; some blocks of the batch may then have been kept.
    fn put_within(&self, batch: &[Block], keep_free: &KeepFree) -> Result<(), BlockError>;
}

/// What every [`ReadBlocks`] can do.
pub trait ReadBlocksExt: ReadBlocks {
    /// Gives the data of `cid`: from the CID itself where that holds it, else by [`ReadBlocks::read`].
    ///
    /// # Errors
    /// As [`ReadBlocks::read`].
    fn get(&self, cid: &Cid) -> Result<Bytes, BlockError> {
        match inline_data(cid) {
            Some(data) => Ok(data),
            None => self.read(cid, &NEVER),
        }
    }
}

impl<B: ReadBlocks + ?Sized> ReadBlocksExt for B {}

/// What every [`WriteBlocks`] can do.
pub trait WriteBlocksExt: WriteBlocks {
    /// As [`WriteBlocks::put_within`], however full the disk gets.
    ///
    /// # Errors
    /// As [`WriteBlocks::put_within`].
    fn put(&self, batch: &[Block]) -> Result<(), BlockError> {
        self.put_within(batch, &KeepFree::NOTHING)
    }
}

impl<B: WriteBlocks + ?Sized> WriteBlocksExt for B {}

impl<B: ReadBlocks + ?Sized> ReadBlocks for &B {
    fn read(&self, cid: &Cid, cancel: &Cancel) -> Result<Bytes, BlockError> {
        (**self).read(cid, cancel)
    }

    fn has(&self, cid: &Cid) -> Result<bool, BlockError> {
        (**self).has(cid)
    }

    fn size(&self, cid: &Cid) -> Result<Option<u64>, BlockError> {
        (**self).size(cid)
    }

    fn expect(&self, cids: &[Cid]) {
        (**self).expect(cids);
    }

    fn expect_all(&self, root: &Cid) {
        (**self).expect_all(root);
    }
}

impl<B: WriteBlocks + ?Sized> WriteBlocks for &B {
    fn put_within(&self, batch: &[Block], keep_free: &KeepFree) -> Result<(), BlockError> {
        (**self).put_within(batch, keep_free)
    }
}

/// Blocks in memory, found by multihash: for tests and small DAGs.
#[derive(Debug, Default)]
pub struct MemoryBlocks {
    by_hash: Mutex<HashMap<Multihash, Bytes>>,
}

impl MemoryBlocks {
    /// How many blocks are held.
    pub fn len(&self) -> usize {
        self.by_hash
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the block, if it is held.
    pub fn remove(&self, cid: &Cid) {
        self.by_hash
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(cid.hash());
    }
}

impl ReadBlocks for MemoryBlocks {
    fn read(&self, cid: &Cid, _cancel: &Cancel) -> Result<Bytes, BlockError> {
        let by_hash = self.by_hash.lock().unwrap_or_else(PoisonError::into_inner);
        by_hash
            .get(cid.hash())
            .cloned()
            .ok_or(BlockError::Missing { cid: *cid })
    }

    fn has(&self, cid: &Cid) -> Result<bool, BlockError> {
        let by_hash = self.by_hash.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(by_hash.contains_key(cid.hash()))
    }

    fn size(&self, cid: &Cid) -> Result<Option<u64>, BlockError> {
        let by_hash = self.by_hash.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(by_hash.get(cid.hash()).map(|data| data.len() as u64))
    }

    fn expect(&self, _cids: &[Cid]) {}

    fn expect_all(&self, _root: &Cid) {}
}

impl WriteBlocks for MemoryBlocks {
    fn put_within(&self, batch: &[Block], _keep_free: &KeepFree) -> Result<(), BlockError> {
        let mut by_hash = self.by_hash.lock().unwrap_or_else(PoisonError::into_inner);
        for block in batch {
            by_hash.insert(*block.cid().hash(), block.data().clone());
        }
        Ok(())
    }
}

/// Keeps nothing and has nothing: what `--only-hash` writes to.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoBlocks;

impl ReadBlocks for NoBlocks {
    fn read(&self, cid: &Cid, _cancel: &Cancel) -> Result<Bytes, BlockError> {
        Err(BlockError::Missing { cid: *cid })
    }

    fn has(&self, _cid: &Cid) -> Result<bool, BlockError> {
        Ok(false)
    }

    fn size(&self, _cid: &Cid) -> Result<Option<u64>, BlockError> {
        Ok(None)
    }

    fn expect(&self, _cids: &[Cid]) {}

    fn expect_all(&self, _root: &Cid) {}
}

impl WriteBlocks for NoBlocks {
    fn put_within(&self, _batch: &[Block], _keep_free: &KeepFree) -> Result<(), BlockError> {
        Ok(())
    }
}
