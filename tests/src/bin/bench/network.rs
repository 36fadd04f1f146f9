//! Content from peers on this machine, beside two Kubos doing the same, and across a slow line.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ipfs_exec_tests::peer::Peer;
use ipfs_exec_tests::{Environment, Invocation, Served};

use crate::measure::{self, Contender, Sample, Work};
use crate::storage::{FILE_BYTES, FILES, PEAK_BYTES, SMALL_FILE_BYTES, make_file, make_tree};

/// How long a process may take to the first block from a peer that it knows.
const FIRST_BLOCK: Duration = Duration::from_millis(12);

/// A fetch of Kubo that takes longer has stalled for good, as some do.
const STALLED: Duration = Duration::from_secs(60);

/// What goes over the long line: enough to fill it.
const FAR_BYTES: u64 = 256 << 20;

/// How long the line is, one way.
const DELAY: Duration = Duration::from_millis(50);

/// A process that serves one content.
struct Giver {
    _environment: Environment,
    served: Served,
    cid: String,
}

fn giver(binary: &Path, content: &Path) -> Giver {
    let environment = Environment::new();
    let call = |arguments: &[&str]| -> Invocation {
        environment.program(binary).arguments(arguments.to_vec())
    };
    let cid = call(&["add", "-Q"]).argument(content).succeeds().line();
    let served = Served::by(call(&["serve"]));
    Giver {
        _environment: environment,
        served,
        cid,
    }
}

/// Fetches `cid` from all of `addresses` into a repository of its own each time.
fn fetch(
    name: &'static str,
    binary: &Path,
    place: &Path,
    addresses: Vec<String>,
    givers: Rc<Vec<Giver>>,
) -> Contender {
    let (binary, place) = (binary.to_owned(), place.to_owned());
    let number = Cell::new(0);
    Contender::new(name, move || {
        number.set(number.get() + 1);
        let repository = place.join(format!("{}-{}", name.replace([' ', '`'], ""), number.get()));
        let mut fetch = Command::new(&binary);
        fetch
            .arg("--repo")
            .arg(&repository)
            .args(["fetch", "--no-mdns"]);
        for address in &addresses {
            fetch.args(["--peer", address]);
        }
        let sample = measure::command(fetch.arg(&givers[0].cid));
        forget(&repository);
        sample
    })
}

/// One Kubo pins what the other has. Each time in a repository of its own.
fn kubo(place: &Path, content: PathBuf, transport: &'static str) -> Contender {
    let place = place.to_owned();
    let mut giver: Option<(Peer, String)> = None;
    let mut number = 0;
    Contender::new("Kubo 0.22 from Kubo 0.22", move || {
        let (giver, cid) = giver.get_or_insert_with(|| {
            let mut giver = Peer::kubo(&place.join("kubo"), None);
            let cid = giver.add(&content);
            (giver, cid)
        });
        loop {
            number += 1;
            let repository = place.join(format!("kubo-{number}"));
            let mut taker = Peer::kubo(&repository, None);
            taker.connect(giver.address(transport));
            let started = Instant::now();
            let is_done = taker.try_pin(cid, STALLED);
            let elapsed = started.elapsed();
            drop(taker);
            forget(&repository);
            if is_done {
                return Sample {
                    elapsed,
                    peak_bytes: None,
                };
            }
            eprintln!("Kubo has stalled; it is tried again");
        }
    })
}

/// What was written must not slow what comes next.
fn forget(repository: &Path) {
    fs::remove_dir_all(repository).expect("the repository is ours");
    rustix::fs::sync();
}

fn of_kubo(
    binary: &Path,
    place: &Path,
    content: PathBuf,
    transport: &'static str,
) -> (Contender, Contender) {
    let giver = giver(binary, &content);
    let address = match transport {
        "/tcp/" => giver.served.tcp.clone(),
        _ => giver.served.quic.clone(),
    };
    let ours = fetch("ours", binary, place, vec![address], Rc::new(vec![giver]));
    (ours, kubo(place, content, transport))
}

pub(crate) fn fetch_file(binary: &Path, place: &Path) -> Work {
    let content = make_file(place, FILE_BYTES);
    let (ours, kubo) = of_kubo(binary, place, content, "/tcp/");
    file_work("fetch 1 GiB from a peer, TCP", ours, kubo)
}

pub(crate) fn fetch_file_quic(binary: &Path, place: &Path) -> Work {
    let content = make_file(place, FILE_BYTES);
    let (ours, kubo) = of_kubo(binary, place, content, "/quic-v1");
    file_work("fetch 1 GiB from a peer, QUIC", ours, kubo)
}

