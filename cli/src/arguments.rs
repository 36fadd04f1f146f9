//! From the words of the command line to a parsed command, with errors that name the mistake.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};

use crate::commands::{Cli, RUN};

/// Commands that may fetch content or talk to peers, and the commands above them.
const NETWORK_COMMANDS: [&str; 27] = [
    "cat",
    "diff",
    "doctor",
    "export",
    "fetch",
    "get",
    "image",
    "image unpack",
    "ls",
    "ls-r",
    "merge",
    "mkdir",
    "mount",
    "name",
    "name get",
    "name publish",
    "name put",
    "name resolve",
    "name swap",
    "peers",
    "pin",
    "pin add",
    "pin orphans",
    "provide",
    "run",
    "serve",
    "stat",
];

/// The options that only those commands take.
const NETWORK_OPTIONS: [&str; 6] = [
    "peers",
    "public",
    "gateways",
    "routers",
    "no_mdns",
    "idle_timeout",
];

/// Value names of options that take a number. A value that begins with `-` is then a wrong number, and
/// not a further option.
const NUMBERS: [&str; 6] = ["BYTES", "DURATION", "MODE", "N", "NUMBER", "SIZE"];

/// Positional argument of `run`: ROOTFS, INPUT and the program's arguments.
const RUN_WORDS: &str = "command";

/// How far a word may be from the one that was meant: one letter wrong, missing or too many, or two
/// letters exchanged, twice.
const MAX_DISTANCE: usize = 2;

/// Parses the command line; the first word is the name of the program.
pub(crate) fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = command();
    let matches = command
        .try_get_matches_from_mut(arguments)
        .map_err(|error| with_suggestion(error, &command))?;
    refuse_network_options(&mut command, &matches)?;
    refuse_options_as_content(command, &matches, arguments)?;
    Cli::from_arg_matches(&matches)
}

/// Whether the command line names `run`, however wrong it is otherwise.
pub(crate) fn is_run(arguments: &[OsString]) -> bool {
    let command = command();
    let mut words = arguments.iter().skip(1);
    while let Some(word) = words.next() {
        let option = word.to_str().and_then(|word| word.strip_prefix("--"));
        if let Some(option) = option {
            let mut known = command.get_arguments();
            let takes_value = known
                .find(|argument| argument.get_long() == Some(option))
                .is_some_and(|argument| argument.get_action().takes_values());
            if takes_value {
                words.next();
            }
        } else if let Some(found) = command
            .get_subcommands()
            .find(|known| word == known.get_name())
        {
            return found.get_name() == RUN;
        }
    }
    false
}

/// The commands as they are derived, and what the derivation cannot say.
fn command() -> Command {
    let command = Cli::command();
    let network: Vec<Arg> = command
        .get_arguments()
        .filter(|argument| NETWORK_OPTIONS.contains(&argument.get_id().as_str()))
        .cloned()
        .collect();
    adjusted(command, "", &network)
}

/// `command`, whose words after the program's name are `path`, and all commands below it.
fn adjusted(command: Command, path: &str, network: &[Arg]) -> Command {
    let mut command = command.mut_args(|argument| {
        let names = argument.get_value_names().unwrap_or_default();
        // A flag has a value name, too: that of its field.
        let is_number = argument.get_action().takes_values()
            && names.iter().any(|name| NUMBERS.contains(&name.as_str()));
        if is_number && argument.get_long().is_some() {
            argument.allow_hyphen_values(true)
        } else {
            argument
        }
    });
    if !path.is_empty() && !NETWORK_COMMANDS.contains(&path) {
        // Hidden here, and refused after parsing: there the error can say why.
        command = command.args(network.iter().map(|argument| argument.clone().hide(true)));
    }
    let names: Vec<String> = command
        .get_subcommands()
        .map(|below| below.get_name().to_owned())
        .collect();
    names.into_iter().fold(command, |command, name| {
        let path = format!("{path} {name}");
        command.mut_subcommand(name, |below| adjusted(below, path.trim_start(), network))
    })
}

/// The help of the whole program, for a call without a word.
pub(crate) fn help() -> String {
    command().render_help().to_string()
}

