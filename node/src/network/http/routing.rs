//! Delegated routing: a server is asked for the providers of content.
//!
//! The request is `GET /routing/v1/providers/{cid}` of the [Routing V1 HTTP API]. The server answers with
//! one JSON object, or with one line of JSON for each provider.
//!
//! [Routing V1 HTTP API]: https://specs.ipfs.tech/routing/http-routing-v1/

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use reqwest::Client;
use serde_json::Value;

use super::{HttpError, Url};
use crate::block::{self, Cid};
use crate::limits;

const JSON: &str = "application/json";
const JSON_LINES: &str = "application/x-ndjson";

/// Longest answer, in bytes: a hundred providers with all their addresses, many times over.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Somebody who has content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Provider {
    pub(crate) peer: PeerId,
    pub(crate) addresses: Vec<Multiaddr>,
}

/// Asks `router` who has `cid`. Nobody is no error.
pub(crate) async fn providers(
    client: &Client,
    router: &Url,
    cid: &Cid,
) -> Result<Vec<Provider>, HttpError> {
    // The API takes CIDs of version 1; the codec does not matter to it.
    let version_1 = Cid::new_v1(block::RAW, *cid.hash());
    let url = router
        .join(&format!("routing/v1/providers/{version_1}"))
        .map_err(|_| HttpError::Url {
            text: router.to_string(),
        })?;
    let response = match super::request(client, url, JSON_LINES, &[JSON]).await {
        Err(HttpError::Status { status, .. }) if status.as_u16() == 404 => return Ok(Vec::new()),
        response => response?,
    };
    let body = super::body(response, MAX_ANSWER_BYTES).await?;
    Ok(parse(&body))
}

/// The providers of an answer. What is not understood is passed over: kinds of providers may be
/// added.
fn parse(answer: &[u8]) -> Vec<Provider> {
    let records: Vec<Value> = match serde_json::from_slice::<Value>(answer) {
        Ok(mut object) => match object.get_mut("Providers").map(Value::take) {
            Some(Value::Array(records)) => records,
            // One line of JSON is an object as well.
            _ => vec![object],
        },
        Err(_) => answer
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect(),
    };
    records
        .iter()
        .filter_map(provider)
        .take(limits::MAX_PROVIDERS)
        .collect()
}

fn provider(record: &Value) -> Option<Provider> {
    // Of `peer` records and the older `bitswap` ones alike.
    let peer: PeerId = record.get("ID")?.as_str()?.parse().ok()?;
    let addresses = record.get("Addrs").and_then(Value::as_array);
    let addresses = addresses
        .into_iter()
        .flatten()
        .filter_map(|address| address.as_str()?.parse::<Multiaddr>().ok())
        .filter(|address| names_only(address, &peer))
        .take(limits::MAX_ADDRESSES_PER_PEER)
        .collect();
    Some(Provider { peer, addresses })
}

/// Whether an address leads to `peer`, as far as it says.
fn names_only(address: &Multiaddr, peer: &PeerId) -> bool {
    match address.iter().last() {
        Some(Protocol::P2p(named)) => named == *peer,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWPbfB128mL3TkHzL5RZdVXCBoti9azoiQiV5LGoe3xD8N";

    #[test]
    fn both_forms_of_answers_are_read() {
        let record = format!(
            r#"{{"Schema":"peer","ID":"{PEER}","Addrs":["/ip4/127.0.0.1/tcp/4001","nonsense"]}}"#
        );
        let wanted = [Provider {
            peer: PEER.parse().unwrap(),
            addresses: vec!["/ip4/127.0.0.1/tcp/4001".parse().unwrap()],
        }];
        let object = format!(r#"{{"Providers":[{{"Schema":"unknown"}},{record}]}}"#);
        let lines = format!("{record}\n{{\"Schema\":\"other\"}}\nnonsense\n");
        for answer in [&object, &lines, &record] {
            assert_eq!(parse(answer.as_bytes()), wanted, "{answer}");
        }
    }

    #[test]
    fn hostile_answers_bring_little_or_nothing() {
        for answer in ["", "[]", "{}", "null", "<html>", r#"{"Providers":{}}"#] {
            assert_eq!(parse(answer.as_bytes()), [], "{answer}");
        }
        let addresses = vec!["\"/ip4/127.0.0.1/tcp/1\""; 3000].join(",");
        let record = format!(r#"{{"ID":"{PEER}","Addrs":[{addresses}]}}"#);
        let many = vec![record; 200].join("\n");
        let providers = parse(many.as_bytes());
        assert_eq!(providers.len(), limits::MAX_PROVIDERS);
        assert_eq!(providers[0].addresses.len(), limits::MAX_ADDRESSES_PER_PEER);
    }
}
