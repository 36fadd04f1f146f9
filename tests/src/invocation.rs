//! One call of the program: arguments and input in, an [`Outcome`] to make statements about out.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// How long one call may take: far more than any does, so that what hangs becomes a message.
const TIME_LIMIT: Duration = Duration::from_secs(240);

/// A call that has not been started.
#[derive(Debug)]
pub struct Invocation {
    command: Command,
    input: Vec<u8>,
}

impl Invocation {
    /// Calls `program` without arguments, input or variables.
    pub fn new(program: impl AsRef<OsStr>) -> Invocation {
        let mut command = Command::new(program);
        command.env_clear();
        Invocation {
            command,
            input: Vec::new(),
        }
    }

    /// Appends one argument.
    #[must_use]
    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Invocation {
        self.command.arg(argument);
        self
    }

    /// Appends arguments.
    #[must_use]
    pub fn arguments<I>(mut self, arguments: I) -> Invocation
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        self.command.args(arguments);
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Invocation {
        self.command.env(name, value);
        self
    }

    /// Sets what the program reads from its standard input; nothing unless called.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Invocation {
        self.input = input.into();
        self
    }

    /// Starts the program in `directory`.
    #[must_use]
    pub fn working_directory(mut self, directory: impl AsRef<Path>) -> Invocation {
        self.command.current_dir(directory);
        self
    }

    /// Calls the program under another name.
    #[must_use]
    pub fn called_as(mut self, name: &str) -> Invocation {
        self.command.arg0(name);
        self
    }

    /// Makes the program the leader of its own process group, as a shell does for a job.
    #[must_use]
    pub fn process_group(mut self) -> Invocation {
        self.command.process_group(0);
        self
    }

    /// Starts the program and returns while it runs.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn start(mut self) -> Running {
        let shown = shown(&self.command);
        let started = Instant::now();
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
        let mut input = child.stdin.take().expect("stdin is a pipe");
        let bytes = std::mem::take(&mut self.input);
        // A program that does not read all of its input is no mistake of the test.
        thread::spawn(move || input.write_all(&bytes));
        let stdout = Collected::from(child.stdout.take().expect("stdout is a pipe"));
        let stderr = Collected::from(child.stderr.take().expect("stderr is a pipe"));
        Running {
            child,
            stdout,
            stderr,
            shown,
            started,
            ended: None,
            peak_bytes: 0,
        }
    }

    /// Runs the program to its end.
    #[track_caller]
    pub fn run(self) -> Outcome {
        self.start().wait()
    }

    /// Runs the program, which must end with code 0.
    #[track_caller]
    pub fn succeeds(self) -> Outcome {
        self.ends_with(0)
    }

    /// Runs the program, which must end with `code`.
    #[track_caller]
    pub fn ends_with(self, code: i32) -> Outcome {
        let outcome = self.run();
        assert_eq!(outcome.code, Some(code), "wrong exit code\n{outcome:?}");
        outcome
    }

    /// Runs the program, which must end with `code` after one error message that holds every one
    /// of `words`, and print no data.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> Outcome {
        let outcome = self.ends_with(code);
        assert!(
            outcome.stdout.is_empty(),
            "a failed command printed data\n{outcome:?}"
        );
        let errors = outcome.errors();
        assert_eq!(
            errors.len(),
            1,
            "not exactly one error message\n{outcome:?}"
        );
        for word in words {
            assert!(
                errors[0].contains(word),
                "the error does not name `{word}`\n{outcome:?}"
            );
        }
        outcome
    }
}

/// The call as one could type it, for messages.
fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        write!(text, " {argument:?}").expect("writing to a string cannot fail");
    }
    text
}

