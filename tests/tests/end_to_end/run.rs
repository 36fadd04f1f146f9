//! A run from its arguments to the CID of its output.

use ipfs_exec_tests::archive::{bzip2, gzip, xz, zstd};
use ipfs_exec_tests::{Archive, Environment, environment, requirement};

use crate::machine::{EMPTY, Machine, compile};

/// CID of a directory with `test` that holds `blabla` and a newline.
const BLABLA: &str = "QmeugpFaBp7aafV2uN7GC3E2GbAycnEU3c2Q3FS7mSLbo4";

#[test]
fn the_output_gets_the_cid_that_it_has_everywhere() {
    let machine = Machine::new();
    let outcome = machine
        .run(["sh", "-c", "echo blabla > /output/test"])
        .succeeds();
    assert_eq!(outcome.text(), format!("{BLABLA}\n"));
    assert_eq!(outcome.stderr, "");
    assert_eq!(
        machine.environment.cat(&format!("{BLABLA}/test")),
        b"blabla\n"
    );
    let pins = machine.environment.ipfs_exec(["pin", "ls"]).succeeds();
    assert!(pins.text().contains(BLABLA), "{pins:?}");
    machine.environment.assert_clean();
}

#[test]
fn a_program_that_writes_nothing_gives_the_empty_directory() {
    let machine = Machine::new();
    assert_eq!(machine.shell("true"), EMPTY);
}

#[test]
fn every_kind_of_content_argument_is_taken() {
    let machine = Machine::new();
    let environment = &machine.environment;
    environment.write("input/hello", "hello\n");
    let input = environment.add("input");
    let images = environment
        .ipfs_exec(["mkdir", "rootfs.tar", &machine.rootfs])
        .succeeds()
        .line();
    let rootfs = &machine.rootfs;
    let cases = [
        (rootfs.clone(), input.clone()),
        (format!("/ipfs/{rootfs}"), format!("/ipfs/{input}")),
        (format!("ipfs://{rootfs}"), format!("ipfs://{input}/")),
        (format!("{images}/rootfs.tar"), input.clone()),
        ("rootfs.tar".to_owned(), "input".to_owned()),
        (
            "./rootfs.tar".to_owned(),
            environment.file("input").to_str().unwrap().to_owned(),
        ),
    ];
    for (rootfs, input) in cases {
        let script = "tr a-z A-Z < /input/hello > /output/shout";
        let cid = environment.ipfs_exec(["run", &rootfs, &input, "sh", "-c", script]);
        let cid = cid.succeeds().line();
        assert_eq!(
            environment.cat(&format!("{cid}/shout")),
            b"HELLO\n",
            "{rootfs} {input}"
        );
    }
    environment.assert_clean();
}

#[test]
fn a_file_can_be_the_input() {
    let machine = Machine::new();
    machine.environment.write("file", "only this");
    let input = machine.environment.add("file");
    for input in [input.as_str(), "file"] {
        let cid = machine
            .run_on(input, ["sh", "-c", "cat /input > /output/copy"])
            .succeeds()
            .line();
        assert_eq!(
            machine.environment.cat(&format!("{cid}/copy")),
            b"only this"
        );
    }
}

#[test]
fn the_input_is_the_whole_tree() {
    let machine = Machine::new();
    let environment = &machine.environment;
    environment.write("input/.hidden", "h");
    environment.write("input/sub/file", "f");
    environment.directory("input/empty");
    std::os::unix::fs::symlink("sub/file", environment.file("input/link")).unwrap();
    let input = environment.add("input");
    let script = "cd /input; mkdir /output/sub /output/empty; cat link > /output/link; \
                  cat .hidden > /output/.hidden; cat sub/file > /output/sub/file; \
                  readlink link > /output/target; ls -A | wc -l > /output/count";
    let cid = machine
        .run_on(&input, ["sh", "-c", script])
        .succeeds()
        .line();
    let read = |name: &str| String::from_utf8(environment.cat(&format!("{cid}/{name}"))).unwrap();
    assert_eq!(read("link"), "f");
    assert_eq!(read(".hidden"), "h");
    assert_eq!(read("target"), "sub/file\n");
    assert_eq!(read("count"), "4\n");
}

