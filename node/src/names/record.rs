//! Signed records of mutable names, as of the [IPNS record specification]. Pure: bytes and a time in, a
//! verdict out.
//!
//! A record is a protobuf message. Its field `data` holds the signed facts in dag-cbor, and `signatureV2`
//! the signature. Older programs know only a second copy of the facts in fields of their own, with
//! `signatureV1`. That signature covers a part of the facts alone, so it is written and never trusted: if
//! a record has the copy, the copy must be equal to the signed facts.
//!
//! [IPNS record specification]: https://specs.ipfs.tech/ipns/ipns-record/

use std::cmp::Ordering;
use std::time::{Duration, SystemTime};

use libp2p_identity::PublicKey;

use super::cbor::Data;
pub use super::cbor::DataError;
use super::instant;
use super::key::{KeyError, SigningKey};
use crate::block::Cid;
use crate::dag::{Field, Fields, ProtobufError, put_bytes, put_varint};
use crate::limits;
use crate::name::KeyName;
use crate::path::{ContentPath, PathError, escape};

/// Numbers of the fields of the message.
mod field {
    pub(super) const VALUE: u64 = 1;
    pub(super) const SIGNATURE_V1: u64 = 2;
    pub(super) const VALIDITY_TYPE: u64 = 3;
    pub(super) const VALIDITY: u64 = 4;
    pub(super) const SEQUENCE: u64 = 5;
    pub(super) const TTL: u64 = 6;
    pub(super) const PUBLIC_KEY: u64 = 7;
    pub(super) const SIGNATURE_V2: u64 = 8;
    pub(super) const DATA: u64 = 9;
}

/// What stands before the data where it is signed.
const SIGNED_PREFIX: &[u8] = b"ipns-signature:";

/// The one type of validity: until a time.
const UNTIL: u64 = 0;
const UNTIL_NAME: &[u8] = b"EOL";

/// Why a record is not accepted, or not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The record is too large.
    #[error("the record has {found} bytes, more than {}", limits::MAX_RECORD_BYTES)]
    TooLarge {
        /// Its size in bytes.
        found: usize,
    },
    /// The bytes are no protobuf message.
    #[error("the record is no protobuf message")]
    Protobuf(#[from] ProtobufError),
    /// The record has a signature of version 1 alone, or none.
    #[error("the record has no signature of version 2, which is the only one that counts")]
    NoSignature,
    /// The signed data is malformed.
    #[error("the signed data of the record is malformed")]
    Data(#[from] DataError),
    /// The validity is no time.
    #[error("the record is valid until `{text}`, which is no time")]
    Validity {
        /// What stands in place of a time, escaped.
        text: String,
    },
    /// The record has another type of validity.
    #[error("the record has the unknown validity type {0}")]
    ValidityType(u64),
    /// A field of version 1 differs from the signed data.
    #[error("the field `{0}` of the record differs from the signed data")]
    Differs(&'static str),
    /// The record contains no public key, and the name contains none either.
    #[error("the record does not contain the public key of {name}")]
    NoKey {
        /// The name.
        name: KeyName,
    },
    /// The key in the record is none, or of an unknown kind.
    #[error("the record contains a malformed public key")]
    Key(#[source] libp2p_identity::DecodingError),
    /// The record is for another name.
    #[error("the record is signed by the key {found}, not by {name}")]
    OtherKey {
        /// The name.
        name: KeyName,
        /// The name of the key in the record.
        found: KeyName,
    },
    /// The signature is wrong.
    #[error("the signature of the record is not by the key {name}")]
    Signature {
        /// The name.
        name: KeyName,
    },
    /// The time until which the record is valid has passed.
    #[error("the record has expired: it was valid until {until}")]
    Expired {
        /// That time.
        until: String,
    },
    /// The value is neither a path nor a CID.
    #[error("the value of the record, `{text}`, is no content path")]
    Value {
        /// The value, escaped.
        text: String,
        /// What is wrong with it.
        #[source]
        source: PathError,
    },
    /// A record was to be valid for no time, or beyond the year 9999.
    #[error("a record cannot be valid for {}", crate::quantity::Time(*lifetime))]
    Lifetime {
        /// For how long.
        lifetime: Duration,
    },
    /// A record was to be kept in memory for longer than it is valid.
    #[error(
        "the time to live, {}, is longer than the lifetime, {}",
        crate::quantity::Time(*ttl), crate::quantity::Time(*lifetime)
    )]
    TimeToLive {
        /// The time to live.
        ttl: Duration,
        /// The lifetime.
        lifetime: Duration,
    },
    /// The key does not sign.
    #[error(transparent)]
    Signing(#[from] KeyError),
}

/// A record, decoded and maybe not verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    bytes: Vec<u8>,
    data: Data,
    encoded_data: Vec<u8>,
    until: SystemTime,
    signature: Vec<u8>,
    has_version_1: bool,
    key: Option<Vec<u8>>,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Record")
            .field("value", &escape(&self.data.value))
            .field("sequence", &self.data.sequence)
            .finish_non_exhaustive()
    }
}

