//! `run --serve`, `provide` and `peers`: the commands of a node that gives content to others.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipfs_exec_tests::dag::unknown_cid;
use ipfs_exec_tests::environment::binary;
use ipfs_exec_tests::{Environment, Served};
use rustix::process::Signal;

use crate::machine::{EMPTY, Machine};

/// What `run --serve` prints to stderr when it listens.
const LISTENING: &str = "listening on /ip4/127.0.0.1/tcp/";

fn listening(stderr: &str) -> String {
    let line = stderr.lines().find(|line| line.starts_with(LISTENING));
    line.unwrap().trim_start_matches("listening on ").to_owned()
}

/// No file passes from one to the other but through bitswap.
#[test]
fn a_result_is_the_input_of_the_next_computation_elsewhere() {
    let first = Machine::new();
    let script = "for word in c a b; do echo $word; done > /output/words";
    let run = first.run(["sh", "-c", script]);
    let output = run.succeeds().line();
    let served = Served::start(&first.environment);
    let second = Environment::new();
    let outcome = second
        .ipfs_exec(["run", "--peer", &served.tcp, &first.rootfs, &output])
        .arguments(["sh", "-c", "sort /input/words > /output/sorted"])
        .succeeds();
    let sorted = format!("{}/sorted", outcome.line());
    assert_eq!(second.cat(&sorted), b"a\nb\nc\n");
    second.assert_clean();
    served.end();
}