/// A stream that a thread reads to its end.
#[derive(Debug)]
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Collected {
    fn from(mut stream: impl Read + Send + 'static) -> Collected {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                shared
                    .lock()
                    .expect("no reader panics")
                    .extend_from_slice(&buffer[..count]);
            }
        });
        Collected {
            bytes,
            reader: Some(reader),
        }
    }

    fn so_far(&self) -> Vec<u8> {
        self.bytes.lock().expect("no reader panics").clone()
    }

    /// Everything up to the end of the stream, which a left-over process may hold open: that is
    /// waited for until `deadline`.
    #[track_caller]
    fn all(&mut self, deadline: Instant, shown: &str) -> Vec<u8> {
        let reader = self.reader.take().expect("a stream is collected once");
        while !reader.is_finished() {
            assert!(
                Instant::now() < deadline,
                "{shown} ended, but a process that it left holds its output open"
            );
            thread::sleep(Duration::from_millis(1));
        }
        self.so_far()
    }
}

/// A program that runs. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Collected,
    stderr: Collected,
    shown: String,
    started: Instant,
    ended: Option<ExitStatus>,
    peak_bytes: u64,
}

impl Running {
    /// The process id.
    pub fn process(&self) -> Pid {
        let id = i32::try_from(self.child.id()).expect("a process id is an `i32`");
        Pid::from_raw(id).expect("a process id is positive")
    }

