//! The part of the FUSE protocol that a read-only file system needs: requests of the kernel from
//! bytes, answers to bytes. Pure; layouts are those of [`linux/fuse.h`], in the order of bytes of
//! this machine.
//!
//! [`linux/fuse.h`]: https://github.com/torvalds/linux/blob/master/include/uapi/linux/fuse.h

use std::time::Duration;

/// Bytes of `struct fuse_in_header`.
const REQUEST_HEADER_BYTES: usize = 40;
/// Bytes of `struct fuse_out_header`.
pub(super) const REPLY_HEADER_BYTES: usize = 16;
/// Bytes of `struct fuse_dirent` without the name.
const ENTRY_HEADER_BYTES: usize = 24;
/// Bytes of `struct fuse_entry_out`.
const NODE_BYTES: usize = 128;
/// Directory entries begin at multiples of this many bytes.
const ENTRY_ALIGNMENT: usize = 8;

/// Content never changes: what the kernel knows of it stays true. In seconds; larger numbers would
/// overflow its clock.
const VALID_SECONDS: u64 = Duration::from_secs(10 * 365 * 24 * 3600).as_secs();

/// Number of the top node.
pub(super) const ROOT: u64 = 1;

/// One request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request<'a> {
    /// Its number, for the answer.
    pub(super) unique: u64,
    /// The node that it is about.
    pub(super) node: u64,
    /// The thread that asks.
    pub(super) pid: u32,
    pub(super) operation: Operation<'a>,
}

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Operation<'a> {
    Lookup {
        name: &'a [u8],
    },
    /// References that the kernel gives up: nodes and how many. No answer.
    Forget(Vec<(u64, u64)>),
    Attributes,
    ReadLink,
    Read {
        offset: u64,
        size: u32,
    },
    Statistics,
    /// With a size of 0, how long the value is.
    ExtendedAttribute {
        name: &'a [u8],
        size: u32,
    },
    ExtendedAttributes {
        size: u32,
    },
    List {
        offset: u64,
        size: u32,
        with_nodes: bool,
    },
    /// A signal came for who waits for the request of this number.
    Interrupt {
        unique: u64,
    },
    /// The end.
    Destroy,
    /// Would change something.
    Write,
    /// Not needed here.
    Unsupported,
}

/// Takes integers and names off a request.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_ne_bytes)
    }

    /// What stands before the next NUL.
    fn name(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let (name, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        Some(name)
    }
}

/// `struct fuse_in_header`.
struct Header {
    opcode: u32,
    unique: u64,
    node: u64,
    pid: u32,
}

impl Header {
    /// The header of a request, and the fields that follow it.
    fn split(bytes: &[u8]) -> Option<(Header, Fields<'_>)> {
        let (header, fields) = bytes.split_at_checked(REQUEST_HEADER_BYTES)?;
        let mut header = Fields(header);
        let (_length, opcode) = (header.u32()?, header.u32()?);
        let (unique, node) = (header.u64()?, header.u64()?);
        let (_uid, _gid, pid) = (header.u32()?, header.u32()?, header.u32()?);
        let header = Header {
            opcode,
            unique,
            node,
            pid,
        };
        Some((header, Fields(fields)))
    }
}

impl<'a> Request<'a> {
    /// Reads one request; `None` where the kernel sent what it should not.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Request<'a>> {
        let (header, fields) = Header::split(bytes)?;
        let operation = Operation::decode(header.opcode, header.node, fields)?;
        Some(Request {
            unique: header.unique,
            node: header.node,
            pid: header.pid,
            operation,
        })
    }
}

