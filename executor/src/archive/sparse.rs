//! Sparse files: which parts of a file an archive carries.
//!
//! Four formats are read: the one of GNU tar's own archives, and the versions 0.0, 0.1 and 1.0
//! that GNU tar and libarchive write into PAX archives.

use std::io::Read;

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::bounds::MAX_REGIONS;
use super::error::{ArchiveError, Refusal};
use super::record::{decimal, set};
use super::stream::{BLOCK_BYTES, Stream};

/// Part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// A file's size and the parts of it that are carried, in order; the rest are holes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) size: u64,
    pub(super) regions: Vec<Region>,
}

impl Layout {
    /// A file without holes.
    pub(super) fn whole(size: u64) -> Layout {
        Layout {
            size,
            regions: vec![Region {
                offset: 0,
                length: size,
            }],
        }
    }

    /// Checks that the regions are ordered, lie within the file, and make up `carried` bytes.
    fn new(size: u64, regions: Vec<Region>, carried: u64) -> Result<Layout, Refusal> {
        let mut end = 0;
        let mut sum = 0u64;
        for region in &regions {
            if region.offset < end {
                return Err(Refusal::InvalidSparseMap);
            }
            end = region
                .offset
                .checked_add(region.length)
                .ok_or(Refusal::InvalidSparseMap)?;
            sum += region.length;
        }
        if end > size || sum != carried {
            return Err(Refusal::InvalidSparseMap);
        }
        Ok(Layout { size, regions })
    }

    /// Bytes that the archive does not carry.
    pub(super) fn hole_bytes(&self) -> u64 {
        self.size - self.regions.iter().map(|region| region.length).sum::<u64>()
    }
}

/// Reads the map of an entry of GNU type `S`, part of which stands in blocks after the header.
pub(super) fn read_gnu<R: Read>(
    header: &Header,
    carried: u64,
    stream: &mut Stream<'_, R>,
) -> Result<Result<Layout, Refusal>, ArchiveError> {
    let Some(gnu) = header.as_gnu() else {
        return Ok(Err(Refusal::UnknownType));
    };
    let mut map = GnuMap::default();
    let mut more = gnu.is_extended();
    let mut result = map.extend(&gnu.sparse);
    while more && result.is_ok() {
        let mut extension = GnuExtSparseHeader::new();
        stream.read_exact(extension.as_mut_bytes())?;
        more = extension.is_extended();
        result = map.extend(extension.sparse());
    }
    Ok(result.and_then(|()| {
        let size = gnu.real_size().map_err(|_| Refusal::InvalidSparseMap)?;
        Layout::new(size, map.regions, carried)
    }))
}

#[derive(Default)]
struct GnuMap {
    regions: Vec<Region>,
}

impl GnuMap {
    fn extend(&mut self, parts: &[GnuSparseHeader]) -> Result<(), Refusal> {
        for part in parts.iter().filter(|part| !part.is_empty()) {
            let offset = part.offset().map_err(|_| Refusal::InvalidSparseMap)?;
            let length = part.length().map_err(|_| Refusal::InvalidSparseMap)?;
            // GNU tar starts each region on a block, libarchive right after the last one: only
            // maps that mean the same to both are read.
            let aligned = |last: &Region| last.length.is_multiple_of(BLOCK_BYTES as u64);
            if length > 0 && !self.regions.last().is_none_or(aligned) {
                return Err(Refusal::InvalidSparseMap);
            }
            push(&mut self.regions, Region { offset, length })?;
        }
        Ok(())
    }
}

fn push(regions: &mut Vec<Region>, region: Region) -> Result<(), Refusal> {
    if regions.len() == MAX_REGIONS {
        return Err(Refusal::LongSparseMap);
    }
    regions.push(region);
    Ok(())
}

/// What the keys `GNU.sparse.*` of a PAX header say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SparseRecords {
    pub(super) name: Option<Vec<u8>>,
    size: Option<u64>,
    version: (Option<u64>, Option<u64>),
    /// Offsets and lengths in turn.
    numbers: Vec<u64>,
    map_is_present: bool,
}