#[test]
fn every_compression_is_told_by_its_bytes() {
    requirement::bubblewrap();
    let environment = Environment::new();
    let tar = Archive::busybox().tar();
    let kinds: [(&str, Vec<u8>); 5] = [
        ("plain", tar.clone()),
        ("gzip", gzip(&tar)),
        ("zstd", zstd(&tar)),
        ("xz", xz(&tar)),
        ("bzip2", bzip2(&tar)),
    ];
    let empty = environment.directory("empty");
    for (name, bytes) in kinds {
        // The name says nothing, or lies.
        let path = environment.write(format!("{name}.zip"), bytes);
        let outcome = environment
            .ipfs_exec(["run"])
            .argument(&path)
            .argument(&empty)
            .arguments(["sh", "-c", "echo blabla > /output/test"])
            .succeeds();
        assert_eq!(outcome.line(), BLABLA, "{name}");
    }
    environment.assert_clean();
}

/// An init that writes its arguments down, each ended by a NUL.
fn recorder() -> Archive {
    Archive::script("for argument; do printf '%s\\0' \"$argument\"; done > /output/arguments")
}

#[test]
fn init_gets_the_arguments_exactly_as_given() {
    let machine = Machine::with(&recorder());
    let cases: [&[&str]; 9] = [
        &[],
        &["one"],
        &["", " ", "  two  words ", "\t", "new\nline"],
        &[
            "'single'",
            "\"double\"",
            "`back`",
            "$HOME",
            "$(id)",
            "*",
            "\\",
            "a\\ b",
            "!",
        ],
        &["-x", "--help", "--version", "-"],
        &["--env", "A=1", "--offline", "--repo", "nowhere"],
        &["first", "--", "second", "--"],
        &["--", "-x"],
        &["ünïcödé", "\u{1b}[2J", "\u{7f}"],
    ];
    for arguments in cases {
        let cid = machine.run(arguments).succeeds().line();
        let recorded = machine.environment.cat(&format!("{cid}/arguments"));
        let wanted: String = arguments
            .iter()
            .map(|argument| format!("{argument}\0"))
            .collect();
        assert_eq!(
            String::from_utf8(recorded).unwrap(),
            wanted,
            "{arguments:?}"
        );
    }
}

#[test]
fn arguments_need_not_be_unicode_and_may_be_long() {
    use std::os::unix::ffi::OsStrExt;
    let machine = Machine::with(&recorder());
    let raw = std::ffi::OsStr::from_bytes(b"caf\xe9");
    let long = "x".repeat(100_000);
    let many: Vec<String> = (0..5000).map(|number| number.to_string()).collect();
    let cid = machine
        .run([raw])
        .argument(&long)
        .arguments(&many)
        .succeeds()
        .line();
    let recorded = machine.environment.cat(&format!("{cid}/arguments"));
    let wanted = [
        b"caf\xe9\0".to_vec(),
        format!("{long}\0{}\0", many.join("\0")).into_bytes(),
    ];
    assert!(recorded == wanted.concat());
}

#[test]
fn the_environment_has_only_documented_variables() {
    let machine = Machine::with(&Archive::script(
        "cat /proc/1/environ > /output/environment",
    ));
    let cid = machine
        .environment
        .ipfs_exec([
            "run",
            "--env",
            "NAME=a value",
            "--env=EMPTY=",
            "--env",
            "TZ=Europe/Berlin",
        ])
        .arguments([machine.rootfs.as_str(), EMPTY])
        .variable("SECRET", "of the caller")
        .variable("LD_PRELOAD", "")
        .succeeds()
        .line();
    let environment = machine.environment.cat(&format!("{cid}/environment"));
    let environment = String::from_utf8(environment).unwrap();
    let mut variables: Vec<&str> = environment.split_terminator('\0').collect();
    variables.sort_unstable();
    let path = variables
        .iter()
        .position(|variable| variable.starts_with("PATH="))
        .unwrap();
    let search = variables.remove(path);
    assert!(
        search
            .split(['=', ':'])
            .any(|directory| directory == "/bin"),
        "{search}"
    );
    // Bubblewrap sets the working directory's, to a fixed value.
    let wanted = [
        "EMPTY=",
        "FORCE_SOURCE_DATE=1",
        "HOME=/tmp",
        "KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970",
        "LC_ALL=C",
        "NAME=a value",
        "PERL_HASH_SEED=0",
        "PWD=/",
        "PYTHONHASHSEED=0",
        "QT_HASH_SEED=0",
        "SOURCE_DATE_EPOCH=0",
        "TMPDIR=/tmp",
        "TZ=Europe/Berlin",
        "ZERO_AR_DATE=1",
    ];
    assert_eq!(variables, wanted);
}

