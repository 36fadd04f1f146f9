//! Trustless gateways as sources, good and bad.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cid::Cid;
use ipfs_exec_tests::dag::{Blocks, Link};
use ipfs_exec_tests::gateway::{answer, honest, parse};
use ipfs_exec_tests::http::{Response, Server};
use ipfs_exec_tests::{Environment, Served};

/// A directory with a file of several blocks, children before their parents.
fn content() -> (Blocks, Cid) {
    let mut blocks = Blocks::new();
    let mut chunks = Vec::new();
    // The order of a CAR is the reverse of that in which they were made.
    for number in (0..40_u8).rev() {
        chunks.push(blocks.raw(vec![number; 10_000]));
    }
    chunks.reverse();
    let file = blocks.file_of(&chunks, &[10_000; 40], 400_000);
    let root = blocks.directory(&[Link::new("file", file, 400_000)]);
    (blocks, root)
}

fn expected() -> Vec<u8> {
    (0..40_u8).flat_map(|number| vec![number; 10_000]).collect()
}

#[test]
fn a_gateway_gives_a_dag_in_one_answer_and_a_part_block_by_block() {
    let (blocks, root) = content();
    let gateway = honest(blocks, root);
    let root = root.to_string();
    let taker = Environment::new();
    taker
        .ipfs_exec(["fetch", "--gateway", &gateway.url(), &root])
        .succeeds();
    let requests = gateway.requests();
    assert_eq!(requests, [format!("/ipfs/{root}?format=car")]);
    assert!(taker.cat(&format!("{root}/file")) == expected());
    taker.assert_clean();

    let other = Environment::new();
    let part = format!("{root}/file");
    let read = other
        .ipfs_exec(["cat", "--gateway", &gateway.url()])
        .arguments(["--offset=25000", "--length=10", &part])
        .succeeds();
    assert_eq!(read.stdout, [2; 10]);
    let later = &gateway.requests()[1..];
    assert_eq!(later.len(), 3, "{later:?}");
    assert!(later.iter().all(|path| path.ends_with("?format=raw")));
}

/// What a stream does not bring is asked for block by block.
#[test]
fn a_stream_that_breaks_off_costs_nothing_but_time() {
    let (blocks, root) = content();
    let whole = blocks.car(&[root]).len();
    let gateway = Server::start(move |path| {
        let mut response = answer(&blocks, &root, path);
        if path.ends_with("car") {
            response.body.truncate(whole / 2);
        }
        response
    });
    let taker = Environment::new();
    let root = root.to_string();
    taker
        .ipfs_exec(["fetch", "--gateway", &gateway.url(), &root])
        .succeeds();
    assert!(taker.cat(&format!("{root}/file")) == expected());
    let requests = gateway.requests();
    assert!((10..=25).contains(&requests.len()), "{}", requests.len());
}

/// With a peer that has it, a gateway is asked for nothing.
#[test]
fn peers_come_first_and_gateways_fill_gaps() {
    let (blocks, root) = content();
    let giver = Environment::new();
    let mut partial = blocks.clone();
    let missing = Blocks::new().raw(vec![7; 10_000]);
    partial.forget(&missing);
    let gateway = honest(blocks, root);
    giver.write("partial.car", partial.car(&[root]));
    giver
        .ipfs_exec(["import", "--pin-roots=false", "partial.car"])
        .succeeds();
    let served = Served::start(&giver);
    let taker = Environment::new();
    let root = root.to_string();
    taker
        .ipfs_exec(["fetch", "--peer", &served.tcp, "--gateway", &gateway.url()])
        .argument(&root)
        .succeeds();
    assert_eq!(gateway.requests(), [format!("/ipfs/{missing}?format=raw")]);
    taker.assert_clean();
    served.end();
}

