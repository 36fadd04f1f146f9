//! The surroundings of every command: repository, upstreams, progress and interruption.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use ipfs_exec_node::KeepFree;
use ipfs_exec_node::network::{
    FetchOptions, Identity, LazyNetwork, Mdns, Multiaddr, NetworkOptions, Source, Upstreams,
};
use ipfs_exec_node::progress::Reporter;
use ipfs_exec_node::repo::{Reindexed, Repository, RepositoryOptions};

use crate::config::{Config, Server};
use crate::disk;
use crate::duration;
use crate::error::CommandError;
use crate::progress::Progress;
use crate::signals::Interrupt;

/// Options of every command, and those of commands that may use the network (`arguments` tells which).
#[derive(Args, Debug)]
#[command(next_help_heading = "Repository")]
pub(crate) struct GlobalArgs {
    /// Repository directory [default: $XDG_DATA_HOME/ipfs-exec or ~/.local/share/ipfs-exec]
    #[arg(long, value_name = "DIR", env = "IPFS_EXEC_PATH", global = true)]
    repo: Option<PathBuf>,

    /// Use only content of the repository, and no network
    #[arg(long, global = true)]
    offline: bool,

    /// Fetch missing blocks from the peer at this address; may be repeated
    #[arg(long = "peer", value_name = "MULTIADDR", global = true, help_heading = NETWORK)]
    peers: Vec<Multiaddr>,

    /// Look up providers of missing blocks in the DHT of the public network
    #[arg(long, global = true, help_heading = NETWORK)]
    public: bool,

    /// Fetch blocks that no peer has from this trustless gateway; may be repeated
    #[arg(long = "gateway", value_name = "URL", global = true, help_heading = NETWORK)]
    gateways: Vec<Server>,

    /// Look up providers of missing blocks at this delegated routing server; may be repeated
    #[arg(long = "router", value_name = "URL", global = true, help_heading = NETWORK)]
    routers: Vec<Server>,

    /// Do not search for peers on the local network
    #[arg(long, global = true, help_heading = NETWORK)]
    no_mdns: bool,

    /// End a fetch if no block arrives for this time [default: 30s]
    #[arg(long, value_name = "DURATION", global = true, help_heading = NETWORK,
          value_parser = duration::parse_nonzero)]
    idle_timeout: Option<Duration>,
}

const NETWORK: &str = "Network";

/// Time without a block after which a fetch gives up.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The surroundings of one command.
pub(crate) struct Context {
    path: Option<PathBuf>,
    pub(crate) interrupt: Interrupt,
    pub(crate) config: Config,
    /// Started when the first block is missing; `None` where there is nobody to ask.
    network: Option<LazyNetwork>,
    upstreams: Upstreams,
    is_offline: bool,
    pub(crate) idle_timeout: Duration,
}

impl Context {
    pub(crate) fn new(arguments: &GlobalArgs) -> Result<Context, CommandError> {
        match Context::examined(arguments)? {
            (context, None) => Ok(context),
            (_, Some(error)) => Err(error),
        }
    }

    /// As [`Context::new`]. Where the configuration cannot be read, gives the default one and the reason.
    pub(crate) fn examined(
        arguments: &GlobalArgs,
    ) -> Result<(Context, Option<CommandError>), CommandError> {
        let interrupt = Interrupt::install()
            .map_err(|error| CommandError::failed(format!("cannot take over signals: {error}")))?;
        let path = arguments.repo.clone().or_else(default_path);
        let read = path
            .as_deref()
            .map_or_else(|| Ok(Config::default()), Config::read);
        let (config, problem) = match read {
            Ok(config) => (config, None),
            Err(error) => (Config::default(), Some(error)),
        };
        let idle_timeout = arguments.idle_timeout.or(config.idle_timeout);
        let upstreams = upstreams(arguments, &config);
        let network = (!arguments.offline).then(|| upstreams.network(path.as_deref()));
        let context = Context {
            path,
            interrupt,
            network: network.flatten(),
            upstreams,
            is_offline: arguments.offline,
            config,
            idle_timeout: idle_timeout.unwrap_or(IDLE_TIMEOUT),
        };
        Ok((context, problem))
    }

    /// The node that this command may start; `None` if no peer and no server can be asked.
    pub(crate) fn network(&self) -> Option<&LazyNetwork> {
        self.network.as_ref()
    }

    /// Whether no network may be used.
    pub(crate) fn is_offline(&self) -> bool {
        self.is_offline
    }

    /// Whether peers may be looked for on the local network.
    pub(crate) fn looks_around(&self) -> bool {
        self.upstreams.mdns != Mdns::Off
    }

