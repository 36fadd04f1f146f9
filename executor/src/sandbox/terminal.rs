//! A terminal of the program's own, for people.
//!
//! ```text
//! the user's terminal, raw ══ us ══ master │ slave ══ the program, leader of its session
//! ```
//!
//! What the user types goes to the program as it is, so that job control, Ctrl-C and Ctrl-Z happen
//! inside. The user's terminal itself never gets inside. It is given back as it was when the program
//! ends, and by the supervisor where we are killed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use signal_hook::SigId;
use signal_hook::consts::SIGWINCH;

use crate::process::{HostTerminal, Streams};

/// Bytes that are passed on at a time.
const PIECE_BYTES: usize = 4096;

/// The user's terminal while the program has one of its own. Dropped, it is as it was.
#[derive(Debug)]
pub(super) struct Borrowed {
    terminal: OwnedFd,
    before: Termios,
    /// Closed, it ends the thread that reads what is typed.
    stop: Option<OwnedFd>,
    input: Option<JoinHandle<()>>,
    resized: SigId,
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(Err(_)) = self.input.take().map(JoinHandle::join) {
            tracing::debug!("the thread that reads what is typed panicked");
        }
        signal_hook::low_level::unregister(self.resized);
        if let Err(errno) = tcsetattr(&self.terminal, OptionalActions::Now, &self.before) {
            tracing::debug!(%errno, "the terminal stays as it is");
        }
    }
}

/// Borrows `terminal`; gives the program's streams, and what it prints.
pub(super) fn open(terminal: BorrowedFd<'_>) -> io::Result<(Streams, File, Borrowed)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(name, flags, Mode::empty())?;
    let terminal = terminal.try_clone_to_owned()?;
    let before = tcgetattr(&terminal)?;
    tcsetattr(&slave, OptionalActions::Now, &before)?;
    tcsetwinsize(&slave, tcgetwinsize(&terminal)?)?;

    let (stop, stopping) = pipe_with(PipeFlags::CLOEXEC)?;
    let (sizes, resize) = pipe_with(PipeFlags::CLOEXEC)?;
    let resized = signal_hook::low_level::pipe::register(SIGWINCH, resize)?;
    let mut raw = before.clone();
    raw.make_raw();
    tcsetattr(&terminal, OptionalActions::Now, &raw)?;
    // From here on it is given back in any case.
    let mut borrowed = Borrowed {
        terminal: terminal.try_clone()?,
        before: before.clone(),
        stop: Some(stopping),
        input: None,
        resized,
    };
    let (from, to) = (terminal.try_clone()?, File::from(master.try_clone()?));
    let thread = thread::Builder::new().name("sandbox-terminal".into());
    borrowed.input = Some(thread.spawn(move || {
        if let Err(error) = pass_on(&File::from(from), to, &stop, &File::from(sizes)) {
            tracing::debug!(%error, "what is typed is no longer passed on");
        }
    })?);
    let streams = Streams {
        stdin: slave.try_clone()?,
        output: slave,
        terminal: Some(HostTerminal {
            descriptor: terminal,
            before,
        }),
    };
    Ok((streams, File::from(master), borrowed))
}

/// Passes on what is typed, and the size of the window, until `stop` closes.
fn pass_on(from: &File, mut to: File, stop: &OwnedFd, sizes: &File) -> io::Result<()> {
    let mut buffer = [0; PIECE_BYTES];
    loop {
        let mut events = [
            PollFd::new(stop, PollFlags::IN),
            PollFd::new(sizes, PollFlags::IN),
            PollFd::new(from, PollFlags::IN),
        ];
        match poll(&mut events, None) {
            Err(Errno::INTR) => continue,
            result => result?,
        };
        let ready = events.map(|event| !event.revents().is_empty());
        if ready[0] {
            return Ok(());
        }
        if ready[1] {
            rustix::io::read(sizes, &mut buffer)?;
            tcsetwinsize(to.as_fd(), tcgetwinsize(from)?)?;
        }
        if ready[2] {
            match (&*from).read(&mut buffer)? {
                0 => return Ok(()),
                length => to.write_all(&buffer[..length])?,
            }
        }
    }
}
