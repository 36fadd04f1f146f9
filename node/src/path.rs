//! Content paths and the names in them: pure parsing.
//!
//! A path that a person types becomes a [`ContentPath`], a name that a directory carries becomes
//! an [`EntryName`]. Both are checked once, here; code that holds one need not check again.

use std::fmt;
use std::str::FromStr;

use crate::block::Cid;
use crate::limits;
use crate::name::{KeyName, Name, NameError};

/// Why text is no content path or bytes are no entry name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// The first part of the path is no CID.
    #[error("`{text}` is not a CID")]
    InvalidCid {
        /// What stood where a CID belongs, escaped.
        text: String,
        /// The parser's reason.
        #[source]
        source: cid::Error,
    },
    /// The part of the path after `/ipns/` is no name.
    #[error("`{text}` is no mutable name")]
    InvalidRoot {
        /// The part, escaped.
        text: String,
        /// What is wrong with it.
        #[source]
        source: NameError,
    },
    /// The text is empty or holds a prefix with nothing behind it.
    #[error("`{text}` is not a content path: the CID is missing")]
    Empty {
        /// The text, escaped.
        text: String,
    },
    /// A name that no directory entry may have.
    #[error("`{name}` is not a name for a directory entry: {reason}")]
    InvalidName {
        /// The name, escaped.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The path has too many segments.
    #[error("the path has more than {} segments", limits::MAX_PATH_SEGMENTS)]
    TooLong,
    /// An `%` escape of a URI is malformed.
    #[error("`{text}` holds a malformed percent escape")]
    InvalidEscape {
        /// The segment, escaped.
        text: String,
    },
}

/// The name of a directory entry: 1 to 255 bytes without `/` and NUL, and neither `.` nor `..`.
///
/// Names are bytes, as on Linux; most are UTF-8. `Display` escapes control characters and what is
/// not UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryName(Box<[u8]>);

impl EntryName {
    /// Checks `bytes`.
    ///
    /// # Errors
    /// [`PathError::InvalidName`].
    pub fn new(bytes: &[u8]) -> Result<EntryName, PathError> {
        let reason = if bytes.is_empty() {
            "it is empty"
        } else if bytes.len() > limits::MAX_NAME_BYTES {
            "it has more than 255 bytes"
        } else if bytes == b"." || bytes == b".." {
            "it would leave its directory"
        } else if bytes.contains(&b'/') {
            "it holds a `/`"
        } else if bytes.contains(&0) {
            "it holds a NUL byte"
        } else {
            return Ok(EntryName(bytes.into()));
        };
        Err(PathError::InvalidName {
            name: escape(bytes),
            reason,
        })
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for EntryName {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&escape(&self.0))
    }
}

impl fmt::Debug for EntryName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "`{self}`")
    }
}

/// Makes bytes from outside safe to print on one line: control characters and bytes that are not
/// UTF-8 become `\xNN` or `\u{N}`, and a backslash becomes two.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '\\' || character.is_control() || is_invisible(character) {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Characters that reorder or hide the text around them on a terminal.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Where a path starts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PathRoot {
    /// An immutable root.
    Cid(Cid),
    /// A mutable name (`/ipns/NAME`), to be resolved before use.
    Name(Name),
}

/// A root and the entry names that lead from it to a node.
///
/// Accepts a bare CID, `CID/a/b`, `/ipfs/CID/a/b`, `ipfs://CID/a/b` (with percent escapes),
/// `/ipns/NAME/a` and `ipns://NAME/a`. A CID with the codec libp2p-key (`k51...`) and a peer id
/// `12D3KooW...` are names, also without `/ipns/`. Repeated and trailing slashes count as one and none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContentPath {
    /// Where the path starts.
    pub root: PathRoot,
    /// The names below it, outermost first.
    pub segments: Vec<EntryName>,
}

impl ContentPath {
    /// The path of the root node itself.
    pub fn from_cid(cid: Cid) -> ContentPath {
        ContentPath {
            root: PathRoot::Cid(cid),
            segments: Vec::new(),
        }
    }

    /// The path of what `name` stands for.
    pub fn from_name(name: Name) -> ContentPath {
        ContentPath {
            root: PathRoot::Name(name),
            segments: Vec::new(),
        }
    }

    /// The path with these names behind it.
    ///
    /// # Errors
    /// [`PathError::TooLong`].
    pub fn join(mut self, segments: &[EntryName]) -> Result<ContentPath, PathError> {
        self.segments.extend_from_slice(segments);
        match self.segments.len() {
            ..=limits::MAX_PATH_SEGMENTS => Ok(self),
            _ => Err(PathError::TooLong),
        }
    }
}

