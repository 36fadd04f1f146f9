//! Requests over HTTP: for the providers of content (`routing`), for records of names (`names`), and
//! for the content itself ([`gateway`]).
//!
//! Servers are trusted only to answer in time. Sizes, types and redirects are bounded, and blocks are
//! verified.

pub mod gateway;
pub(super) mod names;
pub(super) mod routing;

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Response, StatusCode};
use tokio::time::Instant;

pub use reqwest::Url;

/// How long a server may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long a server may send nothing while it is waited for: short enough that another can be asked
/// before a fetch counts as idle.
const READ_LIMIT: Duration = Duration::from_secs(8);

/// How long a block or another short answer may take: after the first time it must come at
/// [`SLOWEST_BYTES_PER_SECOND`], after the second it must be there.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
const SLOW_ANSWER_LIMIT: Duration = Duration::from_secs(25);
const SLOWEST_BYTES_PER_SECOND: f64 = 4096.0;

/// Redirects of one request: from a name to another, to a path, and one more.
const MAX_REDIRECTS: usize = 4;

/// The name and version that servers see.
const USER_AGENT: &str = concat!("ipfs-exec/", env!("CARGO_PKG_VERSION"));

/// Why a server gave no usable answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The system's certificates or settings cannot be used.
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
    /// The text is no URL of a server.
    #[error(
        "`{text}` is no URL of a server: it must begin with `http://` or `https://` and have no query"
    )]
    Url {
        /// The text.
        text: String,
    },
    /// The server cannot be reached, broke off, or sent the request in circles.
    #[error("cannot send a request to {url}")]
    Request {
        /// What was asked.
        url: Url,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The server refused.
    #[error("{url} answered {status}")]
    Status {
        /// What was asked.
        url: Url,
        /// The answer.
        status: StatusCode,
    },
    /// The server answered with something else.
    #[error("{url} answered with `{content_type}` in place of `{wanted}`")]
    ContentType {
        /// What was asked.
        url: Url,
        /// What came.
        content_type: String,
        /// What was asked for.
        wanted: &'static str,
    },
    /// The answer takes too long.
    #[error("{url} has not answered in full within {} s", after.as_secs())]
    Slow {
        /// What was asked.
        url: Url,
        /// How long it was given.
        after: Duration,
    },
    /// The answer is longer than any right one could be.
    #[error("{url} answered with more than {limit} bytes")]
    TooLarge {
        /// What was asked.
        url: Url,
        /// The limit.
        limit: usize,
    },
}

impl HttpError {
    /// Whether the server did something wrong, where others only lack what was asked for.
    fn is_fault(&self) -> bool {
        !matches!(self, HttpError::Status { .. })
    }
}

/// The address of a server, as people write it; a path may be part of it.
///
/// # Errors
/// [`HttpError::Url`].
pub fn parse_server(text: &str) -> Result<Url, HttpError> {
    let invalid = || HttpError::Url {
        text: text.to_owned(),
    };
    let mut url = Url::parse(text).map_err(|_| invalid())?;
    let is_http = matches!(url.scheme(), "http" | "https");
    if !is_http || url.query().is_some() || url.fragment().is_some() {
        return Err(invalid());
    }
    // What is joined to a path without it would take the place of its last part.
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

/// Prepares for requests; nothing is connected yet.
pub(super) fn client() -> Result<Client, HttpError> {
    Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_LIMIT)
        .read_timeout(READ_LIMIT)
        .redirect(Policy::custom(redirect))
        .build()
        .map_err(HttpError::Client)
}

#[derive(Debug, thiserror::Error)]
enum RedirectError {
    #[error("it was redirected more than {MAX_REDIRECTS} times")]
    TooMany,
    #[error("it was redirected from `https` to `http`")]
    Insecure,
}

fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let is_secure = |url: &Url| url.scheme() == "https";
    if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error(RedirectError::TooMany)
    } else if attempt.previous().last().is_some_and(is_secure) && !is_secure(attempt.url()) {
        attempt.error(RedirectError::Insecure)
    } else {
        attempt.follow()
    }
}

/// Asks for `url` as `wanted`; the answer has that type, or one of `also`.
async fn request(
    client: &Client,
    url: Url,
    wanted: &'static str,
    also: &[&str],
) -> Result<Response, HttpError> {
    let accept = if also.is_empty() {
        wanted.to_owned()
    } else {
        format!("{wanted}, {}", also.join(", "))
    };
    let asked = client.get(url.clone()).header("accept", accept).send();
    let response = asked.await.map_err(failed(&url))?;
    let status = response.status();
    if !status.is_success() {
        return Err(HttpError::Status { url, status });
    }
    let content_type = content_type(&response);
    // Parameters may follow, such as the version of a CAR.
    let essence = |text: &str| text.split(';').next().unwrap_or_default().trim().to_owned();
    let found = essence(&content_type);
    if found != essence(wanted) && !also.iter().any(|also| found == essence(also)) {
        return Err(HttpError::ContentType {
            url,
            content_type: crate::path::escape(content_type.as_bytes()).to_string(),
            wanted,
        });
    }
    Ok(response)
}

fn content_type(response: &Response) -> String {
    let header = response.headers().get("content-type");
    let text = header.and_then(|value| value.to_str().ok());
    text.unwrap_or_default().to_ascii_lowercase()
}

/// Reads an answer of at most `limit` bytes.
async fn body(response: Response, limit: usize) -> Result<Bytes, HttpError> {
    let url = response.url().clone();
    let after = SLOW_ANSWER_LIMIT;
    tokio::time::timeout(after, whole_body(response, limit))
        .await
        .map_err(|_| HttpError::Slow { url, after })?
}

async fn whole_body(mut response: Response, limit: usize) -> Result<Bytes, HttpError> {
    let url = response.url().clone();
    let begun = Instant::now();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed(&url))? {
        if body.len() + chunk.len() > limit {
            return Err(HttpError::TooLarge { url, limit });
        }
        body.extend_from_slice(&chunk);
        let after = begun.elapsed();
        if after >= ANSWER_LIMIT
            && (body.len() as f64) < SLOWEST_BYTES_PER_SECOND * after.as_secs_f64()
        {
            return Err(HttpError::Slow { url, after });
        }
    }
    Ok(body.into())
}

fn failed(url: &Url) -> impl FnOnce(reqwest::Error) -> HttpError {
    let url = url.clone();
    // It would say the URL once more.
    move |source| HttpError::Request {
        url,
        source: source.without_url(),
    }
}

/// The last cause of an error, which says what happened.
pub(super) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_by_url() {
        let parsed = |text| parse_server(text).map(|url| url.to_string()).ok();
        assert_eq!(
            parsed("https://example.com").as_deref(),
            Some("https://example.com/")
        );
        assert_eq!(
            parsed("http://127.0.0.1:8080/base").as_deref(),
            Some("http://127.0.0.1:8080/base/")
        );
        for text in [
            "",
            "example.com",
            "ftp://example.com",
            "https://",
            "https://example.com/?a=b",
            "/ip4/127.0.0.1/tcp/80",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }
}
