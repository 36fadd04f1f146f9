//! Messages of bitswap [1.0, 1.1 and 1.2]: protobufs behind a varint of their length.
//!
//! Decoding takes one buffer and slices it, so it copies no block data. Encoding makes several pieces.
//! The data of a large block is a piece of its own, and is not copied.
//!
//! [1.0, 1.1 and 1.2]: https://specs.ipfs.tech/bitswap-protocol/

mod decode;
mod encode;
mod fields;

use bytes::Bytes;
use cid::Version as CidVersion;

use crate::block::Cid;
use crate::dag::ProtobufError;
use crate::limits;

/// Why bytes are no bitswap message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The message is longer than any peer may send.
    #[error(
        "a message of {length} bytes is over the limit of {}",
        limits::MAX_MESSAGE_BYTES
    )]
    TooLong {
        /// Its length in bytes, as announced.
        length: u64,
    },
    /// The length before a message is no varint.
    #[error("the length of a message is malformed")]
    InvalidLength,
    /// The bytes are no protobuf message.
    #[error(transparent)]
    Protobuf(#[from] ProtobufError),
    /// A want or a presence has no CID, or one that does not parse.
    #[error("an entry has no valid CID")]
    InvalidCid,
    /// The prefix of a block is not that of a CID.
    #[error("a block has no valid CID prefix")]
    InvalidPrefix,
    /// A block is larger than any peer may send.
    #[error(
        "a block of {size} bytes is over the limit of {}",
        limits::MAX_BLOCK_BYTES
    )]
    BlockTooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// The message has more entries of one kind than any peer may send.
    #[error("a message has more than {} entries", limits::MAX_MESSAGE_ENTRIES)]
    TooManyEntries,
}

/// What a want asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WantKind {
    /// The block.
    Block,
    /// Whether the peer has the block.
    Have,
}

/// One line of a wantlist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WantEntry {
    pub(crate) cid: Cid,
    /// Larger is sooner.
    pub(crate) priority: i32,
    pub(crate) cancel: bool,
    pub(crate) kind: WantKind,
    pub(crate) send_dont_have: bool,
}

/// A CID without its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    pub(crate) version: CidVersion,
    pub(crate) codec: u64,
    pub(crate) hash_code: u64,
    /// In bytes.
    pub(crate) digest_length: usize,
}

/// A block on the wire: it is named by what its data hash to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    pub(crate) prefix: Prefix,
    pub(crate) data: Bytes,
}

/// Whether the sender has a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Presence {
    pub(crate) cid: Cid,
    pub(crate) have: bool,
}

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// The wants replace all earlier ones of the sender.
    pub(crate) full: bool,
    pub(crate) wants: Vec<WantEntry>,
    pub(crate) blocks: Vec<Payload>,
    pub(crate) presences: Vec<Presence>,
    /// Bytes that the sender still has to send.
    pub(crate) pending_bytes: i32,
}

impl Prefix {
    pub(crate) fn of(cid: &Cid) -> Prefix {
        Prefix {
            version: cid.version(),
            codec: cid.codec(),
            hash_code: cid.hash().code(),
            digest_length: cid.hash().digest().len(),
        }
    }
}

impl Message {
    pub(crate) fn is_empty(&self) -> bool {
        self.wants.is_empty() && self.blocks.is_empty() && self.presences.is_empty() && !self.full
    }

    /// Bytes of block data.
    pub(crate) fn block_bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.data.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::protocol::Version;
    use super::decode::LEGACY_PREFIX;
    use super::*;
    use crate::block::{self, RAW};
    use crate::dag::Fields;
    use proptest::prelude::*;

    /// What follows the length prefix.
    fn strip(encoded: &[Bytes]) -> Bytes {
        let encoded = encoded.concat();
        let mut fields = Fields::new(&encoded);
        let length = fields.read_varint().unwrap();
        assert_eq!(length, fields.rest().len() as u64);
        Bytes::copy_from_slice(fields.rest())
    }

    fn some_cid() -> impl Strategy<Value = Cid> {
        prop_oneof![
            any::<u64>()
                .prop_map(|seed| { Cid::new_v1(RAW, block::sha2_256(&[&seed.to_le_bytes()])) }),
            any::<u64>()
                .prop_map(|seed| { Cid::new_v0(block::sha2_256(&[&seed.to_le_bytes()])).unwrap() }),
            proptest::collection::vec(any::<u8>(), 0..=limits::MAX_IDENTITY_BYTES).prop_map(
                |digest| {
                    let hash = block::Multihash::wrap(block::IDENTITY, &digest).unwrap();
                    Cid::new_v1(block::DAG_CBOR, hash)
                }
            ),
        ]
    }

    fn some_want() -> impl Strategy<Value = WantEntry> {
        (
            some_cid(),
            any::<i32>(),
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
        )
            .prop_map(|(cid, priority, cancel, have, send_dont_have)| WantEntry {
                cid,
                priority,
                cancel,
                kind: if have {
                    WantKind::Have
                } else {
                    WantKind::Block
                },
                send_dont_have,
            })
    }

    fn some_message() -> impl Strategy<Value = Message> {
        let block = (some_cid(), proptest::collection::vec(any::<u8>(), 0..300));
        let presence = (some_cid(), any::<bool>());
        (
            any::<bool>(),
            proptest::collection::vec(some_want(), 0..20),
            proptest::collection::vec(block, 0..10),
            proptest::collection::vec(presence, 0..20),
            any::<i32>(),
        )
            .prop_map(|(full, wants, blocks, presences, pending_bytes)| Message {
                full,
                wants,
                blocks: blocks
                    .into_iter()
                    .map(|(cid, data)| Payload {
                        prefix: Prefix::of(&cid),
                        data: data.into(),
                    })
                    .collect(),
                presences: presences
                    .into_iter()
                    .map(|(cid, have)| Presence { cid, have })
                    .collect(),
                pending_bytes,
            })
    }

    proptest! {
        #[test]
        fn round_trip(message in some_message()) {
            let encoded = message.encode(Version::OneTwo);
            prop_assert_eq!(Message::decode(&strip(&encoded)), Ok(message));
        }

        #[test]
        fn older_versions_keep_what_they_know(message in some_message()) {
            for version in [Version::OneOne, Version::OneZero, Version::Unversioned] {
                let decoded = Message::decode(&strip(&message.encode(version))).unwrap();
                prop_assert!(decoded.presences.is_empty());
                prop_assert!(decoded.wants.iter().all(|want| want.cancel || want.kind == WantKind::Block));
                let data = |message: &Message| -> Vec<Bytes> {
                    message.blocks.iter().map(|block| block.data.clone()).collect()
                };
                prop_assert_eq!(data(&decoded), data(&message));
            }
        }

        #[test]
        fn any_bytes_are_handled(bytes: Vec<u8>) {
            let _ = Message::decode(&bytes.into());
        }
    }

    #[test]
    fn blocks_are_not_copied() {
        let message = Message {
            blocks: vec![Payload {
                prefix: LEGACY_PREFIX,
                data: Bytes::from_static(b"block"),
            }],
            ..Message::default()
        };
        let bytes = strip(&message.encode(Version::OneTwo));
        let decoded = Message::decode(&bytes).unwrap();
        assert!(
            bytes
                .as_ptr_range()
                .contains(&decoded.blocks[0].data.as_ptr())
        );
    }
}