/// Beside one provider of the same.
pub(crate) fn fetch_file_two(binary: &Path, place: &Path) -> Work {
    let content = make_file(place, FILE_BYTES);
    let givers = Rc::new(vec![giver(binary, &content), giver(binary, &content)]);
    let addresses: Vec<_> = givers
        .iter()
        .map(|giver| giver.served.tcp.clone())
        .collect();
    let one = vec![addresses[0].clone()];
    let ours = fetch("ours", binary, place, addresses, Rc::clone(&givers));
    let one = fetch("from one of them", binary, place, one, givers);
    file_work("fetch 1 GiB from two peers", ours, one)
}

fn file_work(title: &'static str, ours: Contender, peer: Contender) -> Work {
    Work {
        title,
        bytes: Some(FILE_BYTES),
        ours,
        peers: vec![peer],
        samples_a_round: 1,
        target: "3.5 s, 128 MiB",
        met: |ours, _, peak| ours <= Duration::from_millis(3500) && peak <= PEAK_BYTES,
    }
}

pub(crate) fn fetch_tree(binary: &Path, place: &Path) -> Work {
    let (content, _) = make_tree(place);
    let (ours, kubo) = of_kubo(binary, place, content, "/tcp/");
    Work {
        title: "fetch 10,000 files of 4 KiB from a peer",
        bytes: Some(FILES * SMALL_FILE_BYTES as u64),
        ours,
        peers: vec![kubo],
        samples_a_round: 1,
        target: "1 s, 128 MiB",
        met: |ours, _, peak| ours <= Duration::from_secs(1) && peak <= PEAK_BYTES,
    }
}

pub(crate) fn first_block_tcp(binary: &Path, place: &Path) -> Work {
    first_block(
        binary,
        place,
        "process start to first block, TCP",
        |served| &served.tcp,
    )
}

pub(crate) fn first_block_quic(binary: &Path, place: &Path) -> Work {
    first_block(
        binary,
        place,
        "process start to first block, QUIC",
        |served| &served.quic,
    )
}

/// Beside a process that only reads a block that is here.
fn first_block(
    binary: &Path,
    place: &Path,
    title: &'static str,
    address: fn(&Served) -> &String,
) -> Work {
    let content = place.join("input");
    fs::write(&content, "the first block").expect("the place is ours");
    let giver = giver(binary, &content);
    let (binary, place) = (binary.to_owned(), place.to_owned());
    let maker = binary.clone();
    let cat = move |repository: &Path, address: Option<&str>, cid: &str| {
        let mut cat = Command::new(&binary);
        cat.arg("--repo").arg(repository).args(["cat", "--no-mdns"]);
        cat.args(
            address
                .map(|address| ["--peer", address])
                .into_iter()
                .flatten(),
        );
        measure::first_byte(cat.arg(cid))
    };
    let cid = giver.cid.clone();
    let known = place.join("known");
    cat(&known, Some(address(&giver.served)), &cid);
    let local = {
        let (cat, cid) = (cat.clone(), cid.clone());
        Contender::new("the same, local", move || cat(&known, None, &cid))
    };
    let mut number = 0;
    let ours = Contender::new("ours", move || {
        number += 1;
        // It exists, and holds nothing.
        let repository = place.join(format!("empty-{number}"));
        let made = Command::new(&maker)
            .arg("--repo")
            .arg(&repository)
            .args(["repo", "stat"])
            .output();
        assert!(made.is_ok_and(|made| made.status.success()));
        let sample = cat(&repository, Some(address(&giver.served)), &cid);
        fs::remove_dir_all(&repository).expect("the repository is ours");
        sample
    });
    Work {
        title,
        bytes: None,
        ours,
        peers: vec![local],
        samples_a_round: 10,
        target: "12 ms",
        met: |ours, _, _| ours <= FIRST_BLOCK,
    }
}

/// Beside the same without a delay.
pub(crate) fn fetch_far(binary: &Path, place: &Path) -> Work {
    let content = make_file(place, FAR_BYTES);
    let givers = Rc::new(vec![giver(binary, &content)]);
    let near = givers[0].served.tcp.clone();
    let far = delayed(&near, DELAY);
    let ours = fetch("ours", binary, place, vec![far], Rc::clone(&givers));
    let near = fetch("without delay", binary, place, vec![near], givers);
    Work {
        title: "fetch 256 MiB, 50 ms each way",
        bytes: Some(FAR_BYTES),
        ours,
        peers: vec![near],
        samples_a_round: 1,
        target: "none",
        met: |_, _, peak| peak <= PEAK_BYTES,
    }
}

/// The same peer at the end of a long line.
fn delayed(address: &str, delay: Duration) -> String {
    let parts: Vec<_> = address.split('/').collect();
    let target = format!("{}:{}", parts[2], parts[4]);
    let line = ipfs_exec_tests::delay::line(target.parse().expect("an IP address"), delay);
    format!("/ip4/127.0.0.1/tcp/{}/p2p/{}", line.port(), parts[6])
}
