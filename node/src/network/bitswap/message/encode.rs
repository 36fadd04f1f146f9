//! Writing of messages.

use bytes::Bytes;

use super::super::protocol::Version;
use super::fields::*;
use super::{Message, Payload, Prefix, Presence, WantEntry, WantKind};
use crate::block::Cid;
use crate::dag::{put_varint, varint_length};

/// Data of this many bytes are a piece of their own. Each is a frame on the stream, which costs
/// about as much as copying this.
const OWN_PIECE_BYTES: usize = 16 * 1024;

/// A message on its way to the wire.
struct Pieces {
    complete: Vec<Bytes>,
    last: Vec<u8>,
}

impl Pieces {
    /// Appends a byte string with its tag and length.
    fn put_data(&mut self, number: u64, data: &Bytes) {
        put_head(&mut self.last, number, data.len());
        if data.len() < OWN_PIECE_BYTES {
            self.last.extend_from_slice(data);
        } else {
            let before = std::mem::take(&mut self.last);
            self.complete.extend([before.into(), data.clone()]);
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        if !self.last.is_empty() {
            self.complete.push(self.last.into());
        }
        self.complete
    }
}

impl Message {
    /// The message with its length prefix, in the form that `version` knows, as pieces that are
    /// written one after the other. What that version lacks is left out: before 1.2 there are no
    /// presences, and a want-have would be read as a want for the block.
    pub(crate) fn encode(&self, version: Version) -> Vec<Bytes> {
        let wantlist = self.wantlist_length(version);
        let length = self.body_length(version, wantlist);
        let own_pieces = self.blocks.iter().map(|block| block.data.len());
        let own_pieces: usize = own_pieces.filter(|length| *length >= OWN_PIECE_BYTES).sum();
        let mut pieces = Pieces {
            complete: Vec::new(),
            last: Vec::with_capacity(varint_length(length as u64) + length - own_pieces),
        };
        let out = &mut pieces.last;
        put_varint(out, length as u64);
        if wantlist > 0 {
            put_head(out, MESSAGE_WANTLIST, wantlist);
            for entry in self.wants_for(version) {
                put_head(out, WANTLIST_ENTRIES, entry.encoded_length());
                entry.encode(out);
            }
            put_flag(out, WANTLIST_FULL, u64::from(self.full));
        }
        for block in &self.blocks {
            block.encode(&mut pieces, version);
        }
        let out = &mut pieces.last;
        if version.has_presences() {
            for presence in &self.presences {
                put_head(out, MESSAGE_PRESENCES, presence.encoded_length());
                presence.encode(out);
            }
        }
        put_flag(out, MESSAGE_PENDING_BYTES, self.pending(version));
        pieces.finish()
    }

    fn wants_for(&self, version: Version) -> impl Iterator<Item = &WantEntry> {
        let keep = move |entry: &&WantEntry| {
            version.has_presences() || entry.cancel || entry.kind == WantKind::Block
        };
        self.wants.iter().filter(keep)
    }

    fn wantlist_length(&self, version: Version) -> usize {
        let entries: usize = self
            .wants_for(version)
            .map(|entry| field_length(entry.encoded_length()))
            .sum();
        entries + flag_length(u64::from(self.full))
    }

    fn body_length(&self, version: Version, wantlist: usize) -> usize {
        let mut length = if wantlist > 0 {
            field_length(wantlist)
        } else {
            0
        };
        length += self
            .blocks
            .iter()
            .map(|block| field_length(block.encoded_length(version)))
            .sum::<usize>();
        if version.has_presences() {
            length += self
                .presences
                .iter()
                .map(|presence| field_length(presence.encoded_length()))
                .sum::<usize>();
        }
        length + flag_length(self.pending(version))
    }

    fn pending(&self, version: Version) -> u64 {
        if version.has_presences() {
            signed(self.pending_bytes)
        } else {
            0
        }
    }
}

impl Prefix {
    fn fields(&self) -> [u64; 4] {
        [
            u64::from(self.version),
            self.codec,
            self.hash_code,
            self.digest_length as u64,
        ]
    }

    fn encoded_length(&self) -> usize {
        self.fields().into_iter().map(varint_length).sum()
    }
}

impl WantEntry {
    fn encoded_length(&self) -> usize {
        field_length(self.cid.encoded_len())
            + flag_length(signed(self.priority))
            + flag_length(u64::from(self.cancel))
            + flag_length(self.kind_code())
            + flag_length(u64::from(self.send_dont_have))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_cid(out, ENTRY_CID, &self.cid);
        put_flag(out, ENTRY_PRIORITY, signed(self.priority));
        put_flag(out, ENTRY_CANCEL, u64::from(self.cancel));
        put_flag(out, ENTRY_KIND, self.kind_code());
        put_flag(out, ENTRY_SEND_DONT_HAVE, u64::from(self.send_dont_have));
    }

    fn kind_code(&self) -> u64 {
        match self.kind {
            WantKind::Block => 0,
            WantKind::Have => KIND_HAVE,
        }
    }
}

impl Payload {
    fn encoded_length(&self, version: Version) -> usize {
        if version.has_prefixes() {
            field_length(self.prefix.encoded_length()) + field_length(self.data.len())
        } else {
            self.data.len()
        }
    }

    fn encode(&self, pieces: &mut Pieces, version: Version) {
        if !version.has_prefixes() {
            return pieces.put_data(MESSAGE_BLOCKS, &self.data);
        }
        let out = &mut pieces.last;
        put_head(out, MESSAGE_PAYLOAD, self.encoded_length(version));
        put_head(out, PAYLOAD_PREFIX, self.prefix.encoded_length());
        for field in self.prefix.fields() {
            put_varint(out, field);
        }
        pieces.put_data(PAYLOAD_DATA, &self.data);
    }
}

impl Presence {
    fn encoded_length(&self) -> usize {
        field_length(self.cid.encoded_len()) + flag_length(self.kind_code())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_cid(out, PRESENCE_CID, &self.cid);
        put_flag(out, PRESENCE_KIND, self.kind_code());
    }

    fn kind_code(&self) -> u64 {
        if self.have { 0 } else { KIND_DONT_HAVE }
    }
}

/// What a byte string of `length` takes with its tag and length.
fn field_length(length: usize) -> usize {
    1 + varint_length(length as u64) + length
}

fn put_head(out: &mut Vec<u8>, number: u64, length: usize) {
    out.push(tag(number, WIRE_BYTES));
    put_varint(out, length as u64);
}

fn put_cid(out: &mut Vec<u8>, number: u64, cid: &Cid) {
    put_head(out, number, cid.encoded_len());
    cid.write_bytes(out)
        .expect("writing to memory does not fail");
}

/// Protobuf leaves out zeros.
fn flag_length(value: u64) -> usize {
    if value == 0 {
        0
    } else {
        1 + varint_length(value)
    }
}

fn put_flag(out: &mut Vec<u8>, number: u64, value: u64) {
    if value != 0 {
        out.push(tag(number, WIRE_VARINT));
        put_varint(out, value);
    }
}

/// Protobuf extends the sign of an `int32` to 64 bits.
fn signed(value: i32) -> u64 {
    i64::from(value) as u64
}
