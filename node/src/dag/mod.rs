//! DAGs: the links of a block to other blocks, and bounded walks along those links.
//!
//! This module knows codecs, not files: dag-pb and dag-cbor have links, raw bytes, CBOR and JSON
//! have none, and a block of any other codec cannot be walked.

pub(crate) mod cbor;
mod protobuf;
mod walk;

pub mod pb;

pub use cbor::CborError;
pub(crate) use cbor::{head as cbor_head, link as cbor_link};
pub(crate) use protobuf::{Field, Fields, ProtobufError, put_bytes, put_varint, varint_length};
pub(crate) use walk::{Seen, walk_unseen};
pub use walk::{Visit, first_missing, walk};

use crate::block::{BlockError, Cid, DAG_CBOR, DAG_PB, LIBP2P_KEY, RAW};
use crate::limits;

/// What stands before the data of a block in a CAR file: the length of what follows, and the CID.
pub(crate) fn section_header(cid: &Cid, data_length: usize) -> Vec<u8> {
    let cid = cid.to_bytes();
    let mut header = Vec::with_capacity(cid.len() + 4);
    put_varint(&mut header, (cid.len() + data_length) as u64);
    header.extend_from_slice(&cid);
    header
}

/// Multicodecs of data that is addressed by a CID and never links.
const LINKLESS: [u64; 4] = [RAW, CBOR, JSON, LIBP2P_KEY];
const CBOR: u64 = 0x51;
const JSON: u64 = 0x0200;

/// Why a DAG cannot be walked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DagError {
    /// A block could not be had.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The block is no well-formed dag-pb.
    #[error("block {cid} is not valid dag-pb")]
    InvalidPb {
        /// The block.
        cid: Cid,
        /// What is wrong.
        #[source]
        source: pb::PbError,
    },
    /// The block is no well-formed dag-cbor.
    #[error("block {cid} is not valid dag-cbor")]
    InvalidCbor {
        /// The block.
        cid: Cid,
        /// What is wrong.
        #[source]
        source: cbor::CborError,
    },
    /// The block has a codec whose links are not known.
    #[error("block {cid} has codec 0x{codec:x}, whose links cannot be followed")]
    UnsupportedCodec {
        /// The block.
        cid: Cid,
        /// Its multicodec.
        codec: u64,
    },
    /// The path from the root to a block is too long.
    #[error(
        "the DAG below {root} is more than {} blocks deep",
        limits::MAX_DAG_DEPTH
    )]
    TooDeep {
        /// The root.
        root: Cid,
    },
}

/// The CIDs that the block links to, in order, repeated ones repeated.
///
/// # Errors
/// Where the data does not fit the codec of `cid`, or the codec is not known.
pub fn links(cid: &Cid, data: &[u8]) -> Result<Vec<Cid>, DagError> {
    match cid.codec() {
        DAG_PB => {
            let node =
                pb::decode(data).map_err(|source| DagError::InvalidPb { cid: *cid, source })?;
            Ok(node.links.iter().map(|link| link.cid).collect())
        }
        DAG_CBOR => cbor::links(data).map_err(|source| DagError::InvalidCbor { cid: *cid, source }),
        codec if LINKLESS.contains(&codec) => Ok(Vec::new()),
        codec => Err(DagError::UnsupportedCodec { cid: *cid, codec }),
    }
}
