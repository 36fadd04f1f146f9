//! Reading CAR files.

use std::io::{self, Read};

use bytes::Bytes;

use super::header::{Header, HeaderError};
use super::{CarError, CarImported};
use crate::block::{Block, Cid, IDENTITY, WriteBlocks};
use crate::budget::{Budget, Spending};
use crate::limits;
use crate::progress::{Event, Reporter};

/// The first eleven bytes of every version 2: a version 1 header that says 2.
const V2_PRAGMA_LENGTH: u64 = 11;
const V2_VERSION: u64 = 2;
const V2_HEADER_BYTES: usize = 40;

/// Longest CID in a section: a few varints and the longest digest.
const MAX_CID_BYTES: u64 = 4 * 10 + limits::MAX_IDENTITY_BYTES as u64;

/// Blocks handed to the store at once, in bytes and in number.
const PUT_BYTES: usize = 1 << 20;
const PUT_BLOCKS: usize = 256;

/// The blocks of a CAR file, verified, in the order of the file.
#[derive(Debug)]
pub struct CarReader<R> {
    stream: Counted<io::Take<R>>,
    roots: Vec<Cid>,
}

impl<R: Read> CarReader<R> {
    /// Reads the header, of version 1 or 2.
    ///
    /// # Errors
    /// [`CarError::Header`], [`CarError::Truncated`].
    pub fn new(stream: R) -> Result<CarReader<R>, CarError> {
        let mut stream = Counted {
            inner: stream.take(u64::MAX),
            offset: 0,
        };
        let mut header = read_header(&mut stream)?;
        if header.version == V2_VERSION && stream.offset == V2_PRAGMA_LENGTH {
            enter_v2(&mut stream)?;
            header = read_header(&mut stream)?;
        }
        if header.version != 1 {
            return Err(HeaderError::Version {
                version: header.version,
            }
            .into());
        }
        Ok(CarReader {
            stream,
            roots: header.roots,
        })
    }

    /// The roots that the header names.
    pub fn roots(&self) -> &[Cid] {
        &self.roots
    }

    /// The next block; `None` at the end.
    ///
    /// # Errors
    /// Where the section is malformed or the block is not what its CID says. Nothing can be read
    /// after that.
    pub fn next_block(&mut self) -> Result<Option<Block>, CarError> {
        let offset = self.stream.offset;
        let Some(length) = self.stream.varint()? else {
            return Ok(None);
        };
        // Some writers pad the end of a file with zeros.
        if length == 0 {
            return self.expect_padding(offset);
        }
        if length > MAX_CID_BYTES + limits::MAX_BLOCK_BYTES as u64 {
            return Err(CarError::InvalidSection { offset });
        }
        let section = Bytes::from(self.stream.exactly(length as usize)?);
        let mut rest = &section[..];
        let cid = Cid::read_bytes(&mut rest).map_err(|_| CarError::InvalidSection { offset })?;
        let data = section.slice(section.len() - rest.len()..);
        Ok(Some(Block::verified(cid, data)?))
    }

    fn expect_padding(&mut self, offset: u64) -> Result<Option<Block>, CarError> {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read_some(&mut buffer)? {
                0 => return Ok(None),
                count if buffer[..count].iter().all(|byte| *byte == 0) => {}
                _ => return Err(CarError::InvalidSection { offset }),
            }
        }
    }
}

fn read_header<R: Read>(stream: &mut Counted<io::Take<R>>) -> Result<Header, CarError> {
    let length = stream.varint()?.ok_or(CarError::Truncated {
        offset: stream.offset,
    })?;
    if length == 0 {
        return Err(HeaderError::Malformed.into());
    }
    if length > limits::MAX_CAR_HEADER_BYTES as u64 {
        return Err(HeaderError::TooLong.into());
    }
    Ok(Header::decode(&stream.exactly(length as usize)?)?)
}

