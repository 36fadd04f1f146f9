//! A process that serves the repository of a test.

use crate::invocation::Running;
use crate::{Environment, Invocation};

/// A process that serves a repository on loopback, and its addresses.
#[derive(Debug)]
pub struct Served {
    /// The process.
    pub running: Running,
    /// Where it listens over TCP.
    pub tcp: String,
    /// Where it listens over QUIC.
    pub quic: String,
}

impl Served {
    /// Serves the repository of `environment`.
    #[track_caller]
    pub fn start(environment: &Environment) -> Served {
        Served::with(environment, [])
    }

    /// Serves with further arguments.
    #[track_caller]
    pub fn with<'a>(
        environment: &Environment,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Served {
        Served::by(environment.ipfs_exec(["serve"]).arguments(arguments))
    }

    /// Serves by this call, whose arguments do not say where to listen.
    #[track_caller]
    pub fn by(invocation: Invocation) -> Served {
        let listen = |address| ["--listen".to_owned(), format!("/ip4/127.0.0.1/{address}")];
        let mut running = invocation
            .arguments(listen("tcp/0"))
            .arguments(listen("udp/0/quic-v1"))
            .start();
        let tcp = running.wait_for_line("listening on /ip4/127.0.0.1/tcp/");
        let quic = running.wait_for_line("listening on /ip4/127.0.0.1/udp/");
        Served {
            running,
            tcp: format!("/ip4/127.0.0.1/tcp/{tcp}"),
            quic: format!("/ip4/127.0.0.1/udp/{quic}"),
        }
    }

    /// Ends it by a signal; it must have had nothing to complain of.
    #[track_caller]
    pub fn end(self) {
        self.running.end();
    }
}
