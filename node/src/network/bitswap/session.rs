//! The asking side as callers see it: handles that any thread may use, without a runtime.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, unbounded};
use futures::channel::mpsc::UnboundedSender;
use libp2p::PeerId;

use super::Fault;
use crate::block::{Block, Cid};

/// Bytes of blocks that wait in a session for its caller; above it nothing more is asked for. With
/// what is on its way this bounds a session to about twice as much.
pub(crate) const MAX_BACKLOG_BYTES: usize = 16 * 1024 * 1024;

/// What a session tells its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// A block that was wanted, verified, under the CID that it was wanted by.
    Block {
        /// The block.
        block: Block,
        /// Who sent it.
        peer: PeerId,
    },
    /// Every peer of the session and every other connected one has answered that it does not have
    /// the block, or has not answered in time. The want stays open; this is not repeated until a
    /// peer comes or goes.
    NotFound {
        /// The block.
        cid: Cid,
        /// How many peers said so; 0 where there was nobody to ask, or where the CID has a hash
        /// function that cannot be checked.
        asked: usize,
    },
    /// A peer of the session sent what nobody asked for or can use.
    BadBlock {
        /// The peer.
        peer: PeerId,
        /// What was wrong.
        fault: Fault,
    },
    /// A peer of the session can be asked: it was connected, or it said that it has a block.
    PeerConnected {
        /// The peer.
        peer: PeerId,
    },
    /// A peer of the session has gone; its wants go to others.
    PeerDisconnected {
        /// The peer.
        peer: PeerId,
    },
    /// A provider could not be reached, does not speak bitswap or is no longer spoken to.
    PeerUnreachable {
        /// The peer.
        peer: PeerId,
    },
}

/// Why a session has no event to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// None came in time.
    #[error("nothing was received in time")]
    Timeout,
    /// The network node has ended; no event will come.
    #[error("the network node has ended")]
    Closed,
}

/// Blocks exchanged with a peer since the start of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// Blocks written to the peer.
    pub blocks_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Blocks that were wanted and came from the peer.
    pub blocks_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
}

pub(crate) type Counters = Arc<Mutex<HashMap<PeerId, PeerCounters>>>;

/// Changes the counters of `peer`.
pub(crate) fn count(counters: &Counters, peer: PeerId, change: impl FnOnce(&mut PeerCounters)) {
    let mut counters = counters.lock().unwrap_or_else(PoisonError::into_inner);
    change(counters.entry(peer).or_default());
}

/// Names a session within a process.
pub(crate) type SessionId = u64;

/// What handles ask of the behaviour.
#[derive(Debug)]
pub(crate) enum Command {
    Open {
        session: SessionId,
        outlet: Outlet,
    },
    Close(SessionId),
    AddProvider {
        session: SessionId,
        peer: PeerId,
    },
    Want {
        session: SessionId,
        cids: Vec<Cid>,
    },
    Cancel {
        session: SessionId,
        cids: Vec<Cid>,
    },
    /// A session has room again.
    Resume,
    BlocksAdded,
}

/// The behaviour's end of a session.
#[derive(Debug)]
pub(crate) struct Outlet {
    events: Sender<SessionEvent>,
    backlog: Arc<AtomicUsize>,
}

impl Outlet {
    pub(crate) fn new() -> (Outlet, Receiver<SessionEvent>, Arc<AtomicUsize>) {
        let (events, receiver) = unbounded();
        let backlog = Arc::new(AtomicUsize::new(0));
        let outlet = Outlet {
            events,
            backlog: Arc::clone(&backlog),
        };
        (outlet, receiver, backlog)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.backlog.load(Ordering::Acquire) < MAX_BACKLOG_BYTES
    }

    pub(crate) fn send(&self, event: SessionEvent) {
        if let SessionEvent::Block { block, .. } = &event {
            self.backlog.fetch_add(block.data().len(), Ordering::AcqRel);
        }
        if self.events.send(event).is_err() {
            tracing::debug!("an event came for a session that was dropped");
        }
    }
}

/// Access to bitswap from any thread.
#[derive(Clone, Debug)]
pub struct Client {
    commands: UnboundedSender<Command>,
    next_session: Arc<AtomicU64>,
    counters: Counters,
}

