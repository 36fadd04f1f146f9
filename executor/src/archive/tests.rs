//! Archives that are right, wrong and hostile.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use ipfs_exec_node::CancelSource;
use ipfs_exec_node::block::MemoryBlocks;
use ipfs_exec_node::budget::{BudgetError, KeepFree};
use ipfs_exec_node::progress::Quiet;
use ipfs_exec_node::progress::Silent;
use ipfs_exec_node::unixfs::{ImportOptions, import_path};
use tar::{EntryType, Header};
use tempfile::TempDir;

use super::*;
use crate::beneath;
use ipfs_exec_node::tree;

const MTIME: u64 = 1_000_000_000;

/// Builds archives block by block, also those that no tar would write.
#[derive(Clone, Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn entry(self, kind: u8, path: &str, target: &str, content: &[u8]) -> Archive {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(EntryType::new(kind));
        header.set_mode(0o755);
        header.set_mtime(MTIME);
        header.set_size(content.len() as u64);
        self.raw(header).content(content)
    }

    fn raw(mut self, mut header: Header) -> Archive {
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self
    }

    fn content(mut self, content: &[u8]) -> Archive {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, content: &[u8]) -> Archive {
        self.entry(b'0', path, "", content)
    }

    fn directory(self, path: &str) -> Archive {
        self.entry(b'5', path, "", b"")
    }

    fn link(self, path: &str, target: &str) -> Archive {
        self.entry(b'2', path, target, b"")
    }

    fn hard_link(self, path: &str, target: &str) -> Archive {
        self.entry(b'1', path, target, b"")
    }

    fn pax(self, records: &[(&str, &str)]) -> Archive {
        let mut content = Vec::new();
        for (key, value) in records {
            let rest = format!(" {key}={value}\n");
            let mut length = rest.len();
            while length != rest.len() + length.to_string().len() {
                length = rest.len() + length.to_string().len();
            }
            content.extend_from_slice(format!("{length}{rest}").as_bytes());
        }
        self.entry(b'x', "pax", "", &content)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn unpack_with(bytes: impl Read + Send, budget: &Budget) -> (TempDir, Result<Unpacked, String>) {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("tree")).unwrap();
    let tree = beneath::open_root(&directory.path().join("tree")).unwrap();
    let result = unpack(bytes, tree.as_fd(), budget, &Silent).map_err(|error| error.to_string());
    (directory, result)
}

/// Unpacks; and imports, which has to give what adding the unpacked tree does.
fn unpacked(bytes: &[u8]) -> (TempDir, Unpacked) {
    let (directory, result) = unpack_with(bytes, &DEFAULT_BUDGET);
    let unpacked = result.unwrap();
    let (blocks, result) = import_from(bytes);
    let (imported, report) = result.unwrap();
    assert_eq!(report, unpacked);
    let options = ImportOptions {
        preserve_mode: true,
        preserve_mtime: true,
        make_readable: true,
        ..ImportOptions::default()
    };
    // Of a tree of its own, since reading changes what cannot be read.
    let (other, _) = unpack_with(bytes, &DEFAULT_BUDGET);
    let place = beneath::open_root(other.path()).unwrap();
    let name = Path::new("tree");
    let added = import_path(&blocks, place.as_fd(), name, &options, &Silent, &mut |_| {});
    assert_eq!(imported, added.unwrap());
    (directory, unpacked)
}

fn import_from(bytes: &[u8]) -> (MemoryBlocks, Result<(Imported, Unpacked), String>) {
    let (blocks, profile) = (MemoryBlocks::default(), Profile::default());
    let result = import(bytes, &blocks, &profile, &DEFAULT_BUDGET, &Silent);
    (blocks, result.map_err(|error| error.to_string()))
}

