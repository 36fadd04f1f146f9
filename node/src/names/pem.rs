//! Private keys between PEM with PKCS#8 ([RFC 5958]) and the protobuf message of libp2p.
//!
//! [RFC 5958]: https://www.rfc-editor.org/rfc/rfc5958

use pkcs8::der::asn1::{AnyRef, OctetStringRef};
use pkcs8::der::{Decode, Encode, SecretDocument};
use pkcs8::{AlgorithmIdentifierRef, LineEnding, ObjectIdentifier, PrivateKeyInfoRef};

use super::key::{KeyError, KeyType};
use crate::dag::{Field, Fields, put_bytes, put_varint};

const LABEL: &str = "PRIVATE KEY";

const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// Values of `KeyType` and numbers of fields in the message of libp2p.
const TYPE_RSA: u64 = 0;
const TYPE_FIELD: u64 = 1;
const DATA_FIELD: u64 = 2;

/// Bytes of the private part of an Ed25519 key; the public part follows in the message.
const SEED_BYTES: usize = 32;

pub(super) fn encode(key_type: KeyType, message: &[u8]) -> Result<String, KeyError> {
    let mut data: &[u8] = &[];
    for field in Fields::new(message) {
        if let (DATA_FIELD, Field::Bytes(bytes)) = field? {
            data = bytes;
        }
    }
    let failed = |error: pkcs8::der::Error| KeyError::Pem(error.into());
    let encoded = match key_type {
        KeyType::Ed25519 => {
            let seed = OctetStringRef::new(&data[..SEED_BYTES.min(data.len())]).map_err(failed)?;
            let inner = seed.to_der().map_err(failed)?;
            document(ED25519, None, &inner)
        }
        KeyType::Rsa => document(RSA, Some(AnyRef::NULL), data),
    };
    let text = encoded.and_then(|document| document.to_pem(LABEL, LineEnding::LF));
    Ok(text.map_err(failed)?.to_string())
}

fn document(
    oid: ObjectIdentifier,
    parameters: Option<AnyRef<'_>>,
    key: &[u8],
) -> Result<SecretDocument, pkcs8::der::Error> {
    let algorithm = AlgorithmIdentifierRef { oid, parameters };
    let info = PrivateKeyInfoRef::new(algorithm, OctetStringRef::new(key)?);
    SecretDocument::encode_msg(&info)
}

pub(super) fn decode(text: &str) -> Result<Vec<u8>, KeyError> {
    let failed = |error: pkcs8::der::Error| KeyError::Pem(error.into());
    let (label, document) = SecretDocument::from_pem(text).map_err(failed)?;
    if label != LABEL {
        return Err(KeyError::Label {
            label: crate::path::escape(label.as_bytes()),
        });
    }
    let info = PrivateKeyInfoRef::try_from(document.as_bytes()).map_err(KeyError::Pem)?;
    let key = info.private_key.as_bytes();
    match info.algorithm.oid {
        ED25519 => {
            let seed = <&OctetStringRef>::from_der(key).map_err(failed)?;
            let keypair = libp2p_identity::Keypair::ed25519_from_bytes(seed.as_bytes().to_vec());
            let keypair = keypair.map_err(KeyError::Protobuf)?;
            keypair.to_protobuf_encoding().map_err(KeyError::Protobuf)
        }
        RSA => Ok(message(TYPE_RSA, key)),
        oid => Err(KeyError::Algorithm {
            algorithm: oid.to_string(),
        }),
    }
}

fn message(key_type: u64, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + 8);
    put_varint(&mut out, TYPE_FIELD << 3);
    put_varint(&mut out, key_type);
    put_bytes(&mut out, (DATA_FIELD as u8) << 3 | 2, data);
    out
}
