//! The standard streams of the program.
//!
//! The invariant: no open file description of the caller reaches the sandbox, be it a file, a socket or
//! a pipe. A program that holds a descriptor can open what it leads to once more, through
//! `/proc/self/fd`: it could write into the pipe from which a shell of the host reads its script, read
//! from the pipe that takes the host's log, or change the mode of either. So each stream is a pipe of
//! ours, and a thread carries its bytes. Where stdin and stderr are a terminal, the program gets one of
//! its own, which the stub opens inside.

use ipfs_exec_node::Cancel;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, getpgrp};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{isatty, tcgetpgrp, tcgetsid};

use super::relay::{InputRelay, Log, OutputRelay};
use super::stub::Terminal;
use super::terminal::Borrowed;
use crate::process::Streams;

/// Where the program's standard input comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StandardInput {
    /// It is the terminal, where the caller's is one in front; otherwise it is empty.
    #[default]
    Terminal,
    /// The caller's standard input, whatever that is.
    Inherited,
    /// The same, and there is no terminal.
    Piped,
    /// It is empty, and there is no terminal.
    Empty,
    /// The content that the job names. There is no terminal.
    #[doc(hidden)]
    Content,
}

/// What carries the streams of a run. Dropped, it waits a moment for the end of the program's output, and
/// gives back what it took of the caller's input and terminal.
#[derive(Debug)]
pub(super) struct Relays {
    // In the order in which they are to end: the terminal is given back after the last output.
    /// An end of the program's terminal. As long as one is open its output does not end, whoever else has
    /// none open for a moment.
    peer: Option<OwnedFd>,
    output: Vec<OutputRelay>,
    input: Option<InputRelay>,
    /// The end of a pipe by which the program gets the content that the job names.
    feed: Option<OwnedFd>,
    terminal: Option<Borrowed>,
    log: Option<Log>,
}

impl Relays {
    /// Becomes readable when the user typed what ends a program, and the program is one that the kernel
    /// does not end; where there is a terminal.
    pub(super) fn interrupted(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(Borrowed::interrupted)
    }

    /// The settings of the terminal that the program is to get, where it gets one.
    pub(super) fn settings(&self) -> Option<Terminal> {
        self.terminal.as_ref().map(Borrowed::settings)
    }

    /// Connects the user's terminal with the program's, whose `master` this is.
    pub(super) fn connect(&mut self, master: OwnedFd) -> io::Result<()> {
        if let Some(terminal) = &mut self.terminal {
            let stderr = rustix::stdio::stderr().try_clone_to_owned()?;
            let printed = master.try_clone()?;
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            self.peer = Some(ioctl_tiocgptpeer(&master, flags)?);
            self.output
                .push(OutputRelay::start(printed, stderr, self.log.clone())?);
            terminal.connect(master)?;
        }
        Ok(())
    }

    /// Where the content is written that the job names, where it names one.
    pub(super) fn take_feed(&mut self) -> Option<OwnedFd> {
        self.feed.take()
    }

    /// Whether the program gets nothing of the caller's standard input.
    pub(super) fn are_repeatable(&self) -> bool {
        self.input.is_none() && self.terminal.is_none()
    }

    /// Waits for the end of the program's output; all of its processes are dead. It takes as long as its
    /// reader does, unless that is cancelled.
    pub(super) fn finish(&mut self, cancel: &Cancel) {
        self.peer = None;
        for output in &mut self.output {
            output.finish(cancel);
        }
    }

    /// The first bytes of output, as text.
    pub(super) fn first_output(&self) -> String {
        let first = self.output.first().map(OutputRelay::first);
        String::from_utf8_lossy(&first.unwrap_or_default()).into_owned()
    }

    /// Tells the program's first process, before it executes anything.
    pub(super) fn set_first(&self, first: Pid) {
        if let Some(terminal) = &self.terminal {
            terminal.set_first(first);
        }
    }
}

