//! What is to be computed, in full.
//!
//! A [`Job`] holds everything on which a result may depend and nothing else: no paths of the
//! host, no names, nothing of the caller's syntax. Two equal jobs are the same computation.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use ipfs_exec_node::Cid;
use ipfs_exec_node::path::escape;

/// The environment that every program finds, unless the job says otherwise.
pub const DEFAULT_ENVIRONMENT: [(&str, &str); 6] = [
    ("HOME", "/tmp"),
    ("LC_ALL", "C"),
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("SOURCE_DATE_EPOCH", "0"),
    ("TMPDIR", "/tmp"),
    ("TZ", "UTC"),
];

/// Set to the working directory by bubblewrap, after everything else.
const WORKING_DIRECTORY_VARIABLE: &str = "PWD";

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
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
}

impl Job {
    /// Checks the arguments and joins `variables` with [`DEFAULT_ENVIRONMENT`], over which they
    /// win; of variables with the same name, the last one does.
    ///
    /// `rootfs` is the archive of the root file system, whose `/sbin/init` gets `arguments`.
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
            arguments,
            environment,
        })
    }

    /// The archive of the root file system.
    pub fn rootfs(&self) -> &Cid {
        &self.rootfs
    }

    /// What stands at `/input`.
    pub fn input(&self) -> &Cid {
        &self.input
    }

    /// The arguments of `/sbin/init`, without its own name.
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
        assert_eq!(listed.last().unwrap(), r#""TZ"="CET""#);
        assert_eq!(listed.len(), 8);
    }

    #[test]
    fn arguments_stay_as_they_are() {
        let arguments = ["", " ", "a b", "\"'", "--", "-x", "$HOME", "\n"];
        assert_eq!(job(&arguments, &[]).unwrap().arguments(), arguments);
    }

    #[test]
    fn what_no_program_can_be_given() {
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
