//! DNSLink: what a domain stands for, by TXT records `dnslink=PATH`, as of the [DNSLink specification].
//! Pure: records in, a path out.
//!
//! [DNSLink specification]: https://dnslink.dev/

use crate::path::{ContentPath, PathError, escape};

/// What a record begins with that counts.
const PREFIX: &[u8] = b"dnslink=";

/// Why a domain stands for nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DnslinkError {
    /// The value of a record is no content path.
    #[error("the TXT record `{record}` of {domain} holds no content path")]
    Malformed {
        /// The domain.
        domain: String,
        /// The record, escaped.
        record: String,
        /// What is wrong with it.
        #[source]
        source: PathError,
    },
    /// Two records say different things.
    #[error("{domain} has two different DNSLink records: {} and {}", paths[0], paths[1])]
    Ambiguous {
        /// The domain.
        domain: String,
        /// What they say.
        paths: Box<[ContentPath; 2]>,
    },
}

/// Finds the path in the TXT records of `domain`; `None` where no record has one. Records of other kinds
/// are ignored. The strings of a long record are already joined.
///
/// # Errors
/// [`DnslinkError`].
pub fn parse(domain: &str, records: &[Vec<u8>]) -> Result<Option<ContentPath>, DnslinkError> {
    let mut found: Option<ContentPath> = None;
    for record in records {
        let Some(value) = record.strip_prefix(PREFIX) else {
            continue;
        };
        let malformed = |source| DnslinkError::Malformed {
            domain: domain.to_owned(),
            record: escape(record),
            source,
        };
        let path: ContentPath = String::from_utf8_lossy(value).parse().map_err(malformed)?;
        match found.replace(path.clone()) {
            Some(first) if first != path => {
                return Err(DnslinkError::Ambiguous {
                    domain: domain.to_owned(),
                    paths: Box::new([first, path]),
                });
            }
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn";

    fn records(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    #[test]
    fn one_record_is_found_among_others() {
        let link = format!("dnslink=/ipfs/{CID}/a");
        let found = parse(
            "example.org",
            &records(&["v=spf1 -all", &link, "dnslink", &link]),
        );
        assert_eq!(
            found.unwrap().unwrap().to_string(),
            format!("/ipfs/{CID}/a")
        );
        let found = parse("example.org", &records(&["dnslink=/ipns/example.net/b"]));
        assert_eq!(found.unwrap().unwrap().to_string(), "/ipns/example.net/b");
        assert_eq!(parse("example.org", &records(&["x", ""])).unwrap(), None);
    }

    #[test]
    fn two_different_records_are_an_error_that_names_both() {
        let links = [
            format!("dnslink=/ipfs/{CID}"),
            "dnslink=/ipns/example.net".to_owned(),
        ];
        let error = parse("example.org", &records(&[&links[0], &links[1]])).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "example.org has two different DNSLink records: /ipfs/{CID} and /ipns/example.net"
            )
        );
    }

    #[test]
    fn a_record_without_a_path_is_an_error() {
        for text in [
            "dnslink=",
            "dnslink=/ipfs/x",
            "dnslink=https://example.org",
            "dnslink=/ipns/x",
        ] {
            let error = parse("example.org", &records(&[text])).unwrap_err();
            assert!(matches!(error, DnslinkError::Malformed { .. }), "{text}");
        }
    }
}
