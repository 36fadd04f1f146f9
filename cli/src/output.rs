//! Standard output holds data only, one line a fact; standard error holds everything else.

use std::io::{self, BufWriter, IoSlice, IsTerminal, StdoutLock, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::BorrowedFd;
use rustix::fs::{FileType, fstat};
use rustix::io::{Errno, ReadWriteFlags, pwritev2, write};
use serde_json::{Map, Value, json};

use ipfs_exec_executor::sandbox::take_open_line;
use ipfs_exec_node::unixfs::Metadata;

use crate::progress;

/// How long a process waits, in all its messages together, for a reader of standard error.
const PATIENCE: Duration = Duration::from_secs(5);

/// Standard output, buffered.
pub(crate) fn stdout() -> BufWriter<StdoutLock<'static>> {
    BufWriter::with_capacity(64 * 1024, io::stdout().lock())
}

/// Writes one line.
pub(crate) fn line(text: impl std::fmt::Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// Writes a message to standard error: in one call of the system, so that the lines of several processes
/// stay whole, and with the progress line taken away meanwhile.
///
/// The message is lost if standard error cannot be written, or if nothing reads it for [`PATIENCE`].
/// There is no other place that could tell so, and the work of the command goes on.
pub(crate) fn tell(message: &str) {
    static HAS_GIVEN_UP: AtomicBool = AtomicBool::new(false);
    let patience = if HAS_GIVEN_UP.load(Ordering::Relaxed) {
        Duration::ZERO
    } else {
        PATIENCE
    };
    // A program may have printed the start of a line.
    let message = match take_open_line() {
        true => &format!("\n{message}"),
        false => message,
    };
    let written = progress::aside(|| {
        write_within(
            rustix::stdio::stderr(),
            message.as_bytes(),
            Instant::now() + patience,
        )
    });
    if written == Err(Errno::TIMEDOUT) {
        HAS_GIVEN_UP.store(true, Ordering::Relaxed);
    }
}

/// Ends the line that a program has left open on a terminal, where a line of standard output follows.
pub(crate) fn end_open_line() {
    if io::stderr().is_terminal() && take_open_line() {
        tell("\n");
    }
}

/// Writes a line to standard error.
pub(crate) fn tell_line(text: impl std::fmt::Display) {
    tell(&format!("{text}\n"));
}

/// Whether standard error may be coloured.
pub(crate) fn is_stderr_coloured() -> bool {
    let has_no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !has_no_colour
}

/// Standard error for libraries that write to a stream: each write is one message.
pub(crate) struct Messages;

impl Write for Messages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        tell(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes all of `bytes` until `deadline`, in one call where the stream takes them at once.
fn write_within(stream: BorrowedFd<'_>, bytes: &[u8], deadline: Instant) -> Result<(), Errno> {
    let mut rest = bytes;
    while !rest.is_empty() {
        wait_until_writable(stream, deadline)?;
        match write_some(stream, rest) {
            Ok(count) => rest = &rest[count..],
            // Another process has filled the pipe since.
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn wait_until_writable(stream: BorrowedFd<'_>, deadline: Instant) -> Result<(), Errno> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match poll(&mut [PollFd::new(&stream, PollFlags::OUT)], Some(&left)) {
            Ok(0) => return Err(Errno::TIMEDOUT),
            // Also where the stream is broken: the write tells how.
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Writes without waiting where the stream is a pipe or a socket: there `poll` only promises that some
/// bytes fit.
fn write_some(stream: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    const AT_POSITION: u64 = u64::MAX;
    let kind = FileType::from_raw_mode(fstat(stream)?.st_mode);
    if matches!(kind, FileType::Fifo | FileType::Socket) {
        let slices = [IoSlice::new(bytes)];
        match pwritev2(stream, &slices, AT_POSITION, ReadWriteFlags::NOWAIT) {
            // The kernel is too old for that.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            outcome => return outcome,
        }
    }
    write(stream, bytes)
}

/// Adds mode (as octal text) and mtime to a JSON object, where they are recorded.
pub(crate) fn put_metadata(object: &mut Map<String, Value>, metadata: &Metadata) {
    if let Some(mode) = metadata.mode {
        object.insert("mode".to_owned(), json!(format!("{mode:04o}")));
    }
    if let Some(mtime) = metadata.mtime {
        object.insert("mtime".to_owned(), json!(mtime.seconds));
        if mtime.nanoseconds > 0 {
            object.insert("mtime_nsecs".to_owned(), json!(mtime.nanoseconds));
        }
    }
}

/// Text of a name or target that came as bytes, for JSON: exact where it is UTF-8.
pub(crate) fn json_text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!(ipfs_exec_node::path::escape(bytes)),
    }
}

/// Prints a CID, as `{"cid": ...}` where JSON was asked for.
pub(crate) fn cid(cid: &ipfs_exec_node::Cid, is_json: bool) -> io::Result<()> {
    if is_json {
        line(json!({ "cid": cid.to_string() }))
    } else {
        line(cid)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    /// A shell pipeline whose reader had stopped held a command for ever at its first warning.
    #[test]
    fn a_pipe_without_reads_holds_a_message_only_until_the_deadline() {
        let (reader, writer) = io::pipe().unwrap();
        let long = vec![b'x'; 1 << 20];
        let started = Instant::now();
        let outcome = write_within(writer.as_fd(), &long, started + SHORT);
        assert_eq!(outcome, Err(Errno::TIMEDOUT));
        assert!(started.elapsed() >= SHORT);
        drop(reader);
    }

    #[test]
    fn a_long_message_arrives_whole_if_it_is_read() {
        let (mut reader, writer) = io::pipe().unwrap();
        let long: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
        let (sent, deadline) = (long.clone(), Instant::now() + PATIENCE);
        let thread = std::thread::spawn(move || write_within(writer.as_fd(), &sent, deadline));
        let mut received = Vec::new();
        reader.read_to_end(&mut received).unwrap();
        assert_eq!(thread.join().unwrap(), Ok(()));
        assert!(received == long);
    }

    #[test]
    fn a_pipe_without_a_reader_is_an_error_and_no_panic() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let outcome = write_within(writer.as_fd(), b"lost", Instant::now() + SHORT);
        assert_eq!(outcome, Err(Errno::PIPE));
    }
}
