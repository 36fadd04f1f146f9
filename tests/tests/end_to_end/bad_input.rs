//! Inputs that commands must refuse. Each refusal gives one clear error that names the object, takes bounded
//! memory, and leaves nothing half made.

use cid::Cid;
use ipfs_exec_tests::dag::{self, Blocks, Link};
use ipfs_exec_tests::environment::{assert_bounded, entries};
use ipfs_exec_tests::{Archive, Environment, Outcome, archive, requirement};

use crate::machine::{EMPTY, Machine, without_fuse};

/// The most that any refusal may cost.
const MEMORY_BYTES: u64 = 256 << 20;

/// Imports blocks of which `root` may not be complete or sound.
fn import(environment: &Environment, blocks: &Blocks, root: Cid) -> String {
    let car = environment.write("hostile.car", blocks.car(&[root]));
    let imported = environment.ipfs_exec(["import"]).argument(car).run();
    assert!(matches!(imported.code, Some(0 | 1)), "{imported:?}");
    assert_bounded(&imported, MEMORY_BYTES);
    environment.assert_clean();
    root.to_string()
}

/// A run on a copy of this input is refused, and leaves nothing.
fn assert_run_refuses(machine: &Machine, input: &str, words: &[&str]) -> Outcome {
    let copied = ["run", &machine.rootfs, input, "true"];
    let outcome = without_fuse(&machine.environment, copied).fails(125, words);
    assert_bounded(&outcome, MEMORY_BYTES);
    machine.environment.assert_clean();
    outcome
}

/// A program that looks at all of this input fails, whatever it makes of it, and leaves nothing.
fn assert_reading_fails(machine: &Machine, input: &str, words: &[&str]) {
    let script = "find /input -type f -exec cat {} + > /dev/null; exit 0";
    let outcome = machine
        .run_on(input, ["sh", "-c", script])
        .fails(125, words);
    assert_bounded(&outcome, MEMORY_BYTES);
    machine.environment.assert_clean();
}

/// `get` refuses this, and leaves nothing.
fn assert_get_refuses(environment: &Environment, path: &str, words: &[&str]) {
    let place = environment.directory("place");
    let outcome = environment
        .ipfs_exec(["get", path, "-o", "place/out"])
        .fails(1, words);
    assert_bounded(&outcome, MEMORY_BYTES);
    assert!(
        entries(&place).is_empty(),
        "something was written\n{outcome:?}"
    );
    environment.assert_clean();
}

#[test]
fn content_paths_that_lead_nowhere() {
    let machine = Machine::new();
    let unknown = dag::unknown_cid("run").to_string();
    let below = format!("{EMPTY}/none");
    for (path, word) in [
        ("nonsense", "nonsense"),
        ("/no/such/file", "/no/such/file"),
        ("./none", "none"),
        ("", ""),
        (unknown.as_str(), unknown.as_str()),
        (below.as_str(), "none"),
        ("/ipns/example.org", "example.org"),
    ] {
        for arguments in [[path, EMPTY], [machine.rootfs.as_str(), path]] {
            let run = machine
                .environment
                .ipfs_exec(["run"])
                .arguments(arguments)
                .argument("true");
            run.fails(125, &[word]);
            machine.environment.assert_clean();
        }
    }
}

#[test]
fn root_file_systems_that_are_no_archives() {
    let machine = Machine::new();
    let environment = &machine.environment;
    let tar = Archive::busybox().tar();
    let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    let cases: [(&str, Vec<u8>); 9] = [
        (
            "text",
            b"this is no archive, whatever its name says".repeat(100),
        ),
        (
            "noise",
            ipfs_exec_tests::random::Random::new(21).bytes(100_000),
        ),
        ("gzip-of-text", archive::gzip(&b"no archive ".repeat(1000))),
        ("cut-tar", half(&tar)),
        ("cut-gzip", half(&archive::gzip(&tar))),
        ("cut-zstd", half(&archive::zstd(&tar))),
        ("cut-xz", half(&archive::xz(&tar))),
        ("cut-bzip2", half(&archive::bzip2(&tar))),
        ("broken-gzip", {
            let mut bytes = archive::gzip(&tar);
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0xff;
            bytes
        }),
    ];
    for (name, bytes) in cases {
        let cid = environment.add(environment.write(name, bytes));
        let outcome = environment
            .ipfs_exec(["run", &cid, EMPTY, "true"])
            .fails(125, &[&cid]);
        assert_bounded(&outcome, MEMORY_BYTES);
        let left = entries(&environment.repository().join("rootfs"));
        assert!(left.is_empty(), "left of {name}: {left:?}");
        environment.assert_clean();
    }
    // The right one still works.
    machine.shell("true");
}

