//! The asking side: it decides which peer is asked for which block. Pure: it reads no clock and no
//! socket. The behaviour feeds it events and carries out its [`Action`]s.
//!
//! ```text
//!             ┌────────────── time-out, DONT_HAVE, peer gone ──────────────┐
//!             ▼                                                            │
//! want ──▶ pending ── a provider has room ──▶ asked at one peer ──▶ block ─┴▶ delivered
//!             │  ▲
//!   no peer   ▼  │ a peer comes or goes, HAVE, or half a minute
//!           parked: want-have to every other connected peer; all refuse ──▶ NotFound
//! ```
//!
//! A want is asked for at one peer at a time, so a block is not fetched twice. Sessions that want
//! the same block share one want.

mod answers;
mod assign;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

use libp2p::PeerId;

use super::message::WantEntry;
use super::protocol::Version;
use super::remote::{MAX_WANTS, Remote};
use super::session::{Outlet, SessionEvent, SessionId};
use crate::block::{self, Cid, Multihash};

/// Bytes of blocks that one session asks for at a time: 64 blocks of 256 KiB keep a connection
/// busy.
const WINDOW_BYTES: usize = 16 * 1024 * 1024;

/// The least and the most blocks that a session asks for at a time.
const WINDOW_BLOCKS: std::ops::RangeInclusive<usize> = 8..=MAX_WANTS;

/// Size that blocks are assumed to have before any has come: that of Kubo's default chunks.
const ASSUMED_BLOCK_BYTES: usize = 256 * 1024;

/// Providers of one session that are not connected: a few are enough. Of those that are there are no more
/// than connections.
const MAX_PROVIDERS: usize = 64;

/// What the behaviour has to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Send {
        peer: PeerId,
        wants: Vec<WantEntry>,
        on_new_stream: bool,
    },
    Dial(PeerId),
    Disconnect(PeerId),
    KeepAlive(PeerId, bool),
}

#[derive(Debug)]
struct Want {
    /// The CID by which it was first asked for.
    cid: Cid,
    sessions: Vec<(SessionId, Cid)>,
    /// The peer that is asked for the block, and the session whose window it counts in.
    asked: Option<(PeerId, SessionId)>,
    /// Peers that were asked whether they have it.
    queried: Vec<(PeerId, Instant)>,
    /// Peers in whose lists it stands.
    told: Vec<PeerId>,
    /// Peers that said they do not have it.
    refused: Vec<PeerId>,
    /// Peers that did not answer in time.
    slow: Vec<PeerId>,
    is_not_found: bool,
}

#[derive(Debug)]
struct SessionState {
    outlet: Outlet,
    providers: Vec<PeerId>,
    dialing: HashSet<PeerId>,
    open: HashSet<Multihash>,
    pending: VecDeque<Multihash>,
    /// Wants for which no provider is left, and since when.
    parked: HashMap<Multihash, Instant>,
    asked: usize,
    roots: usize,
    block_bytes: usize,
}

/// All wants of this process.
#[derive(Debug, Default)]
pub(crate) struct Wants {
    wants: HashMap<Multihash, Want>,
    sessions: HashMap<SessionId, SessionState>,
    remotes: HashMap<PeerId, Remote>,
    faults: HashMap<PeerId, u32>,
    /// Peers that stay connected whether or not anything is asked of them.
    kept: HashSet<PeerId>,
    /// Peers whose messages or keep-alive may have changed.
    touched: HashSet<PeerId>,
    /// Wants that may be known not to be found.
    doubtful: Vec<Multihash>,
    actions: Vec<Action>,
}

impl SessionState {
    fn window(&self) -> usize {
        (WINDOW_BYTES / self.block_bytes.max(1)).clamp(*WINDOW_BLOCKS.start(), *WINDOW_BLOCKS.end())
    }

    fn absent_providers(&self, remotes: &HashMap<PeerId, Remote>) -> usize {
        let is_absent = |peer: &&PeerId| !remotes.contains_key(*peer);
        self.providers.iter().filter(is_absent).count()
    }

    /// Whether one more may be dialled, in place of one that could not be reached where there are many.
    fn has_room_for_provider(&mut self, remotes: &HashMap<PeerId, Remote>) -> bool {
        if self.absent_providers(remotes) < MAX_PROVIDERS {
            return true;
        }
        let is_dead = |peer: &PeerId| !remotes.contains_key(peer) && !self.dialing.contains(peer);
        let dead = self.providers.iter().position(is_dead);
        dead.map(|index| self.providers.remove(index)).is_some()
    }

