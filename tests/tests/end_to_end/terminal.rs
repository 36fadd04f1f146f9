//! A program at a terminal, as people use it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use ipfs_exec_tests::Archive;
use ipfs_exec_tests::environment::binary;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::machine::{EMPTY, Machine};

const PATIENCE: Duration = Duration::from_secs(20);

/// A job that says when it has the terminal; what is typed of it looks otherwise.
const JOB: &str = "sh -c 'echo st\"\"arted; exec sleep 1000'\r";

/// A terminal with a run at it.
struct Terminal {
    master: File,
    slave: OwnedFd,
    child: Child,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn start(machine: &Machine, program: &[&str]) -> Terminal {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name, flags, Mode::empty()).unwrap();
        tcsetwinsize(&slave, size(40, 123)).unwrap();
        let child = Command::new(binary())
            .arg("--repo")
            .arg(machine.environment.repository())
            .args(["run", &machine.rootfs, EMPTY])
            .args(program)
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap())
            .stderr(slave.try_clone().unwrap())
            .spawn()
            .unwrap();
        let master = File::from(master);
        let (sender, output) = channel();
        let mut reader = master.try_clone().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = reader.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal {
            master,
            slave,
            child,
            output,
            seen: String::new(),
        }
    }

    fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until `text` has appeared, and takes what came up to it.
    #[track_caller]
    fn shows(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while !self.seen.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("no `{text}` ({error}) in\n{}", self.seen),
            }
        }
        let end = self.seen.find(text).unwrap() + text.len();
        self.seen.drain(..end).collect()
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.slave)
            .unwrap()
            .local_modes
            .contains(LocalModes::ICANON)
    }

    #[track_caller]
    fn ends(&mut self, code: i32) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the run goes on\n{}", self.seen);
            // What it prints at its end has to be taken.
            if let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(10)) {
                self.seen.push_str(&String::from_utf8_lossy(&bytes));
            }
        };
        assert_eq!(status.code(), Some(code), "{}", self.seen);
        assert!(!self.is_raw(), "the terminal is not as it was");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Of one that a test gave up; it is no error where it has ended.
        if self.child.kill().is_ok() {
            self.child.wait().unwrap();
        }
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// A session of a shell: a prompt, line editing, jobs, and signals that are typed.
#[test]
fn a_shell_is_interactive() {
    let machine = Machine::new();
    let mut terminal = Terminal::start(&machine, &["sh"]);
    terminal.shows("/ # ");
    assert!(terminal.is_raw());
    terminal.types("[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo te''rminal\r");
    terminal.shows("terminal");
    terminal.types("stty size\r");
    terminal.shows("40 123");
    // Ctrl-C ends what runs in front, and not the shell.
    terminal.types(JOB);
    terminal.shows("started");
    terminal.types("\x03");
    terminal.shows("/ # ");
    // Ctrl-Z stops it, and it can be taken up again.
    terminal.types(JOB);
    terminal.shows("started");
    terminal.types("\x1a");
    terminal.shows("Stopped");
    terminal.types("kill -9 %1; echo hel''lo > /output/greeting; echo d''one\r");
    terminal.shows("done");
    // The first one is refused where the shell has not seen yet that its job is gone.
    terminal.types("exit 7\rexit 7\r");
    terminal.ends(7);
    terminal.shows("Qm");
}

/// The session with which the original introduced itself.
#[test]
fn a_first_session() {
    let machine = Machine::new();
    let mut terminal = Terminal::start(&machine, &["sh"]);
    terminal.shows("/ # ");
    terminal.types("ls /input\r");
    terminal.shows("/ # ");
    terminal.types("echo blabla > /output/test\r");
    terminal.shows("/ # ");
    terminal.types("exit\r");
    terminal.shows("QmeugpFaBp7aafV2uN7GC3E2GbAycnEU3c2Q3FS7mSLbo4");
    terminal.ends(0);
}

#[test]
fn a_cid_begins_on_a_line_of_its_own() {
    let machine = Machine::new();
    let mut terminal = Terminal::start(&machine, &["sh", "-c", "printf unfinished"]);
    terminal.shows("unfinished\r\nQm");
    terminal.ends(0);
}

