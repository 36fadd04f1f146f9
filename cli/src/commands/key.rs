//! `key`: the private keys that names belong to.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use ipfs_exec_node::limits;
use ipfs_exec_node::name::KeyName;
use ipfs_exec_node::names::{KeyLabel, Keystore, SigningKey};
use ipfs_exec_node::network::identity;
use ipfs_exec_node::path::escape;
use serde_json::json;

use crate::context::Context;
use crate::error::{CommandError, LocalError};
use crate::output;

/// Make, list and move the keys of names
///
/// The owner of a key can publish content under the name of the key. The keys are in the directory
/// `keys` of the repository. The key `self` is that of the repository's peer.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  ipfs-exec key gen site
  ipfs-exec name publish --key site $output
  ipfs-exec key export site --output site.key")]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,

    #[command(flatten)]
    format: FormatArgs,
}

/// How names are printed.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct FormatArgs {
    /// Print names in this form
    #[arg(long, value_enum, default_value = "base36", global = true)]
    ipns_base: NameForm,

    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

impl FormatArgs {
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    pub(crate) fn name(self, name: &KeyName) -> String {
        match self.ipns_base {
            NameForm::Base36 => name.to_string(),
            NameForm::Base32 => name.cid().to_string(),
            NameForm::B58mh => name.to_peer_id(),
        }
    }
}

