//! The standard streams of the program.
//!
//! The invariant: no descriptor that reaches the sandbox leads to a file of the host. It would be
//! more than a stream: whoever holds a descriptor can open its file again for writing through
//! `/proc/self/fd`, change its mode, or, of a directory, open what lies below. So anonymous pipes are
//! handed on, and everything else is relayed through a pipe by a thread. Where stdin and stderr are a
//! terminal, the program gets one of its own.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use rustix::fs::fstatfs;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, getpgrp};
use rustix::termios::{isatty, tcgetpgrp, tcgetsid};

use super::terminal::{self, Borrowed};
use crate::process::Streams;

/// Bytes that are relayed at a time where they are counted: what a pipe holds.
const RELAY_BYTES: usize = 64 << 10;

/// File system of anonymous pipes: `PIPEFS_MAGIC` of Linux.
const PIPE_FILE_SYSTEM: u64 = 0x5049_5045;

/// The thread that carries the program's output, if one is needed. Dropped, it waits for the end
/// of that, which comes when no process of the sandbox lives any more.
#[derive(Debug)]
pub(super) struct OutputRelay {
    thread: Option<JoinHandle<()>>,
    /// Given back after the last output.
    terminal: Option<Borrowed>,
}

impl Drop for OutputRelay {
    fn drop(&mut self) {
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::debug!("the thread that relays output panicked");
        }
        self.terminal = None;
    }
}

impl OutputRelay {
    /// Becomes readable when the user typed what ends a program, and the program is one that the kernel
    /// does not end; where there is a terminal.
    pub(super) fn interrupted(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(Borrowed::interrupted)
    }

    /// Tells the program's first process, before it executes anything.
    pub(super) fn set_first(&self, first: Pid) {
        if let Some(terminal) = &self.terminal {
            terminal.set_first(first);
        }
    }
}

/// Streams that end at our stdin and stderr.
///
/// Where stdin is relayed, more of it may be consumed than the program reads.
///
/// Where there is a `log`, what the program prints is counted there, and no more than its limit goes
/// on.
pub(super) fn open(log: Option<Log>) -> io::Result<(Streams, OutputRelay)> {
    let (stdin, stderr) = (rustix::stdio::stdin(), rustix::stdio::stderr());
    if isatty(stdin) && isatty(stderr) && is_in_front(stdin) {
        return own_terminal(stdin, stderr, log);
    }
    relayed(stdin, stderr, log)
}

fn own_terminal(
    stdin: BorrowedFd<'_>,
    stderr: BorrowedFd<'_>,
    log: Option<Log>,
) -> io::Result<(Streams, OutputRelay)> {
    let stderr = stderr.try_clone_to_owned()?;
    let (streams, printed, terminal) = terminal::open(stdin)?;
    let thread = relay_output(printed.into(), stderr, log)?;
    let relay = OutputRelay {
        thread: Some(thread),
        terminal: Some(terminal),
    };
    Ok((streams, relay))
}

fn relay_output(from: OwnedFd, to: OwnedFd, log: Option<Log>) -> io::Result<JoinHandle<()>> {
    match log {
        None => relay("sandbox-output", from, to, Rest::Drain),
        Some(log) => relay_counted(from, to, log),
    }
}

/// Bytes that were printed, and how many of them go on.
pub(super) type Log = (Arc<AtomicU64>, u64);

fn relayed(
    stdin: BorrowedFd<'_>,
    stderr: BorrowedFd<'_>,
    log: Option<Log>,
) -> io::Result<(Streams, OutputRelay)> {
    let stdin = relay_stdin(stdin)?;
    if log.is_none() && is_harmless(stderr)? {
        let output = stderr.try_clone_to_owned()?;
        let relay = OutputRelay {
            thread: None,
            terminal: None,
        };
        return Ok((Streams::new(stdin, output), relay));
    }
    let (reader, output) = pipe_with(PipeFlags::CLOEXEC)?;
    let stderr = stderr.try_clone_to_owned()?;
    let relay = OutputRelay {
        thread: Some(relay_output(reader, stderr, log)?),
        terminal: None,
    };
    Ok((Streams::new(stdin, output), relay))
}

