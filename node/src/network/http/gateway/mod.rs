//! Trustless gateways: blocks over HTTP, each verified here.
//!
//! The [Trustless Gateway] specification defines two requests: `?format=raw` gets a block, and
//! `?format=car` gets a whole DAG. A [`GatewaySession`] works like a bitswap session: it takes wants from
//! any thread and gives events.
//!
//! ```text
//! want ──▶ pending ──a few at a time──▶ gateway ──▶ verify (thread) ──▶ Block
//!                                          └─ refused ─▶ next gateway ─▶ Failed
//! want_all ──▶ one CAR stream ──▶ verify, block by block (thread) ──▶ Block..., then Ended
//! ```
//!
//! [Trustless Gateway]: https://specs.ipfs.tech/http-gateways/trustless-gateway/

mod stream;

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded as commands};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use reqwest::Client;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

pub use self::stream::Usefulness;

use self::stream::{STREAM_PATIENCE, Take, read_car};
use super::{HttpError, Url, root_cause};
use crate::block::{Block, BlockError, Cid};
use crate::car::CarError;
use crate::limits;

const RAW: &str = "application/vnd.ipld.raw";
/// Depth first, as blocks are needed, and none twice.
const CAR: &str = "application/vnd.ipld.car; version=1; order=dfs; dups=n";

/// Requests under way at a time, at first and at most: the round trips of a distant server overlap, and
/// on a slow line each takes time from the others.
const FIRST_REQUESTS: usize = 2;
const MAX_REQUESTS: usize = 16;

/// An answer within this time calls for more requests at a time, one that takes longer than that for
/// fewer.
const PROMPT: Duration = Duration::from_secs(2);
const LATE: Duration = Duration::from_secs(5);

/// Bytes of blocks that wait for the session's owner. Above it nothing more is read.
const MAX_BACKLOG_BYTES: usize = 16 << 20;

/// Failures in a row after which a gateway is not asked any more.
const MAX_FAULTS: u32 = 3;

/// Pieces of a CAR stream between the connection and the thread that verifies.
const CAR_PIECES: usize = 16;

/// Why a gateway did not give a block.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// No usable answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The answer is another block.
    #[error("{url} answered with wrong bytes")]
    Block {
        /// What was asked.
        url: Url,
        /// What is wrong with them.
        #[source]
        source: BlockError,
    },
    /// The answer is no CAR, or one that is cut short or holds wrong blocks.
    #[error("{url} answered with a bad CAR")]
    Car {
        /// What was asked.
        url: Url,
        /// What is wrong with it.
        #[source]
        source: CarError,
    },
    /// The stream was left: it brought nothing that was missing.
    #[error("{url} sends no block that is missing")]
    Useless {
        /// What was asked.
        url: Url,
    },
    /// All gateways have failed too often.
    #[error("every gateway has failed {MAX_FAULTS} times in a row")]
    NoneLeft,
}

impl GatewayError {
    /// Whether the gateway did something wrong, where others only lack the block, or give what is here
    /// already.
    pub fn is_fault(&self) -> bool {
        match self {
            GatewayError::Http(error) => error.is_fault(),
            GatewayError::Useless { .. } => false,
            _ => true,
        }
    }
}

/// What a session tells its owner.
#[derive(Debug)]
#[non_exhaustive]
pub enum GatewayEvent {
    /// A block, verified.
    Block {
        /// The block.
        block: Block,
        /// Where it came by a stream, whom to tell whether it was missing.
        stream: Option<Arc<Usefulness>>,
        #[doc(hidden)]
        _share: Share,
    },
    /// No gateway gave the block.
    Failed {
        /// The block.
        cid: Cid,
        /// Why the last one did not.
        error: Arc<GatewayError>,
    },
    /// What [`GatewaySession::want_all`] began has ended; blocks may be missing.
    Ended {
        /// The root.
        root: Cid,
    },
}

/// The share of the backlog that a block holds until its event is dropped.
#[derive(Debug)]
pub struct Share {
    _of_backlog: OwnedSemaphorePermit,
}

enum Command {
    Want(Vec<Cid>),
    WantAll(Cid),
    Cancel(Vec<Cid>),
}

/// Wants that go to gateways. Dropping it ends its requests.
#[derive(Debug)]
pub struct GatewaySession {
    commands: UnboundedSender<Command>,
    events: Receiver<GatewayEvent>,
}

impl GatewaySession {
    /// Begins a session with `gateways`, which are asked in this order, on the runtime `runtime`, for
    /// somebody who waits for `idle_timeout` at most.
    pub(in crate::network) fn start(
        client: Client,
        gateways: Vec<Url>,
        idle_timeout: Duration,
        runtime: &tokio::runtime::Handle,
    ) -> GatewaySession {
        let (sender, receiver) = commands();
        let (events, taken) = unbounded();
        let worker = Worker {
            gateways: Gateways::new(client, gateways, idle_timeout),
            backlog: Arc::new(Semaphore::new(MAX_BACKLOG_BYTES)),
            events,
            pending: VecDeque::new(),
            cancelled: HashSet::new(),
            asking: 0,
            most: FIRST_REQUESTS,
            running: FuturesUnordered::new(),
        };
        runtime.spawn(worker.work(receiver));
        GatewaySession {
            commands: sender,
            events: taken,
        }
    }

