//! The order of modules is true: what `lib.rs` of a library states, and what a part must not know.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A module of a library, with the text of all its files, without comments and tests.
struct Module {
    name: String,
    files: BTreeMap<PathBuf, String>,
}

/// The modules that `lib.rs` of `library` declares, in order.
fn modules(library: &str) -> Vec<Module> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(library)
        .join("src");
    let root = fs::read_to_string(source.join("lib.rs")).unwrap();
    let declared = root.lines().filter_map(|line| {
        let line = line.trim_start_matches("pub ").strip_prefix("mod ")?;
        line.strip_suffix(';').map(str::to_owned)
    });
    let module = |name: String| {
        let mut files = BTreeMap::new();
        for path in [source.join(&name), source.join(format!("{name}.rs"))] {
            read_into(&path, &mut files);
        }
        assert!(!files.is_empty(), "{library} has no module {name}");
        Module { name, files }
    };
    declared.map(module).collect()
}

fn read_into(path: &Path, files: &mut BTreeMap<PathBuf, String>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            read_into(&entry.unwrap().path(), files);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs")
        && !path.ends_with("tests.rs")
        && path.exists()
    {
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        let lines: Vec<_> = code.lines().filter(is_code).collect();
        files.insert(path.to_owned(), lines.join("\n"));
    }
}

/// The names that follow `crate::` in `code`.
fn used(code: &str) -> impl Iterator<Item = &str> {
    let uses = code.split("crate::").skip(1);
    uses.flat_map(|rest| {
        let group = rest
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'))
            .map(|(names, _)| names.split(',').map(str::trim).collect());
        let names: Vec<&str> = group.unwrap_or_else(|| vec![rest]);
        let is_end = |character: char| !character.is_alphanumeric() && character != '_';
        let first = move |name: &'_ str| name.split(is_end).next().map(str::len).unwrap_or(0);
        names.into_iter().map(move |name| &name[..first(name)])
    })
}

#[test]
fn each_module_uses_only_those_above_it() {
    for library in ["node", "executor"] {
        let modules = modules(library);
        let names: Vec<_> = modules.iter().map(|module| module.name.as_str()).collect();
        assert!(names.len() > 10, "{names:?}");
        for (position, module) in modules.iter().enumerate() {
            for (path, code) in &module.files {
                let below = &names[position + 1..];
                let wrong: Vec<_> = used(code).filter(|name| below.contains(name)).collect();
                assert!(wrong.is_empty(), "{} uses {wrong:?}", path.display());
            }
        }
    }
}

/// What only these modules of a library may name.
#[test]
fn some_things_are_known_in_one_place() {
    let claims: &[(&str, &str, &[&str])] = &[
        // A program that only reads its repository links no network.
        ("node", "libp2p::", &["network", "fuzzing"]),
        ("node", "tokio::", &["network", "fuzzing"]),
        ("node", "reqwest::", &["network", "fuzzing"]),
        ("node", "rusqlite::", &["repo"]),
        // A run reads blocks, wherever they come from.
        ("executor", "ipfs_exec_node::network", &[]),
        ("executor", "fuser::", &["mount"]),
        ("executor", "\"/dev/fuse\"", &["mount"]),
        ("executor", "seccompiler::", &["sandbox"]),
        ("executor", "tar::", &["archive", "rootfs"]),
    ];
    for (library, word, places) in claims {
        let mut found = false;
        for module in modules(library) {
            for (path, code) in &module.files {
                let is_known = code.match_indices(word).any(|(start, _)| {
                    !code[..start]
                        .ends_with(|before: char| before.is_alphanumeric() || before == '_')
                });
                let may_know = places.contains(&module.name.as_str());
                assert!(may_know || !is_known, "{} knows {word}", path.display());
                found |= is_known;
            }
        }
        assert!(
            found || places.is_empty(),
            "nothing in {library} knows {word}"
        );
    }
}

#[test]
fn uses_are_found_where_they_stand() {
    let code = "use crate::one::Two; fn three() -> crate::four { crate::{five, six::Seven} }";
    let names: Vec<_> = used(code).collect();
    assert_eq!(names, ["one", "four", "five", "six"]);
}
