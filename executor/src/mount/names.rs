//! The names of a directory on disk, sorted, in parts of bounded memory.
//!
//! A directory may have more names than memory should hold, and a listing has to be sorted. One pass over the
//! directory keeps the first names that fit into [`PART_BYTES`]; the next part takes another pass, which
//! starts after the last name of the part before.

use std::collections::BinaryHeap;
use std::os::fd::OwnedFd;

use rustix::fs::{Dir, FileType};
use rustix::io::Errno;

use super::files::TYPES;

/// Most memory of one part.
const PART_BYTES: usize = 4 << 20;

/// Memory of a name beside its bytes.
const NAME_BYTES: usize = 48;

/// One name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) bytes: Box<[u8]>,
    /// The type bits of a mode; 0 where the file system does not tell them.
    pub(super) kind: u32,
}

impl Name {
    fn memory(&self) -> usize {
        self.bytes.len() + NAME_BYTES
    }
}

/// Consecutive names of a directory, in order.
#[derive(Debug)]
pub(super) struct Names {
    /// How many names come before these.
    first: u64,
    names: Vec<Name>,
    /// Whether no name comes after these.
    pub(super) is_end: bool,
    /// Bytes of memory.
    pub(super) memory: usize,
}

impl Names {
    /// Reads the names of `directory` that come after those of `before`.
    pub(super) fn read(directory: OwnedFd, before: Option<&Names>) -> Result<Names, Errno> {
        let names = Dir::new(directory)?.filter_map(|entry| match entry {
            Ok(entry) => {
                let bytes = entry.file_name().to_bytes();
                (bytes != b"." && bytes != b"..").then(|| {
                    Ok(Name {
                        bytes: bytes.into(),
                        kind: kind(entry.file_type()),
                    })
                })
            }
            Err(errno) => Some(Err(errno)),
        });
        Names::select(names, before, PART_BYTES)
    }

    /// The first of `all` names after those of `before` that fit into `limit` bytes of memory, and one in any
    /// case.
    fn select(
        all: impl Iterator<Item = Result<Name, Errno>>,
        before: Option<&Names>,
        limit: usize,
    ) -> Result<Names, Errno> {
        let last = before.and_then(|before| before.names.last());
        let mut kept = BinaryHeap::new();
        let (mut memory, mut is_end) = (0, true);
        for name in all {
            let name = name?;
            if last.is_some_and(|last| name.bytes <= last.bytes) {
                continue;
            }
            memory += name.memory();
            kept.push(name);
            while memory > limit
                && kept.len() > 1
                && let Some(largest) = kept.pop()
            {
                memory -= largest.memory();
                is_end = false;
            }
        }
        Ok(Names {
            first: before.map_or(0, Names::end),
            names: kept.into_sorted_vec(),
            is_end,
            memory,
        })
    }

    fn end(&self) -> u64 {
        self.first + self.names.len() as u64
    }

    /// Whether the name with this number is among these, or there is none.
    pub(super) fn decides(&self, number: u64) -> bool {
        self.is_before(number) && (number < self.end() || self.is_end)
    }

    /// Whether the name with this number is not before these.
    pub(super) fn is_before(&self, number: u64) -> bool {
        self.first <= number
    }

    /// Those from this number on.
    pub(super) fn from(&self, number: u64) -> &[Name] {
        let skipped = usize::try_from(number.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.names.get(skipped..).unwrap_or_default()
    }
}

fn kind(file_type: FileType) -> u32 {
    match file_type {
        FileType::Unknown => 0,
        known => known.as_raw_mode() & TYPES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name {
            bytes: text.as_bytes().into(),
            kind: 0,
        }
    }

    /// A directory of four million names takes no more memory than one of a hundred thousand, and its listing
    /// is the same whatever order the disk has.
    #[test]
    fn parts_give_every_name_once_and_in_order() {
        let sorted: Vec<_> = (0..100).map(|number| format!("{number:04}")).collect();
        let shuffled: Vec<_> = (0..100).map(|number| &sorted[number * 37 % 100]).collect();
        let each = 4 + NAME_BYTES;
        // A limit below one name; parts of 1, 7 and 99 names; all at once, exactly and with room.
        for limit in [1, each, 7 * each, 99 * each, 100 * each, 101 * each] {
            let mut seen = Vec::new();
            let mut before: Option<Names> = None;
            loop {
                let all = shuffled.iter().map(|text| Ok(name(text)));
                let part = Names::select(all, before.as_ref(), limit).unwrap();
                assert!(part.memory <= limit.max(each), "{limit}");
                let number = seen.len() as u64;
                assert!(part.decides(number) && part.is_before(number));
                assert_eq!(part.from(number).len(), part.names.len());
                seen.extend(part.names.iter().map(|name| name.bytes.clone()));
                if part.is_end {
                    assert!(part.decides(1000) && part.from(1000).is_empty());
                    break;
                }
                assert!(!part.decides(seen.len() as u64));
                before = Some(part);
            }
            let seen: Vec<_> = seen.iter().map(|bytes| &**bytes).collect();
            let wanted: Vec<_> = sorted.iter().map(String::as_bytes).collect();
            assert_eq!(seen, wanted, "{limit}");
        }
    }

    #[test]
    fn an_error_of_the_disk_is_passed_on() {
        let all = [Ok(name("a")), Err(Errno::IO)].into_iter();
        assert_eq!(Names::select(all, None, 100).unwrap_err(), Errno::IO);
    }
}