fn refused(bytes: &[u8]) -> String {
    let (directory, result) = unpack_with(bytes, &DEFAULT_BUDGET);
    let others = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(others, 1, "something stands beside the tree");
    let error = result.unwrap_err();
    assert_eq!(import_from(bytes).1.unwrap_err(), error);
    error
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstandard(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 3).unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn bzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

type Compress = fn(&[u8]) -> Vec<u8>;

const COMPRESSIONS: [(&str, Compress); 4] = [
    ("gzip", gzip),
    ("zstd", zstandard),
    ("xz", xz),
    ("bzip2", bzip),
];

#[test]
fn every_kind_of_entry() {
    let archive = Archive::default()
        .directory("./")
        .directory("/sbin/")
        .file("sbin/init", b"#!/bin/sh\n")
        .file("./a//b/./c", b"implied")
        .link("bin", "/usr/bin")
        .link("up", "../../../etc")
        .hard_link("sbin/again", "./sbin/init")
        .hard_link("bin2", "bin")
        .entry(b'3', "dev/null", "", b"")
        .entry(b'4', "dev/sda", "", b"")
        .entry(b'6', "fifo\x1b", "", b"")
        .file("old/", b"")
        .end();
    let (directory, report) = unpacked(&archive);
    let tree = directory.path().join("tree");
    assert_eq!(report.entries, 12);
    assert_eq!(fs::read(tree.join("sbin/init")).unwrap(), b"#!/bin/sh\n");
    assert_eq!(fs::read(tree.join("a/b/c")).unwrap(), b"implied");
    assert_eq!(
        fs::read_link(tree.join("bin")).unwrap(),
        Path::new("/usr/bin")
    );
    assert_eq!(
        fs::read_link(tree.join("up")).unwrap(),
        Path::new("../../../etc")
    );
    assert_eq!(
        fs::read_link(tree.join("bin2")).unwrap(),
        Path::new("/usr/bin")
    );
    let inode = |path: &str| fs::symlink_metadata(tree.join(path)).unwrap().ino();
    assert_eq!(inode("sbin/again"), inode("sbin/init"));
    assert!(tree.join("old").is_dir());
    assert!(!tree.join("dev").exists());
    let warnings: Vec<_> = report.warnings.iter().map(Warning::to_string).collect();
    assert_eq!(
        warnings,
        [
            "skipped `dev/null` of the rootfs archive: it is a character device",
            "skipped `dev/sda` of the rootfs archive: it is a block device",
            "skipped `fifo\\u{1b}` of the rootfs archive: it is a FIFO",
        ]
    );
}

#[test]
fn modes_and_times() {
    let with_mode = |archive: Archive, kind: u8, path: &str, mode: u32| {
        let mut header = Header::new_gnu();
        header.set_path(path).unwrap();
        header.set_entry_type(EntryType::new(kind));
        header.set_mode(mode);
        header.set_mtime(MTIME);
        header.set_size(0);
        archive.raw(header)
    };
    let mut archive = Archive::default();
    archive = with_mode(archive, b'5', "closed", 0o7500);
    archive = with_mode(archive, b'0', "closed/setid", 0o7755);
    archive = with_mode(archive, b'0', "closed/secret", 0o000);
    archive = with_mode(archive, b'5', "closed/empty", 0o000);
    archive = with_mode(archive, b'5', "twice", 0o700);
    archive = with_mode(archive, b'5', "twice", 0o711);
    archive = archive.link("link", "closed");
    let (directory, _) = unpacked(&archive.file("implied/file", b"").end());
    let tree = directory.path().join("tree");
    let cases = [
        ("", 0o755, 0),
        ("closed", 0o1500, MTIME),
        ("closed/setid", 0o755, MTIME),
        ("closed/secret", 0o000, MTIME),
        ("closed/empty", 0o000, MTIME),
        ("twice", 0o711, MTIME),
        ("link", 0o777, MTIME),
        ("implied", 0o755, 0),
        ("implied/file", 0o755, MTIME),
    ];
    for (path, mode, mtime) in cases {
        let status = fs::symlink_metadata(tree.join(path)).unwrap();
        assert_eq!(status.mode() & 0o7777, mode, "{path}");
        assert_eq!(status.mtime(), mtime as i64, "{path}");
    }
    tree::remove_tree(
        beneath::open_root(directory.path()).unwrap().as_fd(),
        b"tree",
    )
    .unwrap();
}

#[test]
fn long_names() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(255));
    let target = "t/".repeat(100);
    let ended = |text: &str| format!("{text}\0").into_bytes();
    let archive = Archive::default()
        .entry(b'L', "././@LongLink", "", &ended(&long))
        .file("short", b"gnu")
        .entry(b'K', "././@LongLink", "", &ended(&target))
        .entry(b'L', "././@LongLink", "", &ended("link"))
        .link("short", "short")
        .pax(&[
            ("path", "pax/\u{e4}\nname"),
            ("mtime", "-1.5"),
            ("SCHILY.xattr.user.x", "\0"),
        ])
        .file("short", b"pax")
        .pax(&[("linkpath", &target), ("comment", "x")])
        .link("link2", "short")
        .end();
    let (directory, _) = unpacked(&archive);
    let tree = directory.path().join("tree");
    assert_eq!(fs::read(tree.join(&long)).unwrap(), b"gnu");
    assert_eq!(
        fs::read_link(tree.join("link")).unwrap(),
        Path::new(&target)
    );
    assert_eq!(
        fs::read_link(tree.join("link2")).unwrap(),
        Path::new(&target)
    );
    let pax = fs::metadata(tree.join("pax/\u{e4}\nname")).unwrap();
    assert_eq!(
        (pax.len(), pax.mtime(), pax.mtime_nsec()),
        (3, -2, 500_000_000)
    );
}

#[test]
fn a_size_in_a_pax_header_counts() {
    let mut header = Header::new_ustar();
    header.set_path("file").unwrap();
    header.set_mode(0o644);
    header.set_size(0);
    let archive = Archive::default()
        .pax(&[("size", "3")])
        .raw(header)
        .content(b"abc")
        .end();
    let (directory, _) = unpacked(&archive);
    assert_eq!(
        fs::read(directory.path().join("tree/file")).unwrap(),
        b"abc"
    );
}

