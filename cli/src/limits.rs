//! Limits of a program: set by arguments, else by the configuration.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use ipfs_exec_executor::limits::Limits;
use serde::{Deserialize, Deserializer, de};

use crate::{duration, size};

/// Options of `run`, and the table `[limits]` of the configuration.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Memory of all processes together, with shared memory
    #[arg(long, value_name = "SIZE")]
    memory: Option<NonzeroSize>,

    /// Number of processors, such as 2 or 0.5. The program sees this number, rounded up
    #[arg(long, value_name = "NUMBER", value_parser = parse_cpus)]
    #[serde(deserialize_with = "cpus")]
    cpus: Option<f64>,

    /// Processor time of all processes together
    #[arg(long, value_name = "DURATION")]
    cpu_time: Option<Time>,

    /// Time from the program's start to the end of the import of its output
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Time>,

    /// Time of the whole command, with fetching and unpacking
    #[arg(long, value_name = "DURATION")]
    total_timeout: Option<Time>,

    /// Number of processes and threads at one time [default: 4096]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pids: Option<u64>,

    /// Bytes of the files in /output
    #[arg(long, value_name = "SIZE")]
    output_size: Option<Size>,

    /// Number of files, links and directories in /output
    #[arg(long, value_name = "NUMBER")]
    output_files: Option<u64>,

    /// Disk space of /tmp
    #[arg(long, value_name = "SIZE")]
    tmp_size: Option<Size>,

    /// Bytes that the program prints
    #[arg(long, value_name = "SIZE")]
    log_size: Option<Size>,

    /// Disk space that stays free [default: 1GiB, less if the disk is small or nearly full]
    #[arg(long, value_name = "SIZE")]
    keep_free: Option<Size>,

    /// Run the program even if this machine cannot enforce a limit
    #[arg(long)]
    best_effort_limits: bool,
}

/// A number of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size(pub(crate) u64);

/// A number of bytes that is not 0.
#[derive(Clone, Copy, Debug)]
struct NonzeroSize(u64);

/// A time that is not 0.
#[derive(Clone, Copy, Debug)]
struct Time(Duration);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        size::parse(text).map(Size)
    }
}

impl FromStr for NonzeroSize {
    type Err = String;

    fn from_str(text: &str) -> Result<NonzeroSize, String> {
        size::parse_nonzero(text).map(NonzeroSize)
    }
}

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Time, String> {
        duration::parse_nonzero(text).map(Time)
    }
}

impl<'de> Deserialize<'de> for NonzeroSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NonzeroSize, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

fn parse_cpus(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|cpus| check_cpus(*cpus));
    number.ok_or_else(|| "give a number of processors from 0.01 on, such as 2 or 0.5".to_owned())
}

fn check_cpus(cpus: f64) -> bool {
    (0.01..=65_536.0).contains(&cpus)
}

fn cpus<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let cpus = f64::deserialize(deserializer)?;
    if check_cpus(cpus) {
        Ok(Some(cpus))
    } else {
        Err(de::Error::custom(
            "it is no number of processors from 0.01 on",
        ))
    }
}

impl LimitArgs {
    /// Bytes of disk that stay free.
    pub(crate) fn keep_free(&self) -> Option<u64> {
        self.keep_free.map(|size| size.0)
    }

    /// These, and those of `defaults` that these do not say.
    pub(crate) fn limits(&self, defaults: &LimitArgs) -> Limits {
        let size = |own: Option<Size>, default: Option<Size>| own.or(default).map(|size| size.0);
        let time = |own: Option<Time>, default: Option<Time>| own.or(default).map(|time| time.0);
        let mut limits = Limits::default();
        limits.memory = self.memory.or(defaults.memory).map(|size| size.0);
        limits.cpus = self.cpus.or(defaults.cpus);
        limits.cpu_time = time(self.cpu_time, defaults.cpu_time);
        limits.timeout = time(self.timeout, defaults.timeout);
        limits.total_timeout = time(self.total_timeout, defaults.total_timeout);
        limits.pids = self.pids.or(defaults.pids);
        limits.output_size = size(self.output_size, defaults.output_size);
        limits.output_files = self.output_files.or(defaults.output_files);
        limits.tmp_size = size(self.tmp_size, defaults.tmp_size);
        limits.log_size = size(self.log_size, defaults.log_size);
        limits.keep_free = size(self.keep_free, defaults.keep_free);
        limits.best_effort = self.best_effort_limits || defaults.best_effort_limits;
        limits
    }
}
