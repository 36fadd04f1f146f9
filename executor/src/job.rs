//! The full description of a computation.
//!
//! A [`Job`] holds every fact on which a result may depend, and nothing else: no paths of the host, no names,
//! no syntax of the caller. Two equal jobs are the same computation.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use ipfs_exec_node::Cid;
use ipfs_exec_node::path::escape;

/// The environment that every program finds, unless the job says otherwise. Some variables have common
/// programs give the same output each time; see <https://reproducible-builds.org/docs/>. None of them makes
/// a program print anything.
pub const DEFAULT_ENVIRONMENT: [(&str, &str); 12] = [
    // TeX uses the time of `SOURCE_DATE_EPOCH` for `\today`, too.
    ("FORCE_SOURCE_DATE", "1"),
    ("HOME", "/tmp"),
    // The build of Linux puts a date into the kernel.
    ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
    ("LC_ALL", "C"),
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    // Perl and Python order the keys of hashes and sets by a random number, and so does Qt.
    ("PERL_HASH_SEED", "0"),
    ("PYTHONHASHSEED", "0"),
    ("QT_HASH_SEED", "0"),
    // Compilers, archivers and generators of documents take it for the current time.
    ("SOURCE_DATE_EPOCH", "0"),
    ("TMPDIR", "/tmp"),
    ("TZ", "UTC"),
    // Archivers of LLVM put no dates into archives.
    ("ZERO_AR_DATE", "1"),
];

/// The program of a job that names no other.
pub const INIT: &str = "/sbin/init";

/// Set to the working directory, after everything else.
const WORKING_DIRECTORY_VARIABLE: &str = "PWD";

/// Longest path, in bytes: `PATH_MAX` of Linux less its NUL byte.
const MAX_PATH_BYTES: usize = 4095;

/// Longest argument or `NAME=VALUE`, in bytes: `MAX_ARG_STRLEN` of Linux less its NUL byte.
pub const MAX_STRING_BYTES: usize = 128 * 1024 - 1;

