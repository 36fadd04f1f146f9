//! Names among peers: records are asked for and given out, and domains are looked up in the DNS.

mod dns;
pub mod refresh;

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::RecvTimeoutError;
use libp2p::Multiaddr;

use super::arrivals::Arrivals;
use super::fetch::{DialProblem, LazyNetwork};
use super::{Mdns, Network, NetworkError, NetworkEvent};
use crate::name::KeyName;
use crate::names::resolve::LookupError;
use crate::names::store::NameStore;
use crate::names::{Lookup, Record};
use crate::path::ContentPath;
use crate::progress::Reporter;

/// How long one wait lasts at most, so that an interruption is seen.
const TICK: Duration = Duration::from_millis(50);

/// Records after which no more are waited for: the number that Kubo takes for enough.
const ENOUGH_RECORDS: usize = 16;

/// Why the network gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NamesError {
    /// The node cannot be started.
    #[error(transparent)]
    Network(Arc<NetworkError>),
    /// The node has ended.
    #[error("the network node has ended")]
    Ended,
    /// A peer that was named cannot be reached, and no other one was there.
    #[error("cannot reach the peer {address}")]
    Unreachable {
        /// The peer, as it was named.
        address: Multiaddr,
        /// Why.
        #[source]
        source: DialProblem,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// How to ask.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// The node that is asked, started where it must be.
    pub network: &'a LazyNetwork,
    /// Whether peers may be looked for on the local network, if no other one serves.
    pub may_discover: bool,
    /// When the asking ends at the latest.
    pub timeout: Duration,
    /// Told of nothing, and asked whether to go on.
    pub reporter: &'a dyn Reporter,
}

/// What became of a question to all that could be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The newest valid record.
    pub record: Option<Record>,
    /// Whether records came that are not valid.
    pub refused: bool,
    /// How many DHTs and servers were asked.
    pub asked: usize,
}

/// Asks DHTs, routers and gateways for the record of `name`. Only valid records count.
///
/// # Errors
/// [`NamesError`].
pub fn find(asking: Asking<'_>, name: &KeyName) -> Result<Found, NamesError> {
    let mut found = Found {
        record: None,
        refused: false,
        asked: 0,
    };
    let mut records = 0;
    let network = start(asking)?;
    converse(
        asking,
        &network,
        || network.find_name(name),
        |event| match event {
            NetworkEvent::NameRecord {
                name: about,
                record,
            } if about == name => {
                records += 1;
                match Record::accept(record, name, SystemTime::now()) {
                    Ok(record) => newest(&mut found.record, record),
                    Err(error) => {
                        found.refused = true;
                        tracing::debug!(%name, %error, "a record is not accepted");
                    }
                }
                match records {
                    ..ENOUGH_RECORDS => Progress::Pending,
                    _ => Progress::Complete,
                }
            }
            NetworkEvent::NameSearched { name: about, asked } if about == name => {
                found.asked += asked;
                match found.record {
                    Some(_) => Progress::Answered,
                    None => Progress::Vain,
                }
            }
            _ => Progress::Pending,
        },
    )?;
    Ok(found)
}

/// Gives `record` to the DHTs and routers, and says how many took it.
///
/// # Errors
/// [`NamesError`].
pub fn publish(asking: Asking<'_>, name: &KeyName, record: &Record) -> Result<usize, NamesError> {
    let mut taken = 0;
    let network = start(asking)?;
    let begin = || network.publish_name(name, record);
    converse(asking, &network, begin, |event| match event {
        NetworkEvent::NamePublished {
            name: about,
            takers,
        } if about == name => {
            taken += takers;
            match taken {
                0 => Progress::Vain,
                _ => Progress::Answered,
            }
        }
        _ => Progress::Pending,
    })?;
    Ok(taken)
}

fn start(asking: Asking<'_>) -> Result<Arc<Network>, NamesError> {
    asking.network.get().map_err(NamesError::Network)
}

fn newest(kept: &mut Option<Record>, record: Record) {
    if !matches!(kept, Some(kept) if kept.precedence(&record) != Ordering::Less) {
        *kept = Some(record);
    }
}

/// What an event means for a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nothing, or not yet all.
    Pending,
    /// All that were asked have answered, and that serves.
    Answered,
    /// The same, and no answer serves.
    Vain,
    /// There is no need to wait for more.
    Complete,
}

