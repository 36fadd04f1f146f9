//! Announcements to the DHT of the content that is here, repeated before the DHT forgets them.
//!
//! ```text
//! round: a thread lists the content ──bounded──▶ a few announcements at a time ──▶ Network
//! ```
//!
//! A round begins when the node has joined a DHT, when content was added, and twice a day. A round
//! passes over content that was announced a few hours ago.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use super::{Network, NetworkEvent};
use crate::block::{Cid, Multihash, ReadBlocks};
use crate::dag;
use crate::repo::{PinKind, RepoError, Repository};

/// Records of the DHT last 48 hours, and peers that keep them come and go.
const ROUND_INTERVAL: Duration = Duration::from_secs(12 * 3600);

/// When a round begins again in which a DHT did not take something.
const RETRY_INTERVAL: Duration = Duration::from_secs(300);

/// What was announced less than this ago is passed over; the round before took its time.
const FRESH: Duration = Duration::from_secs(6 * 3600);

/// How often it is looked whether content was added.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Announcements under way at a time, each a query of some twenty peers.
const MAX_UNDER_WAY: usize = 16;

/// Content that is listed in advance.
const MAX_LISTED: usize = 256;

/// Announced content that is remembered, 48 bytes each. What is beyond is announced by the
/// half-daily rounds alone.
const MAX_REMEMBERED: usize = 1 << 20;

/// Blocks of one page of the index.
const PAGE: usize = 1024;

/// Of what the DHT is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The roots of recursive pins.
    Roots,
    /// Every block below a pin.
    Pinned,
    /// Every block.
    All,
    /// Only what was asked for by [`Repository::ask_to_provide`].
    None,
}

/// Announces the content of a repository. What was asked for by [`Repository::ask_to_provide`] is
/// announced with every strategy.
pub struct Announcer {
    repository: Arc<Repository>,
    strategy: Strategy,
    has_joined: bool,
    /// The round that goes on.
    listed: Option<Receiver<Cid>>,
    next_round: Instant,
    next_check: Instant,
    /// What the repository held at the last check.
    seen: Contents,
    under_way: HashMap<Multihash, Cid>,
    announced: HashMap<Multihash, Instant>,
}

/// Enough of a repository to see that content was added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Contents {
    pins: Vec<Cid>,
    asked: HashSet<Cid>,
    /// Looked at for [`Strategy::All`] only.
    bytes: u64,
}

impl Announcer {
    /// Begins nothing yet.
    pub fn new(repository: Arc<Repository>, strategy: Strategy, now: Instant) -> Announcer {
        Announcer {
            repository,
            strategy,
            has_joined: false,
            listed: None,
            next_round: now,
            next_check: now,
            seen: Contents::default(),
            under_way: HashMap::new(),
            announced: HashMap::new(),
        }
    }