/// The facts of a record that is to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    value: String,
    sequence: u64,
    until: SystemTime,
    ttl: Duration,
    has_version_1: bool,
}

impl Publication {
    /// The record is valid for `lifetime` from `now` on. Readers may use it for `ttl` without asking
    /// again.
    ///
    /// # Errors
    /// [`RecordError::Lifetime`], [`RecordError::TimeToLive`].
    pub fn new(
        value: &ContentPath,
        sequence: u64,
        now: SystemTime,
        lifetime: Duration,
        ttl: Duration,
    ) -> Result<Publication, RecordError> {
        let until = now.checked_add(lifetime);
        let until = until.filter(|until| *until > now && instant::format(*until).is_some());
        let until = until.ok_or(RecordError::Lifetime { lifetime })?;
        if ttl > lifetime {
            return Err(RecordError::TimeToLive { ttl, lifetime });
        }
        Ok(Publication {
            value: value.to_string(),
            sequence,
            until,
            ttl,
            has_version_1: true,
        })
    }

    /// Leaves out the fields that only older programs read.
    pub fn without_version_1(mut self) -> Publication {
        self.has_version_1 = false;
        self
    }
}

impl Record {
    /// Signs `publication`.
    ///
    /// # Errors
    /// [`RecordError::TooLarge`], and where the key does not sign.
    pub fn sign(key: &SigningKey, publication: &Publication) -> Result<Record, RecordError> {
        let until = instant::format(publication.until).ok_or(RecordError::Lifetime {
            lifetime: Duration::ZERO,
        })?;
        let data = Data {
            value: publication.value.clone().into_bytes(),
            validity: until.into_bytes(),
            validity_type: UNTIL,
            sequence: publication.sequence,
            ttl: u64::try_from(publication.ttl.as_nanos()).unwrap_or(u64::MAX),
        };
        let encoded = data.encode();
        let mut out = Vec::new();
        if publication.has_version_1 {
            let signed = [&data.value, &data.validity, UNTIL_NAME].concat();
            put_bytes_field(&mut out, field::VALUE, &data.value);
            put_bytes_field(&mut out, field::SIGNATURE_V1, &key.sign(&signed)?);
            put_number_field(&mut out, field::VALIDITY_TYPE, data.validity_type);
            put_bytes_field(&mut out, field::VALIDITY, &data.validity);
            put_number_field(&mut out, field::SEQUENCE, data.sequence);
            put_number_field(&mut out, field::TTL, data.ttl);
        }
        if key.name().inlined_key().is_none() {
            put_bytes_field(&mut out, field::PUBLIC_KEY, &key.public().encode_protobuf());
        }
        let signature = key.sign(&[SIGNED_PREFIX, &encoded].concat())?;
        put_bytes_field(&mut out, field::SIGNATURE_V2, &signature);
        put_bytes_field(&mut out, field::DATA, &encoded);
        Record::decode(&out)
    }

