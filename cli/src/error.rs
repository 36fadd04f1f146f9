//! Errors of commands, in words: kind, hint and exit code of every error.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use ipfs_exec_executor::archive::ArchiveError;
use ipfs_exec_node::block::BlockError;
use ipfs_exec_node::budget::BudgetError;
use ipfs_exec_node::car::CarError;
use ipfs_exec_node::dag::DagError;
use ipfs_exec_node::names::resolve::LookupError;
use ipfs_exec_node::names::{KeyError, KeystoreError, NameStoreError, RecordError, ResolveError};
use ipfs_exec_node::network::{FetchError, IdentityError, Multiaddr, NetworkError};
use ipfs_exec_node::path::{PathError, escape};
use ipfs_exec_node::repo::RepoError;
use ipfs_exec_node::unixfs::UnixfsError;

use crate::{output, signals};

/// A command failed.
const FAILED: u8 = 1;
/// The command line was wrong.
pub(crate) const USAGE: u8 = 2;
/// The reader of stdout went away; as if by the signal.
const BROKEN_PIPE: u8 = 128 + 13;

/// Why a command ended without success.
#[derive(Debug)]
pub(crate) struct CommandError {
    code: u8,
    message: String,
    hint: Option<Cow<'static, str>>,
    /// Nothing is to be said: the reader is gone, or the user knows.
    silent: bool,
    /// The user broke it off, which is no failure of the command.
    interrupted: bool,
}

impl CommandError {
    /// The command could not do what was asked.
    pub(crate) fn failed(message: impl Into<String>) -> CommandError {
        CommandError {
            code: FAILED,
            message: message.into(),
            hint: None,
            silent: false,
            interrupted: false,
        }
    }

    /// The command line asks for something that does not exist.
    pub(crate) fn usage(message: impl Into<String>) -> CommandError {
        CommandError {
            code: USAGE,
            ..CommandError::failed(message)
        }
    }

    /// Everything was said already.
    pub(crate) fn already_told() -> CommandError {
        CommandError {
            silent: true,
            ..CommandError::failed("")
        }
    }

