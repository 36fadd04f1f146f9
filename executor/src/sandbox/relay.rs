//! Carries bytes between a descriptor of the caller and a pipe of ours, by read(2) and write(2).
//!
//! Never by splice(2), sendfile(2) or `io::copy`, which uses them: splice puts pages of the page cache
//! into a pipe, and so pages of the host's files into the sandbox, and it writes a file at a position
//! of its own, over what other processes append to the same file.
//!
//! The caller's descriptors may be in non-blocking mode, which belongs to the open file description and
//! so to all that share it: it is left as it is, and the relay polls where a call would block.

use ipfs_exec_node::cancel::{Cancel, NEVER};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, SeekFrom, fcntl_setfl, fstat, seek};
use rustix::io::{Errno, ioctl_fionread, read, write};
use rustix::pipe::{PIPE_BUF, PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::termios::isatty;

/// Bytes of output that are carried at a time: the usual capacity of a pipe.
const BUFFER_BYTES: usize = 64 << 10;

/// Bytes of input in the relay and in the program's pipe together: what is lost of a pipe at most. All of them
/// may be in the pipe, so that the program reads while the relay does.
const INPUT_BYTES: usize = 64 << 10;

/// How long a line that has no end yet waits for it.
const LINE_PATIENCE: Duration = Duration::from_millis(100);

/// How long the output of a program that was killed may take.
pub(super) const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// Bytes that the program printed so far, and how many of them go on.
pub(super) type Log = (Arc<AtomicU64>, u64);

/// Bytes that are kept of the first output: that of bubblewrap where it made no sandbox.
const FIRST_BYTES: usize = 1024;

/// Whether the last byte that a relay wrote to our standard error ended no line.
static HAS_OPEN_LINE: AtomicBool = AtomicBool::new(false);

/// Whether the last output of a program on our standard error ended in the middle of a line. Asked once: the
/// caller ends the line before it prints something there.
pub fn take_open_line() -> bool {
    HAS_OPEN_LINE.swap(false, Ordering::Relaxed)
}

/// Carries the program's output in whole lines, so that lines of several programs in one log do not mix.
/// A line longer than [`BUFFER_BYTES`], or than a pipe takes at once, comes in pieces.
///
/// Dropped, it waits at most [`LAST_PATIENCE`] for the end of that output.
pub(super) struct OutputRelay {
    thread: Option<JoinHandle<Result<(), Errno>>>,
    first: Arc<Mutex<Vec<u8>>>,
    /// The thread holds the other end.
    ended: OwnedFd,
}

impl fmt::Debug for OutputRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputRelay").finish_non_exhaustive()
    }
}

impl OutputRelay {
    /// Carries all that comes from `from` to `to`, and counts it where there is a `log`. The program is
    /// not stopped where `to` takes nothing any more: the rest is discarded.
    pub(super) fn start(from: OwnedFd, to: OwnedFd, log: Option<Log>) -> io::Result<OutputRelay> {
        let (ended, running) = pipe_with(PipeFlags::CLOEXEC)?;
        let name = "sandbox-output".to_owned();
        let first = Arc::<Mutex<Vec<u8>>>::default();
        let kept = Arc::clone(&first);
        let carry = move || {
            let _running = running;
            Output::new(to.as_fd(), log, &kept).carry(from.as_fd())
        };
        let thread = thread::Builder::new().name(name).spawn(carry)?;
        let thread = Some(thread);
        Ok(OutputRelay {
            thread,
            first,
            ended,
        })
    }

    /// The first bytes that were carried.
    pub(super) fn first(&self) -> Vec<u8> {
        let first = self.first.lock();
        first.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the end of the output, unless that is cancelled before. The reader of the output may be
    /// slow, or not read at all.
    ///
    /// All processes of the sandbox are dead.
    pub(super) fn finish(&mut self, cancel: &Cancel) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        match cancel.wait_readable(&self.ended) {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(
                    "part of what the program printed is lost: its reader does not read"
                );
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot wait for what the program printed");
                return;
            }
        }
        match thread.join() {
            Ok(Ok(())) => {}
            // The reader of a pipe may leave when it has seen enough.
            Ok(Err(Errno::PIPE)) => tracing::debug!("nobody reads the program's output"),
            Ok(Err(errno)) => {
                tracing::warn!(%errno, "part of what the program printed is lost");
            }
            Err(_) => tracing::warn!("the relay of the program's output panicked"),
        }
    }
}