#[test]
fn root_file_systems_with_nothing_in_them() {
    let machine = Machine::new();
    let environment = &machine.environment;
    let nothing = environment.add(environment.write("nothing", Archive::new().tar()));
    environment
        .ipfs_exec(["run", &nothing, EMPTY])
        .fails(127, &["/sbin/init"]);
    let empty = environment.add(environment.write("empty", ""));
    environment
        .ipfs_exec(["run", &empty, EMPTY])
        .fails(125, &[&empty]);
    environment
        .ipfs_exec(["run", EMPTY, EMPTY])
        .fails(127, &[EMPTY, "/sbin/init"]);
    environment.assert_clean();
}

#[test]
fn inputs_with_a_missing_block() {
    let machine = Machine::new();
    let mut blocks = Blocks::new();
    let (here, missing) = (blocks.raw("here"), blocks.raw("missing"));
    let file = blocks.file_of(&[here, missing], &[4, 7], 11);
    let root = blocks.directory(&[Link::new("file", file, 100)]);
    blocks.forget(&missing);
    let root = import(&machine.environment, &blocks, root);
    let missing = missing.to_string();
    assert_run_refuses(&machine, &root, &[&missing]);
    assert_reading_fails(&machine, &root, &[&missing]);
    assert_get_refuses(&machine.environment, &root, &[&missing]);
    // As the root file system as well.
    let path = format!("{root}/file");
    machine
        .environment
        .ipfs_exec(["run", &path, EMPTY])
        .fails(125, &[&missing]);
    machine.environment.assert_clean();
}

#[test]
fn an_input_that_is_not_here_has_a_hint() {
    let machine = Machine::new();
    let mut blocks = Blocks::new();
    let file = blocks.raw("nowhere");
    let missing = blocks.directory(&[Link::new("file", file, 7)]).to_string();
    for mode in ["--input-mode=mount", "--input-mode=copy"] {
        let run = ["run", "--offline", mode, &machine.rootfs, &missing];
        let run = machine.environment.ipfs_exec(run);
        run.fails(
            125,
            &[&missing, "is not in the repository", "hint: name a peer"],
        );
    }
}

#[test]
fn entries_with_names_that_no_file_may_have() {
    let long = "n".repeat(256);
    for name in [
        "..",
        ".",
        "",
        "a/b",
        "/",
        "/etc/passwd",
        "../../escape",
        "nul\0byte",
        &long,
    ] {
        let machine = Machine::new();
        let mut blocks = Blocks::new();
        let file = blocks.file(b"content");
        let hostile = blocks.directory(&[Link::new(name, file, 20)]);
        let root = blocks.directory(&[Link::new("sub", hostile, 100)]);
        let root = import(&machine.environment, &blocks, root);
        let shown = if name.contains('\0') || name.is_empty() {
            ""
        } else {
            name
        };
        assert_run_refuses(&machine, &root, &[shown]);
        assert_reading_fails(&machine, &root, &[&root]);
        assert_get_refuses(&machine.environment, &root, &[shown]);
        let listed = machine.environment.ipfs_exec(["ls", "-r", &root]).run();
        assert!(matches!(listed.code, Some(0 | 1)), "{listed:?}");
        assert!(!listed.stdout.contains(&0), "{listed:?}");
    }
}

#[test]
fn two_entries_of_one_name() {
    let machine = Machine::new();
    let mut blocks = Blocks::new();
    let (one, two) = (blocks.file(b"one"), blocks.file(b"two"));
    let root = blocks.directory(&[Link::new("same", one, 20), Link::new("same", two, 20)]);
    let root = import(&machine.environment, &blocks, root);
    assert_run_refuses(&machine, &root, &["same"]);
    assert_reading_fails(&machine, &root, &["same"]);
    assert_get_refuses(&machine.environment, &root, &["same"]);
}

#[test]
fn files_whose_size_lies() {
    let machine = Machine::new();
    let mut blocks = Blocks::new();
    let chunk = blocks.raw("0123456789");
    let cases = [
        blocks.file_of(&[chunk], &[10], 5),
        blocks.file_of(&[chunk], &[10], 1 << 40),
        blocks.file_of(&[chunk], &[5], 5),
        blocks.file_of(&[chunk, chunk], &[5, 15], 20),
        blocks.file_of(&[chunk], &[1 << 62], 1 << 62),
        blocks.file_of(&[chunk, chunk], &[10], 20),
        blocks.file_of(&[chunk; 2], &[u64::MAX, 11], 10),
    ];
    for file in cases {
        let file = import(&machine.environment, &blocks, file);
        let read = machine.environment.ipfs_exec(["cat", &file]).ends_with(1);
        assert!(read.stderr.contains("error: "), "{read:?}");
        assert_run_refuses(&machine, &file, &[]);
        assert_reading_fails(&machine, &file, &[&file]);
        assert_get_refuses(&machine.environment, &file, &[]);
    }
}

