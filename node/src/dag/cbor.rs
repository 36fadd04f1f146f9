//! The links in a dag-cbor block, as of the [dag-cbor specification].
//!
//! Only the structure is followed, with an explicit stack of what is still to come, so that no
//! nesting can exhaust the thread's stack. Values are skipped unread.
//!
//! [dag-cbor specification]: https://ipld.io/specs/codecs/dag-cbor/spec/

use crate::block::Cid;

/// The one tag that dag-cbor allows: a CID follows.
const CID_TAG: u64 = 42;

/// Deepest nesting of arrays and maps.
const MAX_NESTING: usize = 1024;

/// Why bytes are no dag-cbor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CborError {
    /// The bytes end inside an item.
    #[error("the data ends inside an item")]
    Truncated,
    /// Bytes follow the item.
    #[error("data follows the outermost item")]
    Trailing,
    /// An item that the format does not have: an indefinite length, another tag, a reserved form.
    #[error("the item at byte {offset} is not allowed")]
    Forbidden {
        /// Where it starts.
        offset: usize,
    },
    /// A tag 42 without a CID behind it.
    #[error("the link at byte {offset} is no CID")]
    InvalidLink {
        /// Where it starts.
        offset: usize,
    },
    /// Arrays and maps are nested too deeply.
    #[error("arrays and maps are nested more than {MAX_NESTING} deep")]
    TooDeep,
}

/// All links of the block, in order.
pub(super) fn links(block: &[u8]) -> Result<Vec<Cid>, CborError> {
    let mut reader = Reader { block, offset: 0 };
    let links = reader.whole_item()?;
    if reader.offset == block.len() {
        Ok(links)
    } else {
        Err(CborError::Trailing)
    }
}

/// Checks that `block` is one well-formed item.
pub(crate) fn check(block: &[u8]) -> Result<(), CborError> {
    links(block).map(drop)
}

/// Passes over the next item, with all that is nested in it.
pub(crate) fn skip(bytes: &mut &[u8]) -> Result<(), CborError> {
    let mut reader = Reader {
        block: bytes,
        offset: 0,
    };
    reader.whole_item()?;
    *bytes = &bytes[reader.offset..];
    Ok(())
}

/// Reads the head of an item: its major type and argument.
pub(crate) fn head(bytes: &mut &[u8]) -> Result<(u8, u64), CborError> {
    let mut reader = Reader {
        block: bytes,
        offset: 0,
    };
    let head = reader.head()?;
    *bytes = &bytes[reader.offset..];
    Ok(head)
}

/// Reads an item that is a link.
pub(crate) fn link(bytes: &mut &[u8]) -> Result<Cid, CborError> {
    let mut reader = Reader {
        block: bytes,
        offset: 0,
    };
    let (6, CID_TAG) = reader.head()? else {
        return Err(CborError::InvalidLink { offset: 0 });
    };
    let cid = reader.link(0)?;
    *bytes = &bytes[reader.offset..];
    Ok(cid)
}

struct Reader<'a> {
    block: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Reads an item with all that is nested in it; gives the links.
    fn whole_item(&mut self) -> Result<Vec<Cid>, CborError> {
        let mut links = Vec::new();
        // How many items are still to come at each level.
        let mut open = vec![1u64];
        while let Some(left) = open.last_mut() {
            if *left == 0 {
                open.pop();
                continue;
            }
            *left -= 1;
            if let Some(below) = self.item(&mut links)? {
                if open.len() >= MAX_NESTING {
                    return Err(CborError::TooDeep);
                }
                open.push(below);
            }
        }
        Ok(links)
    }

    /// Reads the head of an item and skips its content; tells how many items are nested in it.
    fn item(&mut self, links: &mut Vec<Cid>) -> Result<Option<u64>, CborError> {
        let start = self.offset;
        let forbidden = CborError::Forbidden { offset: start };
        let (major, argument) = self.head()?;
        match major {
            // Numbers, and simple values with floats, are all head.
            0 | 1 | 7 => Ok(None),
            2 | 3 => self.take(argument).map(|_| None),
            4 => Ok(Some(argument)),
            5 => argument.checked_mul(2).map(Some).ok_or(forbidden),
            6 if argument == CID_TAG => {
                links.push(self.link(start)?);
                Ok(None)
            }
            _ => Err(forbidden),
        }
    }

    fn link(&mut self, start: usize) -> Result<Cid, CborError> {
        let invalid = CborError::InvalidLink { offset: start };
        let (2, length) = self.head()? else {
            return Err(invalid);
        };
        // The multibase prefix of binary comes first.
        let [0, bytes @ ..] = self.take(length)? else {
            return Err(invalid);
        };
        Cid::try_from(bytes).map_err(|_| invalid)
    }

    /// Major type and argument of the next item.
    fn head(&mut self) -> Result<(u8, u64), CborError> {
        let start = self.offset;
        let first = self.take(1)?[0];
        let argument = match first & 0x1f {
            small @ 0..=23 => u64::from(small),
            width @ 24..=27 => {
                let bytes = self.take(1 << (width - 24))?;
                bytes
                    .iter()
                    .fold(0, |value, byte| value << 8 | u64::from(*byte))
            }
            _ => return Err(CborError::Forbidden { offset: start }),
        };
        Ok((first >> 5, argument))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], CborError> {
        let length = usize::try_from(length).map_err(|_| CborError::Truncated)?;
        let (taken, _) = self.block[self.offset..]
            .split_at_checked(length)
            .ok_or(CborError::Truncated)?;
        self.offset += length;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{RAW, sha2_256};
    use crate::limits;
    use proptest::prelude::*;

    fn link(cid: &Cid) -> Vec<u8> {
        let bytes = cid.to_bytes();
        [&[0xd8, 42, 0x58, bytes.len() as u8 + 1, 0][..], &bytes].concat()
    }

    #[test]
    fn links_are_found_in_order() {
        let [a, b] = [b"a", b"b"].map(|data| Cid::new_v1(RAW, sha2_256(&[data])));
        // {"x": [a, 1.5], "y": b}
        let block = [
            b"\xa2\x61x\x82",
            &link(&a)[..],
            b"\xf9\x3e\x00\x61y",
            &link(&b),
        ]
        .concat();
        assert_eq!(links(&block), Ok(vec![a, b]));
    }

    #[test]
    fn malformed_blocks_are_refused() {
        let cases: [(&[u8], CborError); 8] = [
            (b"", CborError::Truncated),
            (b"\x82\x01", CborError::Truncated),
            (b"\x01\x01", CborError::Trailing),
            (b"\x9f\xff", CborError::Forbidden { offset: 0 }),
            (b"\xc1\x01", CborError::Forbidden { offset: 0 }),
            (b"\xd8\x2a\x41\x00", CborError::InvalidLink { offset: 0 }),
            (b"\xd8\x2a\x01", CborError::InvalidLink { offset: 0 }),
            (
                b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff",
                CborError::Truncated,
            ),
        ];
        for (block, error) in cases {
            assert_eq!(links(block), Err(error), "{block:x?}");
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        assert_eq!(
            links(&vec![0x81; limits::MAX_BLOCK_BYTES]),
            Err(CborError::TooDeep)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled(bytes: Vec<u8>) {
            let _ = links(&bytes);
        }
    }
}
