//! Private networks: a node with a key in its repository speaks only with peers that have the same key.

use std::fs;

use ipfs_exec_tests::{Environment, Served};

const KEY: &str = "/key/swarm/psk/1.0.0/\n/base16/\n\
                   000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";

fn put_key(environment: &Environment, key: &str) {
    fs::write(environment.repository().join("swarm.key"), key).unwrap();
}

/// Serves over TCP: a private network has no QUIC.
fn serve(environment: &Environment) -> (ipfs_exec_tests::Running, String) {
    let mut running = environment
        .ipfs_exec(["serve", "--listen", "/ip4/127.0.0.1/tcp/0"])
        .start();
    let rest = running.wait_for_line("listening on ");
    (running, rest)
}

#[test]
fn content_stays_within_a_private_network() {
    let giver = Environment::new();
    giver.write("file", "for members alone");
    let cid = giver.add("file");
    put_key(&giver, KEY);
    let (_running, address) = serve(&giver);
    let read = |taker: &Environment| {
        taker.ipfs_exec(["cat", "--idle-timeout=5", "--peer", &address, &cid])
    };
    let member = Environment::new();
    put_key(&member, KEY);
    assert_eq!(read(&member).succeeds().stdout, b"for members alone");
    let stranger = Environment::new();
    read(&stranger).fails(1, &[&cid]);
    put_key(&stranger, &KEY.replace("1e1f", "1e1e"));
    read(&stranger).fails(1, &[&cid]);
}

#[test]
fn members_do_not_speak_with_the_public() {
    let giver = Environment::new();
    giver.write("file", "for everybody");
    let cid = giver.add("file");
    let served = Served::start(&giver);
    let member = Environment::new();
    put_key(&member, KEY);
    for address in [&served.tcp, &served.quic] {
        member
            .ipfs_exec(["cat", "--idle-timeout=3", "--peer", address, &cid])
            .fails(1, &[&cid]);
    }
    member
        .ipfs_exec(["cat", "--gateway", "http://127.0.0.1:1", &cid])
        .fails(1, &["private network"]);
    put_key(&member, "no key");
    member
        .ipfs_exec(["cat", "--peer", &served.tcp, &cid])
        .fails(1, &["swarm.key"]);
    served.end();
}
