//! `pin`: what garbage collection keeps.

use std::collections::HashSet;
use std::io::Write;
use std::ops::ControlFlow;

use clap::{Args, Subcommand, ValueEnum};
use ipfs_exec_node::name::Name;
use ipfs_exec_node::names as node_names;
use ipfs_exec_node::network::Fetched;
use ipfs_exec_node::network::Source;
use ipfs_exec_node::path::{ContentPath, escape};
use ipfs_exec_node::repo::{PinKind, Repository, Session};
use ipfs_exec_node::{Cid, KeepFree, Pin, ReadBlocksExt, dag};
use serde_json::json;

use crate::content::resolve;
use crate::context::Context;
use crate::disk::default_keep_free;
use crate::error::CommandError;
use crate::names::{self, Names};
use crate::output;

/// Keep content from garbage collection
#[derive(Args, Debug)]
pub(crate) struct PinArgs {
    #[command(subcommand)]
    command: PinCommand,
}

#[derive(Debug, Subcommand)]
enum PinCommand {
    /// Fetch the missing blocks of content, pin it, and print its CID
    Add {
        /// Content paths
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<String>,
        /// Pin all content below the CID as well
        #[arg(long, short, value_name = "BOOL", num_args = 0..=1, require_equals = true,
              default_value = "true", default_missing_value = "true")]
        recursive: std::primitive::bool,
        /// Name of the pin
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        /// Print lines of JSON instead of the CIDs
        #[arg(long)]
        json: bool,
    },
    /// Remove pins, so that `gc` can remove the content
    Rm {
        /// Content paths
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<String>,
        /// Print lines of JSON instead of the CIDs
        #[arg(long)]
        json: bool,
    },
    /// Print the CIDs that are pinned with all content below, and published under no key of this repository
    Orphans,
    /// List pins with CID and kind
    Ls {
        /// List only the pins of these content paths
        #[arg(value_name = "PATH")]
        paths: Vec<String>,
        /// List only pins of this kind
        #[arg(long = "type", short, value_enum, default_value = "all")]
        kind: KindFilter,
        /// Print only CIDs
        #[arg(long, short)]
        quiet: bool,
        /// Print the names as well
        #[arg(long, short)]
        names: bool,
        /// Print lines of JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KindFilter {
    /// Pinned with all content below
    Recursive,
    /// Pinned alone
    Direct,
    /// Below a recursive pin
    Indirect,
    /// Every kind
    All,
}

pub(crate) fn pin(context: &Context, arguments: PinArgs) -> Result<(), CommandError> {
    let repository = context.repository()?;
    match arguments.command {
        PinCommand::Add {
            paths,
            recursive,
            name,
            json,
        } => add(
            context,
            &repository,
            default_keep_free(context, repository.path())?,
            &names::paths(context, &repository, &paths)?,
            recursive,
            &name,
            json,
        ),
        PinCommand::Rm { paths, json } => remove(
            &repository,
            &names::paths(context, &repository, &paths)?,
            json,
        ),
        PinCommand::Orphans => orphans(context, &repository),
        PinCommand::Ls {
            paths,
            kind,
            quiet,
            names,
            json,
        } => {
            let format = Format { quiet, names, json };
            list(
                &repository,
                &names::paths(context, &repository, &paths)?,
                kind,
                &format,
            )
        }
    }
}

/// Pins content, fetching what is missing of it.
pub(super) fn add(
    context: &Context,
    repository: &Repository,
    keep_free: KeepFree,
    paths: &[ContentPath],
    recursive: bool,
    name: &str,
    is_json: bool,
) -> Result<(), CommandError> {
    let session = repository.session()?;
    let mut pins = Vec::with_capacity(paths.len());
    let progress = context.progress();
    for path in paths {
        let cid = context.with_blocks_keeping(keep_free, repository, &progress, |source| {
            let cid = resolve(source, path)?;
            session.protect(&[cid])?;
            // A pin is a promise: nothing may be missing already.
            match source {
                Source::Fetching(fetcher) if recursive => tell(&fetcher.complete(&cid)?),
                Source::Local(repository) if recursive => {
                    if let Some(error) = dag::first_missing(repository, &cid)? {
                        return Err(CommandError::from(error).about(&format!("cannot pin {cid}")));
                    }
                }
                source => drop(source.get(&cid)?),
            }
            Ok(cid)
        })?;
        let pin = if recursive {
            Pin::recursive(cid)
        } else {
            Pin::direct(cid)
        };
        pins.push(Pin {
            name: name.to_owned(),
            ..pin
        });
    }
    session.commit(&pins)?;
    for pin in &pins {
        output::cid(&pin.cid, is_json)?;
    }
    Ok(())
}

/// Commits a session, and pins its tree with all content below. Where some is missing, the root alone is
/// pinned.
pub(super) fn keep(session: Session<'_>, cid: &Cid) -> Result<(), CommandError> {
    let missing = dag::first_missing(&session, cid)?;
    let pin = match &missing {
        None => Pin::recursive(*cid),
        Some(_) => Pin::direct(*cid),
    };
    session.commit(&[pin])?;
    if let Some(error) = missing {
        tracing::warn!(
            "{cid} is pinned alone, because {error}: `ipfs-exec pin add {cid}` fetches and pins \
             all content below"
        );
    }
    Ok(())
}

