//! The header of a CARv1: a dag-cbor map of a version and roots.

use crate::block::Cid;
use crate::dag::{cbor_head, cbor_link};

/// Why bytes are no CAR header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The header is not the map that the format asks for.
    #[error("its header is not a map of `roots` and `version`")]
    Malformed,
    /// The header is longer than any sensible one.
    #[error("its header is too long")]
    TooLong,
    /// The version is not 1 or 2, or the one inside a version 2 is not 1.
    #[error("its version {version} is not supported")]
    Version {
        /// The version found.
        version: u64,
    },
    /// The offsets of a version 2 do not fit each other.
    #[error("its version 2 header has impossible offsets")]
    Offsets,
}

/// What a CARv1 header tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u64,
    pub(super) roots: Vec<Cid>,
}

impl Header {
    /// Reads a header without its length. A version 2 has no roots here.
    pub(super) fn decode(mut bytes: &[u8]) -> Result<Header, HeaderError> {
        let mut version = None;
        let mut roots = Vec::new();
        let rest = &mut bytes;
        let (MAP, entries @ ..=2) = head(rest)? else {
            return Err(HeaderError::Malformed);
        };
        for _ in 0..entries {
            let (TEXT, length) = head(rest)? else {
                return Err(HeaderError::Malformed);
            };
            let length = usize::try_from(length).map_err(|_| HeaderError::Malformed)?;
            let (key, tail) = rest
                .split_at_checked(length)
                .ok_or(HeaderError::Malformed)?;
            *rest = tail;
            match key {
                b"version" => {
                    let (UNSIGNED, number) = head(rest)? else {
                        return Err(HeaderError::Malformed);
                    };
                    version = Some(number);
                }
                b"roots" => roots = decode_roots(rest)?,
                _ => return Err(HeaderError::Malformed),
            }
        }
        let version = version
            .filter(|_| rest.is_empty())
            .ok_or(HeaderError::Malformed)?;
        Ok(Header { version, roots })
    }

    /// Writes a version 1 header with its length.
    pub(super) fn encode(roots: &[Cid]) -> Vec<u8> {
        let mut body = vec![0xa2, 0x65];
        body.extend_from_slice(b"roots");
        put_head(&mut body, ARRAY, roots.len() as u64);
        for root in roots {
            let cid = root.to_bytes();
            body.extend_from_slice(&[0xd8, 42]);
            put_head(&mut body, BYTES, cid.len() as u64 + 1);
            body.push(0);
            body.extend_from_slice(&cid);
        }
        body.push(0x67);
        body.extend_from_slice(b"version\x01");
        let mut header = Vec::with_capacity(body.len() + 3);
        crate::dag::put_varint(&mut header, body.len() as u64);
        header.extend_from_slice(&body);
        header
    }
}

const UNSIGNED: u8 = 0;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;

fn head(bytes: &mut &[u8]) -> Result<(u8, u64), HeaderError> {
    cbor_head(bytes).map_err(|_| HeaderError::Malformed)
}

fn decode_roots(bytes: &mut &[u8]) -> Result<Vec<Cid>, HeaderError> {
    let (ARRAY, count) = head(bytes)? else {
        return Err(HeaderError::Malformed);
    };
    // Not allocated ahead: the count is only a claim.
    let mut roots = Vec::new();
    for _ in 0..count {
        roots.push(cbor_link(bytes).map_err(|_| HeaderError::Malformed)?);
    }
    Ok(roots)
}

fn put_head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let major = major << 5;
    match argument {
        0..=23 => out.push(major | argument as u8),
        24..=0xff => out.extend_from_slice(&[major | 24, argument as u8]),
        0x100..=0xffff => {
            out.push(major | 25);
            out.extend_from_slice(&(argument as u16).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&argument.to_be_bytes());
        }
    }
}
