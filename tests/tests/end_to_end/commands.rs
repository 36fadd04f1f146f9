//! Files in and out: `add`, `cat`, `get`, and what they print.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use ipfs_exec_tests::{Environment, dag, tree};
use rustix::fs::{CWD, FileType, Mode};

/// CID of `hello world`.
const HELLO_WORLD: &str = "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD";

#[test]
fn add_prints_the_cid_of_each_argument() {
    let environment = Environment::new();
    environment.write("a", "hello world");
    environment.write("tree/test", "blabla\n");
    let wanted = [
        HELLO_WORLD,
        "QmeugpFaBp7aafV2uN7GC3E2GbAycnEU3c2Q3FS7mSLbo4",
    ];
    assert_eq!(
        environment
            .ipfs_exec(["add", "a", "tree"])
            .succeeds()
            .lines(),
        wanted
    );
    assert_eq!(
        environment
            .ipfs_exec(["add", "-r", "a", "tree"])
            .succeeds()
            .lines(),
        wanted
    );
    environment.assert_clean();
}

#[test]
fn add_can_print_every_entry_or_only_the_last() {
    let environment = Environment::new();
    environment.write("tree/a", "a");
    environment.write("tree/b/c", "c");
    let root = environment.add("tree");
    let all = environment
        .ipfs_exec(["add", "-q", "tree"])
        .succeeds()
        .lines();
    assert_eq!(all.len(), 4, "two files, two directories");
    assert_eq!(all.last(), Some(&root));
    for name in ["a", "b", "b/c"] {
        let stat = environment.ipfs_exec(["stat", "--json", &format!("{root}/{name}")]);
        let cid = stat.succeeds().json()[0]["cid"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(all.contains(&cid), "{name} is not among {all:?}");
    }
    environment.write("other", "other");
    let last = environment
        .ipfs_exec(["add", "-Q", "tree", "other"])
        .succeeds()
        .line();
    assert_eq!(last, environment.add("other"));
}

#[test]
fn add_speaks_json() {
    let environment = Environment::new();
    environment.write("tree/a", "12345");
    let lines = environment
        .ipfs_exec(["add", "--json", "tree"])
        .succeeds()
        .json();
    let last = lines.last().unwrap();
    assert_eq!(last["cid"].as_str().unwrap(), environment.add("tree"));
    assert_eq!(last["name"], "tree");
    assert!(last["size"].is_u64(), "{last}");
}

#[test]
fn add_reads_standard_input() {
    let environment = Environment::new();
    let added = environment
        .ipfs_exec(["add", "-"])
        .input("hello world")
        .succeeds()
        .line();
    assert_eq!(added, HELLO_WORLD);
    let nothing = environment.ipfs_exec(["add", "-Q", "-"]).succeeds().line();
    assert_eq!(nothing, "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH");
    let long = vec![7; 3_000_000];
    let cid = environment
        .ipfs_exec(["add", "-Q", "-"])
        .input(long.clone())
        .succeeds()
        .line();
    assert!(environment.cat(&cid) == long);
    let file = environment.write("long", &long);
    assert_eq!(environment.add(file), cid);
}

#[test]
fn only_hash_leaves_no_block() {
    let environment = Environment::new();
    environment.write("a", "hello world");
    let cid = environment
        .ipfs_exec(["add", "--only-hash", "a"])
        .succeeds()
        .line();
    assert_eq!(cid, HELLO_WORLD);
    environment.ipfs_exec(["cat", &cid]).fails(1, &[&cid]);
    assert_eq!(environment.statistic("blocks"), 0);
}

#[test]
fn hidden_files_count() {
    let environment = Environment::new();
    environment.write("tree/.hidden/file", "x");
    environment.write("tree/.profile", "y");
    let cid = environment.add("tree");
    assert_eq!(environment.names(&cid), [".hidden", ".profile"]);
}

#[test]
fn cat_reads_files_and_only_files() {
    let environment = Environment::new();
    environment.write("tree/a/b", "content");
    let cid = environment.add("tree");
    for path in [
        format!("{cid}/a/b"),
        format!("/ipfs/{cid}/a/b"),
        format!("/ipfs/{cid}//a/b/"),
        format!("ipfs://{cid}/a/b"),
    ] {
        assert_eq!(environment.cat(&path), b"content", "{path}");
    }
    environment.ipfs_exec(["cat", &cid]).fails(1, &[&cid]);
    environment
        .ipfs_exec(["cat", &format!("{cid}/a/none")])
        .fails(1, &["none"]);
    environment
        .ipfs_exec(["cat", &format!("{cid}/a/b/c")])
        .ends_with(1);
}

#[test]
fn cat_reads_ranges_and_several_files() {
    let environment = Environment::new();
    let content: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
    let file = environment.write("large", &content);
    environment.write("small", "small");
    let (large, small) = (environment.add(file), environment.add("small"));
    // The chunks have 256 KiB.
    let chunk = 256 * 1024;
    for (offset, length) in [
        (0, 10),
        (chunk - 1, 2),
        (chunk, chunk),
        (3 * chunk + 5, 4 * chunk),
        (content.len() - 1, 100),
        (content.len(), 1),
        (content.len() + 1_000_000, 1),
        (7, 0),
    ] {
        let (from, count) = (offset.to_string(), length.to_string());
        let range = ["cat", "--offset", &from, "--length", &count, &large];
        let read = environment.ipfs_exec(range).succeeds().stdout;
        let start = offset.min(content.len());
        let end = (offset + length).min(content.len());
        assert!(read == content[start..end], "{length} bytes from {offset}");
    }
    let both = environment.ipfs_exec(["cat", &small, &small]).succeeds();
    assert_eq!(both.text(), "smallsmall");
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let environment = Environment::new();
    let file = environment.write("long", vec![1; 8_000_000]);
    let cid = environment.add(file);
    let script = format!("\"$0\" cat {cid} | head -c 1");
    let outcome = environment
        .program("/bin/sh")
        .arguments(["-c", &script])
        .argument(ipfs_exec_tests::environment::binary())
        .succeeds();
    assert_eq!(outcome.stdout, [1]);
    assert!(!outcome.stderr.contains("panic"), "{outcome:?}");
}

#[test]
fn data_that_cannot_be_written_is_an_error() {
    let environment = Environment::new();
    environment.write("a", "hello world");
    let cid = environment.add("a");
    for command in [
        ["cat", &cid],
        ["stat", &cid],
        ["add", "a"],
        ["export", &cid],
    ] {
        let script = "\"$0\" \"$@\" > /dev/full";
        let outcome = environment
            .program("/bin/sh")
            .arguments(["-c", script])
            .argument(ipfs_exec_tests::environment::binary())
            .arguments(command)
            .ends_with(1);
        assert_eq!(outcome.errors().len(), 1, "{outcome:?}");
    }
}

#[test]
fn get_writes_a_file_a_tree_or_a_link() {
    let environment = Environment::new();
    environment.write("tree/sub/file", "content");
    environment.write("tree/empty", "");
    environment.directory("tree/nothing");
    symlink("../nowhere", environment.file("tree/link")).unwrap();
    let cid = environment.add("tree");
    environment
        .ipfs_exec(["get", &cid, "-o", "again"])
        .succeeds();
    let before = tree::snapshot(&environment.file("tree"));
    assert_eq!(tree::snapshot(&environment.file("again")), before);

    environment
        .ipfs_exec(["get", &format!("{cid}/sub/file"), "-o", "one"])
        .succeeds();
    assert_eq!(fs::read(environment.file("one")).unwrap(), b"content");
    environment
        .ipfs_exec(["get", &format!("{cid}/link"), "-o", "two"])
        .succeeds();
    assert_eq!(
        fs::read_link(environment.file("two")).unwrap().to_str(),
        Some("../nowhere")
    );
}

#[test]
fn get_without_a_destination_uses_the_name() {
    let environment = Environment::new();
    environment.write("tree/file", "content");
    let cid = environment.add("tree");
    let place = environment.directory("place");
    environment
        .ipfs_exec(["get", &format!("{cid}/file")])
        .working_directory(&place)
        .succeeds();
    assert_eq!(fs::read(place.join("file")).unwrap(), b"content");
    environment
        .ipfs_exec(["get", &cid])
        .working_directory(&place)
        .succeeds();
    assert_eq!(fs::read(place.join(&cid).join("file")).unwrap(), b"content");
}

#[test]
fn get_replaces_nothing() {
    let environment = Environment::new();
    environment.write("tree/file", "new");
    let cid = environment.add("tree");
    environment.write("there", "old");
    environment.directory("directory");
    symlink("there", environment.file("link")).unwrap();
    symlink("missing", environment.file("dangling")).unwrap();
    for name in ["there", "directory", "link", "dangling"] {
        for path in [cid.clone(), format!("{cid}/file")] {
            environment
                .ipfs_exec(["get", &path, "-o", name])
                .fails(1, &[name]);
        }
    }
    assert_eq!(fs::read(environment.file("there")).unwrap(), b"old");
    assert!(!environment.file("missing").exists());
    environment
        .ipfs_exec(["get", &cid, "-o", "no/such/place"])
        .fails(1, &["no/such"]);
    // Nothing can be made there; the error named the temporary name beside the destination.
    for path in [cid.clone(), format!("{cid}/file")] {
        environment
            .ipfs_exec(["get", &path, "-o", "/proc/new"])
            .fails(1, &["cannot create /proc/new:"]);
    }
}

#[test]
fn links_are_added_as_links() {
    let environment = Environment::new();
    environment.write("target", "content");
    symlink("target", environment.file("link")).unwrap();
    symlink("loop", environment.file("loop")).unwrap();
    for (name, target) in [("link", "target"), ("loop", "loop")] {
        let cid = environment.add(environment.file(name));
        let stat = environment
            .ipfs_exec(["stat", "--json", &cid])
            .succeeds()
            .json();
        assert_eq!(stat[0]["type"], "symlink");
        environment.ipfs_exec(["get", &cid, "-o", "out"]).succeeds();
        let out = environment.file("out");
        assert_eq!(fs::read_link(&out).unwrap().to_str(), Some(target));
        fs::remove_file(out).unwrap();
    }
}

#[test]
fn special_files_are_refused_by_name() {
    let environment = Environment::new();
    environment.write("tree/file", "x");
    let fifo = environment.file("tree/the-fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    environment
        .ipfs_exec(["add", "tree"])
        .fails(1, &["the-fifo"]);
    environment
        .ipfs_exec(["add", "tree/the-fifo"])
        .fails(1, &["the-fifo"]);
    environment
        .ipfs_exec(["add", "/dev/null"])
        .fails(1, &["/dev/null"]);
    assert_eq!(environment.statistic("pins"), 0);
    environment.assert_clean();
}

#[test]
fn unreadable_paths_are_named() {
    let environment = Environment::new();
    environment
        .ipfs_exec(["add", "not-there"])
        .fails(1, &["not-there"]);
    environment.write("ok", "x");
    environment
        .ipfs_exec(["add", "ok", "not-there"])
        .ends_with(1);
    if !rustix::process::geteuid().is_root() {
        let secret = environment.write("tree/secret", "x");
        fs::set_permissions(secret, fs::Permissions::from_mode(0o000)).unwrap();
        environment.ipfs_exec(["add", "tree"]).fails(1, &["secret"]);
    }
    environment.assert_clean();
}

#[test]
fn modes_and_times_are_kept_on_request() {
    let environment = Environment::new();
    let modes = [
        ("tree/a", 0o640),
        ("tree/b", 0o755),
        ("tree/sub/c", 0o400),
        ("tree/sub", 0o750),
    ];
    for (name, _) in &modes[..3] {
        environment.write(name, *name);
    }
    symlink("a", environment.file("tree/link")).unwrap();
    for (index, (name, mode)) in modes.iter().enumerate() {
        let path = environment.file(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
        tree::set_mtime(
            &path,
            1_000_000_000 + i64::try_from(index).unwrap(),
            5_000_000,
        );
    }
    tree::set_mtime(&environment.file("tree/link"), 42, 0);

    let plain = environment.add("tree");
    let add = ["add", "-Q", "--preserve-mode", "--preserve-mtime", "tree"];
    let kept = environment.ipfs_exec(add).succeeds().line();
    assert_ne!(plain, kept);
    environment
        .ipfs_exec(["get", &kept, "-o", "again"])
        .succeeds();
    for name in ["a", "b", "sub", "sub/c", "link"] {
        let (before, after) = (environment.file("tree"), environment.file("again"));
        let (before, after) = (before.join(name), after.join(name));
        assert_eq!(tree::mtime(&before), tree::mtime(&after), "mtime of {name}");
        assert_eq!(tree::mode(&before), tree::mode(&after), "mode of {name}");
    }
    let again = add.map(|word| if word == "tree" { "again" } else { word });
    assert_eq!(environment.ipfs_exec(again).succeeds().line(), kept);
}

#[test]
fn set_id_bits_do_not_come_back() {
    let environment = Environment::new();
    let file = environment.write("file", "x");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o6755)).unwrap();
    let cid = environment
        .ipfs_exec(["add", "-Q", "--preserve-mode", "file"])
        .succeeds()
        .line();
    environment.ipfs_exec(["get", &cid, "-o", "out"]).succeeds();
    assert_eq!(tree::mode(&environment.file("out")), 0o755);
}

#[test]
fn unknown_content_is_named() {
    let environment = Environment::new();
    let cid = dag::unknown_cid("commands").to_string();
    for command in [
        vec!["cat"],
        vec!["get"],
        vec!["ls"],
        vec!["ls", "-r"],
        vec!["stat"],
        vec!["pin", "add"],
        vec!["export"],
        vec!["mkdir", "name"],
    ] {
        environment
            .ipfs_exec(command)
            .argument(&cid)
            .fails(1, &[&cid]);
    }
    environment.assert_clean();
}
