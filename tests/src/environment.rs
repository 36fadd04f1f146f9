//! A home, a repository and a temporary directory that only one test knows.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::invocation::{Invocation, Outcome};

/// Where the tools are that tests call, `/sbin` for those of an ordinary user's `PATH` too.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A place in which `ipfs-exec` finds nothing but what the test put there.
#[derive(Debug)]
pub struct Environment {
    root: TempDir,
    repository: PathBuf,
}

impl Environment {
    /// Makes a new place. The repository holds a configuration alone until the first command.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new() -> Environment {
        let root = tempfile::Builder::new()
            .prefix("ipfs-exec-test-")
            .tempdir()
            .expect("cannot make a temporary directory");
        for name in ["home", "tmp", "files"] {
            fs::create_dir(root.path().join(name)).expect("the directory is new");
        }
        let repository = root.path().join("repository");
        let environment = Environment { root, repository };
        // Nobody else is to take part in a test.
        environment.configure("mdns = false\n");
        environment
    }

    /// Writes the configuration of the repository.
    ///
    /// # Panics
    /// If it cannot be written.
    #[track_caller]
    pub fn configure(&self, config: &str) {
        let mut private = fs::DirBuilder::new();
        private
            .recursive(true)
            .mode(0o700)
            .create(&self.repository)
            .expect("cannot make the repository");
        fs::write(self.repository.join("config.toml"), config).expect("cannot write config.toml");
    }

    /// The directory of the repository.
    pub fn repository(&self) -> &Path {
        &self.repository
    }

    /// The home directory.
    pub fn home(&self) -> PathBuf {
        self.root.path().join("home")
    }

    /// The directory for temporary files.
    pub fn temporary(&self) -> PathBuf {
        self.root.path().join("tmp")
    }

    /// A path for a file of the test.
    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.path().join("files").join(name)
    }

    /// Writes a file of the test, and the directories above it.
    ///
    /// # Panics
    /// If it cannot be written.
    #[track_caller]
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.file(name);
        let parent = path.parent().expect("a file of the test has a directory");
        fs::create_dir_all(parent).expect("cannot make the directories of a test file");
        fs::write(&path, content).expect("cannot write a test file");
        path
    }

    /// Makes a directory of the test, and those above it.
    ///
    /// # Panics
    /// If it cannot be made.
    #[track_caller]
    pub fn directory(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.file(name);
        fs::create_dir_all(&path).expect("cannot make a directory of the test");
        path
    }

    /// A call of `program` with the variables of this place.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Invocation {
        Invocation::new(program)
            .variable("PATH", SEARCH_PATH)
            .variable("HOME", self.home())
            .variable("TMPDIR", self.temporary())
            .variable("IPFS_EXEC_PATH", self.repository())
            .working_directory(self.root.path().join("files"))
    }

    /// A call of `ipfs-exec` on the repository of this place.
    #[track_caller]
    pub fn ipfs_exec<I>(&self, arguments: I) -> Invocation
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        self.program(binary()).arguments(arguments)
    }

    /// Adds a path and returns its CID.
    #[track_caller]
    pub fn add(&self, path: impl AsRef<Path>) -> String {
        self.ipfs_exec(["add", "-Q"])
            .argument(path.as_ref())
            .succeeds()
            .line()
    }

    /// The content of a file in the repository.
    #[track_caller]
    pub fn cat(&self, path: &str) -> Vec<u8> {
        self.ipfs_exec(["cat", path]).succeeds().stdout
    }

    /// The names that `ls` prints of a directory in the repository.
    #[track_caller]
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = self.ipfs_exec(["ls", "--json", path]).succeeds().json();
        entries
            .iter()
            .map(|entry| entry["path"].as_str().expect("a path").to_owned())
            .collect()
    }

    /// A number out of `repo stat`.
    #[track_caller]
    pub fn statistic(&self, name: &str) -> u64 {
        let statistics = self.ipfs_exec(["repo", "stat", "--json"]).succeeds().json();
        statistics[0][name]
            .as_u64()
            .unwrap_or_else(|| panic!("no `{name}` in {statistics:?}"))
    }

    /// Checks that the repository is whole and that no command left anything behind: no scratch,
    /// no half-made root file system, no temporary file.
    #[track_caller]
    pub fn assert_clean(&self) {
        self.ipfs_exec(["verify"]).succeeds();
        self.assert_nothing_left();
    }

    /// Checks that no command left scratch or temporary files behind.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        for directory in [self.repository.join("run"), self.temporary()] {
            let left = entries(&directory);
            assert!(
                left.is_empty(),
                "left behind in {}: {left:?}",
                directory.display()
            );
        }
    }
}

impl Default for Environment {
    fn default() -> Environment {
        Environment::new()
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        // Trees without write permission, such as sealed ones, would stay behind.
        let _ = Invocation::new("/bin/chmod")
            .arguments(["-R", "u+rwX"])
            .argument(self.root.path())
            .run();
    }
}

/// The names in a directory, none if it does not exist.
pub fn entries(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.expect("the directory is readable").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

/// The program under test: `IPFS_EXEC_BIN`, or the one in the target directory of this test.
///
/// # Panics
/// If it is not built.
#[track_caller]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("IPFS_EXEC_BIN") {
        return PathBuf::from(path);
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    let path = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("ipfs-exec"))
        .find(|path| path.is_file());
    path.unwrap_or_else(|| {
        panic!(
            "no `ipfs-exec` near {}; run `cargo build -p ipfs-exec` or set IPFS_EXEC_BIN",
            test.display()
        )
    })
}

/// A helper program of the tests, which stands where it was `built` or in `IPFS_EXEC_HELPERS`.
pub fn helper(built: &str) -> PathBuf {
    let name = Path::new(built).file_name().unwrap_or_default();
    std::env::var_os("IPFS_EXEC_HELPERS")
        .map_or_else(|| built.into(), |place| Path::new(&place).join(name))
}

/// Runs `work` that is expected to take memory, and checks that it stayed within `limit_bytes`.
#[track_caller]
pub fn assert_bounded(outcome: &Outcome, limit_bytes: u64) {
    assert!(
        outcome.peak_bytes <= limit_bytes,
        "took {} MiB of memory\n{outcome:?}",
        outcome.peak_bytes >> 20
    );
}
