use std::time::Duration;

use libp2p::swarm::DialError;
use libp2p::{Multiaddr, PeerId};

use super::*;
use crate::block::{BlockError, RAW, sha2_256};
use crate::dag::pb::PbWriter;
use crate::network::arrivals::INTRODUCTION;
use crate::network::bitswap::Fault;

const IDLE: Duration = Duration::from_secs(30);
const MOMENT: Duration = Duration::from_millis(1);

/// What may come, at its best.
const EVERYTHING: Prospects = Prospects {
    idle_timeout: IDLE,
    has_persistent: true,
    may_discover: true,
    has_gateways: true,
};

/// Nobody was named, and nobody can be found.
const NOTHING: Prospects = Prospects {
    idle_timeout: IDLE,
    has_persistent: false,
    may_discover: false,
    has_gateways: false,
};

/// One peer was named.
const NAMED: Prospects = Prospects {
    has_persistent: true,
    ..NOTHING
};

const GATEWAY: Prospects = Prospects {
    has_gateways: true,
    ..NOTHING
};

fn leaf(data: &[u8]) -> Block {
    Block::new(cid::Version::V1, RAW, Bytes::copy_from_slice(data))
}

fn node(children: &[&Block]) -> Block {
    let mut node = PbWriter::default();
    for child in children {
        node.link(child.cid(), b"", child.data().len() as u64);
    }
    Block::new(cid::Version::V0, block::DAG_PB, node.finish(&[]).into())
}

/// A fetch of one missing block, and the time.
struct Fetch {
    planner: Planner,
    prospects: Prospects,
    now: Instant,
    wanted: Cid,
    peer: PeerId,
    acted: Vec<Action>,
}

impl Fetch {
    fn new(prospects: Prospects) -> Fetch {
        Fetch {
            planner: Planner::default(),
            prospects,
            now: Instant::now(),
            wanted: *node(&[]).cid(),
            peer: PeerId::random(),
            acted: Vec::new(),
        }
    }

    /// Somebody reads the block for itself.
    fn read(prospects: Prospects) -> Fetch {
        let mut fetch = Fetch::new(prospects);
        fetch.begin_read(fetch.wanted);
        fetch.searched(fetch.wanted);
        fetch
    }

    /// Somebody wants the block with all below it.
    fn complete(prospects: Prospects) -> Fetch {
        let mut fetch = Fetch::new(prospects);
        fetch.planner.complete(&fetch.wanted);
        fetch.look(&[]);
        fetch.searched(fetch.wanted);
        fetch
    }

    fn begin_read(&mut self, cid: Cid) {
        match self.planner.read(&cid, true, self.now).unwrap() {
            Reading::IsNew(task) => self.planner.looked_again(task, None),
            Reading::Waits => {}
        }
        self.act();
    }

    /// Answers all questions: `here` is here, and nothing else.
    fn look(&mut self, here: &[&Block]) {
        while let Some(task) = self.planner.next() {
            let found = here.iter().find(|block| *block.cid() == task.cid);
            let found = found.map_or(Looked::Missing, |block| Looked::Node(block.data().clone()));
            self.planner.looked(task, found);
        }
        self.act();
    }

    /// Starts where that is asked for; everything else is noted.
    fn act(&mut self) {
        loop {
            let actions = self.planner.take_actions();
            if actions.is_empty() {
                return;
            }
            for action in actions {
                if let Action::Start(cid) = action {
                    self.planner.started(cid, self.prospects, self.now);
                }
                self.acted.push(action);
            }
        }
    }

    fn network(&mut self, event: NetworkEvent) {
        self.planner.network_event(&event, self.now);
        self.act();
    }

    fn session(&mut self, event: SessionEvent) {
        self.planner.session_event(&event, self.now);
        self.act();
    }

    fn searched(&mut self, cid: Cid) {
        self.network(NetworkEvent::ProvidersSearched { cid });
    }

    fn connect(&mut self) {
        let peer = self.peer;
        let (address, role) = (Multiaddr::empty(), Role::Named);
        self.network(NetworkEvent::Connected {
            peer,
            address,
            role,
        });
        self.network(NetworkEvent::AllTried);
        let (agent, protocols) = (String::new(), Vec::new());
        self.network(NetworkEvent::Identified {
            peer,
            agent,
            protocols,
        });
    }

