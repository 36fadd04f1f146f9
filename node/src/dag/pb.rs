//! dag-pb: nodes of links and data, as of the [dag-pb specification].
//!
//! Decoding borrows from the block. Data before or after the links is accepted, since both exist;
//! encoding writes the canonical order, links first.
//!
//! [dag-pb specification]: https://ipld.io/specs/codecs/dag-pb/spec/

use crate::block::Cid;

use super::protobuf::{Field, Fields, ProtobufError, put_bytes, put_varint, varint_length};

const NODE_DATA: u64 = 1;
const NODE_LINK: u64 = 2;
const LINK_HASH: u64 = 1;
const LINK_NAME: u64 = 2;
const LINK_TSIZE: u64 = 3;

const TAG_NODE_DATA: u8 = 0x0a;
const TAG_NODE_LINK: u8 = 0x12;
const TAG_LINK_HASH: u8 = 0x0a;
const TAG_LINK_NAME: u8 = 0x12;
const TAG_LINK_TSIZE: u8 = 0x18;

/// Why bytes are no dag-pb node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PbError {
    /// The bytes are no protobuf message.
    #[error(transparent)]
    Protobuf(#[from] ProtobufError),
    /// A link has no CID or one that does not parse.
    #[error("link {index} has no valid CID")]
    InvalidLink {
        /// Position of the link, from 0.
        index: usize,
    },
    /// A field that the format does not have, or one that stands twice.
    #[error("field {number} is not allowed there")]
    UnexpectedField {
        /// Number of the field.
        number: u64,
    },
}

/// A decoded link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PbLink<'a> {
    /// What it points to.
    pub cid: Cid,
    /// Its name; empty where the link has none.
    pub name: &'a [u8],
    /// Bytes of all blocks below, as the writer of the link says; 0 where it does not say.
    pub size: u64,
}

/// A decoded node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PbNode<'a> {
    /// The links in order.
    pub links: Vec<PbLink<'a>>,
    /// The data, if there is any.
    pub data: Option<&'a [u8]>,
}

/// Reads a node.
///
/// # Errors
/// [`PbError`] for anything that no writer of dag-pb makes.
pub fn decode(block: &[u8]) -> Result<PbNode<'_>, PbError> {
    let mut node = PbNode::default();
    for field in Fields::new(block) {
        match field? {
            (NODE_DATA, value) if node.data.is_none() => node.data = Some(value.bytes(NODE_DATA)?),
            (NODE_LINK, value) => {
                let link = decode_link(value.bytes(NODE_LINK)?, node.links.len())?;
                node.links.push(link);
            }
            (number, _) => return Err(PbError::UnexpectedField { number }),
        }
    }
    Ok(node)
}

fn decode_link(message: &[u8], index: usize) -> Result<PbLink<'_>, PbError> {
    let invalid = || PbError::InvalidLink { index };
    let mut cid = None;
    let mut name: Option<&[u8]> = None;
    let mut size = None;
    for field in Fields::new(message) {
        match field? {
            (LINK_HASH, Field::Bytes(bytes)) if cid.is_none() => {
                cid = Some(exact_cid(bytes).ok_or_else(invalid)?)
            }
            (LINK_NAME, Field::Bytes(bytes)) if name.is_none() => name = Some(bytes),
            (LINK_TSIZE, Field::Varint(value)) if size.is_none() => size = Some(value),
            (number, _) => return Err(PbError::UnexpectedField { number }),
        }
    }
    Ok(PbLink {
        cid: cid.ok_or_else(invalid)?,
        name: name.unwrap_or_default(),
        size: size.unwrap_or(0),
    })
}

/// Parses a binary CID that fills `bytes`.
fn exact_cid(mut bytes: &[u8]) -> Option<Cid> {
    let cid = Cid::read_bytes(&mut bytes).ok()?;
    bytes.is_empty().then_some(cid)
}

/// A node being written, link by link. The finished block is exactly [`PbWriter::encoded_length`]
/// bytes long.
#[derive(Clone, Debug, Default)]
pub struct PbWriter {
    block: Vec<u8>,
    links: usize,
}