/// Each alone is refused with its reason, and none hinders another source.
#[test]
fn bad_gateways_are_told_apart_and_passed_over() {
    type Answer = fn(&Blocks, &Cid, &str) -> Response;
    let answers: [(&str, &str, Answer); 7] = [
        (
            "another block",
            "wrong bytes",
            |blocks, root, path| match parse(path) {
                Some((_, "raw")) => {
                    Response::ok("application/vnd.ipld.raw", blocks.get(root).unwrap())
                }
                _ => Response::status(404),
            },
        ),
        ("another CAR", "404", |_, _, path| match parse(path) {
            Some((cid, "car")) => Response::ok("application/vnd.ipld.car; version=1", {
                let mut others = Blocks::new();
                others.raw("something else");
                others.car(&[cid])
            }),
            _ => Response::status(404),
        }),
        ("HTML", "text/html", |_, _, _| {
            Response::ok("text/html", "<html>Please log in</html>")
        }),
        ("too much", "more than", |_, _, _| {
            Response::ok("application/vnd.ipld.raw", vec![0; 3 << 20])
        }),
        ("in circles", "redirected more than", |_, _, path| {
            Response::redirect(path)
        }),
        ("broken", "500", |_, _, _| Response::status(500)),
        ("nothing", "404", |_, _, _| Response::status(404)),
    ];
    for (name, reason, bad) in answers {
        let (blocks, root) = content();
        let text = root.to_string();
        let good = honest(blocks.clone(), root);
        let gateway = Server::start(move |path| {
            let (cid, _) = parse(path).unwrap();
            // The root is honest, so that what is below it is asked for as well.
            match parse(path) {
                Some((_, "raw")) if cid == root => answer(&blocks, &root, path),
                _ => bad(&blocks, &root, path),
            }
        });
        let taker = Environment::new();
        let fetch = |gateways: &[&str]| {
            let named = gateways.iter().flat_map(|url| ["--gateway", url]);
            taker.ipfs_exec(["fetch"]).arguments(named).argument(&text)
        };
        let refused = fetch(&[&gateway.url()]).ends_with(1);
        assert!(refused.stderr.contains(reason), "{name}: {refused:?}");
        assert!(refused.stdout.is_empty(), "{name}: {refused:?}");
        fetch(&[&gateway.url(), &good.url()]).succeeds();
        taker.assert_clean();
    }
}

/// However steadily it answers.
#[test]
fn a_gateway_that_comes_to_no_end_is_passed_over() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endless = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || trickle(stream.unwrap()));
        }
    });
    let mut blocks = Blocks::new();
    let cid = blocks.raw("a block");
    let gateway = honest(blocks, cid);
    let taker = Environment::new();
    let read = taker.ipfs_exec(["cat", "--gateway", &endless, "--gateway", &gateway.url()]);
    let read = read.arguments(["--offset=2", "--length=3", &cid.to_string()]);
    assert_eq!(read.succeeds().stdout, b"blo");
}

/// A block that takes eighteen seconds, but comes steadily.
#[test]
fn a_slow_gateway_is_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let slow = format!("http://{}", listener.local_addr().unwrap());
    let mut blocks = Blocks::new();
    let content = vec![7; 180 << 10];
    let cid = blocks.raw(content.clone());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        requested_path(&stream);
        let length = format!("content-length: {}\r\n", content.len());
        stream.write_all(head("raw", &length).as_bytes()).unwrap();
        for part in content.chunks(5 << 10) {
            std::thread::sleep(Duration::from_millis(500));
            stream.write_all(part).unwrap();
        }
    });
    let taker = Environment::new();
    let read = taker.ipfs_exec(["cat", "--gateway", &slow, "--offset=2", "--length=3"]);
    let read = read.argument(cid.to_string()).succeeds();
    assert_eq!(read.stdout, [7; 3]);
}