#[test]
fn global_pax_headers_set_times_only() {
    let archive = Archive::default()
        .entry(b'g', "global", "", b"12 mtime=77\n15 comment=abc\n")
        .file("file", b"")
        .end();
    let (directory, _) = unpacked(&archive);
    assert_eq!(
        fs::metadata(directory.path().join("tree/file"))
            .unwrap()
            .mtime(),
        77
    );
    let archive = Archive::default()
        .entry(b'g', "g", "", b"10 path=x\n")
        .file("f", b"")
        .end();
    assert!(refused(&archive).contains("a global PAX header describes a single entry"));
}

/// What GNU tar itself makes of a sparse file, in all of its formats.
#[test]
fn sparse_files_of_gnu_tar() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sparse");
    let mut wanted = vec![0; 12 << 20];
    for megabyte in 0..6 {
        let offset = (2 * megabyte + 1) << 20;
        wanted[offset..offset + 5000].fill(b'x');
    }
    let file = fs::File::create(&path).unwrap();
    file.set_len(wanted.len() as u64).unwrap();
    for megabyte in 0..6 {
        let offset = (2 * megabyte + 1) << 20;
        std::os::unix::fs::FileExt::write_all_at(
            &file,
            &wanted[offset..offset + 5000],
            offset as u64,
        )
        .unwrap();
    }
    for format in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let output = std::process::Command::new("tar")
            .args(["--create", "--sparse"])
            .args(format)
            .arg("--directory")
            .arg(directory.path())
            .arg("sparse")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(output.stdout.len() < 1 << 20, "{format:?} is not sparse");
        let (tree, _) = unpacked(&output.stdout);
        let found = tree.path().join("tree/sparse");
        assert!(fs::read(&found).unwrap() == wanted, "{format:?}");
        assert!(
            fs::metadata(&found).unwrap().blocks() * 512 < 1 << 20,
            "{format:?}"
        );
        let small = Budget {
            max_bytes: 12 << 20,
            ..DEFAULT_BUDGET
        };
        let (_tree, result) = unpack_with(&output.stdout[..], &small);
        assert!(
            result.unwrap_err().contains("more than 12 MiB"),
            "{format:?}"
        );
    }
}

#[test]
fn malformed_sparse_files() {
    let sparse = |regions: &[(u64, u64)], size: u64, real: u64| {
        let mut header = Header::new_gnu();
        header.set_path("sparse").unwrap();
        header.set_entry_type(EntryType::GNUSparse);
        header.set_size(size);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(real);
        for (slot, (offset, length)) in gnu.sparse.iter_mut().zip(regions) {
            slot.set_offset(*offset);
            slot.set_length(*length);
        }
        Archive::default()
            .raw(header)
            .content(&vec![1; size as usize])
            .end()
    };
    for (regions, size, real) in [
        (&[(0, 512), (256, 512)][..], 1024, 4096),
        (&[(1024, 512), (0, 512)], 1024, 4096),
        (&[(0, 512)], 1024, 4096),
        (&[(0, 1024)], 512, 4096),
        (&[(4096, 512)], 512, 4096),
        (&[(0, 100), (1024, 412)], 512, 4096),
        (&[(u64::MAX >> 1, u64::MAX >> 1)], 0, 4096),
    ] {
        let error = refused(&sparse(regions, size, real));
        assert!(
            error.contains("its sparse map is malformed"),
            "{regions:?}: {error}"
        );
    }
    let (directory, _) = unpacked(&sparse(&[(512, 512), (4096, 0)], 512, 4096));
    assert_eq!(
        fs::metadata(directory.path().join("tree/sparse"))
            .unwrap()
            .len(),
        4096
    );
    for map in ["", "0,1,2", "1,x", "0,3", "5,0,1,3"] {
        let records = [
            ("GNU.sparse.size", "9"),
            ("GNU.sparse.name", "s"),
            ("GNU.sparse.map", map),
        ];
        refused(&Archive::default().pax(&records).file("f", b"ab").end());
    }
    for content in [
        &b"2\n0\n1\n"[..],
        b"99999999\n",
        b"x\n",
        b"",
        b"1\n0\n512\n",
    ] {
        let mut padded = content.to_vec();
        padded.resize(512, 0);
        let records = [
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.realsize", "512"),
        ];
        refused(&Archive::default().pax(&records).file("f", &padded).end());
    }
}

#[test]
fn compressions_of_one_and_of_several_streams() {
    let archive = Archive::default()
        .file("a", &[7; 100_000])
        .file("b", b"second")
        .end();
    let (first, second) = archive.split_at(archive.len() / 2);
    for (name, compress) in COMPRESSIONS {
        let several = [compress(first), compress(second)].concat();
        for bytes in [compress(&archive), several] {
            let (directory, report) = unpacked(&bytes);
            assert_eq!(report.entries, 2, "{name}");
            assert_eq!(
                fs::read(directory.path().join("tree/b")).unwrap(),
                b"second",
                "{name}"
            );
        }
    }
}