#[test]
fn a_variable_without_a_value_is_refused() {
    let machine = Machine::new();
    for variable in ["NAME", "=value", ""] {
        let outcome = machine
            .environment
            .ipfs_exec(["run", "--env", variable, &machine.rootfs, EMPTY, "true"])
            .run();
        assert_eq!(outcome.code, Some(125), "{outcome:?}");
        assert!(outcome.stdout.is_empty(), "{outcome:?}");
    }
}

#[test]
fn the_code_of_the_program_is_ours() {
    let machine = Machine::new();
    for (script, code) in [
        ("echo blabla > /output/test", 0),
        ("echo blabla > /output/test; exit 3", 3),
        ("echo blabla > /output/test; exit 1", 1),
        ("echo blabla > /output/test; exit 125", 125),
        ("echo blabla > /output/test; exit 255", 255),
    ] {
        let outcome = machine.run(["sh", "-c", script]).ends_with(code);
        assert_eq!(
            outcome.line(),
            BLABLA,
            "the output of a failed program counts too"
        );
    }
    machine.environment.assert_clean();
}

#[test]
fn death_by_a_signal_is_128_and_its_number() {
    // Pid 1 of a namespace cannot be killed from within but by a fault of its own.
    const SOURCE: &str = "int main(void) { *(volatile int *)0 = 1; return 0; }";
    let image = Archive::new()
        .directory("sbin", 0o755)
        .file("sbin/init", 0o755, compile(SOURCE));
    let machine = Machine::with(&image);
    assert_eq!(machine.run(["x"]).ends_with(128 + 11).line(), EMPTY);
    machine.environment.assert_clean();

    let machine = Machine::new();
    let script = "echo blabla > /output/test; sh -c 'kill -9 $$'; exit $?";
    assert_eq!(
        machine.run(["sh", "-c", script]).ends_with(128 + 9).line(),
        BLABLA
    );
    machine.environment.assert_clean();
}

#[test]
fn a_missing_init_is_127_and_one_that_cannot_start_126() {
    let program = |content: &[u8]| {
        Archive::busybox_without_init()
            .directory("sbin", 0o755)
            .file("sbin/init", 0o755, content.to_vec())
    };
    let cases: [(Archive, i32); 8] = [
        (Archive::busybox_without_init(), 127),
        (
            Archive::busybox_without_init().directory("sbin", 0o755),
            127,
        ),
        (
            Archive::busybox_without_init()
                .directory("sbin", 0o755)
                .file("sbin/init", 0o644, "#!/bin/busybox sh\n"),
            126,
        ),
        // The image's shell would take these for scripts.
        (program(b"\x7fELF\0\0\0"), 126),
        (program(b"echo hello\n"), 126),
        (program(b""), 126),
        (program(b"#!/bin/none\n"), 126),
        (
            Archive::busybox_without_init()
                .directory("sbin", 0o755)
                .directory("sbin/init", 0o755),
            126,
        ),
    ];
    for (archive, code) in cases {
        let machine = Machine::with(&archive);
        machine.run(["true"]).fails(code, &["/sbin/init"]);
        machine.environment.assert_clean();
    }
}

#[test]
fn init_may_be_a_link() {
    let archive = Archive::busybox_without_init()
        .directory("sbin", 0o755)
        .file("bin/real", 0o755, "#!/bin/sh\necho blabla > /output/test\n")
        .symlink("sbin/init", "/bin/real");
    assert_eq!(Machine::with(&archive).run(["x"]).succeeds().line(), BLABLA);
}

