//! Private networks: all peers of such a network hold one key. A peer without the key cannot even begin
//! to speak with them.
//!
//! The key lies where Kubo has it, in `swarm.key` of the repository, in the same form; see
//! [Private Networks](https://github.com/libp2p/specs/blob/master/pnet/Private-Networks-PSK-V1.md).

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use libp2p::pnet::PreSharedKey;

/// A key file has 96 bytes or a few more.
const MAX_KEY_FILE_BYTES: u64 = 4096;

/// Why the key of a private network cannot be used. There is no way around it: speaking without the
/// key would leave the private network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwarmKeyError {
    /// The disk failed.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file is no key.
    #[error(
        "{} is no key of a private network: it must hold `/key/swarm/psk/1.0.0/`, `/base16/` and 64 \
         hexadecimal digits, each on a line",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// The key of the private network that the repository belongs to, if it belongs to one.
///
/// # Errors
/// Where there is a key that cannot be read.
pub fn swarm_key(repository: &Path) -> Result<Option<PreSharedKey>, SwarmKeyError> {
    let path = repository.join("swarm.key");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SwarmKeyError::Io { path, source }),
    };
    let mut text = Vec::new();
    match file.take(MAX_KEY_FILE_BYTES).read_to_end(&mut text) {
        Ok(_) => match parse(&text) {
            Some(key) => Ok(Some(key)),
            None => Err(SwarmKeyError::Malformed { path }),
        },
        Err(source) => Err(SwarmKeyError::Io { path, source }),
    }
}

fn parse(text: &[u8]) -> Option<PreSharedKey> {
    let text = std::str::from_utf8(text).ok()?;
    let mut lines = text.lines().map(str::trim_end);
    let header = (lines.next()?, lines.next()?);
    let digits = lines.next()?;
    if header != ("/key/swarm/psk/1.0.0/", "/base16/") || lines.any(|line| !line.is_empty()) {
        return None;
    }
    let mut key = [0; 32];
    let is_hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !is_hexadecimal || digits.len() != 2 * key.len() {
        return None;
    }
    for (index, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(PreSharedKey::new(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_key_is_read_or_refused_and_never_passed_over() {
        let repository = tempfile::tempdir().unwrap();
        assert!(swarm_key(repository.path()).unwrap().is_none());
        let write = |text: String| {
            std::fs::write(repository.path().join("swarm.key"), text).unwrap();
            swarm_key(repository.path())
        };
        for (end, last) in [("\n", ""), ("\n", "\n"), ("\r\n", "\r\n")] {
            let text = format!("/key/swarm/psk/1.0.0/{end}/base16/{end}{KEY}{last}");
            let key = write(text).unwrap().unwrap();
            assert!(key.to_key_file().contains(KEY));
        }
        for text in [
            "",
            KEY,
            "/key/swarm/psk/1.0.0/\n/base16/\n0123",
            "/key/swarm/psk/1.0.0/\n/base64/\nAAAA",
            &format!("/key/swarm/psk/1.0.0/\n/base16/\n{KEY}\nmore"),
            &format!("/key/swarm/psk/1.0.0/\n/base16/\n{}", "é".repeat(32)),
        ] {
            let error = write(text.to_owned()).unwrap_err();
            assert!(matches!(error, SwarmKeyError::Malformed { .. }), "{text:?}");
        }
    }
}