    fn unpark(&mut self) {
        self.pending
            .extend(self.parked.drain().map(|(hash, _)| hash));
    }
}

impl Wants {
    pub(crate) fn open(&mut self, session: SessionId, outlet: Outlet) {
        let state = SessionState {
            outlet,
            providers: Vec::new(),
            dialing: HashSet::new(),
            open: HashSet::new(),
            pending: VecDeque::new(),
            parked: HashMap::new(),
            asked: 0,
            roots: 0,
            block_bytes: ASSUMED_BLOCK_BYTES,
        };
        self.sessions.insert(session, state);
    }

    pub(crate) fn close(&mut self, session: SessionId) {
        let Some(open) = self
            .sessions
            .get_mut(&session)
            .map(|state| std::mem::take(&mut state.open))
        else {
            return;
        };
        for hash in open {
            self.abandon(session, &hash);
        }
        let Some(state) = self.sessions.remove(&session) else {
            return;
        };
        for peer in state.providers {
            self.stop_providing(peer);
        }
    }

    fn stop_providing(&mut self, peer: PeerId) {
        if let Some(remote) = self.remotes.get_mut(&peer) {
            remote.providing -= 1;
            self.touched.insert(peer);
        }
    }

    pub(crate) fn want(&mut self, session: SessionId, cids: Vec<Cid>) {
        let Some(state) = self.sessions.get_mut(&session) else {
            return;
        };
        for cid in cids {
            let hash = *cid.hash();
            if !block::is_verifiable(&hash) {
                state.outlet.send(SessionEvent::NotFound { cid, asked: 0 });
                continue;
            }
            let want = self.wants.entry(hash).or_insert_with(|| Want::new(cid));
            let wanted = (session, cid);
            if !want.sessions.contains(&wanted) {
                want.sessions.push(wanted);
            }
            if state.open.insert(hash) {
                state.pending.push_back(hash);
            }
        }
    }

    pub(crate) fn cancel(&mut self, session: SessionId, cids: &[Cid]) {
        for cid in cids {
            self.abandon(session, cid.hash());
        }
    }

    /// Takes `session` from a want, and ends the want when it was the last.
    fn abandon(&mut self, session: SessionId, hash: &Multihash) {
        if let Some(state) = self.sessions.get_mut(&session) {
            state.open.remove(hash);
            state.parked.remove(hash);
        }
        let Some(want) = self.wants.get_mut(hash) else {
            return;
        };
        want.sessions.retain(|(other, _)| *other != session);
        if let Some(&(heir, _)) = want.sessions.first() {
            if let Some((_, asker)) = &mut want.asked
                && *asker == session
            {
                *asker = heir;
                self.change_asked(session, -1);
                self.change_asked(heir, 1);
            }
            return;
        }
        let Some(want) = self.wants.remove(hash) else {
            return;
        };
        if let Some((_, asker)) = want.asked {
            self.change_asked(asker, -1);
        }
        self.untell_all(hash, &want.told);
    }

    fn change_asked(&mut self, session: SessionId, change: isize) {
        if let Some(state) = self.sessions.get_mut(&session) {
            state.asked = state.asked.saturating_add_signed(change);
        }
    }

    fn untell_all(&mut self, hash: &Multihash, told: &[PeerId]) {
        for peer in told {
            if let Some(remote) = self.remotes.get_mut(peer) {
                remote.untell(hash);
                self.touched.insert(*peer);
            }
        }
    }

    pub(crate) fn add_provider(&mut self, session: SessionId, peer: PeerId) {
        let is_connected = self.remotes.contains_key(&peer);
        let is_banned = self.is_banned(&peer);
        let Some(state) = self.sessions.get_mut(&session) else {
            return;
        };
        if is_banned {
            state.outlet.send(SessionEvent::PeerUnreachable { peer });
            return;
        }
        if is_connected {
            if state.providers.contains(&peer) {
                // Who named it waits for an answer.
                state.outlet.send(SessionEvent::PeerConnected { peer });
            } else {
                self.now_provides(session, peer);
            }
            return;
        }
        if !state.providers.contains(&peer) {
            if !state.has_room_for_provider(&self.remotes) {
                // It will not be asked.
                state.outlet.send(SessionEvent::PeerUnreachable { peer });
                return;
            }
            state.providers.push(peer);
        }
        if state.dialing.insert(peer) {
            self.actions.push(Action::Dial(peer));
        }
    }

