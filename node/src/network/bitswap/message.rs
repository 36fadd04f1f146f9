//! Messages of bitswap [1.0, 1.1 and 1.2]: protobufs behind a varint of their length.
//!
//! Decoding takes one buffer and slices it, so block data are never copied. Encoding makes one
//! buffer, length prefix included: each write to a stream is a frame of its own, and a message
//! should be few.
//!
//! [1.0, 1.1 and 1.2]: https://specs.ipfs.tech/bitswap-protocol/

use bytes::Bytes;
use cid::Version as CidVersion;

use super::protocol::Version;
use crate::block::{Cid, DAG_PB, SHA2_256};
use crate::dag::{Field, Fields, ProtobufError, put_bytes, put_varint, varint_length};
use crate::limits;

const MESSAGE_WANTLIST: u64 = 1;
const MESSAGE_BLOCKS: u64 = 2;
const MESSAGE_PAYLOAD: u64 = 3;
const MESSAGE_PRESENCES: u64 = 4;
const MESSAGE_PENDING_BYTES: u64 = 5;
const WANTLIST_ENTRIES: u64 = 1;
const WANTLIST_FULL: u64 = 2;
const ENTRY_CID: u64 = 1;
const ENTRY_PRIORITY: u64 = 2;
const ENTRY_CANCEL: u64 = 3;
const ENTRY_KIND: u64 = 4;
const ENTRY_SEND_DONT_HAVE: u64 = 5;
const PAYLOAD_PREFIX: u64 = 1;
const PAYLOAD_DATA: u64 = 2;
const PRESENCE_CID: u64 = 1;
const PRESENCE_KIND: u64 = 2;

const KIND_HAVE: u64 = 1;
const KIND_DONT_HAVE: u64 = 1;

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