/// Reads the fixed header of a version 2 and moves to the version 1 inside, whose end then is the
/// end of the stream.
fn enter_v2<R: Read>(stream: &mut Counted<io::Take<R>>) -> Result<(), CarError> {
    let header = stream.exactly(V2_HEADER_BYTES)?;
    let number =
        |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    // Sixteen bytes of characteristics come first.
    let (data_offset, data_size) = (number(16), number(24));
    let skip = data_offset
        .checked_sub(stream.offset)
        .ok_or(HeaderError::Offsets)?;
    let skipped =
        io::copy(&mut (&mut stream.inner).take(skip), &mut io::sink()).map_err(read_error)?;
    stream.offset += skipped;
    if skipped < skip {
        return Err(CarError::Truncated {
            offset: stream.offset,
        });
    }
    stream.inner.set_limit(data_size);
    Ok(())
}

fn read_error(source: io::Error) -> CarError {
    CarError::Io {
        action: "read",
        source,
    }
}

/// A stream that knows how far it was read.
#[derive(Debug)]
struct Counted<R> {
    inner: R,
    offset: u64,
}

impl<R: Read> Counted<R> {
    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, CarError> {
        loop {
            match self.inner.read(buffer) {
                Ok(count) => {
                    self.offset += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_error(error)),
            }
        }
    }

    /// A varint; `None` at the end of the stream.
    fn varint(&mut self) -> Result<Option<u64>, CarError> {
        let start = self.offset;
        let mut value = 0u64;
        for shift in (0..63).step_by(7) {
            let mut byte = [0];
            if self.read_some(&mut byte)? == 0 {
                return if shift == 0 {
                    Ok(None)
                } else {
                    Err(CarError::Truncated {
                        offset: self.offset,
                    })
                };
            }
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(Some(value));
            }
        }
        Err(CarError::InvalidSection { offset: start })
    }

    /// Exactly `length` bytes, which the caller has bounded.
    fn exactly(&mut self, length: usize) -> Result<Vec<u8>, CarError> {
        let mut bytes = Vec::with_capacity(length);
        let count = (&mut self.inner)
            .take(length as u64)
            .read_to_end(&mut bytes)
            .map_err(read_error)?;
        self.offset += count as u64;
        if count < length {
            Err(CarError::Truncated {
                offset: self.offset,
            })
        } else {
            Ok(bytes)
        }
    }
}

/// Puts every block of a CAR file into `blocks`. Each block is an entry of the budget, and its data
/// counts as bytes.
///
/// # Errors
/// As [`CarReader`], and [`CarError::Budget`]; the blocks before the fault may have been kept.
pub fn import(
    blocks: &dyn WriteBlocks,
    stream: impl Read,
    budget: &Budget,
    reporter: &dyn Reporter,
) -> Result<CarImported, CarError> {
    let spending = Spending::new(budget);
    let mut reader = CarReader::new(io::BufReader::with_capacity(256 * 1024, stream))?;
    let mut imported = CarImported {
        roots: reader.roots().to_vec(),
        ..CarImported::default()
    };
    let mut batch = Vec::with_capacity(PUT_BLOCKS);
    let mut batch_bytes = 0;
    while let Some(block) = reader.next_block()? {
        if reporter.cancel().is_cancelled() {
            return Err(CarError::Interrupted);
        }
        let length = block.data().len();
        spending.check_time()?;
        spending.take_entry()?;
        spending.take_bytes(length as u64)?;
        imported.blocks += 1;
        imported.bytes += length as u64;
        reporter.report(Event::Advanced {
            bytes: length as u64,
        });
        if block.cid().hash().code() != IDENTITY {
            batch_bytes += length;
            batch.push(block);
        }
        if batch.len() >= PUT_BLOCKS || batch_bytes >= PUT_BYTES {
            blocks.put_within(&batch, &budget.keep_free)?;
            batch.clear();
            batch_bytes = 0;
        }
    }
    blocks.put_within(&batch, &budget.keep_free)?;
    Ok(imported)
}