#[test]
fn a_skippable_zstd_frame_may_come_first() {
    let mut bytes = vec![0x5a, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
    bytes.extend(zstandard(&Archive::default().file("a", b"x").end()));
    assert_eq!(unpacked(&bytes).1.entries, 1);
}

#[test]
fn files_that_are_no_archive() {
    let text = b"no archive at all\n".repeat(100);
    let mut cases = vec![
        Vec::new(),
        b"short".to_vec(),
        text.clone(),
        vec![0xff; 4096],
    ];
    cases.extend(COMPRESSIONS.map(|(_, compress)| compress(&text)));
    cases.extend(COMPRESSIONS.map(|(_, compress)| compress(b"")));
    for bytes in cases {
        assert_eq!(refused(&bytes), "it is no tar archive");
    }
}

#[test]
fn archives_cut_short_are_errors_wherever_they_end() {
    let archive = Archive::default()
        .pax(&[("mtime", "1")])
        .file("a", &[7; 1300])
        .entry(b'L', "long", "", b"name\0")
        .file("b", b"second")
        .directory("c");
    let blocks = archive.0.len();
    let whole = archive.end();
    for length in (0..=blocks).flat_map(|n| [n - n % 512, n - n % 100]) {
        refused(&whole[..length]);
    }
    assert_eq!(refused(&whole[..blocks]), "the archive is truncated");
    assert_eq!(refused(&whole[..blocks + 100]), "the archive is truncated");
    // One block of zeros says that the writer got to the end.
    unpacked(&whole[..blocks + 512]);
}

/// Also where the archive itself is complete and only the compressor's trailer is missing.
#[test]
fn compressed_archives_cut_short_are_errors_wherever_they_end() {
    let mut noise = vec![0; 700];
    let mut state = 1u32;
    for byte in &mut noise {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    let archive = Archive::default().file("a", &noise).end();
    for (name, compress) in COMPRESSIONS {
        let bytes = compress(&archive);
        for length in 0..bytes.len() {
            let (_directory, result) = unpack_with(&bytes[..length], &DEFAULT_BUDGET);
            assert!(
                result.is_err(),
                "{name} of {length} of {} bytes",
                bytes.len()
            );
        }
    }
}

/// gzip and its siblings ignore bytes after the last stream and say so. Downloads end with such bytes,
/// and were called truncated.
#[test]
fn bytes_after_the_last_compressed_stream_are_a_warning() {
    let archive = Archive::default().file("a", b"x").end();
    let (first, second) = archive.split_at(700);
    for (name, compress) in COMPRESSIONS {
        for trailing in [
            &b"\n"[..],
            b"BZh",
            b"<html>not found</html>",
            &[0xff; 100_000],
        ] {
            let bytes = [&compress(first)[..], &compress(second), trailing].concat();
            let (directory, report) = unpacked(&bytes);
            assert_eq!(fs::read(directory.path().join("tree/a")).unwrap(), b"x");
            let warnings: Vec<_> = report.warnings.iter().map(Warning::to_string).collect();
            let wanted =
                format!("ignored the bytes after the last {name} stream of the rootfs archive");
            assert_eq!(warnings, [wanted], "{trailing:?}");
        }
    }
    // Where they cut the archive short, that is the error.
    for (_, compress) in COMPRESSIONS {
        let bytes = [compress(&archive[..512]), b"trailing".to_vec()].concat();
        assert_eq!(refused(&bytes), "the archive is truncated");
    }
    let padded = [xz(first), vec![0; 512], xz(second), vec![0; 8]].concat();
    assert_eq!(unpacked(&padded).1.warnings, []);
}

/// Millions of empty streams decompress to nothing. The work between them ends when it should.
#[test]
fn endless_empty_streams_end_in_time() {
    struct Endless(Vec<u8>, usize);
    impl Read for Endless {
        fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
            let length = (&self.0[self.1..]).read(target)?;
            self.1 = (self.1 + length) % self.0.len();
            Ok(length)
        }
    }
    for (name, compress) in COMPRESSIONS {
        let budget = Budget {
            deadline: Some(Instant::now() + Duration::from_millis(300)),
            ..DEFAULT_BUDGET
        };
        let (_directory, result) = unpack_with(Endless(compress(b""), 0), &budget);
        assert!(result.unwrap_err().contains("time limit"), "{name}");
    }
}

/// Debian and Fedora link `lib` to `usr/lib`, and some of their packages name files through the link.
/// GNU tar and containerd write such an entry to the directory that the link leads to.
#[test]
fn entries_go_through_links_of_the_archive() {
    let archive = Archive::default()
        .directory("usr/lib")
        .link("lib", "usr/lib")
        .file("lib/a", b"a")
        .directory("lib/d")
        .file("lib/d/b", b"b")
        .link("lib/up", "../share")
        .file("lib/up/c", b"c")
        .link("run", "/var/run")
        .file("run/implied", b"d")
        .link("out", "../../../etc")
        .file("out/passwd", b"e")
        .hard_link("lib/again", "lib/up/c")
        .hard_link("lib/link", "run")
        .directory("lib")
        .file("lib/own", b"f")
        .end();
    let (directory, _) = unpacked(&archive);
    let tree = directory.path().join("tree");
    for (path, content) in [
        ("usr/lib/a", "a"),
        ("usr/lib/d/b", "b"),
        ("usr/share/c", "c"),
        ("usr/lib/again", "c"),
        ("var/run/implied", "d"),
        ("etc/passwd", "e"),
        ("lib/own", "f"),
    ] {
        assert_eq!(
            fs::read_to_string(tree.join(path)).unwrap(),
            content,
            "{path}"
        );
    }
    assert!(fs::symlink_metadata(tree.join("lib")).unwrap().is_dir());
    let target = fs::read_link(tree.join("usr/lib/link")).unwrap();
    assert_eq!(target, Path::new("/var/run"));
    assert!(!tree.join("usr/lib/own").exists());
}

/// `tar --append` and layers that were put together give a path twice; every tar keeps the last one.
#[test]
fn the_last_of_several_entries_with_a_path_counts() {
    let kinds: [fn(Archive) -> Archive; 4] = [
        |archive| archive.file("x", b"file"),
        |archive| archive.link("x", "target"),
        |archive| archive.hard_link("x", "other"),
        |archive| {
            archive
                .directory("x")
                .directory("x/d/e")
                .file("x/d/f", b"below")
        },
    ];
    for first in 0..kinds.len() {
        for second in 0..kinds.len() {
            let base = Archive::default().file("other", b"other").link("l", "x");
            let (directory, _) = unpacked(&kinds[second](kinds[first](base)).end());
            let tree = directory.path().join("tree");
            let (wanted, _) =
                unpacked(&kinds[second](Archive::default().file("other", b"other")).end());
            let wanted = wanted.path().join("tree");
            let kind = |tree: &Path| fs::symlink_metadata(tree.join("x")).unwrap().file_type();
            assert_eq!(kind(&tree), kind(&wanted), "{first} then {second}");
            let content = |tree: &Path| fs::read(tree.join("x")).ok();
            assert_eq!(content(&tree), content(&wanted), "{first} then {second}");
            assert_eq!(tree.join("x/d/f").exists(), second == 3);
            assert_eq!(fs::read(tree.join("other")).unwrap(), b"other");
        }
    }
}

/// A later entry must not be written through a hard link to an earlier one, and a parent that was opened
/// for the entry before must not be used when it was replaced.
#[test]
fn replaced_entries_leave_others_alone() {
    let archive = Archive::default()
        .file("a", b"old")
        .hard_link("b", "a")
        .hard_link("b", "b")
        .file("a", b"new")
        .file("d/one", b"1")
        .link("d", "e")
        .file("d/two", b"2")
        .link("here", "first")
        .file("here/x", b"1")
        .link("here", "second")
        .file("here/x", b"2")
        .file("c", b"")
        .file("./c", b"dot")
        .end();
    let (directory, _) = unpacked(&archive);
    let tree = directory.path().join("tree");
    for (path, content) in [
        ("a", "new"),
        ("b", "old"),
        ("e/two", "2"),
        ("first/x", "1"),
        ("second/x", "2"),
        ("c", "dot"),
    ] {
        assert_eq!(
            fs::read_to_string(tree.join(path)).unwrap(),
            content,
            "{path}"
        );
    }
    assert!(!tree.join("e/one").exists());
}

/// What a replaced directory cost is given back, or an archive that is put together of layers could be
/// refused for directories that are gone.
#[test]
fn replaced_entries_give_their_memory_back() {
    let path = |path: &str| EntryPath::parse(path.as_bytes()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let root = beneath::open_root(directory.path()).unwrap();
    let spending = Spending::new(&DEFAULT_BUDGET);
    let mut tree_writer = TreeWriter::new(root.as_fd(), &spending);
    let (blocks, profile) = (MemoryBlocks::default(), Profile::default());
    let mut dag_writer = DagWriter::new(&blocks, &profile, &DEFAULT_BUDGET, &Silent);
    type Make<'m> = &'m mut dyn FnMut(&str, Option<&str>) -> usize;
    let mut all: [Make<'_>; 2] = [
        &mut |name, target| {
            match target {
                Some(target) => {
                    tree_writer.symlink(&path(name), target.as_bytes(), member::NO_TIME)
                }
                None => tree_writer.directory(&path(name), 0o755, member::NO_TIME),
            }
            .unwrap();
            tree_writer.memory()
        },
        &mut |name, target| {
            match target {
                Some(target) => dag_writer.symlink(&path(name), target.as_bytes(), member::NO_TIME),
                None => dag_writer.directory(&path(name), 0o755, member::NO_TIME),
            }
            .unwrap();
            dag_writer.memory()
        },
    ];
    for make in &mut all {
        let before = make("x", Some("target"));
        let names = ["x", "x/a/b", "x/a", "x/c"];
        let grown = names.map(|name| make(name, None));
        assert!(grown[3] > before, "{grown:?}");
        assert_eq!(make("x", Some("target")), before);
    }
}

/// What GNU tar itself unpacks, with a path twice and a path through a link.
#[test]
fn gnu_tar_reads_the_same() {
    let archive = Archive::default()
        .directory("usr")
        .directory("usr/lib")
        .link("lib", "usr/lib")
        .file("lib/a", b"first")
        .file("usr/lib/a", b"second")
        .file("b", b"one")
        .hard_link("c", "b")
        .file("b", b"two")
        .link("b", "c")
        .end();
    let (ours, _) = unpacked(&archive);
    let theirs = tempfile::tempdir().unwrap();
    let file = theirs.path().join("archive");
    fs::write(&file, &archive).unwrap();
    fs::create_dir(theirs.path().join("tree")).unwrap();
    let output = std::process::Command::new("tar")
        .args(["--extract", "--file"])
        .arg(&file)
        .arg("--directory")
        .arg(theirs.path().join("tree"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let difference = std::process::Command::new("diff")
        .args(["--recursive", "--no-dereference"])
        .args([ours.path().join("tree"), theirs.path().join("tree")])
        .output()
        .unwrap();
    assert!(difference.status.success(), "{difference:?}");
}

#[test]
fn archives_of_images_are_named() {
    for (archive, words) in [
        (
            Archive::default()
                .file("blobs/sha256/aa", b"layer")
                .file("manifest.json", b"[]")
                .file("oci-layout", b"{}"),
            "`docker save`",
        ),
        (
            Archive::default()
                .file("blobs/sha256/aa", b"layer")
                .file("index.json", b"{}")
                .file("./oci-layout", b"{}"),
            "OCI image archive",
        ),
    ] {
        let error = refused(&gzip(&archive.end()));
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn content_after_the_end_is_ignored() {
    let bytes = [
        Archive::default().file("a", b"").end(),
        b"anything".repeat(1000),
    ]
    .concat();
    assert_eq!(unpacked(&bytes).1.entries, 1);
}

#[test]
fn refused_entries() {
    let long = "n".repeat(256);
    let deep = "d/".repeat(513);
    let lengthy = "0123456789/".repeat(400);
    let one = |path: &str| Archive::default().pax(&[("path", path)]).file("x", b"");
    let base = || {
        Archive::default()
            .link("l", "/tmp")
            .link("up", "..")
            .file("f", b"")
    };
    let cases = [
        (one("../x"), "../x", "its path leads out of the tree"),
        (
            one("a/../../x"),
            "a/../../x",
            "its path leads out of the tree",
        ),
        (one("/.."), "/..", "its path leads out of the tree"),
        (one("a/.."), "a/..", "its path leads out of the tree"),
        (one(".."), "..", "its path leads out of the tree"),
        (one(""), "", "it has no name"),
        (one("."), "", "it has no name"),
        (one("a\0b"), "a\\u{0}b", "its name holds a NUL byte"),
        (
            one(&long),
            &long,
            "its name has a part of more than 255 bytes",
        ),
        (
            one(&format!("{deep}x")),
            "",
            "it lies more than 512 directories deep",
        ),
        (one(&lengthy), "", "its path has more than 4095 bytes"),
        (
            base().file("f/x", b""),
            "f/x",
            "it goes through an entry that is no directory",
        ),
        (
            base().file("f/a/x", b""),
            "f/a/x",
            "it goes through an entry that is no directory",
        ),
        (
            base().link("x", ""),
            "x",
            "its link target is empty, too long or holds a NUL byte",
        ),
        (
            base().hard_link("x", "y"),
            "x",
            "it is a hard link to an entry that is not there",
        ),
        (
            base().hard_link("x", "f/y"),
            "x",
            "it is a hard link to an entry that is not there",
        ),
        (
            base().hard_link("x", "y/z"),
            "x",
            "it is a hard link to an entry that is not there",
        ),
        (
            base().hard_link("x", "../f"),
            "x",
            "it is a hard link to a path outside the tree",
        ),
        (
            base().hard_link("x", "l/passwd"),
            "x",
            "it is a hard link to an entry that is not there",
        ),
        (
            base().file("d/e/f", b"").hard_link("d", "d/e/f"),
            "d",
            "it is a hard link in place of the directory that holds its target",
        ),
        (
            Archive::default()
                .link("a", "b")
                .link("b", "a")
                .file("a/x", b""),
            "a/x",
            "it goes through more than 40 symbolic links",
        ),
        (
            base().link("file", "f").file("file/x", b""),
            "file/x",
            "it goes through an entry that is no directory",
        ),
        (
            base()
                .pax(&[("linkpath", &"0123456789/".repeat(370))])
                .link("longer", "")
                .file("longer/0123456789/0123456789/0123456789/x", b""),
            "longer/0123456789/0123456789/0123456789/x",
            "its path has more than 4095 bytes",
        ),
        (
            base().hard_link("x", "/"),
            "x",
            "it is a hard link to a directory",
        ),
        (
            base().directory("d").hard_link("x", "d"),
            "x",
            "it is a hard link to a directory",
        ),
        (
            base().entry(b'1', "x", "f", b"c"),
            "x",
            "has content, which its type cannot have",
        ),
        (
            base().entry(b'2', "x", "f", b"c"),
            "x",
            "has content, which its type cannot have",
        ),
        (
            base().entry(b'5', "x", "", b"c"),
            "x",
            "has content, which its type cannot have",
        ),
        (
            base().entry(b'3', "x", "", b"c"),
            "x",
            "has content, which its type cannot have",
        ),
        (
            base().entry(b'M', "x", "", b""),
            "x",
            "its type is not supported",
        ),
        (
            base().entry(b'D', "x", "", b""),
            "x",
            "its type is not supported",
        ),
        (
            base().entry(b'~', "x", "", b""),
            "x",
            "its type is not supported",
        ),
    ];
    for (archive, name, reason) in cases {
        let error = refused(&archive.end());
        assert!(error.contains(reason), "{name}: {error}");
        if !name.is_empty() {
            assert!(
                error.contains(&format!("archive entry `{name}` is refused")),
                "{error}"
            );
        }
    }
}

#[test]
fn malformed_headers() {
    let mut broken = Archive::default().file("a", b"").file("b", b"");
    broken.0[512] ^= 1;
    let unreadable = {
        let mut header = Header::new_gnu();
        header.set_path("x").unwrap();
        header.as_old_mut().size.fill(b'9');
        Archive::default().raw(header)
    };
    let cases = [
        (broken, "the checksum of a header does not match"),
        (unreadable, "a size is no number"),
        (Archive::default().pax(&[("path", "x")]), "does not follow"),
        (
            Archive::default().pax(&[]).pax(&[]).file("a", b""),
            "described twice",
        ),
        (
            Archive::default()
                .entry(b'L', "", "", b"x")
                .entry(b'L', "", "", b"y")
                .file("a", b""),
            "described twice",
        ),
        (
            Archive::default()
                .entry(b'L', "", "", b"x")
                .pax(&[("path", "y")])
                .file("a", b""),
            "a long name stands in two headers",
        ),
        (
            Archive::default()
                .entry(b'x', "", "", b"nonsense")
                .file("a", b""),
            "malformed",
        ),
    ];
    for (archive, reason) in cases {
        let error = refused(&archive.end());
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

/// Endless zeros behind some bytes: what a bomb decompresses to.
fn bomb(front: Vec<u8>) -> impl Read + Send {
    io::Cursor::new(front).chain(io::repeat(0))
}

fn headed(kind: u8, size: u64) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_path("bomb").unwrap();
    header.set_entry_type(EntryType::new(kind));
    header.set_size(size);
    Archive::default().raw(header).0
}

#[test]
fn bombs_end_at_the_limit() {
    let options = Budget {
        max_bytes: 1 << 20,
        max_entries: 10,
        ..DEFAULT_BUDGET
    };
    let sparse = {
        let mut header = Header::new_gnu();
        header.set_path("sparse").unwrap();
        header.set_entry_type(EntryType::GNUSparse);
        header.set_size(0);
        header.as_gnu_mut().unwrap().set_real_size(1 << 40);
        Archive::default().raw(header).0
    };
    let cases = [
        ("content", headed(b'0', 10 << 30), "more than 1 MiB"),
        ("holes", sparse, "more than 1 MiB"),
        ("padding after the end", vec![0; 1024], "more than 1 MiB"),
        ("long name", headed(b'L', 10 << 30), "more than 1 MiB"),
        ("long link", headed(b'K', 10 << 30), "more than 1 MiB"),
        ("PAX header", headed(b'x', 10 << 30), "more than 1 MiB"),
        (
            "global PAX header",
            headed(b'g', 10 << 30),
            "more than 1 MiB",
        ),
    ];
    for (name, front, reason) in cases {
        let (_directory, result) = unpack_with(bomb(front), &options);
        let error = result.unwrap_err();
        assert!(error.contains(reason), "{name}: {error}");
    }
    let many = (0..11).fold(Archive::default(), |archive, n| {
        archive.file(&n.to_string(), b"")
    });
    let (_directory, result) = unpack_with(&many.end()[..], &options);
    assert_eq!(result.unwrap_err(), "it has more than 10 entries");
}

/// A map of a sparse file that never ends: 21 regions a block.
#[test]
fn endless_sparse_maps_end() {
    struct Map(u64);
    impl Read for Map {
        fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
            let mut block = tar::GnuExtSparseHeader::new();
            for part in block.sparse_mut() {
                part.set_offset(self.0);
                part.set_length(0);
                self.0 += 1;
            }
            block.set_is_extended(true);
            target[..512].copy_from_slice(block.as_bytes());
            Ok(512)
        }
    }
    let mut header = Header::new_gnu();
    header.set_path("sparse").unwrap();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(0);
    header.as_gnu_mut().unwrap().set_is_extended(true);
    let front = Archive::default().raw(header).0;
    let bytes = io::Cursor::new(front).chain(Map(0));
    let (_directory, result) = unpack_with(bytes, &DEFAULT_BUDGET);
    assert!(result.unwrap_err().contains("more than 1048576 regions"));
}

#[test]
fn compressed_bombs_end_at_the_limit() {
    let bytes = [headed(b'0', 64 << 20), vec![0; 64 << 20]].concat();
    let options = Budget {
        max_bytes: 1 << 20,
        ..DEFAULT_BUDGET
    };
    for (name, compress) in COMPRESSIONS {
        let (directory, result) = unpack_with(&compress(&bytes)[..], &options);
        assert!(result.unwrap_err().contains("more than 1 MiB"), "{name}");
        let written = fs::metadata(directory.path().join("tree/bomb"))
            .unwrap()
            .len();
        assert!(written <= 1 << 20, "{name} wrote {written}");
    }
}

#[test]
fn warnings_are_bounded() {
    let mut archive = Archive::default();
    for number in 0..150 {
        archive = archive.entry(b'6', &format!("fifo{number}"), "", b"");
    }
    let (_directory, report) = unpacked(&archive.end());
    assert_eq!((report.warnings.len(), report.more_warnings), (100, 50));
}

#[test]
fn interruption_stops_the_work() {
    let source = CancelSource::new().unwrap();
    source.cancel();
    let impatient = Quiet(source.token());
    let directory = tempfile::tempdir().unwrap();
    let tree = beneath::open_root(directory.path()).unwrap();
    let archive = Archive::default().file("a", b"").end();
    let options = DEFAULT_BUDGET;
    let error = unpack(&archive[..], tree.as_fd(), &options, &impatient).unwrap_err();
    assert!(matches!(error, ArchiveError::Interrupted));
}

/// A link that somebody else puts into the tree leads nowhere outside either.
#[test]
fn a_link_that_appears_meanwhile_does_not_lead_out() {
    let directory = tempfile::tempdir().unwrap();
    let outside = directory.path().join("outside");
    let tree = directory.path().join("tree");
    fs::create_dir(&outside).unwrap();
    fs::create_dir(&tree).unwrap();
    symlink(&outside, tree.join("a")).unwrap();
    let root = beneath::open_root(&tree).unwrap();
    let archive = Archive::default().file("a/b", b"").end();
    unpack(&archive[..], root.as_fd(), &DEFAULT_BUDGET, &Silent).unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let inside = tree.join(outside.strip_prefix("/").unwrap());
    assert!(inside.join("b").is_file());
}

/// The trees that GNU tar makes and unpacks itself are the reference.
#[test]
fn the_same_tree_as_gnu_tar() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    fs::create_dir_all(source.join("a/b")).unwrap();
    fs::write(source.join("a/file"), "content").unwrap();
    fs::set_permissions(source.join("a/file"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::hard_link(source.join("a/file"), source.join("a/b/again")).unwrap();
    symlink("../file", source.join("a/b/link")).unwrap();
    let long = format!("{0}/{0}", "l".repeat(70));
    fs::create_dir(source.join("a").join("l".repeat(70))).unwrap();
    fs::write(source.join(format!("a/{long}")), "long").unwrap();
    for format in ["v7", "ustar", "oldgnu", "gnu", "pax"] {
        if format == "v7" {
            fs::rename(
                source.join(format!("a/{long}")),
                directory.path().join("long"),
            )
            .unwrap();
        } else if directory.path().join("long").exists() {
            fs::rename(
                directory.path().join("long"),
                source.join(format!("a/{long}")),
            )
            .unwrap();
        }
        let output = std::process::Command::new("tar")
            .args(["--create", "--format", format, "--directory"])
            .arg(&source)
            .arg(".")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let (unpacked, _) = unpacked(&output.stdout);
        let difference = std::process::Command::new("tar")
            .args(["--compare", "--file", "-", "--directory"])
            .arg(unpacked.path().join("tree"))
            .stdin({
                let archive = directory.path().join("archive");
                fs::write(&archive, &output.stdout).unwrap();
                fs::File::open(archive).unwrap()
            })
            .output()
            .unwrap();
        assert!(difference.status.success(), "{format}: {difference:?}");
    }
}

/// Directories that no entry names take inodes, hard links take none.
#[test]
fn inodes_are_counted_and_bounded() {
    let archive = Archive::default()
        .file("a/b/c/file", b"x")
        .hard_link("link", "a/b/c/file")
        .link("symlink", "a")
        .end();
    for (max_inodes, fits) in [(4, false), (5, true)] {
        let budget = Budget {
            max_inodes,
            ..DEFAULT_BUDGET
        };
        let (_directory, result) = unpack_with(&archive[..], &budget);
        assert_eq!(result.is_ok(), fits, "{max_inodes}: {result:?}");
    }
}

#[test]
fn unpacking_and_importing_end_in_time_and_before_the_disk_is_full() {
    let soon = Budget {
        max_bytes: u64::MAX,
        deadline: Some(Instant::now() + Duration::from_millis(300)),
        ..DEFAULT_BUDGET
    };
    let full = Budget {
        keep_free: KeepFree {
            bytes: u64::MAX,
            inodes: 0,
        },
        ..DEFAULT_BUDGET
    };
    for (budget, words) in [(&soon, "time limit"), (&full, "would stay free")] {
        let (_directory, result) = unpack_with(bomb(headed(b'0', 10 << 40)), budget);
        let error = result.unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    let (blocks, profile) = (MemoryBlocks::default(), Profile::default());
    let soon = Budget {
        deadline: Some(Instant::now() + Duration::from_millis(300)),
        ..soon
    };
    let archive = bomb(headed(b'0', 10 << 40));
    let error = import(archive, &blocks, &profile, &soon, &Silent).unwrap_err();
    assert!(
        matches!(error, ArchiveError::Budget(BudgetError::Deadline)),
        "{error}"
    );
}
