//! Inputs that are described rather than stored, as test vectors of several projects do.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// The characters of generated names.
const NAME_CHARACTERS: &[u8; 39] = b"abcdefghijklmnopqrstuvwxyz01234567890-_";

/// How to make a file, a link or a directory.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Recipe {
    /// A file of these bytes.
    Text {
        /// The content.
        text: String,
    },
    /// A file of zeros.
    Zeros {
        /// Its bytes.
        size: usize,
    },
    /// A file of ChaCha20 key stream.
    Chacha {
        /// Its bytes.
        size: usize,
        /// What the key is the SHA-256 of.
        seed: String,
    },
    /// A symbolic link.
    Link {
        /// Its target.
        target: String,
    },
    /// A directory with the entries given.
    Tree {
        /// Parents before children.
        entries: Vec<Entry>,
    },
    /// A directory of `file1` and so on, each holding its number.
    Numbered {
        /// How many.
        count: usize,
    },
    /// A directory of files with long random names that hold `x`.
    Names {
        /// How many.
        count: usize,
        /// Characters of each name but the last.
        len: usize,
        /// Characters of the last name.
        last: usize,
        /// Seed of the key stream.
        seed: String,
    },
}

/// Kind (`f`, `d` or `l`), path, content or target, mode, mtime; the last three may be absent.
#[derive(Clone, Debug, Deserialize)]
pub struct Entry(
    String,
    String,
    #[serde(default)] String,
    #[serde(default)] Option<u32>,
    #[serde(default)] Option<i64>,
);

impl Recipe {
    /// Makes what the recipe describes at `path`, where nothing is.
    ///
    /// # Panics
    /// If that fails.
    pub fn make(&self, path: &Path) {
        match self {
            Recipe::Text { text } => write(path, text.as_bytes()),
            Recipe::Zeros { size } => write(path, &vec![0; *size]),
            Recipe::Chacha { size, seed } => write(path, &key_stream(seed, *size)),
            Recipe::Link { target } => symlink(target, path).expect("cannot make a link"),
            Recipe::Tree { entries } => {
                make_directory(path);
                for entry in entries {
                    entry.make(path);
                }
            }
            Recipe::Numbered { count } => {
                make_directory(path);
                for number in 1..=*count {
                    write(
                        &path.join(format!("file{number}")),
                        format!("{number}\n").as_bytes(),
                    );
                }
            }
            Recipe::Names {
                count,
                len,
                last,
                seed,
            } => {
                make_directory(path);
                let stream = key_stream(seed, 1 << 20);
                let mut stream = stream
                    .iter()
                    .map(|byte| NAME_CHARACTERS[usize::from(byte % 39)]);
                for index in 1..=*count {
                    let length = if index == *count { *last } else { *len };
                    let name: Vec<u8> = stream.by_ref().take(length).collect();
                    let name = String::from_utf8(name).expect("the characters are ASCII");
                    write(&path.join(name), b"x");
                }
            }
        }
    }
}

impl Entry {
    fn make(&self, root: &Path) {
        let Entry(kind, path, content, mode, mtime) = self;
        let path = root.join(path);
        match kind.as_str() {
            "f" => write(&path, content.as_bytes()),
            "d" => make_directory(&path),
            "l" => symlink(content, &path).expect("cannot make a link"),
            other => panic!("unknown kind of entry: {other}"),
        }
        if let Some(mode) = mode {
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode))
                .expect("cannot set a mode");
        }
        if let Some(mtime) = mtime {
            crate::tree::set_mtime(&path, *mtime, 0);
        }
    }
}

fn write(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn make_directory(path: &Path) {
    fs::create_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// The first bytes of the ChaCha20 key stream whose key is the SHA-256 of `seed`; nonce and counter
/// are zero.
pub fn key_stream(seed: &str, bytes: usize) -> Vec<u8> {
    let key: [u8; 32] = Sha256::digest(seed.as_bytes()).into();
    let mut stream = vec![0; bytes];
    ChaCha20::new(&key.into(), &[0; 12].into()).apply_keystream(&mut stream);
    stream
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dag::Blocks;

    #[test]
    fn the_key_stream_is_the_published_one() {
        let stream = key_stream("chunk-v1-seed", 1 << 20);
        let cid = "bafkreiacndfy443ter6qr2tmbbdhadvxxheowwf75s6zehscklu6ezxmta";
        assert_eq!(Blocks::new().raw(stream).to_string(), cid);
    }
}
