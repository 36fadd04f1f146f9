//! Messages of bitswap, put together by hand.

use ipfs_exec_node::{Block, Cid};

pub(super) fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

pub(super) fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2][..], &varint(bytes.len() as u64), bytes].concat()
}

/// A message with its length.
pub(super) fn framed(body: &[u8]) -> Vec<u8> {
    [&varint(body.len() as u64), body].concat()
}

/// Wants for the blocks, with "don't have" asked for.
pub(super) fn wants(cids: &[Cid]) -> Vec<u8> {
    let entry = |cid: &Cid| field(1, &[&field(1, &cid.to_bytes())[..], &[5 << 3, 1]].concat());
    field(1, &cids.iter().flat_map(entry).collect::<Vec<_>>())
}

/// A block as of 1.1.
pub(super) fn payload(block: &Block) -> Vec<u8> {
    let cid = block.cid();
    let prefix = [
        varint(u64::from(cid.version())),
        varint(cid.codec()),
        varint(cid.hash().code()),
        varint(cid.hash().digest().len() as u64),
    ];
    let body = [field(1, &prefix.concat()), field(2, block.data())];
    field(3, &body.concat())
}

/// A block as of 1.0.
pub(super) fn bare_block(block: &Block) -> Vec<u8> {
    field(2, block.data())
}

pub(super) fn contains(message: &[u8], part: &[u8]) -> bool {
    message.windows(part.len()).any(|window| window == part)
}