#[test]
fn shards_that_no_directory_has() {
    let machine = Machine::new();
    let mut blocks = Blocks::new();
    let file = blocks.file(b"content");
    let entry = |name: &str| [Link::new(name, file, 20)];
    let cases = [
        blocks.shard(3, &[0b1], &entry("00name")),
        blocks.shard(0, &[], &entry("00name")),
        blocks.shard(1 << 32, &[0b1], &entry("00name")),
        // No link for a bit that is set, and the other way round.
        blocks.shard(256, &[0b11], &entry("00name")),
        blocks.shard(256, &[], &entry("00name")),
        // A name too short for its prefix.
        blocks.shard(256, &[0b1], &entry("0")),
    ];
    for shard in cases {
        let shard = import(&machine.environment, &blocks, shard);
        assert_run_refuses(&machine, &shard, &[&shard]);
        assert_get_refuses(&machine.environment, &shard, &[&shard]);
    }
    let three = blocks.shard(3, &[0b1], &entry("00name"));
    let three = import(&machine.environment, &blocks, three);
    machine
        .environment
        .ipfs_exec(["ls", &three])
        .fails(1, &[&three]);
    machine
        .environment
        .ipfs_exec(["cat", &format!("{three}/name")])
        .fails(1, &[&three]);
}

#[test]
fn trees_a_hundred_thousand_levels_deep() {
    const LEVELS: usize = 100_000;
    let machine = Machine::new();
    let mut directories = Blocks::new();
    let mut directory = directories.directory(&[]);
    let mut files = Blocks::new();
    let mut file = files.raw("x");
    for _ in 0..LEVELS {
        directory = directories.directory(&[Link::new("d", directory, 1)]);
        file = files.file_of(&[file], &[1], 1);
    }
    for (blocks, root) in [(&directories, directory), (&files, file)] {
        let root = import(&machine.environment, blocks, root);
        assert_run_refuses(&machine, &root, &[]);
        assert_get_refuses(&machine.environment, &root, &[]);
        for command in [["ls", "-r"], ["pin", "add"]] {
            let outcome = machine.environment.ipfs_exec(command).argument(&root).run();
            assert!(matches!(outcome.code, Some(0 | 1)), "{outcome:?}");
            assert_bounded(&outcome, MEMORY_BYTES);
        }
    }
    let read = machine
        .environment
        .ipfs_exec(["cat", &file.to_string()])
        .ends_with(1);
    assert_bounded(&read, MEMORY_BYTES);
    machine.environment.assert_clean();
}

#[test]
fn a_small_dag_that_stands_for_a_huge_file() {
    // 40 levels, each naming the one below twice: 2^40 bytes of `x` in 41 blocks.
    let machine = Machine::new();
    let mut blocks = Blocks::new();
    let mut file = blocks.raw("x");
    let mut bytes: u64 = 1;
    for _ in 0..45 {
        file = blocks.file_of(&[file, file], &[bytes, bytes], 2 * bytes);
        bytes *= 2;
    }
    let file = import(&machine.environment, &blocks, file);
    assert_run_refuses(&machine, &file, &[]);
    assert_get_refuses(&machine.environment, &file, &[]);
}

#[test]
fn a_small_dag_that_stands_for_a_huge_tree() {
    let environment = Environment::new();
    let mut blocks = Blocks::new();
    let mut root = blocks.file(b"x");
    for _ in 0..40 {
        root = blocks.directory(&[Link::new("a", root, 1), Link::new("b", root, 1)]);
    }
    // Complete, in 41 blocks, so that everything that walks blocks is done at once.
    let root = import(&environment, &blocks, root);
    environment.ipfs_exec(["pin", "add", &root]).succeeds();
    environment
        .ipfs_exec(["export", &root, "-o", "out.car"])
        .succeeds();
    environment.assert_clean();
}

#[test]
fn nodes_that_are_no_files() {
    let machine = Machine::new();
    let mut blocks = Blocks::new();
    let garbage = blocks.node(&[], &[0xff; 20]);
    let empty = blocks.node(&[], &[]);
    let unknown_type = blocks.node(&[], &[8, 99]);
    let cases = [garbage, empty, unknown_type];
    for node in cases {
        let node = import(&machine.environment, &blocks, node);
        assert_run_refuses(&machine, &node, &[&node]);
        assert_get_refuses(&machine.environment, &node, &[&node]);
        machine
            .environment
            .ipfs_exec(["cat", &node])
            .fails(1, &[&node]);
    }
}

#[test]
fn links_cannot_be_followed_out_of_the_input() {
    let machine = Machine::new();
    let mut blocks = Blocks::new();
    let file = blocks.file(b"content");
    let link = blocks.symlink("/tmp");
    let root = blocks.directory(&[Link::new("link", link, 20), Link::new("real", file, 20)]);
    let root = import(&machine.environment, &blocks, root);
    // A link is content: it leads nowhere for paths, and within the sandbox for the program.
    let outcome = machine
        .environment
        .ipfs_exec(["cat", &format!("{root}/link/x")])
        .ends_with(1);
    assert!(outcome.stdout.is_empty(), "{outcome:?}");
    requirement::bubblewrap();
    machine
        .run_on(&root, ["sh", "-c", "[ -L /input/link ] && ls /input/link/"])
        .succeeds();
}
