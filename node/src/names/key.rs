//! Private keys that sign records.

use libp2p_identity::{Keypair, PublicKey};

use super::pem;
use crate::dag::{Fields, ProtobufError};
use crate::name::KeyName;

/// Why a private key cannot be read, written or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The bytes are no private key in the form of libp2p.
    #[error("this is no private key in the form of libp2p (protobuf)")]
    Protobuf(#[source] libp2p_identity::DecodingError),
    /// The bytes are no protobuf message.
    #[error("this is no private key in the form of libp2p (protobuf)")]
    Message(#[from] ProtobufError),
    /// The text is no private key in PEM.
    #[error("this is no private key in PEM with PKCS#8")]
    Pem(#[source] pkcs8::Error),
    /// The file is of another kind: encrypted, a public key, or a certificate.
    #[error("this is `{label}` in PEM, and not `PRIVATE KEY`")]
    Label {
        /// What the file says that it is.
        label: String,
    },
    /// Keys of this kind have no PEM form here, or sign no names.
    #[error("keys of the algorithm {algorithm} are not supported; Ed25519 and RSA are")]
    Algorithm {
        /// Name or object identifier of the algorithm.
        algorithm: String,
    },
    /// The key refuses to sign.
    #[error("the private key does not sign")]
    Signing(#[source] libp2p_identity::SigningError),
}

/// The algorithm of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyType {
    /// Ed25519. Names of such keys contain the public key.
    Ed25519,
    /// RSA, of old names.
    Rsa,
}

/// A private key.
#[derive(Clone)]
pub struct SigningKey {
    keypair: Keypair,
    key_type: KeyType,
    /// As libp2p encodes it. An RSA key cannot be encoded again.
    encoded: Vec<u8>,
}

/// Without the private part.
impl std::fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_tuple("SigningKey")
            .field(&self.name())
            .finish()
    }
}

impl SigningKey {
    /// A new Ed25519 key.
    pub fn generate() -> SigningKey {
        let keypair = Keypair::generate_ed25519();
        SigningKey {
            encoded: keypair
                .to_protobuf_encoding()
                .expect("an Ed25519 key can be encoded"),
            keypair,
            key_type: KeyType::Ed25519,
        }
    }

    /// Reads the protobuf message `PrivateKey` of the [peer id specification], which is how Kubo keeps
    /// and exports keys.
    ///
    /// [peer id specification]: https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md
    ///
    /// # Errors
    /// Where the bytes are something else, or the key has another algorithm.
    pub fn from_protobuf(encoded: &[u8]) -> Result<SigningKey, KeyError> {
        // The libraries below ignore what follows a message.
        for field in Fields::new(encoded) {
            field?;
        }
        let keypair = Keypair::from_protobuf_encoding(encoded).map_err(KeyError::Protobuf)?;
        Ok(SigningKey {
            key_type: key_type(&keypair)?,
            keypair,
            encoded: encoded.to_vec(),
        })
    }

    /// Reads a key in PEM with PKCS#8, unencrypted.
    ///
    /// # Errors
    /// As [`SigningKey::from_protobuf`].
    pub fn from_pem(text: &str) -> Result<SigningKey, KeyError> {
        SigningKey::from_protobuf(&pem::decode(text)?)
    }

    /// The key as [`SigningKey::from_protobuf`] reads it.
    pub fn to_protobuf(&self) -> &[u8] {
        &self.encoded
    }

    /// The key as [`SigningKey::from_pem`] reads it.
    ///
    /// # Errors
    /// [`KeyError::Pem`] where the key cannot be encoded.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        pem::encode(self.key_type, &self.encoded)
    }

    /// The name of the key.
    pub fn name(&self) -> KeyName {
        KeyName::of(&self.public())
    }

    /// The algorithm of the key.
    pub fn key_type(&self) -> KeyType {
        self.key_type
    }

    pub(super) fn public(&self) -> PublicKey {
        self.keypair.public()
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.keypair.sign(message).map_err(KeyError::Signing)
    }
}

fn key_type(keypair: &Keypair) -> Result<KeyType, KeyError> {
    match keypair.key_type() {
        libp2p_identity::KeyType::Ed25519 => Ok(KeyType::Ed25519),
        libp2p_identity::KeyType::RSA => Ok(KeyType::Rsa),
        other => Err(KeyError::Algorithm {
            algorithm: format!("{other:?}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_in_both_forms() {
        let key = SigningKey::generate();
        let read = SigningKey::from_protobuf(key.to_protobuf()).unwrap();
        assert_eq!(read.name(), key.name());
        let text = key.to_pem().unwrap();
        let read = SigningKey::from_pem(&text).unwrap();
        assert_eq!(read.to_protobuf(), key.to_protobuf());
    }

    #[test]
    fn files_of_other_kinds_are_refused() {
        let key = SigningKey::generate();
        let public = key.public().encode_protobuf();
        for bytes in [&b""[..], b"nonsense", &public, &key.to_protobuf()[..40]] {
            assert!(SigningKey::from_protobuf(bytes).is_err(), "{bytes:?}");
        }
        let text = key.to_pem().unwrap();
        for text in [
            "",
            "nonsense",
            &text.replace("PRIVATE", "PUBLIC"),
            &text[..60],
        ] {
            assert!(SigningKey::from_pem(text).is_err(), "{text}");
        }
        let other = Keypair::generate_secp256k1()
            .to_protobuf_encoding()
            .unwrap();
        let refused = SigningKey::from_protobuf(&other);
        assert!(
            matches!(refused, Err(KeyError::Algorithm { algorithm }) if algorithm == "Secp256k1")
        );
    }
}