    /// Reads a record; nothing is verified.
    ///
    /// # Errors
    /// Where the record is malformed, or has no signature of version 2.
    pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        if bytes.len() > limits::MAX_RECORD_BYTES {
            return Err(RecordError::TooLarge { found: bytes.len() });
        }
        let message = Message::decode(bytes)?;
        let (Some(signature), Some(encoded)) = (message.signature_v2, message.data) else {
            return Err(RecordError::NoSignature);
        };
        let data = Data::decode(encoded)?;
        if data.validity_type != UNTIL {
            return Err(RecordError::ValidityType(data.validity_type));
        }
        let until = instant::parse(&data.validity).ok_or_else(|| RecordError::Validity {
            text: escape(&data.validity),
        })?;
        message.compare(&data)?;
        Ok(Record {
            bytes: bytes.to_vec(),
            encoded_data: encoded.to_vec(),
            until,
            signature: signature.to_vec(),
            has_version_1: message.has_version_1(),
            key: message.public_key.map(<[u8]>::to_vec),
            data,
        })
    }

    /// Checks that the owner of `name` has signed the record.
    ///
    /// # Errors
    /// Where another key signed it, or none.
    pub fn verify(&self, name: &KeyName) -> Result<(), RecordError> {
        let key = match &self.key {
            Some(key) => PublicKey::try_decode_protobuf(key).map_err(RecordError::Key)?,
            None => name
                .inlined_key()
                .ok_or(RecordError::NoKey { name: *name })?,
        };
        let found = KeyName::of(&key);
        if found != *name {
            return Err(RecordError::OtherKey { name: *name, found });
        }
        let signed = [SIGNED_PREFIX, &self.encoded_data].concat();
        if key.verify(&signed, &self.signature) {
            Ok(())
        } else {
            Err(RecordError::Signature { name: *name })
        }
    }

    /// Checks that the record is valid at `now`.
    ///
    /// # Errors
    /// [`RecordError::Expired`].
    pub fn check_time(&self, now: SystemTime) -> Result<(), RecordError> {
        if self.until >= now {
            return Ok(());
        }
        Err(RecordError::Expired {
            until: self.until_text(),
        })
    }

    /// Reads a record and checks everything at once: form, key, signature and time.
    ///
    /// # Errors
    /// As those of [`Record::decode`], [`Record::verify`] and [`Record::check_time`].
    pub fn accept(bytes: &[u8], name: &KeyName, now: SystemTime) -> Result<Record, RecordError> {
        let record = Record::decode(bytes)?;
        record.verify(name)?;
        record.check_time(now)?;
        Ok(record)
    }

    /// What the name stands for: a path, or a CID in its binary form.
    ///
    /// # Errors
    /// [`RecordError::Value`].
    pub fn value(&self) -> Result<ContentPath, RecordError> {
        let value = &self.data.value[..];
        if let Ok(cid) = Cid::try_from(value) {
            return Ok(ContentPath::from_cid(cid));
        }
        let text = String::from_utf8_lossy(value);
        text.parse().map_err(|source| RecordError::Value {
            text: escape(value),
            source,
        })
    }

    /// The bytes of the value, as they were signed.
    pub fn raw_value(&self) -> &[u8] {
        &self.data.value
    }

    /// The number of this version of the record: the record with the highest one counts.
    pub fn sequence(&self) -> u64 {
        self.data.sequence
    }

    /// The time until which the record is valid.
    pub fn until(&self) -> SystemTime {
        self.until
    }

    /// The same as it stands in the record, in RFC 3339.
    pub fn until_text(&self) -> String {
        escape(&self.data.validity)
    }

    /// How long the answer may be kept without asking again.
    pub fn ttl(&self) -> Duration {
        Duration::from_nanos(self.data.ttl)
    }

    /// Whether the record has the fields of version 1 as well.
    pub fn has_version_1(&self) -> bool {
        self.has_version_1
    }

    /// The public key that the record contains, encoded.
    pub fn public_key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    /// The record as it is transferred.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Orders two valid records of one name: the greater one counts. That is the one with the higher
    /// sequence, then the one that is valid for longer, then the one with the greater bytes.
    pub fn precedence(&self, other: &Record) -> Ordering {
        let key = |record: &Record| (record.data.sequence, record.until);
        key(self)
            .cmp(&key(other))
            .then_with(|| self.bytes.cmp(&other.bytes))
    }
}

/// The fields of the message as they came.
#[derive(Default)]
struct Message<'a> {
    value: Option<&'a [u8]>,
    signature_v1: Option<&'a [u8]>,
    validity_type: Option<u64>,
    validity: Option<&'a [u8]>,
    sequence: Option<u64>,
    ttl: Option<u64>,
    public_key: Option<&'a [u8]>,
    signature_v2: Option<&'a [u8]>,
    data: Option<&'a [u8]>,
}

