//! Content in and out of a repository, beside what only copies or only hashes it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ipfs_exec_tests::random::Random;
use sha2::{Digest, Sha256};

use crate::measure::{self, Contender, Sample, Work};

/// Size of the one large file: 1 GiB.
pub(crate) const FILE_BYTES: u64 = 1 << 30;
/// How many small files there are, and their size; a hundred in each directory.
pub(crate) const FILES: u64 = 10_000;
pub(crate) const SMALL_FILE_BYTES: usize = 4096;
const FILES_A_DIRECTORY: u64 = 100;
/// Memory that the import of a large file may take.
const IMPORT_PEAK_BYTES: u64 = 64 << 20;
/// Memory that anything may take.
pub(crate) const PEAK_BYTES: u64 = 128 << 20;

pub(crate) fn import_file(binary: &Path, place: &Path) -> Work {
    let input = make_file(place, FILE_BYTES);
    let ours = import(binary, place, &input);
    let copy = place.join("copy");
    let dd = {
        let input = input.clone();
        Contender::new("`dd conv=fdatasync`", move || {
            let mut dd = Command::new("dd");
            dd.arg(argument("if=", &input)).arg(argument("of=", &copy));
            let sample = measure::command(dd.args(["bs=1M", "conv=fdatasync"]));
            remove(&copy);
            sample
        })
    };
    Work {
        title: "import a file of 1 GiB",
        bytes: Some(FILE_BYTES),
        ours,
        peers: vec![dd, hash(vec![input])],
        samples_a_round: 1,
        target: "1.5 x `dd`, 64 MiB",
        met: |ours, dd, peak| ours <= dd.mul_f64(1.5) && peak <= IMPORT_PEAK_BYTES,
    }
}

pub(crate) fn import_tree(binary: &Path, place: &Path) -> Work {
    let (input, files) = make_tree(place);
    let ours = import(binary, place, &input);
    Work {
        title: "import 10,000 files of 4 KiB",
        bytes: Some(FILES * SMALL_FILE_BYTES as u64),
        ours,
        peers: vec![copy("-r", &input, place), hash(files)],
        samples_a_round: 1,
        target: "0.6 s, 128 MiB",
        met: |ours, _, peak| ours <= Duration::from_millis(600) && peak <= PEAK_BYTES,
    }
}

pub(crate) fn export_file(binary: &Path, place: &Path) -> Work {
    let input = make_file(place, FILE_BYTES);
    let ours = export(binary, place, &input);
    Work {
        title: "export a file of 1 GiB",
        bytes: Some(FILE_BYTES),
        ours,
        peers: vec![copy("-T", &input, place), hash(vec![input])],
        samples_a_round: 1,
        target: "1.5 x `cp`, 128 MiB",
        met: |ours, cp, peak| ours <= cp.mul_f64(1.5) && peak <= PEAK_BYTES,
    }
}

pub(crate) fn export_tree(binary: &Path, place: &Path) -> Work {
    let (input, files) = make_tree(place);
    let ours = export(binary, place, &input);
    Work {
        title: "export 10,000 files of 4 KiB",
        bytes: Some(FILES * SMALL_FILE_BYTES as u64),
        ours,
        peers: vec![copy("-r", &input, place), hash(files)],
        samples_a_round: 1,
        target: "0.6 s, 128 MiB",
        met: |ours, _, peak| ours <= Duration::from_millis(600) && peak <= PEAK_BYTES,
    }
}

/// Imports `input` into a fresh repository, durably.
fn import(binary: &Path, place: &Path, input: &Path) -> Contender {
    let (binary, input) = (binary.to_owned(), input.to_owned());
    let repository = place.join("repository");
    Contender::new("ours", move || {
        let mut add = Command::new(&binary);
        add.arg("--repo")
            .arg(&repository)
            .args(["add", "-Q"])
            .arg(&input);
        let sample = measure::command(&mut add);
        remove(&repository);
        sample
    })
}

