//! The published facts that tests compare with: vectors (an input and its CID) and listings (the
//! tree that an independent reader found in a CAR).
//!
//! Vectors are a table in this directory. CARs of other projects are read where they are there.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::recipe::Recipe;

/// The table: recipes and CIDs, each with the project and file that states it.
const VECTORS: &str = include_str!("vectors.json");

/// The directory of published CARs and records: `IPFS_EXEC_FIXTURES`, or `shared/fixtures` beside the project where
/// that is there.
///
/// # Panics
/// If the variable names no such directory.
#[expect(
    clippy::print_stderr,
    reason = "a test that leaves something out says so"
)]
pub fn directory() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("IPFS_EXEC_FIXTURES").map(PathBuf::from) {
        assert!(
            path.join("vectors").is_dir(),
            "no fixtures at {}, which IPFS_EXEC_FIXTURES names",
            path.display()
        );
        return Some(path);
    }
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures");
    if beside.join("vectors").is_dir() {
        return Some(beside);
    }
    eprintln!(
        "skipped: the published CARs and records are not here; IPFS_EXEC_FIXTURES names them"
    );
    None
}

/// An input, the options to import it with, and the CID that it then has.
#[derive(Clone, Debug, Deserialize)]
pub struct Vector {
    /// A name for messages.
    pub id: String,
    /// The CID.
    pub cid: String,
    /// How to make the input.
    pub recipe: Recipe,
    /// How to import it.
    pub options: Options,
}

/// Import options as vectors name them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Options {
    profile: Option<String>,
    cid_version: Option<u8>,
    raw_leaves: Option<bool>,
    chunk: Option<usize>,
    width: Option<usize>,
    shard_threshold: Option<u64>,
    /// Permission bits that every file and directory gets.
    pub mode: Option<u32>,
    /// Modification time that every entry gets, in seconds since 1970.
    pub mtime: Option<i64>,
    /// Its nanoseconds.
    pub mtime_nsecs: Option<u32>,
    /// How the tree of a file is laid out; balanced if absent.
    pub layout: Option<String>,
}

impl Options {
    /// The same as options of `ipfs-exec add`.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut push = |option: &str, value: Option<String>| {
            arguments.extend(value.map(|value| format!("--{option}={value}")));
        };
        push("profile", self.profile.clone());
        push(
            "cid-version",
            self.cid_version.map(|version| version.to_string()),
        );
        push("raw-leaves", self.raw_leaves.map(|raw| raw.to_string()));
        push("chunker", self.chunk.map(|bytes| format!("size-{bytes}")));
        push("max-file-links", self.width.map(|links| links.to_string()));
        push(
            "hamt-threshold",
            self.shard_threshold.map(|bytes| bytes.to_string()),
        );
        push("mode", self.mode.map(|mode| format!("{mode:04o}")));
        push("mtime", self.mtime.map(|seconds| seconds.to_string()));
        push(
            "mtime-nsecs",
            self.mtime_nsecs.map(|nanoseconds| nanoseconds.to_string()),
        );
        arguments
    }
}

/// All vectors.
///
/// # Panics
/// If the table is malformed.
pub fn vectors() -> Vec<Vector> {
    serde_json::from_str(VECTORS).expect("the table is well-formed")
}

/// A CAR and the tree in it.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The CAR.
    pub car: PathBuf,
    /// Its roots.
    pub roots: Vec<String>,
    /// How many blocks it holds.
    pub blocks: u64,
    /// What is below its first root.
    pub entries: Vec<Listed>,
}

/// One entry of a listing.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// The names from the root, each after a slash; empty for the root itself.
    pub path: String,
    /// The CID.
    pub cid: String,
    /// `directory`, `file`, `raw` or `object`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The UnixFS type, absent for raw blocks and other codecs.
    pub unixfs: Option<String>,
    /// Bytes of a file.
    pub size: Option<u64>,
    /// Digest of the content of a file.
    pub sha256: Option<String>,
    /// Target of a symbolic link.
    pub link: Option<String>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Modification time.
    pub mtime: Option<Mtime>,
    /// Why the entry could not be read.
    pub error: Option<String>,
}

/// A time as listings hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Mtime {
    /// Seconds since 1970.
    pub secs: i64,
    /// Nanoseconds.
    #[serde(default)]
    pub nsecs: u32,
}

#[derive(Deserialize)]
struct Head {
    roots: Vec<String>,
    blocks: u64,
}

/// All published listings, each with its CAR; none where they are not here.
///
/// # Panics
/// If they cannot be read.
pub fn listings() -> Vec<Listing> {
    directory().map_or_else(Vec::new, |directory| listings_below(&directory))
}

/// All listings below a directory, each with its CAR.
///
/// # Panics
/// If they cannot be read, or there are none.
pub fn listings_below(directory: &Path) -> Vec<Listing> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(path) = pending.pop() {
        for entry in fs::read_dir(&path).expect("the fixtures are readable") {
            let path = entry.expect("the fixtures are readable").path();
            if path.is_dir() {
                pending.push(path);
            } else if path.to_string_lossy().ends_with(".listing.jsonl") {
                found.push(read_listing(&path));
            }
        }
    }
    found.sort_by(|left, right| left.car.cmp(&right.car));
    assert!(
        !found.is_empty(),
        "no listings below {}",
        directory.display()
    );
    found
}

/// The listing of the published CAR with this file name; `None` where no CARs are here.
///
/// # Panics
/// If they are here without this one.
pub fn listing(name: &str) -> Option<Listing> {
    let mut listings = listings().into_iter().peekable();
    listings.peek()?;
    let found = listings.find(|listing| listing.car.ends_with(name));
    Some(found.unwrap_or_else(|| panic!("no {name} among the fixtures")))
}

fn read_listing(path: &Path) -> Listing {
    let text = fs::read_to_string(path).expect("a listing is text");
    let mut lines = text.lines();
    let head = lines.next().expect("a listing has a head");
    let head: Head =
        serde_json::from_str(head).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let entries = lines
        .map(|line| {
            serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{}: {line}: {error}", path.display()))
        })
        .collect();
    let car = path
        .to_string_lossy()
        .replace(".listing.jsonl", ".car")
        .into();
    Listing {
        car,
        roots: head.roots,
        blocks: head.blocks,
        entries,
    }
}