impl Drop for OutputRelay {
    fn drop(&mut self) {
        self.finish(&NEVER.until(Instant::now().checked_add(LAST_PATIENCE)));
    }
}

/// Where the output goes.
struct Output<'o> {
    to: BorrowedFd<'o>,
    log: Option<Log>,
    /// Takes the first bytes.
    first: &'o Mutex<Vec<u8>>,
    /// Most bytes of a write that keeps lines whole.
    piece_bytes: usize,
    /// Whether lines are kept whole. A person sees each character at once.
    has_lines: bool,
    /// Why `to` took no more.
    result: Result<(), Errno>,
}

impl<'o> Output<'o> {
    fn new(to: BorrowedFd<'o>, log: Option<Log>, first: &'o Mutex<Vec<u8>>) -> Output<'o> {
        let is_file =
            fstat(to).is_ok_and(|status| FileType::from_raw_mode(status.st_mode).is_file());
        Output {
            to,
            log,
            first,
            // A file takes any write whole, a pipe only a short one.
            piece_bytes: if is_file { BUFFER_BYTES } else { PIPE_BUF },
            has_lines: !isatty(to),
            result: Ok(()),
        }
    }

    /// Gives why `to` took no more, if it did not take all.
    fn carry(mut self, from: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut buffer = vec![0; BUFFER_BYTES];
        // Bytes of a line without an end.
        let mut held = 0;
        loop {
            if held > 0 {
                let patience = Instant::now().checked_add(LINE_PATIENCE);
                if wait(from, PollFlags::IN, None, patience)? == Woken::Late {
                    self.write(&buffer[..held]);
                    held = 0;
                }
            }
            let length = match read_some(from, &mut buffer[held..]) {
                // A terminal says so when no process has it open any more.
                Ok(0) | Err(Errno::IO) => {
                    self.write(&buffer[..held]);
                    return self.result;
                }
                Ok(length) => held + self.count(length),
                Err(errno) => {
                    self.write(&buffer[..held]);
                    return self.result.and(Err(errno));
                }
            };
            let end = self.end_of_lines(&buffer[..length]);
            self.write_lines(&buffer[..end]);
            buffer.copy_within(end..length, 0);
            held = length - end;
        }
    }

    /// How many of the bytes that were read go on.
    fn count(&self, length: usize) -> usize {
        self.log.as_ref().map_or(length, |(count, limit)| {
            let before = count.fetch_add(length as u64, Ordering::Relaxed);
            limit.saturating_sub(before).min(length as u64) as usize
        })
    }

    /// How many of these bytes are to be written now.
    fn end_of_lines(&self, bytes: &[u8]) -> usize {
        if !self.has_lines || bytes.len() == BUFFER_BYTES && !bytes.contains(&b'\n') {
            return bytes.len();
        }
        after_last_line(bytes).unwrap_or(0)
    }

    /// Writes as many whole lines at a time as are taken at once.
    fn write_lines(&mut self, mut bytes: &[u8]) {
        while bytes.len() > self.piece_bytes && self.has_lines {
            let (piece, rest) = bytes.split_at(self.piece_bytes);
            let end = after_last_line(piece).unwrap_or_else(|| {
                let end = rest.iter().position(|byte| *byte == b'\n');
                end.map_or(bytes.len(), |end| self.piece_bytes + end + 1)
            });
            self.write(&bytes[..end]);
            bytes = &bytes[end..];
        }
        self.write(bytes);
    }

    fn write(&mut self, bytes: &[u8]) {
        let Some(last) = bytes.last() else {
            return;
        };
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let room = FIRST_BYTES.saturating_sub(first.len());
        first.extend(bytes.iter().take(room));
        drop(first);
        if self.result.is_ok() {
            self.result = write_all(self.to, bytes);
            HAS_OPEN_LINE.store(*last != b'\n', Ordering::Relaxed);
        }
    }
}

