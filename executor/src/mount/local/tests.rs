use ipfs_exec_node::Cancel;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::mount::protocol::{ROOT, node};

/// A tree, and what shows it.
struct Place {
    directory: tempfile::TempDir,
    local: Local,
}

impl Place {
    /// The tree is below `tree` of a directory, in which other files may be.
    fn new(covered: Option<&'static str>, fill: impl FnOnce(&Path)) -> Place {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().join("tree");
        fs::create_dir(&top).unwrap();
        fill(&top);
        let tree = Tree {
            directory: beneath::open_root(&top).unwrap(),
            name: "a tree".to_owned(),
            bytes: 7,
            covered,
        };
        let local = Local::new(tree, Cancel::default()).unwrap();
        Place { directory, local }
    }

    fn top(&self) -> std::path::PathBuf {
        self.directory.path().join("tree")
    }

    /// The node at a path, which is there.
    fn find(&self, path: &str) -> Arc<Inode> {
        let mut inode = self.local.inode(ROOT).unwrap();
        for name in path.split('/') {
            let found = self.local.lookup(inode.number, name.as_bytes());
            inode = found.unwrap().unwrap();
        }
        inode
    }

    fn read(&self, path: &str, range: Range<u64>) -> Result<Vec<u8>, Errno> {
        Ok(self.local.read(self.find(path).number, range)?.concat())
    }

