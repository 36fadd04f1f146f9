//! Every bound on input that comes from outside, with its unit and its reason.
//!
//! A block, a DAG, a name or an archive is hostile until it is checked; these are the sizes at
//! which checking stops and refusing begins. Options that users may change start from a value
//! here.

/// Largest block accepted from outside, in bytes: the limit of bitswap 1.2 and of Kubo.
pub const MAX_BLOCK_BYTES: usize = 2 * 1024 * 1024;

/// Largest digest of an identity multihash, in bytes: the limit of `boxo/verifcid`.
pub const MAX_IDENTITY_BYTES: usize = 128;

/// Longest name of a directory entry, in bytes: `NAME_MAX` of Linux.
pub const MAX_NAME_BYTES: usize = 255;

/// Longest target of a symbolic link, in bytes: `PATH_MAX` of Linux less its terminating NUL.
pub const MAX_SYMLINK_BYTES: usize = 4095;

/// Most segments of a content path. A path that a person writes has a few.
pub const MAX_PATH_SEGMENTS: usize = 1024;

/// Deepest nesting of directories. Each level holds one descriptor open while it is exported, and
/// a soft limit of 1,024 descriptors is common.
pub const MAX_DIRECTORY_DEPTH: usize = 512;

/// Deepest tree of blocks of one file. A balanced tree of 2 links a node reaches 2^64 bytes at 64;
/// trickle trees stay well below.
pub const MAX_FILE_DEPTH: usize = 128;

/// Deepest path from a root to a block of any DAG: the directories, then the file below them, and
/// as much again for HAMT levels and other data.
pub const MAX_DAG_DEPTH: usize = 4096;

/// Deepest nesting of a HAMT: the 64 bits of its hash, 3 bits (fanout 8) a level.
pub const MAX_HAMT_DEPTH: usize = 21;

/// Smallest and largest HAMT fanout, entries a shard: the range of Kubo.
pub const HAMT_FANOUT: std::ops::RangeInclusive<u64> = 8..=1024;

/// Most blocks visited by one walk, repeated ones counted: bounds the time that a small DAG with
/// many repeated links can cost. 2^32 blocks of 256 KiB are a pebibyte.
pub const MAX_TRAVERSED_BLOCKS: u64 = 1 << 32;

/// Most bytes that one export writes, unless an option says otherwise: 1 TiB. Repeated links make
/// files far larger than their blocks.
pub const MAX_EXPORT_BYTES: u64 = 1 << 40;

/// Most entries that one export makes, and one recursive listing shows, unless an option says otherwise.
/// A directory of 60 levels that names the one below twice has 2^60 entries in 61 blocks.
pub const MAX_EXPORT_ENTRIES: u64 = 16 << 20;

/// Longest CAR header, in bytes: about 20,000 roots.
pub const MAX_CAR_HEADER_BYTES: usize = 1024 * 1024;

/// Largest leaf that an import may write, in bytes: a block with its framing must stay within
/// [`MAX_BLOCK_BYTES`]; the limit of Kubo's chunkers.
pub const MAX_CHUNK_BYTES: usize = MAX_BLOCK_BYTES - 256;

/// Most links of one file node: with CIDs of 36 bytes, 8 bytes of sizes each and the framing, the
/// node stays within [`MAX_BLOCK_BYTES`].
pub const MAX_FILE_LINKS: usize = 32 * 1024;

/// Longest bitswap message, in bytes, without its length prefix: what Kubo accepts.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// Most entries of one bitswap message, of each kind. A message of Kubo has at most 2 MiB, about
/// 46,000 wants; one of [`MAX_MESSAGE_BYTES`] made of empty entries would have two million.
pub const MAX_MESSAGE_ENTRIES: usize = 64 * 1024;

/// Shortest digest, in bytes, that is accepted in a want: shorter ones identify nothing. The
/// limit of `boxo/verifcid`.
pub const MIN_DIGEST_BYTES: usize = 20;

/// Bytes of bitswap messages that all peers together may have here, being received or waiting to
/// be hashed. Reading stops above it, but for [`MAX_SMALL_MESSAGE_BYTES`] of each connection.
pub const MAX_UNVERIFIED_BYTES: usize = 32 * 1024 * 1024;

/// Bytes of [`MAX_UNVERIFIED_BYTES`] that peers may have which were asked for nothing.
pub const MAX_UNASKED_BYTES: usize = 8 * 1024 * 1024;

