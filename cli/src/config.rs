//! `config.toml` of the repository: what holds for every command that does not say otherwise.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use ipfs_exec_executor::rootfs::RootfsOptions;
use ipfs_exec_node::network::Multiaddr;
use ipfs_exec_node::network::http::{Url, parse_server};
use ipfs_exec_node::network::provide::Strategy;
use ipfs_exec_node::repo::Sharing;
use serde::{Deserialize, Deserializer, de};

use crate::duration;
use crate::error::{CommandError, LocalError};
use crate::limits::{LimitArgs, Size};

/// Longest file: thousands of peers.
const MAX_BYTES: u64 = 1 << 20;

/// The settings. Every one is optional.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Config {
    /// Peers that are asked for what is missing.
    #[serde(deserialize_with = "each")]
    pub(crate) peers: Vec<Multiaddr>,
    /// Peers by which a DHT is entered.
    #[serde(deserialize_with = "each")]
    pub(crate) bootstrap: Vec<Multiaddr>,
    /// Whether the DHT of the public network is entered.
    pub(crate) public: bool,
    /// Whether peers are looked for on the local network; they are, unless this says no.
    pub(crate) mdns: Option<bool>,
    /// Gateways that are asked for blocks.
    #[serde(deserialize_with = "each")]
    pub(crate) gateways: Vec<Server>,
    /// Servers that are asked who has content.
    #[serde(deserialize_with = "each")]
    pub(crate) routers: Vec<Server>,
    /// Which other users may read the repository; none, unless this says so.
    pub(crate) shared: Option<Shared>,
    /// Time without a block after which a fetch gives up.
    #[serde(deserialize_with = "duration::setting")]
    pub(crate) idle_timeout: Option<Duration>,
    /// Bytes that unpacked root file systems may take in the repository.
    rootfs_cache: Option<Size>,
    /// For those that serve.
    pub(crate) serve: ServeConfig,
    /// What programs may use.
    pub(crate) limits: LimitArgs,
}

/// How the repository is served.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ServeConfig {
    /// Where to listen.
    #[serde(deserialize_with = "each")]
    pub(crate) listen: Vec<Multiaddr>,
    /// Addresses that peers are told beside those.
    #[serde(deserialize_with = "each")]
    pub(crate) announce: Vec<Multiaddr>,
    /// What the DHT is told of.
    pub(crate) provide: Option<Provide>,
    /// Whether the router is asked to let others in; it is, unless this says no.
    pub(crate) port_mapping: Option<bool>,
}

/// The URL of a server.
#[derive(Clone, Debug)]
pub(crate) struct Server(pub(crate) Url);

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Server, String> {
        parse_server(text)
            .map(Server)
            .map_err(|error| error.to_string())
    }
}

/// Each of a list of texts, read as what it stands for.
fn each<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let parse = |text: String| {
        text.parse()
            .map_err(|error| de::Error::custom(format_args!("`{text}`: {error}")))
    };
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.into_iter().map(parse).collect()
}

impl Config {
    /// The settings of the repository at `repository`; without a file all is as it is by default.
    pub(crate) fn read(repository: &Path) -> Result<Config, CommandError> {
        let path = repository.join("config.toml");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(Config::default()),
            Err(source) => return Err(failed(path, source)),
        };
        let mut text = String::new();
        if let Err(source) = file.take(MAX_BYTES + 1).read_to_string(&mut text) {
            return Err(failed(path, source));
        }
        if text.len() as u64 > MAX_BYTES {
            return Err(failed(path, io::Error::other("it is too long")));
        }
        toml::from_str(&text).map_err(|error| invalid(&path, &text, &error))
    }

    /// Bytes that unpacked root file systems may take in the repository. Those in use stay in any case.
    pub(crate) fn rootfs_cache(&self) -> u64 {
        let chosen = self.rootfs_cache.map(|size| size.0);
        chosen.unwrap_or(RootfsOptions::DEFAULT_CACHE_CAP_BYTES)
    }

    /// Which other users may read the repository.
    pub(crate) fn sharing(&self) -> Sharing {
        match self.shared {
            None => Sharing::Private,
            Some(Shared::Group) => Sharing::Group,
            Some(Shared::All) => Sharing::All,
        }
    }
}

