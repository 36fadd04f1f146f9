//! Content that stays and content that leaves: `pin`, `gc`, `import`, `export`, `verify`, `repo stat`.

use std::fs;

use ipfs_exec_tests::environment::entries;
use ipfs_exec_tests::random::Random;
use ipfs_exec_tests::{Environment, dag, tree};

#[test]
fn pinned_content_survives_gc() {
    let environment = Environment::new();
    environment.write("kept", Random::new(1).bytes(3_000_000));
    environment.write("dropped", Random::new(2).bytes(3_000_000));
    let kept = environment.add("kept");
    let dropped = environment
        .ipfs_exec(["add", "-Q", "--pin=false", "dropped"])
        .succeeds()
        .line();
    let pins = environment.ipfs_exec(["pin", "ls"]).succeeds();
    assert!(
        pins.text().contains(&kept) && !pins.text().contains(&dropped),
        "{pins:?}"
    );
    environment.ipfs_exec(["gc"]).succeeds();
    assert_eq!(environment.cat(&kept).len(), 3_000_000);
    environment.ipfs_exec(["cat", &dropped]).ends_with(1);
    environment.assert_clean();

    environment.ipfs_exec(["pin", "rm", &kept]).succeeds();
    environment.ipfs_exec(["gc"]).succeeds();
    environment.ipfs_exec(["cat", &kept]).ends_with(1);
    assert_eq!(environment.statistic("blocks"), 0);
    let used = tree::disk_usage(&environment.repository().join("blocks"));
    assert!(used < 1_000_000, "{used} bytes are still taken");
    environment.assert_clean();
}

#[test]
fn pins_are_added_listed_and_removed() {
    let environment = Environment::new();
    environment.write("tree/a", "a");
    let cid = environment
        .ipfs_exec(["add", "-Q", "--pin=false", "tree"])
        .succeeds()
        .line();
    let listed = || {
        environment
            .ipfs_exec(["pin", "ls"])
            .succeeds()
            .text()
            .contains(&cid)
    };
    assert!(!listed());
    environment.ipfs_exec(["pin", "add", &cid]).succeeds();
    assert!(listed());
    environment.ipfs_exec(["pin", "add", &cid]).succeeds();
    environment.ipfs_exec(["pin", "rm", &cid]).succeeds();
    assert!(!listed());
    environment.ipfs_exec(["pin", "rm", &cid]).fails(1, &[&cid]);
}

#[test]
fn a_tree_travels_as_a_car() {
    let environment = Environment::new();
    environment.write("tree/large", Random::new(3).bytes(2_000_000));
    environment.write("tree/sub/small", "small");
    let cid = environment.add("tree");
    let exported = environment.ipfs_exec(["export", &cid]).succeeds().stdout;
    environment
        .ipfs_exec(["export", &cid, "-o", "tree.car"])
        .succeeds();
    assert!(fs::read(environment.file("tree.car")).unwrap() == exported);

    for from_file in [true, false] {
        let other = Environment::new();
        let car = other.write("copy.car", &exported);
        let invocation = if from_file {
            other.ipfs_exec(["import"]).argument(car)
        } else {
            other.ipfs_exec(["import", "-"]).input(exported.clone())
        };
        assert_eq!(invocation.succeeds().line(), cid);
        other.ipfs_exec(["gc"]).succeeds();
        other.ipfs_exec(["get", &cid, "-o", "again"]).succeeds();
        let before = tree::snapshot(&environment.file("tree"));
        assert!(tree::snapshot(&other.file("again")) == before);
        other.assert_clean();
    }
}

