//! Numbers of the message fields and of their named values, and the wire types of fields.

pub(super) const MESSAGE_WANTLIST: u64 = 1;
pub(super) const MESSAGE_BLOCKS: u64 = 2;
pub(super) const MESSAGE_PAYLOAD: u64 = 3;
pub(super) const MESSAGE_PRESENCES: u64 = 4;
pub(super) const MESSAGE_PENDING_BYTES: u64 = 5;
pub(super) const WANTLIST_ENTRIES: u64 = 1;
pub(super) const WANTLIST_FULL: u64 = 2;
pub(super) const ENTRY_CID: u64 = 1;
pub(super) const ENTRY_PRIORITY: u64 = 2;
pub(super) const ENTRY_CANCEL: u64 = 3;
pub(super) const ENTRY_KIND: u64 = 4;
pub(super) const ENTRY_SEND_DONT_HAVE: u64 = 5;
pub(super) const PAYLOAD_PREFIX: u64 = 1;
pub(super) const PAYLOAD_DATA: u64 = 2;
pub(super) const PRESENCE_CID: u64 = 1;
pub(super) const PRESENCE_KIND: u64 = 2;

pub(super) const KIND_HAVE: u64 = 1;
pub(super) const KIND_DONT_HAVE: u64 = 1;

/// Wire type of integers.
pub(super) const WIRE_VARINT: u64 = 0;
/// Wire type of byte strings and messages.
pub(super) const WIRE_BYTES: u64 = 2;

/// All field numbers here are below 16, so that a tag is one byte.
pub(super) const fn tag(number: u64, wire_type: u64) -> u8 {
    (number << 3 | wire_type) as u8
}