    /// Asks for blocks; returns at once.
    pub fn want(&self, cids: &[Cid]) {
        self.command(Command::Want(cids.to_vec()));
    }

    /// Asks for the DAG below `root` as one stream. Its blocks come depth first.
    pub fn want_all(&self, root: &Cid) {
        self.command(Command::WantAll(*root));
    }

    /// No longer asks for blocks; those on their way may still come.
    pub fn cancel(&self, cids: &[Cid]) {
        self.command(Command::Cancel(cids.to_vec()));
    }

    /// The channel of events.
    pub fn events(&self) -> &Receiver<GatewayEvent> {
        &self.events
    }

    /// Where the runtime has ended, the closed channel of events says so.
    fn command(&self, command: Command) {
        if self.commands.unbounded_send(command).is_err() {
            tracing::debug!("the network node has ended");
        }
    }
}

/// The servers, and which of them are still worth asking.
#[derive(Clone)]
struct Gateways {
    client: Client,
    stream_patience: Duration,
    /// Each with its wrong answers in a row.
    servers: Arc<Mutex<Vec<(Url, u32)>>>,
}

impl Gateways {
    fn new(client: Client, servers: Vec<Url>, idle_timeout: Duration) -> Gateways {
        // Each can be tried, and all once more, block by block.
        let turns = u32::try_from(servers.len())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        Gateways {
            client,
            stream_patience: STREAM_PATIENCE.min(idle_timeout / turns),
            servers: Arc::new(Mutex::new(
                servers.into_iter().map(|url| (url, 0)).collect(),
            )),
        }
    }

    fn left(&self) -> Vec<Url> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let is_left = |(_, faults): &&(Url, u32)| *faults < MAX_FAULTS;
        let left = servers.iter().filter(is_left);
        left.map(|(url, _)| url.clone()).collect()
    }

    fn answered(&self, server: &Url, is_fault: bool) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        for (url, faults) in servers.iter_mut().filter(|(url, _)| url == server) {
            *faults = if is_fault { *faults + 1 } else { 0 };
            if *faults == MAX_FAULTS {
                tracing::warn!(%url, "the gateway is not asked any more: it failed {MAX_FAULTS} times in a row");
            }
        }
    }

    /// Tries `ask` at one gateway after the other.
    async fn try_each<T, F>(&self, ask: impl Fn(Url) -> F) -> Result<T, GatewayError>
    where
        F: Future<Output = Result<T, GatewayError>>,
    {
        let mut last = GatewayError::NoneLeft;
        for server in self.left() {
            match ask(server.clone()).await {
                Ok(answer) => {
                    self.answered(&server, false);
                    return Ok(answer);
                }
                Err(error) => {
                    let reason = root_cause(&error);
                    tracing::debug!(%server, %error, reason, "a gateway did not help");
                    self.answered(&server, error.is_fault());
                    last = error;
                }
            }
        }
        Err(last)
    }

    async fn block(&self, cid: Cid) -> Result<Block, GatewayError> {
        self.try_each(|server| async move {
            let url = content_url(&server, &cid, "raw")?;
            let response = super::request(&self.client, url.clone(), RAW, &[]).await?;
            let data = super::body(response, limits::MAX_BLOCK_BYTES).await?;
            off_thread(move || Block::verified(cid, data))
                .await
                .map_err(|source| GatewayError::Block { url, source })
        })
        .await
    }

    /// Streams the DAG below `root`, giving each block to `take`, until it says false. A stream that
    /// brings nothing is left for that of the next gateway.
    async fn dag(&self, root: Cid, take: impl Take) -> Result<(), GatewayError> {
        let patience = self.stream_patience;
        self.try_each(|server| {
            let (usefulness, take) = (Arc::<Usefulness>::default(), take.clone());
            async move {
                let url = content_url(&server, &root, "car")?;
                tokio::select! {
                    streamed = self.stream(url.clone(), take, &usefulness) => streamed,
                    () = usefulness.ends(patience) => {
                        tracing::warn!(%url, "the gateway's stream is left: it brings nothing that is missing");
                        Err(GatewayError::Useless { url })
                    }
                }
            }
        })
        .await
    }

    async fn stream(
        &self,
        url: Url,
        take: impl Take,
        usefulness: &Arc<Usefulness>,
    ) -> Result<(), GatewayError> {
        let mut response = super::request(&self.client, url.clone(), CAR, &[]).await?;
        let (pieces, receiver) = tokio::sync::mpsc::channel(CAR_PIECES);
        let given = Arc::clone(usefulness);
        let take = move |block| {
            given.give(&block);
            take(block, &given)
        };
        let reading = tokio::task::spawn_blocking(move || read_car(receiver, &take));
        let streamed = loop {
            match response.chunk().await {
                Ok(Some(piece)) => {
                    usefulness.receive(&piece);
                    // The reader has had enough, and says why.
                    if pieces.send(piece).await.is_err() {
                        break Ok(());
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(super::failed(&url)(error)),
            }
        };
        drop(pieces);
        let read = reading.await.expect("reading a CAR does not panic");
        streamed?;
        read.map_err(|source| GatewayError::Car { url, source })
    }
}

fn content_url(server: &Url, cid: &Cid, format: &str) -> Result<Url, HttpError> {
    let invalid = |_| HttpError::Url {
        text: server.to_string(),
    };
    let mut url = server.join(&format!("ipfs/{cid}")).map_err(invalid)?;
    url.set_query(Some(&format!("format={format}")));
    Ok(url)
}

/// Hashing would hold up everything else on the one thread of the runtime.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("verifying a block does not panic")
}

