//! Ctrl-C, SIGTERM and a closed terminal: the first asks the work to end and clean up, the second
//! ends the process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

use ipfs_exec_node::progress::Interruption;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The signal that asked this process to end; 0 while none has.
static RECEIVED: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// The exit code of a process that ends because it was asked to: 128 and the signal, as shells
/// have it.
pub(crate) fn exit_code() -> u8 {
    let signal = match RECEIVED.load(Ordering::Relaxed) {
        0 => SIGINT,
        signal => signal as i32,
    };
    128 + signal as u8
}

/// Tells whether the user wants to stop.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt {
    asked: Arc<AtomicBool>,
    /// When waiting for other processes ends in any case, where the command has a limit of time.
    deadline: Arc<OnceLock<Instant>>,
    /// Becomes readable with the first signal.
    readable: Arc<OwnedFd>,
}

impl Interrupt {
    /// Takes over the signals, for the rest of the process.
    pub(crate) fn install() -> io::Result<Interrupt> {
        let asked = Arc::new(AtomicBool::new(false));
        let (readable, writable) = io::pipe()?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // In this order: the second signal finds the flag that the first has set.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                128 + signal,
                Arc::clone(&asked),
            )?;
            signal_hook::flag::register(signal, Arc::clone(&asked))?;
            signal_hook::flag::register_usize(signal, Arc::clone(&RECEIVED), signal as usize)?;
            signal_hook::low_level::pipe::register(signal, writable.try_clone()?)?;
        }
        Ok(Interrupt {
            asked,
            deadline: Arc::default(),
            readable: Arc::new(readable.into()),
        })
    }

    /// Has waiting for other processes end then. The first call counts.
    pub(crate) fn end_at(&self, deadline: Option<Instant>) {
        if let Some(deadline) = deadline {
            self.deadline.get_or_init(|| deadline);
        }
    }

    pub(crate) fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Waits for a signal, for `patience` at most.
    pub(crate) fn wait(&self, patience: Duration) -> io::Result<()> {
        let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
        let mut descriptors = [PollFd::new(&self.readable, PollFlags::IN)];
        match rustix::event::poll(&mut descriptors, Some(&patience)) {
            // A signal, which the flag tells of.
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A descriptor to wait on; never read it.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }
}

impl Interruption for Interrupt {
    fn asked(&self) -> bool {
        Interrupt::asked(self)
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline.get().copied()
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        Interrupt::descriptor(self)
    }
}