fn after_last_line(bytes: &[u8]) -> Option<usize> {
    let last = bytes.iter().rposition(|byte| *byte == b'\n')?;
    Some(last + 1)
}

/// Carries the caller's standard input. Dropped, it reads no more; what the program did not take of a
/// file is there again for the next reader. Of a pipe up to [`INPUT_BYTES`] that were read and not
/// taken are lost.
#[derive(Debug)]
pub(super) struct InputRelay {
    thread: Option<JoinHandle<usize>>,
    /// Closed, it stops the thread.
    stop: Option<OwnedFd>,
    /// The program's end of the pipe, and the caller's file, where its position can be set back.
    file: Option<(OwnedFd, OwnedFd)>,
    delivered: Arc<AtomicU64>,
}

impl InputRelay {
    /// Starts to carry `from`; gives the pipe from which the program reads.
    pub(super) fn start(from: OwnedFd) -> io::Result<(OwnedFd, InputRelay)> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        fcntl_setpipe_size(&writer, INPUT_BYTES)?;
        // Ours alone: the program opens its end, and no other.
        fcntl_setfl(&writer, OFlags::NONBLOCK)?;
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let is_file = FileType::from_raw_mode(fstat(&from)?.st_mode).is_file();
        let file = is_file.then(|| Ok::<_, io::Error>((reader.try_clone()?, from.try_clone()?)));
        let file = file.transpose()?;
        let delivered = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&delivered);
        let name = "sandbox-stdin".to_owned();
        let carry = move || carry_input(from.as_fd(), writer.as_fd(), stopped.as_fd(), &count);
        let relay = InputRelay {
            thread: Some(thread::Builder::new().name(name).spawn(carry)?),
            stop: Some(stop),
            file,
            delivered,
        };
        Ok((reader, relay))
    }

    /// Sets the caller's file back by what the program did not take. All of its processes are dead.
    fn give_back(&mut self) -> io::Result<()> {
        self.stop = None;
        // A thread that waits for another kind of file may not come back, and ends by itself.
        let Some((reader, file)) = self.file.take() else {
            return Ok(());
        };
        let thread = self.thread.take().map(JoinHandle::join);
        let buffered = thread.and_then(Result::ok).unwrap_or(0) as u64;
        // The program may have written to its end, too: no more than it was given comes back.
        let left = ioctl_fionread(&reader)?.min(self.delivered.load(Ordering::Relaxed));
        let back = i64::try_from(buffered.saturating_add(left)).unwrap_or(i64::MAX);
        if back > 0 {
            seek(&file, SeekFrom::Current(-back))?;
        }
        Ok(())
    }
}

impl Drop for InputRelay {
    fn drop(&mut self) {
        if let Err(error) = self.give_back() {
            tracing::warn!(%error, "cannot set standard input back to where the program stopped");
        }
    }
}

/// Gives how many bytes were read and not passed on.
fn carry_input(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    stop: BorrowedFd<'_>,
    delivered: &AtomicU64,
) -> usize {
    let mut buffer = vec![0; INPUT_BYTES];
    loop {
        match wait(from, PollFlags::IN, Some(stop), None) {
            Ok(Woken::Ready) => {}
            Ok(_) | Err(_) => return 0,
        }
        // Only this thread fills the pipe, so the room does not shrink before the write.
        let room = INPUT_BYTES.saturating_sub(ioctl_fionread(to).unwrap_or(0) as usize);
        if room == 0 {
            match wait(to, PollFlags::OUT, Some(stop), None) {
                Ok(Woken::Ready) => continue,
                Ok(_) | Err(_) => return 0,
            }
        }
        let length = match read(from, &mut buffer[..room]) {
            Ok(0) => return 0,
            Ok(length) => length,
            Err(Errno::INTR | Errno::AGAIN) => continue,
            Err(errno) => {
                tracing::warn!(%errno, "cannot read standard input any further");
                return 0;
            }
        };
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            match write(to, rest) {
                Ok(written) => {
                    delivered.fetch_add(written as u64, Ordering::Relaxed);
                    rest = &rest[written..];
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => match wait(to, PollFlags::OUT, Some(stop), None) {
                    Ok(Woken::Ready) => {}
                    Ok(_) | Err(_) => return rest.len(),
                },
                Err(_) => return rest.len(),
            }
        }
    }
}

