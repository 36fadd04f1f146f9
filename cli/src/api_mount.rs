//! The command lines of `ipfs-api-mount` and `ipfs-api-mount-whole`, as words of `mount`.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser};

use crate::output;

/// Mount a directory of IPFS, read-only
///
/// This is `ipfs-exec mount PATH DIR` with the options of the older tool. It needs no daemon.
#[derive(Debug, Parser)]
#[command(name = "ipfs-api-mount", version)]
struct OneArgs {
    /// Content path of a directory
    root: OsString,

    /// Empty directory of this machine
    mountpoint: OsString,

    #[command(flatten)]
    options: Options,
}

/// Mount all content of IPFS, read-only: every MOUNTPOINT/CID/path can be read
///
/// This is `ipfs-exec mount --all DIR` with the options of the older tool. It needs no daemon.
#[derive(Debug, Parser)]
#[command(name = "ipfs-api-mount-whole", version)]
struct WholeArgs {
    /// Empty directory of this machine
    mountpoint: OsString,

    #[command(flatten)]
    options: Options,
}

#[derive(Args, Debug)]
struct Options {
    /// Return when the mount is ready. A process in the background serves it
    #[arg(long)]
    background: bool,

    /// This is the process in the background
    #[arg(long, hide = true)]
    detached: bool,

    /// Let other users read the mount
    #[arg(long)]
    allow_other: bool,

    /// End a read with an error if no block arrives for this number of seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<String>,

    /// Report more; `-vv` reports everything
    #[arg(long, short, action = clap::ArgAction::Count)]
    verbose: u8,

    /// Append messages to this file
    #[arg(long, short, value_name = "FILE")]
    log: Option<OsString>,

    /// Accepted and without effect
    #[arg(long, value_name = "NUMBER")]
    ls_cache_size: Option<u64>,

    /// Accepted and without effect
    #[arg(long, value_name = "NUMBER")]
    block_cache_size: Option<u64>,

    /// Accepted and without effect
    #[arg(long, value_name = "NUMBER")]
    link_cache_size: Option<u64>,

    /// Accepted and without effect
    #[arg(long, value_name = "NUMBER")]
    attr_cache_size: Option<u64>,

    #[arg(long, hide = true)]
    api_host: Option<String>,

    #[arg(long, hide = true)]
    api_port: Option<String>,
}

/// A number of seconds, in the form that `mount` takes.
fn seconds(text: &str) -> Result<String, String> {
    let number: f64 = text.parse().map_err(|_| "give a number of seconds")?;
    if !(number > 0.0 && number <= 1e9) {
        return Err("it must be more than 0 and at most 1e9".to_owned());
    }
    Ok(format!("{}ms", (number * 1000.0).ceil()))
}

/// The words of `mount` for a call of the tool that mounts one directory.
pub(crate) fn one(arguments: &[OsString]) -> Result<Vec<OsString>, clap::Error> {
    let parsed: OneArgs = parse(arguments)?;
    let mut words = parsed.options.words::<OneArgs>()?;
    words.extend([parsed.root, parsed.mountpoint]);
    Ok(words)
}

/// The words of `mount` for a call of the tool that mounts everything.
pub(crate) fn whole(arguments: &[OsString]) -> Result<Vec<OsString>, clap::Error> {
    let parsed: WholeArgs = parse(arguments)?;
    let mut words = parsed.options.words::<WholeArgs>()?;
    words.insert(1, "--all".into());
    words.push(parsed.mountpoint);
    Ok(words)
}

fn parse<T: CommandFactory + FromArgMatches>(arguments: &[OsString]) -> Result<T, clap::Error> {
    T::from_arg_matches(&T::command().try_get_matches_from(arguments)?)
}

impl Options {
    /// `mount` and its options, closed by `--`.
    fn words<T: CommandFactory>(&self) -> Result<Vec<OsString>, clap::Error> {
        if self.api_host.is_some() || self.api_port.is_some() {
            return Err(T::command().error(
                ErrorKind::UnknownArgument,
                "there is no API to ask: leave out `--api-host` and `--api-port`. Content that the \
                 repository lacks comes from peers; name one with `ipfs-exec mount --peer MULTIADDR`",
            ));
        }
        let caches = [
            ("--ls-cache-size", self.ls_cache_size),
            ("--block-cache-size", self.block_cache_size),
            ("--link-cache-size", self.link_cache_size),
            ("--attr-cache-size", self.attr_cache_size),
        ];
        for (name, _) in caches.iter().filter(|(_, size)| size.is_some()) {
            if !self.detached {
                output::tell_line(format_args!(
                    "note: `{name}` has no effect: the repository keeps what was read"
                ));
            }
        }
        let mut words: Vec<OsString> = vec!["mount".into()];
        for (is_set, word) in [
            (self.background, "--background"),
            (self.detached, "--detached"),
            (self.allow_other, "--allow-other"),
        ] {
            words.extend(is_set.then(|| word.into()));
        }
        if let Some(timeout) = &self.timeout {
            words.extend(["--timeout".into(), timeout.into()]);
        }
        words.extend((0..self.verbose).map(|_| "--verbose".into()));
        if let Some(log) = &self.log {
            words.extend(["--log".into(), log.clone()]);
        }
        words.push("--".into());
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn older_options_become_those_of_mount() {
        for (call, wanted) in [
            ("x QmA dir", "mount -- QmA dir"),
            (
                "x --background --allow-other --timeout 2.5 -vv -l f QmA dir",
                "mount --background --allow-other --timeout 2500ms --verbose --verbose --log f -- QmA dir",
            ),
            ("x --timeout 1e-9 QmA dir", "mount --timeout 1ms -- QmA dir"),
        ] {
            assert_eq!(one(&words(call)).unwrap(), words(wanted), "{call}");
        }
        assert_eq!(whole(&words("x dir")).unwrap(), words("mount --all -- dir"));
    }

    #[test]
    fn options_that_cannot_work_are_refused() {
        for call in [
            "x --api-host h QmA dir",
            "x --api-port 1 QmA dir",
            "x --timeout 0 QmA dir",
            "x --timeout nan QmA dir",
            "x --timeout -1 QmA dir",
            "x --ls-cache-size many QmA dir",
            "x QmA",
        ] {
            assert!(one(&words(call)).is_err(), "{call}");
        }
    }
}
