//! Signals for the program, and its end when the caller wants it.
//!
//! A program that is asked to end gets time to save its work, if it handles the signal. The kernel keeps
//! signals from process 1 of a sandbox that it does not handle: such a program would not notice.

use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use ipfs_exec_node::Cancel;
use ipfs_exec_node::cancel::NEVER;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::caller::Caller;
use crate::process::{signal_bit, signal_sets};

/// The state of ending a program on request of the caller.
pub(super) struct Stopping<'c> {
    caller: Option<&'c dyn Caller>,
    timeout: Duration,
    /// Whether process 1 is ours, and hands on every signal.
    hands_on: bool,
    first: Option<First>,
    /// The last signal that the program was sent.
    last: Option<Signal>,
    /// When a program that was asked to end is killed.
    deadline: Option<Instant>,
}

/// Process 1 of the sandbox.
struct First {
    pid: Pid,
    descriptor: OwnedFd,
}

impl<'c> Stopping<'c> {
    pub(super) fn new(
        caller: Option<&'c dyn Caller>,
        timeout: Duration,
        hands_on: bool,
    ) -> Stopping<'c> {
        Stopping {
            caller,
            timeout,
            hands_on,
            first: None,
            last: None,
            deadline: None,
        }
    }

    /// Tells process 1, which is not waited for yet.
    pub(super) fn set_first(&mut self, pid: Pid) {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => self.first = Some(First { pid, descriptor }),
            Err(errno) => tracing::debug!(%errno, "process 1 of the sandbox is gone"),
        }
    }

    /// Tells that the caller wants the end, as long as the program was not asked.
    pub(super) fn cancel(&self) -> &'c Cancel {
        let cancel = self.caller.map(Caller::cancel);
        cancel.filter(|_| self.deadline.is_none()).unwrap_or(&NEVER)
    }

    /// Readable while there are signals for the program, once there is a process that can get them.
    pub(super) fn signals(&self) -> Option<BorrowedFd<'c>> {
        let signals = self.caller.and_then(Caller::signals);
        signals.filter(|_| self.first.is_some())
    }

    /// Hands the caller's signals on to the program, if that runs.
    pub(super) fn hand_on(&mut self) {
        let Some(first) = &self.first else {
            return;
        };
        while let Some(signal) = self.caller.and_then(Caller::take_signal) {
            match pidfd_send_signal(&first.descriptor, signal) {
                // It has ended.
                Ok(()) | Err(Errno::SRCH) => self.last = Some(signal),
                Err(errno) => tracing::warn!(?signal, %errno, "the program gets no signal"),
            }
        }
    }

    /// The caller wants the end, and its signals were handed on. Gives whether the program is to be killed now: it has got no signal, or one
    /// that it does not notice.
    pub(super) fn ask(&mut self) -> bool {
        let notices = match (&self.first, self.last) {
            (Some(first), Some(signal)) => self.hands_on || is_handled(first.pid, signal),
            _ => false,
        };
        if !notices || self.timeout.is_zero() {
            return true;
        }
        self.deadline = Instant::now().checked_add(self.timeout);
        self.deadline.is_none()
    }

    /// How much time a program has that was asked to end.
    pub(super) fn left(&self) -> Option<Duration> {
        let deadline = self.deadline?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether a program that was asked to end has had its time.
    pub(super) fn is_over(&self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }

    /// The program has ended with `code`, or with none, and was not killed. Gives whether it ended as an
    /// interrupted one: the signal ended it, and not the program itself. Otherwise the caller forgives.
    pub(super) fn end(&self, code: Option<i32>) -> bool {
        let (Some(_), Some(caller)) = (self.deadline, self.caller) else {
            return false;
        };
        let by_signal = self.last.map(|signal| 128 + signal.as_raw());
        // The kernel does not end process 1 by a signal: the program chose this code.
        let was_killed = code.is_none() || self.hands_on && code == by_signal;
        if !was_killed {
            caller.forgive();
        }
        was_killed
    }
}

/// Whether the process has a handler for the signal, or holds it back to look at it later.
fn is_handled(process: Pid, signal: Signal) -> bool {
    let path = format!("/proc/{}/status", process.as_raw_nonzero());
    let status = fs::read_to_string(path).unwrap_or_default();
    signal_sets(&status, ["SigCgt", "SigBlk"]).any(|set| set & signal_bit(signal) != 0)
}