fn read_some(from: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match read(from, &mut *buffer) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                wait(from, PollFlags::IN, None, None)?;
            }
            result => return result,
        }
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match write(to, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                wait(to, PollFlags::OUT, None, None)?;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    /// The descriptor is ready.
    Ready,
    /// The descriptor that stops a wait is.
    Stopped,
    /// The time is over.
    Late,
}

/// Waits until `descriptor` is ready, `stop` is closed or readable, or the time is over.
fn wait(
    descriptor: BorrowedFd<'_>,
    flags: PollFlags,
    stop: Option<BorrowedFd<'_>>,
    deadline: Option<Instant>,
) -> Result<Woken, Errno> {
    let mut events = vec![PollFd::from_borrowed_fd(descriptor, flags)];
    events.extend(stop.map(|stop| PollFd::from_borrowed_fd(stop, PollFlags::IN)));
    loop {
        let patience = deadline.map(|deadline| timespec(deadline - Instant::now().min(deadline)));
        match poll(&mut events, patience.as_ref()) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(0) => return Ok(Woken::Late),
            Ok(_) => {
                let is_stopped = events.get(1).is_some_and(|stop| !stop.revents().is_empty());
                return Ok(if is_stopped {
                    Woken::Stopped
                } else {
                    Woken::Ready
                });
            }
        }
    }
}

