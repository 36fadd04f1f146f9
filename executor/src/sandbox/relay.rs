//! Carries bytes between a descriptor of the caller and a pipe of ours, by read(2) and write(2).
//!
//! Never by splice(2), sendfile(2) or `io::copy`, which uses them: splice puts pages of the page cache
//! into a pipe, and so pages of the host's files into the sandbox, and it writes a file at a position
//! of its own, over what other processes append to the same file.
//!
//! The caller's descriptors may be in non-blocking mode, which belongs to the open file description and
//! so to all that share it: it is left as it is, and the relay polls where a call would block.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, OFlags, SeekFrom, fcntl_setfl, fstat, seek};
use rustix::io::{Errno, ioctl_fionread, read, write};
use rustix::pipe::{PipeFlags, pipe_with};

/// Bytes that are carried at a time: the capacity of a pipe.
const BUFFER_BYTES: usize = 64 << 10;

/// Bytes that the program printed so far, and how many of them go on.
pub(super) type Log = (Arc<AtomicU64>, u64);

/// Carries the program's output. Dropped, it waits for the end of that output, which comes when no
/// process of the sandbox lives any more.
#[derive(Debug)]
pub(super) struct OutputRelay(Option<JoinHandle<Result<(), Errno>>>);

impl OutputRelay {
    /// Carries all that comes from `from` to `to`, and counts it where there is a `log`. The program is
    /// not stopped where `to` takes nothing any more: the rest is discarded.
    pub(super) fn start(from: OwnedFd, to: OwnedFd, log: Option<Log>) -> io::Result<OutputRelay> {
        let name = "sandbox-output".to_owned();
        let carry = move || carry_output(from.as_fd(), to.as_fd(), log);
        let thread = thread::Builder::new().name(name).spawn(carry)?;
        Ok(OutputRelay(Some(thread)))
    }
}

impl Drop for OutputRelay {
    fn drop(&mut self) {
        match self.0.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => {}
            // The reader of a pipe may leave when it has seen enough.
            Some(Ok(Err(Errno::PIPE))) => tracing::debug!("nobody reads the program's output"),
            Some(Ok(Err(errno))) => {
                tracing::warn!(%errno, "part of what the program printed is lost");
            }
            Some(Err(_)) => tracing::warn!("the relay of the program's output panicked"),
        }
    }
}

/// Gives why `to` took no more, if it did not take all.
fn carry_output(from: BorrowedFd<'_>, to: BorrowedFd<'_>, log: Option<Log>) -> Result<(), Errno> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut carried = Ok(());
    loop {
        let length = match read_some(from, &mut buffer) {
            // A terminal says so when no process has it open any more.
            Ok(0) | Err(Errno::IO) => return carried,
            Ok(length) => length,
            Err(errno) => return carried.and(Err(errno)),
        };
        let room = log.as_ref().map_or(length, |(count, limit)| {
            let before = count.fetch_add(length as u64, Ordering::Relaxed);
            limit.saturating_sub(before).min(length as u64) as usize
        });
        if carried.is_ok() {
            carried = write_all(to, &buffer[..room]);
        }
    }
}

/// Carries the caller's standard input. Dropped, it reads no more; what the program did not take of a
/// file is there again for the next reader. Of a pipe up to [`BUFFER_BYTES`] that were read and not
/// taken are lost, and as much as the program's pipe holds.
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
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match wait(from, PollFlags::IN, Some(stop)) {
            Ok(true) => {}
            Ok(false) | Err(_) => return 0,
        }
        let length = match read(from, &mut buffer) {
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
                Err(Errno::AGAIN) => match wait(to, PollFlags::OUT, Some(stop)) {
                    Ok(true) => {}
                    Ok(false) | Err(_) => return rest.len(),
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
                wait(from, PollFlags::IN, None)?;
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
                wait(to, PollFlags::OUT, None)?;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Waits until `descriptor` is ready; false where `stop` was closed first.
fn wait(
    descriptor: BorrowedFd<'_>,
    flags: PollFlags,
    stop: Option<BorrowedFd<'_>>,
) -> Result<bool, Errno> {
    let mut events = vec![PollFd::from_borrowed_fd(descriptor, flags)];
    events.extend(stop.map(|stop| PollFd::from_borrowed_fd(stop, PollFlags::IN)));
    loop {
        match poll(&mut events, None) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) => return Ok(events.get(1).is_none_or(|stop| stop.revents().is_empty())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn what_is_above_the_limit_is_counted_and_stays_back() {
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
