//! Finding peers that were not named: by the DHT, by routers, and on the local network.

use ipfs_exec_tests::environment::{binary, helper};
use ipfs_exec_tests::http::{Response, Server};
use ipfs_exec_tests::random::Random;
use ipfs_exec_tests::{Environment, Served, requirement};

/// Four nodes that keep a DHT, each but the first with the first as its peer.
pub(super) struct Dht {
    nodes: Vec<(Environment, Served)>,
}

impl Dht {
    pub(super) fn start() -> Dht {
        let first = Environment::new();
        let served = Served::start(&first);
        let entry = served.tcp.clone();
        let mut nodes = vec![(first, served)];
        for _ in 0..3 {
            let environment = Environment::new();
            let served = Served::with(&environment, ["--peer", &entry]);
            nodes.push((environment, served));
        }
        Dht { nodes }
    }

    pub(super) fn address(&self, node: usize) -> &str {
        &self.nodes[node].1.tcp
    }

    pub(super) fn end(self) {
        // The first last: it is the peer of the others.
        for (_, served) in self.nodes.into_iter().rev() {
            served.end();
        }
    }
}

/// Waits until the DHT was told of `cid`: `provide` returns when it was.
fn await_provided(environment: &Environment, cid: &str) {
    environment.ipfs_exec(["provide", cid]).succeeds();
}

#[test]
fn content_is_found_through_a_dht_without_its_address() {
    let dht = Dht::start();
    let giver = Environment::new();
    giver.write("file", Random::new(50).bytes(3_000_000));
    let cid = giver.add("file");
    let served = Served::with(&giver, ["--peer", dht.address(0)]);
    await_provided(&giver, &cid);
    let taker = Environment::new();
    taker
        .ipfs_exec(["fetch", "--peer", dht.address(3), &cid])
        .succeeds();
    // The peer may be one that enters a DHT and no more.
    let other = Environment::new();
    other.configure(&format!(
        "mdns = false\nbootstrap = ['{}']\n",
        dht.address(2)
    ));
    assert!(other.cat(&cid) == std::fs::read(giver.file("file")).unwrap());
    served.end();
    dht.end();
}

/// What is pinned is announced without having been asked for, also when it comes later.
#[test]
fn a_serving_node_announces_its_pins() {
    let dht = Dht::start();
    for strategy in ["roots", "pinned", "all"] {
        let giver = Environment::new();
        let served = Served::with(&giver, ["--provide", strategy, "--peer", dht.address(0)]);
        giver.write("file", format!("announced by {strategy}"));
        let cid = giver.add("file");
        let taker = Environment::new();
        let mut tries = 0;
        // It is looked for new content every other second.
        loop {
            let fetched = taker
                .ipfs_exec(["fetch", "--peer", dht.address(1), &cid])
                .run();
            if fetched.code == Some(0) {
                break;
            }
            assert!(tries < 40, "{strategy}: {fetched:?}");
            tries += 1;
        }
        served.end();
    }
    dht.end();
}

#[test]
fn an_announcement_without_peers_is_reported() {
    let giver = Environment::new();
    let mut served = Served::with(&giver, ["--provide", "all"]);
    served.running.wait_for("name one with `--peer`");
    drop(served);
    // Nothing is said where nothing was asked for.
    Served::start(&giver).end();
}

#[test]
fn content_that_is_to_be_provided_by_a_process_without_a_server_is_announced_once() {
    let dht = Dht::start();
    let giver = Environment::new();
    giver.configure("mdns = false\n[serve]\nlisten = ['/ip4/127.0.0.1/tcp/0']\n");
    giver.write("file", "announced by nobody else");
    let cid = giver.add("file");
    let provided = giver
        .ipfs_exec(["provide", "--peer", dht.address(0), &cid])
        .succeeds();
    assert_eq!(provided.line(), cid);
    assert!(provided.stderr.contains("serve"), "{provided:?}");
    dht.end();
}

#[test]
fn a_router_names_providers_of_the_content() {
    let giver = Environment::new();
    giver.write("file", "found by a router");
    let cid = giver.add("file");
    let served = Served::start(&giver);
    let id = giver.ipfs_exec(["id"]).succeeds().line();
    let record = format!(
        r#"{{"Schema":"peer","ID":"{id}","Addrs":["{}"]}}"#,
        served.tcp.split("/p2p/").next().unwrap()
    );
    let lines = Server::start({
        let record = record.clone();
        move |_| Response::ok("application/x-ndjson", format!("{record}\n"))
    });
    let object = Server::start(move |_| {
        Response::ok("application/json", format!("{{\"Providers\":[{record}]}}"))
    });
    for router in [&lines, &object] {
        let taker = Environment::new();
        let read = taker.ipfs_exec(["cat", "--router", &router.url(), &cid]);
        assert_eq!(read.succeeds().stdout, b"found by a router");
        let asked = router.requests();
        assert!(asked[0].starts_with("/routing/v1/providers/b"), "{asked:?}");
    }
    served.end();
}