/// Refuses an option of the network that was given to a command without one.
fn refuse_network_options(command: &mut Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let (mut path, mut below) = (String::new(), matches);
    while let Some((name, matches)) = below.subcommand() {
        path = format!("{path} {name}").trim_start().to_owned();
        below = matches;
    }
    if NETWORK_COMMANDS.contains(&&*path) {
        return Ok(());
    }
    let given = |id: &&&str| below.value_source(id) == Some(ValueSource::CommandLine);
    let Some(id) = NETWORK_OPTIONS.iter().find(given) else {
        return Ok(());
    };
    let option = command
        .get_arguments()
        .find(|argument| argument.get_id() == *id)
        .and_then(Arg::get_long)
        .unwrap_or(id);
    let message = format!("unexpected argument `--{option}`: `{path}` does not use the network");
    Err(command.error(ErrorKind::UnknownArgument, message))
}

/// Refuses a word in the place of ROOTFS or INPUT that looks like an option: most often it is one with a
/// spelling mistake.
fn refuse_options_as_content(
    command: Command,
    matches: &ArgMatches,
    arguments: &[OsString],
) -> Result<(), clap::Error> {
    let Some((RUN, run)) = matches.subcommand() else {
        return Ok(());
    };
    let words: Vec<&OsString> = run
        .get_many(RUN_WORDS)
        .map(Iterator::collect)
        .unwrap_or_default();
    let first = arguments.len() - words.len();
    let is_option = |word: &&OsString| word.as_bytes().starts_with(b"-") && word.len() > 1;
    let Some(index) = words.iter().take(2).position(is_option) else {
        return Ok(());
    };
    if arguments[first - 1] == "--" {
        return Ok(());
    }
    let mut strict = command.mut_subcommand(RUN, |run| {
        run.mut_arg(RUN_WORDS, |words| {
            words.allow_hyphen_values(false).trailing_var_arg(false)
        })
    });
    // The words before this one are no options, so that the parser stops at it, if it does not know it.
    match strict.try_get_matches_from_mut(&arguments[..=first + index]) {
        Err(error) if error.kind() == ErrorKind::UnknownArgument => {
            Err(with_suggestion(error, &strict))
        }
        _ => {
            let word = words[index].to_string_lossy();
            let message = format!(
                "the option `{word}` stands after ROOTFS: options of ipfs-exec come before ROOTFS"
            );
            Err(strict.error(ErrorKind::UnknownArgument, message))
        }
    }
}

/// Adds the nearest command or option, where the parser found none: it does not see that two letters of
/// a short word are exchanged.
fn with_suggestion(mut error: clap::Error, command: &Command) -> clap::Error {
    let kinds = match error.kind() {
        ErrorKind::InvalidSubcommand => (
            ContextKind::InvalidSubcommand,
            ContextKind::SuggestedSubcommand,
        ),
        ErrorKind::UnknownArgument => (ContextKind::InvalidArg, ContextKind::SuggestedArg),
        _ => return error,
    };
    let (wrong, suggested) = kinds;
    if error.get(suggested).is_some() {
        return error;
    }
    let Some(ContextValue::String(word)) = error.get(wrong) else {
        return error;
    };
    if let Some(near) = nearest(word, &words_of(command)) {
        let value = if suggested == ContextKind::SuggestedSubcommand {
            ContextValue::Strings(vec![near])
        } else {
            ContextValue::String(near)
        };
        error.insert(suggested, value);
    }
    error
}

/// All commands and long options, at every level.
fn words_of(command: &Command) -> Vec<String> {
    let options = command.get_arguments().filter_map(Arg::get_long);
    let mut words: Vec<String> = options.map(|option| format!("--{option}")).collect();
    for below in command.get_subcommands() {
        words.push(below.get_name().to_owned());
        words.extend(words_of(below));
    }
    words
}

