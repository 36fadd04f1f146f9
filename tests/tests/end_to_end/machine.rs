//! A root file system and an empty input, ready to run programs in.

use std::ffi::OsStr;
use std::fs;
use std::process::Command;

use ipfs_exec_tests::{Archive, Environment, Invocation, requirement};

/// CID of the empty directory.
pub(crate) const EMPTY: &str = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn";

/// An environment with the CID of a root file system.
pub(crate) struct Machine {
    pub(crate) environment: Environment,
    pub(crate) rootfs: String,
}

impl Machine {
    /// With busybox, whose init calls busybox.
    #[track_caller]
    pub(crate) fn new() -> Machine {
        Machine::with(&Archive::busybox())
    }

    /// With another root file system.
    #[track_caller]
    pub(crate) fn with(archive: &Archive) -> Machine {
        requirement::bubblewrap();
        let environment = Environment::new();
        let path = environment.write("rootfs.tar", archive.tar());
        let rootfs = environment.add(path);
        environment.ipfs_exec(["mkdir"]).succeeds();
        Machine {
            environment,
            rootfs,
        }
    }

    /// A run on the empty input.
    #[track_caller]
    pub(crate) fn run<I>(&self, arguments: I) -> Invocation
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        self.run_on(EMPTY, arguments)
    }

    /// A run on another input.
    #[track_caller]
    pub(crate) fn run_on<I>(&self, input: &str, arguments: I) -> Invocation
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        self.environment
            .ipfs_exec(["run", &self.rootfs, input])
            .arguments(arguments)
    }

    /// Runs a shell script, which must succeed, and returns the CID of its output.
    #[track_caller]
    pub(crate) fn shell(&self, script: &str) -> String {
        self.run(["sh", "-c", script]).succeeds().line()
    }

    /// Runs a shell script and returns what it wrote to its standard output.
    #[track_caller]
    pub(crate) fn says(&self, script: &str) -> String {
        let cid = self.shell(&format!("{{ {script}\n}} > /output/said"));
        let said = self.environment.cat(&format!("{cid}/said"));
        String::from_utf8(said).unwrap()
    }
}

/// A call of the program where nothing can be mounted by FUSE, so that an input is written out.
pub(crate) fn without_fuse<I>(environment: &Environment, arguments: I) -> Invocation
where
    I: IntoIterator,
    I::Item: AsRef<OsStr>,
{
    let no_device = environment.write("no-device", "");
    let script = "mount --bind \"$0\" /dev/fuse && exec \"$@\"";
    with_own_mounts(environment, script)
        .argument(no_device)
        .argument(ipfs_exec_tests::environment::binary())
        .argument("--repo")
        .argument(environment.repository())
        .arguments(arguments)
}

/// A shell script that may mount, in a mount namespace of its own. Arguments that are added are those of the
/// script, from `$0` on.
pub(crate) fn with_own_mounts(environment: &Environment, script: &str) -> Invocation {
    requirement::tool("unshare", "util-linux");
    environment.program("unshare").arguments([
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        script,
    ])
}

/// A static program, for what no shell can do.
pub(crate) fn compile(source: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let (file, program) = (
        directory.path().join("program.c"),
        directory.path().join("program"),
    );
    fs::write(&file, source).unwrap();
    let built = Command::new(requirement::tool("gcc", "gcc libc6-dev"))
        .args(["-static", "-o"])
        .args([&program, &file])
        .output()
        .unwrap();
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    fs::read(program).unwrap()
}