impl Client {
    pub(crate) fn new(commands: UnboundedSender<Command>, counters: Counters) -> Client {
        Client {
            commands,
            next_session: Arc::default(),
            counters,
        }
    }

    /// Begins to fetch blocks that belong together.
    pub fn session(&self) -> Session {
        let id = self.next_session.fetch_add(1, Ordering::Relaxed);
        let (outlet, events, backlog) = Outlet::new();
        let session = Session {
            id,
            commands: self.commands.clone(),
            events,
            backlog,
        };
        session.command(Command::Open {
            session: id,
            outlet,
        });
        session
    }

    /// Says that blocks were added to the local store, so that peers that wait for them get them
    /// at once. Blocks that other processes add are found within about a second.
    pub fn blocks_added(&self) {
        if self.commands.unbounded_send(Command::BlocksAdded).is_err() {
            tracing::debug!("blocks were added after the end of bitswap");
        }
    }

    /// What was exchanged with `peer`. Of peers that have gone only some are remembered.
    pub fn counters(&self, peer: &PeerId) -> PeerCounters {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.get(peer).copied().unwrap_or_default()
    }

    /// The counters of all remembered peers.
    pub fn all_counters(&self) -> HashMap<PeerId, PeerCounters> {
        self.counters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Wants that share the peers which are likely to have them. Dropping it cancels them.
///
/// Only so much is asked for at a time; further wants wait here, in the order in which they came.
/// The caller bounds how many: each takes about 400 bytes.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    commands: UnboundedSender<Command>,
    events: Receiver<SessionEvent>,
    backlog: Arc<AtomicUsize>,
}

impl Session {
    /// Names a peer that has, or is likely to have, the content. It is dialled if it is not
    /// connected; addresses come from the other behaviours of the swarm.
    pub fn add_provider(&self, peer: PeerId) {
        self.command(Command::AddProvider {
            session: self.id,
            peer,
        });
    }

    /// Asks for blocks; returns at once. Identity CIDs hold their own data and are not asked for:
    /// they are answered with [`SessionEvent::NotFound`].
    pub fn want(&self, cids: &[Cid]) {
        self.command(Command::Want {
            session: self.id,
            cids: cids.to_vec(),
        });
    }

    /// No longer asks for blocks. One that is already on its way may still be delivered.
    pub fn cancel(&self, cids: &[Cid]) {
        self.command(Command::Cancel {
            session: self.id,
            cids: cids.to_vec(),
        });
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// [`SessionError::Timeout`], [`SessionError::Closed`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<SessionEvent, SessionError> {
        match self.events.recv_timeout(timeout) {
            Ok(event) => Ok(self.taken(event)),
            Err(RecvTimeoutError::Timeout) => Err(SessionError::Timeout),
            Err(RecvTimeoutError::Disconnected) => Err(SessionError::Closed),
        }
    }

    /// The next event, if there is one already.
    ///
    /// # Errors
    /// As [`Session::recv_timeout`].
    pub fn try_recv(&self) -> Result<SessionEvent, SessionError> {
        match self.events.try_recv() {
            Ok(event) => Ok(self.taken(event)),
            Err(TryRecvError::Empty) => Err(SessionError::Timeout),
            Err(TryRecvError::Disconnected) => Err(SessionError::Closed),
        }
    }

    /// The channel of events, for those who wait for others as well; each event that is received
    /// from it must go through [`Session::taken`].
    pub(crate) fn events(&self) -> &Receiver<SessionEvent> {
        &self.events
    }

    /// Notes that an event has left the channel.
    pub(crate) fn taken(&self, event: SessionEvent) -> SessionEvent {
        if let SessionEvent::Block { block, .. } = &event {
            let size = block.data().len();
            let before = self.backlog.fetch_sub(size, Ordering::AcqRel);
            if before >= MAX_BACKLOG_BYTES && before - size < MAX_BACKLOG_BYTES {
                self.command(Command::Resume);
            }
        }
        event
    }

    /// Where bitswap has ended, the closed channel of events says so.
    fn command(&self, command: Command) {
        if self.commands.unbounded_send(command).is_err() {
            tracing::debug!(session = self.id, "bitswap has ended");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.command(Command::Close(self.id));
    }
}
