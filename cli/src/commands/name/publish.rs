//! `name publish`: a name stands for other content from now on.

use std::time::{Duration, SystemTime};

use clap::Args;
use ipfs_exec_node::name::KeyName;
use ipfs_exec_node::names::{Keystore, Publication, Record, SigningKey};
use ipfs_exec_node::network::{identity, names as network};
use ipfs_exec_node::repo::Repository;
use ipfs_exec_node::{ContentPath, ReadBlocksExt};
use serde_json::json;

use super::way_out;
use crate::commands::key::FormatArgs;
use crate::context::Context;
use crate::duration;
use crate::error::CommandError;
use crate::names::{self, Names};
use crate::output;

/// Publish a content path under the name of a key, and print the name
///
/// The record is kept in the repository, and given to the DHT and to the routers. If no DHT peer and no
/// router takes it, `publish` ends with 1; with `--allow-offline` it ends with 0. `ipfs-exec serve`
/// repeats the record every four hours, and renews it before it expires.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  ipfs-exec key gen site
  ipfs-exec name publish --key site $output
  ipfs-exec cat /ipns/$(ipfs-exec name publish --key site $output)/index.html")]
pub(crate) struct PublishArgs {
    /// Content path
    path: String,

    /// Label or name of the key
    #[arg(long, short, default_value = "self")]
    key: String,

    #[command(flatten)]
    options: PublishOptions,

    #[command(flatten)]
    format: FormatArgs,
}

/// Options of everything that publishes.
#[derive(Args, Debug)]
pub(super) struct PublishOptions {
    /// Time for which the record is valid
    #[arg(long, short = 't', value_name = "DURATION", default_value = "48h",
          value_parser = duration::parse)]
    lifetime: Duration,

    /// Time for which others may use the record without asking again
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration::parse)]
    ttl: Duration,

    /// Sequence number of the record; higher than that of the last one
    #[arg(long, value_name = "NUMBER")]
    sequence: Option<u64>,

    /// Write the fields that programs before 2021 read
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "true", default_missing_value = "true")]
    v1compat: std::primitive::bool,

    /// Succeed also where no DHT peer and no router takes the record
    #[arg(long)]
    allow_offline: bool,

    /// Check that the path can be resolved
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "true", default_missing_value = "true")]
    resolve: std::primitive::bool,

    /// Print nothing but the name, which is so anyway: accepted for the sake of scripts
    #[arg(long, short = 'Q', hide = true)]
    quieter: bool,
}

pub(super) fn publish(context: &Context, arguments: &PublishArgs) -> Result<(), CommandError> {
    let path: ContentPath = arguments.path.parse()?;
    let repository = context.repository()?;
    let publisher = Publisher::new(context, &repository, &arguments.key, &arguments.options)?;
    publisher.check(&path)?;
    let record = publisher.publish(&path)?;
    let name = arguments.format.name(&publisher.name());
    if arguments.format.is_json() {
        output::line(json!({
            "name": name,
            "value": path.to_string(),
            "sequence": record.sequence(),
            "validity": record.until_text(),
        }))?;
    } else {
        output::line(name)?;
    }
    Ok(())
}

/// Publishes under one key.
pub(super) struct Publisher<'p> {
    context: &'p Context,
    repository: &'p Repository,
    names: Names<'p>,
    key: SigningKey,
    options: &'p PublishOptions,
}

