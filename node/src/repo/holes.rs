//! Gaps in segments become holes: sections of zeros that take no space.
//!
//! A hole stays a valid CAR section: its data is zeros, and its CID is that of those zeros. So a program
//! that reads the segment as a CAR file finds no error.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::block::{self, Cid, Multihash, RAW};
use crate::dag::{section_header, varint_length};
use crate::limits;

/// Data in one hole, in bytes: readers of CAR files bound their sections.
const MAX_HOLE_BYTES: u64 = limits::MAX_BLOCK_BYTES as u64;

/// Turns a gap into sections of zeros that take no space. Data goes first: a header of zeros
/// stands only where the zeros are, so a crash in between is noticed by the next collection.
pub(super) fn punch(file: &File, gap: Range<u64>, zeros: &mut Zeros) -> io::Result<()> {
    for (start, data_length) in hole_sections(gap) {
        let header = zeros.section_header(data_length);
        let mut present = vec![0; header.len()];
        file.read_exact_at(&mut present, start)?;
        if present == header {
            continue;
        }
        if data_length > 0 {
            let data = start + header.len() as u64;
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match rustix::fs::fallocate(file, flags, data, data_length) {
                Ok(()) => {}
                // This file system has no holes: the dead data stays until the segment is
                // rewritten.
                Err(Errno::OPNOTSUPP) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
        file.write_all_at(&header, start)?;
    }
    Ok(())
}

/// Bytes of a CIDv1 of raw data under SHA-256.
const ZEROS_CID_BYTES: u64 = 36;

/// Bytes of the smallest hole: a section without data.
const MIN_HOLE_BYTES: u64 = ZEROS_CID_BYTES + 1;

/// Cuts a gap into sections of (start, bytes of data) that fill it exactly. A gap too small for a
/// section, or a rest that no length can fill, is left as it is: it still is whole sections.
fn hole_sections(gap: Range<u64>) -> Vec<(u64, u64)> {
    let mut sections = Vec::new();
    let mut start = gap.start;
    while gap.end - start >= MIN_HOLE_BYTES {
        let rest = gap.end - start;
        // Leave enough behind that a last section fits.
        let most = rest.min(MAX_HOLE_BYTES);
        let wanted = if rest - most > 0 && rest - most < 2 * MIN_HOLE_BYTES {
            most - 2 * MIN_HOLE_BYTES
        } else {
            most
        };
        match data_length_for(wanted)
            .or_else(|| data_length_for(wanted.checked_sub(MIN_HOLE_BYTES)?))
        {
            Some(data_length) => {
                sections.push((start, data_length));
                start += section_length(data_length);
            }
            None => break,
        }
    }
    if start == gap.end {
        sections
    } else {
        Vec::new()
    }
}

fn section_length(data_length: u64) -> u64 {
    let body = ZEROS_CID_BYTES + data_length;
    varint_length(body) as u64 + body
}

/// How much data makes a section of exactly `total` bytes; some lengths have no answer, where the
/// varint grows.
fn data_length_for(total: u64) -> Option<u64> {
    (1..=4)
        .filter_map(|varint| total.checked_sub(varint + ZEROS_CID_BYTES))
        .find(|data_length| section_length(*data_length) == total)
}

/// The headers of sections of zeros, which are hashed once a length.
#[derive(Default)]
pub(super) struct Zeros {
    by_length: HashMap<u64, Multihash>,
}

impl Zeros {
    /// Gaps of few lengths are common, of many rare: a bound for those.
    const MAX_CACHED: usize = 4096;

    fn section_header(&mut self, data_length: u64) -> Vec<u8> {
        if self.by_length.len() >= Zeros::MAX_CACHED {
            self.by_length.clear();
        }
        let hash = *self
            .by_length
            .entry(data_length)
            .or_insert_with(|| block::sha2_256(&[&vec![0; data_length as usize]]));
        section_header(&Cid::new_v1(RAW, hash), data_length as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_fill_gaps_exactly() {
        let lengths = (1..600).chain(16_000..17_000).chain([
            MAX_HOLE_BYTES - 1,
            MAX_HOLE_BYTES,
            MAX_HOLE_BYTES + 1,
            MAX_HOLE_BYTES + 60,
            2 * MAX_HOLE_BYTES + 38,
            700 << 20,
        ]);
        for length in lengths {
            let gap = 100..100 + length;
            let sections = hole_sections(gap.clone());
            let mut end = gap.start;
            for (start, data_length) in &sections {
                assert_eq!(*start, end, "{length}");
                assert!(section_length(*data_length) <= MAX_HOLE_BYTES, "{length}");
                end += section_length(*data_length);
            }
            assert!(sections.is_empty() || end == gap.end, "{length}");
            assert!(!sections.is_empty() || length < 200, "{length} is wasted");
        }
    }
}