/// Says how much came and how much was here, where anything was fetched.
fn tell(fetched: &Fetched) {
    if fetched.blocks > 0 {
        output::tell_line(format_args!(
            "fetched {} blocks, {}; {} were here already",
            fetched.blocks,
            indicatif::BinaryBytes(fetched.bytes),
            fetched.local_blocks
        ));
    }
}

fn remove(
    repository: &Repository,
    paths: &[ContentPath],
    is_json: bool,
) -> Result<(), CommandError> {
    for path in paths {
        let cid = resolve(repository, path)?;
        repository.unpin(&cid)?;
        output::cid(&cid, is_json)?;
    }
    Ok(())
}

/// A key without a record ends it with an error: else what is published under the key would pass for an
/// orphan. Only the key of the peer itself may have none, because it is made here.
fn orphans(context: &Context, repository: &Repository) -> Result<(), CommandError> {
    let known = Names::new(context, repository);
    let lookup = known.resolver(false);
    let mut published = HashSet::new();
    for label in known.keys.labels()? {
        let name = known.keys.key(&label)?.name();
        if label.is_self() && known.records.get(&name)?.is_none() {
            continue;
        }
        let path = ContentPath::from_name(Name::Key(name));
        let cid = node_names::resolve(&path, &lookup)
            .map_err(CommandError::from)
            .and_then(|path| names::cid(context, repository, &path))
            .map_err(|error| {
                error.about(&format!("nothing is listed, because of the key `{label}`"))
            })?;
        published.insert(*cid.hash());
    }
    let pins = repository.pins()?.into_iter();
    let mut orphans: Vec<String> = pins
        .filter(|pin| pin.kind == PinKind::Recursive && !published.contains(pin.cid.hash()))
        .map(|pin| pin.cid.to_string())
        .collect();
    orphans.sort_unstable();
    let mut out = output::stdout();
    for cid in orphans {
        writeln!(out, "{cid}")?;
    }
    Ok(out.flush()?)
}

struct Format {
    quiet: bool,
    names: bool,
    json: bool,
}

fn list(
    repository: &Repository,
    paths: &[ContentPath],
    filter: KindFilter,
    format: &Format,
) -> Result<(), CommandError> {
    let wanted = paths
        .iter()
        .map(|path| resolve(repository, path))
        .collect::<Result<HashSet<_>, _>>()?;
    let mut found = HashSet::new();
    let mut out = output::stdout();
    let mut print = |cid: &Cid, kind: KindFilter, name: &str| {
        let listed = filter == KindFilter::All || filter == kind;
        if !listed || !(wanted.is_empty() || wanted.contains(cid)) {
            return Ok(());
        }
        found.insert(*cid);
        print_pin(&mut out, format, cid, kind, name)
    };
    let pins = repository.pins()?;
    for pin in &pins {
        let kind = match pin.kind {
            PinKind::Recursive => KindFilter::Recursive,
            PinKind::Direct => KindFilter::Direct,
        };
        print(&pin.cid, kind, &pin.name)?;
    }
    if matches!(filter, KindFilter::Indirect | KindFilter::All) {
        list_indirect(repository, &pins, &mut print)?;
    }
    out.flush()?;
    match wanted.iter().find(|cid| !found.contains(cid)) {
        Some(cid) => Err(CommandError::failed(format!("{cid} is not pinned"))),
        None => Ok(()),
    }
}

fn list_indirect(
    repository: &Repository,
    pins: &[Pin],
    print: &mut dyn FnMut(&Cid, KindFilter, &str) -> std::io::Result<()>,
) -> Result<(), CommandError> {
    let mut told: HashSet<Cid> = pins.iter().map(|pin| pin.cid).collect();
    for pin in pins.iter().filter(|pin| pin.kind == PinKind::Recursive) {
        let outcome = dag::walk(repository, &pin.cid, &mut |visit| {
            if !told.insert(*visit.cid) {
                return ControlFlow::Continue(());
            }
            match print(visit.cid, KindFilter::Indirect, "") {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => ControlFlow::Break(error),
            }
        })?;
        if let ControlFlow::Break(error) = outcome {
            return Err(error.into());
        }
    }
    Ok(())
}

fn print_pin(
    out: &mut dyn Write,
    format: &Format,
    cid: &Cid,
    kind: KindFilter,
    name: &str,
) -> std::io::Result<()> {
    let word = match kind {
        KindFilter::Recursive => "recursive",
        KindFilter::Direct => "direct",
        KindFilter::Indirect | KindFilter::All => "indirect",
    };
    if format.json {
        writeln!(
            out,
            "{}",
            json!({ "cid": cid.to_string(), "type": word, "name": name })
        )
    } else if format.quiet {
        writeln!(out, "{cid}")
    } else if format.names && !name.is_empty() {
        writeln!(out, "{cid} {word} {}", escape(name.as_bytes()))
    } else {
        writeln!(out, "{cid} {word}")
    }
}