/// Bytes of [`MAX_UNVERIFIED_BYTES`] that one connection may hold: one message of the largest
/// size, and pipelining of ordinary ones.
pub const MAX_UNVERIFIED_BYTES_PER_CONNECTION: usize = MAX_MESSAGE_BYTES;

/// Bytes of small messages that one connection may have beside [`MAX_UNVERIFIED_BYTES`], so that
/// its wants are heard while others send large messages: some 1,000 wants.
pub const MAX_SMALL_MESSAGE_BYTES: usize = 64 * 1024;

/// Inbound bitswap streams of one connection. Kubo sends each message on a stream of its own and
/// opens up to this many before the first was accepted; a refused one is a lost message. The
/// swarm has a bound of its own on streams that are still negotiating, which should be the same.
pub const MAX_INBOUND_STREAMS: usize = 256;

/// Wants that one peer may have registered here. Kubo keeps 1,024 of ours; a peer of our own kind
/// asks no more than that either.
pub const MAX_WANTLIST_ENTRIES: usize = 16 * 1024;

/// Wants that all peers together may have registered here; each takes about 400 bytes.
pub const MAX_WANTLIST_ENTRIES_TOTAL: usize = 128 * 1024;

/// Replies to one peer that are being written, in messages and in bytes. A second one keeps the
/// connection busy while the first is confirmed; it is begun while those to all peers take less than
/// half of [`MAX_REPLY_BYTES_TOTAL`].
pub const MAX_REPLIES_PER_PEER: usize = 2;

/// See [`MAX_REPLIES_PER_PEER`].
pub const MAX_REPLY_BYTES_PER_PEER: usize = 4 * 1024 * 1024;

/// Bytes of replies to all peers that are being read from disk or written to the network.
pub const MAX_REPLY_BYTES_TOTAL: usize = 32 * 1024 * 1024;

/// Broken messages, bad blocks and unasked blocks after which a peer is no longer spoken to.
pub const MAX_PEER_FAULTS: u32 = 16;

/// Peers whose faults are remembered after they have gone.
pub const MAX_REMEMBERED_PEERS: usize = 1024;

/// Dials at a time.
pub const MAX_PENDING_DIALS: u32 = 64;

/// Inbound connections at a time that have not shaken hands. Where all addresses together have this
/// many, those with the most give way.
pub const MAX_HANDSHAKES: usize = 64;

/// Connections at a time: each takes about 100 KiB of buffers while it is used.
pub const MAX_CONNECTIONS: u32 = 256;

/// Connections with one peer: a few of several transports meet when both sides dial at once.
pub const MAX_CONNECTIONS_PER_PEER: u32 = 4;

/// Peers found on the local network that are connected without having been named.
pub const MAX_DISCOVERED_PEERS: usize = 32;

/// Addresses of one peer that are kept for the DHT; a well-connected one has about ten.
pub const MAX_ADDRESSES_PER_PEER: usize = 32;

/// Providers taken from one answer of the DHT.
pub const MAX_PROVIDERS: usize = 64;

/// Content that peers may leave word of here that they have it, for the DHT. With what follows it takes
/// less than 100 MiB.
pub const MAX_PROVIDED_KEYS: usize = 8 * 1024;

/// Peers that may do so for one content.
pub const MAX_PROVIDERS_KEPT: usize = 8;

/// Addresses kept of a peer that leaves such word.
pub const MAX_PROVIDER_ADDRESSES: usize = 8;

/// Longest of these addresses, in bytes.
pub const MAX_PROVIDER_ADDRESS_BYTES: usize = 128;

/// Longest key of the DHT, in bytes: a multihash with the longest digest.
pub const MAX_DHT_KEY_BYTES: usize = MAX_IDENTITY_BYTES + 16;

/// Largest signed record of a mutable name, in bytes: the limit of the IPNS record specification.
pub const MAX_RECORD_BYTES: usize = 10 * 1024;

/// Records of mutable names that peers may leave here, for the DHT. With their sizes it takes at most 40
/// MiB.
pub const MAX_RECORDS_KEPT: usize = 4 * 1024;

/// Most names through which one path is resolved: the limit of the IPNS specification.
pub const MAX_NAME_DEPTH: usize = 32;

/// Largest file of a private key, in bytes: an RSA key of 8,192 bits in PEM has 6,400.
pub const MAX_KEY_FILE_BYTES: u64 = 64 * 1024;
