//! Blocks and CARs that no honest program would make, encoded by hand from the specifications:
//! dag-pb, UnixFS and CAR version 1.

use cid::Cid;
use cid::multihash::Multihash;
use sha2::{Digest, Sha256};

/// Multicodec of raw blocks.
const RAW: u64 = 0x55;
/// Multicodec of dag-pb blocks.
const DAG_PB: u64 = 0x70;
/// Multihash code of SHA-256.
const SHA2_256: u64 = 0x12;
/// Multihash code of murmur3-x64-64, by which HAMT directories place their entries.
const MURMUR3: u64 = 0x22;

/// UnixFS type of a directory.
const DIRECTORY: u64 = 1;
/// UnixFS type of a file.
const FILE: u64 = 2;
/// UnixFS type of a symbolic link.
const SYMLINK: u64 = 4;
/// UnixFS type of a shard of a HAMT directory.
const HAMT_SHARD: u64 = 5;

/// A link of a dag-pb node.
#[derive(Clone, Debug)]
pub struct Link {
    name: Vec<u8>,
    cid: Cid,
    cumulative_bytes: u64,
}

impl Link {
    /// A link with a name.
    pub fn new(name: impl AsRef<[u8]>, cid: Cid, cumulative_bytes: u64) -> Link {
        Link {
            name: name.as_ref().to_owned(),
            cid,
            cumulative_bytes,
        }
    }
}

/// Blocks in the order in which they were made.
#[derive(Clone, Debug, Default)]
pub struct Blocks {
    blocks: Vec<(Cid, Vec<u8>)>,
}

impl Blocks {
    /// None.
    pub fn new() -> Blocks {
        Blocks::default()
    }

    /// Adds a raw block.
    pub fn raw(&mut self, bytes: impl Into<Vec<u8>>) -> Cid {
        self.put(RAW, bytes.into())
    }

    /// Adds a file of one block with `content`.
    pub fn file(&mut self, content: &[u8]) -> Cid {
        let mut data = Protobuf::default();
        data.number(1, FILE)
            .bytes(2, content)
            .number(3, content.len() as u64);
        self.node(&[], &data.0)
    }

    /// Adds a file of several blocks. Nothing checks that the sizes are true.
    pub fn file_of(&mut self, chunks: &[Cid], chunk_bytes: &[u64], total_bytes: u64) -> Cid {
        let mut data = Protobuf::default();
        data.number(1, FILE).number(3, total_bytes);
        for bytes in chunk_bytes {
            data.number(4, *bytes);
        }
        let links: Vec<Link> = chunks.iter().map(|cid| Link::new("", *cid, 64)).collect();
        self.node(&links, &data.0)
    }

    /// Adds a directory. Nothing checks the names.
    pub fn directory(&mut self, links: &[Link]) -> Cid {
        let mut data = Protobuf::default();
        data.number(1, DIRECTORY);
        self.node(links, &data.0)
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, target: &str) -> Cid {
        let mut data = Protobuf::default();
        data.number(1, SYMLINK).bytes(2, target.as_bytes());
        self.node(&[], &data.0)
    }

    /// Adds a shard of a HAMT directory. Nothing checks that `fanout` or `bitfield` make sense.
    pub fn shard(&mut self, fanout: u64, bitfield: &[u8], links: &[Link]) -> Cid {
        let mut data = Protobuf::default();
        data.number(1, HAMT_SHARD)
            .bytes(2, bitfield)
            .number(5, MURMUR3)
            .number(6, fanout);
        self.node(links, &data.0)
    }

    /// Adds a dag-pb node.
    pub fn node(&mut self, links: &[Link], data: &[u8]) -> Cid {
        let mut node = Protobuf::default();
        for link in links {
            let mut encoded = Protobuf::default();
            encoded
                .bytes(1, &link.cid.to_bytes())
                .bytes(2, &link.name)
                .number(3, link.cumulative_bytes);
            node.bytes(2, &encoded.0);
        }
        node.bytes(1, data);
        self.put(DAG_PB, node.0)
    }

