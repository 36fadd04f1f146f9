//! Reading through a mount, beside a FUSE server that serves zeros: the limit of FUSE on this machine.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipfs_exec_tests::random::Random;

use crate::measure::{Contender, Sample, Work};
use crate::storage::{FILE_BYTES, PEAK_BYTES, make_file};
use crate::usage;

/// What a program reads at a time.
const READ_BYTES: usize = 1 << 20;
/// Reads at random, and their size.
const RANDOM_READS: u64 = 10_000;
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
        "10,000 random reads of 4 KiB",
        Reading::Random,
        "128 MiB",
        |_, _, peak| peak <= PEAK_BYTES,
    )
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
    let repository = place.join("repository");
    let added = Command::new(binary)
        .arg("--repo")
        .arg(&repository)
        .args(["add", "-Q"])
        .arg(&input)
        .output()
        .expect("ours starts");
    let cid = String::from_utf8(added.stdout).expect("a CID is text");
    let cid = cid.trim().to_owned();
    let at = place.join("at");
    std::fs::create_dir(&at).expect("the place is ours");
    let (ours_at, binary) = (at.clone(), binary.to_owned());
    let ours = Contender::new("ours", move || {
        let mut mount = Command::new(&binary);
        mount
            .arg("--repo")
            .arg(&repository)
            .args(["--offline", "mount", "--all"]);
        sample(mount.arg(&ours_at), &ours_at, &ours_at.join(&cid), reading)
    });
    let zero_mount = std::env::current_exe()
        .expect("a program knows its own path")
        .with_file_name("zero_mount");
    let zeros_at = at.clone();
    let zeros = Contender::new("zeros", move || {
        let mut mount = Command::new(&zero_mount);
        mount.arg(&zeros_at).arg(FILE_BYTES.to_string());
        sample(&mut mount, &zeros_at, &zeros_at.join("zeros"), reading)
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

/// Mounts, reads `file`, unmounts.
fn sample(mount: &mut Command, at: &Path, file: &Path, reading: Reading) -> Sample {
    let mut child = mount.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut ready = String::new();
    let stdout = child.stdout.take().expect("stdout is a pipe");
    BufReader::new(stdout)
        .read_line(&mut ready)
        .expect("the pipe is readable");
    assert!(!ready.is_empty(), "{mount:?} failed");
    let elapsed = read(file, reading);
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
