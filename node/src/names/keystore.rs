//! Private keys of a repository, one file each.
//!
//! The files stand in the directory `keys` with the names that Kubo gives them in its `keystore`:
//! `key_`, then the label in base32. The key of the repository's peer, `self`, stands beside them.
//! A key never replaces another one, except where the caller asks for that.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use multibase::Base;

use super::file::{self, FileError, failed};
use super::key::{KeyError, SigningKey};
use crate::limits;
use crate::path::escape;

/// The label of the key that the repository's peer speaks with.
pub const SELF: &str = "self";

const PREFIX: &str = "key_";

/// Longest label, in bytes: its base32 form is a file name.
const MAX_LABEL_BYTES: usize = 128;

/// Why a key cannot be kept, found or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeystoreError {
    /// The disk failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The text is no label of a key.
    #[error("`{label}` is no name for a key: {reason}")]
    Label {
        /// The text, escaped.
        label: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no such key.
    #[error("there is no key `{label}`")]
    NotFound {
        /// The label that was asked for.
        label: String,
    },
    /// There is such a key already.
    #[error("there is a key `{label}` already")]
    Exists {
        /// The label.
        label: KeyLabel,
    },
    /// The key of the peer itself was to be changed.
    #[error("the key `{SELF}` is that of the repository's peer, and cannot be {action}")]
    OwnKey {
        /// What was to be done.
        action: &'static str,
    },
    /// The file of a key is damaged.
    #[error("{} is no private key", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
}

/// The label of a key: 1 to 128 bytes of text without `/` and control characters, which does not begin
/// with a dot or a dash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyLabel(String);

impl KeyLabel {
    /// Whether this is the key of the repository's peer.
    pub fn is_self(&self) -> bool {
        self.0 == SELF
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyLabel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for KeyLabel {
    type Err = KeystoreError;

    fn from_str(text: &str) -> Result<KeyLabel, KeystoreError> {
        let reason = if text.is_empty() {
            "it is empty"
        } else if text.len() > MAX_LABEL_BYTES {
            "it has more than 128 bytes"
        } else if text.starts_with(['.', '-']) {
            "it begins with a dot or a dash"
        } else if text.contains('/') || escape(text.as_bytes()) != text {
            "it holds a slash, a backslash or a control character"
        } else {
            return Ok(KeyLabel(text.to_owned()));
        };
        Err(KeystoreError::Label {
            label: escape(text.as_bytes()),
            reason,
        })
    }
}

/// The keys of one repository.
#[derive(Clone, Debug)]
pub struct Keystore {
    directory: PathBuf,
}

impl Keystore {
    /// The keys of the repository at `repository`; nothing is looked at.
    pub fn of_repository(repository: &Path) -> Keystore {
        Keystore {
            directory: repository.join("keys"),
        }
    }

    /// Labels of all keys, sorted; `self` is among them if the repository has its key.
    ///
    /// # Errors
    /// [`KeystoreError::File`].
    pub fn labels(&self) -> Result<Vec<KeyLabel>, KeystoreError> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed("read", &self.directory))?,
        };
        let mut labels = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed("read", &self.directory))?;
            labels.extend(entry.file_name().to_str().and_then(label_of));
        }
        labels.sort_unstable();
        Ok(labels)
    }

    /// The key with this label.
    ///
    /// # Errors
    /// [`KeystoreError::NotFound`], [`KeystoreError::Malformed`].
    pub fn key(&self, label: &KeyLabel) -> Result<SigningKey, KeystoreError> {
        let path = self.path(label);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let label = label.to_string();
                return Err(KeystoreError::NotFound { label });
            }
            file => file.map_err(failed("open", &path))?,
        };
        let mut bytes = Vec::new();
        file.take(limits::MAX_KEY_FILE_BYTES)
            .read_to_end(&mut bytes)
            .map_err(failed("read", &path))?;
        SigningKey::from_protobuf(&bytes)
            .map_err(|source| KeystoreError::Malformed { path, source })
    }

    /// Keeps `key`.
    ///
    /// # Errors
    /// [`KeystoreError::Exists`], [`KeystoreError::OwnKey`].
    pub fn add(&self, label: &KeyLabel, key: &SigningKey) -> Result<(), KeystoreError> {
        if label.is_self() {
            return Err(KeystoreError::OwnKey { action: "replaced" });
        }
        file::ensure_directory(&self.directory)?;
        let unfinished = self.directory.join(format!(".new-{}", std::process::id()));
        file::write_unfinished(&unfinished, key.to_protobuf())?;
        let linked = self.link(&unfinished, label);
        let removed = fs::remove_file(&unfinished).map_err(failed("remove", &unfinished));
        linked?;
        removed?;
        self.sync()
    }

    /// A link and not a rename: a key that is there stays.
    fn link(&self, unfinished: &Path, label: &KeyLabel) -> Result<(), KeystoreError> {
        let path = self.path(label);
        match fs::hard_link(unfinished, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let label = label.clone();
                Err(KeystoreError::Exists { label })
            }
            linked => Ok(linked.map_err(failed("create", &path))?),
        }
    }

    /// Removes a key and gives it back.
    ///
    /// # Errors
    /// [`KeystoreError::NotFound`], [`KeystoreError::OwnKey`].
    pub fn remove(&self, label: &KeyLabel) -> Result<SigningKey, KeystoreError> {
        if label.is_self() {
            return Err(KeystoreError::OwnKey { action: "removed" });
        }
        let key = self.key(label)?;
        let path = self.path(label);
        fs::remove_file(&path).map_err(failed("remove", &path))?;
        self.sync()?;
        Ok(key)
    }

    /// Gives a key another label. A key that has that label is replaced where `replace` says so.
    ///
    /// # Errors
    /// [`KeystoreError::NotFound`], [`KeystoreError::Exists`], [`KeystoreError::OwnKey`].
    pub fn rename(
        &self,
        from: &KeyLabel,
        to: &KeyLabel,
        replace: bool,
    ) -> Result<SigningKey, KeystoreError> {
        if from.is_self() {
            return Err(KeystoreError::OwnKey { action: "renamed" });
        }
        if to.is_self() {
            return Err(KeystoreError::OwnKey { action: "replaced" });
        }
        let key = self.key(from)?;
        if from == to {
            return Ok(key);
        }
        let path = self.path(from);
        if replace {
            fs::rename(&path, self.path(to)).map_err(failed("rename", &path))?;
        } else {
            self.link(&path, to)?;
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        self.sync()?;
        Ok(key)
    }

    fn path(&self, label: &KeyLabel) -> PathBuf {
        let name = match label.is_self() {
            true => SELF.to_owned(),
            false => format!("{PREFIX}{}", Base::Base32Lower.encode(label.as_str())),
        };
        self.directory.join(name)
    }

    fn sync(&self) -> Result<(), KeystoreError> {
        Ok(file::sync_directory(&self.directory)?)
    }
}

