//! The asking side: which block is asked for at which peer. Pure: it reads no clock and no
//! socket; the behaviour feeds it events and carries out its [`Action`]s.
//!
//! ```text
//!             ┌────────────── time-out, DONT_HAVE, peer gone ──────────────┐
//!             ▼                                                            │
//! want ──▶ pending ── a provider has room ──▶ asked at one peer ──▶ block ─┴▶ delivered
//!             │  ▲
//!   nobody    ▼  │ a peer comes or goes, HAVE, or half a minute
//!           parked: want-have to every other connected peer; all refuse ──▶ NotFound
//! ```
//!
//! A want is asked for at one peer at a time, so a block is not fetched twice. Sessions that want
//! the same block share one want.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use libp2p::PeerId;

use super::Fault;
use super::message::{Presence, WantEntry, WantKind};
use super::protocol::Version;
use super::remote::{MAX_WANTS, Remote};
use super::session::{Outlet, SessionEvent, SessionId};
use crate::block::{self, Block, Cid, Multihash};
use crate::limits;

/// Bytes of blocks that one session asks for at a time: 64 blocks of 256 KiB keep a connection
/// busy.
const WINDOW_BYTES: usize = 16 * 1024 * 1024;

/// The least and the most blocks that a session asks for at a time.
const WINDOW_BLOCKS: std::ops::RangeInclusive<usize> = 8..=MAX_WANTS;

/// Size that blocks are assumed to have before any has come: that of Kubo's default chunks.
const ASSUMED_BLOCK_BYTES: usize = 256 * 1024;

/// Wants at the start of a session that every connected peer is asked about: the roots, which
/// find out who has the rest.
const ROOT_WANTS: usize = 16;

/// Connected peers that are asked whether they have a block.
const MAX_QUERIED_PEERS: usize = 64;

/// Providers of one session; the best few are enough.
const MAX_PROVIDERS: usize = 64;

/// How long a peer may take to say whether it has a block before it counts as not having it.
const QUERY_WAIT: Duration = Duration::from_secs(10);

/// Wants that nobody could answer are asked for again after this time, as Kubo does.
const PARKED_WAIT: Duration = Duration::from_secs(30);

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

/// Where a want can go.
enum Choice {
    Peer(PeerId),
    /// Providers are left, but none has room.
    Busy,
    Nobody,
}

