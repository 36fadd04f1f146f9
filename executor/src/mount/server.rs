//! Answers the kernel, request by request, on as many threads as have to wait.
//!
//! ```text
//! kernel ──▶ the thread that listens ──▶ takes a request ──▶ answers it
//!                 ▲                          │
//!                 └── another takes over ────┘
//! ```
//!
//! One thread listens at a time. It answers a request at once if the answer is at hand. Before it works on
//! any other request, it lets the next thread listen. If no thread is idle and no more may be started, the
//! request waits in a queue. So one thread always listens: a signal must reach the programs that wait for the
//! network.
//!
//! A signal that does not kill a program does not end its read, as on every disk. Programs rely on that. If a
//! signal kills the program, the server answers its request at once, and discards the result of the read.

use ipfs_exec_node::CancelSource;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::Duration;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::Signal;

use super::files::Files;
use super::inodes::Inode;
use super::protocol::{self, Operation, Request};
use crate::process::{signal_bit, signal_sets};

/// Largest request: one that writes, of as many bytes as the kernel was told, which sends none.
pub(super) const REQUEST_BYTES: usize = MAX_READ_BYTES as usize + 4096;

/// Most bytes of one read.
pub(super) const MAX_READ_BYTES: u32 = 1 << 20;

/// Threads that may wait for blocks at the same time.
const MAX_THREADS: usize = 64;

/// Threads that read blocks before they are asked for: one hashes while the other reads.
const READERS_AHEAD: usize = 2;

/// Enough for what runs here, all of which iterates.
const STACK_BYTES: usize = 512 << 10;

/// How often it is looked whether somebody who was interrupted is being killed.
const KILL_CHECK: Duration = Duration::from_millis(100);

/// Pause when the kernel drops no nodes.
const TRIM_PAUSE: Duration = Duration::from_millis(5);

/// Signals that end nobody by default, as a set of `/proc`.
const HARMLESS: u64 = signal_bit(Signal::CHILD)
    | signal_bit(Signal::CONT)
    | signal_bit(Signal::STOP)
    | signal_bit(Signal::TSTP)
    | signal_bit(Signal::TTIN)
    | signal_bit(Signal::TTOU)
    | signal_bit(Signal::URG)
    | signal_bit(Signal::WINCH);

/// Answers the requests of one FUSE device.
pub(super) struct Server<'s> {
    files: &'s dyn Files,
    device: BorrowedFd<'s>,
    stop: &'s CancelSource,
    listening: Mutex<()>,
    threads: AtomicUsize,
    has_helpers: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Requests that nobody has time for, as they came.
    waiting: VecDeque<Vec<u8>>,
    /// Those that are being worked on.
    under_way: HashMap<u64, UnderWay>,
    /// Those of them whose thread got a signal.
    interrupted: HashSet<u64>,
    /// Threads that listen or wait to.
    idle: usize,
    has_ended: bool,
    /// Why a thread ended before the others.
    failure: Option<io::Error>,
}

/// A request that is being worked on.
#[derive(Clone, Copy)]
struct UnderWay {
    /// The thread that waits.
    pid: u32,
    is_answered: bool,
}

/// What is answered.
enum Answer {
    Bytes(Vec<u8>),
    /// And the numbers of nodes to which it gives a reference each.
    Nodes(Vec<u8>, Vec<u64>),
    Pieces(Vec<Bytes>),
}

