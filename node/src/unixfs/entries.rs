//! The entries of a directory under construction.

use crate::block::Cid;
use crate::dag::{Fields, put_varint};

/// The entries of a directory under construction, packed: a million of them fit the memory that an
/// operation may use. In pieces, since one vector that grows needs twice its size.
#[derive(Clone, Debug, Default)]
pub(super) struct EntryTable {
    pieces: Vec<Vec<u8>>,
    /// Where each entry starts: its piece, and the byte in it.
    starts: Vec<(u32, u32)>,
}

/// An unpacked entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableEntry<'a> {
    pub(super) name: &'a [u8],
    pub(super) cid: Cid,
    pub(super) size: u64,
}

impl EntryTable {
    /// Bytes after which a further piece is begun.
    const PIECE_BYTES: usize = 256 * 1024;

    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    pub(super) fn push(&mut self, name: &[u8], cid: &Cid, size: u64) {
        if self
            .pieces
            .last()
            .is_none_or(|piece| piece.len() >= EntryTable::PIECE_BYTES)
        {
            self.pieces.push(Vec::new());
        }
        let number = self.pieces.len() - 1;
        let piece = &mut self.pieces[number];
        self.starts.push((number as u32, piece.len() as u32));
        let cid = cid.to_bytes();
        put_varint(piece, size);
        put_varint(piece, cid.len() as u64);
        put_varint(piece, name.len() as u64);
        piece.extend_from_slice(&cid);
        piece.extend_from_slice(name);
    }

    pub(super) fn get(&self, index: usize) -> TableEntry<'_> {
        let (piece, start) = self.starts[index];
        let mut fields = Fields::new(&self.pieces[piece as usize][start as usize..]);
        let mut number = || {
            fields
                .read_varint()
                .expect("an entry reads as it was packed")
        };
        let (size, cid_length, name_length) = (number(), number() as usize, number() as usize);
        let (cid, rest) = fields.rest().split_at(cid_length);
        let cid = Cid::try_from(cid).expect("an entry reads as it was packed");
        TableEntry {
            name: &rest[..name_length],
            cid,
            size,
        }
    }
}
