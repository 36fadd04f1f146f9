//! Mutable names among peers: the DHT, routers and gateways, and the DNS.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ipfs_exec_tests::http::{Response, Server};
use ipfs_exec_tests::{Environment, Served};

use super::discovery::{Dht, on_two_hosts};

const RECORD: &str = "application/vnd.ipfs.ipns-record";

/// An environment with a key `site`, and the name of the key.
pub(super) fn publisher() -> (Environment, String) {
    let environment = Environment::new();
    let name = environment
        .ipfs_exec(["key", "gen", "site"])
        .succeeds()
        .line();
    (environment, name)
}

#[test]
fn a_name_is_published_and_resolved_through_a_dht() {
    let dht = Dht::start();
    let (ours, name) = publisher();
    let publish = |path: &str, peer: &str| {
        let published = ours.ipfs_exec(["name", "publish", "--key", "site", "--peer", peer, path]);
        assert_eq!(published.succeeds().line(), name);
    };
    publish("/ipfs/bafkqaaa", dht.address(1));
    let taker = Environment::new();
    let resolve = |options: &[&str]| {
        let resolved = taker
            .ipfs_exec(["name", "resolve", &name])
            .arguments(options);
        resolved.succeeds().line()
    };
    let peer = ["--peer", dht.address(3)];
    assert_eq!(resolve(&peer), "/ipfs/bafkqaaa");
    publish("/ipfs/bafkqaddwgevxmmraojswg33smq", dht.address(2));
    // The record that is here is used until its time to live is over, also without a network.
    assert_eq!(resolve(&["--offline"]), "/ipfs/bafkqaaa");
    assert_eq!(
        resolve(&["-n", peer[0], peer[1]]),
        "/ipfs/bafkqaddwgevxmmraojswg33smq"
    );
    assert_eq!(resolve(&["--offline"]), "/ipfs/bafkqaddwgevxmmraojswg33smq");
    // Another repository with the key goes on from the highest sequence number.
    let other = Environment::new();
    let key = ours
        .ipfs_exec(["key", "export", "site", "-o", "-"])
        .succeeds()
        .stdout;
    other
        .ipfs_exec(["key", "import", "site", "-"])
        .input(key)
        .succeeds();
    other
        .ipfs_exec([
            "name",
            "publish",
            "--key",
            "site",
            "--peer",
            peer[1],
            "/ipfs/bafkqaaa",
        ])
        .succeeds();
    assert_eq!(resolve(&["-n", peer[0], peer[1]]), "/ipfs/bafkqaaa");
    let unknown = "k51qzi5uqu5dk3v4rmjber23h16xnr23bsggmqqil9z2gduiis5se8dht36dam";
    taker
        .ipfs_exec(["name", "resolve", "--peer", peer[1], unknown])
        .fails(1, &["no DHT peer, router or gateway has a record of it"]);
    dht.end();
}

/// `serve` gives out what was published without a network, before and while it runs.
#[test]
fn serve_publishes_the_names_of_its_repository() {
    let dht = Dht::start();
    let (ours, name) = publisher();
    let publish = |path: &str| {
        ours.ipfs_exec([
            "name",
            "publish",
            "--offline",
            "--allow-offline",
            "--key",
            "site",
            path,
        ])
        .succeeds();
    };
    publish("/ipfs/bafkqaaa");
    let served = Served::with(&ours, ["--peer", dht.address(0)]);
    let resolves_to = |wanted: &str| {
        let started = Instant::now();
        loop {
            // It is looked for new records every other second.
            let taker = Environment::new();
            let outcome = taker
                .ipfs_exec(["name", "resolve", "--peer", dht.address(2), &name])
                .run();
            if outcome.code == Some(0) && outcome.line() == wanted {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "{outcome:?}");
        }
    };
    resolves_to("/ipfs/bafkqaaa");
    publish("/ipfs/bafkqaddwgevxmmraojswg33smq");
    resolves_to("/ipfs/bafkqaddwgevxmmraojswg33smq");
    served.end();
    dht.end();
}