/// A time to wait, for poll(2).
pub(super) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipfs_exec_node::CancelSource;
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    #[test]
    fn a_file_stands_where_the_program_stopped() {
        // Below, at and above what a pipe and the buffer hold.
        for (size, taken) in [(10, 3), (65_536, 0), (200_000, 70_000), (300_000, 300_000)] {
            let mut file = tempfile::tempfile().unwrap();
            let content: Vec<u8> = (0..size).map(|index: usize| index as u8).collect();
            file.write_all(&content).unwrap();
            file.rewind().unwrap();
            let (reader, relay) = InputRelay::start(file.try_clone().unwrap().into()).unwrap();
            let mut read = vec![0; taken];
            File::from(reader).read_exact(&mut read).unwrap();
            drop(relay);
            assert_eq!(read, content[..taken]);
            assert_eq!(file.stream_position().unwrap(), taken as u64, "{size}");
        }
    }

    /// What a program writes into its own standard input is nothing of the file.
    #[test]
    fn no_more_comes_back_than_was_given() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        file.seek(std::io::SeekFrom::Start(4)).unwrap();
        let (reader, relay) = InputRelay::start(file.try_clone().unwrap().into()).unwrap();
        let mut program = File::from(reader);
        program.read_exact(&mut [0; 6]).unwrap();
        let path = format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&program)
        );
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .write_all(&[0; 100])
            .unwrap();
        drop(relay);
        assert_eq!(file.stream_position().unwrap(), 4);
    }

    /// A terminal multiplexer or an event loop may have made the caller's descriptors non-blocking.
    #[test]
    fn nothing_is_lost_where_a_descriptor_does_not_block() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let (from, mut program) = std::io::pipe().unwrap();
        let relay = OutputRelay::start(from.into(), writer, None).unwrap();
        let reading = thread::spawn(move || {
            let mut all = Vec::new();
            let mut buffer = vec![0; 1000];
            loop {
                match read_some(reader.as_fd(), &mut buffer).unwrap() {
                    0 => return all,
                    length => all.extend_from_slice(&buffer[..length]),
                }
            }
        });
        let content: Vec<u8> = (0..1_000_000).map(|index: u32| index as u8).collect();
        program.write_all(&content).unwrap();
        drop(program);
        drop(relay);
        assert!(reading.join().unwrap() == content);
    }

    /// What a relay wrote for these pieces of output, each write by itself.
    fn writes(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let (ours, theirs) = crate::process::socket_pair().unwrap();
        let (from, mut program) = std::io::pipe().unwrap();
        let relay = OutputRelay::start(from.into(), theirs, None).unwrap();
        let reading = thread::spawn(move || {
            let mut writes = Vec::new();
            let mut buffer = vec![0; 1 << 20];
            loop {
                let length = read(&ours, &mut buffer[..]).unwrap();
                if length == 0 {
                    return writes;
                }
                writes.push(buffer[..length].to_vec());
            }
        });
        for piece in pieces {
            program.write_all(piece).unwrap();
        }
        drop(program);
        drop(relay);
        reading.join().unwrap()
    }

    /// Four runs that shared a log broke each other's lines in two.
    #[test]
    fn lines_are_written_whole() {
        assert_eq!(writes(&[b"one\ntw"]), [&b"one\n"[..], b"tw"]);
        let lines = [b'x'; 999].into_iter().chain([b'\n']);
        let many: Vec<u8> = lines.collect::<Vec<_>>().repeat(50);
        for write in writes(&[&many]) {
            assert!(write.ends_with(b"\n"));
            assert_eq!(write.len() % 1000, 0);
            assert!(write.len() <= PIPE_BUF);
        }
        // One that no pipe takes at once, and one that is larger than all memory for it.
        for size in [PIPE_BUF + 1, BUFFER_BYTES, 3 * BUFFER_BYTES] {
            let mut line = vec![b'y'; size - 1];
            line.push(b'\n');
            assert_eq!(writes(&[&line]).concat(), line);
        }
    }

    /// A prompt, or the dots of a progress bar.
    #[test]
    fn a_line_without_an_end_does_not_wait_for_more() {
        let (ours, theirs) = std::io::pipe().unwrap();
        let (from, mut program) = std::io::pipe().unwrap();
        let relay = OutputRelay::start(from.into(), theirs.into(), None).unwrap();
        program.write_all(b"name? ").unwrap();
        let mut prompt = [0; 6];
        (&ours).read_exact(&mut prompt).unwrap();
        assert_eq!(&prompt, b"name? ");
        drop(program);
        drop(relay);
    }

    /// A run whose output nobody reads did not end when its time was over.
    #[test]
    fn a_reader_that_does_not_read_is_not_waited_for() {
        let (_ours, theirs) = std::io::pipe().unwrap();
        let (from, mut program) = std::io::pipe().unwrap();
        let mut relay = OutputRelay::start(from.into(), theirs.into(), None).unwrap();
        program.write_all(&[b'x'; 100_000]).unwrap();
        drop(program);
        let source = CancelSource::new().unwrap();
        source.cancel();
        relay.finish(&source.token());
        relay.finish(&NEVER.until(Some(Instant::now())));
    }

    #[test]
    fn an_input_that_never_ends_is_left() {
        let (never, _writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (_reader, relay) = InputRelay::start(never).unwrap();
        drop(relay);
    }

    #[test]
    fn output_that_goes_nowhere_does_not_stop_the_program() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (from, mut program) = std::io::pipe().unwrap();
        let relay = OutputRelay::start(from.into(), full.into(), None).unwrap();
        program.write_all(&[0; 1_000_000]).unwrap();
        drop(program);
        drop(relay);
    }

    #[test]
    fn output_above_the_limit_is_counted_and_held_back() {
        let mut to = tempfile::tempfile().unwrap();
        let (from, mut program) = std::io::pipe().unwrap();
        let count = Arc::new(AtomicU64::new(0));
        let log = Some((Arc::clone(&count), 1000));
        let relay = OutputRelay::start(from.into(), to.try_clone().unwrap().into(), log).unwrap();
        program.write_all(&[b'x'; 100_000]).unwrap();
        drop(program);
        drop(relay);
        assert_eq!(count.load(Ordering::Relaxed), 100_000);
        to.rewind().unwrap();
        assert_eq!(to.read_to_end(&mut Vec::new()).unwrap(), 1000);
    }
}
