//! Adds a file or directory to a repository, and reads what a content path names: the node library
//! alone.
//!
//!     cargo run -p ipfs-exec-examples --bin add_and_cat -- REPOSITORY add PATH
//!     cargo run -p ipfs-exec-examples --bin add_and_cat -- REPOSITORY cat CID/NAME

#![expect(clippy::print_stdout, reason = "the CID is the data of this program")]

use std::env;
use std::error::Error;
use std::io;

use ipfs_exec_node::Node;
use ipfs_exec_node::network::Upstreams;
use ipfs_exec_node::progress::Silent;
use ipfs_exec_node::unixfs::{FileReader, ImportOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let open = |repository: &str| Node::open(repository.as_ref(), Upstreams::none());
    match words[..] {
        [repository, "add", path] => {
            let options = ImportOptions::default();
            let imported = open(repository)?.import(path.as_ref(), &options, &Silent)?;
            println!("{}", imported.cid);
        }
        [repository, "cat", path] => {
            let node = open(repository)?;
            let content = node.content(&path.parse()?, &Silent)?;
            let mut file = FileReader::open(&content.source, &content.cid)?;
            io::copy(&mut file, &mut io::stdout().lock())?;
        }
        _ => return Err("usage: add_and_cat REPOSITORY add PATH | cat CID[/NAME]...".into()),
    }
    Ok(())
}