    /// Sends a signal to the program alone.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        // Not an error: the program may have ended since.
        let _ = rustix::process::kill_process(self.process(), signal);
    }

    /// Sends a signal to the process group of the program, as a terminal does.
    #[track_caller]
    pub fn signal_group(&self, signal: Signal) {
        let _ = rustix::process::kill_process_group(self.process(), signal);
    }

    /// What the program has written to its standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.so_far()).into_owned()
    }

    /// Waits until the program has written `text` to its standard error.
    ///
    /// # Panics
    /// If it ends, or a minute passes, without.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        self.wait_until(text, |running| {
            let so_far = running.stderr.so_far();
            String::from_utf8_lossy(&so_far)
                .contains(text)
                .then_some(())
        });
    }

    /// Waits for a line of standard output that starts with `prefix`; gives the rest of it.
    ///
    /// # Panics
    /// If it ends, or a minute passes, without.
    #[track_caller]
    pub fn wait_for_line(&mut self, prefix: &str) -> String {
        self.wait_until(prefix, |running| {
            let so_far = String::from_utf8_lossy(&running.stdout.so_far()).into_owned();
            let complete = so_far.rsplit_once('\n')?.0;
            let mut lines = complete.lines();
            lines.find_map(|line| Some(line.strip_prefix(prefix)?.to_owned()))
        })
    }

    #[track_caller]
    fn wait_until<T>(&mut self, text: &str, found: impl Fn(&Running) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            let ended = self.poll();
            let so_far = String::from_utf8_lossy(&self.stderr.so_far()).into_owned();
            assert!(
                !ended,
                "{} ended without writing `{text}`:\n{so_far}",
                self.shown
            );
            assert!(
                Instant::now() < deadline,
                "{} did not write `{text}`:\n{so_far}",
                self.shown
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether the program has ended.
    fn poll(&mut self) -> bool {
        if self.ended.is_none() {
            self.peak_bytes = self.peak_bytes.max(peak_bytes(self.child.id()));
            self.ended = self.child.try_wait().expect("the child is ours");
        }
        self.ended.is_some()
    }

    /// Ends it by a signal; it must have had nothing to complain of.
    #[track_caller]
    pub fn end(self) {
        self.signal(Signal::TERM);
        let outcome = self.wait();
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(outcome.stderr.is_empty(), "{outcome:?}");
    }

    /// Waits for the end of the program and of its output.
    ///
    /// # Panics
    /// If it takes too long, or if the program itself panicked.
    #[track_caller]
    pub fn wait(mut self) -> Outcome {
        let deadline = self.started + TIME_LIMIT;
        let mut pause = Duration::from_micros(200);
        while !self.poll() {
            let so_far = self.stderr.so_far();
            assert!(
                Instant::now() < deadline,
                "{} does not end:\n{}",
                self.shown,
                String::from_utf8_lossy(&so_far)
            );
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
        let elapsed = self.started.elapsed();
        let deadline = Instant::now() + Duration::from_secs(20);
        let status = self.ended.expect("the program has ended");
        let outcome = Outcome {
            code: status.code(),
            signal: status.signal(),
            stdout: self.stdout.all(deadline, &self.shown),
            stderr: String::from_utf8_lossy(&self.stderr.all(deadline, &self.shown)).into_owned(),
            peak_bytes: self.peak_bytes,
            elapsed,
            shown: std::mem::take(&mut self.shown),
        };
        assert!(
            !outcome.stderr.contains("panicked at"),
            "the program panicked\n{outcome:?}"
        );
        outcome
    }
}

/// The largest resident set of a process up to now, 0 if it has ended. What `wait4` tells instead
/// would include the memory of this process, which may hold much. So would the status of a new process that
/// does not execute its program yet: it shares our memory until then.
fn peak_bytes(process: u32) -> u64 {
    let executes = std::fs::read_link(format!("/proc/{process}/exe"));
    if executes.ok() == std::env::current_exe().ok() {
        return 0;
    }
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.poll() {
            self.signal(Signal::KILL);
            // A destructor can do no more about it than the kernel does.
            let _ = self.child.wait();
        }
    }
}

/// What a program did.
#[derive(Clone)]
pub struct Outcome {
    /// The exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: String,
    /// Largest resident set that was seen, in bytes.
    pub peak_bytes: u64,
    /// From the start to the end.
    pub elapsed: Duration,
    shown: String,
}

impl Outcome {
    /// Standard output as text.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not UTF-8: {error}\n{self:?}"))
    }

    /// The lines of standard output.
    #[track_caller]
    pub fn lines(&self) -> Vec<String> {
        self.text().lines().map(str::to_owned).collect()
    }

    /// The only line of standard output.
    #[track_caller]
    pub fn line(&self) -> String {
        let lines = self.lines();
        assert_eq!(lines.len(), 1, "not exactly one line on stdout\n{self:?}");
        assert!(
            self.text().ends_with('\n'),
            "the line does not end\n{self:?}"
        );
        lines[0].clone()
    }

    /// Each line of standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Vec<serde_json::Value> {
        let parse = |line: &String| {
            serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("not JSON: {line}: {error}\n{self:?}"))
        };
        self.lines().iter().map(parse).collect()
    }

    /// The error messages on standard error, each with the lines that belong to it.
    pub fn errors(&self) -> Vec<String> {
        let mut errors: Vec<String> = Vec::new();
        for line in self.stderr.lines() {
            if line.starts_with("error: ") {
                errors.push(line.to_owned());
            } else if let Some(last) = errors.last_mut() {
                last.push('\n');
                last.push_str(line);
            }
        }
        errors
    }
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(formatter, "$ {}", self.shown)?;
        writeln!(formatter, "code {:?}, signal {:?}", self.code, self.signal)?;
        let stdout = String::from_utf8_lossy(&self.stdout);
        for (name, text) in [("stdout", &*stdout), ("stderr", &self.stderr)] {
            let short: String = text.chars().take(4000).collect();
            writeln!(formatter, "--- {name}\n{short}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Invocation {
        Invocation::new("/bin/sh").arguments(["-c", script])
    }

    #[test]
    fn an_outcome_has_the_output_and_the_exit_code() {
        let outcome = shell("cat; echo oops >&2; exit 3")
            .input("data")
            .ends_with(3);
        assert_eq!(outcome.text(), "data");
        assert_eq!(outcome.stderr, "oops\n");
        assert_eq!(shell("kill -9 $$").run().signal, Some(9));
    }

    #[test]
    fn an_error_has_the_lines_that_follow_it() {
        let outcome = shell("echo error: a >&2; echo hint: b >&2; exit 1").fails(1, &["a", "b"]);
        assert_eq!(outcome.errors(), ["error: a\nhint: b"]);
    }

    #[test]
    fn a_running_program_can_be_watched_and_ended() {
        let mut running = shell("echo ready >&2; exec sleep 1000").start();
        running.wait_for("ready");
        running.signal(Signal::TERM);
        assert_eq!(running.wait().signal, Some(15));
        drop(shell("exec sleep 1000").start());
    }

    #[test]
    #[should_panic(expected = "the program panicked")]
    fn a_panic_of_the_program_is_one_of_the_test() {
        shell("echo thread main panicked at x >&2").run();
    }
}
