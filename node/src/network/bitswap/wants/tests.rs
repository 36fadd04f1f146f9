//! Tables of events and what must follow, on a clock that the tests move.

use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::*;
use crate::block::{Block, RAW};
use crate::network::bitswap::message::{Presence, WantKind};

struct World {
    wants: Wants,
    now: Instant,
    sent: Vec<(PeerId, WantEntry)>,
    new_streams: usize,
}

impl World {
    fn new() -> World {
        World {
            wants: Wants::default(),
            now: Instant::now(),
            sent: Vec::new(),
            new_streams: 0,
        }
    }

    fn session(&mut self, id: SessionId, providers: &[PeerId]) -> Receiver<SessionEvent> {
        let (outlet, events, _) = Outlet::new();
        self.wants.open(id, outlet);
        for peer in providers {
            self.wants.add_provider(id, *peer);
        }
        events
    }

    fn peer(&mut self) -> PeerId {
        let peer = PeerId::random();
        self.wants.connected(peer);
        peer
    }

    /// Lets everything settle, as if each message was written at once.
    fn run(&mut self) {
        loop {
            let actions = self.wants.poll(self.now);
            if actions.is_empty() {
                return;
            }
            for action in actions {
                if let Action::Send {
                    peer,
                    wants,
                    on_new_stream,
                } = action
                {
                    self.sent.extend(wants.into_iter().map(|want| (peer, want)));
                    self.new_streams += usize::from(on_new_stream);
                    self.wants.written(&peer);
                }
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.wants.tick(self.now);
        self.run();
    }

    fn answer(&mut self, peer: PeerId, cid: Cid, have: bool) {
        self.wants
            .presences(peer, &[Presence { cid, have }], self.now);
        self.run();
    }

    fn give(&mut self, peer: PeerId, block: &Block) {
        self.wants.blocks(peer, vec![block.clone()], self.now);
        self.run();
    }

    /// What was said to `peer` of this kind since the last call.
    fn said(&mut self, peer: PeerId, wanted: impl Fn(&WantEntry) -> bool) -> Vec<Cid> {
        let said = self
            .sent
            .extract_if(.., |(to, want)| *to == peer && wanted(want));
        said.map(|(_, want)| want.cid).collect()
    }

    fn asked(&mut self, peer: PeerId) -> Vec<Cid> {
        self.said(peer, |want| !want.cancel && want.kind == WantKind::Block)
    }

    fn queried(&mut self, peer: PeerId) -> Vec<Cid> {
        self.said(peer, |want| !want.cancel && want.kind == WantKind::Have)
    }

    fn cancelled(&mut self, peer: PeerId) -> Vec<Cid> {
        self.said(peer, |want| want.cancel)
    }
}

fn blocks(count: u32) -> Vec<Block> {
    (0..count)
        .map(|seed| Block::new(cid::Version::V1, RAW, seed.to_le_bytes().to_vec().into()))
        .collect()
}

fn cids(blocks: &[Block]) -> Vec<Cid> {
    blocks.iter().map(|block| *block.cid()).collect()
}

fn not_found(events: &Receiver<SessionEvent>) -> Vec<usize> {
    let asked = |event| match event {
        SessionEvent::NotFound { asked, .. } => Some(asked),
        _ => None,
    };
    events.try_iter().filter_map(asked).collect()
}

fn got(events: &Receiver<SessionEvent>) -> usize {
    let is_block = |event: &SessionEvent| matches!(event, SessionEvent::Block { .. });
    events.try_iter().filter(is_block).count()
}

#[test]
fn wants_are_spread_and_each_is_asked_for_once() {
    let mut world = World::new();
    let (first, second) = (world.peer(), world.peer());
    let _events = world.session(0, &[first, second]);
    let blocks = blocks(40);
    world.wants.want(0, cids(&blocks));
    world.run();
    let mut asked = world.asked(first);
    assert_eq!(asked.len(), 20);
    asked.extend(world.asked(second));
    asked.sort();
    let mut all = cids(&blocks);
    all.sort();
    assert_eq!(asked, all);
}

#[test]
fn a_refusal_moves_a_want_to_the_next_peer() {
    let mut world = World::new();
    let (first, second) = (world.peer(), world.peer());
    let events = world.session(0, &[first, second]);
    let block = blocks(1).remove(0);
    world.wants.want(0, vec![*block.cid()]);
    world.run();
    let (asked, other) = if world.asked(first).is_empty() {
        (second, first)
    } else {
        (first, second)
    };
    world.answer(asked, *block.cid(), false);
    assert_eq!(world.asked(other), [*block.cid()]);
    assert!(not_found(&events).is_empty());
    world.give(other, &block);
    assert_eq!(got(&events), 1);
    assert_eq!(world.cancelled(asked), [*block.cid()]);
    assert!(world.cancelled(other).is_empty());
}

#[test]
fn not_found_is_said_once_for_each_set_of_peers() {
    let mut world = World::new();
    let (provider, other) = (world.peer(), world.peer());
    let events = world.session(0, &[provider]);
    let cid = *blocks(1)[0].cid();
    world.wants.want(0, vec![cid]);
    world.run();
    assert_eq!(world.queried(other), [cid]);
    world.answer(provider, cid, false);
    assert!(not_found(&events).is_empty());
    world.answer(other, cid, false);
    assert_eq!(not_found(&events), [2]);
    world.pass(Duration::from_secs(1));
    assert!(not_found(&events).is_empty());
    let newcomer = world.peer();
    world.run();
    assert_eq!(world.queried(newcomer), [cid]);
    assert!(not_found(&events).is_empty());
    world.answer(newcomer, cid, false);
    assert_eq!(not_found(&events), [3]);
}

/// However many there are, and though many do not answer.
#[test]
fn all_connected_peers_are_asked() {
    let mut world = World::new();
    let peers: Vec<_> = (0..200).map(|_| world.peer()).collect();
    let (silent, answering) = peers.split_at(150);
    let events = world.session(0, &[]);
    let cid = *blocks(1)[0].cid();
    world.wants.want(0, vec![cid]);
    world.run();
    for peer in &peers {
        assert_eq!(world.queried(*peer), [cid]);
    }
    for peer in answering {
        world.answer(*peer, cid, false);
    }
    assert!(not_found(&events).is_empty(), "some may still answer");
    world.pass(Duration::from_secs(10));
    assert_eq!(not_found(&events), [answering.len()]);
    for peer in silent {
        assert!(world.queried(*peer).is_empty(), "once is enough");
    }
}

#[test]
fn a_peer_with_a_block_becomes_a_provider() {
    let mut world = World::new();
    let peer = world.peer();
    let _events = world.session(0, &[]);
    let blocks = blocks(40);
    world.wants.want(0, cids(&blocks));
    world.run();
    assert!(world.asked(peer).is_empty());
    world.answer(peer, *blocks[0].cid(), true);
    assert_eq!(world.asked(peer).len(), 40);
}

/// Neither those who are dialled nor those who cannot be reached keep out who has it.
#[test]
fn dead_providers_take_no_room() {
    let mut world = World::new();
    let dead: Vec<_> = (0..2 * MAX_PROVIDERS).map(|_| PeerId::random()).collect();
    let events = world.session(0, &dead[..MAX_PROVIDERS]);
    let cid = *blocks(1)[0].cid();
    world.wants.want(0, vec![cid]);
    world.run();
    // No more are dialled than that.
    world.wants.add_provider(0, dead[MAX_PROVIDERS]);
    assert_eq!(world.wants.sessions[&0].providers.len(), MAX_PROVIDERS);
    let (named, other) = (world.peer(), world.peer());
    world.wants.add_provider(0, named);
    world.run();
    assert_eq!(world.asked(named), [cid]);
    assert_eq!(world.queried(other), [cid]);
    world.answer(named, cid, false);
    world.answer(other, cid, true);
    assert_eq!(world.asked(other), [cid]);
    for peer in &dead[..MAX_PROVIDERS] {
        world.wants.unreachable(peer);
    }
    // Others are dialled in place of those.
    for peer in &dead[MAX_PROVIDERS..2 * MAX_PROVIDERS] {
        world.wants.add_provider(0, *peer);
        assert!(world.wants.sessions[&0].dialing.contains(peer));
    }
    let providers = &world.wants.sessions[&0].providers;
    assert_eq!(providers.len(), MAX_PROVIDERS + 2);
    world.answer(other, cid, false);
    assert!(not_found(&events).is_empty(), "some are being dialled");
    for peer in &dead {
        world.wants.unreachable(peer);
    }
    world.run();
    assert_eq!(not_found(&events), [2]);
}

#[test]
fn silence_moves_a_want_or_repeats_it() {
    let mut world = World::new();
    let peer = world.peer();
    let events = world.session(0, &[peer]);
    let cid = *blocks(1)[0].cid();
    world.wants.want(0, vec![cid]);
    world.run();
    assert_eq!(world.asked(peer), [cid]);
    world.pass(Duration::from_secs(4));
    assert!(world.asked(peer).is_empty());
    world.pass(Duration::from_secs(2));
    assert_eq!(world.asked(peer), [cid]);
    assert_eq!(world.new_streams, 1);
    let other = world.peer();
    world.wants.add_provider(0, other);
    world.pass(Duration::from_secs(6));
    assert_eq!(world.asked(other), [cid]);
    assert!(not_found(&events).is_empty());
}

#[test]
fn peers_that_cannot_refuse_do_so_by_silence() {
    let mut world = World::new();
    let peer = world.peer();
    world.wants.set_version(&peer, Version::OneOne);
    let events = world.session(0, &[peer]);
    world.wants.want(0, vec![*blocks(1)[0].cid()]);
    world.run();
    assert!(not_found(&events).is_empty());
    world.pass(Duration::from_secs(6));
    assert_eq!(not_found(&events).len(), 1);
}

#[test]
fn wants_of_a_lost_peer_go_to_others() {
    let mut world = World::new();
    let (first, second) = (world.peer(), world.peer());
    let _events = world.session(0, &[first, second]);
    world.wants.want(0, cids(&blocks(20)));
    world.run();
    let lost = world.asked(first);
    world.asked(second);
    world.wants.disconnected(&first);
    world.run();
    let mut moved = world.asked(second);
    moved.sort();
    let mut lost = lost;
    lost.sort();
    assert_eq!(moved, lost);
}

#[test]
fn only_a_window_is_asked_for() {
    let mut world = World::new();
    let peer = world.peer();
    let events = world.session(0, &[peer]);
    let blocks = blocks(3000);
    world.wants.want(0, cids(&blocks));
    world.run();
    let asked = world.asked(peer);
    assert!(asked.len() <= 64, "{}", asked.len());
    for block in &blocks {
        world.now += Duration::from_micros(100);
        world.give(peer, block);
    }
    assert_eq!(got(&events), 3000);
}

#[test]
fn dropped_sessions_cancel_wants_of_their_own() {
    let mut world = World::new();
    let peer = world.peer();
    let _first = world.session(0, &[peer]);
    let second = world.session(1, &[peer]);
    let blocks = blocks(2);
    world.wants.want(0, cids(&blocks));
    world.wants.want(1, cids(&blocks[..1]));
    world.run();
    assert_eq!(world.asked(peer).len(), 2);
    world.wants.close(0);
    world.run();
    assert_eq!(world.cancelled(peer), [*blocks[1].cid()]);
    world.give(peer, &blocks[1]);
    world.give(peer, &blocks[0]);
    assert_eq!(got(&second), 1);
    assert!(!world.wants.is_waiting());
}

#[test]
fn a_want_that_comes_back_does_not_share_a_message_with_its_cancel() {
    let mut world = World::new();
    let peer = world.peer();
    let _events = world.session(0, &[peer]);
    let cid = *blocks(1)[0].cid();
    world.wants.want(0, vec![cid]);
    world.run();
    world.asked(peer);
    world.wants.cancel(0, &[cid]);
    world.wants.want(0, vec![cid]);
    world.run();
    assert_eq!(world.asked(peer), [cid]);
    assert!(world.cancelled(peer).is_empty());
}

#[test]
fn faults_end_the_relation() {
    let mut world = World::new();
    let peer = world.peer();
    let events = world.session(0, &[peer]);
    for block in blocks(crate::limits::MAX_PEER_FAULTS) {
        assert!(!world.wants.is_banned(&peer));
        world.wants.blocks(peer, vec![block], world.now);
    }
    assert!(world.wants.is_banned(&peer));
    assert!(
        world
            .wants
            .poll(world.now)
            .contains(&Action::Disconnect(peer))
    );
    let faults = events
        .try_iter()
        .filter(|event| matches!(event, SessionEvent::BadBlock { .. }));
    assert_eq!(faults.count(), crate::limits::MAX_PEER_FAULTS as usize);
}
