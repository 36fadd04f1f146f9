//! The content of directories: `ls`, `stat`, `mkdir`, and names that are hard to print.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use ipfs_exec_tests::{Environment, dag, tree};

use crate::faults::NOBODY;
use crate::machine::EMPTY;

#[test]
fn ls_shows_cid_size_and_name() {
    let environment = Environment::new();
    environment.write("tree/file", "12345");
    environment.write("tree/sub/deep", "1");
    let cid = environment.add("tree");
    let cid_of = |name: &str| {
        let stat = environment.ipfs_exec(["stat", "--json", &format!("{cid}/{name}")]);
        stat.succeeds().json()[0]["cid"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (file, sub, deep) = (cid_of("file"), cid_of("sub"), cid_of("sub/deep"));
    let fields = |outcome: &ipfs_exec_tests::Outcome| -> Vec<Vec<String>> {
        let split = |line: String| line.split_whitespace().map(str::to_owned).collect();
        outcome.lines().into_iter().map(split).collect()
    };
    let listed = environment.ipfs_exec(["ls", &cid]).succeeds();
    let flat = [
        vec![file.as_str(), "5", "file"],
        vec![sub.as_str(), "-", "sub/"],
    ];
    assert_eq!(fields(&listed), flat);
    let listed = environment.ipfs_exec(["ls", "-r", &cid]).succeeds();
    let mut all = flat.to_vec();
    all.push(vec![deep.as_str(), "1", "sub/deep"]);
    assert_eq!(fields(&listed), all);
}

#[test]
fn ls_of_the_empty_directory_prints_nothing() {
    let environment = Environment::new();
    environment.ipfs_exec(["mkdir"]).succeeds();
    assert_eq!(environment.ipfs_exec(["ls", EMPTY]).succeeds().text(), "");
}

#[test]
fn stat_tells_type_and_sizes() {
    let environment = Environment::new();
    environment.write("tree/file", vec![1; 300_000]);
    let cid = environment.add("tree");
    let stat = |path: &str| {
        environment
            .ipfs_exec(["stat", "--json", path])
            .succeeds()
            .json()[0]
            .clone()
    };
    let directory = stat(&cid);
    assert_eq!(directory["type"], "directory");
    assert_eq!(directory["cid"], cid);
    let file = stat(&format!("{cid}/file"));
    assert_eq!(file["type"], "file");
    assert_eq!(file["size"], 300_000);
    assert_eq!(file["blocks"], 2, "links of the file: {file}");
    let cumulative = file["cumulative_size"].as_u64().unwrap();
    assert!((300_001..301_000).contains(&cumulative), "{file}");
    assert!(file["mode"].is_null() && file["mtime"].is_null(), "{file}");
    let text = environment.ipfs_exec(["stat", &cid]).succeeds();
    assert!(text.text().contains(&cid), "{text:?}");
}

#[test]
fn mkdir_makes_directories_of_pairs() {
    let environment = Environment::new();
    assert_eq!(environment.ipfs_exec(["mkdir"]).succeeds().line(), EMPTY);
    environment.write("tree/a", "a");
    environment.write("tree/sub/b", "b");
    let whole = environment.add("tree");
    let (a, sub) = (format!("/ipfs/{whole}/a"), format!("{whole}/sub"));
    let made = environment
        .ipfs_exec(["mkdir", "sub", &sub, "a", &a])
        .succeeds()
        .line();
    assert_eq!(made, whole, "the order of the pairs does not matter");
    let nested = environment
        .ipfs_exec(["mkdir", "tree", &whole])
        .succeeds()
        .line();
    assert_eq!(environment.cat(&format!("{nested}/tree/sub/b")), b"b");
    environment.assert_clean();
}

#[test]
fn mkdir_refuses_invalid_entries() {
    let environment = Environment::new();
    environment.ipfs_exec(["mkdir"]).succeeds();
    environment.ipfs_exec(["mkdir", "name"]).ends_with(2);
    for name in ["..", ".", "a/b", ""] {
        let outcome = environment.ipfs_exec(["mkdir", name, EMPTY]).run();
        assert!(matches!(outcome.code, Some(1 | 2)), "{outcome:?}");
        assert!(outcome.stderr.contains(&format!("`{name}`")), "{outcome:?}");
    }
    let twice = environment
        .ipfs_exec(["mkdir", "same", EMPTY, "same", EMPTY])
        .run();
    assert!(matches!(twice.code, Some(1 | 2)), "{twice:?}");
    assert!(twice.stderr.contains("same"), "{twice:?}");
}

#[test]
fn the_old_names_of_the_program_work() {
    let environment = Environment::new();
    let link = environment.file("ipfs-mkdir");
    std::os::unix::fs::symlink(ipfs_exec_tests::environment::binary(), &link).unwrap();
    assert_eq!(environment.program(&link).succeeds().line(), EMPTY);
    let made = environment
        .program(&link)
        .arguments(["inner", EMPTY])
        .succeeds()
        .line();
    assert_eq!(environment.names(&made), ["inner"]);
}

#[test]
fn percent_signs_are_escapes_only_in_uris() {
    let environment = Environment::new();
    environment.write("tree/a%20b c", "literal");
    environment.write("tree/a b c", "plain");
    let cid = environment.add("tree");
    assert_eq!(environment.cat(&format!("/ipfs/{cid}/a%20b c")), b"literal");
    assert_eq!(environment.cat(&format!("{cid}/a%20b c")), b"literal");
    assert_eq!(
        environment.cat(&format!("ipfs://{cid}/a%2520b%20c")),
        b"literal"
    );
    assert_eq!(
        environment.cat(&format!("ipfs://{cid}/a%20b%20c")),
        b"plain"
    );
    environment
        .ipfs_exec(["cat", &format!("ipfs://{cid}/a%zz")])
        .fails(1, &["a%zz"]);
}

#[test]
fn names_cannot_control_the_terminal() {
    let environment = Environment::new();
    let names = [
        "new\nline",
        "clear\u{1b}[2J",
        "tab\t",
        "back\\slash",
        "\u{202e}txt.exe",
        "ünïcödé",
    ];
    for name in names {
        environment.write(format!("tree/{name}"), name);
    }
    let cid = environment.add("tree");
    for command in [["ls", &cid], ["ls", "-r"]] {
        let mut invocation = environment.ipfs_exec(command);
        if command[1] == "-r" {
            invocation = invocation.argument(&cid);
        }
        let listed = invocation.succeeds();
        assert_eq!(listed.lines().len(), names.len(), "{listed:?}");
        assert!(
            !listed.text().contains(['\u{1b}', '\u{202e}', '\t']),
            "{listed:?}"
        );
        assert!(listed.text().contains("ünïcödé"), "{listed:?}");
    }
    let mut listed = environment.names(&cid);
    listed.sort();
    let mut wanted = names.map(str::to_owned);
    wanted.sort();
    assert_eq!(listed, wanted, "JSON carries the names themselves");
    let refused = environment
        .ipfs_exec(["cat", &format!("{cid}/\u{1b}[2J")])
        .ends_with(1);
    assert!(!refused.stderr.contains('\u{1b}'), "{refused:?}");
    environment
        .ipfs_exec(["get", &cid, "-o", "again"])
        .succeeds();
    let before = tree::snapshot(&environment.file("tree"));
    assert_eq!(tree::snapshot(&environment.file("again")), before);
}

#[test]
fn names_need_not_be_unicode() {
    let environment = Environment::new();
    let directory = environment.directory("tree");
    fs::write(directory.join(OsStr::from_bytes(b"caf\xe9")), "latin").unwrap();
    let cid = environment.add("tree");
    let listed = environment.ipfs_exec(["ls", &cid]).succeeds();
    assert!(listed.text().contains("caf\\xe9"), "{listed:?}");
    assert_eq!(environment.cat(&format!("ipfs://{cid}/caf%e9")), b"latin");
    environment
        .ipfs_exec(["get", &cid, "-o", "again"])
        .succeeds();
    let before = tree::snapshot(&environment.file("tree"));
    assert_eq!(tree::snapshot(&environment.file("again")), before);
}

#[test]
fn a_sharded_directory_is_a_directory() {
    let environment = Environment::new();
    for number in 0..3000 {
        environment.write(format!("tree/{number:04}"), number.to_string());
    }
    let add = ["add", "-Q", "--hamt-threshold", "1", "tree"];
    let sharded = environment.ipfs_exec(add).succeeds().line();
    assert_ne!(sharded, environment.add("tree"));
    let stat = environment
        .ipfs_exec(["stat", "--json", &sharded])
        .succeeds()
        .json();
    assert_eq!(stat[0]["type"], "hamt-directory");
    let mut names = environment.names(&sharded);
    names.sort();
    let wanted: Vec<String> = (0..3000).map(|number| format!("{number:04}")).collect();
    assert_eq!(names, wanted);
    assert_eq!(environment.cat(&format!("{sharded}/1234")), b"1234");
    environment
        .ipfs_exec(["cat", &format!("{sharded}/none")])
        .fails(1, &["none"]);
    environment
        .ipfs_exec(["get", &sharded, "-o", "again"])
        .succeeds();
    let before = tree::snapshot(&environment.file("tree"));
    assert!(tree::snapshot(&environment.file("again")) == before);
}

/// `ls` asked for one block a child, and told an error for each that was missing.
#[test]
fn ls_needs_only_the_blocks_of_the_directory() {
    let environment = Environment::new();
    let mut blocks = dag::Blocks::new();
    let (here, gone) = (blocks.file(b"here"), blocks.file(b"gone"));
    let sub = blocks.directory(&[]);
    let root = blocks.directory(&[
        dag::Link::new("gone", gone, 10),
        dag::Link::new("here", here, 10),
        dag::Link::new("sub", sub, 10),
    ]);
    blocks.forget(&gone);
    environment.write("partial.car", blocks.car(&[root]));
    environment
        .ipfs_exec(["import", "--pin-roots=false", "partial.car"])
        .succeeds();
    let root = root.to_string();
    let listed = environment
        .ipfs_exec(["ls", "--peer", NOBODY, &root])
        .succeeds();
    assert_eq!(
        listed.lines(),
        [
            format!("{gone} ? gone"),
            format!("{here} 4 here"),
            format!("{sub} - sub/"),
        ]
    );
    assert_eq!(listed.stderr, "");
    let json = environment.ipfs_exec(["ls", "--json", &root]).succeeds();
    assert_eq!(json.json()[0]["type"], "unknown");
    let fetching = environment.ipfs_exec(["ls", "--size", &root]).ends_with(1);
    assert!(fetching.stderr.contains(&gone.to_string()), "{fetching:?}");
}