/// Each content may be with somebody else.
#[test]
fn every_content_is_looked_for() {
    let givers = ["first ", "second"].map(|text| {
        let giver = Environment::new();
        giver.write("file", text);
        let added = giver.ipfs_exec(["add", "-Q", "--cid-version=1", "file"]);
        let cid = added.succeeds().line();
        let served = Served::start(&giver);
        let id = giver.ipfs_exec(["id"]).succeeds().line();
        let address = served.tcp.split("/p2p/").next().unwrap();
        let record = format!(r#"{{"Schema":"peer","ID":"{id}","Addrs":["{address}"]}}"#);
        (giver, served, cid, record)
    });
    let known = givers
        .each_ref()
        .map(|(_, _, cid, record)| (cid.clone(), format!("{record}\n")));
    let router = Server::start(move |path| {
        let known = known.iter().find(|(cid, _)| path.ends_with(cid));
        let record = known.map(|(_, record)| record.clone());
        Response::ok("application/x-ndjson", record.unwrap_or_default())
    });
    let taker = Environment::new();
    let read = taker
        .ipfs_exec(["cat", "--router", &router.url()])
        .arguments(givers.each_ref().map(|(_, _, cid, _)| cid.clone()));
    assert_eq!(read.succeeds().stdout, b"first second");
    for (_giver, served, _, _) in givers {
        served.end();
    }
}

/// None of them may hold a fetch up that has another source, or make it succeed without one.
#[test]
fn bad_routers_do_no_harm() {
    let giver = Environment::new();
    giver.write("file", "had by a peer");
    let cid = giver.add("file");
    let served = Served::start(&giver);
    type Answer = fn(&str) -> Response;
    let answers: [(&str, Answer); 6] = [
        ("nobody", |_| Response::status(404)),
        ("broken", |_| Response::status(500)),
        ("HTML", |_| Response::ok("text/html", "<html>")),
        ("nonsense", |_| {
            Response::ok("application/json", "{\"Providers\": 7}")
        }),
        ("endless", |_| {
            Response::ok("application/x-ndjson", vec![b'x'; 3 << 20])
        }),
        ("in circles", |path| Response::redirect(path)),
    ];
    for (name, answer) in answers {
        let router = Server::start(answer);
        let taker = Environment::new();
        taker
            .ipfs_exec(["cat", "--router", &router.url(), &cid])
            .fails(1, &[&cid]);
        let read = taker.ipfs_exec([
            "cat",
            "--router",
            &router.url(),
            "--peer",
            &served.tcp,
            &cid,
        ]);
        assert_eq!(read.succeeds().stdout, b"had by a peer", "{name}");
    }
    served.end();
}

/// Two hosts on a network of their own. `$1` is run in the first, `$2` in the second once the first
/// has printed a line that begins with `listening`.
const TWO_HOSTS: &str = r#"
    set -e
    mount -t tmpfs none /run
    mkdir /run/netns
    ip link set lo up
    ip netns add other
    ip link add near type veth peer name far netns other
    ip addr add $NETWORK.1/24 dev near
    ip link set near up
    ip route add 224.0.0.0/4 dev near
    ip -n other addr add $NETWORK.2/24 dev far
    ip -n other link set far up
    ip -n other link set lo up
    sh -c "$1" > server.out 2> server.err &
    server=$!
    trap 'kill $server; wait $server' EXIT
    while ! grep -q "^listening on /ip4/$NETWORK" server.out; do
        kill -0 $server
        read -t 0.05 _ <> /dev/zero || :
    done
    ip netns exec other sh -c "$2"
"#;

/// Runs `server` and `client` on two hosts, as root of user and network namespaces of their own.
#[track_caller]
pub(super) fn on_two_hosts(environment: &Environment, server: &str, client: &str) -> String {
    on_two_hosts_of("10.99.0", environment, server, client)
}

/// The same, in the network of this address.
#[track_caller]
fn on_two_hosts_of(network: &str, environment: &Environment, server: &str, client: &str) -> String {
    requirement::tool("ip", "iproute2");
    let arguments = [
        "--user",
        "--map-root-user",
        "--net",
        "--mount",
        // All that is started ends with it.
        "--pid",
        "--fork",
        "--kill-child",
        "bash",
        "-c",
    ];
    let outcome = environment
        .program("unshare")
        .arguments(arguments)
        .arguments([TWO_HOSTS, "bash", server, client])
        .variable("IPFS_EXEC", binary())
        .variable("NETWORK", network)
        .variable("MDNS_FLOOD", helper(env!("CARGO_BIN_EXE_mdns_flood")))
        .variable("NAME_SERVER", helper(env!("CARGO_BIN_EXE_name_server")))
        .variable("PORT_MAPPER", helper(env!("CARGO_BIN_EXE_port_mapper")))
        .run();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.text().to_owned()
}

/// No peer is named, and no option is needed.
#[test]
fn peers_of_the_local_network_are_found() {
    let environment = Environment::new();
    environment.write("file", "found by multicast DNS");
    let cid = environment.add("file");
    environment.configure("");
    environment.directory("other");
    let client = format!("IPFS_EXEC_PATH=$PWD/other exec \"$IPFS_EXEC\" cat {cid}");
    let read = on_two_hosts(&environment, "exec \"$IPFS_EXEC\" serve", &client);
    assert_eq!(read, "found by multicast DNS");
    // Also where a peer was named that is not there, but not where that was forbidden.
    let client = format!(
        "rm -r other/*; export IPFS_EXEC_PATH=$PWD/other\n\
         \"$IPFS_EXEC\" --no-mdns cat {cid} && exit 9\n\
         exec \"$IPFS_EXEC\" cat --peer /ip4/10.99.0.77/tcp/1 {cid}"
    );
    let read = on_two_hosts(&environment, "exec \"$IPFS_EXEC\" serve", &client);
    assert_eq!(read, "found by multicast DNS");
}

/// Anybody on a network can claim to be any number of peers.
#[test]
fn thousands_of_peers_that_are_not_there_do_not_hide_one_that_is() {
    let environment = Environment::new();
    environment.write("file", "found among thousands");
    let cid = environment.add("file");
    environment.configure("");
    environment.directory("other");
    let client = |command: &str| {
        format!(
            "export IPFS_EXEC_PATH=$PWD/other\n\
             {command}"
        )
    };
    let flooded = "\"$MDNS_FLOOD\" 10.99.0.1 & exec \"$IPFS_EXEC\" serve";
    let read = on_two_hosts(
        &environment,
        flooded,
        // Where the machine is busy the flood may outlast the two seconds of one search.
        &client(&format!(
            "for attempt in 1 2 3; do \"$IPFS_EXEC\" cat {cid} && exit; done; exit 1"
        )),
    );
    assert_eq!(read, "found among thousands");
    // What nobody has is not waited for without end.
    let other = "QmeugpFaBp7aafV2uN7GC3E2GbAycnEU3c2Q3FS7mSLbo4";
    let told = on_two_hosts(
        &environment,
        flooded,
        &client(&format!(
            "\"$IPFS_EXEC\" cat --idle-timeout 4 {other} || echo ended with $?"
        )),
    );
    assert_eq!(told, "ended with 1\n");
}

/// Names stand for an address, or for peers with all their addresses.
#[test]
fn peers_are_named_by_dns() {
    let environment = Environment::new();
    environment.write("file", "had from a named host");
    let cid = environment.add("file");
    environment.configure("mdns = false\n");
    environment.directory("other");
    let id = environment.ipfs_exec(["id"]).succeeds().line();
    let server = "exec \"$IPFS_EXEC\" serve --listen /ip4/10.99.0.1/tcp/4001 \
                  --listen /ip4/10.99.0.1/udp/4001/quic-v1";
    let client = format!(
        r#"
        export IPFS_EXEC_PATH=$PWD/other
        mount -t tmpfs none /etc
        echo nameserver 10.99.0.2 > /etc/resolv.conf
        "$NAME_SERVER" 10.99.0.2 \
            host.test A 10.99.0.1 \
            _dnsaddr.peer.test TXT dnsaddr=/ip4/10.99.0.1/udp/4001/quic-v1/p2p/{id} \
            _dnsaddr.peer.test TXT nonsense \
            _dnsaddr.many.test TXT dnsaddr=/dnsaddr/peer.test/p2p/{id} \
            _dnsaddr.circle.test TXT dnsaddr=/dnsaddr/circle.test > names.out &
        while ! grep -q ready names.out; do read -t 0.05 _ <> /dev/zero || :; done
        for peer in /dns4/host.test/tcp/4001/p2p/{id} /dns/host.test/tcp/4001 \
            /dns/host.test/udp/4001/quic-v1/p2p/{id} /dnsaddr/peer.test/p2p/{id} \
            /dnsaddr/peer.test /dnsaddr/many.test/p2p/{id} \
            /dns4/nobody.test/tcp/4001 /dnsaddr/circle.test
        do
            rm -rf other/*
            echo "$peer: $("$IPFS_EXEC" --no-mdns cat --peer $peer {cid} 2> error)"
            cat error
        done
        "#
    );
    let said = on_two_hosts(&environment, server, &client);
    println!("{said}");
    for peer in [
        &format!("/dns4/host.test/tcp/4001/p2p/{id}"),
        "/dns/host.test/tcp/4001",
        &format!("/dns/host.test/udp/4001/quic-v1/p2p/{id}"),
        &format!("/dnsaddr/peer.test/p2p/{id}"),
        "/dnsaddr/peer.test",
        &format!("/dnsaddr/many.test/p2p/{id}"),
    ] {
        let read = format!("{peer}: had from a named host\n");
        assert!(said.contains(&read), "{peer} is missing in {said}");
    }
    let (_, failures) = said.split_once("/dns4/nobody.test/tcp/4001: \n").unwrap();
    for text in [
        "nobody.test",
        "see that the name is right",
        "circle.test: \n",
    ] {
        assert!(failures.contains(text), "{text} is missing in {failures}");
    }
}

/// A router that maps ports is asked to, and says where others reach the node.
#[test]
fn ports_are_mapped_by_a_router() {
    let environment = Environment::new();
    environment.configure("mdns = false\n");
    let server = r#"
        ip netns exec other "$PORT_MAPPER" 10.99.0.2 > mapper.out &
        while ! grep -q ready mapper.out; do read -t 0.05 _ <> /dev/zero || :; done
        exec "$IPFS_EXEC" serve --listen /ip4/10.99.0.1/tcp/4001 --listen /ip4/10.99.0.1/udp/4001/quic-v1
    "#;
    let client = r#"
        until [ "$(grep -c '^reachable at' server.out)" = 2 ]; do read -t 0.05 _ <> /dev/zero || :; done
        cat mapper.out server.out
    "#;
    let said = on_two_hosts(&environment, server, client);
    let id = environment.ipfs_exec(["id"]).succeeds().line();
    for line in [
        "mapped TCP 4001 to 10.99.0.1:4001".to_owned(),
        "mapped UDP 4001 to 10.99.0.1:4001".to_owned(),
        format!("reachable at /ip4/1.2.3.4/tcp/4001/p2p/{id}"),
        format!("reachable at /ip4/1.2.3.4/udp/4001/quic-v1/p2p/{id}"),
    ] {
        assert!(said.lines().any(|said| said == line), "{line}\n{said}");
    }
}

/// The network is cut for a while in the middle of a fetch.
#[test]
fn a_fetch_outlives_a_partition_that_heals() {
    let environment = Environment::new();
    environment.write("file", Random::new(51).bytes(40 << 20));
    let cid = environment.add("file");
    environment.directory("other");
    let client = format!(
        r#"
        export IPFS_EXEC_PATH=$PWD/other
        peer=$(sed -n 's/listening on //p' server.out | grep 10.99 | head -n 1)
        "$IPFS_EXEC" fetch --no-mdns --peer $peer {cid} > /dev/null &
        fetch=$!
        while [ $(du -sk other | cut -f 1) -lt 4000 ]; do
            kill -0 $fetch
            read -t 0.05 _ <> /dev/zero || :
        done
        kill -0 $fetch
        ip link set far down
        read -t 3 _ <> /dev/zero || :
        ip link set far up
        wait $fetch
        "$IPFS_EXEC" cat --offline {cid} | cmp - file && echo whole
        "#
    );
    requirement::tool("tc", "iproute2");
    let told = on_two_hosts(
        &environment,
        "tc qdisc add dev near root tbf rate 100mbit burst 256kb latency 50ms && \
         exec \"$IPFS_EXEC\" serve",
        &format!("exec bash -c '{}'", client.replace('\'', "'\\''")),
    );
    assert_eq!(told, "whole\n");
}

/// A peer calls back (AutoNAT), which it does at public addresses alone.
#[test]
fn a_serving_node_learns_that_it_is_reachable() {
    let environment = Environment::new();
    environment.directory("other");
    let client = r#"
        peer=$(sed -n 's/listening on //p' server.out | grep 45.99 | head -n 1)
        IPFS_EXEC_PATH=$PWD/other IPFS_EXEC_LOG=info "$IPFS_EXEC" serve --no-mdns --peer $peer > /dev/null 2> log &
        client=$!
        while ! grep -q 'others can reach this node.*/ip4/45.99.0.2/' log; do
            kill -0 $client || exit 9
            read -t 0.1 _ <> /dev/zero || :
        done
        kill $client
        wait $client || :
        echo reached
    "#;
    let told = on_two_hosts_of(
        "45.99.0",
        &environment,
        "exec \"$IPFS_EXEC\" serve --no-mdns",
        &format!("exec bash -c '{}'", client.replace('\'', "'\\''")),
    );
    assert_eq!(told, "reached\n");
}
