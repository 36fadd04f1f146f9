//! Functions that the fuzz targets call. Each takes bytes from outside, and panics if a promise is broken.
//!
//! The programs around them are in `fuzz/`.

use bytes::Bytes;

use crate::block::{self, Block, DAG_PB};
use crate::car::CarReader;
use crate::dag::pb;
use crate::limits;
use crate::network::bitswap::reencode;
use crate::path::{ContentPath, EntryName};
use crate::unixfs::Node;

/// A bitswap message: what can be read and written again stays the same.
pub fn bitswap_message(bytes: &[u8]) {
    if let Some(written) = reencode(&Bytes::copy_from_slice(bytes)) {
        assert!(written.len() <= 2 * limits::MAX_MESSAGE_BYTES);
        assert_eq!(reencode(&written), Some(written));
    }
}

/// A dag-pb node: what can be read is written in the one canonical form, which reads the same.
pub fn dag_pb(bytes: &[u8]) {
    let Ok(node) = pb::decode(bytes) else {
        return;
    };
    let mut writer = pb::PbWriter::default();
    for link in &node.links {
        writer.link(&link.cid, link.name, link.size);
    }
    let written = writer.finish(node.data.unwrap_or_default());
    let again = pb::decode(&written).expect("what was written can be read");
    assert_eq!(again.links, node.links);
    assert_eq!(
        again.data.unwrap_or_default(),
        node.data.unwrap_or_default()
    );
}

/// A UnixFS node, whose parts can all be asked for.
pub fn unixfs_data(bytes: &[u8]) {
    let block = Block::new(cid::Version::V0, DAG_PB, Bytes::copy_from_slice(bytes));
    if let Ok(node) = Node::decode(block.cid(), block.data().clone()) {
        let _ = (node.kind(), node.size(), node.metadata());
        let _ = node.symlink_target();
    }
}

/// A CAR: blocks are what their CIDs say, and there are no more of them than bytes.
pub fn car(bytes: &[u8]) {
    let Ok(mut reader) = CarReader::new(bytes) else {
        return;
    };
    let mut count = 0;
    while let Ok(Some(block)) = reader.next_block() {
        block::verify(block.cid(), block.data()).expect("a block is verified");
        count += 1;
    }
    assert!(count <= bytes.len());
}

/// A content path: its names are such as a directory may hold, and it can be shown on a terminal.
pub fn content_path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(path) = text.parse::<ContentPath>() {
        assert!(path.segments.len() <= limits::MAX_PATH_SEGMENTS);
        for name in &path.segments {
            assert!(EntryName::new(name.as_bytes()).is_ok());
        }
        assert!(!path.to_string().contains(char::is_control));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So that the targets themselves are run by every test.
    #[test]
    fn targets_take_good_and_bad_input() {
        let targets = [bitswap_message, dag_pb, unixfs_data, car, content_path];
        let inputs: [&[u8]; 5] = [
            b"",
            b"\x0a\x00",
            b"\x0a\x02\x08\x01",
            b"/ipfs/QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn/a",
            &[0xff; 40],
        ];
        for target in targets {
            for input in inputs {
                target(input);
            }
        }
    }
}