    /// The user broke it off.
    pub(crate) fn interrupted() -> CommandError {
        CommandError {
            code: signals::exit_code(),
            interrupted: true,
            ..CommandError::failed("interrupted")
        }
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// Whether nothing is to be said of it.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    /// Whether the user broke the command off.
    pub(crate) fn is_interruption(&self) -> bool {
        self.interrupted
    }

    /// What is told of it, on one line.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// What the user can do about it.
    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> CommandError {
        self.hint = Some(hint.into());
        self
    }

    /// Takes a hint that belongs to a deeper cause.
    fn advise(&mut self, hint: Option<impl Into<Cow<'static, str>>>) {
        if let Some(hint) = hint {
            self.hint = Some(hint.into());
        }
    }

    /// The same, told as the reason of something larger.
    pub(crate) fn about(mut self, what: &str) -> CommandError {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// The same with another exit code, except where the user broke it off, or the reader of its output.
    pub(crate) fn with_code(mut self, code: u8) -> CommandError {
        if !self.interrupted && !self.silent {
            self.code = code;
        }
        self
    }

    /// An error of the libraries with all its causes.
    pub(crate) fn from_chain(error: &(dyn Error + 'static)) -> CommandError {
        let mut failed = CommandError::failed(chain(error));
        let mut cause = Some(error);
        while let Some(error) = cause {
            classify(error, &mut failed);
            if is_damage(error) {
                // Causes below it tell of peers, as for a block that is not here.
                failed.hint = Some(DAMAGED.into());
                break;
            }
            cause = error.source();
        }
        failed
    }

    /// Tells the user, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.silent {
            // In one piece: other processes may write to the same place.
            let hint = self.hint.as_ref().map(|hint| format!("\nhint: {hint}"));
            let hint = hint.unwrap_or_default();
            output::tell_line(format_args!("error: {}{hint}", self.message));
        }
        ExitCode::from(self.code)
    }
}

/// Joins an error and its causes; one that says what the one before said is left out.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

fn classify(error: &(dyn Error + 'static), failed: &mut CommandError) {
    // Where one is boxed, the box is the cause.
    let error = match error.downcast_ref::<Box<UnixfsError>>() {
        Some(boxed) => &**boxed,
        None => error,
    };
    if let Some(error) = budget_error(error) {
        failed.advise(budget_hint(error));
    } else if let Some(error) = block_error(error) {
        failed.advise(block_hint(error));
    } else if let Some(error) = error.downcast_ref::<UnixfsError>() {
        classify_unixfs(error, failed);
    } else if let Some(RepoError::Interrupted { .. }) = error.downcast_ref() {
        *failed = CommandError::interrupted();
    } else if let Some(error) = error.downcast_ref::<RepoError>() {
        failed.advise(repo_hint(error));
    } else if let Some(error) = fetch_error(error) {
        classify_fetch(error, failed);
    } else if let Some(IdentityError::InUse { .. }) = error.downcast_ref() {
        failed.advise(Some(
            "end that process, or serve another repository with `--repo`",
        ));
    } else if let Some(CarError::Interrupted) = error.downcast_ref() {
        *failed = CommandError::interrupted();
    } else if let Some(PathError::InvalidCid { .. }) = error.downcast_ref() {
        failed.advise(Some(
            "give a CID, `CID/path`, `/ipfs/CID/path` or `ipfs://CID/path`",
        ));
    } else if let Some(PathError::InvalidRoot { .. }) = error.downcast_ref() {
        failed.advise(Some(
            "give a name such as `k51...` or `12D3KooW...`, or a domain; `ipfs-exec key ls -l` lists \
             the names of your keys",
        ));
    } else if let Some(error) = error.downcast_ref::<NameStoreError>() {
        failed.advise(name_store_hint(error));
    } else if let Some(error) = error.downcast_ref::<LookupError>() {
        classify_lookup(error, failed);
    } else if let Some(error) = error.downcast_ref::<io::Error>() {
        if error.kind() == io::ErrorKind::StorageFull {
            failed.advise(Some(FULL_DISK));
        }
        if error.kind() == io::ErrorKind::FileTooLarge {
            failed.advise(Some(FILE_SIZE_LIMIT));
        }
        if let Some(inner) = error.get_ref() {
            let inner: &(dyn Error + 'static) = inner;
            classify(inner, failed);
        }
    }
}

/// The block error that an error is or passes on: a transparent one is no cause of its own.
fn block_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e BlockError> {
    if let Some(CarError::Block(error) | CarError::Dag(DagError::Block(error))) =
        error.downcast_ref()
    {
        return Some(error);
    }
    if let Some(UnixfsError::Block(error)) = error.downcast_ref() {
        return Some(error);
    }
    if let Some(RepoError::Block(error)) = error.downcast_ref() {
        return Some(error);
    }
    if let Some(DagError::Block(error)) = error.downcast_ref() {
        return Some(error);
    }
    error.downcast_ref()
}

/// The reached bound that an error is or passes on.
fn budget_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e BudgetError> {
    if let Some(ArchiveError::Budget(error)) = error.downcast_ref() {
        return Some(error);
    }
    error.downcast_ref()
}

fn budget_hint(error: &BudgetError) -> Option<&'static str> {
    match error {
        BudgetError::Bytes { .. } => Some("allow more with `--max-size`"),
        BudgetError::Entries { .. } => Some("allow more with `--max-entries`"),
        BudgetError::FreeBytes { .. } => Some(
            "make room (`ipfs-exec gc` removes what is not pinned), or give a lower `--keep-free`",
        ),
        BudgetError::FreeInodes { .. } => {
            Some("remove files on that disk: it has few inodes left for more of them")
        }
        _ => None,
    }
}

/// The fetch error that an error is or shares with others.
fn fetch_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e FetchError> {
    match error.downcast_ref::<Arc<FetchError>>() {
        Some(shared) => Some(shared),
        None => error.downcast_ref(),
    }
}

fn classify_fetch(error: &FetchError, failed: &mut CommandError) {
    let hint = match error {
        FetchError::Interrupted => return *failed = CommandError::interrupted(),
        FetchError::NoPeers { .. } | FetchError::NotFound { .. } => {
            Some("name a peer that has it with `--peer MULTIADDR`, or ask everybody by `--public`")
        }
        FetchError::Gateway { .. } => {
            Some("name another gateway with `--gateway`, or a peer that has it with `--peer`")
        }
        FetchError::Unreachable { address, .. } if is_name(address) => {
            Some("see that the name is right and resolves on this machine, and that the peer runs")
        }
        FetchError::Unreachable { .. } => {
            Some("see that the peer runs, and that the address ends in its own id")
        }
        FetchError::ProviderLost { .. } | FetchError::Idle { .. } => {
            Some("try again, with another `--peer` if there is one: what came is kept")
        }
        _ => None,
    };
    failed.advise(hint);
}

/// Whether an address is to be looked up in DNS.
fn is_name(address: &Multiaddr) -> bool {
    let names = ["dns", "dns4", "dns6", "dnsaddr"];
    address.protocol_stack().any(|name| names.contains(&name))
}

/// The way out of a block that is damaged on disk.
const DAMAGED: &str = "add or import the content again to replace it, or name a peer that has it with \
                       `--peer`; `ipfs-exec verify` lists all damage";

/// Whether an error says that a damaged block could not be replaced.
fn is_damage(error: &(dyn Error + 'static)) -> bool {
    matches!(
        block_error(error),
        Some(BlockError::Damaged { .. } | BlockError::Irreplaceable { .. })
    ) || matches!(fetch_error(error), Some(FetchError::Damaged { .. }))
}

fn block_hint(error: &BlockError) -> Option<&'static str> {
    match error {
        BlockError::Missing { .. } => Some(
            "name a peer that has it with `--peer`, import it (`ipfs-exec import FILE.car`), or \
             add the original files again",
        ),
        BlockError::Damaged { .. } => Some(DAMAGED),
        _ => None,
    }
}

fn classify_unixfs(error: &UnixfsError, failed: &mut CommandError) {
    match error {
        UnixfsError::Interrupted => *failed = CommandError::interrupted(),
        UnixfsError::UnresolvedName { .. } => {
            failed.advise(Some("give the CID that the name stands for"));
        }
        UnixfsError::NotFile { kind, .. } if kind.is_directory() => {
            failed.advise(Some(
                "name a file in it, or see what it holds with `ipfs-exec ls`",
            ));
        }
        _ => {}
    }
}

fn classify_lookup(error: &LookupError, failed: &mut CommandError) {
    match error {
        LookupError::Interrupted => *failed = CommandError::interrupted(),
        LookupError::Offline => failed.advise(Some(
            "leave out `--offline`, put a record in with `ipfs-exec name put`, or give the CID that \
             the name stands for",
        )),
        LookupError::NobodyAsked | LookupError::NotFound | LookupError::Refused => {
            failed.advise(Some(
                "name a peer of the DHT that has it with `--peer`, or use `--router URL`, \
                 `--gateway URL` or `--public`",
            ));
        }
        LookupError::Record(RecordError::Expired { .. }) => failed.advise(Some(
            "let the owner of the key publish again, or give the CID that the name stands for",
        )),
        LookupError::Store(error) => failed.advise(name_store_hint(error)),
        _ => {}
    }
}

fn name_store_hint(error: &NameStoreError) -> Option<&'static str> {
    match error {
        NameStoreError::Malformed { .. } => Some(
            "put the right record in with `ipfs-exec name put --force`, or remove the file: the \
             record can be resolved or published again",
        ),
        NameStoreError::Older { .. } | NameStoreError::Differs { .. } => {
            Some("`--force` replaces the record of the repository")
        }
        _ => None,
    }
}

/// The way out of a repository of another user.
const NO_WRITER: &str = "give a directory that you may write with `--repo` or IPFS_EXEC_PATH";

/// The way out of a full disk.
const FULL_DISK: &str = "free space on that file system; `ipfs-exec gc` removes what is not pinned";

/// The way out of a file that may not grow.
const FILE_SIZE_LIMIT: &str =
    "allow larger files with `ulimit -f unlimited`, or use a file system that holds them";

/// The way out of a database that does not fit the segments.
const REINDEX: &str =
    "rebuild the database from the blocks with `ipfs-exec repo reindex`; the old one is kept";

fn repo_hint(error: &RepoError) -> Option<Cow<'static, str>> {
    let hint = match error {
        RepoError::TooNew { .. } => "install a newer ipfs-exec, or give another `--repo`",
        RepoError::NotPinned { .. } => "`ipfs-exec pin ls` lists the pins",
        RepoError::ReadOnly { .. } => NO_WRITER,
        RepoError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            NO_WRITER
        }
        RepoError::NoDatabase { .. } => {
            "rebuild it from the blocks with `ipfs-exec repo reindex`, put back a copy of \
             `repo.db`, or give another directory with `--repo`"
        }
        RepoError::UnknownSegment { .. } => {
            "take its blocks in with `ipfs-exec repo reindex`, or move the file away if it belongs \
             to another repository"
        }
        RepoError::DamagedDatabase { .. } => REINDEX,
        RepoError::InUse { .. } => {
            "end the other commands that use the repository, such as `serve` and `mount`, and try \
             again"
        }
        RepoError::ForeignOwner { owner, .. } => {
            return Some(Cow::Owned(format!(
                "run the command as that user: `sudo -u '{owner}' ipfs-exec ...`, or give another \
                 directory with `--repo`"
            )));
        }
        RepoError::DatabaseLocked {
            file_system: Some(_),
            ..
        } => {
            "keep the repository on a local disk (`--repo DIR` or IPFS_EXEC_PATH): locks may not \
             work on this file system"
        }
        RepoError::DatabaseLocked { .. } => {
            "end the process that holds the database (`fuser FILE` names it), or try again later"
        }
        RepoError::Database { source, .. } if source.is_disk_full() => FULL_DISK,
        RepoError::Database { .. } => {
            "see that the disk works and that the file can be read and written; if the database \
             is broken, `ipfs-exec repo reindex` rebuilds it"
        }
        _ => return None,
    };
    Some(Cow::Borrowed(hint))
}

