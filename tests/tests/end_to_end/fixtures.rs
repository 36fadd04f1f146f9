//! CARs of other implementations, compared with what an independent reader found. The published ones are read
//! where they are there; [`assert_trees`] also judges those that Helia makes.

use std::collections::BTreeMap;
use std::fs;

use ipfs_exec_tests::environment::entries;
use ipfs_exec_tests::vector::{self, Listed, Listing};
use ipfs_exec_tests::{Environment, tree};
use serde_json::Value;

/// A CAR whose file name ends like this holds entries that lead out of their directory.
const HOSTILE: &str = "path_gateway_tar";

fn is_hostile(listing: &Listing) -> bool {
    listing.car.to_string_lossy().contains(HOSTILE)
}

/// Imports a CAR, without pins if it lacks blocks, and checks the roots that are printed.
fn import(environment: &Environment, listing: &Listing) {
    let pins = format!("--pin-roots={}", is_complete(listing));
    let roots = environment
        .ipfs_exec(["import", &pins])
        .argument(&listing.car)
        .succeeds()
        .lines();
    assert_eq!(roots, listing.roots, "roots of {}", listing.car.display());
}

/// Whether the root is a file or directory, with nothing missing and no hostile names below it.
fn is_complete(listing: &Listing) -> bool {
    !is_hostile(listing)
        && listing
            .entries
            .iter()
            .all(|entry| entry.error.is_none() && entry.kind != "object")
        && !listing.entries.is_empty()
}

/// How many entries of a large tree are compared one by one.
const COMPARED: usize = 60;

/// Each tree is read as it is listed, and survives an export and an import.
pub(super) fn assert_trees(listings: &[Listing]) {
    assert_imported_whole(listings);
    assert_as_listed(listings);
    assert_survive(listings);
}

#[test]
fn every_car_is_imported_whole() {
    assert_imported_whole(&vector::listings());
}

fn assert_imported_whole(listings: &[Listing]) {
    for listing in listings {
        let environment = Environment::new();
        import(&environment, listing);
        assert_eq!(
            environment.statistic("blocks"),
            listing.blocks,
            "{}",
            listing.car.display()
        );
        environment.assert_clean();
    }
}

#[test]
fn every_tree_is_as_listed() {
    let listings = vector::listings();
    let compared = assert_as_listed(&listings);
    assert!(
        listings.is_empty() || compared > 40,
        "only {compared} entries were compared"
    );
}

/// Returns how many entries were compared one by one.
fn assert_as_listed(listings: &[Listing]) -> usize {
    let mut compared = 0;
    for listing in listings.iter().filter(|listing| is_complete(listing)) {
        let environment = Environment::new();
        import(&environment, listing);
        let root = &listing.entries[0];
        if root.kind == "directory" {
            assert_ls(&environment, listing);
        }
        let step = listing.entries.len() / COMPARED + 1;
        for entry in listing.entries.iter().step_by(step) {
            assert_entry(&environment, &listing.roots[0], entry);
            compared += 1;
        }
        assert_get(&environment, listing);
    }
    compared
}

/// `ls -r` shows each entry once, with its CID, type and size.
fn assert_ls(environment: &Environment, listing: &Listing) {
    let lines = environment
        .ipfs_exec(["ls", "-r", "--json", &listing.roots[0]])
        .succeeds()
        .json();
    let shown: BTreeMap<&str, &Value> = lines
        .iter()
        .map(|line| (line["path"].as_str().unwrap(), line))
        .collect();
    assert_eq!(
        shown.len(),
        lines.len(),
        "an entry is shown twice: {}",
        listing.car.display()
    );
    let listed = &listing.entries[1..];
    assert_eq!(
        shown.len(),
        listed.len(),
        "{}: {shown:?}",
        listing.car.display()
    );
    for entry in listed {
        let line = shown
            .get(entry.path.trim_start_matches('/'))
            .unwrap_or_else(|| panic!("no {} in {shown:?}", entry.path));
        assert_eq!(
            line["cid"],
            Value::from(entry.cid.clone()),
            "{}",
            entry.path
        );
        assert_eq!(line["type"], expected_type(entry), "{}", entry.path);
        if expected_type(entry) == "file" {
            assert_eq!(line["size"], Value::from(entry.size), "{}", entry.path);
        }
    }
}

