//! Ctrl-C, SIGTERM and a closed terminal: the first signal asks the work to end and clean up, the second
//! ends the process. A program that runs gets them first, and SIGUSR1 and SIGUSR2, too.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use ipfs_exec_executor::caller::Caller;
use ipfs_exec_node::{Cancel, CancelSource};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXFSZ};

/// The signal that asked this process to end; 0 while none has.
static RECEIVED: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// Signals that ask a process to end.
const ENDING: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Signals that a program may use as it likes.
const FREE: [i32; 2] = [SIGUSR1, SIGUSR2];

fn received() -> i32 {
    match RECEIVED.load(Ordering::Relaxed) {
        0 => SIGINT,
        signal => signal as i32,
    }
}

/// The exit code of a process that ends because it was asked to: 128 and the signal, as shells
/// have it.
pub(crate) fn exit_code() -> u8 {
    128 + received() as u8
}

/// Ends this process by the signal that asked it to end, so that a shell ends its loop. Comes back only
/// where that is not possible.
pub(crate) fn die() {
    if let Err(error) = signal_hook::low_level::emulate_default_handler(received()) {
        tracing::debug!(%error, "cannot end by a signal");
    }
}

/// Makes a write beyond `ulimit -f` fail with an error, which names the file. Otherwise the kernel ends this
/// process.
pub(crate) fn report_file_size_limit() -> io::Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::default())?;
    Ok(())
}

/// Tells whether the user wants to stop.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt {
    /// Cancels the work with the first signal.
    source: Arc<CancelSource>,
    cancel: Cancel,
    told: Arc<Told>,
}

/// Signals for a program.
#[derive(Debug)]
struct Told {
    /// Whether each of them came.
    flags: Vec<(Signal, Arc<AtomicBool>)>,
    /// Becomes readable when one comes.
    readable: OwnedFd,
    writable: OwnedFd,
}

impl Interrupt {
    /// Takes over the signals that end a process, for the rest of it.
    pub(crate) fn install() -> io::Result<Interrupt> {
        let source = CancelSource::new()?;
        let (asked, writable) = source.handles()?;
        let told = Told::new()?;
        for signal in ENDING {
            // In this order: the second signal finds the flag that the first has set; who finds the flag set
            // finds the signal as well; and a pipe tells of what is known already.
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&asked))?;
            signal_hook::flag::register_usize(signal, Arc::clone(&RECEIVED), signal as usize)?;
            told.watch(signal)?;
            signal_hook::flag::register(signal, Arc::clone(&asked))?;
            signal_hook::low_level::pipe::register(signal, writable.try_clone()?)?;
        }
        Ok(Interrupt {
            cancel: source.token(),
            source: Arc::new(source),
            told: Arc::new(told),
        })
    }

    /// Takes over the other signals that a program may get.
    pub(crate) fn watch_all(&self) -> io::Result<()> {
        FREE.into_iter()
            .try_for_each(|signal| self.told.watch(signal))
    }

    /// Cancels the work of this command.
    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    pub(crate) fn asked(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Whether Ctrl-C was typed and the program ended by itself: a loop over commands is to end.
    pub(crate) fn was_typed(&self) -> bool {
        !self.asked() && RECEIVED.load(Ordering::Relaxed) == SIGINT as usize
    }
}

impl Told {
    fn new() -> io::Result<Told> {
        let (readable, writable) = io::pipe()?;
        fcntl_setfl(&readable, OFlags::NONBLOCK)?;
        let signals = ENDING.into_iter().chain(FREE);
        Ok(Told {
            flags: signals
                .filter_map(Signal::from_named_raw)
                .map(|signal| (signal, Arc::default()))
                .collect(),
            readable: readable.into(),
            writable: writable.into(),
        })
    }

    fn watch(&self, signal: i32) -> io::Result<()> {
        let mut flags = self.flags.iter();
        if let Some((_, flag)) = flags.find(|(each, _)| each.as_raw() == signal) {
            signal_hook::flag::register(signal, Arc::clone(flag))?;
            signal_hook::low_level::pipe::register(signal, self.writable.try_clone()?)?;
        }
        Ok(())
    }

    fn take(&self) -> Option<Signal> {
        drain(&self.readable);
        let mut flags = self.flags.iter();
        let (signal, _) = flags.find(|(_, flag)| flag.swap(false, Ordering::Relaxed))?;
        Some(*signal)
    }
}

/// Takes all bytes out of a pipe, which does not block.
fn drain(pipe: &OwnedFd) {
    let mut bytes = [0; 64];
    loop {
        match rustix::io::read(pipe, &mut bytes) {
            Ok(1..) | Err(Errno::INTR) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

impl Caller for Interrupt {
    fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    fn signals(&self) -> Option<BorrowedFd<'_>> {
        Some(self.told.readable.as_fd())
    }

    fn take_signal(&self) -> Option<Signal> {
        self.told.take()
    }

    fn forgive(&self) {
        self.source.reset();
    }
}