/// What is missing is asked for one by one, or of the next gateway.
#[test]
fn a_stream_of_other_blocks_is_left() {
    let (blocks, root) = content();
    let text = root.to_string();
    for (name, block_bytes, pause) in [
        ("a flood", 1 << 20, Duration::ZERO),
        ("a drip", 100, Duration::from_millis(100)),
    ] {
        let endless = streaming_others(blocks.clone(), root, block_bytes, pause);
        let fetch = ["fetch", "--idle-timeout=12", "--gateway", &endless];
        let taker = Environment::new();
        let fetched = taker.ipfs_exec(fetch).argument(&text).succeeds();
        let warning = format!("{endless}/ipfs/{root}?format=car");
        assert!(fetched.stderr.contains(&warning), "{name}: {fetched:?}");
        assert_eq!(taker.statistic("blocks"), 42, "{name}");

        let good = honest(blocks.clone(), root);
        let other = Environment::new();
        let fetch = other.ipfs_exec(fetch).arguments(["--gateway", &good.url()]);
        fetch.argument(&text).succeeds();
        let asked = good.requests();
        assert_eq!(asked, [format!("/ipfs/{root}?format=car")], "{name}");
    }
}

/// A gateway that gives `blocks` one by one, and in place of any DAG a stream of other blocks that
/// does not end.
fn streaming_others(blocks: Blocks, root: Cid, block_bytes: usize, pause: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let blocks = blocks.clone();
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let path = requested_path(&stream);
                let written = match parse(&path) {
                    Some((cid, "raw")) => {
                        let block = blocks.get(&cid).unwrap();
                        let head = head("raw", &format!("content-length: {}\r\n", block.len()));
                        stream.write_all(&[head.as_bytes(), block].concat())
                    }
                    _ => stream_others(&mut stream, root, block_bytes, pause),
                };
                // Whoever has what he wants goes away.
                drop(written);
            });
        }
    });
    url
}

/// Waits for a request, and gives its path.
fn requested_path(stream: &TcpStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.split(' ').nth(1).unwrap().to_owned()
}

fn head(format: &str, length: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/vnd.ipld.{format}\r\n\
         connection: close\r\n{length}\r\n"
    )
}

fn stream_others(
    stream: &mut TcpStream,
    root: Cid,
    block_bytes: usize,
    pause: Duration,
) -> io::Result<()> {
    let start = Blocks::new().car(&[root]);
    stream.write_all(head("car", "").as_bytes())?;
    stream.write_all(&start)?;
    for number in 0_u64.. {
        let mut others = Blocks::new();
        let number = number.to_le_bytes();
        others.raw(number.repeat(block_bytes / number.len()));
        stream.write_all(&others.car(&[root])[start.len()..])?;
        std::thread::sleep(pause);
    }
    Ok(())
}

/// Answers with a block that is one byte longer again and again.
fn trickle(mut stream: TcpStream) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/vnd.ipld.raw\r\n\
                content-length: 1000000\r\n\r\n";
    let mut written = stream.write_all(head.as_bytes());
    while written.is_ok() {
        std::thread::sleep(Duration::from_millis(200));
        written = stream.write_all(b"x");
    }
}

/// Nothing that it sends beside what was asked for is kept.
#[test]
fn unrequested_blocks_are_dropped() {
    let (mut blocks, root) = content();
    for number in 0..50 {
        blocks.raw(format!("a present, number {number}"));
    }
    let gateway = honest(blocks, root);
    let taker = Environment::new();
    taker
        .ipfs_exec(["fetch", "--gateway", &gateway.url(), &root.to_string()])
        .succeeds();
    assert_eq!(taker.statistic("blocks"), 42);
}

#[test]
fn gateways_come_from_the_configuration_and_failures_of_one_are_taken_by_the_next() {
    let (blocks, root) = content();
    let flaky = AtomicUsize::new(0);
    let gateway = {
        let blocks = blocks.clone();
        Server::start(
            move |path| match flaky.fetch_add(1, Ordering::Relaxed) % 3 {
                0 => Response::status(503),
                _ => answer(&blocks, &root, path),
            },
        )
    };
    let good = honest(blocks, root);
    let taker = Environment::new();
    taker.configure(&format!(
        "mdns = false\ngateways = ['{}', '{}']\n",
        gateway.url(),
        good.url()
    ));
    let root = root.to_string();
    assert!(taker.cat(&format!("{root}/file")) == expected());
    for text in ["gateways = ['nonsense']", "gatways = []"] {
        taker.configure(text);
        taker
            .ipfs_exec(["cat", &root])
            .fails(1, &["config.toml", "line 1"]);
    }
}
