//! Answers of peers to wants, and wants that a peer leaves unanswered.

use std::time::{Duration, Instant};

use libp2p::PeerId;

use super::{Action, SessionState, Want, Wants};
use crate::block::{Block, Cid, Multihash};
use crate::limits;
use crate::network::bitswap::Fault;
use crate::network::bitswap::message::{Presence, WantKind};
use crate::network::bitswap::remote::MAX_WANTS;
use crate::network::bitswap::session::SessionEvent;

/// How long a peer may take to say whether it has a block before it counts as not having it.
const QUERY_WAIT: Duration = Duration::from_secs(10);

/// Wants that nobody could answer are asked for again after this time, as Kubo does.
const PARKED_WAIT: Duration = Duration::from_secs(30);

impl Wants {
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
    pub(super) fn reconsider(&mut self, hash: &Multihash) {
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
}