fn expected_type(entry: &Listed) -> &'static str {
    match (entry.kind.as_str(), entry.unixfs.as_deref()) {
        (_, Some("symlink")) => "symlink",
        (_, Some("hamt-sharded-directory")) => "hamt-directory",
        ("directory", _) => "directory",
        ("file" | "raw", _) => "file",
        other => panic!("a type without counterpart: {other:?}"),
    }
}

/// `stat` and `cat` agree with the listing.
fn assert_entry(environment: &Environment, root: &str, entry: &Listed) {
    let path = format!("/ipfs/{root}{}", entry.path);
    let lines = environment
        .ipfs_exec(["stat", "--json", &path])
        .succeeds()
        .json();
    let stat = &lines[0];
    assert_eq!(stat["cid"], Value::from(entry.cid.clone()), "{path}");
    assert_eq!(stat["type"], expected_type(entry), "{path}");
    let mode = stat["mode"].as_u64().or_else(|| {
        stat["mode"]
            .as_str()
            .map(|octal| u64::from_str_radix(octal, 8).unwrap())
    });
    assert_eq!(mode, entry.mode.map(u64::from), "mode of {path}");
    let seconds = stat["mtime"]
        .as_i64()
        .or_else(|| stat["mtime"]["secs"].as_i64());
    assert_eq!(
        seconds,
        entry.mtime.map(|mtime| mtime.secs),
        "mtime of {path}"
    );
    if let Some(digest) = &entry.sha256 {
        assert_eq!(stat["size"], Value::from(entry.size), "{path}");
        assert_eq!(
            &tree::sha256(&environment.cat(&path)),
            digest,
            "content of {path}"
        );
    }
}

/// `get` writes the tree, with its links, modes and times.
fn assert_get(environment: &Environment, listing: &Listing) {
    let destination = environment.file("got");
    environment
        .ipfs_exec(["get", &listing.roots[0], "-o"])
        .argument(&destination)
        .succeeds();
    let found = tree::snapshot(&destination);
    assert_eq!(
        found.len(),
        listing.entries.len(),
        "{}",
        listing.car.display()
    );
    for entry in &listing.entries {
        let path = match entry.path.strip_prefix('/') {
            Some(below) => destination.join(below),
            None => destination.clone(),
        };
        if let Some(target) = &entry.link {
            assert_eq!(
                fs::read_link(&path).unwrap().to_str(),
                Some(target.as_str())
            );
        } else if let Some(digest) = &entry.sha256 {
            assert_eq!(
                &tree::sha256(&fs::read(&path).unwrap()),
                digest,
                "{}",
                path.display()
            );
        }
        if let Some(mode) = entry.mode {
            assert_eq!(tree::mode(&path), mode, "mode of {}", path.display());
        }
        if let Some(mtime) = entry.mtime {
            let wanted = (mtime.secs, i64::from(mtime.nsecs));
            assert_eq!(tree::mtime(&path), wanted, "mtime of {}", path.display());
        }
    }
}

#[test]
fn every_tree_survives_export_and_import() {
    assert_survive(&vector::listings());
}

