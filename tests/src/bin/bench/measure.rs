//! One work, its contenders, and how their samples become a row.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::usage;

/// Head of the table.
pub(crate) const HEAD: &str = "\
| work | ours | beside it | ratio | spread of ours | peak memory | target | met |
| --- | --- | --- | --- | --- | --- | --- | --- |";

/// How long one contender took, once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) elapsed: Duration,
    /// Largest resident set of the program, if it is one.
    pub(crate) peak_bytes: Option<u64>,
}

/// Somebody who can do the work.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// Does it once, and cleans up outside the measured time.
    pub(crate) sample: Box<dyn FnMut() -> Sample>,
}

impl Contender {
    pub(crate) fn new(name: &'static str, sample: impl FnMut() -> Sample + 'static) -> Contender {
        Contender {
            name,
            sample: Box::new(sample),
        }
    }
}

/// Something that ours and others can do.
pub(crate) struct Work {
    pub(crate) title: &'static str,
    /// The bytes of content, for a rate.
    pub(crate) bytes: Option<u64>,
    pub(crate) ours: Contender,
    /// The first is the one of the target.
    pub(crate) peers: Vec<Contender>,
    /// How many samples a round takes: many of what is over in milliseconds.
    pub(crate) samples_a_round: usize,
    /// The target in words.
    pub(crate) target: &'static str,
    /// Whether it is met: by the medians of ours and of the first peer, and the peak of ours.
    pub(crate) met: fn(Duration, Duration, u64) -> bool,
}

/// Runs a command, which must succeed, and measures it from its start to its end.
pub(crate) fn command(command: &mut Command) -> Sample {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start: {error}"));
    let mut stderr = child.stderr.take().expect("stderr is a pipe");
    let usage = usage::wait(child).expect("the child is ours");
    let elapsed = started.elapsed();
    if !usage.status.success() {
        let mut message = Vec::new();
        io::copy(&mut stderr, &mut message).expect("the pipe is readable");
        panic!(
            "{command:?}: {}: {}",
            usage.status,
            String::from_utf8_lossy(&message)
        );
    }
    Sample {
        elapsed,
        peak_bytes: Some(usage.peak_bytes),
    }
}

/// Runs a command as [`command`] does, and measures it up to the first byte that it prints.
pub(crate) fn first_byte(command: &mut Command) -> Sample {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let started = Instant::now();
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start: {error}"));
    let mut stdout = child.stdout.take().expect("stdout is a pipe");
    let read = stdout.read_exact(&mut [0]);
    let elapsed = started.elapsed();
    io::copy(&mut stdout, &mut io::sink()).expect("the pipe is readable");
    let usage = usage::wait(child).expect("the child is ours");
    assert!(read.is_ok() && usage.status.success(), "{command:?} failed");
    Sample {
        elapsed,
        peak_bytes: Some(usage.peak_bytes),
    }
}

/// Has memory taken and given back by a process of its own, so that what is measured next finds free
/// memory that the machine really has.
fn touch_memory() {
    command(Command::new("dd").args([
        "if=/dev/zero",
        "of=/dev/null",
        "bs=2047M",
        "count=1",
        "iflag=fullblock",
    ]));
}

/// Measures all contenders in turn and makes the rows of the table: one for each peer.
pub(crate) fn rows(work: &mut Work, rounds: usize) -> String {
    let count = rounds * work.samples_a_round;
    let long = work.samples_a_round == 1;
    let sample = |contender: &mut Contender| {
        if long {
            touch_memory();
        }
        (contender.sample)()
    };
    // One of each that does not count: caches fill, directories come to be.
    sample(&mut work.ours);
    for peer in &mut work.peers {
        sample(peer);
    }
    let mut ours = Vec::new();
    let mut theirs = vec![Vec::new(); work.peers.len()];
    for round in 0..count {
        // Whoever comes second could profit or suffer: the order alternates.
        if round % 2 == 0 {
            ours.push(sample(&mut work.ours));
        }
        for (peer, samples) in work.peers.iter_mut().zip(&mut theirs) {
            samples.push(sample(peer));
        }
        if round % 2 == 1 {
            ours.push(sample(&mut work.ours));
        }
    }

    let (own, peak) = (median(&ours), peak(&ours));
    let limit = theirs.first().map_or(own, |samples| median(samples));
    let met = if (work.met)(own, limit, peak) {
        "yes"
    } else {
        "no"
    };
    let mut rows = String::new();
    for (index, (peer, samples)) in work.peers.iter().zip(&theirs).enumerate() {
        let other = median(samples);
        let ratio = own.as_secs_f64() / other.as_secs_f64();
        let title = if index == 0 { work.title } else { "" };
        let first = [work.target, met].map(|text| if index == 0 { text } else { "" });
        writeln!(
            rows,
            "| {title} | {} | {} {} | {ratio:.2} | {} | {} MiB | {} | {} |",
            shown(own, work.bytes),
            peer.name,
            shown(other, work.bytes),
            spread(&ours),
            peak >> 20,
            first[0],
            first[1],
        )
        .expect("writing to a string cannot fail");
    }
    rows.truncate(rows.trim_end().len());
    rows
}

fn median(samples: &[Sample]) -> Duration {
    let mut times: Vec<Duration> = samples.iter().map(|sample| sample.elapsed).collect();
    times.sort();
    let middle = times.len() / 2;
    if times.len() % 2 == 1 {
        times[middle]
    } else {
        (times[middle - 1] + times[middle]) / 2
    }
}

fn peak(samples: &[Sample]) -> u64 {
    samples
        .iter()
        .filter_map(|sample| sample.peak_bytes)
        .max()
        .unwrap_or(0)
}

fn spread(samples: &[Sample]) -> String {
    let times = || samples.iter().map(|sample| sample.elapsed);
    let (least, most) = (
        times().min().unwrap_or_default(),
        times().max().unwrap_or_default(),
    );
    format!("{} to {}", shown(least, None), shown(most, None))
}

fn shown(time: Duration, bytes: Option<u64>) -> String {
    let seconds = time.as_secs_f64();
    let text = if seconds < 0.1 {
        format!("{:.1} ms", seconds * 1e3)
    } else {
        format!("{seconds:.2} s")
    };
    match bytes {
        Some(bytes) => format!("{text} ({:.0} MB/s)", bytes as f64 / 1e6 / seconds),
        None => text,
    }
}