macro_rules! from_library {
    ($($error:ty),*) => {$(
        impl From<$error> for CommandError {
            fn from(error: $error) -> CommandError {
                CommandError::from_chain(&error)
            }
        }
    )*};
}

from_library!(
    BlockError,
    IdentityError,
    NetworkError,
    Arc<FetchError>,
    DagError,
    CarError,
    KeyError,
    KeystoreError,
    NameStoreError,
    PathError,
    RecordError,
    RepoError,
    ResolveError,
    UnixfsError
);

/// Writing to stdout failed.
impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> CommandError {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return CommandError {
                code: BROKEN_PIPE,
                silent: true,
                ..CommandError::failed("")
            };
        }
        let cause = error.get_ref().map(|inner| {
            let inner: &(dyn Error + 'static) = inner;
            CommandError::from_chain(inner)
        });
        cause.unwrap_or_else(|| CommandError::failed(format!("cannot write to stdout: {error}")))
    }
}

/// A local file or directory that a command uses directly.
#[derive(Debug)]
pub(crate) struct LocalError {
    pub(crate) action: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

impl fmt::Display for LocalError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        use std::os::unix::ffi::OsStrExt;
        write!(
            formatter,
            "cannot {} {}",
            self.action,
            escape(self.path.as_os_str().as_bytes())
        )
    }
}

impl Error for LocalError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

impl From<LocalError> for CommandError {
    fn from(error: LocalError) -> CommandError {
        CommandError::from_chain(&error)
    }
}