fn assert_survive(listings: &[Listing]) {
    for listing in listings.iter().filter(|listing| is_complete(listing)) {
        let (first, second) = (Environment::new(), Environment::new());
        import(&first, listing);
        let car = first.file("again.car");
        let root = &listing.roots[0];
        first
            .ipfs_exec(["export", root, "-o"])
            .argument(&car)
            .succeeds();
        let roots = second
            .ipfs_exec(["import"])
            .argument(&car)
            .succeeds()
            .lines();
        assert_eq!(&roots, &listing.roots[..1]);
        for command in [["ls", "-r", "--json"].as_slice(), &["stat", "--json"]] {
            if command[0] == "ls" && listing.entries[0].kind != "directory" {
                continue;
            }
            let show = |environment: &Environment| {
                environment
                    .ipfs_exec(command)
                    .argument(root)
                    .succeeds()
                    .text()
                    .to_owned()
            };
            assert_eq!(
                show(&first),
                show(&second),
                "{command:?} of {}",
                listing.car.display()
            );
        }
        second.assert_clean();
    }
}

#[test]
fn missing_blocks_are_named() {
    let Some(listing) = vector::listing("partial-dag-scope-entity.car") else {
        return;
    };
    let environment = Environment::new();
    import(&environment, &listing);
    let root = &listing.roots[0];
    for entry in listing.entries.iter().filter(|entry| entry.error.is_some()) {
        let path = format!("{root}{}", entry.path);
        environment
            .ipfs_exec(["cat", &path])
            .fails(1, &[&entry.cid]);
        environment
            .ipfs_exec(["stat", &path])
            .fails(1, &[&entry.cid]);
    }
    assert_get_refused(&environment, root, &[]);
    environment.assert_clean();
}

#[test]
fn a_file_with_a_missing_block_is_an_error_that_names_it() {
    const MISSING: &str = "QmSNLTo6Wv9dfroVaw7MFYjLqf9ho7PKrgsjdzYDtv8h1W";
    let Some(listing) = vector::listing("file-3k-and-3-blocks-missing-block.car") else {
        return;
    };
    let environment = Environment::new();
    let imported = environment
        .ipfs_exec(["import"])
        .argument(&listing.car)
        .ends_with(1);
    assert_eq!(imported.lines(), listing.roots);
    assert!(
        imported.stderr.contains(MISSING),
        "no word about the missing block\n{imported:?}"
    );
    let root = &listing.roots[0];
    let read = environment.ipfs_exec(["cat", root]).ends_with(1);
    assert!(read.stderr.contains(MISSING), "{read:?}");
    environment
        .ipfs_exec(["pin", "add", root])
        .fails(1, &[MISSING]);
    environment.ipfs_exec(["export", root]).ends_with(1);
    assert_get_refused(&environment, root, &[MISSING]);
    let pins = environment.ipfs_exec(["pin", "ls"]).succeeds();
    assert!(
        !pins.text().contains(root.as_str()),
        "an incomplete root is pinned\n{pins:?}"
    );
    environment.assert_clean();
}

#[test]
fn names_that_lead_out_of_their_directory_are_refused() {
    let listings = vector::listings();
    let is_here = !listings.is_empty();
    let hostile: Vec<Listing> = listings.into_iter().filter(is_hostile).collect();
    assert!(!is_here || hostile.len() == 2, "{hostile:?}");
    for listing in hostile {
        let environment = Environment::new();
        import(&environment, &listing);
        let listed = environment.ipfs_exec(["ls", "-r", &listing.roots[0]]).run();
        assert!(matches!(listed.code, Some(0 | 1)), "{listed:?}");
        assert_get_refused(&environment, &listing.roots[0], &["../"]);
    }
}

/// `get` fails with an error that holds `words`, and writes nothing at all.
fn assert_get_refused(environment: &Environment, root: &str, words: &[&str]) {
    let place = environment.directory("place");
    let outcome = environment
        .ipfs_exec(["get", root, "-o", "place/deeper"])
        .fails(1, words);
    assert!(
        entries(&place).is_empty(),
        "something was written\n{outcome:?}"
    );
    let files = entries(place.parent().unwrap());
    assert_eq!(
        files,
        ["place"],
        "something was written outside\n{outcome:?}"
    );
}