    fn lacks(&mut self, asked: usize) {
        let cid = self.wanted;
        self.session(SessionEvent::NotFound { cid, asked });
    }

    fn misbehaves(&mut self) {
        let (peer, fault) = (self.peer, Fault::Stalled);
        self.session(SessionEvent::BadBlock { peer, fault });
    }

    fn unreachable(&mut self) {
        let (address, error) = (Multiaddr::empty(), Arc::new(DialError::Aborted));
        self.network(NetworkEvent::Unreachable { address, error });
        self.network(NetworkEvent::AllTried);
    }

    fn refused(&mut self) {
        let error = Arc::new(GatewayError::NoneLeft);
        self.planner.gateways_refused(self.wanted, error);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.planner.judge(self.now);
        self.act();
    }

    /// Why the reader, or all, got nothing; none where it may still come.
    fn error(&self) -> Option<String> {
        let outcome = self.planner.outcome(&self.wanted);
        let error = outcome.map(|outcome| outcome.unwrap_err());
        let error = error.or_else(|| self.planner.failure().cloned())?;
        let debug = format!("{error:?}");
        let name = debug.split([' ', '{', '(']).next().unwrap_or_default();
        Some(name.to_owned())
    }

    fn has(&self, action: &Action) -> bool {
        self.acted.contains(action)
    }
}

/// What happens, and what has become of the fetch after it.
type Step = (&'static str, fn(&mut Fetch), Option<&'static str>);

