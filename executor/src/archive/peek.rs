//! A buffered reader that can look ahead.

use std::io::{self, BufRead, Read};

/// Bytes read at once from the source.
const BUFFER_BYTES: usize = 128 * 1024;

/// As [`io::BufReader`], with [`Peek::peek`].
pub(super) struct Peek<S> {
    source: S,
    buffer: Box<[u8]>,
    /// What was read and not taken.
    start: usize,
    end: usize,
}

impl<S: Read> Peek<S> {
    pub(super) fn new(source: S) -> Peek<S> {
        Peek {
            source,
            buffer: vec![0; BUFFER_BYTES].into(),
            start: 0,
            end: 0,
        }
    }

    /// The bytes that come next, without taking them: at least `least`, or all that are left. `least` is
    /// at most the size of the buffer.
    pub(super) fn peek(&mut self, least: usize) -> io::Result<&[u8]> {
        while self.end - self.start < least {
            if self.buffer.len() - self.start < least {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(length) => self.end += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }
}

impl<S: Read> Read for Peek<S> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(target)?;
        self.consume(length);
        Ok(length)
    }
}

impl<S: Read> BufRead for Peek<S> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.peek(1)
    }

    fn consume(&mut self, length: usize) {
        self.start += length;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One byte a call, as a slow source gives them.
    struct Slow<'b>(&'b [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
            let most = target.len().min(1);
            self.0.read(&mut target[..most])
        }
    }

    /// Where the bytes looked at lie across the end of the buffer.
    #[test]
    fn looking_ahead_takes_nothing() {
        let bytes: Vec<u8> = (0..BUFFER_BYTES + 5).map(|at| at as u8).collect();
        let mut peek = Peek::new(&bytes[..]);
        peek.fill_buf().unwrap();
        peek.consume(BUFFER_BYTES - 3);
        assert_eq!(&peek.peek(8).unwrap()[..8], &bytes[BUFFER_BYTES - 3..]);
        assert_eq!(peek.peek(9).unwrap().len(), 8);
        peek.consume(8);
        assert_eq!(peek.peek(1).unwrap(), b"");
        let mut slow = Peek::new(Slow(b"abcdef"));
        assert_eq!(slow.peek(4).unwrap(), b"abcd");
        let mut all = Vec::new();
        slow.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"abcdef");
    }
}