impl<'a> Operation<'a> {
    fn decode(opcode: u32, node: u64, mut fields: Fields<'a>) -> Option<Operation<'a>> {
        Some(match opcode {
            1 => Operation::Lookup {
                name: fields.name()?,
            },
            2 => Operation::Forget(vec![(node, fields.u64()?)]),
            3 => Operation::Attributes,
            5 => Operation::ReadLink,
            15 => {
                let (offset, size) = range(&mut fields)?;
                Operation::Read { offset, size }
            }
            17 => Operation::Statistics,
            22 => {
                let (size, _padding) = (fields.u32()?, fields.u32()?);
                Operation::ExtendedAttribute {
                    name: fields.name()?,
                    size,
                }
            }
            23 => Operation::ExtendedAttributes {
                size: fields.u32()?,
            },
            28 | 44 => {
                let (offset, size) = range(&mut fields)?;
                Operation::List {
                    offset,
                    size,
                    with_nodes: opcode == 44,
                }
            }
            36 => Operation::Interrupt {
                unique: fields.u64()?,
            },
            38 => Operation::Destroy,
            42 => {
                let (count, _padding) = (fields.u32()?, fields.u32()?);
                let mut forgotten = Vec::new();
                for _ in 0..count {
                    forgotten.push((fields.u64()?, fields.u64()?));
                }
                Operation::Forget(forgotten)
            }
            // setattr, symlink, mknod, mkdir, unlink, rmdir, rename, link, write, setxattr,
            // removexattr, create, fallocate, rename2, copy_file_range, tmpfile
            4 | 6 | 8..=13 | 16 | 21 | 24 | 35 | 43 | 45 | 47 | 51 => Operation::Write,
            _ => Operation::Unsupported,
        })
    }
}

/// Offset and size of `struct fuse_read_in`.
fn range(fields: &mut Fields<'_>) -> Option<(u64, u32)> {
    let (_handle, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
    Some((offset, size))
}

/// Attributes of a node, as `stat` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    /// The number that programs see.
    pub(super) inode: u64,
    /// In bytes.
    pub(super) size: u64,
    /// Disk space, in units of 512 bytes.
    pub(super) sectors: u64,
    /// How many names it has.
    pub(super) links: u32,
    /// Seconds and nanoseconds since 1970.
    pub(super) mtime: (i64, u32),
    /// Type and permissions.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Size of what `stat` counts blocks in.
const SECTOR_BYTES: u64 = 512;

/// The least disk space of so many bytes, in units of 512 bytes.
pub(super) fn sectors(bytes: u64) -> u64 {
    bytes.div_ceil(SECTOR_BYTES)
}

/// What programs are told to read at a time.
const PREFERRED_BYTES: u32 = 4096;

impl Attributes {
    fn put(&self, out: &mut Vec<u8>) {
        let (seconds, nanoseconds) = self.mtime;
        put64(out, self.inode);
        put64(out, self.size);
        put64(out, self.sectors);
        for _ in 0..3 {
            put64(out, seconds.cast_unsigned());
        }
        for value in [
            nanoseconds,
            nanoseconds,
            nanoseconds,
            self.mode,
            self.links,
            self.uid,
            self.gid,
            0,
            PREFERRED_BYTES,
            0,
        ] {
            put32(out, value);
        }
    }

    /// `struct fuse_attr_out`.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put64(&mut out, VALID_SECONDS);
        put64(&mut out, 0);
        self.put(&mut out);
        out
    }
}

/// `struct fuse_entry_out`: the node of that number, of which the kernel holds one reference more;
/// 0 says that there is no such name, and will never be.
pub(super) fn node(number: u64, attributes: Option<&Attributes>) -> Vec<u8> {
    let mut out = Vec::with_capacity(NODE_BYTES);
    put_node(&mut out, number, attributes);
    out
}

fn put_node(out: &mut Vec<u8>, number: u64, attributes: Option<&Attributes>) {
    let end = out.len() + NODE_BYTES;
    put64(out, number);
    put64(out, 0);
    put64(out, VALID_SECONDS);
    put64(out, VALID_SECONDS);
    put64(out, 0);
    if let Some(attributes) = attributes {
        attributes.put(out);
    }
    out.resize(end, 0);
}

/// A part of a listing, up to a size.
#[derive(Debug)]
pub(super) struct Listed {
    bytes: Vec<u8>,
    limit: usize,
}

/// One entry of a listing.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListedEntry<'a> {
    pub(super) inode: u64,
    /// Where a listing that ended with this entry goes on.
    pub(super) offset: u64,
    /// The type bits of a mode; 0 where they are not known.
    pub(super) kind: u32,
    pub(super) name: &'a [u8],
}

impl Listed {
    pub(super) fn new(limit: u32) -> Listed {
        Listed {
            bytes: Vec::new(),
            limit: limit as usize,
        }
    }

    /// Bytes that an entry with this name takes.
    pub(super) fn length(name: &[u8], with_node: bool) -> usize {
        let node = if with_node { NODE_BYTES } else { 0 };
        node + ENTRY_HEADER_BYTES + name.len().next_multiple_of(ENTRY_ALIGNMENT)
    }

    /// Bytes that are left.
    pub(super) fn room(&self) -> usize {
        self.limit - self.bytes.len()
    }

    pub(super) fn push(&mut self, entry: ListedEntry<'_>) {
        let out = &mut self.bytes;
        put64(out, entry.inode);
        put64(out, entry.offset);
        put32(out, entry.name.len() as u32);
        put32(out, entry.kind >> 12);
        out.extend_from_slice(entry.name);
        out.resize(out.len().next_multiple_of(ENTRY_ALIGNMENT), 0);
    }