    /// What a node of this command is started with, as `identity`.
    pub(crate) fn network_options(
        &self,
        identity: Identity,
    ) -> Result<NetworkOptions, CommandError> {
        Ok(self.upstreams.options(identity, self.path.as_deref())?)
    }

    /// Does `work` with the blocks of the repository and, unless offline, those of peers. What came
    /// from them stays, also where the work fails.
    pub(crate) fn with_blocks<T>(
        &self,
        repository: &Repository,
        reporter: &dyn Reporter,
        work: impl FnOnce(&Source<'_>) -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        self.with_blocks_within(self.idle_timeout, repository, reporter, work)
    }

    /// The same, with what stays free on the disk of the repository.
    pub(crate) fn with_blocks_keeping<T>(
        &self,
        keep_free: KeepFree,
        repository: &Repository,
        reporter: &dyn Reporter,
        work: impl FnOnce(&Source<'_>) -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        let mut options = FetchOptions::default();
        options.idle_timeout = self.idle_timeout;
        options.keep_free = keep_free;
        self.with_fetched(options, repository, reporter, work)
    }

    /// The same, with another time after which a fetch gives up.
    pub(crate) fn with_blocks_within<T>(
        &self,
        idle_timeout: Duration,
        repository: &Repository,
        reporter: &dyn Reporter,
        work: impl FnOnce(&Source<'_>) -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        let mut options = FetchOptions::default();
        options.idle_timeout = idle_timeout;
        options.keep_free = disk::default_keep_free(self, repository.path())?;
        self.with_fetched(options, repository, reporter, work)
    }

    fn with_fetched<T>(
        &self,
        options: FetchOptions,
        repository: &Repository,
        reporter: &dyn Reporter,
        work: impl FnOnce(&Source<'_>) -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        let source = Source::new(repository, self.network.as_ref(), options, reporter);
        let result = work(&source);
        let kept = source.finish();
        let result = result?;
        kept?;
        Ok(result)
    }

    /// Where the repository is, or would be.
    pub(crate) fn repository_path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Opens the repository for a node that serves it.
    pub(crate) fn shared_repository(&self) -> Result<Arc<Repository>, CommandError> {
        Ok(Arc::new(self.repository()?))
    }

    /// As [`Context::shared_repository`]; nothing waits for other processes after `deadline`.
    pub(crate) fn repository_until(
        &self,
        deadline: Option<Instant>,
    ) -> Result<Arc<Repository>, CommandError> {
        let mut options = self.repository_options();
        options.cancel = options.cancel.until(deadline);
        Ok(Arc::new(Repository::open_with(
            self.chosen_path()?,
            options,
        )?))
    }

    /// Opens the repository; the first use creates it.
    pub(crate) fn repository(&self) -> Result<Repository, CommandError> {
        Ok(Repository::open_with(
            self.chosen_path()?,
            self.repository_options(),
        )?)
    }

    /// Rebuilds the database of the repository.
    pub(crate) fn reindex(&self, reporter: &dyn Reporter) -> Result<Reindexed, CommandError> {
        Ok(Repository::reindex(
            self.chosen_path()?,
            self.repository_options(),
            reporter,
        )?)
    }

    fn chosen_path(&self) -> Result<&Path, CommandError> {
        self.path.as_deref().ok_or_else(|| {
            CommandError::failed("no place for the repository: HOME is not set")
                .with_hint("give one with `--repo DIR` or IPFS_EXEC_PATH")
        })
    }

    fn repository_options(&self) -> RepositoryOptions {
        let mut options = RepositoryOptions::default();
        options.sharing = self.config.sharing();
        options.cancel = self.interrupt.cancel().clone();
        options
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress::new(self.interrupt.cancel().clone())
    }
}

fn default_path() -> Option<PathBuf> {
    let absolute = |variable| {
        std::env::var_os(variable)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
    data.map(|data| data.join("ipfs-exec"))
}

/// The upstreams of missing content, from the arguments and the configuration together.
fn upstreams(arguments: &GlobalArgs, config: &Config) -> Upstreams {
    let both = |configured: &[Server], named: &[Server]| {
        let all = configured.iter().chain(named);
        all.map(|server| server.0.clone()).collect()
    };
    let mut upstreams = Upstreams::peers([&config.peers[..], &arguments.peers].concat());
    upstreams.bootstrap.clone_from(&config.bootstrap);
    if arguments.public || config.public {
        upstreams.bootstrap.extend(Upstreams::public_bootstrap());
    }
    upstreams.gateways = both(&config.gateways, &arguments.gateways);
    upstreams.routers = both(&config.routers, &arguments.routers);
    if config.mdns.unwrap_or(true) && !arguments.no_mdns {
        upstreams.mdns = Mdns::OnDemand;
    }
    upstreams
}
