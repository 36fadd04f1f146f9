//! JSON of every command: the keys that the README lists, and of `run` the same ones for every end.

use std::collections::BTreeSet;

use ipfs_exec_tests::{Archive, Outcome};
use serde_json::Value;

use crate::machine::{EMPTY, Machine};

const README: &str = include_str!("../../../README.md");

/// The words in backticks of the README's row for `command`: all keys but those that stand behind
/// "if known", and all of them.
fn documented(command: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let section = README.split_once("\n## JSON\n").unwrap().1;
    let section = section.split_once("\n## ").unwrap().0;
    let is_row = |line: &&str| {
        let first = line.split('|').nth(1).unwrap_or_default();
        first
            .split(',')
            .any(|name| name.trim() == format!("`{command}`"))
    };
    let row = section.lines().find(is_row);
    let row = row.unwrap_or_else(|| panic!("no row for `{command}`"));
    let cell = row.split('|').nth(2).unwrap();
    // What stands in parentheses are values.
    let mut plain = String::new();
    let mut depth = 0;
    for letter in cell.chars() {
        depth += i32::from(letter == '(');
        if depth == 0 {
            plain.push(letter);
        }
        depth -= i32::from(letter == ')');
    }
    let words = |text: &str| {
        let quoted = text.split('`').skip(1).step_by(2);
        quoted.map(ToOwned::to_owned).collect::<BTreeSet<_>>()
    };
    let always = plain.split("if known").next().unwrap();
    (words(always), words(&plain))
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

#[track_caller]
fn assert_documented(command: &str, outcome: &Outcome) {
    let (always, all) = documented(command);
    let objects = outcome.json();
    assert!(!objects.is_empty(), "{outcome:?}");
    for object in objects {
        let found = keys(&object);
        assert!(
            found.is_superset(&always),
            "{command}: {object} lacks a key of {always:?}"
        );
        assert!(
            found.is_subset(&all),
            "{command}: {object} has more keys than {all:?}"
        );
    }
}

#[test]
fn every_command_prints_the_keys_of_the_readme() {
    let machine = Machine::new();
    let environment = &machine.environment;
    environment.write("tree/file", "content");
    environment.write("tree/other/file", "other content");
    std::os::unix::fs::symlink("file", environment.file("tree/link")).unwrap();
    environment.write("rootfs.tar.gz", Archive::busybox().gzip());
    let tree = environment.add("tree");
    let car = environment.file("tree.car");
    let car = car.to_str().unwrap();
    environment
        .ipfs_exec(["export", &tree, "-o", car])
        .succeeds();
    for (command, arguments) in [
        ("add", &["tree"][..]),
        ("mkdir", &[]),
        ("image unpack", &["rootfs.tar.gz"]),
        ("import", &[car]),
        ("ls", &["-r", &tree]),
        ("stat", &[&tree]),
        ("pin ls", &[]),
        ("pin rm", &[&tree]),
        ("pin add", &[&tree]),
        ("merge", &[&tree, EMPTY]),
        ("verify", &[]),
        ("repo stat", &[]),
        ("repo reindex", &[]),
        ("gc", &["--rootfs"]),
        ("id", &[]),
        ("key gen", &["site"]),
        ("key ls", &[]),
        ("key rename", &["site", "page"]),
        ("name publish", &["--offline", "--allow-offline", EMPTY]),
        ("name resolve", &["--offline"]),
        ("key rm", &["page"]),
        ("doctor", &[]),
    ] {
        let words = command.split(' ').chain(["--json"]);
        let outcome = environment.ipfs_exec(words).arguments(arguments).succeeds();
        assert_documented(command, &outcome);
    }
}

#[test]
fn a_run_prints_the_same_keys_however_it_ends() {
    let section = README.split_once("\n| key | value |\n").unwrap().1;
    let rows = section.lines().take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|line| line.split('|').nth(1));
    let listed: BTreeSet<String> = cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(ToOwned::to_owned)
        .collect();
    let machine = Machine::new();
    let missing = "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG";
    let rootfs = &*machine.rootfs;
    for (options, rootfs, words, code) in [
        (&["-T"][..], rootfs, &["true"][..], 0),
        (&[], rootfs, &["sh", "-c", "exit 3"], 3),
        (&[], rootfs, &["mkfifo", "/output/fifo"], 123),
        (&["--timeout", "1s"], rootfs, &["sleep", "60"], 124),
        (
            &["--output-size", "1KiB"],
            rootfs,
            &["dd", "if=/dev/zero", "of=/output/file", "count=9"],
            137,
        ),
        (&["--entrypoint", "/nowhere"], rootfs, &[], 127),
        (&["--entrypoint", "/bin"], rootfs, &[], 126),
        (&["--offline"], missing, &["true"], 125),
    ] {
        let run = machine
            .environment
            .ipfs_exec(["run", "--json"])
            .arguments(options);
        let outcome = run.arguments([rootfs, EMPTY]).arguments(words).run();
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        let objects = outcome.json();
        let [object] = &objects[..] else {
            panic!("{outcome:?}");
        };
        assert_eq!(keys(object), listed, "{code}");
        assert_eq!(object["exit_code"], code);
        let has_output = ![123, 124, 125, 126, 127, 137].contains(&code);
        assert_eq!(object["cid"].is_null(), !has_output, "{object}");
        assert_eq!(object["error"].is_null(), has_output, "{object}");
    }
}