impl PbWriter {
    /// Appends a link.
    pub fn link(&mut self, cid: &Cid, name: &[u8], size: u64) {
        let hash = cid.to_bytes();
        self.block.push(TAG_NODE_LINK);
        put_varint(
            &mut self.block,
            link_length(hash.len(), name.len(), size) as u64,
        );
        put_bytes(&mut self.block, TAG_LINK_HASH, &hash);
        put_bytes(&mut self.block, TAG_LINK_NAME, name);
        self.block.push(TAG_LINK_TSIZE);
        put_varint(&mut self.block, size);
        self.links += 1;
    }

    /// How many links were written.
    pub fn links(&self) -> usize {
        self.links
    }

    /// Bytes of the block if it was finished with `data_length` bytes of data.
    pub fn encoded_length(&self, data_length: usize) -> usize {
        self.block.len() + 1 + varint_length(data_length as u64) + data_length
    }

    /// Writes the data and gives the block.
    pub fn finish(mut self, data: &[u8]) -> Vec<u8> {
        put_bytes(&mut self.block, TAG_NODE_DATA, data);
        self.block
    }
}

fn link_length(hash: usize, name: usize, size: u64) -> usize {
    let field = |length: usize| 1 + varint_length(length as u64) + length;
    field(hash) + field(name) + 1 + varint_length(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some_cid(seed: u8) -> Cid {
        Cid::new_v1(0x55, crate::block::sha2_256(&[&[seed]]))
    }

    #[test]
    fn both_orders_are_read() {
        let mut links = PbWriter::default();
        links.link(&some_cid(1), b"a", 7);
        let canonical = links.finish(b"data");
        let data_first = [
            &canonical[canonical.len() - 6..],
            &canonical[..canonical.len() - 6],
        ]
        .concat();
        let wanted = decode(&canonical).unwrap();
        assert_eq!(wanted.data, Some(&b"data"[..]));
        assert_eq!(decode(&data_first).unwrap(), wanted);
    }

    #[test]
    fn hostile_links_are_refused() {
        let cid = some_cid(1).to_bytes();
        let link = |body: &[u8]| {
            let mut node = Vec::new();
            put_bytes(&mut node, TAG_NODE_LINK, body);
            node
        };
        let field = |tag, bytes: &[u8]| {
            let mut out = Vec::new();
            put_bytes(&mut out, tag, bytes);
            out
        };
        let cases: [(&str, Vec<u8>); 5] = [
            ("no CID", link(&field(TAG_LINK_NAME, b"a"))),
            ("garbage CID", link(&field(TAG_LINK_HASH, b"\x12\x20short"))),
            (
                "CID with a tail",
                link(&field(TAG_LINK_HASH, &[&cid[..], b"x"].concat())),
            ),
            (
                "two CIDs",
                link(&[field(TAG_LINK_HASH, &cid), field(TAG_LINK_HASH, &cid)].concat()),
            ),
            (
                "unknown field",
                link(&[field(TAG_LINK_HASH, &cid), field(0x22, b"")].concat()),
            ),
        ];
        for (name, block) in cases {
            assert!(decode(&block).is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(names in proptest::collection::vec(".{0,20}", 0..20), data: Vec<u8>, size: u64) {
            let mut writer = PbWriter::default();
            for (index, name) in names.iter().enumerate() {
                writer.link(&some_cid(index as u8), name.as_bytes(), size);
            }
            let length = writer.encoded_length(data.len());
            let block = writer.finish(&data);
            prop_assert_eq!(block.len(), length);
            let node = decode(&block).unwrap();
            prop_assert_eq!(node.data, Some(&data[..]));
            prop_assert_eq!(node.links.len(), names.len());
            for (index, (link, name)) in node.links.iter().zip(&names).enumerate() {
                prop_assert_eq!(link, &PbLink { cid: some_cid(index as u8), name: name.as_bytes(), size });
            }
        }

        #[test]
        fn any_bytes_are_handled(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
