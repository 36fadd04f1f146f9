//! Mutable names: what may stand after `/ipns/`. Pure parsing.
//!
//! A name is the hash of a public key, whose owner signs what the name stands for, or a domain, whose
//! owner says so in the DNS.

use std::fmt;
use std::str::FromStr;

use libp2p_identity::{PeerId, PublicKey};
use multibase::Base;

use crate::block::{Cid, LIBP2P_KEY, Multihash};

/// Longest domain, in bytes, and longest part of one: RFC 1035, section 2.3.4.
const MAX_DOMAIN_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// Text that is no mutable name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is neither the name of a key nor a domain")]
pub struct NameError;

/// The name of a key: its peer id, as of the [peer id specification].
///
/// [peer id specification]: https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(PeerId);

impl KeyName {
    /// The name of `key`.
    pub fn of(key: &PublicKey) -> KeyName {
        KeyName(key.to_peer_id())
    }

    /// The name in a CID with the codec [`LIBP2P_KEY`].
    pub fn from_cid(cid: &Cid) -> Option<KeyName> {
        let peer = PeerId::from_bytes(&cid.hash().to_bytes()).ok()?;
        (cid.codec() == LIBP2P_KEY).then_some(KeyName(peer))
    }

    /// The name in the bytes of a multihash, as the DHT has it.
    pub fn from_bytes(bytes: &[u8]) -> Option<KeyName> {
        PeerId::from_bytes(bytes).ok().map(KeyName)
    }

    /// The name as a CID.
    pub fn cid(&self) -> Cid {
        let hash = Multihash::from_bytes(&self.to_bytes());
        Cid::new_v1(LIBP2P_KEY, hash.expect("a peer id is a multihash"))
    }

    /// The name as a CID of version 1 in this base.
    pub fn to_base(&self, base: Base) -> String {
        let cid = self.cid().to_string_of_base(base);
        cid.expect("a CID of version 1 can be written in every base")
    }

    /// The name as a peer id, in base58.
    pub fn to_peer_id(&self) -> String {
        self.0.to_base58()
    }

    /// The public key, where the name contains it, as those of Ed25519 keys do.
    pub fn inlined_key(&self) -> Option<PublicKey> {
        const IDENTITY_CODE: u8 = 0;
        match &self.to_bytes()[..] {
            // The code, the length, the key.
            [IDENTITY_CODE, _, key @ ..] => PublicKey::try_decode_protobuf(key).ok(),
            _ => None,
        }
    }

    /// The multihash.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_bytes()
    }
}

/// The usual form of a name: a CID in base36.
impl fmt::Display for KeyName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.to_base(Base::Base36Lower))
    }
}

impl fmt::Debug for KeyName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for KeyName {
    type Err = NameError;

    /// Reads a peer id in base58, or a CID of version 1 with the codec [`LIBP2P_KEY`] in any base.
    fn from_str(text: &str) -> Result<KeyName, NameError> {
        if let Ok(peer) = text.parse::<PeerId>() {
            return Ok(KeyName(peer));
        }
        let cid = Cid::try_from(text).ok();
        cid.as_ref().and_then(KeyName::from_cid).ok_or(NameError)
    }
}

/// A mutable name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// That of a key.
    Key(KeyName),
    /// A domain, in lower case.
    Domain(String),
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Name, NameError> {
        match text.parse() {
            Ok(name) => Ok(Name::Key(name)),
            Err(_) if is_domain(text) => {
                let domain = text.strip_suffix('.').unwrap_or(text);
                Ok(Name::Domain(domain.to_ascii_lowercase()))
            }
            Err(error) => Err(error),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Key(name) => name.fmt(formatter),
            Name::Domain(domain) => formatter.write_str(domain),
        }
    }
}

/// Whether `text` is a domain of at least two parts.
fn is_domain(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        (1..=MAX_LABEL_BYTES).contains(&label.len()) && label.bytes().all(is_plain)
    };
    text.len() <= MAX_DOMAIN_BYTES && text.contains('.') && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One Ed25519 key, in all its spellings.
    const SPELLINGS: [&str; 3] = [
        "12D3KooWLQzUv2FHWGVPXTXSZpdHs7oHbXub2G5WC8Tx4NQhyd2d",
        "k51qzi5uqu5dk3v4rmjber23h16xnr23bsggmqqil9z2gduiis5se8dht36dam",
        "K51QZI5UQU5DK3V4RMJBER23H16XNR23BSGGMQQIL9Z2GDUIIS5SE8DHT36DAM",
    ];

    #[test]
    fn a_key_has_one_name_in_every_spelling() {
        let name: KeyName = SPELLINGS[0].parse().unwrap();
        let base32 = name.to_base(Base::Base32Lower);
        for text in [SPELLINGS[0], SPELLINGS[1], &base32, SPELLINGS[2]] {
            let read: KeyName = text.parse().unwrap();
            assert_eq!(read.to_string(), SPELLINGS[1], "{text}");
            assert_eq!(read.to_peer_id(), SPELLINGS[0], "{text}");
        }
        assert_eq!(KeyName::of(&name.inlined_key().unwrap()), name);
    }

    #[test]
    fn the_name_of_an_rsa_key_does_not_contain_the_key() {
        let text = "QmTNeYBSbGk6vkiS2jjidHh5cCeotWQuWVX3W6udd6UUJC";
        let name: KeyName = text.parse().unwrap();
        assert_eq!(name.to_peer_id(), text);
        assert!(name.inlined_key().is_none());
    }

    #[test]
    fn domains_and_other_texts() {
        for (text, wanted) in [
            ("example.org", Some("example.org")),
            ("Docs.IPFS.tech.", Some("docs.ipfs.tech")),
            ("_x.example.org", Some("_x.example.org")),
            ("localhost", None),
            ("a..b", None),
            ("", None),
            (".", None),
            ("a b.org", None),
            ("a\u{7}.org", None),
            (&format!("{}.org", "x".repeat(64)), None),
            (&vec!["xxxxxxx"; 40].join("."), None),
            // A CID of content is no name.
            (
                "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354",
                None,
            ),
        ] {
            let read = text.parse::<Name>().ok().map(|name| name.to_string());
            assert_eq!(read.as_deref(), wanted, "{text}");
        }
    }
}