#[test]
fn routers_take_and_give_records_and_gateways_give_them() {
    let kept: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
    let (ours, name) = publisher();
    let (shelf, path) = (Arc::clone(&kept), format!("/routing/v1/ipns/{name}"));
    let router = Server::answering(move |request| {
        let mut shelf = shelf.lock().unwrap();
        match &request.method[..] {
            "PUT" if request.path == path => {
                *shelf = Some(request.body.clone());
                Response::status(200)
            }
            "GET" if request.path == path => match &*shelf {
                Some(record) => Response::ok(RECORD, record.clone()),
                None => Response::status(404),
            },
            _ => Response::status(404),
        }
    });
    let published = ours.ipfs_exec(["name", "publish", "--key", "site", "bafkqaaa", "--router"]);
    assert_eq!(published.argument(router.url()).succeeds().line(), name);
    let record = kept.lock().unwrap().clone().unwrap();
    assert_eq!(
        ours.ipfs_exec(["name", "get", "--offline", &name])
            .succeeds()
            .stdout,
        record
    );
    let path = format!("/ipns/{name}?format=ipns-record");
    let gateway = Server::start(move |asked| match asked == path {
        true => Response::ok(RECORD, record.clone()),
        false => Response::status(404),
    });
    for (option, url) in [("--router", router.url()), ("--gateway", gateway.url())] {
        let taker = Environment::new();
        let resolved = taker.ipfs_exec(["name", "resolve", &name, option, &url]);
        assert_eq!(resolved.succeeds().line(), "/ipfs/bafkqaaa", "{option}");
    }
    // Servers that answer with something else.
    let bad = Server::start(|_| Response::ok(RECORD, vec![7; 20_000]));
    let other = Server::start(|_| Response::ok("text/html", "hello"));
    let broken = Server::start(|_| Response::ok(RECORD, "hello"));
    for (server, words) in [
        (&bad, "more than 10240 bytes"),
        (&other, "text/html"),
        (&broken, "expired, malformed or signed by another key"),
    ] {
        let taker = Environment::new();
        let failed = taker
            .ipfs_exec(["name", "resolve", &name, "--router", &server.url()])
            .fails(1, &["cannot resolve"]);
        assert!(failed.stderr.contains(words), "{failed:?}");
        ours.ipfs_exec(["name", "resolve", "-n", &name, "--router", &server.url()])
            .succeeds();
    }
    let refusing = Server::start(|_| Response::status(500));
    ours.ipfs_exec([
        "name",
        "publish",
        "--key",
        "site",
        "bafkqaaa",
        "--router",
        &refusing.url(),
    ])
    .fails(1, &["is kept, but"]);
}

#[test]
fn domains_stand_for_content() {
    let environment = Environment::new();
    environment.write("tree/file", "named by a domain");
    let tree = environment.add("tree");
    environment.ipfs_exec(["key", "gen", "site"]).succeeds();
    let name = environment
        .ipfs_exec([
            "name",
            "publish",
            "--offline",
            "--allow-offline",
            "--key",
            "site",
            &tree,
        ])
        .succeeds()
        .line();
    let long = format!(
        "dnslink=/ipfs/{tree}/{}",
        vec!["x".repeat(200); 2].join("/")
    );
    let client = format!(
        r#"
        echo "nameserver 127.0.0.1" > resolv.conf
        mount --bind resolv.conf /etc/resolv.conf
        "$NAME_SERVER" 127.0.0.1 \
            _dnslink.site.test TXT dnslink=/ipfs/{tree} _dnslink.site.test TXT nonsense \
            plain.test TXT dnslink=/ipns/site.test _dnslink.key.test TXT dnslink=/ipns/{name} \
            _dnslink.two.test TXT dnslink=/ipfs/bafkqaaa _dnslink.two.test TXT dnslink=/ipfs/{tree} \
            _dnslink.circle.test TXT dnslink=/ipns/circle.test \
            _dnslink.bad.test TXT dnslink=/ipfs/nonsense nothing.test A 10.0.0.1 \
            _dnslink.long.test TXT {long} > names.out &
        while ! grep -q ready names.out; do read -t 0.05 _ <> /dev/zero || :; done
        for name in site.test plain.test key.test SITE.test. two.test circle.test bad.test nothing.test \
            nobody.test long.test
        do
            echo "$name: $("$IPFS_EXEC" --no-mdns name resolve $name 2>&1)"
        done
        echo "cat: $("$IPFS_EXEC" --no-mdns cat /ipns/plain.test/file)"
        echo "mine: $("$IPFS_EXEC" --no-mdns cat ipns://key.test/file)"
        echo "offline: $("$IPFS_EXEC" --offline cat /ipns/site.test/file 2>&1)"
        "#
    );
    environment.configure("mdns = false\n");
    let said = on_two_hosts(
        &environment,
        "exec \"$IPFS_EXEC\" serve --listen /ip4/10.99.0.1/tcp/4001",
        &client,
    );
    for line in [
        format!("site.test: /ipfs/{tree}\n"),
        format!("plain.test: /ipfs/{tree}\n"),
        format!("key.test: /ipfs/{tree}\n"),
        format!("SITE.test.: /ipfs/{tree}\n"),
        format!("has two different DNSLink records: /ipfs/bafkqaaa and /ipfs/{tree}"),
        "circle.test: it leads back to itself".to_owned(),
        "the TXT record `dnslink=/ipfs/nonsense` of _dnslink.bad.test holds no content path"
            .to_owned(),
        "nothing.test: the domain has no DNSLink record".to_owned(),
        "nobody.test: the domain has no DNSLink record".to_owned(),
        format!("long.test: {}\n", &long["dnslink=".len()..]),
        "cat: named by a domain\n".to_owned(),
        "mine: named by a domain\n".to_owned(),
        "offline: error: cannot resolve /ipns/site.test".to_owned(),
    ] {
        assert!(said.contains(&line), "{line} is missing in {said}");
    }
}
