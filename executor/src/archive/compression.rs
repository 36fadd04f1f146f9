//! Compression, told by the first bytes.
//!
//! Each format may consist of several streams in a row, as its own tools accept. A stream that
//! ends early is an error of the reader, of kind `UnexpectedEof`. Bytes behind the last stream that begin
//! no other one are ignored, as gzip does, and reported.

use std::io::{self, BufRead, Read};

use bzip2::bufread::BzDecoder;
use flate2::bufread::GzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::Stream;

use super::error::ArchiveError;
use super::peek::Peek;

/// Bytes needed to tell the format.
const SIGNATURE_BYTES: usize = 10;

/// Most memory that xz may take, in bytes. Its highest preset needs 65 MiB; headers can ask for
/// 4 GiB.
const XZ_MEMORY_BYTES: u64 = 96 * 1024 * 1024;

/// Streams of xz may have zeros between them, a multiple of so many.
const XZ_PADDING: [u8; 4] = [0; 4];

/// Most of such zeros that are passed over, in bytes: more than a block of any disk or tape.
const MAX_XZ_PADDING_BYTES: usize = 1024 * 1024;

/// Largest zstd window, as a power of two: what `zstd -d` accepts without further options.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Wraps `source` in the decompressor that its first bytes ask for; bytes of no known format pass
/// through.
pub(super) fn decompress<S: Read>(source: S) -> Result<Decompressed<S>, ArchiveError> {
    let failed = |source| ArchiveError::Read { source };
    let mut source = Peek::new(source);
    let format = Format::of(source.peek(SIGNATURE_BYTES).map_err(failed)?);
    Ok(Decompressed {
        format,
        decoder: Some(format.decoder(source).map_err(failed)?),
        has_trailing_bytes: false,
    })
}

/// A decompressed archive.
pub(super) struct Decompressed<S> {
    format: Format,
    /// Of the stream that is being read; none behind the last one.
    decoder: Option<Decoder<S>>,
    has_trailing_bytes: bool,
}

impl<S: Read> Decompressed<S> {
    /// Whether bytes follow the last stream. Known at the end.
    pub(super) fn has_trailing_bytes(&self) -> bool {
        self.has_trailing_bytes
    }

    /// The name of the compression.
    pub(super) fn format(&self) -> &'static str {
        self.format.name()
    }

    /// Goes on with the stream that follows the one that has ended, if there is one.
    fn next_stream(&mut self) -> io::Result<bool> {
        let Some(decoder) = &mut self.decoder else {
            return Ok(false);
        };
        let source = decoder.source();
        if self.format == Format::Xz {
            skip_padding(source)?;
        }
        let ahead = source.peek(SIGNATURE_BYTES)?;
        let follows = self.format != Format::Plain && Format::of(ahead) == self.format;
        self.has_trailing_bytes = !follows && !ahead.is_empty();
        let source = self.decoder.take().map(Decoder::into_source);
        if let Some(source) = source.filter(|_| follows) {
            self.decoder = Some(self.format.decoder(source)?);
        }
        Ok(follows)
    }
}

impl<S: Read> Read for Decompressed<S> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let Some(decoder) = &mut self.decoder else {
            return Ok(0);
        };
        match decoder.read(target)? {
            0 if !target.is_empty() => match self.next_stream()? {
                // Streams may be empty, and millions: the caller looks whether it should go on.
                true => Err(io::ErrorKind::Interrupted.into()),
                false => Ok(0),
            },
            length => Ok(length),
        }
    }
}

fn skip_padding<S: Read>(source: &mut Peek<S>) -> io::Result<()> {
    let mut skipped = 0;
    while skipped < MAX_XZ_PADDING_BYTES && source.peek(XZ_PADDING.len())?.starts_with(&XZ_PADDING)
    {
        source.consume(XZ_PADDING.len());
        skipped += XZ_PADDING.len();
    }
    Ok(())
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
                ..,
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
                ..,
            ] => Format::Bzip2,
            _ => Format::Plain,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Format::Plain => "tar",
            Format::Gzip => "gzip",
            Format::Zstd => "zstd",
            Format::Xz => "xz",
            Format::Bzip2 => "bzip2",
        }
    }

    /// A decoder of the one stream that begins `source`.
    fn decoder<S: Read>(self, source: Peek<S>) -> io::Result<Decoder<S>> {
        Ok(match self {
            Format::Plain => Decoder::Plain(source),
            Format::Gzip => Decoder::Gzip(GzDecoder::new(source)),
            Format::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?.single_frame();
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Decoder::Zstd(decoder)
            }
            Format::Xz => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY_BYTES, 0)?;
                Decoder::Xz(XzDecoder::new_stream(source, stream))
            }
            Format::Bzip2 => Decoder::Bzip2(BzDecoder::new(source)),
        })
    }
}

/// A decoder of one stream. At its end it has taken no byte of the next one.
enum Decoder<S> {
    Plain(Peek<S>),
    Gzip(GzDecoder<Peek<S>>),
    Zstd(zstd::stream::read::Decoder<'static, Peek<S>>),
    Xz(XzDecoder<Peek<S>>),
    Bzip2(BzDecoder<Peek<S>>),
}

impl<S: Read> Decoder<S> {
    fn source(&mut self) -> &mut Peek<S> {
        match self {
            Decoder::Plain(source) => source,
            Decoder::Gzip(decoder) => decoder.get_mut(),
            Decoder::Zstd(decoder) => decoder.get_mut(),
            Decoder::Xz(decoder) => decoder.get_mut(),
            Decoder::Bzip2(decoder) => decoder.get_mut(),
        }
    }

    fn into_source(self) -> Peek<S> {
        match self {
            Decoder::Plain(source) => source,
            Decoder::Gzip(decoder) => decoder.into_inner(),
            Decoder::Zstd(decoder) => decoder.into_inner(),
            Decoder::Xz(decoder) => decoder.into_inner(),
            Decoder::Bzip2(decoder) => decoder.into_inner(),
        }
    }

    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::Plain(source) => source.read(target),
            Decoder::Gzip(decoder) => decoder.read(target),
            Decoder::Zstd(decoder) => decoder.read(target),
            Decoder::Xz(decoder) => decoder.read(target),
            Decoder::Bzip2(decoder) => decoder.read(target),
        }
    }
}
