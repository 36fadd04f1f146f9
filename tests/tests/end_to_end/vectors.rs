//! The CIDs that Kubo and js-ipfs-unixfs publish, and the way back.

use std::path::Path;

use ipfs_exec_tests::vector::{self, Vector};
use ipfs_exec_tests::{Environment, tree};

/// Edges of the import that Kubo's own tests fix and the collected vectors lack.
const OF_KUBO: &str = r#"[
    {
        "id": "v0-one-chunk-over-a-node",
        "cid": "QmV81WL765sC8DXsRhE5fJv2rwhS4icHRaf3J9Zk5FdRnW",
        "recipe": {"type": "chacha", "size": 45613057, "seed": "v0-seed"},
        "options": {"profile": "unixfs-v0-2015"}
    },
    {
        "id": "v1-one-byte-over-a-chunk",
        "cid": "bafybeigmix7t42i6jacydtquhet7srwvgpizfg7gjbq7627d35mjomtu64",
        "recipe": {"type": "chacha", "size": 1048577, "seed": "chunk-v1-seed"},
        "options": {"profile": "unixfs-v1-2025"}
    },
    {
        "id": "v1-directory-at-the-threshold",
        "cid": "bafybeic3h7rwruealwxkacabdy45jivq2crwz6bufb5ljwupn36gicplx4",
        "recipe": {"type": "names", "count": 4766, "len": 11, "last": 21, "seed": "hamt-unixfs-v1-2025"},
        "options": {"profile": "unixfs-v1-2025"}
    },
    {
        "id": "v1-directory-over-the-threshold",
        "cid": "bafybeiegvuterwurhdtkikfhbxcldohmxp566vpjdofhzmnhv6o4freidu",
        "recipe": {"type": "names", "count": 4766, "len": 11, "last": 22, "seed": "hamt-unixfs-v1-2025"},
        "options": {"profile": "unixfs-v1-2025"}
    }
]"#;

/// The vectors, but those of a layout that is not offered.
fn vectors() -> Vec<Vector> {
    let mut vectors = vector::vectors();
    vectors.extend(serde_json::from_str::<Vec<Vector>>(OF_KUBO).unwrap());
    vectors.retain(|vector| vector.options.layout.as_deref() != Some("trickle"));
    assert!(!vectors.is_empty());
    vectors
}

#[test]
fn every_vector_has_its_cid_and_comes_back() {
    let environment = Environment::new();
    for vector in vectors() {
        let source = environment.file(&vector.id);
        vector.recipe.make(&source);
        let arguments = vector.options.arguments();
        let added = environment
            .ipfs_exec(["add", "-Q"])
            .arguments(&arguments)
            .argument(&source)
            .succeeds()
            .line();
        assert_eq!(added, vector.cid, "{} with {arguments:?}", vector.id);

        let back = environment.file(format!("{} again", vector.id));
        environment
            .ipfs_exec(["get", &added, "-o"])
            .argument(&back)
            .succeeds();
        assert!(
            tree::snapshot(&source) == tree::snapshot(&back),
            "{} came back changed",
            vector.id
        );
        assert_metadata(&vector, &back);
    }
    environment.assert_clean();
}

/// What was recorded is restored.
fn assert_metadata(vector: &Vector, path: &Path) {
    if let Some(mode) = vector.options.mode {
        assert_eq!(tree::mode(path), mode, "mode of {}", vector.id);
    }
    if let Some(seconds) = vector.options.mtime {
        let nanoseconds = i64::from(vector.options.mtime_nsecs.unwrap_or(0));
        assert_eq!(
            tree::mtime(path),
            (seconds, nanoseconds),
            "mtime of {}",
            vector.id
        );
    }
}

#[test]
fn only_hash_gives_the_same_cids_and_writes_nothing() {
    let environment = Environment::new();
    for vector in vectors() {
        let source = environment.file(&vector.id);
        vector.recipe.make(&source);
        let hashed = environment
            .ipfs_exec(["add", "-n", "-Q"])
            .arguments(vector.options.arguments())
            .argument(&source)
            .succeeds()
            .line();
        assert_eq!(hashed, vector.cid, "{}", vector.id);
        environment.ipfs_exec(["stat", &hashed]).ends_with(1);
    }
    assert_eq!(environment.statistic("blocks"), 0);
}