/// Begins a question, and again for each DHT that is joined, until all that may still come have come and
/// answered, or the time is over.
fn converse(
    asking: Asking<'_>,
    network: &Network,
    begin: impl Fn(),
    mut take: impl FnMut(&NetworkEvent) -> Progress,
) -> Result<(), NamesError> {
    let may_discover = asking.may_discover && asking.network.mdns() != Mdns::Off;
    let mut arrivals = Arrivals::new(asking.network.has_persistent(), may_discover);
    let events = network.subscribe();
    let started = Instant::now();
    begin();
    let (mut is_asking, mut is_answered) = (true, false);
    loop {
        let event = match events.recv_timeout(TICK) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Err(NamesError::Ended),
        };
        let now = Instant::now();
        if asking.reporter.cancel().is_cancelled() {
            return Err(NamesError::Interrupted);
        }
        if let Some(event) = &event {
            arrivals.network_event(event, now);
            match take(event) {
                Progress::Pending => {}
                Progress::Complete => return Ok(()),
                outcome => {
                    is_asking = false;
                    is_answered |= outcome == Progress::Answered;
                }
            }
            if matches!(event, NetworkEvent::Joined) {
                begin();
                is_asking = true;
            }
        }
        if now.saturating_duration_since(started) >= asking.timeout {
            return Ok(());
        }
        if is_asking || arrivals.may_come(now) || !events.is_empty() {
            continue;
        }
        if !is_answered && arrivals.can_discover() {
            network.discover();
            arrivals.discovering(now);
            continue;
        }
        return match arrivals.unreachable() {
            Some((address, error)) if !is_answered => Err(NamesError::Unreachable {
                address: address.clone(),
                source: DialProblem(Arc::clone(error)),
            }),
            _ => Ok(()),
        };
    }
}

/// Looks names up in the records of a repository, and asks the network where these are not fresh.
#[derive(Clone, Copy)]
pub struct Resolver<'a> {
    /// The records that are kept, and where answers are kept.
    pub store: &'a NameStore,
    /// How to ask the network, if it may be asked.
    pub asking: Option<Asking<'a>>,
    /// Whether the network is asked also where a fresh record is kept.
    pub refresh: bool,
    /// Whether domains may be looked up in the DNS.
    pub may_ask_dns: bool,
}

impl Resolver<'_> {
    /// Asks the network for a record that is newer than `kept`.
    fn ask(
        &self,
        asking: Asking<'_>,
        name: &KeyName,
        kept: Option<&Record>,
    ) -> Result<Record, LookupError> {
        let found = find(asking, name).map_err(|error| match error {
            NamesError::Interrupted => LookupError::Interrupted,
            error => LookupError::Failed(Box::new(error)),
        })?;
        let Some(record) = found.record else {
            return Err(match found {
                Found { refused: true, .. } => LookupError::Refused,
                Found { asked: 0, .. } => LookupError::NobodyAsked,
                _ => LookupError::NotFound,
            });
        };
        match self.store.keep_newest(name, record.clone()) {
            Ok(newest) => Ok(newest),
            Err(error) => {
                // A repository of another user, or a full disk: the answer holds all the same.
                tracing::debug!(%error, "a record cannot be kept");
                let is_older = |kept: &Record| kept.precedence(&record) == Ordering::Greater;
                Ok(kept
                    .filter(|kept| is_older(kept))
                    .cloned()
                    .unwrap_or(record))
            }
        }
    }
}

impl Lookup for Resolver<'_> {
    fn record(&self, name: &KeyName) -> Result<Record, LookupError> {
        let now = SystemTime::now();
        let kept = self.store.get(name)?;
        if let Some(kept) = &kept
            && (kept.is_fresh(now) && !self.refresh || self.asking.is_none())
        {
            kept.record.check_time(now)?;
            return Ok(kept.record.clone());
        }
        let Some(asking) = self.asking else {
            return Err(LookupError::Offline);
        };
        let record = kept.map(|kept| kept.record);
        match self.ask(asking, name, record.as_ref()) {
            Ok(record) => {
                record.check_time(SystemTime::now())?;
                Ok(record)
            }
            Err(LookupError::Interrupted) => Err(LookupError::Interrupted),
            Err(error) => match record {
                Some(record) => {
                    record.check_time(now)?;
                    tracing::debug!(%name, %error, "the record of the repository is used");
                    Ok(record)
                }
                None => Err(error),
            },
        }
    }

    fn dnslink(&self, domain: &str) -> Result<ContentPath, LookupError> {
        if !self.may_ask_dns {
            return Err(LookupError::Offline);
        }
        dns::dnslink(domain)
    }
}
