//! yamux from peers that send as much in one frame as the window allows.
//!
//! js-libp2p does, and the window of a busy stream grows to several megabytes, while the yamux of
//! this program ends a connection at a frame of more than one. So frames that are larger are taken
//! apart on their way in: the same bytes of the same stream, in several frames. See the [yamux]
//! specification for the layout of a header.
//!
//! [yamux]: https://github.com/hashicorp/yamux/blob/master/spec.md

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::yamux;

/// Longest body that is handed on in one frame, in bytes.
const MAX_BODY_BYTES: u32 = 256 * 1024;

const HEADER_BYTES: usize = 12;

/// Type of frames that have a body.
const DATA: u8 = 0;

/// Flags that end a stream, in the lower byte of the flags: FIN and RST.
const ENDS: u8 = 0x4 | 0x8;

/// yamux whose peers may send frames of any size.
#[derive(Clone, Debug, Default)]
pub(super) struct Yamux(yamux::Config);

impl UpgradeInfo for Yamux {
    type Info = <yamux::Config as UpgradeInfo>::Info;
    type InfoIter = <yamux::Config as UpgradeInfo>::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.protocol_info()
    }
}

impl<C> InboundConnectionUpgrade<C> for Yamux
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = yamux::Muxer<SmallFrames<C>>;
    type Error = io::Error;
    type Future = <yamux::Config as InboundConnectionUpgrade<SmallFrames<C>>>::Future;

    fn upgrade_inbound(self, connection: C, info: Self::Info) -> Self::Future {
        self.0.upgrade_inbound(SmallFrames::new(connection), info)
    }
}

impl<C> OutboundConnectionUpgrade<C> for Yamux
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = yamux::Muxer<SmallFrames<C>>;
    type Error = io::Error;
    type Future = <yamux::Config as OutboundConnectionUpgrade<SmallFrames<C>>>::Future;

    fn upgrade_outbound(self, connection: C, info: Self::Info) -> Self::Future {
        self.0.upgrade_outbound(SmallFrames::new(connection), info)
    }
}

/// A connection that is read as small frames.
pub(super) struct SmallFrames<C> {
    connection: C,
    /// The header of the frame that is being handed on; at first it is being read.
    header: [u8; HEADER_BYTES],
    /// Bytes of the header that were read.
    filled: usize,
    /// Bytes of the header that were handed on.
    handed_on: usize,
    /// Bytes of the body that belong to this header.
    body_left: u32,
    /// Bytes of the body that need further headers.
    rest: u32,
    /// Flags that the last of these headers gets.
    last_flags: u8,
}

impl<C> SmallFrames<C> {
    fn new(connection: C) -> SmallFrames<C> {
        SmallFrames {
            connection,
            header: [0; HEADER_BYTES],
            filled: 0,
            handed_on: 0,
            body_left: 0,
            rest: 0,
            last_flags: 0,
        }
    }

    /// A header was read: what follows it, and what of it is handed on.
    fn begin(&mut self) {
        let [_, kind, _, flags, _, _, _, _, length @ ..] = self.header;
        let length = u32::from_be_bytes(length);
        if kind != DATA {
            return;
        }
        self.body_left = length.min(MAX_BODY_BYTES);
        self.rest = length - self.body_left;
        if self.rest > 0 {
            self.last_flags = flags & ENDS;
            self.header[3] = flags & !ENDS;
        }
        self.header[8..].copy_from_slice(&self.body_left.to_be_bytes());
    }

    /// Makes the header of the next part of the body.
    fn go_on(&mut self) {
        self.body_left = self.rest.min(MAX_BODY_BYTES);
        self.rest -= self.body_left;
        self.header[2] = 0;
        self.header[3] = if self.rest == 0 { self.last_flags } else { 0 };
        self.header[8..].copy_from_slice(&self.body_left.to_be_bytes());
        self.handed_on = 0;
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for SmallFrames<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            if this.filled < HEADER_BYTES {
                let unread = &mut this.header[this.filled..];
                match ready!(Pin::new(&mut this.connection).poll_read(context, unread)) {
                    Ok(0) => return Poll::Ready(this.end(buffer)),
                    Ok(count) => this.filled += count,
                    Err(error) => return Poll::Ready(Err(error)),
                }
                if this.filled == HEADER_BYTES {
                    this.begin();
                }
            } else if this.handed_on < HEADER_BYTES {
                return Poll::Ready(Ok(this.hand_on(HEADER_BYTES, buffer)));
            } else if this.body_left > 0 {
                let most = buffer.len().min(this.body_left as usize);
                let part = &mut buffer[..most];
                let read = ready!(Pin::new(&mut this.connection).poll_read(context, part));
                if let Ok(count) = read {
                    this.body_left -= count as u32;
                }
                return Poll::Ready(read);
            } else if this.rest > 0 {
                this.go_on();
            } else {
                this.filled = 0;
                this.handed_on = 0;
            }
        }
    }
}

impl<C> SmallFrames<C> {
    /// Hands on what there is of the first `length` bytes of the header.
    fn hand_on(&mut self, length: usize, buffer: &mut [u8]) -> usize {
        let left = &self.header[self.handed_on..length];
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        self.handed_on += count;
        count
    }

    /// The connection has ended, maybe within a header.
    fn end(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.hand_on(self.filled, buffer))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for SmallFrames<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_close(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::AsyncReadExt;
    use futures::io::Cursor;

    const SYN: u8 = 1;
    const FIN: u8 = 4;
    const WINDOW_UPDATE: u8 = 1;

    fn frame(kind: u8, flags: u8, length: u32, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, kind, 0, flags, 0, 0, 0, 7];
        frame.extend(length.to_be_bytes());
        frame.extend(body);
        frame
    }

    async fn translate(bytes: Vec<u8>) -> Vec<u8> {
        let mut translated = Vec::new();
        let mut frames = SmallFrames::new(Cursor::new(bytes));
        frames.read_to_end(&mut translated).await.unwrap();
        translated
    }

    #[tokio::test]
    async fn small_frames_pass_unchanged() {
        let mut bytes = frame(DATA, SYN, 5, b"hello");
        // The length of a window update is no length, and that of a ping neither.
        bytes.extend(frame(WINDOW_UPDATE, 0, 16 << 20, b""));
        bytes.extend(frame(2, SYN, u32::MAX, b""));
        bytes.extend(frame(DATA, FIN, 0, b""));
        bytes.extend(frame(
            DATA,
            0,
            MAX_BODY_BYTES,
            &vec![1; MAX_BODY_BYTES as usize],
        ));
        bytes.extend(frame(DATA, FIN, 3, b"bye"));
        bytes.extend([0, 0, 0]);
        assert!(translate(bytes.clone()).await == bytes);
    }

    #[tokio::test]
    async fn large_frames_become_small_and_end_once() {
        let length = 2 * MAX_BODY_BYTES + 1;
        let body: Vec<u8> = (0..length).map(|index| index as u8).collect();
        let mut bytes = frame(DATA, SYN | FIN, length, &body);
        bytes.extend(frame(DATA, 0, 5, b"after"));
        let (first, rest) = body.split_at(MAX_BODY_BYTES as usize);
        let (second, third) = rest.split_at(MAX_BODY_BYTES as usize);
        let mut expected = frame(DATA, SYN, MAX_BODY_BYTES, first);
        expected.extend(frame(DATA, 0, MAX_BODY_BYTES, second));
        expected.extend(frame(DATA, FIN, 1, third));
        expected.extend(frame(DATA, 0, 5, b"after"));
        assert!(translate(bytes).await == expected);
    }
}
