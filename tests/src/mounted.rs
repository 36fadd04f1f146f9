//! A mount of a test.

use std::path::{Path, PathBuf};

use crate::invocation::Running;
use crate::{Environment, requirement};

/// A process that mounts content at a directory of a test.
#[derive(Debug)]
pub struct Mounted {
    /// The process.
    pub running: Running,
    directory: PathBuf,
}

impl Mounted {
    /// Mounts what the arguments say at the directory `name`, which is made.
    #[track_caller]
    pub fn new<'a>(
        environment: &Environment,
        arguments: impl IntoIterator<Item = &'a str>,
        name: &str,
    ) -> Mounted {
        Mounted::at(environment, arguments, &environment.directory(name))
    }

    /// Mounts at a directory that is there.
    #[track_caller]
    pub fn at<'a>(
        environment: &Environment,
        arguments: impl IntoIterator<Item = &'a str>,
        directory: &Path,
    ) -> Mounted {
        requirement::fuse();
        let directory = directory.to_owned();
        let mut running = environment
            .ipfs_exec(["mount"])
            .arguments(arguments)
            .argument(&directory)
            .start();
        running.wait_for_line("/ipfs");
        Mounted { running, directory }
    }

    /// The path of something below it.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.join(path)
    }

    /// Ends it by a signal, after which the directory is as it was.
    #[track_caller]
    pub fn end(self) {
        self.running.end();
        assert!(crate::environment::entries(&self.directory).is_empty());
    }
}