impl FromStr for ContentPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<ContentPath, PathError> {
        let form = Form::of(text);
        let mut parts = form.rest.split('/').filter(|part| !part.is_empty());
        let Some(first) = parts.next() else {
            return Err(PathError::Empty {
                text: escape(text.as_bytes()),
            });
        };
        let root = if form.named {
            PathRoot::Name(parse_name(first)?)
        } else {
            parse_root(first)?
        };
        let segments = parts
            .take(limits::MAX_PATH_SEGMENTS + 1)
            .map(|part| {
                if form.percent {
                    EntryName::new(&percent_decode(part)?)
                } else {
                    EntryName::new(part.as_bytes())
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        if segments.len() > limits::MAX_PATH_SEGMENTS {
            return Err(PathError::TooLong);
        }
        Ok(ContentPath { root, segments })
    }
}

/// What the beginning of a path says of the rest.
struct Form<'a> {
    rest: &'a str,
    named: bool,
    percent: bool,
}

impl Form<'_> {
    fn of(text: &str) -> Form<'_> {
        const PREFIXES: [(&str, bool, bool); 4] = [
            ("/ipfs/", false, false),
            ("/ipns/", true, false),
            ("ipfs://", false, true),
            ("ipns://", true, true),
        ];
        for (prefix, named, percent) in PREFIXES {
            if let Some(rest) = text.strip_prefix(prefix) {
                return Form {
                    rest,
                    named,
                    percent,
                };
            }
        }
        Form {
            rest: text,
            named: false,
            percent: false,
        }
    }
}

fn parse_name(text: &str) -> Result<Name, PathError> {
    text.parse().map_err(|source| PathError::InvalidRoot {
        text: escape(text.as_bytes()),
        source,
    })
}

fn parse_root(text: &str) -> Result<PathRoot, PathError> {
    match Cid::try_from(text) {
        Ok(cid) => Ok(match KeyName::from_cid(&cid) {
            Some(name) => PathRoot::Name(Name::Key(name)),
            None => PathRoot::Cid(cid),
        }),
        Err(source) => match text.parse() {
            Ok(name) => Ok(PathRoot::Name(Name::Key(name))),
            Err(_) => Err(PathError::InvalidCid {
                text: escape(text.as_bytes()),
                source,
            }),
        },
    }
}

fn percent_decode(segment: &str) -> Result<Vec<u8>, PathError> {
    let malformed = || PathError::InvalidEscape {
        text: escape(segment.as_bytes()),
    };
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [byte, tail @ ..] = rest {
        if *byte == b'%' {
            let digits = tail.get(..2).ok_or_else(malformed)?;
            let digits = std::str::from_utf8(digits).map_err(|_| malformed())?;
            bytes.push(u8::from_str_radix(digits, 16).map_err(|_| malformed())?);
            rest = &tail[2..];
        } else {
            bytes.push(*byte);
            rest = tail;
        }
    }
    Ok(bytes)
}

impl fmt::Display for ContentPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.root {
            PathRoot::Cid(cid) => write!(formatter, "/ipfs/{cid}")?,
            PathRoot::Name(name) => write!(formatter, "/ipns/{name}")?,
        }
        self.segments
            .iter()
            .try_for_each(|segment| write!(formatter, "/{segment}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn";
    const PEER: &str = "12D3KooWLQzUv2FHWGVPXTXSZpdHs7oHbXub2G5WC8Tx4NQhyd2d";
    const NAME: &str = "k51qzi5uqu5dk3v4rmjber23h16xnr23bsggmqqil9z2gduiis5se8dht36dam";

    #[test]
    fn accepted_forms() {
        let cases = [
            (CID.to_owned(), format!("/ipfs/{CID}")),
            (format!("/ipfs/{CID}/"), format!("/ipfs/{CID}")),
            (format!("{CID}/a//b/"), format!("/ipfs/{CID}/a/b")),
            (format!("/ipfs/{CID}/a%20b"), format!("/ipfs/{CID}/a%20b")),
            (format!("{CID}/a%20b%"), format!("/ipfs/{CID}/a%20b%")),
            (format!("ipfs://{CID}/a%20b"), format!("/ipfs/{CID}/a b")),
            (
                "/ipns/example.org/x".to_owned(),
                "/ipns/example.org/x".to_owned(),
            ),
            (format!("/ipns/{PEER}/x"), format!("/ipns/{NAME}/x")),
            (PEER.to_owned(), format!("/ipns/{NAME}")),
            (format!("{NAME}/a"), format!("/ipns/{NAME}/a")),
            (format!("ipns://{NAME}/a%20b"), format!("/ipns/{NAME}/a b")),
        ];
        for (text, wanted) in cases {
            assert_eq!(
                text.parse::<ContentPath>().unwrap().to_string(),
                wanted,
                "{text}"
            );
        }
    }

    #[test]
    fn refused_forms() {
        for text in ["", "/", "/ipfs/", "nonsense", "/ipfs/nonsense/a", "/ipns/x"] {
            assert!(text.parse::<ContentPath>().is_err(), "{text}");
        }
        for tail in ["..", "a/../b", ".", &"x".repeat(256)] {
            assert!(
                format!("{CID}/{tail}").parse::<ContentPath>().is_err(),
                "{tail}"
            );
        }
        for tail in ["%", "%2", "%zz", "a%2fb", "%2e%2e", "%00"] {
            assert!(
                format!("ipfs://{CID}/{tail}")
                    .parse::<ContentPath>()
                    .is_err(),
                "{tail}"
            );
        }
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escape(b"a\x1b[2Jb\xff\\"), "a\\u{1b}[2Jb\\xff\\\\");
    }
}
