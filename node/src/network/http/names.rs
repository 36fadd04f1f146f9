//! Records of mutable names over HTTP: from and to routers (`/routing/v1/ipns/NAME` of the [Routing V1 HTTP
//! API]), and from gateways (`/ipns/NAME?format=ipns-record` of the [trustless gateway]).
//!
//! [Routing V1 HTTP API]: https://specs.ipfs.tech/routing/http-routing-v1/
//! [trustless gateway]: https://specs.ipfs.tech/http-gateways/trustless-gateway/

use bytes::Bytes;
use reqwest::Client;

use super::{HttpError, Url, failed};
use crate::limits;
use crate::name::KeyName;

const RECORD: &str = "application/vnd.ipfs.ipns-record";

/// Where `router` has the record of `name`.
pub(crate) fn at_router(router: &Url, name: &KeyName) -> Url {
    joined(router, &format!("routing/v1/ipns/{name}"))
}

/// Where `gateway` has the record of `name`.
pub(crate) fn at_gateway(gateway: &Url, name: &KeyName) -> Url {
    joined(gateway, &format!("ipns/{name}?format=ipns-record"))
}

fn joined(server: &Url, path: &str) -> Url {
    server.join(path).expect("the path is well-formed")
}

/// Gets the record at `url`. That the server has none is no error.
pub(crate) async fn get(client: &Client, url: Url) -> Result<Option<Bytes>, HttpError> {
    let response = match super::request(client, url, RECORD, &[]).await {
        Err(HttpError::Status { status, .. }) if status.as_u16() == 404 => return Ok(None),
        response => response?,
    };
    super::body(response, limits::MAX_RECORD_BYTES)
        .await
        .map(Some)
}

/// Puts `record` to the router at `url`.
pub(crate) async fn put(client: &Client, url: Url, record: Bytes) -> Result<(), HttpError> {
    let request = client.put(url.clone()).header("content-type", RECORD);
    let response = request.body(record).send().await.map_err(failed(&url))?;
    let status = response.status();
    match status.is_success() {
        true => Ok(()),
        false => Err(HttpError::Status { url, status }),
    }
}
