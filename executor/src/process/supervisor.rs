//! The process between us and a child.
//!
//! A copy of our process that runs nothing of it: one thread, no memory allocated, system calls
//! only. It waits for the child's end or for ours, kills what is left, and ends as the child did.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, Result, read};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, kill_process, kill_process_group,
    pidfd_open, wait, waitpid,
};
use rustix::termios::{OptionalActions, tcsetattr};

use super::cover::{Covered, Covers};
use super::realtime::prefer;
use super::{HostTerminal, borrow, close_all_but, exit_now};

/// Exit code where the supervisor itself fails.
const FAILED: i32 = 125;

/// The children of this thread, the only one: their numbers, each with a blank behind it.
const CHILDREN: &std::ffi::CStr = c"/proc/thread-self/children";

/// Longest text of counters: seven lines.
pub(super) const COUNTER_BYTES: usize = 512;

/// Bytes of that list that are read at once; what does not fit is read when others are gone.
const LIST_BYTES: usize = 4096;

/// What the kernel counted of this process, and of all that it waited for.
const COUNTERS: &std::ffi::CStr = c"/proc/self/io";

/// What the supervisor keeps of its parent.
pub(super) struct Ends<'e> {
    /// Closed at its other end, it has all killed.
    pub(super) collar: RawFd,
    /// Where it tells what all of them have read and written.
    pub(super) report: RawFd,
    /// What it gives back.
    pub(super) terminal: Option<&'e HostTerminal>,
    /// Where it meets the stub, and what it does then.
    pub(super) meeting: Option<Meeting<'e>>,
}

/// What happens when the sandbox is complete, before the program starts.
pub(super) struct Meeting<'e> {
    pub(super) socket: RawFd,
    pub(super) covers: Covers,
    pub(super) covered: &'e Covered,
}

/// Most descriptors that the supervisor keeps.
const MAX_KEPT: usize = 8;

/// Watches over `child` until it ends or the collar closes, and puts all in order behind it.
pub(super) fn supervise(child: Pid, ends: &Ends<'_>) -> ! {
    let watched = watch(child, ends);
    if let Some(terminal) = ends.terminal {
        // Our parent does that, too, if it lives.
        let action = OptionalActions::Now;
        _ = tcsetattr(&terminal.descriptor, action, &terminal.before);
    }
    match watched {
        Ok(status) => end_as(status),
        Err(_) => {
            // The kernel kills the child with us.
            exit_now(FAILED)
        }
    }
}

fn watch(child: Pid, ends: &Ends<'_>) -> Result<WaitStatus> {
    let (collar, report) = (ends.collar, ends.report);
    let mut kept = [collar; MAX_KEPT];
    kept[1] = report;
    if let Some(terminal) = ends.terminal {
        kept[2] = terminal.descriptor.as_raw_fd();
    }
    if let Some(meeting) = &ends.meeting {
        kept[3] = meeting.socket;
        kept[4..].copy_from_slice(&meeting.covers.descriptors());
    }
    // Above all the pipe by which our parent learns of the child's `exec`, and locks.
    if close_all_but(kept).is_err() {
        return Err(Errno::BADF);
    }
    let descriptor = pidfd_open(child, PidfdFlags::empty())?;
    prefer(None);
    let has_ended = match &ends.meeting {
        Some(meeting) => meeting.hold(&descriptor, collar)?,
        None => false,
    };
    if !has_ended {
        wait_for(&descriptor, collar, collar)?;
    }
    // Nobody waited for the child yet, so its number, which is also its group's, is its own.
    // What it starts may leave the group, but by then the kernel kills that with the child.
    ignore_missing(kill_process_group(child, Signal::KILL))?;
    ignore_missing(kill_process(child, Signal::KILL))?;
    prefer(Some(child));
    let status = reap(child)?;
    end_orphans()?;
    // What was used is good to know, and no reason to fail.
    _ = tell_counters(report);
    Ok(status)
}