impl<'s> Server<'s> {
    /// `device` has been through the first exchange with the kernel.
    pub(super) fn new(
        files: &'s dyn Files,
        device: BorrowedFd<'s>,
        stop: &'s CancelSource,
    ) -> io::Result<Server<'s>> {
        fcntl_setfl(device, fcntl_getfl(device)? | OFlags::NONBLOCK)?;
        Ok(Server {
            files,
            device,
            stop,
            listening: Mutex::default(),
            threads: AtomicUsize::new(1),
            has_helpers: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Serves until it is unmounted everywhere, or stopped.
    ///
    /// # Errors
    /// Where the device fails, or the kernel says what is no request.
    pub(super) fn serve(&self) -> io::Result<()> {
        std::thread::scope(|scope| self.work(scope))?;
        self.lock().failure.take().map_or(Ok(()), Err)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the threads that requests which take time need. Many a mount gets none.
    fn ensure_helpers<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> io::Result<()> {
        if self.has_helpers.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let builder = || std::thread::Builder::new().stack_size(STACK_BYTES);
        builder().spawn_scoped(scope, || self.watch())?;
        builder().spawn_scoped(scope, || self.trim())?;
        for _ in 0..READERS_AHEAD {
            builder().spawn_scoped(scope, || self.files.read_ahead())?;
        }
        Ok(())
    }

    fn work<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> io::Result<()> {
        let result = self.take_requests(scope);
        self.end();
        result
    }

    /// Has all threads end.
    fn end(&self) {
        let mut state = self.lock();
        state.has_ended = true;
        state.waiting.clear();
        drop(state);
        // Who listens next finds out, too.
        self.stop.cancel();
        self.files.end();
        self.changed.notify_all();
    }

    fn take_requests<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> io::Result<()> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        // Its pages are touched only as far as requests reach: most are short.
        let mut buffer = Vec::with_capacity(REQUEST_BYTES);
        loop {
            if let Some(bytes) = self.rest() {
                self.answer(&Request::decode(&bytes).ok_or_else(invalid)?);
                continue;
            }
            let has_request = self.listen(&mut buffer);
            let request = match has_request {
                Ok(true) => Request::decode(&buffer),
                _ => None,
            };
            let is_last = self.begin(request.as_ref());
            if !has_request? {
                return Ok(());
            }
            let request = request.ok_or_else(invalid)?;
            self.ensure_helpers(scope)?;
            if is_last && !self.start_another(scope) && self.put_off(&buffer) {
                continue;
            }
            self.answer(&request);
        }
    }

    /// A request that no thread had time for. Without one, this thread listens from now on; so it does if no
    /// other thread listens, as the others take such requests when they have done theirs.
    fn rest(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        let is_alone = self.threads.load(Ordering::SeqCst) == 1;
        let may_take = is_alone || state.idle > 0;
        let waiting = may_take.then(|| state.waiting.pop_front()).flatten();
        if waiting.is_none() {
            state.idle += 1;
        }
        waiting
    }

    /// This thread no longer listens, but has a request; true where nobody else does.
    fn begin(&self, request: Option<&Request<'_>>) -> bool {
        let mut state = self.lock();
        state.idle -= 1;
        if let Some(request) = request {
            let under_way = UnderWay {
                pid: request.pid,
                is_answered: false,
            };
            state.under_way.insert(request.unique, under_way);
        }
        state.idle == 0
    }

    /// Leaves a request to whoever has time; false where somebody else listens meanwhile.
    fn put_off(&self, bytes: &[u8]) -> bool {
        let mut state = self.lock();
        let must = state.idle == 0;
        if must {
            state.waiting.push_back(bytes.to_vec());
        }
        must
    }

    /// Puts the next request that takes time into the buffer, which has room for it; false at the end.
    fn listen(&self, buffer: &mut Vec<u8>) -> io::Result<bool> {
        let _listening = self
            .listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            buffer.clear();
            match rustix::io::read(self.device, spare_capacity(buffer)) {
                Ok(_) => {
                    let request = Request::decode(buffer);
                    if !request.is_some_and(|request| self.is_done(&request)) {
                        return Ok(true);
                    }
                }
                Err(Errno::NODEV) => return Ok(false),
                // The request was withdrawn.
                Err(Errno::NOENT | Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if self.await_request()? {
                        return Ok(false);
                    }
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Waits for a request; true where there shall be no more.
    fn await_request(&self) -> io::Result<bool> {
        let device = PollFd::from_borrowed_fd(self.device, PollFlags::IN);
        let mut events = [device, PollFd::new(self.stop, PollFlags::IN)];
        match poll(&mut events, None) {
            Ok(_) => Ok(events[1].revents().contains(PollFlags::IN)),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// False where there are as many threads as there may be.
    fn start_another<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> bool {
        let may_start = |threads: usize| (threads < MAX_THREADS).then_some(threads + 1);
        let order = Ordering::SeqCst;
        if self.threads.fetch_update(order, order, may_start).is_err() {
            return false;
        }
        let name = "mount".to_owned();
        let thread = std::thread::Builder::new()
            .name(name)
            .stack_size(STACK_BYTES);
        let started = thread.spawn_scoped(scope, || {
            if let Err(error) = self.work(scope) {
                self.lock().failure.get_or_insert(error);
            }
        });
        if let Err(error) = &started {
            tracing::debug!(%error, "no further thread for a mount");
            self.threads.fetch_sub(1, order);
        }
        started.is_ok()
    }

    /// Does what takes no time; false where there is more to do.
    fn is_done(&self, request: &Request<'_>) -> bool {
        match &request.operation {
            Operation::Forget(nodes) => {
                for (node, count) in nodes {
                    self.files.forget(*node, *count);
                }
            }
            Operation::Interrupt { unique } => self.interrupted(request.unique, *unique),
            Operation::Destroy => {
                self.reply(request.unique, Ok(Answer::Bytes(Vec::new())));
            }
            Operation::Write => {
                self.reply(request.unique, Err(Errno::ROFS));
            }
            Operation::Unsupported => {
                self.reply(request.unique, Err(Errno::NOSYS));
            }
            Operation::Read { offset, size } => {
                let range = read_range(*offset, *size);
                let Some(pieces) = self.files.read_kept(request.node, range) else {
                    return false;
                };
                self.reply(request.unique, Ok(Answer::Pieces(pieces)));
            }
            Operation::Attributes
            | Operation::ExtendedAttribute { .. }
            | Operation::ExtendedAttributes { .. } => {
                self.reply(request.unique, self.perform(request));
            }
            _ => return false,
        }
        true
    }

    fn answer(&self, request: &Request<'_>) {
        let mut state = self.lock();
        let is_answered = |state: &State| {
            let request = state.under_way.get(&request.unique);
            request.is_none_or(|request| request.is_answered) || state.has_ended
        };
        let mut result = None;
        if !is_answered(&state) {
            drop(state);
            result = Some(self.perform(request));
            state = self.lock();
        }
        let is_late = is_answered(&state);
        state.interrupted.remove(&request.unique);
        state.under_way.remove(&request.unique);
        drop(state);
        let Some(result) = result else {
            return;
        };
        let entered = match &result {
            Ok(Answer::Nodes(_, entered)) => entered.clone(),
            _ => Vec::new(),
        };
        if is_late || !self.reply(request.unique, result) {
            // The kernel never learnt of these.
            for number in entered {
                self.files.forget(number, 1);
            }
        }
    }

    fn perform(&self, request: &Request<'_>) -> Result<Answer, Errno> {
        let node = request.node;
        Ok(Answer::Bytes(match &request.operation {
            Operation::Lookup { name } => match self.files.lookup(node, name)? {
                Some(inode) => {
                    let bytes = protocol::node(inode.number, Some(&inode.attributes));
                    return Ok(Answer::Nodes(bytes, vec![inode.number]));
                }
                None => protocol::node(0, None),
            },
            Operation::Attributes => self.files.attributes(node)?.encode(),
            Operation::ReadLink => self.files.read_link(node)?,
            Operation::Read { offset, size } => {
                let pieces = self.files.read(node, read_range(*offset, *size))?;
                return Ok(Answer::Pieces(pieces));
            }
            Operation::Statistics => protocol::statistics(self.files.bytes()),
            Operation::ExtendedAttribute { name, size } => {
                value(self.files.extended(node, name)?, *size)?
            }
            Operation::ExtendedAttributes { size } => {
                value(self.files.extended_names(node)?, *size)?
            }
            Operation::List {
                offset,
                size,
                with_nodes,
            } => {
                let (bytes, entered) = self.files.list(node, *offset, *size, *with_nodes)?;
                return Ok(Answer::Nodes(bytes, entered));
            }
            _ => return Err(Errno::NOSYS),
        }))
    }

    /// False where nobody took it.
    fn reply(&self, unique: u64, result: Result<Answer, Errno>) -> bool {
        let (error, pieces) = match &result {
            Ok(Answer::Bytes(bytes) | Answer::Nodes(bytes, _)) => (0, vec![&bytes[..]]),
            Ok(Answer::Pieces(pieces)) => (0, pieces.iter().map(|piece| &piece[..]).collect()),
            Err(errno) => (errno.raw_os_error(), Vec::new()),
        };
        let length = pieces.iter().map(|piece| piece.len()).sum();
        let header = protocol::reply_header(unique, error, length);
        let sent = if pieces.len() < MAX_PIECES {
            let pieces = pieces.into_iter().map(IoSlice::new);
            let all: Vec<_> = std::iter::once(IoSlice::new(&header))
                .chain(pieces)
                .collect();
            rustix::io::writev(self.device, &all)
        } else {
            let whole = [&header, &pieces.concat()[..]].concat();
            rustix::io::write(self.device, &whole)
        };
        if let Err(errno) = sent {
            // Who asked has gone.
            tracing::trace!(unique, %errno, "an answer was not taken");
            return false;
        }
        true
    }

    /// A signal came for who waits for `unique`.
    fn interrupted(&self, own: u64, unique: u64) {
        let mut state = self.lock();
        if state.under_way.contains_key(&unique) {
            state.interrupted.insert(unique);
            self.changed.notify_all();
        } else {
            drop(state);
            // It is in the hands of a thread that has just read it, or answered: in the first case
            // the kernel says it once more.
            self.reply(own, Err(Errno::AGAIN));
        }
    }

    /// Asks the kernel to drop nodes while it holds too many.
    fn trim(&self) {
        let mut can_prune = true;
        let mut before = usize::MAX;
        while let Some(surplus) = self.files.await_surplus() {
            can_prune = can_prune && self.prune(&surplus);
            if !can_prune {
                surplus.iter().for_each(|inode| self.invalidate(inode));
            }
            // The kernel reports dropped nodes at once. All may be in use.
            let now = self.files.nodes();
            if now >= before || surplus.is_empty() {
                std::thread::sleep(TRIM_PAUSE);
            }
            before = now;
        }
    }

    /// False if the kernel does not know this notice.
    fn prune(&self, nodes: &[Arc<Inode>]) -> bool {
        let numbers: Vec<u64> = nodes.iter().map(|inode| inode.number).collect();
        match rustix::io::write(self.device, &protocol::prune(&numbers)) {
            Err(Errno::INVAL) => false,
            Err(errno) => {
                tracing::debug!(%errno, "the kernel takes no notice");
                true
            }
            Ok(_) => true,
        }
    }

    fn invalidate(&self, inode: &Inode) {
        let notice = protocol::invalid_entry(inode.parent_number(), &inode.name);
        match rustix::io::write(self.device, &notice) {
            // The kernel has dropped it already.
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => tracing::debug!(%errno, "the kernel takes no notice"),
        }
    }

    /// Answers those who are being killed.
    fn watch(&self) {
        let mut state = self.lock();
        while !state.has_ended {
            for unique in state.interrupted.clone() {
                let Some(request) = state.under_way.get_mut(&unique) else {
                    continue;
                };
                if is_being_killed(request.pid) {
                    request.is_answered = true;
                    state.interrupted.remove(&unique);
                    self.reply(unique, Err(Errno::INTR));
                }
            }
            state = if state.interrupted.is_empty() {
                let woken = self.changed.wait(state);
                woken.unwrap_or_else(PoisonError::into_inner)
            } else {
                let woken = self.changed.wait_timeout(state, KILL_CHECK);
                woken.unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }
}

fn read_range(offset: u64, size: u32) -> Range<u64> {
    offset..offset.saturating_add(u64::from(size.min(MAX_READ_BYTES)))
}

/// Most pieces that one system call takes.
const MAX_PIECES: usize = 1024;

/// What is said of an extended attribute to who has `size` bytes of room for it.
fn value(value: Vec<u8>, size: u32) -> Result<Vec<u8>, Errno> {
    match size as usize {
        0 => Ok(protocol::length(value.len())),
        size if size < value.len() => Err(Errno::RANGE),
        _ => Ok(value),
    }
}

/// Whether the thread `pid` has a signal pending that ends it: one that nobody handles, blocks or
/// ignores, and whose default is to end. Also where it cannot be known.
fn is_being_killed(pid: u32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return true;
    };
    let union = |sets: &mut dyn Iterator<Item = u64>| sets.fold(0, |all, set| all | set);
    let held_back = union(&mut signal_sets(&status, ["SigBlk", "SigIgn", "SigCgt"]));
    let pending = union(&mut signal_sets(&status, ["SigPnd", "ShdPnd"]));
    pending & !(held_back | HARMLESS) != 0
}