impl<'p> Publisher<'p> {
    pub(super) fn new(
        context: &'p Context,
        repository: &'p Repository,
        key: &str,
        options: &'p PublishOptions,
    ) -> Result<Publisher<'p>, CommandError> {
        let names = Names::new(context, repository);
        let key = find_key(repository, &names.keys, key)?;
        Ok(Publisher {
            context,
            repository,
            names,
            key,
            options,
        })
    }

    pub(super) fn name(&self) -> KeyName {
        self.key.name()
    }

    /// Where former records are.
    pub(super) fn names(&self) -> &Names<'p> {
        &self.names
    }

    /// Checks that there is content at `path`, where that is wanted.
    pub(super) fn check(&self, path: &ContentPath) -> Result<(), CommandError> {
        if self.options.resolve {
            let cid = names::cid(self.context, self.repository, path)?;
            let progress = self.context.progress();
            self.context
                .with_blocks(self.repository, &progress, |source| {
                    source.get(&cid)?;
                    Ok(())
                })
                .map_err(|error| error.about(&format!("cannot publish {path}")))?;
        }
        Ok(())
    }

    /// Signs a record, keeps it, and gives it to DHTs and routers.
    pub(super) fn publish(&self, path: &ContentPath) -> Result<Record, CommandError> {
        let name = self.name();
        let asking = self.names.asking();
        // Another repository may have the key, and a higher sequence number.
        if let Some(asking) = asking {
            match network::find(asking, &name) {
                Ok(found) => {
                    if let Some(record) = found.record {
                        self.names.records.keep_newest(&name, record)?;
                    }
                }
                Err(network::NamesError::Interrupted) => return Err(CommandError::interrupted()),
                Err(error) => tracing::debug!(%error, "no former record was found"),
            }
        }
        let record = self.sign(path)?;
        let takers = match asking {
            // The local network was searched above.
            Some(asking) => {
                let may_discover = false;
                let asking = network::Asking {
                    may_discover,
                    ..asking
                };
                network::publish(asking, &name, &record)
            }
            None => Ok(0),
        };
        let problem = match takers {
            Ok(0) => CommandError::failed(format!(
                "the record of {name} is kept, but no DHT peer and no router was there to take it"
            )),
            Ok(_) => return Ok(record),
            Err(network::NamesError::Interrupted) => return Err(CommandError::interrupted()),
            Err(error) => CommandError::from_chain(&error)
                .about(&format!("the record of {name} is kept, but not published")),
        };
        if self.options.allow_offline {
            tracing::warn!("{}", problem.message());
            return Ok(record);
        }
        Err(problem.with_hint(way_out(self.context)))
    }

    fn sign(&self, path: &ContentPath) -> Result<Record, CommandError> {
        let name = self.name();
        let lock = self.names.records.lock()?;
        let former = self.names.records.get(&name)?.map(|stored| stored.record);
        let options = self.options;
        let now = SystemTime::now();
        let sequence = sequence(former.as_ref(), path, options, now)?;
        let publication = Publication::new(path, sequence, now, options.lifetime, options.ttl)?;
        let publication = match options.v1compat {
            true => publication,
            false => publication.without_version_1(),
        };
        let record = Record::sign(&self.key, &publication)?;
        lock.replace(&name, &record)?;
        Ok(record)
    }
}

/// The number of a record that follows `former`. The same value keeps its number while it is valid for
/// longer than before, so that others need not fetch it again.
fn sequence(
    former: Option<&Record>,
    path: &ContentPath,
    options: &PublishOptions,
    now: SystemTime,
) -> Result<u64, CommandError> {
    let Some(former) = former else {
        return Ok(options.sequence.unwrap_or(0));
    };
    let last = former.sequence();
    match options.sequence {
        Some(sequence) if sequence > last => Ok(sequence),
        Some(sequence) => Err(CommandError::failed(format!(
            "the sequence number {sequence} is not higher than that of the last record, {last}"
        ))),
        None => {
            let is_same = former.raw_value() == path.to_string().as_bytes();
            let is_longer = now
                .checked_add(options.lifetime)
                .is_some_and(|until| until > former.until());
            if is_same && is_longer {
                return Ok(last);
            }
            last.checked_add(1).ok_or_else(|| {
                CommandError::failed(
                    "the last record has the highest sequence number that there is",
                )
            })
        }
    }
}

/// The key with this label, or with this name.
pub(super) fn find_key(
    repository: &Repository,
    keys: &Keystore,
    text: &str,
) -> Result<SigningKey, CommandError> {
    let missing = |error: &dyn std::error::Error| {
        CommandError::failed(error.to_string())
            .with_hint("`ipfs-exec key ls` lists the keys, and `ipfs-exec key gen KEY` makes one")
    };
    identity::peer_id(repository.path())?;
    let labels = keys.labels()?;
    if let Some(label) = labels.iter().find(|label| label.as_str() == text) {
        return Ok(keys.key(label)?);
    }
    if let Ok(name) = names::key_name(text) {
        for label in &labels {
            let key = keys.key(label)?;
            if key.name() == name {
                return Ok(key);
            }
        }
    }
    // Says what is wrong with the label, if that is so.
    let label = text.parse().map_err(|error| missing(&error))?;
    keys.key(&label).map_err(|error| missing(&error))
}
