//! Finding bubblewrap, and why a sandbox cannot be set up here.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};

/// Name of the program.
const PROGRAM: &str = "bwrap";

/// First version with all options of a plan: `--add-seccomp-fd` came last.
const MINIMUM: Version = Version {
    major: 0,
    minor: 6,
    patch: 0,
};

/// How long `bwrap --version` may take, and how many bytes of what it prints are read.
const VERSION_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_VERSION_BYTES: usize = 4096;

/// What to do where bubblewrap is missing or old.
const INSTALL_HINT: &str =
    "install bubblewrap 0.8 or newer (Debian, Ubuntu: `apt-get install bubblewrap`)";

/// A version of bubblewrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl Version {
    /// Takes the number from what `bwrap --version` prints: `bubblewrap 0.8.0`.
    fn parse(output: &str) -> Option<Version> {
        let mut numbers = output
            .trim()
            .strip_prefix("bubblewrap ")?
            .split('.')
            .map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Version {
            major: next()?,
            minor: next()?,
            patch: next().unwrap_or(0),
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Why there is no bubblewrap to use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// It is in no directory of `PATH`.
    #[error("cannot find `{PROGRAM}`, the program that makes the sandbox")]
    Missing,
    /// It does not start.
    #[error("cannot run `{path} --version`", path = path.display())]
    Run {
        /// Where it stands.
        path: PathBuf,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// It does not end.
    #[error("`{path} --version` did not end within {seconds} s", path = path.display())]
    Hanging {
        /// Where it stands.
        path: PathBuf,
        /// The time that it had.
        seconds: u64,
    },
    /// It prints no version.
    #[error("`{path} --version` prints no version", path = path.display())]
    NoVersion {
        /// Where it stands.
        path: PathBuf,
    },
    /// It lacks options that are needed.
    #[error("`{path}` is version {version}, older than {MINIMUM}", path = path.display())]
    TooOld {
        /// Where it stands.
        path: PathBuf,
        /// What it says it is.
        version: Version,
    },
}

impl ProbeError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        INSTALL_HINT
    }
}

/// An installed bubblewrap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bubblewrap {
    /// Where it stands.
    pub path: PathBuf,
    /// What it says it is.
    pub version: Version,
}

impl Bubblewrap {
    /// Looks for bubblewrap in the directories of `PATH`.
    ///
    /// # Errors
    /// [`ProbeError`].
    pub fn find() -> Result<Bubblewrap, ProbeError> {
        Bubblewrap::find_in(&env::var_os("PATH").unwrap_or_default())
    }

    fn find_in(directories: &OsStr) -> Result<Bubblewrap, ProbeError> {
        let path = find_program(directories, PROGRAM).ok_or(ProbeError::Missing)?;
        let version = match written_version(&path) {
            Some(version) => version,
            None => version_of(&path)?,
        };
        if version < MINIMUM {
            return Err(ProbeError::TooOld { path, version });
        }
        Ok(Bubblewrap { path, version })
    }
}

/// The program of that name in directories as of `PATH`.
pub(crate) fn find_program(directories: &OsStr, name: &str) -> Option<PathBuf> {
    env::split_paths(directories)
        // A relative directory would mean another program in each working directory.
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|path| path.is_file() && access(path, Access::EXEC_OK).is_ok())
}

/// The version that stands in the program as text, which `--version` would print. Reading it takes
/// a tenth of a millisecond where asking takes three; a script around bubblewrap must be asked.
fn written_version(path: &Path) -> Option<Version> {
    const MAX_PROGRAM_BYTES: u64 = 4 << 20;
    const ELF_MAGIC: &[u8] = b"\x7fELF";
    const MARK: &[u8] = b"\0bubblewrap ";
    if fs::metadata(path).ok()?.len() > MAX_PROGRAM_BYTES {
        return None;
    }
    let program = fs::read(path)
        .ok()
        .filter(|program| program.starts_with(ELF_MAGIC))?;
    let mark = program
        .windows(MARK.len())
        .position(|window| window == MARK)?;
    let text = program[mark + 1..].split(|byte| *byte == 0).next()?;
    Version::parse(std::str::from_utf8(text).ok()?)
}

fn version_of(path: &Path) -> Result<Version, ProbeError> {
    version_within(path, VERSION_TIMEOUT)
}

/// Asks the program, which is killed where it takes longer than `timeout`.
fn version_within(path: &Path, timeout: Duration) -> Result<Version, ProbeError> {
    let failed = |source| ProbeError::Run {
        path: path.to_owned(),
        source,
    };
    let mut child = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let printed = read_until(&mut child, Instant::now() + timeout);
    // Also what it started itself.
    if let Err(errno) = kill_process_group(Pid::from_child(&child), Signal::KILL) {
        tracing::debug!(%errno, "nothing is left of `bwrap --version`");
    }
    child.wait().map_err(failed)?;
    match printed.map_err(failed)? {
        Some(text) => Version::parse(&text).ok_or_else(|| ProbeError::NoVersion {
            path: path.to_owned(),
        }),
        None => Err(ProbeError::Hanging {
            path: path.to_owned(),
            seconds: timeout.as_secs(),
        }),
    }
}

/// What a child prints, up to its end; `None` where that does not come in time.
fn read_until(child: &mut Child, deadline: Instant) -> io::Result<Option<String>> {
    let Some(mut output) = child.stdout.take() else {
        return Ok(None);
    };
    let mut printed = Vec::new();
    let mut buffer = [0; 256];
    while printed.len() < MAX_VERSION_BYTES {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&output, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        match output.read(&mut buffer)? {
            0 => break,
            length => printed.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(Some(String::from_utf8_lossy(&printed).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn versions() {
        let version = |text| Version::parse(text).map(|version| version.to_string());
        assert_eq!(version("bubblewrap 0.8.0\n").unwrap(), "0.8.0");
        assert_eq!(version("bubblewrap 0.12").unwrap(), "0.12.0");
        assert_eq!(version("bubblewrap 1.2.3").unwrap(), "1.2.3");
        assert!(version("bubblewrap").is_none());
        assert!(version("0.8.0").is_none());
        let ordered =
            [(0, 4, 9), (0, 5, 0), (0, 10, 0), (1, 0, 0)].map(|(major, minor, patch)| Version {
                major,
                minor,
                patch,
            });
        assert!(ordered.is_sorted());
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join(PROGRAM);
        fs::write(&program, "#!/bin/sh\nsleep 1000 & sleep 1000\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let error = version_within(&program, Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, ProbeError::Hanging { .. }), "{error:?}");
    }

    #[test]
    fn the_written_version_equals_the_printed_version() {
        let installed = Bubblewrap::find().expect("install bubblewrap to run this test");
        assert_eq!(version_of(&installed.path).unwrap(), installed.version);
    }

    #[test]
    fn programs_that_do_not_serve() {
        let directory = tempfile::tempdir().unwrap();
        let find = || Bubblewrap::find_in(directory.path().as_os_str());
        assert!(matches!(find(), Err(ProbeError::Missing)));
        let program = directory.path().join(PROGRAM);
        fs::write(&program, "#!/bin/sh\necho bubblewrap 0.4.1\n").unwrap();
        assert!(matches!(find(), Err(ProbeError::Missing)));
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(find(), Err(ProbeError::TooOld { .. })));
        fs::write(&program, "#!/bin/sh\necho hello\n").unwrap();
        assert!(matches!(find(), Err(ProbeError::NoVersion { .. })));
        fs::write(&program, "#!/bin/sh\necho bubblewrap 0.9.0\n").unwrap();
        assert_eq!(find().unwrap().path, program);
    }
}