impl<'a> Message<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Message<'a>, ProtobufError> {
        let mut message = Message::default();
        for found in Fields::new(bytes) {
            let (number, found) = found?;
            let bytes = |found: Field<'a>| found.bytes(number).map(Some);
            let varint = |found: Field<'a>| found.varint(number).map(Some);
            match number {
                field::VALUE => message.value = bytes(found)?,
                field::SIGNATURE_V1 => message.signature_v1 = bytes(found)?,
                field::VALIDITY_TYPE => message.validity_type = varint(found)?,
                field::VALIDITY => message.validity = bytes(found)?,
                field::SEQUENCE => message.sequence = varint(found)?,
                field::TTL => message.ttl = varint(found)?,
                field::PUBLIC_KEY => message.public_key = bytes(found)?,
                field::SIGNATURE_V2 => message.signature_v2 = bytes(found)?,
                field::DATA => message.data = bytes(found)?,
                _ => {}
            }
        }
        // Some programs write a field that has nothing in it.
        for bytes in [
            &mut message.value,
            &mut message.signature_v1,
            &mut message.validity,
            &mut message.public_key,
            &mut message.signature_v2,
            &mut message.data,
        ] {
            *bytes = bytes.filter(|bytes| !bytes.is_empty());
        }
        Ok(message)
    }

    fn has_version_1(&self) -> bool {
        self.value.is_some() || self.signature_v1.is_some()
    }

    /// Checks the fields of version 1. In a record that has them, a missing one counts as zero.
    fn compare(&self, data: &Data) -> Result<(), RecordError> {
        let is_complete = self.has_version_1();
        let bytes = |found: Option<&[u8]>, signed: &[u8]| match found {
            Some(found) => found == signed,
            None => !is_complete || signed.is_empty(),
        };
        let number = |found: Option<u64>, signed: u64| match found {
            Some(found) => found == signed,
            None => !is_complete || signed == 0,
        };
        for (name, is_equal) in [
            ("value", bytes(self.value, &data.value)),
            ("validity", bytes(self.validity, &data.validity)),
            (
                "validityType",
                number(self.validity_type, data.validity_type),
            ),
            ("sequence", number(self.sequence, data.sequence)),
            ("ttl", number(self.ttl, data.ttl)),
        ] {
            if !is_equal {
                return Err(RecordError::Differs(name));
            }
        }
        Ok(())
    }
}

fn put_bytes_field(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_bytes(out, (number as u8) << 3 | 2, bytes);
}

