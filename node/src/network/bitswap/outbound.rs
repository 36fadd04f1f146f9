//! The outbound stream of one connection: all messages to the peer, one after the other.
//!
//! The first message opens the stream, and later messages use the same stream. If the stream breaks, the
//! interrupted message is written again on a second stream. If the second stream breaks as well, all
//! messages are given up. If the peer only reads its replies too slowly, only the replies are given up.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::{AsyncRead, AsyncWrite};
use libp2p::Stream;
use tokio::time::{Instant, Sleep, sleep};

use super::message::Message;
use super::pace::{CHECK_INTERVAL, MemoryWaiters, Pace, Patience, Slow};
use super::protocol::Version;

/// Streams that one message may break before the peer counts as gone.
const MAX_ATTEMPTS: u32 = 2;

/// How long writing may take: pauses three times as long as the least that Kubo waits, since a peer
/// may be busy hashing what it has; and peers read in lumps.
const PATIENCE: Patience = Patience {
    pause: Duration::from_secs(30),
    window: Duration::from_secs(10),
};

#[derive(Debug, thiserror::Error)]
enum OutboundError {
    #[error("the stream broke")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Slow(#[from] Slow),
}

/// A message to be written, known to the behaviour by its number.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) id: u64,
    pub(crate) message: Message,
    /// The peer did not react on the stream that is open.
    pub(crate) on_new_stream: bool,
}

/// What happened to the messages.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// A stream is needed.
    Open,
    /// The message is with the transport.
    Written { id: u64 },
    /// The peer reads its replies too slowly; those that were queued are lost. What it is asked for
    /// stays queued.
    TooSlow,
    /// Nothing more can be sent on this connection.
    GivenUp,
}

enum State {
    Closed,
    Opening,
    Open {
        stream: Box<Stream>,
        version: Version,
    },
    GivenUp,
}

pub(crate) struct Outbound {
    state: State,
    queue: VecDeque<Outgoing>,
    /// What is still to be written of the first of the queue.
    writing: Option<VecDeque<Bytes>>,
    attempts: u32,
    /// Bytes that were written.
    passed: u64,
    pace: Pace,
    next_check: Pin<Box<Sleep>>,
    /// Those who wait for what replies hold.
    readers: MemoryWaiters,
}

impl Outbound {
    pub(crate) fn new(readers: MemoryWaiters) -> Outbound {
        Outbound {
            state: State::Closed,
            queue: VecDeque::new(),
            writing: None,
            attempts: 0,
            passed: 0,
            pace: Pace::begin(0, 0, PATIENCE),
            next_check: Box::pin(sleep(CHECK_INTERVAL)),
            readers,
        }
    }

    pub(crate) fn send(&mut self, outgoing: Outgoing) {
        self.queue.push_back(outgoing);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn opened(&mut self, stream: Stream, version: Version) {
        self.state = State::Open {
            stream: Box::new(stream),
            version,
        };
    }

    /// The stream that was asked for did not come.
    pub(crate) fn open_failed(&mut self) {
        self.failed();
    }

    /// The peer does not speak the protocol.
    pub(crate) fn give_up(&mut self) {
        self.state = State::GivenUp;
    }

    fn failed(&mut self) {
        self.writing = None;
        self.attempts += 1;
        self.state = if self.attempts < MAX_ATTEMPTS {
            State::Closed
        } else {
            State::GivenUp
        };
    }

    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Progress> {
        loop {
            match &mut self.state {
                State::GivenUp if self.queue.is_empty() => return Poll::Pending,
                State::GivenUp => {
                    self.queue.clear();
                    self.writing = None;
                    self.attempts = 0;
                    self.state = State::Closed;
                    return Poll::Ready(Progress::GivenUp);
                }
                State::Closed if self.queue.is_empty() => return Poll::Pending,
                State::Closed => {
                    self.state = State::Opening;
                    return Poll::Ready(Progress::Open);
                }
                State::Opening => return Poll::Pending,
                State::Open { .. } => match self.poll_open(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(progress)) => return Poll::Ready(progress),
                    Poll::Ready(None) => {}
                },
            }
        }
    }