    /// As [`Listed::push`], and the node itself, unless its number is 0.
    pub(super) fn push_node(
        &mut self,
        entry: ListedEntry<'_>,
        number: u64,
        attributes: Option<&Attributes>,
    ) {
        put_node(&mut self.bytes, number, attributes);
        self.push(entry);
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// `struct fuse_statfs_out` of a file system that is full, with names of up to 255 bytes.
pub(super) fn statistics(bytes: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let blocks = bytes.div_ceil(u64::from(PREFERRED_BYTES));
    for value in [blocks, 0, 0, 0, 0] {
        put64(&mut out, value);
    }
    for value in [PREFERRED_BYTES, 255, PREFERRED_BYTES, 0] {
        put32(&mut out, value);
    }
    out.resize(out.len() + 24, 0);
    out
}

/// `struct fuse_getxattr_out`: how long a value is.
pub(super) fn length(length: usize) -> Vec<u8> {
    let mut out = Vec::new();
    put64(&mut out, length as u64);
    out
}

/// The header of an answer: `error` is 0 or the number of one, `length` that of what follows.
pub(super) fn reply_header(unique: u64, error: i32, length: usize) -> [u8; REPLY_HEADER_BYTES] {
    let mut header = [0; REPLY_HEADER_BYTES];
    header[..4].copy_from_slice(&((REPLY_HEADER_BYTES + length) as u32).to_ne_bytes());
    header[4..8].copy_from_slice(&(-error).to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}

/// The first request: what the kernel offers. Of `struct fuse_init_in`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Initial {
    pub(super) major: u32,
    pub(super) max_readahead: u32,
    pub(super) flags: u32,
}

impl Initial {
    const OPCODE: u32 = 26;

    /// Reads the first request, with its number; `None` where it is another one.
    pub(super) fn decode(bytes: &[u8]) -> Option<(u64, Initial)> {
        let (header, mut fields) = Header::split(bytes)?;
        let (major, _minor) = (fields.u32()?, fields.u32()?);
        let initial = Initial {
            major,
            max_readahead: fields.u32()?,
            flags: fields.u32()?,
        };
        (header.opcode == Initial::OPCODE).then_some((header.unique, initial))
    }
}

/// Settings that hold for both sides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agreed {
    pub(super) version: (u32, u32),
    pub(super) max_readahead: u32,
    pub(super) flags: u32,
    pub(super) max_background: u16,
    /// Most bytes of a write, in bytes; that of a read are `max_pages`.
    pub(super) max_bytes: u32,
    pub(super) max_pages: u16,
}

/// `struct fuse_init_out`, of the version 7.23 and later.
pub(super) fn initial_answer(agreed: &Agreed) -> Vec<u8> {
    const BYTES: usize = 64;
    const NANOSECOND: u32 = 1;
    let mut out = Vec::with_capacity(BYTES);
    let (major, minor) = agreed.version;
    for number in [major, minor, agreed.max_readahead, agreed.flags] {
        put32(&mut out, number);
    }
    let congested = agreed.max_background / 4 * 3;
    out.extend(agreed.max_background.to_ne_bytes());
    out.extend(congested.to_ne_bytes());
    put32(&mut out, agreed.max_bytes);
    put32(&mut out, NANOSECOND);
    out.extend(agreed.max_pages.to_ne_bytes());
    out.resize(BYTES, 0);
    out
}

/// Numbers of the kinds of notices to the kernel.
const NOTICE_INVALID_ENTRY: i32 = 3;
const NOTICE_PRUNE: i32 = 9;

/// A notice: the kernel drops these nodes unless they are in use. Linux 6.18, `EINVAL` before.
pub(super) fn prune(nodes: &[u64]) -> Vec<u8> {
    let mut body = Vec::with_capacity(16 + 8 * nodes.len());
    put32(&mut body, nodes.len() as u32);
    put32(&mut body, 0);
    put64(&mut body, 0);
    nodes.iter().for_each(|node| put64(&mut body, *node));
    notice(NOTICE_PRUNE, &body)
}

/// A notice: the kernel forgets the entry `name` of `parent`, and drops its node unless that is in use.
pub(super) fn invalid_entry(parent: u64, name: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(16 + name.len() + 1);
    put64(&mut body, parent);
    put32(&mut body, name.len() as u32);
    put32(&mut body, 0);
    body.extend_from_slice(name);
    body.push(0);
    notice(NOTICE_INVALID_ENTRY, &body)
}

/// A notice is a message with the number 0, and with its kind in place of an error.
fn notice(kind: i32, body: &[u8]) -> Vec<u8> {
    let header = reply_header(0, -kind, body.len());
    [&header, body].concat()
}

fn put32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_ne_bytes());
}