/// All wants of this process.
#[derive(Debug, Default)]
pub(crate) struct Wants {
    wants: HashMap<Multihash, Want>,
    sessions: HashMap<SessionId, SessionState>,
    remotes: HashMap<PeerId, Remote>,
    faults: HashMap<PeerId, u32>,
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
            self.now_provides(session, peer);
            return;
        }
        if !state.providers.contains(&peer) {
            if state.providers.len() >= MAX_PROVIDERS {
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
        if state.providers.contains(&peer) || state.providers.len() >= MAX_PROVIDERS {
            return;
        }
        state.providers.push(peer);
        state.unpark();
        state.outlet.send(SessionEvent::PeerConnected { peer });
        remote.providing += 1;
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

    pub(crate) fn presences(&mut self, peer: PeerId, presences: &[Presence], now: Instant) {
        for presence in presences {
            let hash = presence.cid.hash();
            let Some(remote) = self.remotes.get_mut(&peer) else {
                return;
            };
            // What was cancelled in the meantime, or never asked, costs nothing to ignore.
            if !remote.told.contains_key(hash) {
                continue;
            }
            if let Some(want) = self.wants.get_mut(hash) {
                want.queried.retain(|(queried, _)| *queried != peer);
            }
            if presence.have {
                self.peer_has(peer, hash);
            } else {
                self.peer_lacks(peer, hash, now);
            }
        }
    }

    fn peer_has(&mut self, peer: PeerId, hash: &Multihash) {
        let Some(want) = self.wants.get_mut(hash) else {
            return;
        };
        want.refused.retain(|refused| *refused != peer);
        let sessions: Vec<_> = want.sessions.iter().map(|(session, _)| *session).collect();
        for session in sessions {
            self.now_provides(session, peer);
            if let Some(state) = self.sessions.get_mut(&session)
                && state.parked.remove(hash).is_some()
            {
                state.pending.push_front(*hash);
            }
        }
    }

    fn peer_lacks(&mut self, peer: PeerId, hash: &Multihash, now: Instant) {
        /// A peer that lacks a block keeps the want and sends the block when it gets it, unless
        /// such wants fill half of its list.
        const MAX_REFUSED: usize = MAX_WANTS / 2;
        let Some(remote) = self.remotes.get_mut(&peer) else {
            return;
        };
        if let Some(asked) = remote.asked.remove(hash) {
            remote.measure_latency(now - asked);
        }
        let is_crowded = remote.told.len() - remote.asked.len() > MAX_REFUSED;
        if is_crowded {
            remote.untell(hash);
        }
        self.touched.insert(peer);
        let Some(want) = self.wants.get_mut(hash) else {
            return;
        };
        if is_crowded {
            want.told.retain(|told| *told != peer);
        }
        if !want.refused.contains(&peer) {
            want.refused.push(peer);
        }
        match want.asked {
            Some((asked, _)) if asked == peer => self.reconsider(hash),
            _ => self.doubtful.push(*hash),
        }
    }

    /// A want is no longer asked for at the peer it was asked at.
    fn reconsider(&mut self, hash: &Multihash) {
        let Some(want) = self.wants.get_mut(hash) else {
            return;
        };
        if let Some((peer, session)) = want.asked.take() {
            if let Some(remote) = self.remotes.get_mut(&peer) {
                remote.asked.remove(hash);
            }
            if let Some(state) = self.sessions.get_mut(&session) {
                state.asked = state.asked.saturating_sub(1);
            }
        }
        for (session, _) in &want.sessions {
            if let Some(state) = self.sessions.get_mut(session) {
                state.parked.remove(hash);
                state.pending.push_front(*hash);
            }
        }
    }

    /// Verified blocks of one message of `peer` have come. Says which were wanted, as their
    /// number and bytes.
    pub(crate) fn blocks(&mut self, peer: PeerId, blocks: Vec<Block>, now: Instant) -> (u64, u64) {
        let (mut count, mut bytes) = (0, 0);
        let mut first_asked: Option<Instant> = None;
        for block in blocks {
            let hash = *block.cid().hash();
            let size = block.data().len();
            let Some(want) = self.wants.remove(&hash) else {
                self.unwanted(peer, block.cid());
                continue;
            };
            if let Some(remote) = self.remotes.get_mut(&peer) {
                let asked = remote.asked.get(&hash).copied();
                first_asked = match (first_asked, asked) {
                    (Some(first), Some(asked)) => Some(first.min(asked)),
                    (first, asked) => first.or(asked),
                };
                remote.answered(&hash, now);
                self.touched.insert(peer);
            }
            count += 1;
            bytes += size;
            self.deliver(peer, want, block);
        }
        if count > 0
            && let Some(remote) = self.remotes.get_mut(&peer)
        {
            remote.delivered(bytes, first_asked, now);
        }
        (count, bytes as u64)
    }

    fn deliver(&mut self, peer: PeerId, want: Want, block: Block) {
        let hash = *block.cid().hash();
        if let Some((_, session)) = want.asked {
            self.change_asked(session, -1);
        }
        self.untell_all(&hash, &want.told);
        for (session, cid) in want.sessions {
            let Some(state) = self.sessions.get_mut(&session) else {
                continue;
            };
            state.open.remove(&hash);
            state.parked.remove(&hash);
            state.block_bytes = (state.block_bytes * 7 + block.data().len()) / 8;
            let block = block.renamed(cid).expect("a want is found by its hash");
            state.outlet.send(SessionEvent::Block { block, peer });
        }
    }

    fn unwanted(&mut self, peer: PeerId, cid: &Cid) {
        let is_forgiven = self
            .remotes
            .get(&peer)
            .is_some_and(|remote| remote.is_forgiven(cid.hash()));
        if !is_forgiven {
            self.fault(peer, Fault::UnaskedBlock { cid: *cid });
        }
    }

    pub(crate) fn is_banned(&self, peer: &PeerId) -> bool {
        self.faults
            .get(peer)
            .is_some_and(|faults| *faults >= limits::MAX_PEER_FAULTS)
    }

    /// Counts a fault; the peer is left after too many, so a session hears of few.
    pub(crate) fn fault(&mut self, peer: PeerId, fault: Fault) {
        tracing::debug!(%peer, %fault, "a peer misbehaved");
        if self.is_banned(&peer) {
            return;
        }
        if self.faults.len() >= limits::MAX_REMEMBERED_PEERS {
            let remotes = &self.remotes;
            self.faults.retain(|peer, _| remotes.contains_key(peer));
        }
        *self.faults.entry(peer).or_default() += 1;
        for state in self.sessions.values() {
            if state.providers.contains(&peer) {
                let fault = fault.clone();
                state.outlet.send(SessionEvent::BadBlock { peer, fault });
            }
        }
        if self.is_banned(&peer) {
            self.disconnected(&peer);
            self.actions.push(Action::Disconnect(peer));
        }
    }

    /// Whether time matters: something was asked for.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.wants.is_empty()
    }

    /// Looks for what takes too long; to be called about twice a second.
    pub(crate) fn tick(&mut self, now: Instant) {
        let overdue: Vec<_> = self
            .remotes
            .iter()
            .flat_map(|(peer, remote)| {
                let overdue = remote.overdue(now).into_iter();
                overdue.map(|hash| (*peer, hash))
            })
            .collect();
        for (peer, hash) in overdue {
            self.late(peer, &hash, now);
        }
        for (hash, want) in &mut self.wants {
            let before = want.queried.len();
            want.queried.retain(|(_, since)| now - *since < QUERY_WAIT);
            if want.queried.len() < before {
                self.doubtful.push(*hash);
            }
        }
        for state in self.sessions.values_mut() {
            let is_old = |since: &Instant| now - *since >= PARKED_WAIT;
            let old: Vec<_> = state
                .parked
                .extract_if(|_, since| is_old(since))
                .map(|(hash, _)| hash)
                .collect();
            for hash in old {
                if let Some(want) = self.wants.get_mut(&hash) {
                    want.refused.clear();
                    want.slow.clear();
                    want.queried.clear();
                    state.pending.push_back(hash);
                }
            }
        }
    }

    /// A peer did not answer in time: another is asked, or the same one again.
    fn late(&mut self, peer: PeerId, hash: &Multihash, now: Instant) {
        let Some(want) = self.wants.get_mut(hash) else {
            return;
        };
        if !want.slow.contains(&peer) {
            want.slow.push(peer);
        }
        let want = &self.wants[hash];
        let has_other = want.sessions.iter().any(|(session, _)| {
            self.sessions
                .get(session)
                .is_some_and(|state| self.has_other_provider(state, want, &peer))
        });
        if has_other {
            tracing::debug!(%peer, cid = %want.cid, "no answer in time, asking another peer");
            self.reconsider(hash);
            return;
        }
        let cid = want.cid;
        tracing::debug!(%peer, %cid, "no answer in time, asking again");
        if let Some(remote) = self.remotes.get_mut(&peer) {
            remote.asked.insert(*hash, now);
            remote.tell(cid, WantKind::Block);
            remote.on_new_stream = true;
            self.touched.insert(peer);
        }
        self.query_others(hash, now);
        self.doubtful.push(*hash);
    }

    fn has_other_provider(&self, state: &SessionState, want: &Want, peer: &PeerId) -> bool {
        state.providers.iter().any(|other| {
            other != peer
                && !want.refused.contains(other)
                && self.remotes.contains_key(other)
                && !want.slow.contains(other)
        })
    }

    /// Gives wants to peers, and says what has to be done since the last call.
    pub(crate) fn poll(&mut self, now: Instant) -> Vec<Action> {
        let sessions: Vec<_> = self.sessions.keys().copied().collect();
        for session in sessions {
            self.assign(session, now);
        }
        self.report_not_found();
        for peer in std::mem::take(&mut self.touched) {
            self.flush(peer);
        }
        std::mem::take(&mut self.actions)
    }

    /// Gives pending wants of a session to its providers, as far as there is room.
    fn assign(&mut self, session: SessionId, now: Instant) {
        loop {
            let Some(state) = self.sessions.get_mut(&session) else {
                return;
            };
            if state.asked >= state.window() || !state.outlet.has_room() {
                return;
            }
            let Some(hash) = state.pending.pop_front() else {
                return;
            };
            if !state.open.contains(&hash) || state.parked.contains_key(&hash) {
                continue;
            }
            match self.choose(session, &hash) {
                None => {}
                Some(Choice::Peer(peer)) => self.ask(session, peer, &hash, now),
                Some(Choice::Nobody) => self.park(session, &hash, now),
                Some(Choice::Busy) => {
                    if let Some(state) = self.sessions.get_mut(&session) {
                        state.pending.push_front(hash);
                    }
                    return;
                }
            }
        }
    }

    /// The provider that would deliver first; `None` where the want is asked for already.
    fn choose(&self, session: SessionId, hash: &Multihash) -> Option<Choice> {
        let state = self.sessions.get(&session)?;
        let want = self.wants.get(hash).filter(|want| want.asked.is_none())?;
        let prompt = |peer: &PeerId| !want.slow.contains(peer);
        match self.choose_among(state, want, prompt) {
            Choice::Nobody => Some(self.choose_among(state, want, |_| true)),
            choice => Some(choice),
        }
    }

    fn choose_among(
        &self,
        state: &SessionState,
        want: &Want,
        allowed: impl Fn(&PeerId) -> bool,
    ) -> Choice {
        let mut best: Option<(f64, PeerId)> = None;
        let mut is_busy = false;
        for peer in &state.providers {
            if want.refused.contains(peer) || !allowed(peer) {
                continue;
            }
            let Some(remote) = self.remotes.get(peer) else {
                continue;
            };
            if !remote.has_room(state.block_bytes) {
                is_busy = true;
                continue;
            }
            let cost = remote.cost(state.block_bytes);
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, *peer));
            }
        }
        match best {
            Some((_, peer)) => Choice::Peer(peer),
            None if is_busy => Choice::Busy,
            None => Choice::Nobody,
        }
    }

    fn ask(&mut self, session: SessionId, peer: PeerId, hash: &Multihash, now: Instant) {
        let (Some(want), Some(remote), Some(state)) = (
            self.wants.get_mut(hash),
            self.remotes.get_mut(&peer),
            self.sessions.get_mut(&session),
        ) else {
            return;
        };
        want.asked = Some((peer, session));
        want.told_to(peer);
        remote.asked.insert(*hash, now);
        remote.tell(want.cid, WantKind::Block);
        state.asked += 1;
        self.touched.insert(peer);
        if state.roots < ROOT_WANTS {
            state.roots += 1;
            self.query_others(hash, now);
        }
    }

    /// No provider is left: everybody else is asked.
    fn park(&mut self, session: SessionId, hash: &Multihash, now: Instant) {
        if let Some(state) = self.sessions.get_mut(&session) {
            state.parked.insert(*hash, now);
        }
        self.query_others(hash, now);
        self.doubtful.push(*hash);
    }

    /// Asks connected peers that were not asked yet whether they have the block.
    fn query_others(&mut self, hash: &Multihash, now: Instant) {
        let Some(want) = self.wants.get_mut(hash) else {
            return;
        };
        for (peer, remote) in &mut self.remotes {
            if want.queried.len() >= MAX_QUERIED_PEERS {
                return;
            }
            let is_asked = want.asked.is_some_and(|(asked, _)| asked == *peer)
                || want.queried.iter().any(|(queried, _)| queried == peer)
                || want.refused.contains(peer);
            if is_asked || !remote.has_presences() || remote.told.len() >= MAX_WANTS {
                continue;
            }
            want.queried.push((*peer, now));
            want.told_to(*peer);
            remote.tell(want.cid, WantKind::Have);
            self.touched.insert(*peer);
        }
    }

    fn report_not_found(&mut self) {
        for hash in std::mem::take(&mut self.doubtful) {
            if !self.is_not_found(&hash) {
                continue;
            }
            let Some(want) = self.wants.get_mut(&hash) else {
                continue;
            };
            want.is_not_found = true;
            let asked = want.refused.len();
            for (session, cid) in &want.sessions {
                if let Some(state) = self.sessions.get(session) {
                    let cid = *cid;
                    state.outlet.send(SessionEvent::NotFound { cid, asked });
                }
            }
        }
    }

    fn is_not_found(&self, hash: &Multihash) -> bool {
        let Some(want) = self.wants.get(hash) else {
            return false;
        };
        // A peer that cannot say "no" says it by silence.
        let is_asked = want.asked.is_some_and(|(peer, _)| {
            let can_refuse = |remote: &Remote| remote.has_presences();
            self.remotes.get(&peer).is_none_or(can_refuse) || !want.slow.contains(&peer)
        });
        let is_hopeless = |session: &SessionId| {
            self.sessions.get(session).is_none_or(|state| {
                state.dialing.is_empty()
                    && (want.asked.is_some() || state.parked.contains_key(hash))
            })
        };
        !want.is_not_found
            && !is_asked
            && want.queried.is_empty()
            && want
                .sessions
                .iter()
                .all(|(session, _)| is_hopeless(session))
    }

    /// Hands over what is to be said to a peer, one message at a time.
    fn flush(&mut self, peer: PeerId) {
        let Some(remote) = self.remotes.get_mut(&peer) else {
            return;
        };
        let keep_alive = remote.providing > 0 || !remote.told.is_empty();
        if remote.kept_alive != keep_alive {
            remote.kept_alive = keep_alive;
            self.actions.push(Action::KeepAlive(peer, keep_alive));
        }
        if remote.sending || !remote.has_outgoing() {
            return;
        }
        remote.sending = true;
        self.actions.push(Action::Send {
            peer,
            wants: remote.take_outgoing(),
            on_new_stream: std::mem::take(&mut remote.on_new_stream),
        });
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