fn put_number_field(out: &mut Vec<u8>, number: u64, value: u64) {
    put_varint(out, number << 3);
    put_varint(out, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn path(text: &str) -> ContentPath {
        text.parse().unwrap()
    }

    fn publication(sequence: u64) -> Publication {
        Publication::new(&path("/ipfs/bafkqaaa/a"), sequence, NOW, DAY, DAY / 24).unwrap()
    }

    /// The fields of a message, to be changed.
    fn fields(record: &Record) -> Vec<(u64, Vec<u8>)> {
        let mut fields = Vec::new();
        for field in Fields::new(record.as_bytes()) {
            let (number, field) = field.unwrap();
            let mut out = Vec::new();
            match field {
                Field::Varint(value) => put_number_field(&mut out, number, value),
                field => put_bytes_field(&mut out, number, field.bytes(number).unwrap()),
            }
            fields.push((number, out));
        }
        fields
    }

    fn with(record: &Record, number: u64, replacement: &[u8]) -> Vec<u8> {
        let fields = fields(record).into_iter();
        fields
            .flat_map(|(found, bytes)| match found == number {
                true => replacement.to_vec(),
                false => bytes,
            })
            .collect()
    }

    fn bytes_field(number: u64, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes_field(&mut out, number, bytes);
        out
    }

    #[test]
    fn a_signed_record_is_accepted_until_it_expires() {
        let key = SigningKey::generate();
        for publication in [publication(3), publication(3).without_version_1()] {
            let record = Record::sign(&key, &publication).unwrap();
            assert_eq!(record.has_version_1(), publication.has_version_1);
            let read = Record::accept(record.as_bytes(), &key.name(), NOW + DAY).unwrap();
            assert_eq!(read.value().unwrap(), path("/ipfs/bafkqaaa/a"));
            assert_eq!((read.sequence(), read.ttl()), (3, DAY / 24));
            let late = Record::accept(record.as_bytes(), &key.name(), NOW + DAY + DAY / 24);
            assert!(
                matches!(late, Err(RecordError::Expired { until }) if until == "1970-01-02T00:00:00Z")
            );
        }
    }

    #[test]
    fn records_of_other_keys_are_refused() {
        let (key, other) = (SigningKey::generate(), SigningKey::generate());
        let record = Record::sign(&key, &publication(0)).unwrap();
        let refused = record.verify(&other.name());
        assert!(matches!(refused, Err(RecordError::Signature { .. })));
        // The key of the record is another one than the name says.
        let embedded = bytes_field(field::PUBLIC_KEY, &key.public().encode_protobuf());
        let bytes = [record.as_bytes(), &embedded].concat();
        let embedding = Record::decode(&bytes).unwrap();
        let refused = embedding.verify(&other.name());
        assert!(matches!(refused, Err(RecordError::OtherKey { found, .. }) if found == key.name()));
        embedding.verify(&key.name()).unwrap();
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let key = SigningKey::generate();
        let record = Record::sign(&key, &publication(1).without_version_1()).unwrap();
        for index in 0..record.as_bytes().len() {
            let mut bytes = record.as_bytes().to_vec();
            bytes[index] ^= 1;
            assert!(Record::accept(&bytes, &key.name(), NOW).is_err(), "{index}");
        }
    }

    #[test]
    fn the_first_version_of_a_signature_does_not_count() {
        let key = SigningKey::generate();
        let record = Record::sign(&key, &publication(1)).unwrap();
        let broken = with(
            &record,
            field::SIGNATURE_V1,
            &bytes_field(field::SIGNATURE_V1, &[1; 64]),
        );
        Record::accept(&broken, &key.name(), NOW).unwrap();
        let alone = with(&record, field::SIGNATURE_V2, b"");
        assert!(matches!(
            Record::decode(&alone),
            Err(RecordError::NoSignature)
        ));
    }

    #[test]
    fn fields_of_version_1_must_be_equal_to_the_signed_data() {
        let key = SigningKey::generate();
        let record = Record::sign(&key, &publication(5)).unwrap();
        let number = |number, value| {
            let mut out = Vec::new();
            put_number_field(&mut out, number, value);
            out
        };
        for (field, replacement, name) in [
            (
                field::VALUE,
                bytes_field(field::VALUE, b"/ipfs/bafkqaaa/b"),
                "value",
            ),
            (field::VALUE, Vec::new(), "value"),
            (field::SEQUENCE, number(field::SEQUENCE, 6), "sequence"),
            (field::SEQUENCE, Vec::new(), "sequence"),
            (field::TTL, number(field::TTL, 1), "ttl"),
            (
                field::VALIDITY_TYPE,
                number(field::VALIDITY_TYPE, 1),
                "validityType",
            ),
            (
                field::VALIDITY,
                bytes_field(field::VALIDITY, b"x"),
                "validity",
            ),
        ] {
            let bytes = with(&record, field, &replacement);
            let refused = Record::decode(&bytes);
            assert!(matches!(refused, Err(RecordError::Differs(found)) if found == name));
        }
    }

    #[test]
    fn a_binary_cid_is_a_value() {
        let cid: Cid = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"
            .parse()
            .unwrap();
        let key = SigningKey::generate();
        let with_value = |value: &[u8]| {
            let mut record = Record::sign(&key, &publication(0)).unwrap();
            record.data.value = value.to_vec();
            record.value()
        };
        let value = with_value(&cid.to_bytes()).unwrap();
        assert_eq!(value, ContentPath::from_cid(cid));
        for value in [&b"nonsense"[..], b"/ipfs/", b"", b"\xff"] {
            assert!(
                matches!(with_value(value), Err(RecordError::Value { .. })),
                "{value:?}"
            );
        }
    }

    #[test]
    fn lifetimes_and_times_to_live_are_checked() {
        let new = |lifetime, ttl| Publication::new(&path("/ipfs/bafkqaaa"), 0, NOW, lifetime, ttl);
        assert!(matches!(
            new(Duration::ZERO, Duration::ZERO),
            Err(RecordError::Lifetime { .. })
        ));
        assert!(matches!(
            new(Duration::MAX, DAY),
            Err(RecordError::Lifetime { .. })
        ));
        assert!(matches!(
            new(DAY * 4_000_000, DAY),
            Err(RecordError::Lifetime { .. })
        ));
        assert!(matches!(
            new(DAY, 2 * DAY),
            Err(RecordError::TimeToLive { .. })
        ));
        new(DAY, DAY).unwrap();
        new(DAY, Duration::ZERO).unwrap();
    }

    #[test]
    fn large_records_are_neither_made_nor_read() {
        let long = format!("/ipfs/bafkqaaa/{}", vec!["x".repeat(200); 60].join("/"));
        let publication = Publication::new(&path(&long), 0, NOW, DAY, DAY).unwrap();
        let made = Record::sign(&SigningKey::generate(), &publication);
        assert!(matches!(made, Err(RecordError::TooLarge { .. })));
        let read = Record::decode(&vec![0; limits::MAX_RECORD_BYTES + 1]);
        assert!(matches!(read, Err(RecordError::TooLarge { found: 10_241 })));
    }

    #[test]
    fn the_newest_record_counts() {
        let key = SigningKey::generate();
        let sign = |sequence, lifetime| {
            let publication =
                Publication::new(&path("/ipfs/bafkqaaa"), sequence, NOW, lifetime, DAY);
            Record::sign(&key, &publication.unwrap()).unwrap()
        };
        let ordered = [sign(0, DAY), sign(0, 2 * DAY), sign(1, DAY)];
        for (index, record) in ordered.iter().enumerate() {
            for (other_index, other) in ordered.iter().enumerate() {
                assert_eq!(record.precedence(other), index.cmp(&other_index));
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled(bytes: Vec<u8>) {
            let _ = Record::decode(&bytes);
        }
    }
}
