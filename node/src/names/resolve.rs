//! From a path that begins with a mutable name to one that begins with a CID.

use std::error::Error;

use super::dnslink::DnslinkError;
use super::record::{Record, RecordError};
use super::store::NameStoreError;
use crate::limits;
use crate::name::{KeyName, Name};
use crate::path::{ContentPath, PathError, PathRoot};

/// Where names are looked up.
pub trait Lookup {
    /// The newest record of `name`, verified and not expired.
    ///
    /// # Errors
    /// [`LookupError`].
    fn record(&self, name: &KeyName) -> Result<Record, LookupError>;

    /// The path that `domain` stands for.
    ///
    /// # Errors
    /// [`LookupError`].
    fn dnslink(&self, domain: &str) -> Result<ContentPath, LookupError>;
}

/// Why a name is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// The repository has no record, and the network was not to be asked.
    #[error("the repository has no record of it, and the network is not asked")]
    Offline,
    /// No DHT peer and no server was there to be asked.
    #[error("no DHT peer, router or gateway was there to be asked for its record")]
    NobodyAsked,
    /// All that were asked have no record.
    #[error("no DHT peer, router or gateway has a record of it")]
    NotFound,
    /// The records that came are expired, malformed or not signed by the key.
    #[error("the only records of it that came are expired, malformed or signed by another key")]
    Refused,
    /// The record that is known cannot be used: it has expired.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The records of the repository cannot be read.
    #[error(transparent)]
    Store(#[from] NameStoreError),
    /// The domain has no DNSLink record.
    #[error("the domain has no DNSLink record (TXT `dnslink=/ipfs/...` at `_dnslink.{domain}`)")]
    NoDnslink {
        /// The domain.
        domain: String,
    },
    /// The DNSLink records of the domain are malformed.
    #[error(transparent)]
    Dnslink(#[from] DnslinkError),
    /// The question was not answered.
    #[error("the question was not answered")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// Why a path cannot be resolved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// A name is not known.
    #[error("cannot resolve /ipns/{name}")]
    Lookup {
        /// The name.
        name: Name,
        /// Why.
        #[source]
        source: LookupError,
    },
    /// The value of a record is no path.
    #[error("cannot resolve /ipns/{name}")]
    Value {
        /// The name.
        name: Name,
        /// What is wrong with the record.
        #[source]
        source: RecordError,
    },
    /// A name leads back to itself.
    #[error("cannot resolve /ipns/{name}: it leads back to itself")]
    Circle {
        /// The name.
        name: Name,
    },
    /// The way from a name to content is too long.
    #[error(
        "cannot resolve /ipns/{name}: it leads through more than {} names",
        limits::MAX_NAME_DEPTH
    )]
    TooDeep {
        /// The name at which it began.
        name: Name,
    },
    /// The path becomes too long.
    #[error("cannot resolve /ipns/{name}")]
    Path {
        /// The name.
        name: Name,
        /// Why.
        #[source]
        source: PathError,
    },
}

/// Replaces the name at the beginning of `path` by what it stands for, until the path begins with a CID.
///
/// # Errors
/// [`ResolveError`].
pub fn resolve(path: &ContentPath, lookup: &dyn Lookup) -> Result<ContentPath, ResolveError> {
    let mut path = path.clone();
    let mut seen = Vec::new();
    while let PathRoot::Name(name) = &path.root {
        let name = name.clone();
        if seen.contains(&name) {
            return Err(ResolveError::Circle { name });
        }
        path = resolve_once(&path, lookup)?;
        seen.push(name);
        if seen.len() > limits::MAX_NAME_DEPTH {
            let name = seen.swap_remove(0);
            return Err(ResolveError::TooDeep { name });
        }
    }
    Ok(path)
}

/// The same for one name. What it stands for may begin with a further one.
///
/// # Errors
/// [`ResolveError`].
pub fn resolve_once(path: &ContentPath, lookup: &dyn Lookup) -> Result<ContentPath, ResolveError> {
    let PathRoot::Name(name) = &path.root else {
        return Ok(path.clone());
    };
    let failed = |source| ResolveError::Lookup {
        name: name.clone(),
        source,
    };
    let target = match name {
        Name::Key(key) => lookup
            .record(key)
            .map_err(failed)?
            .value()
            .map_err(|source| ResolveError::Value {
                name: name.clone(),
                source,
            })?,
        Name::Domain(domain) => lookup.dnslink(domain).map_err(failed)?,
    };
    target
        .join(&path.segments)
        .map_err(|source| ResolveError::Path {
            name: name.clone(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const CID: &str = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn";

    /// Domains and the paths that they stand for.
    struct Domains(HashMap<String, String>);

    impl Lookup for Domains {
        fn record(&self, _: &KeyName) -> Result<Record, LookupError> {
            Err(LookupError::Offline)
        }

        fn dnslink(&self, domain: &str) -> Result<ContentPath, LookupError> {
            let path = self.0.get(domain).ok_or(LookupError::NotFound)?;
            Ok(path.parse().unwrap())
        }
    }

    fn domains(pairs: &[(&str, &str)]) -> Domains {
        let own = |(domain, path): &(&str, &str)| ((*domain).to_owned(), (*path).to_owned());
        Domains(pairs.iter().map(own).collect())
    }

    fn resolved(path: &str, lookup: &dyn Lookup) -> Result<String, ResolveError> {
        resolve(&path.parse().unwrap(), lookup).map(|path| path.to_string())
    }

    #[test]
    fn names_are_replaced_until_a_cid_stands_there() {
        let target = format!("/ipfs/{CID}/d");
        let lookup = domains(&[("a.org", "/ipns/b.org/c"), ("b.org", &target)]);
        let wanted = format!("/ipfs/{CID}/d/c/e");
        assert_eq!(resolved("/ipns/a.org/e", &lookup).unwrap(), wanted);
        let plain = format!("/ipfs/{CID}/e");
        assert_eq!(resolved(&plain, &lookup).unwrap(), plain);
        let once = resolve_once(&"/ipns/a.org/e".parse().unwrap(), &lookup).unwrap();
        assert_eq!(once.to_string(), "/ipns/b.org/c/e");
    }

    #[test]
    fn circles_and_long_ways_are_refused() {
        let lookup = domains(&[("a.org", "/ipns/b.org/x"), ("b.org", "/ipns/a.org")]);
        let error = resolved("/ipns/a.org", &lookup).unwrap_err();
        assert!(matches!(error, ResolveError::Circle { name } if name.to_string() == "a.org"));
        let way = |length: usize| {
            let step = |number| {
                let next = match number + 1 < length {
                    true => format!("/ipns/n{}.org", number + 1),
                    false => format!("/ipfs/{CID}"),
                };
                (format!("n{number}.org"), next)
            };
            resolved("/ipns/n0.org", &Domains((0..length).map(step).collect()))
        };
        way(limits::MAX_NAME_DEPTH).unwrap();
        let error = way(limits::MAX_NAME_DEPTH + 1).unwrap_err();
        assert!(matches!(error, ResolveError::TooDeep { name } if name.to_string() == "n0.org"));
    }

    #[test]
    fn a_name_that_is_not_known_is_named() {
        let lookup = domains(&[("a.org", "/ipns/b.org")]);
        let error = resolved("/ipns/a.org", &lookup).unwrap_err();
        assert_eq!(error.to_string(), "cannot resolve /ipns/b.org");
    }
}
