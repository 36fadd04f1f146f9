//! The UnixFS message inside a dag-pb node.
//!
//! Decoding is lenient where the specification is (unknown fields, packed or unpacked block
//! sizes); encoding writes the bytes that Kubo writes.

use crate::dag::{Field, Fields, ProtobufError, put_bytes, put_varint, varint_length};

const TYPE: u64 = 1;
const DATA: u64 = 2;
const FILE_SIZE: u64 = 3;
const BLOCK_SIZES: u64 = 4;
const HASH_TYPE: u64 = 5;
const FANOUT: u64 = 6;
const MODE: u64 = 7;
const MTIME: u64 = 8;
const MTIME_SECONDS: u64 = 1;
const MTIME_NANOSECONDS: u64 = 2;

const TAG_TYPE: u8 = 0x08;
const TAG_DATA: u8 = 0x12;
const TAG_FILE_SIZE: u8 = 0x18;
const TAG_BLOCK_SIZE: u8 = 0x20;
const TAG_HASH_TYPE: u8 = 0x28;
const TAG_FANOUT: u8 = 0x30;
const TAG_MODE: u8 = 0x38;
const TAG_MTIME: u8 = 0x42;
const TAG_MTIME_SECONDS: u8 = 0x08;
const TAG_MTIME_NANOSECONDS: u8 = 0x15;

/// The tag of the data field of a dag-pb node.
const TAG_NODE_DATA: u8 = 0x0a;

/// Multicodec of the only hash that HAMT directories use.
pub(super) const MURMUR3_X64_64: u64 = 0x22;

/// Permission, set-id and sticky bits: what a mode may hold.
pub(super) const MODE_BITS: u32 = 0o7777;

const NANOSECONDS_A_SECOND: u32 = 1_000_000_000;

/// Why bytes are no UnixFS message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidData(pub(super) &'static str);

impl From<ProtobufError> for InvalidData {
    fn from(_: ProtobufError) -> InvalidData {
        InvalidData("its data is no protobuf message")
    }
}

/// Type of a node, with the number that stands in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataType {
    Raw = 0,
    Directory = 1,
    File = 2,
    Symlink = 4,
    HamtShard = 5,
}

/// A point in time. Before 1970 the seconds are negative; nanoseconds always count forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mtime {
    /// Since 1970-01-01 00:00 UTC.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// What a node may record beside its content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits, 12 of them. Never set on a symbolic link.
    pub mode: Option<u32>,
    /// Time of the last change.
    pub mtime: Option<Mtime>,
}

/// A decoded message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Data<'a> {
    pub(super) kind: DataType,
    pub(super) data: Option<&'a [u8]>,
    pub(super) file_size: Option<u64>,
    pub(super) block_sizes: Vec<u64>,
    pub(super) hash_type: Option<u64>,
    pub(super) fanout: Option<u64>,
    pub(super) metadata: Metadata,
}

/// Reads a message. The last of a repeated single field counts, as in every protobuf reader.
pub(super) fn decode(message: &[u8]) -> Result<Data<'_>, InvalidData> {
    let mut kind = None;
    let mut data = Data {
        kind: DataType::Raw,
        data: None,
        file_size: None,
        block_sizes: Vec::new(),
        hash_type: None,
        fanout: None,
        metadata: Metadata::default(),
    };
    for field in Fields::new(message) {
        match field? {
            (TYPE, value) => kind = Some(data_type(value.varint(TYPE)?)?),
            (DATA, value) => data.data = Some(value.bytes(DATA)?),
            (FILE_SIZE, value) => data.file_size = Some(value.varint(FILE_SIZE)?),
            (BLOCK_SIZES, Field::Varint(size)) => data.block_sizes.push(size),
            (BLOCK_SIZES, packed) => {
                let mut sizes = Fields::new(packed.bytes(BLOCK_SIZES)?);
                while !sizes.is_empty() {
                    data.block_sizes.push(sizes.read_varint()?);
                }
            }
            (HASH_TYPE, value) => data.hash_type = Some(value.varint(HASH_TYPE)?),
            (FANOUT, value) => data.fanout = Some(value.varint(FANOUT)?),
            (MODE, value) => data.metadata.mode = Some(value.varint(MODE)? as u32 & MODE_BITS),
            (MTIME, value) => data.metadata.mtime = Some(decode_mtime(value.bytes(MTIME)?)?),
            _ => {}
        }
    }
    data.kind = kind.ok_or(InvalidData("its data has no type"))?;
    Ok(data)
}

fn data_type(number: u64) -> Result<DataType, InvalidData> {
    Ok(match number {
        0 => DataType::Raw,
        1 => DataType::Directory,
        2 => DataType::File,
        4 => DataType::Symlink,
        5 => DataType::HamtShard,
        _ => return Err(InvalidData("it has a type that is not supported")),
    })
}

fn decode_mtime(message: &[u8]) -> Result<Mtime, InvalidData> {
    let mut seconds = None;
    let mut nanoseconds = 0;
    for field in Fields::new(message) {
        match field? {
            (MTIME_SECONDS, value) => seconds = Some(value.varint(MTIME_SECONDS)? as i64),
            (MTIME_NANOSECONDS, value) => nanoseconds = value.fixed32(MTIME_NANOSECONDS)?,
            _ => {}
        }
    }
    let seconds = seconds.ok_or(InvalidData("its mtime has no seconds"))?;
    if nanoseconds >= NANOSECONDS_A_SECOND {
        return Err(InvalidData("its mtime has too many nanoseconds"));
    }
    Ok(Mtime {
        seconds,
        nanoseconds,
    })
}

