//! Entries that a program leaves in `/output`.

use std::fs;

use ipfs_exec_tests::environment::entries;
use ipfs_exec_tests::{Archive, tree};

use crate::machine::{Machine, compile};

#[test]
fn hidden_files_links_and_empty_directories_are_output() {
    let machine = Machine::new();
    let script = "cd /output; mkdir -p .hidden/deep empty; echo x > .hidden/deep/.file; \
                  ln -s /etc/passwd absolute; ln -s missing dangling; ln -s .. up; ln -s loop loop";
    let cid = machine.shell(script);
    let mut names = machine.environment.names(&cid);
    names.sort();
    assert_eq!(
        names,
        [".hidden", "absolute", "dangling", "empty", "loop", "up"]
    );
    machine
        .environment
        .ipfs_exec(["get", &cid, "-o", "out"])
        .succeeds();
    let out = machine.environment.file("out");
    assert_eq!(fs::read(out.join(".hidden/deep/.file")).unwrap(), b"x\n");
    for (name, target) in [
        ("absolute", "/etc/passwd"),
        ("dangling", "missing"),
        ("up", ".."),
        ("loop", "loop"),
    ] {
        assert_eq!(
            fs::read_link(out.join(name)).unwrap().to_str(),
            Some(target)
        );
    }
    machine.environment.assert_clean();
}

/// Such a link was published without a word, and its reader found that it leads nowhere.
#[test]
fn links_into_the_input_are_told() {
    let machine = Machine::new();
    machine.environment.write("input/data", "x");
    let input = machine.environment.add("input");
    let script = "mkdir /output/d; ln -s /input/data /output/one; ln -s ../../input /output/d/two; \
                  ln -s ../one /output/d/three";
    let run = |arguments: &[&str]| {
        machine
            .run_on(&input, ["sh", "-c", script])
            .arguments(arguments)
    };
    let outcome = run(&[]).succeeds();
    for words in [
        "`one` of the output",
        "`/input/data`",
        "`d/two` of the output",
    ] {
        assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    }
    assert!(!outcome.stderr.contains("three"), "{}", outcome.stderr);
    // It stays a link: the same output on every machine, whatever it has of the input.
    let links = machine.environment.names(&outcome.line());
    assert_eq!(links.len(), 2, "{links:?}");
}

#[test]
fn hard_links_are_two_files() {
    let machine = Machine::new();
    let cid = machine.shell("echo x > /output/a; ln /output/a /output/b");
    for name in ["a", "b"] {
        assert_eq!(machine.environment.cat(&format!("{cid}/{name}")), b"x\n");
    }
}

#[test]
fn entries_that_no_dag_can_hold_are_refused_by_name() {
    let machine = Machine::new();
    let attempt = machine.run(["sh", "-c", "mkdir /output/sub; mkfifo /output/sub/the-fifo"]);
    attempt.fails(123, &["the-fifo"]);
    machine.environment.assert_clean();
    let deep = "cd /output; i=0; while [ $i -lt 600 ]; do mkdir d; cd d; i=$((i + 1)); done";
    machine
        .run(["sh", "-c", deep])
        .fails(123, &["d/d/d", "deep"]);
    machine.environment.assert_clean();

    let machine = Machine::with(&Archive::busybox().file("bin/make-socket", 0o755, make_socket()));
    let attempt = machine.run(["sh", "-c", "/bin/make-socket /output/the-socket"]);
    attempt.fails(123, &["the-socket"]);
    machine.environment.assert_clean();
}

/// A program that leaves a socket at the path it is given: busybox has none.
fn make_socket() -> Vec<u8> {
    const SOURCE: &str = r#"
        #include <string.h>
        #include <sys/socket.h>
        #include <sys/un.h>
        int main(int count, char **arguments) {
            struct sockaddr_un address = {.sun_family = AF_UNIX};
            if (count != 2) return 2;
            strncpy(address.sun_path, arguments[1], sizeof address.sun_path - 1);
            int made = socket(AF_UNIX, SOCK_STREAM, 0);
            return made < 0 || bind(made, (struct sockaddr *)&address, sizeof address) != 0;
        }
    "#;
    compile(SOURCE)
}

#[test]
fn unreadable_output_is_read() {
    let machine = Machine::new();
    let script = "cd /output; mkdir -p closed/inner; echo x > closed/inner/file; echo y > file; \
                  chmod 000 file closed/inner/file closed/inner closed; chmod 000 /output";
    let cid = machine.shell(script);
    assert_eq!(
        machine.environment.cat(&format!("{cid}/closed/inner/file")),
        b"x\n"
    );
    assert_eq!(machine.environment.cat(&format!("{cid}/file")), b"y\n");
    machine.environment.assert_clean();
}

#[test]
fn files_in_tmp_are_removed_whatever_their_mode() {
    let machine = Machine::new();
    machine.shell("mkdir -p /tmp/a/b; touch /tmp/a/b/c; chmod 000 /tmp/a/b /tmp/a /tmp");
    machine.environment.assert_clean();
}

#[test]
fn the_output_can_be_the_next_input() {
    let machine = Machine::new();
    let first = machine.shell("mkdir /output/sub; echo 1 > /output/sub/number");
    let script = "echo $(($(cat /input/number) + 1)) > /output/number";
    let second = machine
        .run_on(&format!("{first}/sub"), ["sh", "-c", script])
        .succeeds()
        .line();
    assert_eq!(machine.environment.cat(&format!("{second}/number")), b"2\n");
}

#[test]
fn a_large_output_is_the_same_as_when_added() {
    let machine = Machine::new();
    let script = "cd /output; dd if=/dev/zero of=zeros bs=1M count=20 2>/dev/null; \
                  n=0; while [ $n -lt 500 ]; do echo $n > file$n; n=$((n + 1)); done";
    let cid = machine.shell(script);
    machine
        .environment
        .ipfs_exec(["get", &cid, "-o", "out"])
        .succeeds();
    let out = machine.environment.file("out");
    assert_eq!(tree::snapshot(&out).len(), 502);
    assert_eq!(machine.environment.add(&out), cid);
}

#[test]
fn an_output_that_cannot_be_named_is_refused() {
    // Names of 255 bytes are fine, and so are strange ones.
    let machine = Machine::new();
    let name = "n".repeat(255);
    let cid = machine.shell(&format!(
        "echo x > /output/{name}; echo y > '/output/new\nline'"
    ));
    assert_eq!(machine.environment.cat(&format!("{cid}/{name}")), b"x\n");
    let scratch = entries(&machine.environment.repository().join("run"));
    assert!(scratch.is_empty(), "{scratch:?}");
}
