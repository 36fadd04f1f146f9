//! The tools beside the original: `ipfs-ls-r`, `ipfs-mkdir`, `ipfs-merge`, each by its own name.

use ipfs_exec_tests::{Environment, Invocation, Served};

use crate::machine::EMPTY;

/// A call of the program by another name.
fn tool(environment: &Environment, name: &str, arguments: &[&str]) -> Invocation {
    environment.ipfs_exec(arguments).called_as(name)
}

/// The example of their README, with its CIDs and sizes.
#[test]
fn the_example_of_the_original_gives_its_output() {
    let environment = Environment::new();
    let mkdir = |pairs: &[&str]| tool(&environment, "ipfs-mkdir", pairs).succeeds().line();
    let list = |path: &str| {
        let listed = tool(&environment, "ipfs-ls-r", &[path]).succeeds();
        listed.text().to_owned()
    };
    let empty = mkdir(&[]);
    assert_eq!(empty, EMPTY);
    let text = mkdir(&["txt", &empty]);
    let one = mkdir(&["bbb", &empty, "common", &text]);
    assert_eq!(one, "QmX6HcULwFs85dYxhhsEVdf6ng6Wjqtq5d9Xxewx7LybYi");
    assert_eq!(
        list(&one),
        "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn\t4\tbbb/\n\
         QmcC7Zd4edNaxfYRG2sssnnJq9x5wSz4WZGqgPNszrEtRy\t53\tcommon/\n\
         QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn\t4\tcommon/txt/\n"
    );
    environment.write("two", "2\n");
    let two = environment.add("two");
    let text = mkdir(&["txt", &two]);
    let other = mkdir(&["aaa", &empty, "common", &text]);
    assert_eq!(other, "QmQomi23vpduW6dyBGPJasU5hvbx5E7yPXmnrR6LXmBYWg");
    assert_eq!(
        list(&other),
        "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn\t4\taaa/\n\
         QmNQxQC9mLao6rb2Q7KU9r5fQyk8xukrNFYayHxxmoKZfo\t59\tcommon/\n\
         QmSFxnK675wQ9Kc1uqWKyJUaNxvSc2BP5DbXCD3x93oq61\t10\tcommon/txt\n"
    );
    let merged = tool(&environment, "ipfs-merge", &[&one, &other]).succeeds();
    assert_eq!(
        merged.line(),
        "QmWt3BC8VcKeR2h5n9sB8Jeo8GAL3SL81sVpnY5frdgLLB"
    );
    assert!(merged.stderr.is_empty(), "{merged:?}");
    environment.assert_clean();
}

/// A tree of which only the directories are here is merged, and pinned alone with a warning.
#[test]
fn a_directory_with_content_that_is_missing_is_pinned_alone() {
    let environment = Environment::new();
    environment.write("tree/file", vec![7; 600_000]);
    let tree = environment.add("tree");
    let file = environment.ipfs_exec(["stat", "--json", &format!("{tree}/file")]);
    let file = file.succeeds().json()[0]["cid"]
        .as_str()
        .unwrap()
        .to_owned();
    environment.ipfs_exec(["pin", "rm", &tree]).succeeds();
    environment
        .ipfs_exec(["pin", "add", "--recursive=false", &tree])
        .succeeds();
    environment.ipfs_exec(["gc"]).succeeds();
    let empty = environment.ipfs_exec(["mkdir"]).succeeds().line();
    let made = environment
        .ipfs_exec(["mkdir", "copy", &tree, "empty", &empty])
        .succeeds();
    let merged = environment
        .ipfs_exec(["merge", &empty, &tree, &made.line()])
        .succeeds();
    for outcome in [made, merged] {
        assert!(outcome.stderr.contains("pinned alone"), "{outcome:?}");
        assert!(outcome.stderr.contains(&file), "{outcome:?}");
        let pins = environment
            .ipfs_exec(["pin", "ls", &outcome.line()])
            .succeeds();
        assert!(pins.text().contains("direct"), "{pins:?}");
    }
    // A content path whose own block is missing is an error, and nothing is made.
    let before = environment.statistic("blocks");
    for arguments in [&["mkdir", "file", &file][..], &["merge", &empty, &file]] {
        environment.ipfs_exec(arguments).fails(1, &[&file]);
    }
    assert_eq!(environment.statistic("blocks"), before);
    environment.assert_nothing_left();
}

#[test]
fn trees_are_compared() {
    let environment = Environment::new();
    for (tree, file, content) in [
        ("a", "same", "same"),
        ("b", "same", "same"),
        ("a", "dir/changed", "one two three"),
        ("b", "dir/changed", "one TWO three"),
        ("a", "removed", "x"),
        ("b", "added", "y"),
    ] {
        environment.write(format!("{tree}/{file}"), content);
    }
    let [a, b] = ["a", "b"].map(|tree| environment.add(tree));
    environment.ipfs_exec(["diff", &a, &a]).succeeds();
    let different = environment.ipfs_exec(["diff", &a, &b]).ends_with(1);
    assert_eq!(
        different.text(),
        "added added\nremoved removed\nchanged dir/changed: bytes 4 to 7\n"
    );
    assert_eq!(different.stderr, "");
    let json = environment
        .ipfs_exec(["diff", "--json", &a, &b])
        .ends_with(1);
    let objects = json.json();
    assert_eq!(objects[2]["first_difference"]["start"], 4);
    assert_eq!(objects[0]["from"], serde_json::Value::Null);
    let missing = "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG";
    environment
        .ipfs_exec(["diff", &a, missing])
        .fails(2, &[missing]);
}

/// `merge`, `diff` and `mkdir` fetch the nodes that they walk, and not the content of files.
#[test]
fn trees_of_a_peer_are_merged_and_compared_without_their_files() {
    let giver = Environment::new();
    for (tree, text) in [("one", b'1'), ("two", b'2')] {
        giver.write(format!("{tree}/same"), vec![7; 2_000_000]);
        giver.write(format!("{tree}/common/{tree}"), vec![text; 2_000_000]);
    }
    let (one, two) = (giver.add("one"), giver.add("two"));
    let served = Served::start(&giver);
    let taker = Environment::new();
    let peer = ["--peer", &*served.tcp];
    let merged = taker
        .ipfs_exec(["merge", &one, &two])
        .arguments(peer)
        .succeeds();
    assert!(merged.stderr.contains("pinned alone"), "{merged:?}");
    let compared = taker
        .ipfs_exec(["diff", &one, &two])
        .arguments(peer)
        .ends_with(1);
    assert_eq!(compared.lines(), ["removed common/one", "added common/two"]);
    let made = taker
        .ipfs_exec(["mkdir", "a", &format!("{one}/same")])
        .arguments(peer);
    made.succeeds();
    // Directories and the roots of files alone.
    assert!(
        taker.statistic("bytes") < 100_000,
        "{}",
        taker.statistic("bytes")
    );
    served.end();
    // What both had is there, also the file that neither merge nor diff has read.
    let missing = "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG";
    for command in ["merge", "diff"] {
        let code = if command == "diff" { 2 } else { 1 };
        let call = taker.ipfs_exec([command, &one, missing, "--offline"]);
        call.fails(code, &[missing]);
    }
    taker
        .ipfs_exec(["mkdir", "x", missing, "--offline"])
        .fails(1, &[missing]);
}