/// An example of few lines, on the libraries alone.
#[test]
fn an_embedder_computes_on_content_of_a_peer() {
    let first = Machine::new();
    let script = "for word in c a b; do echo $word; done > /output/words";
    let output = first.run(["sh", "-c", script]).succeeds().line();
    let served = Served::start(&first.environment);
    let second = Environment::new();
    let mut embedder = Command::new(binary().with_file_name("compute"))
        .arg(second.repository())
        .args([&served.tcp, &first.rootfs, &output])
        .args(["sh", "-c", "sort /input/words > /output/sorted"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(embedder.stdout.take().unwrap()).lines();
    let [address, cid] = [(); 2].map(|()| lines.next().unwrap().unwrap());
    let third = Environment::new();
    let sorted = format!("{cid}/sorted");
    let cat = third.ipfs_exec(["cat", "--peer", &address, &sorted]);
    assert_eq!(cat.succeeds().stdout, b"a\nb\nc\n");
    drop(embedder.stdin.take());
    assert!(embedder.wait().unwrap().success());
    served.end();
}

#[test]
fn a_run_serves_its_result_until_it_was_taken() {
    let machine = Machine::new();
    let listen = ["--listen", "/ip4/127.0.0.1/tcp/0"];
    let mut running = machine
        .environment
        .ipfs_exec(["run", "--serve=until=2"])
        .arguments(listen)
        .arguments([&machine.rootfs, EMPTY])
        .arguments(["sh", "-c", "head -c 3000000 /dev/zero > /output/zeros"])
        .start();
    running.wait_for(LISTENING);
    let output = running.wait_for_line("Qm");
    let output = format!("Qm{output}");
    let address = listening(&running.stderr());
    for _ in 0..2 {
        // A part is not enough.
        let part = format!("{output}/zeros");
        Environment::new()
            .ipfs_exec(["cat", "--length=10", "--peer", &address, &part])
            .succeeds();
        Environment::new()
            .ipfs_exec(["fetch", "--peer", &address, &output])
            .succeeds();
    }
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    machine.environment.assert_clean();
}

#[test]
fn a_run_serves_for_a_time_and_keeps_the_code_of_its_program() {
    let machine = Machine::new();
    let outcome = machine
        .environment
        .ipfs_exec(["run", "--serve=200ms", "--listen=/ip4/127.0.0.1/tcp/0"])
        .arguments([&machine.rootfs, EMPTY])
        .arguments(["sh", "-c", "exit 3"])
        .ends_with(3);
    assert_eq!(outcome.line(), EMPTY);
    let usage = ["run", "--serve=sometime", &machine.rootfs, EMPTY, "true"];
    machine.environment.ipfs_exec(usage).ends_with(125);
}

/// While another process serves as the repository's peer, a run serves as one that passes.
#[test]
fn a_run_can_serve_beside_a_process_that_serves() {
    let machine = Machine::new();
    let served = Served::start(&machine.environment);
    machine
        .environment
        .ipfs_exec(["run", "--serve=100ms", "--listen=/ip4/127.0.0.1/tcp/0"])
        .arguments([&machine.rootfs, EMPTY, "true"])
        .succeeds();
    served.end();
}

#[test]
fn peers_are_listed_with_agent_and_protocols() {
    let giver = Environment::new();
    let served = Served::start(&giver);
    let id = giver.ipfs_exec(["id"]).succeeds().line();
    let looker = Environment::new();
    for address in [&served.tcp, &served.quic] {
        let shown = looker.ipfs_exec(["peers", "--peer", address]).succeeds();
        let line = shown.line();
        let words: Vec<_> = line.split(' ').collect();
        assert_eq!((words[0], words[3]), (&*id, &**address), "{line}");
        assert!(words[1].ends_with("ms"), "{line}");
        assert!(words[2].starts_with("ipfs-exec/"), "{line}");
    }
    let json = looker
        .ipfs_exec(["peers", "--json", "--peer", &served.tcp])
        .succeeds()
        .json();
    let protocols = json[0]["protocols"].as_array().unwrap();
    assert!(
        protocols.contains(&"/ipfs/bitswap/1.2.0".into()),
        "{json:?}"
    );
    let address = served.tcp.clone();
    served.end();
    let gone = looker.ipfs_exec(["peers", "--peer", &address]).ends_with(1);
    assert!(gone.stderr.contains("Connection refused"), "{gone:?}");
    looker.ipfs_exec(["peers"]).fails(1, &["no peer was named"]);
}

#[test]
fn unprovidable_content_is_refused() {
    let environment = Environment::new();
    let cid = unknown_cid("what is to be provided").to_string();
    environment
        .ipfs_exec(["provide", &cid])
        .fails(1, &[&cid, "is not in the repository"]);
    environment.write("file", "content");
    let cid = environment.add("file");
    environment
        .ipfs_exec(["provide", "--idle-timeout=1", &cid])
        .fails(1, &["no DHT"]);
    // The process that serves knows no DHT either.
    let served = Served::start(&environment);
    environment
        .ipfs_exec(["provide", "--idle-timeout=3", &cid])
        .fails(1, &["has not told any DHT"]);
    environment
        .ipfs_exec(["provide", "--stop", &cid])
        .succeeds();
    served.end();
}

/// A signal that comes while nothing happens ends it at once and cleanly.
#[test]
fn serving_ends_by_a_signal() {
    let environment = Environment::new();
    for signal in [Signal::INT, Signal::TERM] {
        let served = Served::start(&environment);
        served.running.signal(signal);
        let outcome = served.running.wait();
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
}

/// Connections that say nothing, from the address of the honest peer too.
#[test]
fn idle_connections_do_not_keep_peers_out() {
    let giver = Environment::new();
    giver.write("file", "content");
    let cid = giver.add("file");
    for count in [64, 500] {
        let served = Served::start(&giver);
        let mut parts = served.tcp.split('/').skip(4);
        let port = parts.next().unwrap().parse::<u16>().unwrap();
        let _idle: Vec<_> = (0..count)
            .map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap())
            .collect();
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let fetched = Environment::new()
                .ipfs_exec(["fetch", "--peer", &served.tcp, &cid])
                .run();
            if fetched.code == Some(0) {
                break;
            }
            assert!(Instant::now() < deadline, "{count}: {fetched:?}");
        }
        served.end();
    }
}
