//! Compression, told by the first bytes.
//!
//! Each format may consist of several streams in a row, as its own tools accept. A stream that
//! ends early is an error of the reader, of kind `UnexpectedEof`.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

use super::error::ArchiveError;

/// Bytes needed to tell the format.
const SIGNATURE_BYTES: usize = 10;

/// Bytes read at once from the source.
const BUFFER_BYTES: usize = 128 * 1024;

/// Most memory that xz may take, in bytes. Its highest preset needs 65 MiB; headers can ask for
/// 4 GiB.
const XZ_MEMORY_BYTES: u64 = 96 * 1024 * 1024;

/// Largest zstd window, as a power of two: what `zstd -d` accepts without further options.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Wraps `source` in the decompressor that its first bytes ask for; bytes of no known format pass
/// through.
pub(super) fn decompress<'s>(
    mut source: impl Read + Send + 's,
) -> Result<Box<dyn Read + Send + 's>, ArchiveError> {
    let failed = |source| ArchiveError::Read { source };
    let mut signature = Vec::with_capacity(SIGNATURE_BYTES);
    source
        .by_ref()
        .take(SIGNATURE_BYTES as u64)
        .read_to_end(&mut signature)
        .map_err(failed)?;
    let format = Format::of(&signature);
    let whole = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(signature).chain(source));
    format.decoder(whole).map_err(failed)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Plain,
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Format {
    fn of(signature: &[u8]) -> Format {
        match signature {
            [0x1f, 0x8b, ..] => Format::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Format::Zstd,
            // A skippable frame, which seekable and parallel compressors put first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Format::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Format::Xz,
            // The level, then the magic number of the first block or of the end of the stream.
            [
                b'B',
                b'Z',
                b'h',
                b'1'..=b'9',
                0x31,
                0x41,
                0x59,
                0x26,
                0x53,
                0x59,
            ] => Format::Bzip2,
            [
                b'B',
                b'Z',
                b'h',
                b'1'..=b'9',
                0x17,
                0x72,
                0x45,
                0x38,
                0x50,
                0x90,
            ] => Format::Bzip2,
            _ => Format::Plain,
        }
    }

    fn decoder<'s>(
        self,
        source: impl BufRead + Send + 's,
    ) -> io::Result<Box<dyn Read + Send + 's>> {
        Ok(match self {
            Format::Plain => Box::new(source),
            Format::Gzip => Box::new(MultiGzDecoder::new(source)),
            Format::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
            Format::Xz => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY_BYTES, CONCATENATED)?;
                Box::new(XzDecoder::new_stream(source, stream))
            }
            Format::Bzip2 => Box::new(MultiBzDecoder::new(source)),
        })
    }
}