/// Streams that end at our stdin, as far as `input` says, and at our stderr.
///
/// Where there is a `log`, what the program prints is counted there, and no more than its limit goes
/// on.
pub(super) fn open(input: StandardInput, log: Option<Log>) -> io::Result<(Streams, Relays)> {
    let (stdin, stderr) = (rustix::stdio::stdin(), rustix::stdio::stderr());
    match input {
        StandardInput::Terminal | StandardInput::Inherited | StandardInput::Piped => {}
        StandardInput::Empty => return relayed(Source::Nothing, stderr, log),
        StandardInput::Content => return relayed(Source::Content, stderr, log),
    }
    let is_typed = isatty(stdin) && is_in_front(stdin);
    if is_typed && isatty(stderr) && input != StandardInput::Piped {
        let (mut streams, mut relays) = relayed(Source::Nothing, stderr, log)?;
        let (borrowed, host) = Borrowed::take(stdin)?;
        relays.terminal = Some(borrowed);
        streams.terminal = Some(host);
        return Ok((streams, relays));
    }
    // Who asks a terminal in the background is stopped.
    let is_read = is_typed || (input != StandardInput::Terminal && !isatty(stdin));
    let source = match is_read {
        true => Source::Caller(stdin),
        false => Source::Nothing,
    };
    relayed(source, stderr, log)
}

/// What the program's standard input is.
#[derive(Clone, Copy, Debug)]
enum Source<'s> {
    Nothing,
    Content,
    Caller(BorrowedFd<'s>),
}

fn relayed(
    source: Source<'_>,
    stderr: BorrowedFd<'_>,
    log: Option<Log>,
) -> io::Result<(Streams, Relays)> {
    let (mut input, mut feed) = (None, None);
    let stdin = match source {
        Source::Nothing => empty()?,
        Source::Content => {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            feed = Some(writer);
            reader
        }
        Source::Caller(stdin) => {
            let (reader, relay) = InputRelay::start(stdin.try_clone_to_owned()?)?;
            input = Some(relay);
            reader
        }
    };
    let (printed, output) = pipe_with(PipeFlags::CLOEXEC)?;
    let stderr = stderr.try_clone_to_owned()?;
    let relays = Relays {
        peer: None,
        output: vec![OutputRelay::start(printed, stderr, log.clone())?],
        input,
        feed,
        terminal: None,
        log,
    };
    Ok((Streams::new(stdin, output), relays))
}

/// A pipe that has ended. Not `/dev/null`, which is a file of the host.
pub(super) fn empty() -> io::Result<OwnedFd> {
    let (reader, _) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok(reader)
}

/// Whether what is typed at this terminal is for us. Who asks in the background is stopped.
fn is_in_front(terminal: BorrowedFd<'_>) -> bool {
    tcgetpgrp(terminal).is_ok_and(|front| front == getpgrp())
        // The terminal of another session, as of a test: nobody else reads there.
        || tcgetsid(terminal).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    use rustix::fs::fstat;

    #[test]
    fn nothing_of_the_caller_is_handed_on() {
        let mut input = tempfile::tempfile().unwrap();
        input.write_all(&[b'x'; 200_000]).unwrap();
        input.rewind().unwrap();
        let mut log = tempfile::tempfile().unwrap();
        let (streams, relays) = relayed(Source::Caller(input.as_fd()), log.as_fd(), None).unwrap();
        let mut read = Vec::new();
        File::from(streams.stdin).read_to_end(&mut read).unwrap();
        assert_eq!(read.len(), 200_000);
        File::from(streams.output).write_all(b"written").unwrap();
        drop(relays);
        log.rewind().unwrap();
        assert_eq!(io::read_to_string(log).unwrap(), "written");

        // Not even pipes.
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (streams, relays) =
            relayed(Source::Caller(reader.as_fd()), writer.as_fd(), None).unwrap();
        let inode = |descriptor: BorrowedFd<'_>| fstat(descriptor).unwrap().st_ino;
        for ours in [&streams.stdin, &streams.output] {
            for theirs in [&reader, &writer] {
                assert_ne!(inode(ours.as_fd()), inode(theirs.as_fd()));
            }
        }
        drop(streams);
        drop(relays);
    }

    #[test]
    fn without_an_input_there_is_its_end() {
        let log = tempfile::tempfile().unwrap();
        let (streams, relays) = relayed(Source::Nothing, log.as_fd(), None).unwrap();
        drop(streams.output);
        assert_eq!(io::read_to_string(File::from(streams.stdin)).unwrap(), "");
        drop(relays);
    }
}
