//! A terminal of the program's own, for people.
//!
//! ```text
//! the user's terminal, raw ══ us ══ master │ slave ══ the program, leader of its session
//! ```
//!
//! The stub opens the pair in the sandbox's own `devpts`, and sends us the master.
//!
//! The program gets the typed bytes unchanged, so job control, Ctrl-C and Ctrl-Z happen inside. The user's
//! terminal itself never gets inside. When the program ends, we restore the terminal's settings. If we are
//! killed, the supervisor restores them.
//!
//! The kernel does not let the first process of a sandbox die of a signal for which it has no handler.
//! Everywhere else, Ctrl-C or Ctrl-\ ends such a process. So the run is interrupted if the user types one of
//! them while such a first process is in front.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, Winsize, tcgetattr, tcgetpgrp,
    tcgetwinsize, tcsetattr, tcsetwinsize,
};
use signal_hook::SigId;
use signal_hook::consts::SIGWINCH;

use super::stub::Terminal;
use crate::process::{HostTerminal, signal_bit, signal_sets};

/// Bytes that are passed on at a time.
const PIECE_BYTES: usize = 4096;

/// The user's terminal while the program has one of its own. Dropped, it is as it was.
#[derive(Debug)]
pub(super) struct Borrowed {
    terminal: OwnedFd,
    before: Termios,
    settings: Terminal,
    /// That the window has another size, and where to tell of what ends a program; up to the connection.
    events: Option<(File, File)>,
    /// Closed, it ends the thread that reads what is typed.
    stop: Option<OwnedFd>,
    input: Option<JoinHandle<()>>,
    resized: SigId,
    /// The number of the program's first process, 0 as long as there is none.
    first: Arc<AtomicI32>,
    interrupted: OwnedFd,
}

impl Borrowed {
    /// Becomes readable when the user typed what ends a program that the kernel does not end.
    pub(super) fn interrupted(&self) -> BorrowedFd<'_> {
        self.interrupted.as_fd()
    }

    pub(super) fn set_first(&self, first: Pid) {
        self.first
            .store(first.as_raw_nonzero().get(), Ordering::Relaxed);
    }
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

impl Borrowed {
    /// Borrows `terminal`; gives also what the supervisor has to know of it.
    pub(super) fn take(terminal: BorrowedFd<'_>) -> io::Result<(Borrowed, HostTerminal)> {
        let terminal = terminal.try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let settings = settings(&before, tcgetwinsize(&terminal)?);
        let (sizes, resize) = pipe_with(PipeFlags::CLOEXEC)?;
        let (interrupted, interrupt) = pipe_with(PipeFlags::CLOEXEC)?;
        let resized = signal_hook::low_level::pipe::register(SIGWINCH, resize)?;
        let host = HostTerminal {
            descriptor: terminal.try_clone()?,
            before: before.clone(),
        };
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &raw)?;
        // From here on it is given back in any case.
        let borrowed = Borrowed {
            terminal,
            before,
            settings,
            events: Some((File::from(sizes), File::from(interrupt))),
            stop: None,
            input: None,
            resized,
            first: Arc::new(AtomicI32::new(0)),
            interrupted,
        };
        Ok((borrowed, host))
    }

    /// How it was set, for the program's own.
    pub(super) fn settings(&self) -> Terminal {
        self.settings
    }

    /// Passes on what is typed to the program's terminal, whose `master` this is.
    pub(super) fn connect(&mut self, master: OwnedFd) -> io::Result<()> {
        let Some((sizes, interrupt)) = self.events.take() else {
            return Ok(());
        };
        let (stop, stopping) = pipe_with(PipeFlags::CLOEXEC)?;
        let from = File::from(self.terminal.try_clone()?);
        let fatal = Fatal {
            first: Arc::clone(&self.first),
            interrupt,
        };
        let thread = thread::Builder::new().name("sandbox-terminal".into());
        self.input = Some(thread.spawn(move || {
            if let Err(error) = pass_on(&from, File::from(master), &stop, &sizes, fatal) {
                tracing::debug!(%error, "what is typed is no longer passed on");
            }
        })?);
        self.stop = Some(stopping);
        Ok(())
    }
}