/// Which other users may read a repository that is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Shared {
    /// Those of the group that its files have.
    Group,
    /// All.
    All,
}

/// Where there is no repository yet there are no settings either.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn failed(path: PathBuf, source: io::Error) -> CommandError {
    let is_closed = source.kind() == io::ErrorKind::PermissionDenied;
    let failed = CommandError::from(LocalError {
        action: "read",
        path,
        source,
    });
    if is_closed {
        failed.with_hint(
            "give a repository of your own with `--repo`; the owner of this one can share it by \
             `shared` in its `config.toml`",
        )
    } else {
        failed
    }
}

fn invalid(path: &Path, text: &str, error: &toml::de::Error) -> CommandError {
    let before = error.span().map_or("", |span| &text[..span.start]);
    let line = before.matches('\n').count() + 1;
    CommandError::failed(format!(
        "{}, line {line}: {}",
        path.display(),
        error.message().replace('\n', ", ")
    ))
    .with_hint("correct or remove that line; the README lists the settings")
}

/// Of what the DHT is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Provide {
    /// The roots of recursive pins
    Roots,
    /// Every block below a pin
    Pinned,
    /// Every block
    All,
    /// Only the content that `ipfs-exec provide` named
    None,
}

impl From<Provide> for Strategy {
    fn from(provide: Provide) -> Strategy {
        match provide {
            Provide::Roots => Strategy::Roots,
            Provide::Pinned => Strategy::Pinned,
            Provide::All => Strategy::All,
            Provide::None => Strategy::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, CommandError> {
        let repository = std::env::temp_dir().join(format!("config-{}", std::process::id()));
        std::fs::create_dir_all(&repository).unwrap();
        std::fs::write(repository.join("config.toml"), text).unwrap();
        let config = Config::read(&repository);
        std::fs::remove_dir_all(&repository).unwrap();
        config
    }

    #[test]
    fn settings_are_read_and_mistakes_are_named() {
        let config = read(
            "peers = ['/ip4/192.0.2.7/tcp/4001']\nmdns = false\nshared = 'group'\nrootfs-cache = '8GiB'\ngateways = ['https://example.com']\n\
             [serve]\nprovide = 'pinned'\n\
             [limits]\nmemory = '2GiB'\ncpus = 1.5\ntimeout = '10m'\npids = 500\n",
        )
        .unwrap();
        let limits = config.limits.limits(&LimitArgs::default());
        assert_eq!(
            (limits.memory, limits.cpus, limits.pids),
            (Some(2 << 30), Some(1.5), Some(500))
        );
        assert_eq!(config.peers.len(), 1);
        assert_eq!(config.rootfs_cache(), 8 << 30);
        assert_eq!(Config::default().rootfs_cache(), 32 << 30);
        assert_eq!(config.mdns, Some(false));
        assert_eq!(config.sharing(), Sharing::Group);
        assert_eq!(Config::default().sharing(), Sharing::Private);
        assert_eq!(config.gateways[0].0.as_str(), "https://example.com/");
        assert_eq!(config.serve.provide, Some(Provide::Pinned));
        for (text, words) in [
            ("\npears = []", ["line 2", "pears"]),
            ("peers = ['nonsense']", ["line 1", "nonsense"]),
            ("gateways = ['ftp://a']", ["line 1", "ftp://a"]),
            ("[serve]\nprovide = 'some'", ["line 2", "some"]),
            ("shared = 'everybody'", ["line 1", "everybody"]),
            ("idle-timeout = 0", ["line 1", "more than 0"]),
            ("idle-timeout = '3M'", ["line 1", "minutes"]),
            ("idle-timeout = true", ["line 1", "seconds"]),
            ("[limits]\nmemory = '0'", ["line 2", "more than 0"]),
            ("[limits]\nmemory = 'much'", ["line 2", "unit"]),
            ("[limits]\ncpus = 0.0", ["line 2", "processors"]),
            ("[limits]\ntimeout = '0'", ["line 2", "more than 0"]),
            ("mdns = ", ["line 1", "config.toml"]),
        ] {
            let error = read(text).unwrap_err();
            for word in words {
                assert!(error.message().contains(word), "{text}: {error:?}");
            }
        }
    }
}