/// Exports what was imported before.
fn export(binary: &Path, place: &Path, input: &Path) -> Contender {
    let binary = binary.to_owned();
    let (repository, output) = (place.join("repository"), place.join("output"));
    let added = Command::new(&binary)
        .arg("--repo")
        .arg(&repository)
        .args(["add", "-Q"])
        .arg(input)
        .output()
        .expect("the program can be started");
    let cid = String::from_utf8(added.stdout)
        .expect("a CID is text")
        .trim()
        .to_owned();
    assert!(
        added.status.success() && !cid.is_empty(),
        "cannot import the input"
    );
    rustix::fs::sync();
    Contender::new("ours", move || {
        let mut get = Command::new(&binary);
        get.arg("--repo")
            .arg(&repository)
            .args(["get", &cid, "-o"])
            .arg(&output);
        let sample = measure::command(&mut get);
        put_aside(&output);
        sample
    })
}

/// Copies `input`.
fn copy(option: &'static str, input: &Path, place: &Path) -> Contender {
    let (input, output) = (input.to_owned(), place.join("copy"));
    Contender::new(if option == "-r" { "`cp -r`" } else { "`cp`" }, move || {
        let mut cp = Command::new("cp");
        let sample = measure::command(cp.args([option, "--"]).arg(&input).arg(&output));
        put_aside(&output);
        sample
    })
}

/// Reads and hashes the files on one core.
fn hash(files: Vec<PathBuf>) -> Contender {
    let mut buffer = vec![0; 1 << 20];
    Contender::new("SHA-256", move || {
        let started = Instant::now();
        for path in &files {
            let mut file = File::open(path).expect("the input is ours");
            let mut digest = Sha256::new();
            while let count @ 1.. = file.read(&mut buffer).expect("the input is readable") {
                digest.update(&buffer[..count]);
            }
            std::hint::black_box(digest.finalize());
        }
        Sample {
            elapsed: started.elapsed(),
            peak_bytes: None,
        }
    })
}

pub(crate) fn make_file(place: &Path, bytes: u64) -> PathBuf {
    let path = place.join("input");
    let mut file = File::create_new(&path).expect("the place is ours");
    let mut random = Random::new(1);
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..bytes / (1 << 20) {
        random.fill(&mut buffer);
        file.write_all(&buffer)
            .expect("the disk has room for the input");
    }
    file.sync_all().expect("the disk has room for the input");
    path
}

pub(crate) fn make_tree(place: &Path) -> (PathBuf, Vec<PathBuf>) {
    let root = place.join("input");
    let mut random = Random::new(2);
    let mut files = Vec::new();
    for number in 0..FILES {
        let directory = root.join(format!("{:03}", number / FILES_A_DIRECTORY));
        fs::create_dir_all(&directory).expect("the place is ours");
        let path = directory.join(format!("{number:05}"));
        fs::write(&path, random.bytes(SMALL_FILE_BYTES)).expect("the disk has room for the input");
        files.push(path);
    }
    rustix::fs::sync();
    (root, files)
}

/// Removes a file or tree and waits for the disk, so that the next measurement finds it idle.
fn remove(path: &Path) {
    if path.is_dir() {
        fs::remove_dir_all(path).expect("the output is ours");
    } else {
        fs::remove_file(path).expect("the output is ours");
    }
    rustix::fs::sync();
}

/// Moves an output of many files away, to be removed with everything else, and waits for the disk.
fn put_aside(path: &Path) {
    if path.is_dir() {
        let aside = (0..).map(|number| path.with_extension(number.to_string()));
        let mut free = aside.skip_while(|aside| aside.exists());
        let aside = free.next().expect("there are more numbers than rounds");
        fs::rename(path, aside).expect("the output is ours");
        rustix::fs::sync();
    } else {
        remove(path);
    }
}

fn argument(key: &str, path: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from(key);
    argument.push(path);
    argument
}