    /// Takes an event of the node.
    ///
    /// # Errors
    /// Where the repository cannot note what was done.
    pub fn event(&mut self, event: &NetworkEvent, now: Instant) -> Result<(), RepoError> {
        match event {
            NetworkEvent::Joined => {
                self.has_joined = true;
                self.next_round = now;
                // There may be two DHTs, and one of them knows nothing yet.
                self.announced.clear();
            }
            NetworkEvent::Provided { cid, dhts } => {
                let was_ours = self.under_way.remove(cid.hash()).is_some();
                if was_ours && *dhts == 0 {
                    self.next_round = self.next_round.min(now + RETRY_INTERVAL);
                }
                if !was_ours || *dhts == 0 {
                    return Ok(());
                }
                if self.announced.len() < MAX_REMEMBERED {
                    self.announced.insert(*cid.hash(), now);
                }
                if self.seen.asked.contains(cid) {
                    self.repository.note_provided(cid)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Does what is due; to be called after events, and a few times a second.
    ///
    /// # Errors
    /// Where the repository cannot be read.
    pub fn step(&mut self, network: &Network, now: Instant) -> Result<(), RepoError> {
        if !self.has_joined {
            return Ok(());
        }
        if now >= self.next_check {
            self.next_check = now + CHECK_INTERVAL;
            self.check(network, now)?;
        }
        if self.listed.is_none() && now >= self.next_round {
            self.next_round = now + ROUND_INTERVAL;
            self.announced
                .retain(|_, when| now.saturating_duration_since(*when) < FRESH);
            self.listed = Some(list(Arc::clone(&self.repository), self.strategy));
        }
        while self.under_way.len() < MAX_UNDER_WAY
            && let Some(listed) = &self.listed
        {
            match listed.try_recv() {
                Ok(cid) if self.announced.contains_key(cid.hash()) => {}
                Ok(cid) => self.announce(network, cid),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => self.listed = None,
            }
        }
        Ok(())
    }

    fn announce(&mut self, network: &Network, cid: Cid) {
        if self.under_way.insert(*cid.hash(), cid).is_none() {
            network.provide(&cid);
        }
    }

    /// Announces what somebody waits for, and lets a round begin where content was added.
    fn check(&mut self, network: &Network, now: Instant) -> Result<(), RepoError> {
        let provides = self.repository.provides()?;
        let pins = self.repository.pins()?.into_iter().map(|pin| pin.cid);
        let contents = Contents {
            pins: pins.collect(),
            asked: provides.iter().map(|asked| asked.cid).collect(),
            bytes: match self.strategy {
                Strategy::All => self.repository.committed_bytes()?,
                _ => 0,
            },
        };
        if contents != self.seen {
            self.seen = contents;
            self.next_round = now;
        }
        for asked in provides.iter().filter(|asked| asked.announced.is_none()) {
            self.announce(network, asked.cid);
        }
        Ok(())
    }
}

/// Lists what is to be announced, on a thread that waits for it to be taken.
fn list(repository: Arc<Repository>, strategy: Strategy) -> Receiver<Cid> {
    let (sender, receiver) = bounded(MAX_LISTED);
    let listing = move || {
        if let Err(error) = send_all(&repository, strategy, &sender) {
            tracing::warn!(%error, "cannot list what is to be provided");
        }
    };
    let started = std::thread::Builder::new()
        .name("provide".to_owned())
        .spawn(listing);
    if let Err(error) = started {
        tracing::warn!(%error, "cannot list what is to be provided");
    }
    receiver
}

fn send_all(
    repository: &Repository,
    strategy: Strategy,
    sender: &Sender<Cid>,
) -> Result<(), RepoError> {
    for asked in repository.provides()? {
        if !repository.has(&asked.cid)? {
            // Collected meanwhile: nobody would find it here.
            repository.stop_providing(&asked.cid)?;
        } else if sender.send(asked.cid).is_err() {
            return Ok(());
        }
    }
    match strategy {
        Strategy::None => Ok(()),
        Strategy::Roots => {
            let pins = repository.pins()?.into_iter();
            let mut roots = pins.filter(|pin| pin.kind == PinKind::Recursive);
            roots.all(|pin| sender.send(pin.cid).is_ok());
            Ok(())
        }
        Strategy::Pinned => send_pinned(repository, sender),
        Strategy::All => send_every(repository, sender),
    }
}

fn send_pinned(repository: &Repository, sender: &Sender<Cid>) -> Result<(), RepoError> {
    let mut sent = HashSet::new();
    for pin in repository.pins()? {
        if pin.kind == PinKind::Direct {
            if sender.send(pin.cid).is_err() {
                return Ok(());
            }
            continue;
        }
        let walked = dag::walk(repository, &pin.cid, &mut |visit| {
            let is_new = visit.data.is_ok() && sent.insert(*visit.cid.hash());
            if is_new && sender.send(*visit.cid).is_err() {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        match walked {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => return Ok(()),
            Err(error) => tracing::warn!(cid = %pin.cid, %error, "cannot walk a pin"),
        }
    }
    Ok(())
}

fn send_every(repository: &Repository, sender: &Sender<Cid>) -> Result<(), RepoError> {
    let mut last = None;
    loop {
        let page = repository.blocks_after(last.as_ref(), PAGE)?;
        let Some(end) = page.last() else {
            return Ok(());
        };
        last = Some(*end.hash());
        if page.into_iter().any(|cid| sender.send(cid).is_err()) {
            return Ok(());
        }
    }
}