/// Whether what is typed at this terminal is for us. Who asks in the background is stopped.
fn is_in_front(terminal: BorrowedFd<'_>) -> bool {
    tcgetpgrp(terminal).is_ok_and(|front| front == getpgrp())
        // The terminal of another session, as of a test: nobody else reads there.
        || tcgetsid(terminal).is_err()
}

fn relay_stdin(stdin: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    if isatty(stdin) && !is_in_front(stdin) {
        let (nothing, _) = pipe_with(PipeFlags::CLOEXEC)?;
        return Ok(nothing);
    }
    let stdin_copy = stdin.try_clone_to_owned()?;
    if is_harmless(stdin)? {
        return Ok(stdin_copy);
    }
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    // Not waited for: it may be reading from something that never ends.
    relay("sandbox-stdin", stdin_copy, writer, Rest::Leave)?;
    Ok(reader)
}

/// Whether a descriptor leads to nothing but a pipe without a name.
fn is_harmless(descriptor: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(fstatfs(descriptor)?.f_type as u64 == PIPE_FILE_SYSTEM)
}

/// What becomes of the data that remains when nobody takes it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// Stays where it is.
    Leave,
    /// Is discarded, so that who writes it is not stopped.
    Drain,
}

fn relay(name: &str, from: OwnedFd, to: OwnedFd, rest: Rest) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.into()).spawn(move || {
        let (mut from, mut to) = (File::from(from), File::from(to));
        if let Err(error) = io::copy(&mut from, &mut to) {
            tracing::debug!(%error, "a standard stream ended early");
            if rest == Rest::Drain
                && let Err(error) = io::copy(&mut from, &mut io::sink())
            {
                tracing::debug!(%error, "a standard stream could not be drained");
            }
        }
    })
}

/// Counts what comes, and passes on what is within the limit, as long as somebody takes it.
fn relay_counted(from: OwnedFd, to: OwnedFd, (count, limit): Log) -> io::Result<JoinHandle<()>> {
    let name = "sandbox-output".to_owned();
    thread::Builder::new().name(name).spawn(move || {
        let (mut from, mut to) = (File::from(from), Some(File::from(to)));
        let mut buffer = vec![0; RELAY_BYTES];
        loop {
            let length = match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::debug!(%error, "a standard stream ended early");
                    return;
                }
            };
            let before = count.fetch_add(length as u64, Ordering::Relaxed);
            let room = limit.saturating_sub(before).min(length as u64) as usize;
            if let Some(Err(error)) = to.as_mut().map(|to| to.write_all(&buffer[..room])) {
                tracing::debug!(%error, "a standard stream ended early");
                to = None;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Seek;
    use std::os::fd::AsFd;

    #[test]
    fn files_are_relayed_and_pipes_are_not() {
        let mut input = tempfile::tempfile().unwrap();
        input.write_all(&[b'x'; 200_000]).unwrap();
        input.rewind().unwrap();
        let mut log = tempfile::tempfile().unwrap();
        let (streams, relay) = relayed(input.as_fd(), log.as_fd(), None).unwrap();
        assert!(is_harmless(streams.stdin.as_fd()).unwrap());
        assert!(is_harmless(streams.output.as_fd()).unwrap());
        let mut read = Vec::new();
        File::from(streams.stdin).read_to_end(&mut read).unwrap();
        assert_eq!(read.len(), 200_000);
        File::from(streams.output).write_all(b"written").unwrap();
        drop(relay);
        log.rewind().unwrap();
        assert_eq!(io::read_to_string(log).unwrap(), "written");

        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (_, relay) = relayed(reader.as_fd(), writer.as_fd(), None).unwrap();
        assert!(relay.thread.is_none());
    }

    #[test]
    fn directories_devices_and_sockets_are_not_handed_on() {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(!is_harmless(socket.as_fd()).unwrap());
        for path in ["/", "/dev/null"] {
            assert!(
                !is_harmless(File::open(path).unwrap().as_fd()).unwrap(),
                "{path}"
            );
        }
    }

    #[test]
    fn output_that_goes_nowhere_does_not_stop_the_program() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let input = File::open("/dev/null").unwrap();
        let (streams, _relay) = relayed(input.as_fd(), full.as_fd(), None).unwrap();
        File::from(streams.output)
            .write_all(&[0; 1_000_000])
            .unwrap();
    }
}