/// The prefix of every block of bitswap 1.0.
const LEGACY_PREFIX: Prefix = Prefix {
    version: CidVersion::V0,
    codec: DAG_PB,
    hash_code: SHA2_256,
    digest_length: 32,
};

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

    fn fields(&self) -> [u64; 4] {
        [
            u64::from(self.version),
            self.codec,
            self.hash_code,
            self.digest_length as u64,
        ]
    }

    fn encoded_length(&self) -> usize {
        self.fields().into_iter().map(varint_length).sum()
    }

    fn decode(bytes: &[u8]) -> Result<Prefix, MessageError> {
        let invalid = |_| MessageError::InvalidPrefix;
        let mut fields = Fields::new(bytes);
        let mut read = || fields.read_varint().map_err(invalid);
        let (version, codec, hash_code, length) = (read()?, read()?, read()?, read()?);
        let version = CidVersion::try_from(version).map_err(|_| MessageError::InvalidPrefix)?;
        let digest_length = usize::try_from(length).map_err(|_| MessageError::InvalidPrefix)?;
        let is_legacy = codec == DAG_PB && hash_code == SHA2_256 && digest_length == 32;
        if !fields.is_empty() || (version == CidVersion::V0 && !is_legacy) {
            return Err(MessageError::InvalidPrefix);
        }
        Ok(Prefix {
            version,
            codec,
            hash_code,
            digest_length,
        })
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

    /// Reads a message without its length prefix. Blocks share the memory of `bytes`.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Message, MessageError> {
        if bytes.len() > limits::MAX_MESSAGE_BYTES {
            return Err(MessageError::TooLong {
                length: bytes.len() as u64,
            });
        }
        let mut message = Message::default();
        for field in Fields::new(bytes) {
            match field? {
                (MESSAGE_WANTLIST, value) => {
                    decode_wantlist(&mut message, value.bytes(MESSAGE_WANTLIST)?)?;
                }
                (MESSAGE_BLOCKS, value) => {
                    let data = value.bytes(MESSAGE_BLOCKS)?;
                    push_block(&mut message, LEGACY_PREFIX, bytes.slice_ref(data))?;
                }
                (MESSAGE_PAYLOAD, value) => {
                    let (prefix, data) = decode_payload(value.bytes(MESSAGE_PAYLOAD)?)?;
                    push_block(&mut message, prefix, bytes.slice_ref(data))?;
                }
                (MESSAGE_PRESENCES, value) => {
                    let presence = decode_presence(value.bytes(MESSAGE_PRESENCES)?)?;
                    push(&mut message.presences, presence)?;
                }
                (MESSAGE_PENDING_BYTES, value) => {
                    message.pending_bytes = value.varint(MESSAGE_PENDING_BYTES)? as i32;
                }
                _ => {}
            }
        }
        Ok(message)
    }

    /// Writes the message with its length prefix, in the form that `version` knows. What that
    /// version lacks is left out: before 1.2 there are no presences, and a want-have would be
    /// read as a want for the block.
    pub(crate) fn encode(&self, version: Version) -> Vec<u8> {
        let wantlist = self.wantlist_length(version);
        let length = self.body_length(version, wantlist);
        let mut out = Vec::with_capacity(varint_length(length as u64) + length);
        put_varint(&mut out, length as u64);
        if wantlist > 0 {
            put_head(&mut out, MESSAGE_WANTLIST, wantlist);
            for entry in self.wants_for(version) {
                put_head(&mut out, WANTLIST_ENTRIES, entry.encoded_length());
                entry.encode(&mut out);
            }
            put_flag(&mut out, WANTLIST_FULL, u64::from(self.full));
        }
        for block in &self.blocks {
            block.encode(&mut out, version);
        }
        if version.has_presences() {
            for presence in &self.presences {
                put_head(&mut out, MESSAGE_PRESENCES, presence.encoded_length());
                presence.encode(&mut out);
            }
        }
        put_flag(&mut out, MESSAGE_PENDING_BYTES, self.pending(version));
        out
    }

    fn wants_for(&self, version: Version) -> impl Iterator<Item = &WantEntry> {
        let keep = move |entry: &&WantEntry| {
            version.has_presences() || entry.cancel || entry.kind == WantKind::Block
        };
        self.wants.iter().filter(keep)
    }

    fn wantlist_length(&self, version: Version) -> usize {
        let entries: usize = self
            .wants_for(version)
            .map(|entry| field_length(entry.encoded_length()))
            .sum();
        entries + flag_length(u64::from(self.full))
    }

    fn body_length(&self, version: Version, wantlist: usize) -> usize {
        let mut length = if wantlist > 0 {
            field_length(wantlist)
        } else {
            0
        };
        length += self
            .blocks
            .iter()
            .map(|block| field_length(block.encoded_length(version)))
            .sum::<usize>();
        if version.has_presences() {
            length += self
                .presences
                .iter()
                .map(|presence| field_length(presence.encoded_length()))
                .sum::<usize>();
        }
        length + flag_length(self.pending(version))
    }

    fn pending(&self, version: Version) -> u64 {
        if version.has_presences() {
            signed(self.pending_bytes)
        } else {
            0
        }
    }
}

impl WantEntry {
    fn encoded_length(&self) -> usize {
        field_length(self.cid.encoded_len())
            + flag_length(signed(self.priority))
            + flag_length(u64::from(self.cancel))
            + flag_length(self.kind_code())
            + flag_length(u64::from(self.send_dont_have))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_cid(out, ENTRY_CID, &self.cid);
        put_flag(out, ENTRY_PRIORITY, signed(self.priority));
        put_flag(out, ENTRY_CANCEL, u64::from(self.cancel));
        put_flag(out, ENTRY_KIND, self.kind_code());
        put_flag(out, ENTRY_SEND_DONT_HAVE, u64::from(self.send_dont_have));
    }

    fn kind_code(&self) -> u64 {
        match self.kind {
            WantKind::Block => 0,
            WantKind::Have => KIND_HAVE,
        }
    }
}

impl Payload {
    fn encoded_length(&self, version: Version) -> usize {
        if version.has_prefixes() {
            field_length(self.prefix.encoded_length()) + field_length(self.data.len())
        } else {
            self.data.len()
        }
    }

