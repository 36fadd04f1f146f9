//! Warnings for the user about an archive that was read.

use std::fmt;

use ipfs_exec_node::path::escape;
use serde::{Deserialize, Serialize};

/// What an archive held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Unpacked {
    /// Entries, skipped ones included.
    pub entries: u64,
    /// Bytes, counted as for [`DEFAULT_BUDGET`](super::DEFAULT_BUDGET).
    pub bytes: u64,
    /// The first [`Unpacked::MAX_WARNINGS`] warnings.
    pub warnings: Vec<Warning>,
    /// How many further warnings there were.
    pub more_warnings: u64,
}

impl Unpacked {
    /// Most warnings kept: more than anybody reads, and few enough to store.
    pub const MAX_WARNINGS: usize = 100;

    pub(super) fn warn(&mut self, warning: Warning) {
        if self.warnings.len() < Unpacked::MAX_WARNINGS {
            self.warnings.push(warning);
        } else {
            self.more_warnings += 1;
        }
    }
}

/// Something that is no error and that the user should know. Its fields are what is stored beside an
/// unpacked tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Warning {
    /// An entry was left out.
    Skipped {
        /// The entry's name, escaped.
        name: String,
        /// What it is, with its article.
        kind: String,
    },
    /// Bytes follow the last stream of a compressed archive.
    TrailingBytes {
        /// The name of the compression.
        compression: String,
    },
}

impl Warning {
    pub(super) fn skipped(name: &[u8], kind: &str) -> Warning {
        Warning::Skipped {
            name: escape(name),
            kind: kind.to_owned(),
        }
    }

    pub(super) fn trailing_bytes(compression: &str) -> Warning {
        Warning::TrailingBytes {
            compression: compression.to_owned(),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::Skipped { name, kind } => {
                write!(
                    formatter,
                    "skipped `{name}` of the rootfs archive: it is {kind}"
                )
            }
            Warning::TrailingBytes { compression } => write!(
                formatter,
                "ignored the bytes after the last {compression} stream of the rootfs archive"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Trees that were unpacked before have their warnings in this form.
    #[test]
    fn stored_warnings_can_be_read() {
        let stored = r#"{"entries":1,"bytes":2,"warnings":[{"name":"null","kind":"a FIFO"}],"more_warnings":0}"#;
        let unpacked: Unpacked = serde_json::from_str(stored).unwrap();
        assert_eq!(unpacked.warnings, [Warning::skipped(b"null", "a FIFO")]);
        assert_eq!(serde_json::to_string(&unpacked).unwrap(), stored);
    }
}