impl SparseRecords {
    /// Takes the record `GNU.sparse.KEY`.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let number = || decimal(value).ok_or("a GNU.sparse value is no number");
        match key {
            b"name" => set(&mut self.name, value.to_owned()),
            b"size" | b"realsize" => set(&mut self.size, number()?),
            b"major" => set(&mut self.version.0, number()?),
            b"minor" => set(&mut self.version.1, number()?),
            b"map" => {
                self.map_is_present = true;
                for text in value
                    .split(|byte| *byte == b',')
                    .filter(|text| !text.is_empty())
                {
                    self.numbers
                        .push(decimal(text).ok_or("a GNU.sparse.map is malformed")?);
                }
                Ok(())
            }
            b"offset" | b"numbytes" => {
                self.map_is_present = true;
                let offset_is_next = self.numbers.len().is_multiple_of(2);
                if offset_is_next != (key == b"offset") {
                    return Err("GNU.sparse offsets and lengths do not alternate");
                }
                self.numbers.push(number()?);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether the entry is a sparse file.
    pub(super) fn is_present(&self) -> bool {
        self.map_is_present || self.version.0.is_some()
    }

    /// The layout of the file whose `carried` bytes follow. Version 1.0 keeps its map at their
    /// front, which is read here. Gives the bytes that remain.
    pub(super) fn layout<R: Read>(
        self,
        carried: u64,
        stream: &mut Stream<'_, R>,
    ) -> Result<Result<(Layout, u64), Refusal>, ArchiveError> {
        let Some(size) = self.size else {
            return Ok(Err(Refusal::InvalidSparseMap));
        };
        let (numbers, carried) = match self.version {
            (Some(1), Some(0)) => match ContentMap::new(carried, stream).read()? {
                Ok(read) => read,
                Err(reason) => return Ok(Err(reason)),
            },
            (None, None) | (Some(0), Some(0 | 1)) => (self.numbers, carried),
            _ => return Ok(Err(Refusal::UnknownType)),
        };
        let layout = pair(&numbers).and_then(|regions| Layout::new(size, regions, carried));
        Ok(layout.map(|layout| (layout, carried)))
    }
}

fn pair(numbers: &[u64]) -> Result<Vec<Region>, Refusal> {
    if !numbers.len().is_multiple_of(2) {
        return Err(Refusal::InvalidSparseMap);
    }
    let mut regions = Vec::with_capacity(numbers.len() / 2);
    for numbers in numbers.chunks_exact(2) {
        push(
            &mut regions,
            Region {
                offset: numbers[0],
                length: numbers[1],
            },
        )?;
    }
    Ok(regions)
}

/// The map of version 1.0: decimal numbers, each ended by a newline, padded to whole blocks. The
/// first says how many pairs follow.
struct ContentMap<'s, 'r, R> {
    stream: &'s mut Stream<'r, R>,
    /// Bytes of content left.
    remaining: u64,
    block: [u8; BLOCK_BYTES],
    next: usize,
}

impl<'s, 'r, R: Read> ContentMap<'s, 'r, R> {
    fn new(carried: u64, stream: &'s mut Stream<'r, R>) -> Self {
        ContentMap {
            stream,
            remaining: carried,
            block: [0; BLOCK_BYTES],
            next: BLOCK_BYTES,
        }
    }

    /// Gives the numbers after the first, and the bytes of content that remain.
    fn read(mut self) -> Result<Result<(Vec<u64>, u64), Refusal>, ArchiveError> {
        let Some(pairs) = self.number()? else {
            return Ok(Err(Refusal::InvalidSparseMap));
        };
        if pairs > MAX_REGIONS as u64 {
            return Ok(Err(Refusal::LongSparseMap));
        }
        let mut numbers = Vec::new();
        for _ in 0..2 * pairs {
            let Some(number) = self.number()? else {
                return Ok(Err(Refusal::InvalidSparseMap));
            };
            numbers.push(number);
        }
        Ok(Ok((numbers, self.remaining)))
    }

    fn number(&mut self) -> Result<Option<u64>, ArchiveError> {
        /// Digits of the largest number there is.
        const MAX_DIGITS: usize = 20;
        let mut digits = Vec::with_capacity(MAX_DIGITS);
        loop {
            match self.byte()? {
                Some(b'\n') => return Ok(decimal(&digits)),
                Some(byte) if digits.len() < MAX_DIGITS => digits.push(byte),
                _ => return Ok(None),
            }
        }
    }

    fn byte(&mut self) -> Result<Option<u8>, ArchiveError> {
        if self.next == BLOCK_BYTES {
            let Some(remaining) = self.remaining.checked_sub(BLOCK_BYTES as u64) else {
                return Ok(None);
            };
            self.stream.read_exact(&mut self.block)?;
            self.remaining = remaining;
            self.next = 0;
        }
        self.next += 1;
        Ok(Some(self.block[self.next - 1]))
    }
}
