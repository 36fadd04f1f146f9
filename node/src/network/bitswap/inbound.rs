//! Reading of messages from one inbound stream.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::message::{Message, MessageError};
use super::verify::{Share, Verifier};
use crate::limits;

/// How long a stream may stay open between messages. Kubo keeps the stream of its wants open and
/// opens another when it finds it closed.
const IDLE_LIMIT: Duration = Duration::from_secs(300);

/// How long the rest of a message may pause.
const STALL_LIMIT: Duration = Duration::from_secs(10);

/// What a message may take beyond [`STALL_LIMIT`]: below this many bytes a second, the lowest rate
/// that Kubo sends at, the sender is only holding memory.
const SLOWEST_BYTES_PER_SECOND: u64 = 12_500;

/// Longest varint that a length can be: 4 MiB need 4 bytes, and some writers pad.
const MAX_LENGTH_BYTES: usize = 10;

/// Why a stream is no longer read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InboundError {
    #[error("the stream broke")]
    Io(#[from] io::Error),
    #[error("the peer sent nothing for too long")]
    Idle,
    #[error("the peer stopped within a message")]
    Stalled,
    #[error(transparent)]
    Message(#[from] MessageError),
}

impl InboundError {
    /// Whether the peer is to blame: broken streams and idle ones are ordinary.
    pub(crate) fn is_fault(&self) -> bool {
        matches!(self, InboundError::Stalled | InboundError::Message(_))
    }
}

/// A message, and the share of the budget that its bytes hold.
pub(crate) type Received = (Message, Share);

/// Reads one message; `None` at the end of the stream. Bytes are lost when the future is dropped.
pub(crate) async fn read_message(
    stream: &mut (impl AsyncRead + Unpin),
    verifier: &Verifier,
    connection: &Arc<Semaphore>,
) -> Result<Option<Received>, InboundError> {
    let Some(length) = read_length(stream).await? else {
        return Ok(None);
    };
    let share = verifier.reserve(connection, length).await;
    let allowed = STALL_LIMIT + Duration::from_secs(length as u64 / SLOWEST_BYTES_PER_SECOND);
    let body = timeout(allowed, read_body(stream, length))
        .await
        .map_err(|_| InboundError::Stalled)??;
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
            _ => stall(read).await?,
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
) -> Result<Bytes, InboundError> {
    let mut body = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match stall(stream.read(&mut body[filled..])).await?? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            count => filled += count,
        }
    }
    Ok(body.into())
}

async fn stall<F: Future>(reading: F) -> Result<F::Output, InboundError> {
    timeout(STALL_LIMIT, reading)
        .await
        .map_err(|_| InboundError::Stalled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::channel::mpsc::unbounded;
    use futures::io::Cursor;
    use futures::{StreamExt, TryStreamExt};

    /// Reads one message from `bytes`, behind which the stream stays open and silent.
    async fn read(bytes: &[u8]) -> Result<Option<Received>, InboundError> {
        let verifier = Verifier::new(unbounded().0);
        let budget = Arc::new(Semaphore::new(limits::MAX_MESSAGE_BYTES));
        let silence = futures::stream::pending::<io::Result<Vec<u8>>>();
        let bytes = futures::stream::iter([Ok(bytes.to_vec())]);
        let mut stream = bytes.chain(silence).into_async_read();
        let received = read_message(&mut stream, &verifier, &budget).await;
        if received.is_err() {
            assert_eq!(budget.available_permits(), limits::MAX_MESSAGE_BYTES);
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
        let budget = Arc::new(Semaphore::new(limits::MAX_MESSAGE_BYTES));
        let mut stream = Cursor::new(b"\x00".to_vec());
        let empty = read_message(&mut stream, &verifier, &budget).await.unwrap();
        assert!(empty.unwrap().0.is_empty());
        let end = read_message(&mut stream, &verifier, &budget).await.unwrap();
        assert!(end.is_none());
        let mut stream = Cursor::new(b"\x05\x0a".to_vec());
        let broken = read_message(&mut stream, &verifier, &budget).await;
        assert!(matches!(broken, Err(InboundError::Io(_))));
    }
}