#[test]
fn standard_input_reaches_the_program() {
    let machine = Machine::new();
    let input = vec![b'x'; 1_000_000];
    let script = ["sh", "-c", "cat > /output/copy"];
    let mut passed_on = machine
        .environment
        .ipfs_exec(["run", "-i", &machine.rootfs, EMPTY]);
    passed_on = passed_on.arguments(script).input(input.clone());
    let cid = passed_on.succeeds().line();
    assert!(machine.environment.cat(&format!("{cid}/copy")) == input);
    // Nothing of it gets in where nobody asked for that.
    let cid = machine.run(script).input(input).succeeds().line();
    assert!(machine.environment.cat(&format!("{cid}/copy")).is_empty());
}

#[test]
fn program_output_goes_to_standard_error() {
    let machine = Machine::new();
    let script = "echo to-stdout; echo to-stderr >&2; echo blabla > /output/test";
    let outcome = machine.run(["sh", "-c", script]).succeeds();
    assert_eq!(outcome.text(), format!("{BLABLA}\n"));
    assert_eq!(outcome.stderr, "to-stdout\nto-stderr\n");
}

#[test]
fn the_umask_of_the_caller_does_not_matter() {
    let machine = Machine::new();
    let script = "umask > /output/umask; touch /output/f; stat -c %a /output/f > /output/mode";
    let mut cids = Vec::new();
    for umask in ["022", "077", "000"] {
        let call = format!("umask {umask}; exec \"$0\" \"$@\"");
        let outcome = machine
            .environment
            .program("/bin/sh")
            .arguments(["-c", &call])
            .argument(environment::binary())
            .arguments(["run", &machine.rootfs, EMPTY, "sh", "-c", script])
            .succeeds();
        cids.push(outcome.line());
    }
    assert_eq!(
        machine.environment.cat(&format!("{}/umask", cids[0])),
        b"0022\n"
    );
    assert!(cids.iter().all(|cid| *cid == cids[0]), "{cids:?}");
}

#[test]
fn the_old_name_takes_its_arguments() {
    let machine = Machine::new();
    let link = machine.environment.file("ipfs-execute");
    std::os::unix::fs::symlink(environment::binary(), &link).unwrap();
    let script = "echo blabla > /output/test";
    let arguments = [machine.rootfs.as_str(), EMPTY, "sh", "-c", script];
    let outcome = machine
        .environment
        .program(&link)
        .arguments(arguments)
        .succeeds();
    assert_eq!(outcome.line(), BLABLA);
    // As of the original: input is passed on, and an output is a success.
    let arguments = [
        &*machine.rootfs,
        EMPTY,
        "sh",
        "-c",
        "cat > /output/test; exit 3",
    ];
    let called = machine.environment.program(&link).arguments(arguments);
    let failed = called.input("blabla\n").succeeds();
    assert_eq!(failed.line(), BLABLA);
    assert!(failed.stderr.contains("exit code 3"), "{failed:?}");
    let version = machine
        .run(["true"])
        .called_as("/somewhere/ipfs-exec")
        .succeeds();
    assert_eq!(version.line(), EMPTY);
}

#[test]
fn a_second_run_needs_no_archive() {
    let machine = Machine::new();
    machine.environment.write("input/x", "x");
    machine.shell("true");
    let entries =
        || ipfs_exec_tests::environment::entries(&machine.environment.repository().join("rootfs"));
    let first = entries();
    assert_eq!(first.len(), 1, "{first:?}");
    machine.shell("true");
    assert_eq!(entries(), first, "the tree was unpacked again");
}

/// 8,900 arguments ended with an error of bubblewrap. The kernel takes 2 MiB of arguments and
/// environment, and strings of 128 KiB.
#[test]
fn as_many_arguments_as_the_kernel_takes() {
    let machine = Machine::new();
    let many = vec!["x"; 100_000];
    let count = "for last; do :; done; echo $# ${#last} > /output/said";
    let run = |arguments: &[&str]| {
        let run = machine.run(["sh", "-c", count, "sh"]).arguments(arguments);
        let cid = run.succeeds().line();
        String::from_utf8(machine.environment.cat(&format!("{cid}/said"))).unwrap()
    };
    assert_eq!(run(&many), "100000 1\n");
    let longest = "x".repeat(128 * 1024 - 1);
    assert_eq!(run(&[longest.as_str(); 15]), "15 131071\n");
}