    fn encode(&self, out: &mut Vec<u8>, version: Version) {
        if !version.has_prefixes() {
            put_bytes(out, tag(MESSAGE_BLOCKS, WIRE_BYTES), &self.data);
            return;
        }
        put_head(out, MESSAGE_PAYLOAD, self.encoded_length(version));
        put_head(out, PAYLOAD_PREFIX, self.prefix.encoded_length());
        for field in self.prefix.fields() {
            put_varint(out, field);
        }
        put_bytes(out, tag(PAYLOAD_DATA, WIRE_BYTES), &self.data);
    }
}

impl Presence {
    fn encoded_length(&self) -> usize {
        field_length(self.cid.encoded_len()) + flag_length(self.kind_code())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_cid(out, PRESENCE_CID, &self.cid);
        put_flag(out, PRESENCE_KIND, self.kind_code());
    }

    fn kind_code(&self) -> u64 {
        if self.have { 0 } else { KIND_DONT_HAVE }
    }
}

fn decode_wantlist(message: &mut Message, bytes: &[u8]) -> Result<(), MessageError> {
    for field in Fields::new(bytes) {
        match field? {
            (WANTLIST_ENTRIES, value) => {
                let entry = decode_entry(value.bytes(WANTLIST_ENTRIES)?)?;
                push(&mut message.wants, entry)?;
            }
            (WANTLIST_FULL, value) => message.full = value.varint(WANTLIST_FULL)? != 0,
            _ => {}
        }
    }
    Ok(())
}

fn decode_entry(bytes: &[u8]) -> Result<WantEntry, MessageError> {
    let mut cid = None;
    let (mut priority, mut cancel, mut kind, mut send_dont_have) = (0, 0, 0, 0);
    for field in Fields::new(bytes) {
        match field? {
            (ENTRY_CID, value) => cid = Some(decode_cid(value)?),
            (ENTRY_PRIORITY, value) => priority = value.varint(ENTRY_PRIORITY)?,
            (ENTRY_CANCEL, value) => cancel = value.varint(ENTRY_CANCEL)?,
            (ENTRY_KIND, value) => kind = value.varint(ENTRY_KIND)?,
            (ENTRY_SEND_DONT_HAVE, value) => send_dont_have = value.varint(ENTRY_SEND_DONT_HAVE)?,
            _ => {}
        }
    }
    Ok(WantEntry {
        cid: cid.ok_or(MessageError::InvalidCid)?,
        priority: priority as i32,
        cancel: cancel != 0,
        kind: if kind == KIND_HAVE {
            WantKind::Have
        } else {
            WantKind::Block
        },
        send_dont_have: send_dont_have != 0,
    })
}

fn decode_payload(bytes: &[u8]) -> Result<(Prefix, &[u8]), MessageError> {
    let (mut prefix, mut data) = (None, &[][..]);
    for field in Fields::new(bytes) {
        match field? {
            (PAYLOAD_PREFIX, value) => {
                prefix = Some(Prefix::decode(value.bytes(PAYLOAD_PREFIX)?)?);
            }
            (PAYLOAD_DATA, value) => data = value.bytes(PAYLOAD_DATA)?,
            _ => {}
        }
    }
    Ok((prefix.ok_or(MessageError::InvalidPrefix)?, data))
}

fn decode_presence(bytes: &[u8]) -> Result<Presence, MessageError> {
    let (mut cid, mut kind) = (None, 0);
    for field in Fields::new(bytes) {
        match field? {
            (PRESENCE_CID, value) => cid = Some(decode_cid(value)?),
            (PRESENCE_KIND, value) => kind = value.varint(PRESENCE_KIND)?,
            _ => {}
        }
    }
    Ok(Presence {
        cid: cid.ok_or(MessageError::InvalidCid)?,
        have: kind != KIND_DONT_HAVE,
    })
}

fn decode_cid(value: Field<'_>) -> Result<Cid, MessageError> {
    let mut bytes = value.bytes(ENTRY_CID)?;
    let cid = Cid::read_bytes(&mut bytes).map_err(|_| MessageError::InvalidCid)?;
    if bytes.is_empty() {
        Ok(cid)
    } else {
        Err(MessageError::InvalidCid)
    }
}