/// Why arguments or environment make no job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// An argument cannot be passed to any program.
    #[error("argument {position} {reason}")]
    InvalidArgument {
        /// Which one, counted from 1.
        position: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A path inside the sandbox is none.
    #[error("{what} `{path}` {reason}")]
    InvalidPath {
        /// What it should be the path of.
        what: &'static str,
        /// The path, escaped.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A variable cannot be set in any environment.
    #[error("environment variable `{name}` {reason}")]
    InvalidVariable {
        /// Its name, escaped.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// One computation: a program with its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    rootfs: Cid,
    input: Cid,
    entrypoint: Option<OsString>,
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    working_directory: OsString,
    stdin: Option<Cid>,
}

impl Job {
    /// Checks the arguments and joins `variables` with [`DEFAULT_ENVIRONMENT`], over which they
    /// win; of variables with the same name, the last one does.
    ///
    /// `rootfs` is the archive or directory of the root file system, whose [`INIT`] gets `arguments`. Its
    /// working directory is `/`, and its standard input is empty.
    ///
    /// # Errors
    /// [`JobError`] for what no program can be given.
    pub fn new(
        rootfs: Cid,
        input: Cid,
        arguments: Vec<OsString>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Job, JobError> {
        for (index, argument) in arguments.iter().enumerate() {
            check_argument(index + 1, argument)?;
        }
        let mut environment = DEFAULT_ENVIRONMENT
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .into_iter()
            .collect::<BTreeMap<_, _>>();
        for (name, value) in variables {
            check_variable(&name, &value)?;
            environment.insert(name, value);
        }
        Ok(Job {
            rootfs,
            input,
            entrypoint: None,
            arguments,
            environment,
            working_directory: OsString::from("/"),
            stdin: None,
        })
    }

    /// The same with the program at `path` of the root file system. It is not process 1: that is a small
    /// program of ours, which hands signals on to it and reaps what it leaves.
    ///
    /// # Errors
    /// [`JobError::InvalidPath`] unless the path is absolute.
    pub fn with_entrypoint(self, path: OsString) -> Result<Job, JobError> {
        check_path("entrypoint", &path)?;
        let entrypoint = Some(path);
        Ok(Job { entrypoint, ..self })
    }

    /// The same with this working directory, which the sandbox has.
    ///
    /// # Errors
    /// [`JobError::InvalidPath`] unless the path is absolute.
    pub fn with_working_directory(self, path: OsString) -> Result<Job, JobError> {
        check_path("working directory", &path)?;
        let working_directory = path;
        Ok(Job {
            working_directory,
            ..self
        })
    }

    /// The same with the content of this file as its standard input.
    pub fn with_stdin(self, file: Cid) -> Job {
        let stdin = Some(file);
        Job { stdin, ..self }
    }

    /// The archive of the root file system.
    pub fn rootfs(&self) -> &Cid {
        &self.rootfs
    }

    /// What stands at `/input`.
    pub fn input(&self) -> &Cid {
        &self.input
    }

    /// The absolute path of the program.
    pub fn program(&self) -> &OsStr {
        self.entrypoint.as_deref().unwrap_or(INIT.as_ref())
    }

    /// Whether the program is another than [`INIT`], and not process 1.
    pub fn has_entrypoint(&self) -> bool {
        self.entrypoint.is_some()
    }

    /// The working directory, an absolute path.
    pub fn working_directory(&self) -> &OsStr {
        &self.working_directory
    }

    /// The file that is the program's standard input, which is empty where there is none.
    pub fn stdin(&self) -> Option<&Cid> {
        self.stdin.as_ref()
    }

    /// The arguments of the program, without its own name.
    pub fn arguments(&self) -> &[OsString] {
        &self.arguments
    }

    /// The whole environment, sorted by name.
    pub fn environment(&self) -> &BTreeMap<OsString, OsString> {
        &self.environment
    }
}

fn check_argument(position: usize, argument: &OsStr) -> Result<(), JobError> {
    let reason = if argument.as_bytes().contains(&0) {
        "holds a NUL byte"
    } else if argument.len() > MAX_STRING_BYTES {
        "has more than 131071 bytes"
    } else {
        return Ok(());
    };
    Err(JobError::InvalidArgument { position, reason })
}

fn check_path(what: &'static str, path: &OsStr) -> Result<(), JobError> {
    let bytes = path.as_bytes();
    let reason = if !bytes.starts_with(b"/") {
        "is no absolute path in the root file system"
    } else if bytes.contains(&0) {
        "holds a NUL byte"
    } else if bytes.len() > MAX_PATH_BYTES {
        "has more than 4095 bytes"
    } else {
        return Ok(());
    };
    let path = escape(bytes);
    Err(JobError::InvalidPath { what, path, reason })
}

fn check_variable(name: &OsStr, value: &OsStr) -> Result<(), JobError> {
    let reason = if name.is_empty() {
        "has an empty name"
    } else if name.as_bytes().contains(&b'=') {
        "has a name with a `=`"
    } else if name.as_bytes().contains(&0) || value.as_bytes().contains(&0) {
        "holds a NUL byte"
    } else if name.len() + value.len() >= MAX_STRING_BYTES {
        "has more than 131071 bytes"
    } else if name == WORKING_DIRECTORY_VARIABLE {
        "is set by the sandbox"
    } else {
        return Ok(());
    };
    Err(JobError::InvalidVariable {
        name: escape(name.as_bytes()),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn job(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Job, JobError> {
        Job::new(
            Cid::default(),
            Cid::default(),
            arguments.iter().map(OsString::from).collect(),
            variables
                .iter()
                .map(|(name, value)| (name.into(), value.into())),
        )
    }

    #[test]
    fn variables_win_over_the_defaults_and_the_last_one_over_others() {
        let job = job(&[], &[("A", "1"), ("TZ", "CET"), ("A", "2"), ("B", "=")]).unwrap();
        let listed: Vec<_> = job
            .environment()
            .iter()
            .map(|(name, value)| format!("{name:?}={value:?}"))
            .collect();
        assert_eq!(listed[0], r#""A"="2""#);
        assert_eq!(listed[1], r#""B"="=""#);
        assert!(listed.contains(&r#""TZ"="CET""#.to_owned()));
        assert_eq!(listed.len(), DEFAULT_ENVIRONMENT.len() + 2);
    }

    #[test]
    fn arguments_stay_as_they_are() {
        let arguments = ["", " ", "a b", "\"'", "--", "-x", "$HOME", "\n"];
        assert_eq!(job(&arguments, &[]).unwrap().arguments(), arguments);
    }

    #[test]
    fn paths_are_absolute() {
        let plain = || job(&[], &[]).unwrap();
        assert_eq!(plain().program(), INIT);
        let long = format!("/{}", "x".repeat(MAX_PATH_BYTES));
        for path in ["", "bin/sh", "./x", "/a\0", &long] {
            assert!(plain().with_entrypoint(path.into()).is_err(), "{path:?}");
            assert!(plain().with_working_directory(path.into()).is_err());
        }
        let other = plain().with_entrypoint("/bin/sh".into()).unwrap();
        assert_eq!(other.program(), "/bin/sh");
        let error = plain().with_entrypoint("sh".into()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "entrypoint `sh` is no absolute path in the root file system"
        );
    }

    #[test]
    fn invalid_arguments_and_variables_are_refused() {
        let long = "x".repeat(MAX_STRING_BYTES + 1);
        for argument in ["a\0b", &long] {
            assert!(
                job(&["x", argument], &[])
                    .unwrap_err()
                    .to_string()
                    .starts_with("argument 2 ")
            );
        }
        for (name, value) in [
            ("", "x"),
            ("a=b", "x"),
            ("a\0", "x"),
            ("a", "\0"),
            ("a", &long),
            ("PWD", "/"),
        ] {
            assert!(job(&[], &[(name, value)]).is_err(), "{name:?}");
        }
        let bytes = OsString::from_vec(vec![0xff, b'=']);
        let error = Job::new(
            Cid::default(),
            Cid::default(),
            vec![],
            [(bytes, "x".into())],
        );
        assert_eq!(
            error.unwrap_err().to_string(),
            "environment variable `\\xff=` has a name with a `=`"
        );
    }
}
