//! Reading of messages from one inbound stream.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::message::{Message, MessageError};
use super::pace::{CHECK_INTERVAL, MemoryWaiters, Pace, Patience, Slow};
use super::verify::{Allowance, Share, Verifier};
use crate::limits;

/// How long a stream may stay open between messages. Kubo keeps the stream of its wants open and
/// opens another when it finds it closed.
const IDLE_LIMIT: Duration = Duration::from_secs(300);

/// How long the rest of a message may take.
const PATIENCE: Patience = Patience {
    pause: Duration::from_secs(10),
    window: Duration::from_secs(3),
};

/// Longest varint that a length can be: 4 MiB need 4 bytes, and some writers pad.
const MAX_LENGTH_BYTES: usize = 10;

/// Why a stream is no longer read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InboundError {
    #[error("the stream broke")]
    Io(#[from] io::Error),
    #[error("the peer sent nothing for too long")]
    Idle,
    #[error(transparent)]
    Slow(#[from] Slow),
    #[error(transparent)]
    Message(#[from] MessageError),
}

impl InboundError {
    /// Whether the peer is to blame. Broken streams and idle ones are ordinary, and so is one that is
    /// only too slow for the others that wait.
    pub(crate) fn is_fault(&self) -> bool {
        match self {
            InboundError::Message(_) => true,
            InboundError::Slow(slow) => *slow != Slow::Crowded,
            InboundError::Io(_) | InboundError::Idle => false,
        }
    }
}

/// A message, and the share of the budget that its bytes hold.
pub(crate) type Received = (Message, Share);

/// Reads one message; `None` at the end of the stream. Bytes are lost when the future is dropped.
pub(crate) async fn read_message(
    stream: &mut (impl AsyncRead + Unpin),
    verifier: &Verifier,
    connection: &Allowance,
) -> Result<Option<Received>, InboundError> {
    let Some(length) = read_length(stream).await? else {
        return Ok(None);
    };
    let share = verifier.reserve(connection, length).await;
    let body = read_body(stream, length, connection, share.waiters()).await?;
    Ok(Some((Message::decode(&body)?, share)))
}

async fn read_length(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<usize>, InboundError> {
    let mut byte = [0];
    let mut length = 0u64;
    for index in 0..MAX_LENGTH_BYTES {
        let read = stream.read(&mut byte);
        let read = match index {
            0 => timeout(IDLE_LIMIT, read)
                .await
                .map_err(|_| InboundError::Idle)?,
            _ => timeout(PATIENCE.pause, read)
                .await
                .map_err(|_| Slow::Stalled)?,
        };
        match read {
            Ok(0) if index == 0 => return Ok(None),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        length |= u64::from(byte[0] & 0x7f)
            .checked_shl(7 * index as u32)
            .unwrap_or(0);
        if length > limits::MAX_MESSAGE_BYTES as u64 {
            return Err(MessageError::TooLong { length }.into());
        }
        if byte[0] & 0x80 == 0 {
            return Ok(Some(length as usize));
        }
    }
    Err(MessageError::InvalidLength.into())
}

async fn read_body(
    stream: &mut (impl AsyncRead + Unpin),
    length: usize,
    connection: &Allowance,
    waiters: Option<&MemoryWaiters>,
) -> Result<Bytes, InboundError> {
    let mut body = vec![0; length];
    let mut filled = 0;
    let mut pace = Pace::begin(length, connection.received(), PATIENCE);
    let mut next_check = Instant::now() + CHECK_INTERVAL;
    while filled < length {
        match timeout_at(next_check, stream.read(&mut body[filled..])).await {
            Ok(read) => match read? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                count => {
                    filled += count;
                    connection.receive(count);
                    pace.advance();
                }
            },
            Err(_) => {
                pace.check(connection.received(), waiters)?;
                next_check = Instant::now() + CHECK_INTERVAL;
            }
        }
    }
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::channel::mpsc::unbounded;
    use futures::io::Cursor;
    use futures::stream::FuturesUnordered;
    use futures::{FutureExt, StreamExt, TryStreamExt, poll};
    use libp2p::PeerId;
    use std::pin::pin;

    /// Reads one message from `bytes`, behind which the stream stays open and silent.
    async fn read(bytes: &[u8]) -> Result<Option<Received>, InboundError> {
        let verifier = Verifier::new(unbounded().0);
        let allowance = Allowance::new(PeerId::random());
        let silence = futures::stream::pending::<io::Result<Vec<u8>>>();
        let bytes = futures::stream::iter([Ok(bytes.to_vec())]);
        let mut stream = bytes.chain(silence).into_async_read();
        let received = read_message(&mut stream, &verifier, &allowance).await;
        if received.is_err() {
            assert_eq!(allowance.available(), limits::MAX_MESSAGE_BYTES);
        }
        received
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_streams() {
        let cases: [(&str, &[u8], bool); 3] = [
            ("between messages", b"", false),
            ("within a length", b"\x80", true),
            ("within a message", b"\x05\x0a", true),
        ];
        for (name, bytes, is_fault) in cases {
            assert_eq!(
                read(bytes).await.unwrap_err().is_fault(),
                is_fault,
                "{name}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lengths_are_checked_before_memory_is_taken() {
        let cases: [(&str, &[u8]); 3] = [
            ("4 MiB and one byte", b"\x81\x80\x80\x02"),
            ("a length over 64 bits", &[0xff; 11]),
            ("an endless length", &[0x80; 11]),
        ];
        for (name, bytes) in cases {
            let error = read(bytes).await.unwrap_err();
            assert!(matches!(error, InboundError::Message(_)), "{name}: {error}");
        }
    }

    #[tokio::test]
    async fn the_end_is_clean_only_between_messages() {
        let verifier = Verifier::new(unbounded().0);
        let allowance = Allowance::new(PeerId::random());
        let mut stream = Cursor::new(b"\x00".to_vec());
        let empty = read_message(&mut stream, &verifier, &allowance)
            .await
            .unwrap();
        assert!(empty.unwrap().0.is_empty());
        let end = read_message(&mut stream, &verifier, &allowance)
            .await
            .unwrap();
        assert!(end.is_none());
        let mut stream = Cursor::new(b"\x05\x0a".to_vec());
        let broken = read_message(&mut stream, &verifier, &allowance).await;
        assert!(matches!(broken, Err(InboundError::Io(_))));
    }
    /// A message of the largest size that comes by one byte a second.
    fn crawling() -> impl AsyncRead + Unpin {
        let length = futures::stream::iter([Ok(b"\x80\x80\x80\x02".to_vec())]);
        let bytes = futures::stream::repeat_with(|| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(vec![0])
        });
        let bytes = bytes.then(|byte| byte);
        Box::pin(length.chain(bytes)).into_async_read()
    }

    /// Of a peer that was asked for blocks or not.
    fn allowance(verifier: &Verifier, was_asked: bool) -> Allowance {
        let peer = PeerId::random();
        if was_asked {
            verifier.asked(peer);
        }
        Allowance::new(peer)
    }

    /// Begins to read so many crawling messages.
    fn crawlers(
        verifier: &Verifier,
        count: usize,
        were_asked: bool,
    ) -> FuturesUnordered<impl Future<Output = ()>> {
        let mut crawlers: FuturesUnordered<_> = (0..count)
            .map(|_| {
                let verifier = verifier.clone();
                async move {
                    let allowance = allowance(&verifier, were_asked);
                    let outcome = read_message(&mut crawling(), &verifier, &allowance).await;
                    assert!(outcome.unwrap_err().is_fault());
                }
            })
            .collect();
        assert!(crawlers.next().now_or_never().is_none());
        crawlers
    }

    /// Of a field that nobody knows.
    fn message(bytes: usize) -> Cursor<Vec<u8>> {
        let varint = |number: usize| {
            [
                number as u8 & 0x7f | 0x80,
                (number >> 7) as u8 & 0x7f | 0x80,
                (number >> 14) as u8,
            ]
        };
        let head = [&varint(bytes)[..], &[15 << 3 | 2], &varint(bytes - 4)].concat();
        Cursor::new([head, vec![0; bytes - 4]].concat())
    }

    #[tokio::test(start_paused = true)]
    async fn a_crawling_peer_holds_up_no_other() {
        for were_asked in [true, false] {
            let verifier = Verifier::new(unbounded().0);
            let budget = match were_asked {
                true => limits::MAX_UNVERIFIED_BYTES - limits::MAX_UNASKED_BYTES,
                false => limits::MAX_UNASKED_BYTES,
            };
            let count = budget / limits::MAX_MESSAGE_BYTES;
            let mut crawlers = crawlers(&verifier, count, were_asked);
            let like = allowance(&verifier, were_asked);
            let unlike = allowance(&verifier, !were_asked);

            let mut small = message(limits::MAX_SMALL_MESSAGE_BYTES);
            let small = read_message(&mut small, &verifier, &like).now_or_never();
            assert!(small.is_some(), "a small message waits for nobody");
            let mut other = message(1024 * 1024);
            let other = read_message(&mut other, &verifier, &unlike).now_or_never();
            assert!(
                other.is_some(),
                "those who were asked and others have their own"
            );

            let begun = Instant::now();
            let mut large = message(1024 * 1024);
            let mut large = pin!(read_message(&mut large, &verifier, &like));
            assert!(poll!(&mut large).is_pending(), "all room is taken");
            loop {
                tokio::select! {
                    outcome = &mut large => break assert!(outcome.unwrap().is_some()),
                    Some(()) = crawlers.next() => {}
                }
            }
            assert!(crawlers.len() < count);
            assert!(
                begun.elapsed() < Duration::from_secs(6),
                "{:?}",
                begun.elapsed()
            );
        }
    }
}