fn push_block(message: &mut Message, prefix: Prefix, data: Bytes) -> Result<(), MessageError> {
    if data.len() > limits::MAX_BLOCK_BYTES {
        return Err(MessageError::BlockTooLarge { size: data.len() });
    }
    push(&mut message.blocks, Payload { prefix, data })
}

fn push<T>(entries: &mut Vec<T>, entry: T) -> Result<(), MessageError> {
    if entries.len() >= limits::MAX_MESSAGE_ENTRIES {
        return Err(MessageError::TooManyEntries);
    }
    entries.push(entry);
    Ok(())
}

const WIRE_VARINT: u64 = 0;
const WIRE_BYTES: u64 = 2;

/// All field numbers here are below 16, so that a tag is one byte.
const fn tag(number: u64, wire_type: u64) -> u8 {
    (number << 3 | wire_type) as u8
}

/// What a byte string of `length` takes with its tag and length.
fn field_length(length: usize) -> usize {
    1 + varint_length(length as u64) + length
}

fn put_head(out: &mut Vec<u8>, number: u64, length: usize) {
    out.push(tag(number, WIRE_BYTES));
    put_varint(out, length as u64);
}

fn put_cid(out: &mut Vec<u8>, number: u64, cid: &Cid) {
    put_head(out, number, cid.encoded_len());
    cid.write_bytes(out)
        .expect("writing to memory does not fail");
}

/// Protobuf leaves out zeros.
fn flag_length(value: u64) -> usize {
    if value == 0 {
        0
    } else {
        1 + varint_length(value)
    }
}

fn put_flag(out: &mut Vec<u8>, number: u64, value: u64) {
    if value != 0 {
        out.push(tag(number, WIRE_VARINT));
        put_varint(out, value);
    }
}

/// Protobuf extends the sign of an `int32` to 64 bits.
fn signed(value: i32) -> u64 {
    i64::from(value) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{self, RAW};
    use proptest::prelude::*;

    fn strip(encoded: &[u8]) -> Bytes {
        let mut fields = Fields::new(encoded);
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

    fn field(number: u64, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, tag(number, WIRE_BYTES), bytes);
        out
    }

    #[test]
    fn hostile_messages_are_refused() {
        let want = |bytes: &[u8]| field(MESSAGE_WANTLIST, &field(WANTLIST_ENTRIES, bytes));
        let cid = Cid::new_v1(RAW, block::sha2_256(&[])).to_bytes();
        let payload = |prefix: &[u8]| field(MESSAGE_PAYLOAD, &field(PAYLOAD_PREFIX, prefix));
        let cases: [(&str, Vec<u8>, MessageError); 9] = [
            ("want without CID", want(&[]), MessageError::InvalidCid),
            (
                "garbage CID",
                want(&field(ENTRY_CID, b"\x01\x55\x12\x20x")),
                MessageError::InvalidCid,
            ),
            (
                "CID with a tail",
                want(&field(ENTRY_CID, &[&cid[..], b"x"].concat())),
                MessageError::InvalidCid,
            ),
            (
                "presence without CID",
                field(MESSAGE_PRESENCES, &[]),
                MessageError::InvalidCid,
            ),
            (
                "payload without prefix",
                field(MESSAGE_PAYLOAD, &[]),
                MessageError::InvalidPrefix,
            ),
            (
                "prefix with a tail",
                payload(b"\x01\x55\x12\x20\x00"),
                MessageError::InvalidPrefix,
            ),
            (
                "CIDv0 prefix of raw bytes",
                payload(b"\x00\x55\x12\x20"),
                MessageError::InvalidPrefix,
            ),
            (
                "block over the limit",
                field(MESSAGE_BLOCKS, &vec![0; limits::MAX_BLOCK_BYTES + 1]),
                MessageError::BlockTooLarge {
                    size: limits::MAX_BLOCK_BYTES + 1,
                },
            ),
            (
                "too many blocks",
                field(MESSAGE_BLOCKS, &[]).repeat(limits::MAX_MESSAGE_ENTRIES + 1),
                MessageError::TooManyEntries,
            ),
        ];
        for (name, bytes, error) in cases {
            assert_eq!(Message::decode(&bytes.into()), Err(error), "{name}");
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