    /// All of a directory, asked for in parts of `size` bytes: names, and type bits with them.
    fn list(&self, number: u64, size: u32, with_nodes: bool) -> Vec<(String, u32)> {
        let mut listed = Vec::new();
        let mut offset = 0;
        loop {
            let part = self.local.list(number, offset, size, with_nodes);
            let (bytes, entered) = part.unwrap();
            assert!(bytes.len() <= size as usize);
            if bytes.is_empty() {
                return listed;
            }
            for number in entered {
                self.local.forget(number, 1);
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                rest = &rest[if with_nodes { node(0, None).len() } else { 0 }..];
                let number =
                    |from: usize| u32::from_ne_bytes(rest[from..][..4].try_into().unwrap());
                let (length, kind) = (number(16) as usize, number(20) << 12);
                offset = u64::from_ne_bytes(rest[8..16].try_into().unwrap());
                let name = String::from_utf8(rest[24..][..length].to_vec()).unwrap();
                listed.push((name, kind));
                rest = &rest[24 + length.next_multiple_of(8)..];
            }
        }
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A program must not be able to tell a mount from the overlay that it stands for.
#[test]
fn attributes_equal_the_attributes_on_disk() {
    let place = Place::new(None, |top| {
        fs::create_dir(top.join("directory")).unwrap();
        fs::write(top.join("directory/file"), vec![7; 5000]).unwrap();
        fs::hard_link(top.join("directory/file"), top.join("other")).unwrap();
        symlink("target of a link", top.join("link")).unwrap();
        set_mode(&top.join("directory/file"), 0o6751);
        set_mode(&top.join("directory"), 0o1711);
        set_mode(top, 0o755);
    });
    for (path, mode) in [
        ("directory", 0o041_711),
        ("directory/file", 0o100_751),
        ("other", 0o100_751),
        ("link", 0o120_777),
    ] {
        let wanted = fs::symlink_metadata(place.top().join(path)).unwrap();
        let inode = place.find(path);
        let wanted = Attributes {
            inode: inode.number,
            size: wanted.size(),
            sectors: wanted.blocks(),
            links: wanted.nlink() as u32,
            mtime: (wanted.mtime(), wanted.mtime_nsec() as u32),
            mode,
            uid: 0,
            gid: 0,
        };
        assert_eq!(place.local.attributes(inode.number), Ok(wanted), "{path}");
    }
    let top = place.local.attributes(ROOT).unwrap();
    assert_eq!((top.mode, top.size, top.links), (0o040_755, 40, 1));
    let link = place.find("link").number;
    assert_eq!(place.local.read_link(link).unwrap(), b"target of a link");
    assert_eq!(place.local.bytes(), 7);
    assert!(place.local.take_failure().is_none());
}

#[test]
fn files_are_read_in_ranges() {
    let place = Place::new(None, |top| {
        fs::write(top.join("file"), "0123456789").unwrap()
    });
    for (range, wanted) in [
        (0..10, "0123456789"),
        (3..5, "34"),
        // Beyond the end: in part, at its edge, and as a whole.
        (8..20, "89"),
        (10..20, ""),
        (u64::MAX - 5..u64::MAX, ""),
    ] {
        let read = place.read("file", range.clone()).unwrap();
        assert_eq!(read, wanted.as_bytes(), "{range:?}");
    }
}

#[test]
fn names_that_are_not_there() {
    let place = Place::new(None, |top| fs::write(top.join("file"), "").unwrap());
    let file = place.find("file").number;
    let lookup = |parent, name: &[u8]| {
        place
            .local
            .lookup(parent, name)
            .map(|found| found.is_some())
    };
    assert_eq!(lookup(ROOT, b"missing"), Ok(false));
    assert_eq!(lookup(ROOT, &[b'n'; 255]), Ok(false));
    assert_eq!(lookup(ROOT, &[b'n'; 256]), Err(Errno::NAMETOOLONG));
    for name in [&b".."[..], b".", b"", b"../tree/file"] {
        assert_eq!(lookup(ROOT, name), Err(Errno::INVAL));
    }
    assert_eq!(lookup(file, b"below"), Err(Errno::NOTDIR));
    assert_eq!(place.local.read_link(file), Err(Errno::INVAL));
    assert_eq!(lookup(12345, b"file"), Err(Errno::STALE));
    assert!(place.local.take_failure().is_none());
}

/// The order of a disk would be part of a program's result.
#[test]
fn listings_are_sorted_and_whole() {
    let place = Place::new(Some("input"), |top| {
        for number in 0..300 {
            fs::write(top.join(format!("{}", number * 37 % 300)), "").unwrap();
        }
        fs::create_dir(top.join("input")).unwrap();
        fs::create_dir(top.join("directory")).unwrap();
        symlink("x", top.join("link")).unwrap();
    });
    let mut wanted: Vec<_> = (0..300)
        .map(|number| (number.to_string(), TYPE_FILE))
        .collect();
    wanted.extend([
        ("directory".to_owned(), TYPE_DIRECTORY),
        ("input".to_owned(), TYPE_FILE),
        ("link".to_owned(), TYPE_LINK),
    ]);
    wanted.sort();
    for name in ["..", "."] {
        wanted.insert(0, (name.to_owned(), TYPE_DIRECTORY));
    }
    // One entry with its node at a time, some, all.
    for size in [200, 1000, 1 << 20] {
        for with_nodes in [false, true] {
            let listed = place.list(ROOT, size, with_nodes);
            assert_eq!(listed, wanted, "{size} {with_nodes}");
        }
    }
    assert_eq!(place.local.nodes(), 0);
}

/// A directory and a file hide the mount point where `/input` is a file.
#[test]
fn a_mount_point_is_shown_as_a_file() {
    let place = Place::new(Some("input"), |top| {
        fs::create_dir_all(top.join("below/input")).unwrap();
        fs::create_dir(top.join("input")).unwrap();
    });
    let covered = place.find("input");
    assert_eq!(covered.attributes.mode, TYPE_FILE | COVER_MODE);
    assert_eq!(place.read("input", 0..10).unwrap(), b"");
    assert!(place.local.carries_mount(&covered));
    let other = place.find("below/input");
    assert_eq!(other.attributes.mode & TYPES, TYPE_DIRECTORY);
    assert!(!place.local.carries_mount(&other));
    assert_eq!(place.local.attributes(ROOT).unwrap().size, 60);
}

/// Somebody who can write the tree must not be able to have other files read.
#[test]
fn nothing_outside_of_the_tree_is_reached() {
    let place = Place::new(None, |top| {
        fs::create_dir(top.join("directory")).unwrap();
        fs::write(top.join("directory/file"), "inside").unwrap();
        fs::write(top.join("file"), "inside").unwrap();
    });
    let outside = place.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "secret").unwrap();
    let (below, file) = (place.find("directory/file"), place.find("file"));
    fs::rename(place.top().join("directory"), place.top().join("before")).unwrap();
    symlink("../outside", place.top().join("directory")).unwrap();
    fs::remove_file(place.top().join("file")).unwrap();
    symlink("../outside/file", place.top().join("file")).unwrap();
    // The directory was opened before, so that its old file is found.
    let read = place.local.read(below.number, 0..10).unwrap();
    assert_eq!(read.concat(), b"inside");
    assert_eq!(place.local.read(file.number, 0..10), Err(Errno::IO));
    let failure = place.local.take_failure().unwrap();
    assert_eq!(failure.to_string(), "cannot read `file` of a tree");
    let source = failure.source.downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(Errno::from_io_error(source), Some(Errno::LOOP));
    let other = Place::new(None, |top| symlink("/", top.join("link")).unwrap());
    let link = other.find("link").number;
    assert_eq!(other.local.lookup(link, b"etc").err(), Some(Errno::IO));
    assert!(other.local.list(link, 0, 1000, false).is_err());
}

/// A file of mode 0111 can be executed, which takes reading it.
#[test]
fn files_that_their_owner_cannot_read_are_read() {
    let place = Place::new(None, |top| {
        fs::write(top.join("file"), "program").unwrap();
        set_mode(&top.join("file"), 0o111);
    });
    assert_eq!(place.read("file", 0..7).unwrap(), b"program");
    assert!(place.local.take_failure().is_none());
}

/// A file that became shorter would otherwise end early, as if it had always been so.
#[test]
fn a_file_that_was_cut_off_is_an_error() {
    let place = Place::new(None, |top| {
        fs::write(top.join("file"), "0123456789").unwrap()
    });
    let file = place.find("file").number;
    fs::write(place.top().join("file"), "0123").unwrap();
    assert_eq!(place.local.read(file, 0..10), Err(Errno::IO));
    assert!(place.local.take_failure().is_some());
}

/// A process may have 1,024 files open by default, and a program has thousands.
#[test]
fn few_files_stay_open() {
    const FILES: usize = 3 * MAX_OPEN;
    let place = Place::new(None, |top| {
        for number in 0..FILES {
            let directory = top.join(number.to_string());
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("file"), number.to_string()).unwrap();
        }
    });
    for number in 0..FILES {
        let read = place.read(&format!("{number}/file"), 0..10).unwrap();
        assert_eq!(read, number.to_string().into_bytes());
    }
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let targets = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    let open = targets
        .filter(|target| target.starts_with(place.top()))
        .count();
    // The top twice: as it was handed in, and to find its entries by.
    assert!((MAX_OPEN..=2 * MAX_OPEN + 1).contains(&open), "{open}");
}
