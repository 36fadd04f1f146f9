//! What is executed in place of the program, and becomes it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::held::hold_program;
use crate::process::{self, Parameters, Ruleset, Streams};

/// A program that is executed first, and executes what it is told.
pub(super) struct Opener {
    program: File,
    ruleset: Option<Ruleset>,
    failures: OwnedFd,
    failure: OwnedFd,
}

/// What such a program could not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Confine,
    Execute,
}

impl Opener {
    /// One for a program with these streams, which may write to nothing of the host but these directories.
    pub(super) fn new(directories: &[&Path], streams: &Streams) -> io::Result<Opener> {
        let (failures, failure) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let open = |path: &&Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(*path, flags, Mode::empty())
        };
        let directories = directories.iter().map(open);
        let directories = directories.collect::<Result<Vec<_>, _>>()?;
        let mut writable: Vec<_> = directories.iter().map(AsFd::as_fd).collect();
        let has_terminal = streams.terminal.is_some();
        if has_terminal {
            writable.push(streams.output.as_fd());
        }
        let ruleset = Ruleset::new(&writable)?;
        let parameters = Parameters {
            failures: failure.as_raw_fd(),
            ruleset: ruleset
                .as_ref()
                .map(|ruleset| (ruleset.descriptor.as_raw_fd(), ruleset.handled)),
            has_terminal,
        };
        Ok(Opener {
            program: hold_program(&process::opener(parameters))?,
            ruleset,
            failures,
            failure,
        })
    }

    /// The descriptor of the program.
    pub(super) fn number(&self) -> RawFd {
        self.program.as_raw_fd()
    }

    /// What it needs to be handed on.
    pub(super) fn inherited(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let ruleset = self.ruleset.iter();
        let ruleset = ruleset.map(|ruleset| ruleset.descriptor.as_fd());
        [self.program.as_fd(), self.failure.as_fd()]
            .into_iter()
            .chain(ruleset)
    }

    /// Why the program did not start, if it did not. Asked when all processes have ended.
    pub(super) fn failure(&self) -> io::Result<Option<Failure>> {
        let mut said = [0];
        match rustix::io::read(&self.failures, &mut said) {
            Ok(0) | Err(Errno::AGAIN) => Ok(None),
            Ok(_) if said[0] == process::NOT_EXECUTED => Ok(Some(Failure::Execute)),
            Ok(_) => Ok(Some(Failure::Confine)),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Bounds, landlock_version, spawn};
    use std::ffi::OsString;
    use std::fs;

    /// Has an opener without a sandbox execute something.
    fn execute(opener: &Opener, streams: Streams, arguments: &[&str]) -> Option<Failure> {
        let program = format!("/proc/self/fd/{}", opener.number());
        let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
        let inherited: Vec<_> = opener.inherited().collect();
        let program = Path::new(&program);
        let bounds = Bounds::default();
        let mut child = spawn(program, &arguments, streams, &inherited, vec![], bounds).unwrap();
        child.supervisor.wait().unwrap();
        opener.failure().unwrap()
    }

    fn streams() -> Streams {
        let open = || File::options().read(true).write(true).open("/dev/null");
        Streams::new(open().unwrap().into(), open().unwrap().into())
    }

    #[test]
    fn nothing_is_written_but_what_may_be() {
        let place = tempfile::tempdir().unwrap();
        let path = |name| place.path().join(name);
        for name in ["output", "tmp", "elsewhere"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("elsewhere/file"), "kept").unwrap();
        let script = "cd $0; echo > output/new; mkdir tmp/a tmp/b; echo > tmp/a/x; mv tmp/a/x tmp/b; \\
                      echo > /dev/null && echo > output/device; \\
                      echo > elsewhere/new; echo >> elsewhere/file; rm elsewhere/file; mkdir elsewhere/d; \\
                      mv elsewhere/file output; :";
        let directories = [&*path("output"), &path("tmp")];
        let opener = Opener::new(&directories, &streams()).unwrap();
        let directory = place.path().to_str().unwrap();
        let failure = execute(&opener, streams(), &["/bin/sh", "-c", script, directory]);
        assert_eq!(failure, None);
        for name in ["output/new", "tmp/b/x", "output/device"] {
            assert!(path(name).exists(), "{name}");
        }
        if landlock_version().is_none() {
            eprintln!("this kernel has no Landlock");
            return;
        }
        let left = fs::read_dir(path("elsewhere")).unwrap().count();
        assert_eq!(left, 1);
        assert_eq!(fs::read_to_string(path("elsewhere/file")).unwrap(), "kept");
    }

    #[test]
    fn what_fails_is_told() {
        let opener = Opener::new(&[], &streams()).unwrap();
        let failure = execute(&opener, streams(), &["/missing"]);
        assert_eq!(failure, Some(Failure::Execute));
        // No terminal can be taken where there is none.
        let parameters = Parameters {
            failures: opener.failure.as_raw_fd(),
            ruleset: None,
            has_terminal: true,
        };
        let opener = Opener {
            program: hold_program(&process::opener(parameters)).unwrap(),
            ..opener
        };
        let failure = execute(&opener, streams(), &["/bin/true"]);
        assert_eq!(failure, Some(Failure::Confine));
    }
}
