//! Read access of other users to a repository.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use ipfs_exec_node::repo::{Damage, RepoError, RepositoryOptions, Sharing};
use ipfs_exec_node::{Repository, WriteBlocksExt};

use crate::support::raw;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// The path of everything at and below `path`, directories after what is in them.
fn walk(path: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            found.extend(walk(&entry.unwrap().path()));
        }
    }
    found.push(path.to_owned());
    found
}

#[track_caller]
fn assert_private(path: &Path) {
    for path in walk(path) {
        let wanted = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&path), wanted, "{} is too open", path.display());
    }
}

/// Opens the repository, and uses it so that every file of it is there.
fn use_repository(path: &Path, sharing: Sharing, content: &[u8]) {
    let mut options = RepositoryOptions::default();
    options.sharing = sharing;
    let repository = Repository::open_with(path, options).unwrap();
    repository.put(&[raw(content)]).unwrap();
    for name in ["repo.db-wal", "repo.db-shm", "blocks/1.car", "run"] {
        assert!(path.join(name).exists(), "{name}");
    }
}

#[test]
fn an_existing_directory_becomes_a_private_repository() {
    let place = tempfile::tempdir().unwrap();
    for opened in [0o755, 0o775, 0o777] {
        let path = place.path().join(format!("{opened:o}"));
        fs::create_dir(&path).unwrap();
        set_mode(&path, opened);
        use_repository(&path, Sharing::Private, b"content");
        assert_private(&path);
    }
}

/// Versions before this one left the directory and the database as the umask had them.
#[test]
fn an_older_repository_is_closed() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("repository");
    use_repository(&path, Sharing::Private, b"content");
    fs::create_dir(path.join("keys")).unwrap();
    for name in ["keys/self", "swarm.key", "config.toml"] {
        fs::write(path.join(name), "").unwrap();
    }
    for path in walk(&path) {
        set_mode(&path, if path.is_dir() { 0o755 } else { 0o644 });
    }
    drop(Repository::open(&path).unwrap());
    assert_private(&path);
}

/// As with `--repo .` in a home directory: other programs may need it as it is.
#[test]
fn a_directory_with_other_things_stays_as_it_is() {
    let place = tempfile::tempdir().unwrap();
    let home = place.path().join("home");
    fs::create_dir(&home).unwrap();
    let other = home.join("index.html");
    fs::write(&other, "").unwrap();
    set_mode(&home, 0o755);
    set_mode(&other, 0o644);
    for content in [b"first", b"later"] {
        use_repository(&home, Sharing::Private, content);
        assert_eq!((mode(&home), mode(&other)), (0o755, 0o644));
        for entry in fs::read_dir(&home).unwrap() {
            let path = entry.unwrap().path();
            if path != other {
                assert_private(&path);
            }
        }
    }
}

#[test]
fn a_sticky_directory_stays_as_it_is() {
    let place = tempfile::tempdir().unwrap();
    let shared = place.path().join("tmp");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, Permissions::from_mode(0o1777)).unwrap();
    use_repository(&shared, Sharing::Private, b"content");
    assert_eq!(mode(&shared), 0o777);
    for entry in fs::read_dir(&shared).unwrap() {
        assert_private(&entry.unwrap().path());
    }
}

#[test]
fn only_files_needed_for_reading_are_shared() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("repository");
    use_repository(&path, Sharing::Private, b"before it is shared");
    fs::create_dir(path.join("keys")).unwrap();
    for name in ["keys/self", "swarm.key", "config.toml"] {
        fs::write(path.join(name), "").unwrap();
    }
    for (sharing, directory, file) in [
        (Sharing::Group, 0o750, 0o640),
        (Sharing::All, 0o755, 0o644),
        (Sharing::Group, 0o750, 0o640),
    ] {
        // A segment that another process made before it was shared.
        fs::write(path.join("blocks/2.car"), "").unwrap();
        set_mode(&path.join("blocks/2.car"), 0o600);
        use_repository(&path, sharing, format!("{sharing:?}").as_bytes());
        for name in ["", "blocks"] {
            assert_eq!(mode(&path.join(name)), directory, "{sharing:?} {name}");
        }
        for name in [
            "repo.db",
            "repo.db-wal",
            "repo.db-shm",
            "config.toml",
            "blocks/1.car",
            "blocks/2.car",
        ] {
            assert_eq!(mode(&path.join(name)), file, "{sharing:?} {name}");
        }
        for name in ["run", "rootfs", "keys"] {
            assert_eq!(mode(&path.join(name)), 0o700, "{sharing:?} {name}");
        }
        assert_eq!(mode(&path.join("swarm.key")), 0o600);
    }
    use_repository(&path, Sharing::Private, b"after");
    set_mode(&path.join("keys/self"), 0o600);
    assert_private(&path);
}

#[test]
fn a_new_repository_can_be_shared_at_once() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("repository");
    use_repository(&path, Sharing::All, b"content");
    for (name, wanted) in [
        ("", 0o755),
        ("repo.db-shm", 0o644),
        ("blocks/1.car", 0o644),
        ("rootfs", 0o700),
    ] {
        assert_eq!(mode(&path.join(name)), wanted, "{name}");
    }
}

/// Root made files in the repository of a user, who could no longer change or remove them.
#[test]
fn root_is_refused_the_repository_of_another_user() {
    const OTHER: u32 = 65534;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("repository");
    use_repository(&path, Sharing::Private, b"content");
    if !rustix::process::geteuid().is_root() {
        // Only root can give files away, and only root is refused.
        let repository = Repository::open(&path).unwrap();
        assert_eq!(repository.foreign_files().unwrap(), []);
        return;
    }
    for name in ["repo.db", "blocks"] {
        chown(path.join(name), Some(OTHER), None).unwrap();
        let opened = Repository::open(&path);
        assert!(
            matches!(&opened, Err(RepoError::ForeignOwner { owner, .. }) if owner.uid() == OTHER),
            "{name}: {opened:?}"
        );
        chown(path.join(name), Some(0), None).unwrap();
    }
    let segment = path.join("blocks/1.car");
    chown(&segment, Some(OTHER), None).unwrap();
    let repository = Repository::open(&path).unwrap();
    let mut damages = Vec::new();
    repository
        .verify(&mut |damage| damages.push(damage))
        .unwrap();
    assert!(
        matches!(&damages[..], [Damage::ForeignFile { file }] if file.path == segment),
        "{damages:?}"
    );
}
