//! Assignment of wants to peers, and the messages that the peers then get.

use std::collections::HashSet;
use std::time::Instant;

use libp2p::PeerId;

use super::{Action, SessionState, Want, Wants};
use crate::block::Multihash;
use crate::network::bitswap::message::WantKind;
use crate::network::bitswap::remote::{MAX_WANTS, Remote};
use crate::network::bitswap::session::{SessionEvent, SessionId};

/// Wants at the start of a session that every connected peer is asked about: the roots, which
/// find out who has the rest.
const ROOT_WANTS: usize = 16;

/// Where a want can go.
enum Choice {
    Peer(PeerId),
    /// Providers are left, but none has room.
    Busy,
    Nobody,
}

impl Wants {
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

    /// Asks connected peers that were not asked yet whether they have the block: all of them, since
    /// the one that has it may be any, and they are no more than a swarm lets in.
    pub(super) fn query_others(&mut self, hash: &Multihash, now: Instant) {
        let Some(want) = self.wants.get_mut(hash) else {
            return;
        };
        let queried = want.queried.iter().map(|(peer, _)| peer);
        let asked = want.asked.iter().map(|(peer, _)| peer);
        let asked: HashSet<PeerId> = queried.chain(asked).chain(&want.refused).copied().collect();
        for (peer, remote) in &mut self.remotes {
            if asked.contains(peer) || !remote.has_presences() || remote.told.len() >= MAX_WANTS {
                continue;
            }
            want.queried.push((*peer, now));
            if !remote.told.contains_key(hash) {
                want.told.push(*peer);
            }
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
        let keep_alive =
            remote.providing > 0 || !remote.told.is_empty() || self.kept.contains(&peer);
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