/// The forms of the name of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum NameForm {
    /// CID version 1 in base36, `k51...`
    Base36,
    /// CID version 1 in base32, `bafz...`
    Base32,
    /// Peer id in base58, `12D3KooW...` or `Qm...`
    B58mh,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key, and print its name
    Gen {
        /// Label of the key in this repository
        #[arg(value_name = "KEY")]
        label: String,
        /// Algorithm
        #[arg(long = "type", short, value_enum, default_value = "ed25519")]
        algorithm: Algorithm,
    },
    /// List the labels of all keys
    #[command(visible_alias = "list")]
    Ls {
        /// Print the names as well
        #[arg(long, short)]
        long: bool,
    },
    /// Remove keys: no program can publish under their names from here any more
    Rm {
        /// Labels of keys
        #[arg(value_name = "KEY", required = true)]
        labels: Vec<String>,
    },
    /// Give a key another label
    Rename {
        /// The label that the key has
        from: String,
        /// The label that it gets
        to: String,
        /// Replace a key that has this label already
        #[arg(long, short)]
        force: bool,
    },
    /// Take in a key of another repository or program, and print its name
    Import {
        /// Label of the key in this repository
        #[arg(value_name = "KEY")]
        label: String,
        /// File of the key; `-` is standard input
        file: PathBuf,
        /// Form of the file
        #[arg(long, short, value_enum, default_value = "libp2p-protobuf-cleartext")]
        format: KeyForm,
    },
    /// Write a private key to a file that only you can read
    Export {
        /// Label of the key
        #[arg(value_name = "KEY")]
        label: String,
        /// New file for the key; `-` is standard output [default: KEY.key or KEY.pem]
        #[arg(long, short)]
        output: Option<PathBuf>,
        /// Form of the file
        #[arg(long, short, value_enum, default_value = "libp2p-protobuf-cleartext")]
        format: KeyForm,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Algorithm {
    Ed25519,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KeyForm {
    /// As Kubo keeps its keys
    Libp2pProtobufCleartext,
    /// PEM with PKCS#8, as OpenSSL reads it
    PemPkcs8Cleartext,
}

pub(crate) fn key(context: &Context, arguments: KeyArgs) -> Result<(), CommandError> {
    let repository = context.repository()?;
    let keys = Keystore::of_repository(repository.path());
    let format = arguments.format;
    match arguments.command {
        KeyCommand::Gen {
            label,
            algorithm: Algorithm::Ed25519,
        } => {
            let label: KeyLabel = label.parse()?;
            let key = SigningKey::generate();
            keys.add(&label, &key)?;
            print(format, &label, &key.name())?;
        }
        KeyCommand::Ls { long } => {
            // The key of the peer is made when it is first asked for.
            identity::peer_id(repository.path())?;
            list(&keys, format, long)?;
        }
        KeyCommand::Rm { labels } => {
            for label in labels {
                let label: KeyLabel = label.parse()?;
                let removed = keys.remove(&label)?;
                print_label(format, &label, &removed.name())?;
            }
        }
        KeyCommand::Rename { from, to, force } => {
            let to: KeyLabel = to.parse()?;
            let key = keys.rename(&from.parse()?, &to, force)?;
            print_label(format, &to, &key.name())?;
        }
        KeyCommand::Import {
            label,
            file,
            format: form,
        } => {
            let label: KeyLabel = label.parse()?;
            let key = read(&file, form)?;
            keys.add(&label, &key)?;
            print(format, &label, &key.name())?;
        }
        KeyCommand::Export {
            label,
            output,
            format: form,
        } => {
            let label: KeyLabel = label.parse()?;
            if label.is_self() {
                identity::peer_id(repository.path())?;
            }
            export(&keys.key(&label)?, &label, output, form)?;
        }
    }
    Ok(())
}

fn list(keys: &Keystore, format: FormatArgs, long: bool) -> Result<(), CommandError> {
    for label in keys.labels()? {
        if !long && !format.is_json() {
            output::line(&label)?;
            continue;
        }
        let name = keys.key(&label)?.name();
        match format.is_json() {
            true => print(format, &label, &name)?,
            false => output::line(format_args!("{} {label}", format.name(&name)))?,
        }
    }
    Ok(())
}

/// Prints the name of a key.
fn print(format: FormatArgs, label: &KeyLabel, name: &KeyName) -> io::Result<()> {
    match format.is_json() {
        true => output::line(json!({ "key": label.as_str(), "name": format.name(name) })),
        false => output::line(format.name(name)),
    }
}

/// The same, where the label is what the user wants to see.
fn print_label(format: FormatArgs, label: &KeyLabel, name: &KeyName) -> io::Result<()> {
    match format.is_json() {
        true => print(format, label, name),
        false => output::line(label),
    }
}

fn read(path: &Path, form: KeyForm) -> Result<SigningKey, CommandError> {
    let failed = |source| LocalError {
        action: "read the key in",
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let mut read = |reader: &mut dyn Read| {
        reader
            .take(limits::MAX_KEY_FILE_BYTES)
            .read_to_end(&mut bytes)
    };
    let length = match path.as_os_str() == "-" {
        true => read(&mut io::stdin()),
        false => File::open(path).and_then(|mut file| read(&mut file)),
    };
    length.map_err(failed)?;
    let key = match form {
        KeyForm::Libp2pProtobufCleartext => SigningKey::from_protobuf(&bytes),
        KeyForm::PemPkcs8Cleartext => SigningKey::from_pem(&String::from_utf8_lossy(&bytes)),
    };
    key.map_err(|error| {
        let other = match form {
            KeyForm::Libp2pProtobufCleartext => "pem-pkcs8-cleartext",
            KeyForm::PemPkcs8Cleartext => "libp2p-protobuf-cleartext",
        };
        CommandError::from_chain(&error)
            .about(&format!(
                "cannot import {}",
                escape(path.as_os_str().as_encoded_bytes())
            ))
            .with_hint(format!(
                "if the key has the other form, say so with `--format {other}`"
            ))
    })
}

fn export(
    key: &SigningKey,
    label: &KeyLabel,
    output: Option<PathBuf>,
    form: KeyForm,
) -> Result<(), CommandError> {
    const PRIVATE_FILE: u32 = 0o600;
    let (bytes, ending) = match form {
        KeyForm::Libp2pProtobufCleartext => (key.to_protobuf().to_vec(), "key"),
        KeyForm::PemPkcs8Cleartext => (key.to_pem()?.into_bytes(), "pem"),
    };
    let path = output.unwrap_or_else(|| PathBuf::from(format!("{label}.{ending}")));
    if path.as_os_str() == "-" {
        let mut stdout = io::stdout().lock();
        stdout.write_all(&bytes)?;
        return Ok(stdout.flush()?);
    }
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE_FILE)
        .open(&path)
        .and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        });
    written.map_err(|source| LocalError {
        action: "write the key to",
        path,
        source,
    })?;
    Ok(())
}
