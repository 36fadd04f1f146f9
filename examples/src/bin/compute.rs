//! Runs a program on content that a peer has, and serves its output until standard input ends.
//!
//!     cargo run -p ipfs-exec-examples --bin compute -- REPOSITORY PEER ROOTFS INPUT [ARG...]

#![expect(
    clippy::print_stdout,
    reason = "address and CID are the data of this program"
)]

use std::error::Error;
use std::{env, io};

use ipfs_exec_executor::{Job, Run};
use ipfs_exec_node::Node;
use ipfs_exec_node::network::{NetworkEvent, Upstreams};
use ipfs_exec_node::progress::Silent;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [repository, peer, rootfs, input, arguments @ ..] = &words[..] else {
        return Err("usage: compute REPOSITORY PEER ROOTFS INPUT [ARG...]".into());
    };
    let node = Node::open(repository.as_ref(), Upstreams::peers([peer.parse()?]))?;

    // Missing blocks come from the peer when they are read.
    let source = node.source(&Silent);
    let rootfs = node.resolve(&source, &rootfs.parse()?, &Silent)?;
    let input = node.resolve(&source, &input.parse()?, &Silent)?;
    let job = Job::new(
        rootfs,
        input,
        arguments.iter().map(Into::into).collect(),
        [],
    )?;
    let outcome = Run::new(node.repository(), &source, &job).execute()?;
    source.finish()?;

    let network = node.serve(vec!["/ip4/127.0.0.1/tcp/0".parse()?])?;
    let address = network
        .subscribe()
        .into_iter()
        .find_map(|event| match event {
            NetworkEvent::Listening { address } => Some(address),
            _ => None,
        });
    println!("{}", address.ok_or("the node has ended")?);
    println!("{}", outcome.output.cid);
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}
