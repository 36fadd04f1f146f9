//! A command that goes on in the background once it is ready.
//!
//! The command starts itself a second time, in a session of its own, and waits until that process has
//! printed its line and closed its output. From then on that process holds none of our streams.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use crate::error::CommandError;
use crate::output;

/// The option that asks for it, and the one by which the second process knows.
const OPTION: &str = "--background";
const DETACHED: &str = "--detached";

/// Starts this command again with [`DETACHED`] in place of [`OPTION`]; prints what it prints.
pub(crate) fn start() -> Result<ExitCode, CommandError> {
    let failed = |error| CommandError::failed(format!("cannot start in the background: {error}"));
    let arguments = std::env::args_os().skip(1).map(|argument| {
        if argument == OPTION {
            DETACHED.into()
        } else {
            argument
        }
    });
    // The name by which the program was called may mean a command.
    let name = std::env::args_os().next().unwrap_or_default();
    let mut child = Command::new("/proc/self/exe")
        .arg0(name)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut said = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut said).map_err(failed)?;
    }
    if said.is_empty() {
        // It has said why, on the same stderr.
        let status = child.wait().map_err(failed)?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        return Ok(ExitCode::from(code.unwrap_or(1)));
    }
    output::line(said.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// Makes this process independent of the terminal; it was started by [`start`].
pub(crate) fn leave_terminal() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

/// Gives up the streams of the process that waits, which ends then.
pub(crate) fn is_ready() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}