    /// Forgets a block, so that it is missing from the CAR.
    pub fn forget(&mut self, cid: &Cid) {
        self.blocks.retain(|(other, _)| other != cid);
    }

    /// The bytes of a block.
    pub fn get(&self, cid: &Cid) -> Option<&[u8]> {
        let (_, bytes) = self.blocks.iter().find(|(other, _)| other == cid)?;
        Some(bytes)
    }

    /// A CAR of all blocks, the last first.
    pub fn car(&self, roots: &[Cid]) -> Vec<u8> {
        let mut car = Vec::new();
        section(&mut car, &[&car_header(roots)]);
        for (cid, bytes) in self.blocks.iter().rev() {
            section(&mut car, &[&cid.to_bytes(), bytes]);
        }
        car
    }

    fn put(&mut self, codec: u64, bytes: Vec<u8>) -> Cid {
        let digest = Sha256::digest(&bytes);
        let hash = Multihash::wrap(SHA2_256, &digest).expect("a digest of 32 bytes fits");
        let cid = Cid::new_v1(codec, hash);
        self.blocks.push((cid, bytes));
        cid
    }
}

/// A CID of content that nobody has.
pub fn unknown_cid(seed: &str) -> Cid {
    Blocks::new().raw(format!("nobody has {seed}"))
}

/// `{"roots": [...], "version": 1}` in dag-cbor.
fn car_header(roots: &[Cid]) -> Vec<u8> {
    let mut header = vec![0xa2, 0x65];
    header.extend_from_slice(b"roots");
    header.push(0x80 | u8::try_from(roots.len()).expect("a test has few roots"));
    for root in roots {
        // Tag 42, then a byte string: a zero and the CID.
        let cid = root.to_bytes();
        header.extend_from_slice(&[0xd8, 42, 0x58]);
        header.push(u8::try_from(cid.len() + 1).expect("a CID of a test is short"));
        header.push(0);
        header.extend_from_slice(&cid);
    }
    header.push(0x67);
    header.extend_from_slice(b"version");
    header.push(1);
    header
}

fn section(car: &mut Vec<u8>, parts: &[&[u8]]) {
    varint(car, parts.iter().map(|part| part.len() as u64).sum());
    for part in parts {
        car.extend_from_slice(part);
    }
}

fn varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

/// A protobuf message under construction.
#[derive(Default)]
struct Protobuf(Vec<u8>);

impl Protobuf {
    fn number(&mut self, field: u64, value: u64) -> &mut Protobuf {
        varint(&mut self.0, field << 3);
        varint(&mut self.0, value);
        self
    }

    fn bytes(&mut self, field: u64, value: &[u8]) -> &mut Protobuf {
        varint(&mut self.0, field << 3 | 2);
        varint(&mut self.0, value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_encoded_as_published() {
        let mut blocks = Blocks::new();
        let cases = [
            (
                blocks.directory(&[]),
                "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354",
            ),
            (
                blocks.file(b"hello world"),
                "bafybeihykld7uyxzogax6vgyvag42y7464eywpf55gxi5qpoisibh3c5wa",
            ),
        ];
        for (made, wanted) in cases {
            assert_eq!(made.to_string(), wanted);
        }
    }

    #[test]
    fn a_car_is_its_header_and_its_blocks() {
        let mut blocks = Blocks::new();
        let root = blocks.raw("x");
        let car = blocks.car(&[root]);
        let (header, rest) = (&car[..59], &car[59..]);
        assert_eq!(header[..8], [58, 0xa2, 0x65, b'r', b'o', b'o', b't', b's']);
        assert_eq!(header[9..13], [0xd8, 42, 0x58, 37]);
        assert_eq!(header[51..], *b"version\x01");
        assert_eq!(rest[0], 37);
        assert_eq!(rest[1..37], root.to_bytes());
        assert_eq!(rest[37..], *b"x");
    }
}