#[test]
fn a_car_that_lies_or_ends_early_is_refused() {
    let source = Environment::new();
    source.write("file", Random::new(4).bytes(1_000_000));
    let cid = source.add("file");
    let car = source.ipfs_exec(["export", &cid]).succeeds().stdout;
    let mut flipped = car.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let mut oversized = dag::Blocks::new();
    let root = oversized.raw(vec![0; (2 << 20) + 1]);
    let cases: [(&str, Vec<u8>); 6] = [
        ("truncated.car", car[..car.len() - 10].to_vec()),
        ("flipped.car", flipped),
        ("text.car", b"this is no CAR at all".to_vec()),
        ("empty.car", Vec::new()),
        ("oversized.car", oversized.car(&[root])),
        // A header said to have 2^62 bytes.
        (
            "endless.car",
            vec![
                0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 1, 2, 3,
            ],
        ),
    ];
    for (name, bytes) in cases {
        let environment = Environment::new();
        let path = environment.write(name, bytes);
        environment
            .ipfs_exec(["import"])
            .argument(path)
            .fails(1, &[name]);
        assert_eq!(environment.statistic("pins"), 0, "{name}");
        environment.assert_clean();
    }
}

#[test]
fn export_of_an_incomplete_dag_leaves_no_file() {
    let environment = Environment::new();
    let mut blocks = dag::Blocks::new();
    let missing = blocks.raw("missing");
    let directory = blocks.directory(&[dag::Link::new("gone", missing, 7)]);
    blocks.forget(&missing);
    let car = environment.write("partial.car", blocks.car(&[directory]));
    let import = |options: &[&str]| {
        environment
            .ipfs_exec(["import"])
            .arguments(options)
            .argument(&car)
    };
    // The blocks that came are kept, and the root is printed, in both cases.
    let refused = import(&[]).ends_with(1);
    for word in [&*missing.to_string(), "is not pinned", "hint: "] {
        assert!(refused.stderr.contains(word), "{refused:?}");
    }
    let cid = directory.to_string();
    assert_eq!(refused.lines(), [&*cid]);
    let unpinned = import(&["--pin-roots=false"]).succeeds();
    assert_eq!(unpinned.lines(), [&*cid]);
    assert_eq!(environment.statistic("pins"), 0);
    environment.directory("place");
    environment
        .ipfs_exec(["export", &cid, "-o", "place/out.car"])
        .fails(1, &[&missing.to_string()]);
    assert!(entries(&environment.file("place")).is_empty());
}

#[test]
fn export_replaces_nothing_by_accident() {
    let environment = Environment::new();
    environment.write("file", "x");
    let cid = environment.add("file");
    environment
        .ipfs_exec(["export", &cid, "-o", "no/such/place.car"])
        .fails(1, &["no/such"]);
}

#[test]
fn verify_and_repo_stat_count_blocks_and_pins() {
    let environment = Environment::new();
    environment.ipfs_exec(["verify"]).succeeds();
    assert_eq!(environment.statistic("blocks"), 0);
    environment.write("tree/a", "a");
    environment.write("tree/b", "b");
    environment.add("tree");
    environment.ipfs_exec(["verify"]).succeeds();
    assert_eq!(environment.statistic("blocks"), 3);
    assert_eq!(environment.statistic("pins"), 1);
    assert!(environment.statistic("bytes") > 0);
    let text = environment.ipfs_exec(["repo", "stat"]).succeeds();
    assert!(
        text.text()
            .contains(environment.repository().to_str().unwrap()),
        "{text:?}"
    );
}

#[test]
fn adding_twice_costs_nothing() {
    let environment = Environment::new();
    environment.write("file", Random::new(5).bytes(5_000_000));
    let first = environment.add("file");
    let (blocks, used) = (
        environment.statistic("blocks"),
        environment.statistic("bytes"),
    );
    assert_eq!(environment.add("file"), first);
    assert_eq!(environment.statistic("blocks"), blocks);
    assert_eq!(environment.statistic("bytes"), used);
    assert_eq!(environment.statistic("pins"), 1);
}

#[test]
fn segments_are_cars_that_any_tool_can_read() {
    let environment = Environment::new();
    environment.write("file", Random::new(6).bytes(1_000_000));
    let cid = environment.add("file");
    let blocks = environment.repository().join("blocks");
    let segments = entries(&blocks);
    assert!(!segments.is_empty());
    let other = Environment::new();
    for segment in segments {
        other
            .ipfs_exec(["import"])
            .argument(blocks.join(segment))
            .succeeds();
    }
    assert!(other.cat(&cid) == environment.cat(&cid));
}