/// Every way in which a fetch ends without a block. Each row is a fetch, once of a block for itself and once of
/// a DAG.
#[test]
fn when_it_gives_up_and_why() {
    let rows: &[(&str, Prospects, &[Step])] = &[
        (
            "nobody was named, and nobody can be found",
            NOTHING,
            &[("at once", |fetch| fetch.pass(MOMENT), Some("NoPeers"))],
        ),
        (
            "the local network is searched first",
            Prospects {
                may_discover: true,
                ..NOTHING
            },
            &[
                ("it is searched", |fetch| fetch.pass(MOMENT), None),
                ("in vain", |fetch| fetch.pass(IDLE / 10), Some("NoPeers")),
            ],
        ),
        (
            "who was named is dialled as long as that takes",
            NAMED,
            &[
                ("dialled", |fetch| fetch.pass(IDLE / 2), None),
                ("refused", Fetch::unreachable, None),
                ("told", |fetch| fetch.pass(MOMENT), Some("Unreachable")),
            ],
        ),
        (
            "who was named is dialled until the idle time is over",
            NAMED,
            &[("dialled", |fetch| fetch.pass(IDLE), Some("NoPeers"))],
        ),
        (
            "all who are connected lack it",
            NAMED,
            &[
                ("connected", Fetch::connect, None),
                ("not asked yet", |fetch| fetch.pass(MOMENT), None),
                ("it lacks it", |fetch| fetch.lacks(1), None),
                ("told", |fetch| fetch.pass(MOMENT), Some("NotFound")),
            ],
        ),
        (
            "nobody could be asked who came",
            NAMED,
            &[
                ("nobody there", |fetch| fetch.lacks(0), None),
                ("connected", Fetch::connect, None),
                ("nobody asked", |fetch| fetch.lacks(0), None),
                ("it may answer", |fetch| fetch.pass(MOMENT), None),
                (
                    "it does not",
                    |fetch| fetch.pass(INTRODUCTION),
                    Some("NotFound"),
                ),
            ],
        ),
        (
            "it is looked for in a DHT that is known only now",
            NAMED,
            &[
                ("connected", Fetch::connect, None),
                (
                    "searching",
                    |fetch| {
                        let cid = fetch.wanted;
                        fetch.network(NetworkEvent::Searching { cid });
                    },
                    None,
                ),
                ("it lacks it", |fetch| fetch.lacks(1), None),
                ("it is looked for", |fetch| fetch.pass(IDLE / 2), None),
                (
                    "in vain",
                    |fetch| {
                        fetch.searched(fetch.wanted);
                        fetch.pass(MOMENT);
                    },
                    Some("NotFound"),
                ),
            ],
        ),
        (
            "a provider is dialled as long as that takes",
            NAMED,
            &[
                ("connected", Fetch::connect, None),
                (
                    "somebody has it",
                    |fetch| {
                        let (cid, peer) = (fetch.wanted, PeerId::random());
                        fetch.network(NetworkEvent::Provider { cid, peer });
                        fetch.peer = peer;
                    },
                    None,
                ),
                ("it lacks it", |fetch| fetch.lacks(1), None),
                ("dialled", |fetch| fetch.pass(IDLE / 2), None),
                (
                    "in vain",
                    |fetch| {
                        let peer = fetch.peer;
                        fetch.session(SessionEvent::PeerUnreachable { peer });
                        fetch.pass(MOMENT);
                    },
                    Some("NotFound"),
                ),
            ],
        ),
        (
            "nothing comes",
            NAMED,
            &[
                ("connected", Fetch::connect, None),
                ("almost", |fetch| fetch.pass(IDLE - MOMENT), None),
                ("silence", |fetch| fetch.pass(MOMENT), Some("Idle")),
            ],
        ),
        (
            "who had it has gone, and is dialled again",
            NAMED,
            &[
                ("connected", Fetch::connect, None),
                (
                    "gone",
                    |fetch| {
                        let peer = fetch.peer;
                        fetch.network(NetworkEvent::Disconnected { peer });
                    },
                    None,
                ),
                ("almost", |fetch| fetch.pass(IDLE - MOMENT), None),
                ("for good", |fetch| fetch.pass(MOMENT), Some("ProviderLost")),
            ],
        ),
        (
            "who sends something wrong is to blame, at the end",
            NAMED,
            &[
                ("connected", Fetch::connect, None),
                ("wrong", Fetch::misbehaves, None),
                ("it may come", |fetch| fetch.pass(MOMENT), None),
                ("silence", |fetch| fetch.pass(IDLE), Some("Faulty")),
            ],
        ),
        (
            "also where it lacks the block then",
            NAMED,
            &[
                ("connected", Fetch::connect, None),
                ("wrong", Fetch::misbehaves, None),
                ("it lacks it", |fetch| fetch.lacks(1), None),
                ("told", |fetch| fetch.pass(MOMENT), Some("Faulty")),
            ],
        ),
        (
            "gateways have not answered",
            GATEWAY,
            &[
                ("no peer", |fetch| fetch.lacks(0), None),
                ("asked", |fetch| fetch.pass(IDLE / 2), None),
                ("silence", |fetch| fetch.pass(IDLE / 2), Some("Idle")),
            ],
        ),
        (
            "gateways refuse it",
            GATEWAY,
            &[
                ("no peer", |fetch| fetch.lacks(0), None),
                ("asked", |fetch| fetch.pass(MOMENT), None),
                ("refused", Fetch::refused, None),
                ("told", |fetch| fetch.pass(MOMENT), Some("Gateway")),
            ],
        ),
        (
            "gateways refuse what a peer may have",
            Prospects {
                has_persistent: true,
                ..GATEWAY
            },
            &[
                ("connected", Fetch::connect, None),
                ("refused", Fetch::refused, None),
                ("it may come", |fetch| fetch.pass(MOMENT), None),
                ("it lacks it", |fetch| fetch.lacks(1), None),
                ("told", |fetch| fetch.pass(MOMENT), Some("Gateway")),
            ],
        ),
        (
            "the node ends",
            EVERYTHING,
            &[("ended", |fetch| fetch.planner.ended(), Some("Ended"))],
        ),
    ];
    for (row, prospects, steps) in rows {
        for begin in [Fetch::read, Fetch::complete] {
            let mut fetch = begin(*prospects);
            for (step, happens, wanted) in *steps {
                happens(&mut fetch);
                assert_eq!(fetch.error().as_deref(), *wanted, "{row}: {step}");
            }
        }
    }
}

