//! Runs where the kernel mounts no further overlay, so that FUSE stands in for that of the root file system.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use ipfs_exec_tests::environment::{SEARCH_PATH, binary};
use ipfs_exec_tests::{Archive, Invocation, requirement};
use rustix::process::geteuid;
use serde_json::Value;

use crate::leaks::{assert_nothing_is_shared, run_by, sharing};
use crate::machine::{EMPTY, Machine};

/// Covers the repository by overlays on overlays, as deep as the kernel allows, and puts a copy of it where
/// there is none. Ends when its standard input does.
const STACK: &str = r#"
    set -e
    umask 077
    mount -t tmpfs tmpfs "$1"
    mkdir "$1/plain"
    cp -a "$2/." "$1/plain"
    for layer in 1 2 3 4; do
        upper=$1/$layer/upper work=$1/$layer/work
        mkdir -p "$upper" "$work"
        mount -t overlay -o "lowerdir=$2,upperdir=$upper,workdir=$work$3" overlay "$2" 2> /dev/null || break
    done
    echo ready
    read end
"#;

/// A mount namespace in which the repository of a machine is on two overlays.
struct Stacked<'m> {
    machine: &'m Machine,
    holder: Child,
    /// A copy of the repository on which an overlay can be mounted.
    plain: PathBuf,
}

/// Which repository.
#[derive(Clone, Copy, Debug)]
enum Place {
    Stacked,
    Plain,
}

/// How a program is called in a namespace of its caller.
fn unshared() -> &'static [&'static str] {
    if geteuid().is_root() {
        &["--mount"]
    } else {
        &["--user", "--map-root-user", "--mount"]
    }
}

impl Stacked<'_> {
    fn new(machine: &Machine) -> Stacked<'_> {
        requirement::fuse();
        let directory = machine.environment.directory("stacked");
        let options = if geteuid().is_root() {
            ""
        } else {
            ",userxattr"
        };
        let mut holder = Command::new(requirement::tool("unshare", "util-linux"))
            .env("PATH", SEARCH_PATH)
            .args(unshared())
            .args(["sh", "-c", STACK, "sh"])
            .arg(&directory)
            .arg(machine.environment.repository())
            .arg(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut output = BufReader::new(holder.stdout.take().unwrap());
        output.read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n", "no overlays can be mounted here");
        Stacked {
            machine,
            holder,
            plain: directory.join("plain"),
        }
    }

    /// The words by which a program is called there.
    fn entering(&self) -> Vec<String> {
        let tool = requirement::tool("nsenter", "util-linux");
        let mut words = vec![
            tool.to_str().unwrap().to_owned(),
            format!("--target={}", self.holder.id()),
            "--mount".to_owned(),
        ];
        if !geteuid().is_root() {
            words.extend(["--user", "--preserve-credentials"].map(ToOwned::to_owned));
        }
        words
    }

    fn repository(&self, place: Place) -> PathBuf {
        match place {
            Place::Stacked => self.machine.environment.repository().to_owned(),
            Place::Plain => self.plain.clone(),
        }
    }

    /// A run of a program, which `words` call.
    fn run<I>(&self, place: Place, before: &[&str], input: &str, words: I) -> Invocation
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let entering = self.entering();
        let call = self.machine.environment.program(&entering[0]);
        call.arguments(&entering[1..])
            .arguments(before)
            .argument(binary())
            .argument("--repo")
            .argument(self.repository(place))
            .arguments(["run", "--json", &self.machine.rootfs, input])
            .arguments(words)
    }

    /// What a script gives that succeeds.
    fn shell(&self, place: Place, input: &str, script: &str) -> Value {
        let run = self.run(place, &[], input, ["sh", "-c", script]);
        run.succeeds().json()[0].clone()
    }
}

impl Drop for Stacked<'_> {
    fn drop(&mut self) {
        // Its standard input ends.
        let _ = self.holder.wait();
    }
}

/// Where the repository was on an overlay, as in a container, a run had a bind mount for its root.
#[test]
fn fuse_stands_in_for_an_overlay() {
    let image = Archive::busybox()
        .directory("etc", 0o750)
        .file("etc/large", 0o640, vec![7; 3_000_000])
        .file("etc/empty", 0o400, "")
        .hard_link("etc/again", "etc/large")
        .symlink("etc/link", "large");
    let machine = Machine::with(&image);
    machine.environment.write("file", "content of the input\n");
    let file = machine.environment.add("file");
    let stacked = Stacked::new(&machine);
    // What is mounted in `/` has the time of the run.
    let script = "cd /; for name in *; do case $name in dev|input|output|proc|tmp) ;; \
                  *) ls -lnR $name; stat -c '%n %a %f %s %b %h %u %g %y' $name;; esac; done > /output/list; \
                  stat -c '%a %f %s %b %h %u %g %y' / > /output/top; stat -c '%F %s' /input > /output/input; \
                  cat /etc/large /etc/again | md5sum > /output/sum; ls -d /etc/none 2> /output/none; \
                  ( : > /new ) 2> /output/read-only; find / -xdev | sort > /output/all; true";
    for (input, kind) in [(EMPTY, "directory"), (&*file, "regular file")] {
        let plain = stacked.shell(Place::Plain, input, script);
        assert_eq!(plain["isolation"]["root"], "overlay", "{plain}");
        let stand_in = stacked.shell(Place::Stacked, input, script);
        assert_eq!(stand_in["isolation"]["root"], "fuse", "{stand_in}");
        assert_eq!(stand_in["cid"], plain["cid"], "{kind}");
    }
}

/// Jobs that share an unpacked root file system locked each other out there.
#[test]
fn runs_share_no_locks_where_there_is_no_overlay() {
    let machine = sharing();
    let stacked = Stacked::new(&machine);
    let unpacked = stacked.shell(Place::Stacked, EMPTY, "true");
    assert_eq!(unpacked["isolation"]["root"], "fuse", "{unpacked}");
    assert_nothing_is_shared(|options, script| {
        let entering = stacked.entering();
        let repository = stacked.repository(Place::Stacked);
        run_by(&entering, &repository, &machine, options, script)
    });
}

/// Mounts told where the repository is, as a bind mount does.
#[test]
fn a_stand_in_tells_nothing_of_the_host() {
    let machine = Machine::new();
    let stacked = Stacked::new(&machine);
    let script = "grep ' / / ' /proc/self/mountinfo >&2";
    let run = stacked.run(Place::Stacked, &[], EMPTY, ["sh", "-c", script]);
    let told = run.succeeds().stderr;
    assert!(told.contains("fuse"), "{told}");
    assert!(!told.contains("ipfs-exec-test"), "{told}");
}

/// A program may be closed to its own owner, as `sudo` is on some systems: an overlay executes it, too.
#[test]
fn a_program_that_only_can_be_executed_is_executed() {
    let busybox = std::fs::read(requirement::busybox()).unwrap();
    let machine = Machine::with(&Archive::busybox().file("bin/closed", 0o111, busybox));
    let stacked = Stacked::new(&machine);
    // Without the capability to read every file. That which is left lets user 0 make user namespaces.
    requirement::tool("setpriv", "util-linux");
    let before = ["setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all"];
    let script = "ln -s /bin/closed /tmp/echo; /tmp/echo executed >&2; cat /bin/closed || exit 7";
    for place in [Place::Plain, Place::Stacked] {
        let run = stacked.run(place, &before, EMPTY, ["sh", "-c", script]);
        let told = run.ends_with(7).stderr;
        assert!(told.contains("executed\n"), "{place:?}: {told}");
        assert!(told.contains("Permission denied"), "{place:?}: {told}");
    }
}
