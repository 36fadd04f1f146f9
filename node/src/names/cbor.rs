//! The signed data of a record: a dag-cbor map with five known entries, as of the [IPNS record
//! specification]. Further entries are allowed, and skipped.
//!
//! [IPNS record specification]: https://specs.ipfs.tech/ipns/ipns-record/#record-serialization-format

use crate::dag::CborError;
use crate::dag::cbor;

const BYTES: u8 = 2;
const TEXT: u8 = 3;
const MAP: u8 = 5;

/// The entries of the data that this program knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Data {
    pub(super) value: Vec<u8>,
    pub(super) validity: Vec<u8>,
    pub(super) validity_type: u64,
    pub(super) sequence: u64,
    /// In nanoseconds.
    pub(super) ttl: u64,
}

/// Why bytes are no data of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The bytes are no dag-cbor.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// The bytes are something else than a map.
    #[error("the data is no map with text keys")]
    NoMap,
    /// An entry is missing.
    #[error("the data has no entry `{0}`")]
    Missing(&'static str),
    /// An entry has another type than it must have. A negative number is one.
    #[error("the entry `{0}` of the data has the wrong type")]
    Type(&'static str),
    /// An entry is there twice.
    #[error("the data has the entry `{0}` twice")]
    Twice(&'static str),
}

impl Data {
    /// The map, with its keys in the order that dag-cbor demands: shorter keys first.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![MAP << 5 | 5];
        put_text(&mut out, "TTL");
        put_head(&mut out, 0, self.ttl);
        put_text(&mut out, "Value");
        put_bytes(&mut out, &self.value);
        put_text(&mut out, "Sequence");
        put_head(&mut out, 0, self.sequence);
        put_text(&mut out, "Validity");
        put_bytes(&mut out, &self.validity);
        put_text(&mut out, "ValidityType");
        put_head(&mut out, 0, self.validity_type);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Data, DataError> {
        // Checks the structure as a whole: what is skipped below is well-formed.
        cbor::check(bytes)?;
        let mut rest = bytes;
        let (MAP, count) = cbor::head(&mut rest)? else {
            return Err(DataError::NoMap);
        };
        let mut entries = Entries::default();
        for _ in 0..count {
            let (TEXT, length) = cbor::head(&mut rest)? else {
                return Err(DataError::NoMap);
            };
            let key = take(&mut rest, length)?;
            match key {
                b"Value" => set_bytes(&mut entries.value, "Value", &mut rest)?,
                b"Validity" => set_bytes(&mut entries.validity, "Validity", &mut rest)?,
                b"ValidityType" => set(&mut entries.validity_type, "ValidityType", &mut rest)?,
                b"Sequence" => set(&mut entries.sequence, "Sequence", &mut rest)?,
                b"TTL" => set(&mut entries.ttl, "TTL", &mut rest)?,
                _ => cbor::skip(&mut rest)?,
            }
        }
        Ok(Data {
            value: entries.value.ok_or(DataError::Missing("Value"))?,
            validity: entries.validity.ok_or(DataError::Missing("Validity"))?,
            validity_type: entries
                .validity_type
                .ok_or(DataError::Missing("ValidityType"))?,
            sequence: entries.sequence.ok_or(DataError::Missing("Sequence"))?,
            ttl: entries.ttl.ok_or(DataError::Missing("TTL"))?,
        })
    }
}

#[derive(Default)]
struct Entries {
    value: Option<Vec<u8>>,
    validity: Option<Vec<u8>>,
    validity_type: Option<u64>,
    sequence: Option<u64>,
    ttl: Option<u64>,
}

fn set(entry: &mut Option<u64>, name: &'static str, rest: &mut &[u8]) -> Result<(), DataError> {
    let (0, number) = cbor::head(rest)? else {
        return Err(DataError::Type(name));
    };
    match entry.replace(number) {
        None => Ok(()),
        Some(_) => Err(DataError::Twice(name)),
    }
}

fn set_bytes(
    entry: &mut Option<Vec<u8>>,
    name: &'static str,
    rest: &mut &[u8],
) -> Result<(), DataError> {
    let (BYTES, length) = cbor::head(rest)? else {
        return Err(DataError::Type(name));
    };
    match entry.replace(take(rest, length)?.to_vec()) {
        None => Ok(()),
        Some(_) => Err(DataError::Twice(name)),
    }
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8], CborError> {
    let length = usize::try_from(length).map_err(|_| CborError::Truncated)?;
    let (taken, behind) = rest.split_at_checked(length).ok_or(CborError::Truncated)?;
    *rest = behind;
    Ok(taken)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_head(out, TEXT, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_head(out, BYTES, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A major type and its argument, in the shortest form.
fn put_head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let major = major << 5;
    let bytes = argument.to_be_bytes();
    match argument {
        ..=23 => out.push(major | bytes[7]),
        24..=0xff => out.extend([major | 24, bytes[7]]),
        0x100..=0xffff => {
            out.push(major | 25);
            out.extend_from_slice(&bytes[6..]);
        }
        0x1_0000..=0xffff_ffff => {
            out.push(major | 26);
            out.extend_from_slice(&bytes[4..]);
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Data {
        Data {
            value: b"/ipfs/bafkqaaa".to_vec(),
            validity: b"2123-05-26T09:03:57Z".to_vec(),
            validity_type: 0,
            sequence: 7,
            ttl: 3_600_000_000_000,
        }
    }

    #[test]
    fn further_entries_are_skipped() {
        let encoded = sample().encode();
        // {"x": [1, {"y": "z"}], ...}
        let more = [b"\xa6\x61x\x82\x01\xa1\x61y\x61z", &encoded[1..]].concat();
        assert_eq!(Data::decode(&more), Ok(sample()));
    }

    #[test]
    fn damaged_data_is_refused() {
        let encoded = sample().encode();
        let without_ttl = [b"\xa4", &encoded[14..]].concat();
        assert_eq!(Data::decode(&without_ttl), Err(DataError::Missing("TTL")));
        let twice = [b"\xa6\x63TTL\x01", &encoded[1..]].concat();
        assert_eq!(Data::decode(&twice), Err(DataError::Twice("TTL")));
        let negative = [b"\xa5\x63TTL\x20", &encoded[14..]].concat();
        assert_eq!(Data::decode(&negative), Err(DataError::Type("TTL")));
        assert_eq!(Data::decode(b"\x01"), Err(DataError::NoMap));
        assert_eq!(Data::decode(b"\xa1\x01\x01"), Err(DataError::NoMap));
        let trailing = [&encoded[..], b"\x00"].concat();
        assert_eq!(Data::decode(&trailing), Err(CborError::Trailing.into()));
        for length in 0..encoded.len() {
            assert!(Data::decode(&encoded[..length]).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn data_round_trips(
            value: Vec<u8>,
            validity: Vec<u8>,
            validity_type: u64,
            sequence: u64,
            ttl: u64,
        ) {
            let data = Data { value, validity, validity_type, sequence, ttl };
            prop_assert_eq!(Data::decode(&data.encode()), Ok(data));
        }

        #[test]
        fn any_bytes_are_handled(bytes: Vec<u8>) {
            let _ = Data::decode(&bytes);
        }
    }
}