    /// A connected peer becomes a provider of a session.
    fn now_provides(&mut self, session: SessionId, peer: PeerId) {
        let (Some(state), Some(remote)) =
            (self.sessions.get_mut(&session), self.remotes.get_mut(&peer))
        else {
            return;
        };
        if state.providers.contains(&peer) {
            return;
        }
        state.providers.push(peer);
        state.unpark();
        state.outlet.send(SessionEvent::PeerConnected { peer });
        remote.providing += 1;
        self.touched.insert(peer);
    }

    /// Lets the connection to a peer stay though nothing is asked of it.
    pub(crate) fn keep(&mut self, peer: PeerId) {
        self.kept.insert(peer);
        self.touched.insert(peer);
    }

    pub(crate) fn connected(&mut self, peer: PeerId) {
        if self.is_banned(&peer) || self.remotes.contains_key(&peer) {
            return;
        }
        let mut remote = Remote::default();
        for state in self.sessions.values_mut() {
            if state.providers.contains(&peer) {
                state.dialing.remove(&peer);
                state.outlet.send(SessionEvent::PeerConnected { peer });
                remote.providing += 1;
            }
            for hash in state.parked.keys() {
                if let Some(want) = self.wants.get_mut(hash) {
                    want.is_not_found = false;
                }
            }
            state.unpark();
        }
        self.remotes.insert(peer, remote);
        self.touched.insert(peer);
    }

    pub(crate) fn disconnected(&mut self, peer: &PeerId) {
        let Some(remote) = self.remotes.remove(peer) else {
            return;
        };
        self.touched.remove(peer);
        for hash in remote.told.keys() {
            self.lost_at(peer, hash);
        }
        for state in self.sessions.values_mut() {
            if state.providers.contains(peer) {
                state
                    .outlet
                    .send(SessionEvent::PeerDisconnected { peer: *peer });
                if state.absent_providers(&self.remotes) > MAX_PROVIDERS {
                    state.providers.retain(|provider| provider != peer);
                }
            }
            for hash in state.parked.keys() {
                if let Some(want) = self.wants.get_mut(hash) {
                    want.is_not_found = false;
                }
            }
            state.unpark();
        }
    }

    /// A want no longer stands at a peer that has gone.
    fn lost_at(&mut self, peer: &PeerId, hash: &Multihash) {
        let Some(want) = self.wants.get_mut(hash) else {
            return;
        };
        want.forget(peer);
        if want.asked.is_some_and(|(asked, _)| asked == *peer) {
            self.reconsider(hash);
        }
    }

    /// A dial failed, or the peer cannot be spoken to.
    pub(crate) fn unreachable(&mut self, peer: &PeerId) {
        for state in self.sessions.values_mut() {
            if state.dialing.remove(peer) {
                state
                    .outlet
                    .send(SessionEvent::PeerUnreachable { peer: *peer });
                state.unpark();
            }
        }
    }

    pub(crate) fn set_version(&mut self, peer: &PeerId, version: Version) {
        let Some(remote) = self.remotes.get_mut(peer) else {
            return;
        };
        remote.version = Some(version);
        if version.has_presences() {
            return;
        }
        // Want-haves were not sent: nobody will answer them.
        let asked = &remote.asked;
        let unsent: Vec<_> = remote
            .told
            .keys()
            .filter(|hash| !asked.contains_key(*hash))
            .copied()
            .collect();
        for hash in unsent {
            remote.told.remove(&hash);
            if let Some(want) = self.wants.get_mut(&hash) {
                want.forget(peer);
                self.doubtful.push(hash);
            }
        }
    }

    /// The last message to the peer is with the transport; the next may follow.
    pub(crate) fn written(&mut self, peer: &PeerId) {
        if let Some(remote) = self.remotes.get_mut(peer) {
            remote.sending = false;
            self.touched.insert(*peer);
        }
    }

    /// Whether time matters: something was asked for.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.wants.is_empty()
    }
}

impl Want {
    fn new(cid: Cid) -> Want {
        Want {
            cid,
            sessions: Vec::new(),
            asked: None,
            queried: Vec::new(),
            told: Vec::new(),
            refused: Vec::new(),
            slow: Vec::new(),
            is_not_found: false,
        }
    }

    fn told_to(&mut self, peer: PeerId) {
        if !self.told.contains(&peer) {
            self.told.push(peer);
        }
    }

    /// The peer has gone, with all it said.
    fn forget(&mut self, peer: &PeerId) {
        self.told.retain(|told| told != peer);
        self.queried.retain(|(queried, _)| queried != peer);
        self.refused.retain(|refused| refused != peer);
        self.slow.retain(|slow| slow != peer);
    }
}
