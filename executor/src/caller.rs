//! Requests of the caller while its run goes on: end the run, or send a signal to the program.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use ipfs_exec_node::Cancel;
use rustix::process::Signal;

/// A caller that may want a run to end, and hands signals on to the program.
pub trait Caller: Sync {
    /// Whether the run is to end.
    fn cancel(&self) -> &Cancel;

    /// Readable while there are signals to take, where the caller has any.
    fn signals(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The next signal for the program.
    fn take_signal(&self) -> Option<Signal> {
        None
    }

    /// The program ended by itself after it was asked to, so that its result counts: the caller takes back
    /// that the run is to end.
    fn forgive(&self) {}
}

/// A caller that can end a run, and does nothing else.
impl Caller for Cancel {
    fn cancel(&self) -> &Cancel {
        self
    }
}

/// How long a program that was asked to end may take by default: as with `docker stop`.
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);