fn put_number(out: &mut Vec<u8>, tag: u8, value: u64) {
    out.push(tag);
    put_varint(out, value);
}

fn put_metadata(out: &mut Vec<u8>, metadata: &Metadata) {
    if let Some(mode) = metadata.mode {
        put_number(out, TAG_MODE, u64::from(mode & MODE_BITS));
    }
    if let Some(mtime) = metadata.mtime {
        let mut message = Vec::with_capacity(16);
        put_number(&mut message, TAG_MTIME_SECONDS, mtime.seconds as u64);
        if mtime.nanoseconds > 0 {
            message.push(TAG_MTIME_NANOSECONDS);
            message.extend_from_slice(&mtime.nanoseconds.to_le_bytes());
        }
        put_bytes(out, TAG_MTIME, &message);
    }
}

/// The message of a directory of one block.
pub(super) fn directory(metadata: &Metadata) -> Vec<u8> {
    let mut message = vec![TAG_TYPE, DataType::Directory as u8];
    put_metadata(&mut message, metadata);
    message
}

/// The message of a symbolic link. Its mode is never recorded.
pub(super) fn symlink(target: &[u8], mtime: Option<Mtime>) -> Vec<u8> {
    let mut message = vec![TAG_TYPE, DataType::Symlink as u8];
    put_bytes(&mut message, TAG_DATA, target);
    put_metadata(&mut message, &Metadata { mode: None, mtime });
    message
}

/// The message of a file node above others.
pub(super) fn branch(
    block_sizes: impl Iterator<Item = u64> + Clone,
    metadata: &Metadata,
) -> Vec<u8> {
    let mut message = vec![TAG_TYPE, DataType::File as u8];
    put_number(&mut message, TAG_FILE_SIZE, block_sizes.clone().sum());
    for size in block_sizes {
        put_number(&mut message, TAG_BLOCK_SIZE, size);
    }
    put_metadata(&mut message, metadata);
    message
}

/// The message of a HAMT shard.
pub(super) fn shard(bitfield: &[u8], fanout: u64, metadata: &Metadata) -> Vec<u8> {
    let mut message = vec![TAG_TYPE, DataType::HamtShard as u8];
    put_bytes(&mut message, TAG_DATA, bitfield);
    put_number(&mut message, TAG_HASH_TYPE, MURMUR3_X64_64);
    put_number(&mut message, TAG_FANOUT, fanout);
    put_metadata(&mut message, metadata);
    message
}

/// The bytes around the content of a dag-pb leaf, so that a block can be made in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeafFrame {
    /// What stands before the content.
    pub(super) prefix: Vec<u8>,
    /// What stands behind it.
    pub(super) suffix: Vec<u8>,
}

/// No frame has a longer prefix: three tags, a type and two lengths.
pub(super) const MAX_LEAF_PREFIX_BYTES: usize = 4 + 2 * 10;

/// No frame has a longer suffix: a size, a mode and a time.
pub(super) const MAX_LEAF_SUFFIX_BYTES: usize = 11 + 4 + 18;

/// The frame of a dag-pb leaf with `length` bytes of content.
pub(super) fn leaf_frame(length: usize, metadata: &Metadata) -> LeafFrame {
    let mut suffix = Vec::with_capacity(MAX_LEAF_SUFFIX_BYTES);
    put_number(&mut suffix, TAG_FILE_SIZE, length as u64);
    put_metadata(&mut suffix, metadata);
    // An empty file has no data field.
    let field = if length == 0 {
        0
    } else {
        1 + varint_length(length as u64) + length
    };
    let mut prefix = Vec::with_capacity(MAX_LEAF_PREFIX_BYTES);
    prefix.push(TAG_NODE_DATA);
    put_varint(&mut prefix, (2 + field + suffix.len()) as u64);
    prefix.extend_from_slice(&[TAG_TYPE, DataType::File as u8]);
    if length > 0 {
        put_number(&mut prefix, TAG_DATA, length as u64);
    }
    LeafFrame { prefix, suffix }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn packed_block_sizes_are_read() {
        let message = [0x08, 0x02, 0x22, 0x03, 0x01, 0x80, 0x02];
        assert_eq!(decode(&message).unwrap().block_sizes, [1, 256]);
    }

    #[test]
    fn an_empty_file_has_four_bytes() {
        let frame = leaf_frame(0, &Metadata::default());
        assert_eq!(
            [frame.prefix, frame.suffix].concat(),
            [0x0a, 4, 8, 2, 0x18, 0]
        );
    }

    proptest! {
        #[test]
        fn metadata_round_trips(mode in 0u32..=MODE_BITS, seconds: i64, nanoseconds in 0u32..NANOSECONDS_A_SECOND) {
            let metadata = Metadata { mode: Some(mode), mtime: Some(Mtime { seconds, nanoseconds }) };
            prop_assert_eq!(decode(&directory(&metadata)).unwrap().metadata, metadata);
            let frame = leaf_frame(7, &metadata);
            prop_assert!(frame.suffix.len() <= MAX_LEAF_SUFFIX_BYTES);
        }

        #[test]
        fn any_bytes_are_handled(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
