//! Version of bitswap between two peers: the newest that both know.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::iter::{Skip, Take};

use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::{Stream, StreamProtocol};

/// How many versions there are.
const VERSIONS: usize = 4;

/// The versions, newest first: the order in which they are offered.
const PROTOCOLS: [StreamProtocol; VERSIONS] = [
    StreamProtocol::new("/ipfs/bitswap/1.2.0"),
    StreamProtocol::new("/ipfs/bitswap/1.1.0"),
    StreamProtocol::new("/ipfs/bitswap/1.0.0"),
    StreamProtocol::new("/ipfs/bitswap"),
];

/// A version of the protocol, at its place in [`PROTOCOLS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// Presences and want-haves.
    OneTwo,
    /// Blocks with CID prefixes.
    OneOne,
    /// Bare blocks.
    OneZero,
    /// As [`Version::OneZero`], under the name from before versions.
    Unversioned,
}

impl Version {
    const ALL: [Version; VERSIONS] = [
        Version::OneTwo,
        Version::OneOne,
        Version::OneZero,
        Version::Unversioned,
    ];

    /// Whether messages may ask for and tell the presence of blocks.
    pub(crate) fn has_presences(self) -> bool {
        self == Version::OneTwo
    }

    /// Whether blocks carry the prefix of their CID.
    pub(crate) fn has_prefixes(self) -> bool {
        matches!(self, Version::OneTwo | Version::OneOne)
    }
}

/// Negotiates a stream: all versions, or the one that the peer is known to speak.
#[derive(Clone, Copy, Debug)]
pub struct Upgrade {
    skip: usize,
    take: usize,
}

impl Upgrade {
    pub(crate) fn any() -> Upgrade {
        Upgrade {
            skip: 0,
            take: VERSIONS,
        }
    }

    pub(crate) fn only(version: Version) -> Upgrade {
        Upgrade {
            skip: version as usize,
            take: 1,
        }
    }
}

impl UpgradeInfo for Upgrade {
    type Info = StreamProtocol;
    type InfoIter = Take<Skip<std::array::IntoIter<StreamProtocol, VERSIONS>>>;

    fn protocol_info(&self) -> Self::InfoIter {
        PROTOCOLS.into_iter().skip(self.skip).take(self.take)
    }
}

/// A stream and what is spoken on it.
type Negotiated = (Stream, StreamProtocol);

impl InboundUpgrade<Stream> for Upgrade {
    type Output = Negotiated;
    type Error = Infallible;
    type Future = Ready<Result<Negotiated, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for Upgrade {
    type Output = Negotiated;
    type Error = Infallible;
    type Future = Ready<Result<Negotiated, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

/// The version that `protocol` names.
pub(crate) fn version_of(protocol: &StreamProtocol) -> Version {
    PROTOCOLS
        .iter()
        .position(|known| known == protocol)
        .map_or(Version::Unversioned, |index| Version::ALL[index])
}
