//! DNSLink records of a domain, from the name servers of the system.

use std::path::Path;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{RData, RecordType};

use crate::names::dnslink;
use crate::names::resolve::LookupError;
use crate::path::ContentPath;

/// Longest wait for all answers together.
const LIMIT: Duration = Duration::from_secs(20);

/// Most TXT records of a domain that are looked at.
const MAX_RECORDS: usize = 256;

/// Why the DNS gave no answer.
#[derive(Debug, thiserror::Error)]
enum DnsError {
    #[error("no name server is set in /etc/resolv.conf")]
    NoServer,
    #[error("cannot look up TXT records of {domain}")]
    Lookup {
        domain: String,
        #[source]
        source: NetError,
    },
    #[error("the name servers have not answered within {} s", LIMIT.as_secs())]
    Slow,
    #[error("cannot start the look-up")]
    Start(#[source] std::io::Error),
}

impl From<DnsError> for LookupError {
    fn from(error: DnsError) -> LookupError {
        LookupError::Failed(Box::new(error))
    }
}

/// The path that `domain` stands for: by a record of `_dnslink.DOMAIN`, or of the domain itself.
pub(super) fn dnslink(domain: &str) -> Result<ContentPath, LookupError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DnsError::Start)?;
    let found = runtime.block_on(async {
        tokio::time::timeout(LIMIT, find(domain))
            .await
            .map_err(|_| DnsError::Slow)?
    });
    runtime.shutdown_background();
    found?.ok_or_else(|| LookupError::NoDnslink {
        domain: domain.to_owned(),
    })
}

async fn find(domain: &str) -> Result<Option<ContentPath>, LookupError> {
    if !Path::new("/etc/resolv.conf").exists() {
        return Err(DnsError::NoServer.into());
    }
    let failed = |source| DnsError::Lookup {
        domain: domain.to_owned(),
        source,
    };
    let resolver = TokioResolver::builder_tokio()
        .and_then(|builder| builder.build())
        .map_err(failed)?;
    for place in [format!("_dnslink.{domain}"), domain.to_owned()] {
        let records = txt(&resolver, &place).await.map_err(failed)?;
        if let Some(path) = dnslink::parse(&place, &records)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The TXT records of `domain`, each with its strings joined. None is no error.
async fn txt(resolver: &TokioResolver, domain: &str) -> Result<Vec<Vec<u8>>, NetError> {
    // The dot keeps the search list of the system out.
    let lookup = match resolver.lookup(format!("{domain}."), RecordType::TXT).await {
        Err(error) if error.is_no_records_found() || error.is_nx_domain() => return Ok(Vec::new()),
        lookup => lookup?,
    };
    let records = lookup
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::TXT(txt) => Some(txt.txt_data.concat()),
            _ => None,
        });
    Ok(records.take(MAX_RECORDS).collect())
}
