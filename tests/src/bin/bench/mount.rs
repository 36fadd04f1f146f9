//! Reading through a mount, beside a FUSE server that serves zeros: the limit of FUSE on this machine.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipfs_exec_tests::random::Random;

use crate::measure::{self, Contender, Sample, Work};
use crate::storage::{FILE_BYTES, PEAK_BYTES, make_file, make_tree};
use crate::usage;

/// What a program reads at a time.
const READ_BYTES: usize = 1 << 20;
/// Reads at random, and their size.
const RANDOM_READS: u64 = 100_000;
const RANDOM_READ_BYTES: usize = 4096;

/// What is done with the file.
#[derive(Clone, Copy)]
enum Reading {
    Cold,
    /// Once more, from the page cache.
    Again,
    Random,
}

pub(crate) fn cold(binary: &Path, place: &Path) -> Work {
    work(
        binary,
        place,
        "read 1 GiB through a mount, cold",
        Reading::Cold,
        "0.6 x the limit",
        |ours, zeros, peak| ours.mul_f64(0.6) <= zeros && peak <= PEAK_BYTES,
    )
}

pub(crate) fn again(binary: &Path, place: &Path) -> Work {
    work(
        binary,
        place,
        "the same, from the page cache",
        Reading::Again,
        "the limit",
        |ours, zeros, peak| ours <= zeros.mul_f64(1.1) && peak <= PEAK_BYTES,
    )
}

pub(crate) fn random(binary: &Path, place: &Path) -> Work {
    work(
        binary,
        place,
        "100,000 random reads of 4 KiB",
        Reading::Random,
        "128 MiB",
        |_, _, peak| peak <= PEAK_BYTES,
    )
}

pub(crate) fn names(binary: &Path, place: &Path) -> Work {
    walk(
        binary,
        place,
        "`find` over 10,000 files of a mount",
        &["find"],
    )
}

pub(crate) fn attributes(binary: &Path, place: &Path) -> Work {
    walk(
        binary,
        place,
        "`ls -lR` over 10,000 files of a mount",
        &["ls", "-lR"],
    )
}

/// Has a program walk through a tree that is mounted, and through the one that it was made of.
fn walk(
    binary: &Path,
    place: &Path,
    title: &'static str,
    program: &'static [&'static str],
) -> Work {
    let (input, _) = make_tree(place);
    let (repository, cid) = add(binary, place, &input);
    let at = place.join("at");
    std::fs::create_dir(&at).expect("the place is ours");
    let binary = binary.to_owned();
    let list = move |directory: &Path| {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(directory);
        measure::command(&mut command).elapsed
    };
    let ours = Contender::new("ours", move || {
        let mut mount = Command::new(&binary);
        mount.arg("--repo").arg(&repository);
        mount.args(["--offline", "mount", &cid]);
        sample(mount.arg(&at), &at, || list(&at))
    });
    let plain = Contender::new("the tree on disk", move || Sample {
        elapsed: list(&input),
        peak_bytes: None,
    });
    Work {
        title,
        bytes: None,
        ours,
        peers: vec![plain],
        samples_a_round: 1,
        target: "1 s",
        met: |ours, _, peak| ours <= Duration::from_secs(1) && peak <= PEAK_BYTES,
    }
}

/// Adds `input` to a new repository.
fn add(binary: &Path, place: &Path, input: &Path) -> (PathBuf, String) {
    let repository = place.join("repository");
    let added = Command::new(binary)
        .arg("--repo")
        .arg(&repository)
        .args(["add", "-Q"])
        .arg(input)
        .output()
        .expect("ours starts");
    let cid = String::from_utf8(added.stdout).expect("a CID is text");
    (repository, cid.trim().to_owned())
}

fn work(
    binary: &Path,
    place: &Path,
    title: &'static str,
    reading: Reading,
    target: &'static str,
    met: fn(Duration, Duration, u64) -> bool,
) -> Work {
    let input = make_file(place, FILE_BYTES);
    let (repository, cid) = add(binary, place, &input);
    let at = place.join("at");
    std::fs::create_dir(&at).expect("the place is ours");
    let (ours_at, binary) = (at.clone(), binary.to_owned());
    let ours = Contender::new("ours", move || {
        let mut mount = Command::new(&binary);
        mount
            .arg("--repo")
            .arg(&repository)
            .args(["--offline", "mount", "--all"]);
        let file = ours_at.join(&cid);
        sample(mount.arg(&ours_at), &ours_at, || read(&file, reading))
    });
    let zero_mount = std::env::current_exe()
        .expect("a program knows its own path")
        .with_file_name("zero_mount");
    let zeros_at = at.clone();
    let zeros = Contender::new("zeros", move || {
        let mut mount = Command::new(&zero_mount);
        mount.arg(&zeros_at).arg(FILE_BYTES.to_string());
        let file = zeros_at.join("zeros");
        sample(&mut mount, &zeros_at, || read(&file, reading))
    });
    let plain = Contender::new("the plain file", move || Sample {
        elapsed: read(&input, reading),
        peak_bytes: None,
    });
    let bytes = match reading {
        Reading::Random => RANDOM_READS * RANDOM_READ_BYTES as u64,
        _ => FILE_BYTES,
    };
    Work {
        title,
        bytes: Some(bytes),
        ours,
        peers: vec![zeros, plain],
        samples_a_round: 1,
        target,
        met,
    }
}

/// Mounts, does what takes the time, unmounts.
fn sample(mount: &mut Command, at: &Path, work: impl FnOnce() -> Duration) -> Sample {
    let mut child = mount.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut ready = String::new();
    let stdout = child.stdout.take().expect("stdout is a pipe");
    BufReader::new(stdout)
        .read_line(&mut ready)
        .expect("the pipe is readable");
    assert!(!ready.is_empty(), "{mount:?} failed");
    let elapsed = work();
    let unmounted = Command::new("fusermount3").arg("-u").arg(at).status();
    assert!(
        unmounted.is_ok_and(|status| status.success()),
        "cannot unmount"
    );
    let usage = usage::wait(child).expect("the child is ours");
    Sample {
        elapsed,
        peak_bytes: Some(usage.peak_bytes),
    }
}

fn read(file: &Path, reading: Reading) -> Duration {
    if matches!(reading, Reading::Again) {
        read_through(file);
    }
    let started = Instant::now();
    match reading {
        Reading::Cold | Reading::Again => read_through(file),
        Reading::Random => read_at_random(file),
    }
    started.elapsed()
}

fn read_through(file: &Path) {
    let mut file = File::open(file).expect("the file is there");
    let mut buffer = vec![0; READ_BYTES];
    while file.read(&mut buffer).expect("the file is readable") > 0 {}
}

fn read_at_random(file: &Path) {
    let file = File::open(file).expect("the file is there");
    let mut random = Random::new(99);
    let mut buffer = [0; RANDOM_READ_BYTES];
    for _ in 0..RANDOM_READS {
        let number = random
            .bytes(8)
            .try_into()
            .map(u64::from_le_bytes)
            .expect("eight bytes");
        let offset = number % (FILE_BYTES / RANDOM_READ_BYTES as u64) * RANDOM_READ_BYTES as u64;
        file.read_exact_at(&mut buffer, offset)
            .expect("the file is readable");
    }
}
