//! Streams whose opener does not read. QUIC reports this to the accepting side; it is no failure.
//!
//! Kubo sends each bitswap message on a stream of its own. It writes protocol name, message and end at
//! once, and asks for no answer. Over QUIC it resets the other direction at once. Then the answer of the
//! negotiation cannot be written, and the negotiation would fail before the message is read. So bytes
//! that are written to an inbound stream after the peer has stopped reading are dropped, and reading
//! continues.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::StreamMuxer;
use libp2p::core::muxing::StreamMuxerEvent;

/// A connection whose inbound streams can be read also where the peer reads no answer.
pub(super) struct UnreadAnswers<M>(pub(super) M);

impl<M> StreamMuxer for UnreadAnswers<M>
where
    M: StreamMuxer + Unpin,
    M::Substream: Unpin,
{
    type Substream = UnreadStream<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, M::Error>> {
        let opened = ready!(Pin::new(&mut self.0).poll_inbound(context));
        Poll::Ready(opened.map(|stream| UnreadStream::new(stream, true)))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, M::Error>> {
        let opened = ready!(Pin::new(&mut self.0).poll_outbound(context));
        Poll::Ready(opened.map(|stream| UnreadStream::new(stream, false)))
    }

    fn poll_close(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), M::Error>> {
        Pin::new(&mut self.0).poll_close(context)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, M::Error>> {
        Pin::new(&mut self.0).poll(context)
    }
}

/// A stream of such a connection.
pub(super) struct UnreadStream<S> {
    stream: S,
    is_inbound: bool,
    /// The peer has stopped reading.
    is_unread: bool,
}

impl<S> UnreadStream<S> {
    fn new(stream: S, is_inbound: bool) -> UnreadStream<S> {
        UnreadStream {
            stream,
            is_inbound,
            is_unread: false,
        }
    }

    /// What a write comes to: `done` where the peer does not read any more.
    fn settle<T>(&mut self, outcome: io::Result<T>, done: T) -> io::Result<T> {
        match outcome {
            Err(error) if self.is_inbound && error.kind() == io::ErrorKind::ConnectionReset => {
                self.is_unread = true;
                Ok(done)
            }
            outcome => outcome,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for UnreadStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for UnreadStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_unread {
            return Poll::Ready(Ok(bytes.len()));
        }
        let outcome = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        Poll::Ready(self.settle(outcome, bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_unread {
            return Poll::Ready(Ok(()));
        }
        let outcome = ready!(Pin::new(&mut self.stream).poll_flush(context));
        Poll::Ready(self.settle(outcome, ()))
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_unread {
            return Poll::Ready(Ok(()));
        }
        let outcome = ready!(Pin::new(&mut self.stream).poll_close(context));
        Poll::Ready(self.settle(outcome, ()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{AsyncReadExt, AsyncWriteExt};

    /// Can be read, and was reset in the other direction.
    struct Reset(futures::io::Cursor<Vec<u8>>);

    impl AsyncRead for Reset {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Reset {
        fn poll_write(
            self: Pin<&mut Self>,
            _context: &mut Context<'_>,
            _bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }
    }

    #[tokio::test]
    async fn an_inbound_stream_is_read_while_its_answer_is_unread() {
        let reset = || Reset(futures::io::Cursor::new(b"message".to_vec()));
        let mut inbound = UnreadStream::new(reset(), true);
        inbound.write_all(b"answer").await.unwrap();
        inbound.close().await.unwrap();
        let mut read = Vec::new();
        inbound.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"message");
        let mut outbound = UnreadStream::new(reset(), false);
        let error = outbound.write_all(b"question").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
