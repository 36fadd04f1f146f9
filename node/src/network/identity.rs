//! Identity of this node among its peers: an Ed25519 key.
//!
//! The repository has one lasting key, in `keys/self`. It is encoded as libp2p and Kubo encode private
//! keys. Two processes must never speak as one peer. So a process that wants to speak with the lasting
//! key holds a lock on it. Every other process makes a key that lasts as long as the process.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use libp2p::PeerId;
use libp2p::identity::{DecodingError, Keypair};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// Only the user may read keys.
const PRIVATE_DIRECTORY: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;

/// Why the key of a repository cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The disk failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file is no private key.
    #[error("{} is no private key", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: DecodingError,
    },
    /// Another process speaks as this peer.
    #[error("another process serves as peer {peer_id} already")]
    InUse {
        /// The peer.
        peer_id: PeerId,
    },
}

/// The key that a node speaks as.
#[derive(Debug)]
pub struct Identity {
    keypair: Keypair,
    /// Locked for as long as the node may speak as the repository's peer.
    _lock: Option<File>,
}

impl Identity {
    /// A key that lasts as long as the process.
    pub fn passing() -> Identity {
        Identity {
            keypair: Keypair::generate_ed25519(),
            _lock: None,
        }
    }

    /// The key of the repository at `repository`, which is made if there is none, for this process
    /// alone.
    ///
    /// # Errors
    /// [`IdentityError::InUse`], and where the key cannot be read or made.
    pub fn of_repository(repository: &Path) -> Result<Identity, IdentityError> {
        let path = ensure(repository)?;
        let keypair = read(&path)?;
        let lock = File::open(&path).map_err(failed("open", &path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let peer_id = keypair.public().to_peer_id();
                return Err(IdentityError::InUse { peer_id });
            }
            Err(errno) => return Err(failed("lock", &path)(errno.into())),
        }
        Ok(Identity {
            keypair,
            _lock: Some(lock),
        })
    }

    /// The key of the repository at `repository`, or a passing one while another process uses that key.
    ///
    /// # Errors
    /// Where the key cannot be read or made.
    pub fn of_repository_or_passing(repository: &Path) -> Result<Identity, IdentityError> {
        match Identity::of_repository(repository) {
            Err(IdentityError::InUse { .. }) => Ok(Identity::passing()),
            identity => identity,
        }
    }

    pub(super) fn keypair(&self) -> &Keypair {
        &self.keypair
    }

    /// Whether it ends with the process: nobody will find this peer later.
    pub fn is_passing(&self) -> bool {
        self._lock.is_none()
    }

    /// The name that peers know it by.
    pub fn peer_id(&self) -> PeerId {
        self.keypair.public().to_peer_id()
    }
}

/// The name of the repository's peer, whether or not a process speaks as it now.
///
/// # Errors
/// Where the key cannot be read or made.
pub fn peer_id(repository: &Path) -> Result<PeerId, IdentityError> {
    Ok(read(&ensure(repository)?)?.public().to_peer_id())
}

/// Makes the key if there is none; gives its path.
fn ensure(repository: &Path) -> Result<PathBuf, IdentityError> {
    let keys = repository.join("keys");
    let path = keys.join("self");
    if path.exists() {
        return Ok(path);
    }
    DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_DIRECTORY)
        .create(&keys)
        .map_err(failed("create", &keys))?;
    let key = Keypair::generate_ed25519()
        .to_protobuf_encoding()
        .expect("an Ed25519 key can be encoded");
    let unfinished = keys.join(format!("self.{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(PRIVATE_FILE)
        .open(&unfinished)
        .map_err(failed("create", &unfinished))?;
    let written = file.write_all(&key).and_then(|()| file.sync_all());
    written.map_err(failed("write", &unfinished))?;
    // A link and not a rename: of processes that start together the first one's key stays.
    match fs::hard_link(&unfinished, &path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("create", &path)(error));
        }
        _ => {}
    }
    fs::remove_file(&unfinished).map_err(failed("remove", &unfinished))?;
    let directory = File::open(&keys).map_err(failed("open", &keys))?;
    directory.sync_all().map_err(failed("sync", &keys))?;
    Ok(path)
}

fn read(path: &Path) -> Result<Keypair, IdentityError> {
    let key = fs::read(path).map_err(failed("read", path))?;
    Keypair::from_protobuf_encoding(&key).map_err(|source| IdentityError::Malformed {
        path: path.to_owned(),
        source,
    })
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    move |source| IdentityError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_of_a_repository_stays_and_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let first = peer_id(directory.path()).unwrap();
        assert_eq!(peer_id(directory.path()).unwrap(), first);
        let keys = directory.path().join("keys");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&keys), PRIVATE_DIRECTORY);
        assert_eq!(mode(&keys.join("self")), PRIVATE_FILE);
        assert_eq!(fs::read_dir(&keys).unwrap().count(), 1);
    }

    #[test]
    fn one_process_at_a_time_speaks_as_it() {
        let directory = tempfile::tempdir().unwrap();
        let held = Identity::of_repository(directory.path()).unwrap();
        assert!(matches!(
            Identity::of_repository(directory.path()),
            Err(IdentityError::InUse { peer_id }) if peer_id == held.peer_id()
        ));
        assert_eq!(peer_id(directory.path()).unwrap(), held.peer_id());
        assert_ne!(Identity::passing().peer_id(), held.peer_id());
        drop(held);
        Identity::of_repository(directory.path()).unwrap();
    }

    #[test]
    fn a_damaged_key_is_named_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = ensure(directory.path()).unwrap();
        fs::write(&path, b"no key").unwrap();
        let error = Identity::of_repository(directory.path()).unwrap_err();
        assert!(matches!(error, IdentityError::Malformed { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"no key");
    }
}