#[test]
fn a_failure_of_our_own_ends_all() {
    for (error, wanted) in [
        (FetchError::Interrupted, "Interrupted"),
        (
            FetchError::Store(BlockError::Missing {
                cid: Cid::default(),
            }),
            "Store",
        ),
    ] {
        let mut fetch = Fetch::read(NAMED);
        fetch.planner.fail(error);
        // The first reason stays.
        fetch.planner.ended();
        assert_eq!(fetch.error().as_deref(), Some(wanted));
        assert!(fetch.planner.read(&fetch.wanted, true, fetch.now).is_err());
        // Not while somebody waits who was not told.
        fetch.planner.start_over();
        assert!(fetch.planner.failure().is_some());
        fetch.planner.leave(&fetch.wanted.clone());
        fetch.planner.start_over();
        assert!(fetch.planner.failure().is_none() && !fetch.planner.is_started());
        fetch.acted.clear();
        fetch.begin_read(fetch.wanted);
        assert!(fetch.has(&Action::Stop) && fetch.has(&Action::Start(fetch.wanted)));
    }
}

#[test]
fn malformed_and_too_deep_nodes_end_a_dag_and_are_kept() {
    let malformed = Block::new(cid::Version::V0, block::DAG_PB, Bytes::from_static(b"\xff"));
    for (depth, block, wanted) in [
        (0, &malformed, "Dag"),
        (limits::MAX_DAG_DEPTH, &node(&[&leaf(b"leaf")]), "Dag"),
    ] {
        let mut fetch = Fetch::complete(NAMED);
        let task = Task {
            depth,
            ..Task::root(*block.cid())
        };
        fetch.planner.looked(task, Looked::Missing);
        let arrival = fetch.planner.arrived(block, fetch.now);
        assert!(matches!(arrival, Arrival::Wanted { .. }));
        assert_eq!(fetch.error().as_deref(), Some(wanted));
    }
}

#[test]
fn a_dag_is_fetched_in_order_from_what_is_missing() {
    let [first, second, third] = [b"1", b"2", b"3"].map(|data| leaf(data));
    let (left, right) = (node(&[&first, &second]), node(&[&third]));
    let root = node(&[&left, &right]);
    let mut fetch = Fetch::new(NAMED);
    fetch.planner.complete(root.cid());
    assert!(fetch.planner.verifies());
    fetch.look(&[&root, &left, &second]);
    let wants: Vec<_> = fetch.acted.drain(..).collect();
    assert_eq!(
        wants,
        [
            Action::Start(*first.cid()),
            Action::Want(vec![*first.cid(), *right.cid()]),
            Action::FindProviders(*root.cid()),
        ]
    );
    let arrival = fetch.planner.arrived(&right, fetch.now);
    assert_eq!(arrival, Arrival::Wanted { below: None });
    // Nothing is kept that was not asked for.
    assert_eq!(fetch.planner.arrived(&third, fetch.now), Arrival::Unwanted);
    fetch.look(&[]);
    assert!(fetch.has(&Action::Want(vec![*third.cid()])));
    for block in [&third, &first] {
        assert!(!fetch.planner.is_done());
        let arrival = fetch.planner.arrived(block, fetch.now);
        assert_eq!(arrival, Arrival::Wanted { below: None });
    }
    assert!(fetch.planner.is_done() && fetch.planner.failure().is_none());
    let fetched = fetch.planner.fetched();
    assert_eq!((fetched.blocks, fetched.local_blocks), (3, 3));
    let bytes = [&right, &third, &first].map(|block| block.data().len() as u64);
    assert_eq!(fetched.bytes, bytes.iter().sum::<u64>());
}

#[test]
fn the_root_tells_how_much_is_to_come() {
    let (first, second) = (leaf(b"12345"), leaf(b"678"));
    let root = node(&[&first, &second]);
    let mut fetch = Fetch::new(NAMED);
    fetch.planner.complete(root.cid());
    fetch.look(&[]);
    let arrival = fetch.planner.arrived(&root, fetch.now);
    assert_eq!(arrival, Arrival::Wanted { below: Some(8) });
}

