//! Reading of messages.

use bytes::Bytes;
use cid::Version as CidVersion;

use super::fields::*;
use super::{Message, MessageError, Payload, Prefix, Presence, WantEntry, WantKind};
use crate::block::{Cid, DAG_PB, SHA2_256};
use crate::dag::{Field, Fields};
use crate::limits;

/// The prefix of every block of bitswap 1.0.
pub(super) const LEGACY_PREFIX: Prefix = Prefix {
    version: CidVersion::V0,
    codec: DAG_PB,
    hash_code: SHA2_256,
    digest_length: 32,
};

impl Message {
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
}

impl Prefix {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{self, RAW};
    use crate::dag::put_bytes;

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
}