/// The label of the key in a file of this name.
fn label_of(file: &str) -> Option<KeyLabel> {
    if file == SELF {
        return SELF.parse().ok();
    }
    let label = Base::Base32Lower.decode(file.strip_prefix(PREFIX)?).ok()?;
    String::from_utf8(label).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn label(text: &str) -> KeyLabel {
        text.parse().unwrap()
    }

    #[test]
    fn keys_are_kept_renamed_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Keystore::of_repository(directory.path());
        assert_eq!(store.labels().unwrap(), []);
        let key = SigningKey::generate();
        store.add(&label("site"), &key).unwrap();
        // The name of the file as Kubo gives it.
        let path = directory.path().join("keys/key_onuxizi");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        store.add(&label("other"), &SigningKey::generate()).unwrap();
        let refused = store.add(&label("site"), &SigningKey::generate());
        assert!(matches!(refused, Err(KeystoreError::Exists { .. })));
        let refused = store.rename(&label("site"), &label("other"), false);
        assert!(matches!(refused, Err(KeystoreError::Exists { .. })));
        assert_eq!(store.labels().unwrap(), [label("other"), label("site")]);
        store.rename(&label("site"), &label("other"), true).unwrap();
        assert_eq!(store.labels().unwrap(), [label("other")]);
        assert_eq!(store.remove(&label("other")).unwrap().name(), key.name());
        assert_eq!(
            fs::read_dir(directory.path().join("keys")).unwrap().count(),
            0
        );
        assert!(matches!(
            store.key(&label("site")),
            Err(KeystoreError::NotFound { .. })
        ));
    }

    #[test]
    fn the_key_of_the_peer_stays() {
        let directory = tempfile::tempdir().unwrap();
        let store = Keystore::of_repository(directory.path());
        let (own, other) = (label(SELF), label("x"));
        store.add(&other, &SigningKey::generate()).unwrap();
        for refused in [
            store.add(&own, &SigningKey::generate()),
            store.remove(&own).map(drop),
            store.rename(&own, &other, true).map(drop),
            store.rename(&other, &own, true).map(drop),
        ] {
            assert!(matches!(refused, Err(KeystoreError::OwnKey { .. })));
        }
    }

    #[test]
    fn labels_are_checked() {
        for text in ["", ".", "..", "a/b", "-n", "a\nb", "a\\b", &"x".repeat(129)] {
            assert!(text.parse::<KeyLabel>().is_err(), "{text:?}");
        }
        for text in ["a", "my key", "ключ", &"x".repeat(128)] {
            let label = label(text);
            let store = Keystore::of_repository(Path::new("/r"));
            let file = store.path(&label);
            assert_eq!(
                label_of(file.file_name().unwrap().to_str().unwrap()),
                Some(label)
            );
        }
    }

    #[test]
    fn a_damaged_key_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let store = Keystore::of_repository(directory.path());
        store.add(&label("x"), &SigningKey::generate()).unwrap();
        fs::write(store.path(&label("x")), b"no key").unwrap();
        let refused = store.remove(&label("x"));
        assert!(matches!(refused, Err(KeystoreError::Malformed { .. })));
        assert_eq!(store.labels().unwrap(), [label("x")]);
    }
}