fn tell_counters(report: RawFd) -> Result<()> {
    let counters = open(COUNTERS, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = [0; COUNTER_BYTES];
    let length = read(&counters, &mut bytes[..])?;
    rustix::io::write(borrow(report), &bytes[..length])?;
    Ok(())
}

impl Meeting<'_> {
    /// Waits for the stub, covers its `/proc`, and lets it go on. Gives whether the child ended, or is to
    /// be killed, before.
    fn hold(&self, child: &OwnedFd, collar: RawFd) -> Result<bool> {
        if wait_for(child, collar, self.socket)? {
            return Ok(true);
        }
        // Bubblewrap may end without it.
        let Some(stub) = self.receive()? else {
            return Ok(false);
        };
        let errno = match self.covers.put_on(stub, self.covered) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(Errno::IO.raw_os_error()),
        };
        match send(
            borrow(self.socket),
            &errno.to_ne_bytes(),
            SendFlags::NOSIGNAL,
        ) {
            // It is gone meanwhile.
            Err(Errno::PIPE | Errno::CONNRESET) => Ok(false),
            result => result.map(|_| false),
        }
    }

    /// The process that said it was there, as the kernel says.
    fn receive(&self) -> Result<Option<Pid>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut parts = [IoSliceMut::new(&mut byte)];
        recvmsg(
            borrow(self.socket),
            &mut parts,
            &mut ancillary,
            RecvFlags::empty(),
        )?;
        let mut senders = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid),
            _ => None,
        });
        Ok(senders.next())
    }
}

/// Waits until the child has ended or is to be killed, which it tells by true, or `other` is ready.
fn wait_for(descriptor: &OwnedFd, collar: RawFd, other: RawFd) -> Result<bool> {
    let (collar, other) = (borrow(collar), borrow(other));
    let mut events = [
        PollFd::new(descriptor, PollFlags::IN),
        PollFd::from_borrowed_fd(collar.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(other.as_fd(), PollFlags::IN),
    ];
    loop {
        match poll(&mut events, None) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) => return Ok(events[..2].iter().any(|event| !event.revents().is_empty())),
        }
    }
}

fn reap(child: Pid) -> Result<WaitStatus> {
    loop {
        match waitpid(Some(child), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(status),
            Ok(None) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Kills and reaps what the child left, which is ours now.
fn end_orphans() -> Result<()> {
    loop {
        kill_children()?;
        match wait(WaitOptions::empty()) {
            Err(Errno::CHILD) => return Ok(()),
            Err(Errno::INTR) | Ok(_) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn kill_children() -> Result<()> {
    let list = match open(CHILDREN, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        // A kernel without the list: what remains dies with the child, as it asked for.
        Err(Errno::NOENT) => return Ok(()),
        result => result?,
    };
    let mut bytes = [0; LIST_BYTES];
    let length = read(&list, &mut bytes[..])?;
    let mut number = 0;
    for byte in &bytes[..length] {
        if byte.is_ascii_digit() {
            number = number * 10 + i32::from(byte - b'0');
            continue;
        }
        if let Some(orphan) = Pid::from_raw(number) {
            // Not waited for, so the number is still its own.
            ignore_missing(kill_process(orphan, Signal::KILL))?;
            // With process 1 of a sandbox all others die, of which there may be thousands. As `child`, it
            // executes nothing any more.
            prefer(Some(orphan));
        }
        number = 0;
    }
    Ok(())
}

fn ignore_missing(result: Result<()>) -> Result<()> {
    match result {
        Err(Errno::SRCH) => Ok(()),
        result => result,
    }
}

/// Ends as the child did: with its exit code, or by the signal that killed it.
fn end_as(status: WaitStatus) -> ! {
    if let Some(code) = status.exit_status() {
        exit_now(code);
    }
    let signal = status.terminating_signal().and_then(Signal::from_named_raw);
    _ = kill_process(getpid(), signal.unwrap_or(Signal::KILL));
    exit_now(FAILED)
}