    /// Works on an open stream; `None` when the state has changed.
    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<Option<Progress>> {
        if self.wants_new_stream() {
            self.state = State::Closed;
            return Poll::Ready(None);
        }
        if self.queue.is_empty() {
            return self.poll_remote(context);
        }
        match ready!(self.poll_write(context)) {
            Ok(progress) => {
                self.attempts = 0;
                Poll::Ready(Some(progress))
            }
            Err(error) => {
                tracing::debug!(%error, "an outbound bitswap stream broke");
                let is_reply = self.queue.front().is_some_and(has_blocks);
                match error {
                    OutboundError::Slow(Slow::Crawling | Slow::Crowded) if is_reply => {
                        self.queue.retain(|outgoing| !has_blocks(outgoing));
                        self.writing = None;
                        self.state = State::Closed;
                        Poll::Ready(Some(Progress::TooSlow))
                    }
                    _ => {
                        self.failed();
                        Poll::Ready(None)
                    }
                }
            }
        }
    }

    fn wants_new_stream(&mut self) -> bool {
        let first = self.queue.front_mut();
        self.writing.is_none()
            && first.is_some_and(|first| std::mem::take(&mut first.on_new_stream))
    }

    /// The peer never writes on this stream: whatever can be read is its end.
    fn poll_remote(&mut self, context: &mut Context<'_>) -> Poll<Option<Progress>> {
        let State::Open { stream, .. } = &mut self.state else {
            return Poll::Ready(None);
        };
        let read = ready!(Pin::new(stream.as_mut()).poll_read(context, &mut [0]));
        tracing::debug!(?read, "the peer ended an outbound bitswap stream");
        self.state = State::Closed;
        Poll::Ready(None)
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<Progress, OutboundError>> {
        let (State::Open { stream, version }, Some(first)) = (&mut self.state, self.queue.front())
        else {
            return Poll::Pending;
        };
        if self.writing.is_none() {
            let pieces: VecDeque<Bytes> = first.message.encode(*version).into();
            let length = pieces.iter().map(Bytes::len).sum();
            self.pace = Pace::begin(length, self.passed, PATIENCE);
            self.next_check
                .as_mut()
                .reset(Instant::now() + CHECK_INTERVAL);
            self.writing = Some(pieces);
        }
        let pieces = self.writing.get_or_insert_default();
        let before = self.passed;
        let written = poll_write_all(Pin::new(stream.as_mut()), pieces, &mut self.passed, context);
        if self.passed > before {
            self.pace.advance();
        }
        if written.is_pending() {
            return self.poll_pace(context);
        }
        ready!(written)?;
        self.writing = None;
        let sent = self.queue.pop_front().expect("the first was written");
        Poll::Ready(Ok(Progress::Written { id: sent.id }))
    }

    /// Ends only where the peer is too slow.
    fn poll_pace<T>(&mut self, context: &mut Context<'_>) -> Poll<Result<T, OutboundError>> {
        loop {
            ready!(self.next_check.as_mut().poll(context));
            // What brings no blocks holds nothing that others wait for.
            let waiters = self.queue.front().is_some_and(has_blocks);
            self.pace
                .check(self.passed, waiters.then_some(&self.readers))?;
            self.next_check
                .as_mut()
                .reset(Instant::now() + CHECK_INTERVAL);
        }
    }
}

fn has_blocks(outgoing: &Outgoing) -> bool {
    !outgoing.message.blocks.is_empty()
}

/// Writes `pieces` and flushes; what was written is taken from them, and added to `passed`.
fn poll_write_all(
    mut stream: Pin<&mut Stream>,
    pieces: &mut VecDeque<Bytes>,
    passed: &mut u64,
    context: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while let Some(piece) = pieces.front_mut() {
        if piece.is_empty() {
            pieces.pop_front();
            continue;
        }
        match ready!(stream.as_mut().poll_write(context, piece))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            count => {
                piece.advance(count);
                *passed += count as u64;
            }
        }
    }
    stream.poll_flush(context)
}