#[test]
fn the_window_may_change_its_size() {
    let machine = Machine::new();
    let script = "trap 'stty size' WINCH; echo re''ady; while :; do sleep 0.1; done";
    let mut terminal = Terminal::start(&machine, &["sh", "-c", script]);
    terminal.shows("ready");
    tcsetwinsize(&terminal.slave, size(50, 99)).unwrap();
    // The session of this terminal is not that of the run: a login shell would have told it.
    let pid = Pid::from_raw(terminal.child.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::WINCH).unwrap();
    terminal.shows("50 99");
    terminal.types("\x03");
    terminal.ends(130);
}

/// Programs that handle Ctrl-C by themselves, in no group of their own, as interpreters do.
#[test]
fn a_program_that_handles_typed_signals_goes_on() {
    let machine = Machine::new();
    let script = "trap 'n=$((n + 1)); echo cau''ght $n' INT; echo re''ady; \
                  while [ \"$n\" != 2 ]; do sleep 0.1; done; \
                  trap - INT; echo un''prepared; while :; do sleep 0.1; done";
    let mut terminal = Terminal::start(&machine, &["sh", "-c", script]);
    terminal.shows("ready");
    for caught in ["caught 1", "caught 2"] {
        terminal.types("\x03");
        terminal.shows(caught);
    }
    terminal.shows("unprepared");
    terminal.types("\x03");
    terminal.ends(130);
    let script = "trap '' INT QUIT; echo re''ady; read line; exit 7";
    let mut terminal = Terminal::start(&machine, &["sh", "-c", script]);
    terminal.shows("ready");
    terminal.types("\x03\x1c");
    terminal.types("line\r");
    terminal.ends(7);
}

/// Of a program in raw mode, which reads it as any other key.
#[test]
fn a_key_that_is_no_signal_is_passed_on() {
    let machine = Machine::new();
    let script = "stty -isig -icanon -echo min 1; echo re''ady; dd bs=1 count=1 | od -An -tx1";
    let mut terminal = Terminal::start(&machine, &["sh", "-c", script]);
    terminal.shows("ready");
    terminal.types("\x03");
    terminal.shows(" 03");
    terminal.ends(0);
}

/// What the kernel does not execute is told apart from what ends, also at a terminal.
#[test]
fn a_program_that_cannot_be_executed_at_a_terminal() {
    let archive = Archive::busybox_without_init();
    let machine = Machine::with(&archive.file("sbin/init", 0o755, b"#!/missing/interpreter\n"));
    let mut terminal = Terminal::start(&machine, &["sh"]);
    terminal.shows("/sbin/init");
    terminal.ends(126);
}

/// Whatever ends the run, the terminal is as it was.
#[test]
fn the_terminal_is_given_back() {
    let machine = Machine::new();
    for signal in [Signal::TERM, Signal::KILL] {
        let mut terminal = Terminal::start(&machine, &["sh", "-c", "echo re''ady; sleep 1000"]);
        terminal.shows("ready");
        assert!(terminal.is_raw());
        let pid = Pid::from_raw(terminal.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        terminal.child.wait().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while terminal.is_raw() {
            // The supervisor does it, which nobody can wait for.
            assert!(
                Instant::now() < deadline,
                "{signal:?}: the terminal stays raw"
            );
            thread::yield_now();
        }
    }
}

/// The terminal inside is another one.
#[test]
fn the_terminal_of_the_user_is_out_of_reach() {
    let machine = Machine::new();
    let script = "echo device $(stat -c %d /dev/pts/0); ls -1 /dev/pts; tty; ls /dev/console; \
                  echo as > /dev/tty; echo ready";
    let mut terminal = Terminal::start(&machine, &["sh", "-c", script]);
    terminal.shows("device ");
    let said = terminal.shows("ready");
    // The file systems differ; the numbers of terminals are the same in all of them.
    let own = rustix::fs::fstat(&terminal.slave).unwrap().st_dev;
    assert!(!said.starts_with(&format!("{own}\r")), "{said}");
    for line in [
        "\n0\r",
        "\nptmx\r",
        "\n/dev/pts/0\r",
        "/dev/console: No such file",
    ] {
        assert!(said.contains(line), "{said}");
    }
    terminal.ends(0);
}

/// A program may reach what stands beside it in its group, and cannot make a run hang by that.
#[test]
fn a_program_that_stops_its_group_does_not_stop_the_run() {
    let machine = Machine::new();
    let script = "trap '' CONT; echo re''ady; kill -STOP 0; exit 7";
    let mut terminal = Terminal::start(&machine, &["sh", "-c", script]);
    terminal.shows("ready");
    terminal.ends(7);
}