fn put64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put32(&mut bytes, (REQUEST_HEADER_BYTES + body.len()) as u32);
        put32(&mut bytes, opcode);
        for value in [7, 9] {
            put64(&mut bytes, value);
        }
        for value in [0, 0, 42, 0] {
            put32(&mut bytes, value);
        }
        bytes.extend(body);
        bytes
    }

    /// The layout of `linux/fuse.h`: a kernel of version 7.45 offers all flags.
    #[test]
    fn the_first_exchange() {
        let mut request = Vec::new();
        for number in [104, 26] {
            put32(&mut request, number);
        }
        put64(&mut request, 77);
        request.resize(REQUEST_HEADER_BYTES, 0);
        for number in [7, 45, 131_072, u32::MAX] {
            put32(&mut request, number);
        }
        request.resize(REQUEST_HEADER_BYTES + 64, 0);
        let (unique, initial) = Initial::decode(&request).unwrap();
        assert_eq!(
            (unique, initial.major, initial.max_readahead),
            (77, 7, 131_072)
        );
        for length in [0, 39, 55] {
            assert_eq!(Initial::decode(&request[..length]), None);
        }
        request[4] = 1;
        assert_eq!(Initial::decode(&request), None);
        let answer = initial_answer(&Agreed {
            version: (7, 40),
            max_readahead: 131_072,
            flags: 0x21,
            max_background: 64,
            max_bytes: 1 << 20,
            max_pages: 256,
        });
        assert_eq!(answer.len(), 64);
        assert_eq!(answer[12..16], 0x21_u32.to_ne_bytes());
        assert_eq!(answer[16..20], [64, 0, 48, 0]);
        assert_eq!(answer[20..24], (1_u32 << 20).to_ne_bytes());
        assert_eq!(answer[28..30], 256_u16.to_ne_bytes());
    }

    #[test]
    fn requests() {
        let read: Vec<u8> = [1u64.to_ne_bytes(), 4096u64.to_ne_bytes(), [0; 8]].concat();
        let cases: [(u32, &[u8], Operation<'_>); 5] = [
            (1, b"name\0", Operation::Lookup { name: b"name" }),
            (2, &3u64.to_ne_bytes(), Operation::Forget(vec![(9, 3)])),
            (
                15,
                &read,
                Operation::Read {
                    offset: 4096,
                    size: 0,
                },
            ),
            (36, &5u64.to_ne_bytes(), Operation::Interrupt { unique: 5 }),
            (9, b"", Operation::Write),
        ];
        for (opcode, body, operation) in cases {
            let bytes = request(opcode, body);
            let expected = Request {
                unique: 7,
                node: 9,
                pid: 42,
                operation,
            };
            assert_eq!(Request::decode(&bytes), Some(expected));
        }
    }

    #[test]
    fn requests_that_are_cut_off_are_none() {
        let whole = request(22, &[&[0; 8], &b"user.x\0"[..]].concat());
        assert!(Request::decode(&whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(Request::decode(&whole[..length]), None, "{length}");
        }
        let batch = request(42, &[&1000u32.to_ne_bytes()[..], &[0; 4]].concat());
        assert_eq!(Request::decode(&batch), None);
    }

    #[test]
    fn answers_have_the_sizes_of_the_kernel() {
        let attributes = Attributes {
            inode: 1,
            size: 513,
            sectors: sectors(513),
            links: 1,
            mtime: (-1, 5),
            mode: 0o100_444,
            uid: 0,
            gid: 0,
        };
        assert_eq!(attributes.encode().len(), 16 + 88);
        assert_eq!(node(5, Some(&attributes)).len(), NODE_BYTES);
        assert_eq!(node(0, None).len(), NODE_BYTES);
        assert_eq!(statistics(1).len(), 80);
        assert_eq!(prune(&[1, 2]).len(), REPLY_HEADER_BYTES + 16 + 16);
        let notice = invalid_entry(7, b"name");
        assert_eq!(notice.len(), REPLY_HEADER_BYTES + 16 + 5);
        assert_eq!(notice[4..8], NOTICE_INVALID_ENTRY.to_ne_bytes());
    }

    #[test]
    fn a_listing_keeps_to_its_size() {
        let mut listed = Listed::new(100);
        let name = b"123456789";
        let mut count = 0;
        while Listed::length(name, false) <= listed.room() {
            count += 1;
            listed.push(ListedEntry {
                inode: 1,
                offset: count,
                kind: 0,
                name,
            });
        }
        assert_eq!((count, listed.into_bytes().len()), (2, 80));
        assert!(Listed::length(name, true) > 100);
    }
}