/// One that is read for itself fails by itself, and the time of others begins anew with each block before them.
#[test]
fn readers_do_not_share_a_fate() {
    let (first, second) = (leaf(b"first"), leaf(b"second"));
    let mut fetch = Fetch::new(NAMED);
    fetch.begin_read(*first.cid());
    fetch.searched(*first.cid());
    fetch.connect();
    fetch.pass(IDLE / 2);
    fetch.begin_read(*second.cid());
    fetch.pass(IDLE / 2);
    fetch.wanted = *first.cid();
    assert_eq!(fetch.error().as_deref(), Some("Idle"));
    assert!(fetch.has(&Action::Cancel(*first.cid())));
    assert!(fetch.planner.outcome(second.cid()).is_none());
    fetch.planner.leave(first.cid());
    // Read again, before the second one has come.
    fetch.begin_read(*first.cid());
    let arrival = fetch.planner.arrived(&second, fetch.now);
    assert!(matches!(arrival, Arrival::Wanted { .. }));
    let data = fetch.planner.outcome(second.cid()).unwrap().unwrap();
    assert_eq!(data, second.data());
    fetch.pass(IDLE - MOMENT);
    assert_eq!(fetch.error(), None);
    fetch.pass(MOMENT);
    assert_eq!(fetch.error().as_deref(), Some("Idle"));
}

#[test]
fn a_block_is_asked_for_once_and_given_up_with_its_last_reader() {
    let block = leaf(b"block");
    let mut fetch = Fetch::new(NAMED);
    fetch.begin_read(*block.cid());
    fetch.begin_read(*block.cid());
    let want = Action::Want(vec![*block.cid()]);
    let wants = fetch.acted.iter().filter(|action| **action == want);
    assert_eq!(wants.count(), 1);
    fetch.planner.leave(block.cid());
    fetch.act();
    assert!(!fetch.has(&Action::Cancel(*block.cid())));
    fetch.planner.leave(block.cid());
    fetch.act();
    assert!(fetch.has(&Action::Cancel(*block.cid())) && fetch.planner.is_done());
    // It was found here after all.
    let Reading::IsNew(task) = fetch.planner.read(block.cid(), true, fetch.now).unwrap() else {
        panic!("nobody waits for it");
    };
    let data = block.data().clone();
    fetch.planner.looked_again(task, Some(data.clone()));
    let outcome = fetch.planner.outcome(block.cid()).unwrap();
    assert_eq!(outcome.unwrap(), data);
    fetch.planner.leave(block.cid());
    assert!(fetch.planner.is_done() && fetch.planner.take_actions().is_empty());
}

#[test]
fn what_nobody_has_is_searched_for_then_on_the_local_network_and_at_gateways() {
    let block = leaf(b"block");
    let mut fetch = Fetch::new(EVERYTHING);
    fetch.wanted = *block.cid();
    fetch.planner.complete(&fetch.wanted.clone());
    fetch.look(&[]);
    assert!(fetch.has(&Action::FindProviders(fetch.wanted)));
    fetch.searched(fetch.wanted);
    fetch.connect();
    assert!(fetch.has(&Action::AddProvider(fetch.peer)));
    assert!(!fetch.has(&Action::Discover));
    fetch.lacks(1);
    fetch.pass(MOMENT);
    assert!(fetch.has(&Action::AskGatewaysForAll(fetch.wanted)));
    fetch.refused();
    fetch.pass(MOMENT);
    assert!(fetch.has(&Action::Discover));
    assert_eq!(fetch.error(), None);
    let arrival = fetch.planner.arrived(&block, fetch.now);
    assert!(matches!(arrival, Arrival::Wanted { .. }));
    fetch.act();
    let left = Action::LeaveGateways(fetch.wanted);
    assert!(fetch.has(&left) && fetch.has(&Action::Cancel(fetch.wanted)));
}

#[test]
fn what_may_be_read_next_decides_nothing_until_it_is_read() {
    let name = Cid::new_v1(RAW, sha2_256(&[b"name"]));
    let mut fetch = Fetch::new(NAMED);
    fetch.planner.expect(&[name]);
    assert!(fetch.planner.take_actions().is_empty() && !fetch.planner.is_done());
    fetch.look(&[]);
    // It is on its way, and decides nothing.
    fetch.pass(2 * IDLE);
    assert!(fetch.planner.failure().is_none());
    fetch.begin_read(name);
    fetch.wanted = name;
    assert_eq!(fetch.error(), None);
    fetch.pass(IDLE);
    assert_eq!(fetch.error().as_deref(), Some("NoPeers"));
}
