//! A trustless gateway over blocks of the test, honest or not.

use cid::Cid;

use crate::dag::Blocks;
use crate::http::{Response, Server};

/// Starts a gateway that gives `blocks` one by one, and all of them as the DAG below `root`.
pub fn honest(blocks: Blocks, root: Cid) -> Server {
    Server::start(move |path| answer(&blocks, &root, path))
}

/// What an honest gateway answers.
pub fn answer(blocks: &Blocks, root: &Cid, path: &str) -> Response {
    let Some((cid, format)) = parse(path) else {
        return Response::status(400);
    };
    match format {
        "raw" => match blocks.get(&cid) {
            Some(bytes) => Response::ok("application/vnd.ipld.raw", bytes),
            None => Response::status(404),
        },
        "car" if cid == *root => Response::ok(
            "application/vnd.ipld.car; version=1; order=dfs; dups=n",
            blocks.car(&[cid]),
        ),
        _ => Response::status(404),
    }
}

/// CID and format of `/ipfs/CID?format=FORMAT`.
pub fn parse(path: &str) -> Option<(Cid, &str)> {
    let (cid, query) = path.strip_prefix("/ipfs/")?.split_once('?')?;
    Some((cid.parse().ok()?, query.strip_prefix("format=")?))
}