/// What stands for such settings in the kernel: `struct termios` and `struct winsize`.
fn settings(termios: &Termios, size: Winsize) -> Terminal {
    const CODES: [SpecialCodeIndex; 17] = [
        SpecialCodeIndex::VINTR,
        SpecialCodeIndex::VQUIT,
        SpecialCodeIndex::VERASE,
        SpecialCodeIndex::VKILL,
        SpecialCodeIndex::VEOF,
        SpecialCodeIndex::VTIME,
        SpecialCodeIndex::VMIN,
        SpecialCodeIndex::VSWTC,
        SpecialCodeIndex::VSTART,
        SpecialCodeIndex::VSTOP,
        SpecialCodeIndex::VSUSP,
        SpecialCodeIndex::VEOL,
        SpecialCodeIndex::VREPRINT,
        SpecialCodeIndex::VDISCARD,
        SpecialCodeIndex::VWERASE,
        SpecialCodeIndex::VLNEXT,
        SpecialCodeIndex::VEOL2,
    ];
    let mut codes = [0; 20];
    // The line discipline comes first: that of terminals.
    for (place, code) in codes[1..].iter_mut().zip(CODES) {
        *place = termios.special_codes[code];
    }
    Terminal {
        modes: [
            termios.input_modes.bits(),
            termios.output_modes.bits(),
            termios.control_modes.bits(),
            termios.local_modes.bits(),
        ],
        codes,
        size: [size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel],
    }
}

/// Passes on what is typed, and the size of the window, until `stop` closes.
fn pass_on(
    from: &File,
    mut to: File,
    stop: &OwnedFd,
    sizes: &File,
    mut fatal: Fatal,
) -> io::Result<()> {
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
                length => {
                    let typed = &buffer[..length];
                    // Asked before: a program that handles it may be gone afterwards.
                    let is_fatal = fatal.is_typed(typed, &to)?;
                    to.write_all(typed)?;
                    if is_fatal {
                        fatal.interrupt.write_all(&[0])?;
                    }
                }
            }
        }
    }
}

/// What ends a program at a terminal, but not the first process of a sandbox.
struct Fatal {
    first: Arc<AtomicI32>,
    interrupt: File,
}

impl Fatal {
    fn is_typed(&self, typed: &[u8], master: &File) -> io::Result<bool> {
        // On Linux these are those of the other side.
        let settings = tcgetattr(master)?;
        if !settings.local_modes.contains(LocalModes::ISIG) {
            return Ok(false);
        }
        let signals = [
            (SpecialCodeIndex::VINTR, Signal::INT),
            (SpecialCodeIndex::VQUIT, Signal::QUIT),
        ];
        let mut signals = signals.into_iter().filter(|(code, _)| {
            let code = settings.special_codes[*code];
            // 0 says that there is none.
            code != 0 && typed.contains(&code)
        });
        let Some(first) = Pid::from_raw(self.first.load(Ordering::Relaxed)) else {
            return Ok(signals.next().is_some());
        };
        // Nobody is in front before the session has its terminal.
        if tcgetpgrp(master).is_ok_and(|front| front != first) {
            return Ok(false);
        }
        Ok(signals.any(|(_, signal)| is_unprepared(first, signal)))
    }
}

/// Whether the process neither handles, ignores nor blocks the signal. One that is gone does not either.
fn is_unprepared(process: Pid, signal: Signal) -> bool {
    let path = format!("/proc/{}/status", process.as_raw_nonzero());
    let status = fs::read_to_string(path).unwrap_or_default();
    let mut sets = signal_sets(&status, ["SigBlk", "SigIgn", "SigCgt"]);
    !sets.any(|set| set & signal_bit(signal) != 0)
}
