//! The recipes of the example images.

use std::fs;
use std::path::{Path, PathBuf};

use ipfs_exec_tests::{Environment, requirement};

use crate::machine::EMPTY;

/// The directory `examples`, which may have been copied elsewhere: `IPFS_EXEC_EXAMPLES`.
fn examples() -> PathBuf {
    std::env::var_os("IPFS_EXEC_EXAMPLES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples"),
        PathBuf::from,
    )
}

#[test]
fn the_busybox_image_has_the_same_bytes_in_every_build() {
    requirement::busybox();
    let environment = Environment::new();
    let recipe = examples().join("images/busybox/build.sh");
    let mut archives = Vec::new();
    for umask in ["022", "077", "000"] {
        let output = environment.file(format!("{umask}.tar.gz"));
        let call = format!("umask {umask}; exec \"$0\" \"$1\"");
        let program = environment.program("/bin/sh").arguments(["-c", &call]);
        program.argument(&recipe).argument(&output).succeeds();
        archives.push(fs::read(output).unwrap());
    }
    assert!(archives.iter().all(|archive| *archive == archives[0]));
    assert!(environment.temporary().read_dir().unwrap().next().is_none());
}

#[test]
fn the_busybox_image_runs_its_applets() {
    requirement::bubblewrap();
    let environment = Environment::new();
    let output = environment.file("rootfs.tar.gz");
    let recipe = examples().join("images/busybox/build.sh");
    environment.program(recipe).argument(&output).succeeds();
    let rootfs = environment.add(&output);
    environment.ipfs_exec(["mkdir"]).succeeds();
    let run = [
        "run",
        &rootfs,
        EMPTY,
        "sh",
        "-c",
        "seq 3 | sort -r | tr '\\n' ' ' > /output/x",
    ];
    let cid = environment.ipfs_exec(run).succeeds().line();
    assert_eq!(environment.cat(&format!("{cid}/x")), b"3 2 1 ");
    environment
        .ipfs_exec(["run", &rootfs, EMPTY, "false"])
        .ends_with(1);
    environment.assert_clean();
}

#[test]
fn the_empty_image_is_the_empty_directory() {
    let environment = Environment::new();
    let made = environment
        .program(examples().join("images/empty/build.sh"))
        .variable("IPFS_EXEC", ipfs_exec_tests::environment::binary())
        .succeeds();
    assert_eq!(made.line(), EMPTY);
}