/// The known word that is nearest to `word`, if one is near enough.
fn nearest(word: &str, known: &[String]) -> Option<String> {
    let is_option = word.starts_with('-');
    let allowed = MAX_DISTANCE.min(word.trim_start_matches('-').len() / 2);
    known
        .iter()
        .filter(|known| known.starts_with('-') == is_option)
        .map(|known| (strsim::osa_distance(word, known), known))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, known)| known.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    fn refusal(text: &str) -> String {
        match parse(&words(text)) {
            Ok(_) => panic!("`{text}` was accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_definitions_agree() {
        command().debug_assert();
        let command = command();
        for path in NETWORK_COMMANDS {
            let found = path
                .split(' ')
                .try_fold(&command, |command, name| command.find_subcommand(name));
            assert!(found.is_some(), "there is no command `{path}`");
        }
        for id in NETWORK_OPTIONS {
            assert!(
                command.get_arguments().any(|known| known.get_id() == id),
                "there is no option `{id}`"
            );
        }
    }

    /// ROOTFS and INPUT take any word, so a misspelt option before them was taken for ROOTFS; and the
    /// parser saw no likeness between `rnu` and `run`.
    #[test]
    fn a_spelling_mistake_is_answered_with_the_right_word() {
        for (text, expected) in [
            ("ipfs-exec run --memroy 1G rootfs input", "'--memory'"),
            ("ipfs-exec run --timeuot=3 rootfs input", "'--timeout'"),
            ("ipfs-exec rnu rootfs input", "'run'"),
            ("ipfs-exec pin sl", "'ls'"),
            ("ipfs-exec add --jsno x", "'--json'"),
            ("ipfs-exec run rootfs --memory 1G input", "before ROOTFS"),
            ("ipfs-exec run rootfs --nonsense input", "'--nonsense'"),
        ] {
            let message = refusal(text);
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn the_arguments_of_a_program_are_its_own() {
        for text in [
            "ipfs-exec run rootfs input --memroy",
            "ipfs-exec run rootfs input -- -x --json",
            "ipfs-exec run -- -rootfs -input",
            "ipfs-exec run rootfs - x",
            "ipfs-exec run --memory 1G rootfs input --memory",
        ] {
            assert!(parse(&words(text)).is_ok(), "{text}");
        }
    }

    /// `gc --gateway URL` was accepted, and the gateway was never asked for anything.
    #[test]
    fn network_options_belong_to_commands_that_use_the_network() {
        const OPTIONS: [&str; 6] = [
            "--peer /ip4/192.0.2.7/tcp/4001",
            "--public",
            "--gateway https://example.com",
            "--router https://example.com",
            "--no-mdns",
            "--idle-timeout 3",
        ];
        for option in OPTIONS {
            let name = option.split(' ').next().unwrap();
            for local in ["gc", "pin ls", "repo stat", "verify", "id", "add x"] {
                for text in [
                    format!("ipfs-exec {option} {local}"),
                    format!("ipfs-exec {local} {option}"),
                ] {
                    let message = refusal(&text);
                    assert!(message.contains(name), "{text}: {message}");
                    assert!(message.contains("network"), "{text}: {message}");
                }
            }
            for fetching in ["cat x", "pin add x", "image unpack x", "doctor"] {
                for text in [
                    format!("ipfs-exec {option} {fetching}"),
                    format!("ipfs-exec {fetching} {option}"),
                ] {
                    assert!(parse(&words(&text)).is_ok(), "{text}");
                }
            }
            let help = |text: &str| parse(&words(text)).unwrap_err().to_string();
            for (text, shown) in [
                ("ipfs-exec gc --help", false),
                ("ipfs-exec pin ls --help", false),
                ("ipfs-exec cat --help", true),
            ] {
                assert_eq!(help(text).contains(name), shown, "{name} in {text}");
            }
        }
    }

    /// `--offset -1` was answered as an unknown option `-1`.
    #[test]
    fn a_wrong_number_is_no_unknown_option() {
        for text in [
            "ipfs-exec cat --offset -1 x",
            "ipfs-exec cat --length -1 x",
            "ipfs-exec run --memory -1G rootfs input",
            "ipfs-exec run --pids -1 rootfs input",
            "ipfs-exec run --timeout -3s rootfs input",
            "ipfs-exec ls --max-entries -1 x",
            "ipfs-exec cat --idle-timeout -1 x",
        ] {
            let message = refusal(text);
            assert!(message.contains("invalid value '-"), "{text}: {message}");
        }
    }

    #[test]
    fn run_is_told_from_other_commands_in_a_wrong_call() {
        for (text, expected) in [
            ("ipfs-exec run", true),
            ("ipfs-exec --frobnicate run rootfs input", true),
            ("ipfs-exec --idle-timeout 0 run rootfs input", true),
            ("ipfs-exec --repo run add x", false),
            ("ipfs-exec --repo=run add x", false),
            ("ipfs-exec --repo r run rootfs input", true),
            ("ipfs-exec add run", false),
            ("ipfs-exec", false),
        ] {
            assert_eq!(is_run(&words(text)), expected, "{text}");
        }
    }
}