/// What a request came to.
enum Done {
    Block {
        cid: Cid,
        given: Result<(Block, OwnedSemaphorePermit), GatewayError>,
        /// How long the answer took.
        took: Duration,
    },
    Dag(Cid, Result<(), GatewayError>),
}

/// The session at work.
struct Worker {
    gateways: Gateways,
    backlog: Arc<Semaphore>,
    events: Sender<GatewayEvent>,
    pending: VecDeque<Cid>,
    /// Of the pending ones.
    cancelled: HashSet<Cid>,
    /// Blocks that are being asked for, and how many may be at a time.
    asking: usize,
    most: usize,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
}

impl Worker {
    async fn work(mut self, mut commands: UnboundedReceiver<Command>) {
        loop {
            self.start();
            let has_running = !self.running.is_empty();
            tokio::select! {
                command = commands.next() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                Some(done) = self.running.next(), if has_running => self.finish(done),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Want(cids) => {
                for cid in &cids {
                    self.cancelled.remove(cid);
                }
                self.pending.extend(cids);
            }
            Command::WantAll(root) => {
                let (gateways, events) = (self.gateways.clone(), self.events.clone());
                let backlog = Arc::clone(&self.backlog);
                let take = move |block: Block, stream: &Arc<Usefulness>| {
                    tell_block(&events, &backlog, block, stream)
                };
                let streaming = async move { Done::Dag(root, gateways.dag(root, take).await) };
                self.running.push(streaming.boxed());
            }
            Command::Cancel(cids) => self.cancelled.extend(cids),
        }
    }

    fn start(&mut self) {
        while self.asking < self.most
            && let Some(cid) = self.pending.pop_front()
        {
            if self.cancelled.remove(&cid) {
                continue;
            }
            let gateways = self.gateways.clone();
            let backlog = Arc::clone(&self.backlog);
            // Whatever waits for room here, the other answers are read on.
            let asking = async move {
                let begun = Instant::now();
                let answer = gateways.block(cid).await;
                let took = begun.elapsed();
                let given = match answer {
                    Ok(block) => {
                        let share = backlog.acquire_many_owned(permits(&block)).await;
                        let of_backlog = share.expect("the backlog is never closed");
                        Ok((block, of_backlog))
                    }
                    Err(error) => Err(error),
                };
                Done::Block { cid, given, took }
            };
            self.asking += 1;
            self.running.push(asking.boxed());
        }
        if self.pending.is_empty() {
            self.cancelled.clear();
        }
    }

    fn finish(&mut self, done: Done) {
        let event = match done {
            Done::Block { cid, given, took } => {
                self.asking -= 1;
                if took < PROMPT {
                    self.most = MAX_REQUESTS.min(self.most + 1);
                } else if took > LATE {
                    self.most = 1.max(self.most / 2);
                }
                match given {
                    Ok((block, share)) => GatewayEvent::Block {
                        block,
                        stream: None,
                        _share: Share { _of_backlog: share },
                    },
                    Err(error) => GatewayEvent::Failed {
                        cid,
                        error: Arc::new(error),
                    },
                }
            }
            Done::Dag(root, outcome) => {
                if let Err(error) = outcome {
                    tracing::debug!(%root, %error, "a stream of a gateway ended early");
                }
                GatewayEvent::Ended { root }
            }
        };
        tell(&self.events, event);
    }
}

/// Hands a block of a stream over, on the thread that reads it; false where nobody takes it.
fn tell_block(
    events: &Sender<GatewayEvent>,
    backlog: &Arc<Semaphore>,
    block: Block,
    stream: &Arc<Usefulness>,
) -> bool {
    let waiting = Arc::clone(backlog).acquire_many_owned(permits(&block));
    match tokio::runtime::Handle::current().block_on(waiting) {
        Ok(share) => tell(
            events,
            GatewayEvent::Block {
                block,
                stream: Some(Arc::clone(stream)),
                _share: Share { _of_backlog: share },
            },
        ),
        Err(_) => false,
    }
}

/// Blocks of no bytes take a place as well.
fn permits(block: &Block) -> u32 {
    u32::try_from(block.data().len()).unwrap_or(u32::MAX).max(1)
}

fn tell(events: &Sender<GatewayEvent>, event: GatewayEvent) -> bool {
    events.send(event).is_ok()
}
