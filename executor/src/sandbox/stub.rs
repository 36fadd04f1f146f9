//! The stub: what bubblewrap executes in place of the program, and what becomes the program.
//!
//! It is compiled by the build script from `executor/stub`, and stands in a memfd, followed by what it is
//! told: arguments, environment, filters, restrictions. Bubblewrap takes at most 9,000 arguments; the
//! stub takes what the kernel takes.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_passcred;

use super::memfd::hold_program;
use crate::job::Job;
use crate::process::{self, Restriction};

mod layout {
    #![expect(dead_code, reason = "the stub names all stages, and the library some")]
    include!("../../stub/layout.rs");
}
pub(super) use layout::Terminal;
use layout::{
    ENTER_DIRECTORY, EXECUTE, FILTER_CALLS, MEET_SUPERVISOR, OPEN_TERMINAL, Parameters, Report,
    START_PROGRAM, Trailer,
};

/// The program, an ELF file.
static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/stub"));

/// Where a program may write, as far as mounts allow it.
const WRITABLE: [&str; 3] = ["/dev", "/output", "/tmp"];

/// Alignment of tables in the file.
const ALIGNMENT: usize = 8;

/// Set to the working directory, after everything else.
const WORKING_DIRECTORY: &str = "PWD=";

/// Bytes of the path by which bubblewrap executes the stub: process 1 may show it, and the number of a
/// descriptor in it has more digits or fewer.
const PATH_BYTES: usize = 32;

/// What a stub is told of its program.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    /// The program, and its arguments after its own name.
    pub(super) arguments: Vec<CString>,
    pub(super) environment: Vec<CString>,
    pub(super) working_directory: CString,
    /// Whether the stub stays as process 1, and starts the program as a child.
    pub(super) is_init: bool,
    /// Filters of system calls, each as the bytes of its `sock_filter`s.
    pub(super) filters: Vec<Vec<u8>>,
    /// Most processes that the program's user may have; 0 sets no limit.
    pub(super) processes: u64,
    /// Settings of a terminal, where the program gets one.
    pub(super) terminal: Option<Terminal>,
}

impl Orders {
    /// Has the stub become the program of `job`, or start it.
    pub(super) fn of(job: &Job) -> Orders {
        let string = |bytes: &OsStr| CString::new(bytes.as_bytes()).expect("a job has no NUL");
        let own = [job.program()].into_iter();
        let arguments = own
            .chain(job.arguments().iter().map(AsRef::as_ref))
            .map(string);
        let variable = |(name, value): (&std::ffi::OsString, &std::ffi::OsString)| {
            let mut both = name.clone();
            both.push("=");
            both.push(value);
            string(&both)
        };
        let environment = job.environment().iter().map(variable);
        let mut directory = OsString::from(WORKING_DIRECTORY);
        directory.push(job.working_directory());
        Orders {
            arguments: arguments.collect(),
            environment: environment.chain([string(&directory)]).collect(),
            working_directory: string(job.working_directory()),
            is_init: job.has_entrypoint(),
            filters: Vec::new(),
            processes: 0,
            terminal: None,
        }
    }

    /// Adds a variable to the environment, unless the job has one of this name.
    pub(super) fn add_variable(&mut self, name: &str, value: &OsStr) {
        let start = [name.as_bytes(), b"="].concat();
        let is_new = !self
            .environment
            .iter()
            .any(|variable| variable.to_bytes().starts_with(&start));
        let variable = [&start, value.as_bytes()].concat();
        // The kernel gives no variable with a NUL.
        if let Some(variable) = CString::new(variable).ok().filter(|_| is_new) {
            self.environment.push(variable);
        }
    }

    /// The stub's file, for these ends of its sockets.
    fn file(&self, supervisor: RawFd, runner: RawFd, restriction: Restriction) -> Vec<u8> {
        let mut file = PROGRAM.to_vec();
        let writable = WRITABLE.map(|path| CString::new(path).expect("the paths have no NUL"));
        let mut strings = |strings: &[CString]| {
            let offset = file.len() as u64;
            for string in strings {
                file.extend_from_slice(string.as_bytes_with_nul());
            }
            (offset, strings.len() as u64)
        };
        let (arguments, argument_count) = strings(&self.arguments);
        let (environment, variable_count) = strings(&self.environment);
        let (writable, writable_count) = strings(&writable);
        let (working_directory, _) = strings(std::slice::from_ref(&self.working_directory));
        align(&mut file);
        let filters = file.len() as u64;
        for filter in &self.filters {
            file.extend((filter.len() as u64 / 8).to_ne_bytes());
            file.extend_from_slice(filter);
        }
        let parameters = Parameters {
            supervisor,
            runner,
            processes: self.processes,
            access_fs: restriction.access_fs,
            access_net: 0,
            scoped: restriction.scoped,
            ruleset_bytes: restriction.bytes,
            writable,
            writable_count,
            arguments,
            argument_count,
            environment,
            variable_count,
            filters,
            filter_count: self.filters.len() as u64,
            working_directory,
            is_init: self.is_init.into(),
            has_terminal: self.terminal.is_some().into(),
            terminal: self.terminal.unwrap_or_default(),
        };
        align(&mut file);
        let offset = file.len() as Trailer;
        file.extend(bytes_of(&parameters));
        file.extend(offset.to_ne_bytes());
        file
    }
}

fn align(file: &mut Vec<u8>) {
    file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
}

/// The fields of the structure in their order, as `repr(C)` lays them out.
fn bytes_of(parameters: &Parameters) -> Vec<u8> {
    let Parameters {
        supervisor,
        runner,
        processes,
        access_fs,
        access_net,
        scoped,
        ruleset_bytes,
        writable,
        writable_count,
        arguments,
        argument_count,
        environment,
        variable_count,
        filters,
        filter_count,
        working_directory,
        is_init,
        has_terminal,
        terminal,
    } = *parameters;
    let mut bytes: Vec<u8> = [supervisor, runner]
        .into_iter()
        .flat_map(i32::to_ne_bytes)
        .collect();
    let numbers = [
        processes,
        access_fs,
        access_net,
        scoped,
        ruleset_bytes,
        writable,
        writable_count,
        arguments,
        argument_count,
        environment,
        variable_count,
        filters,
        filter_count,
        working_directory,
    ];
    bytes.extend(numbers.into_iter().flat_map(u64::to_ne_bytes));
    bytes.extend(is_init.to_ne_bytes());
    bytes.extend(has_terminal.to_ne_bytes());
    bytes.extend(terminal.modes.into_iter().flat_map(u32::to_ne_bytes));
    bytes.extend(terminal.codes);
    bytes.extend(terminal.size.into_iter().flat_map(u16::to_ne_bytes));
    bytes.resize(size_of::<Parameters>(), 0);
    bytes
}

/// A stub that is ready to be executed.
#[derive(Debug)]
pub(super) struct Stub {
    program: File,
    /// Its ends of two sockets.
    supervisor: OwnedFd,
    runner: OwnedFd,
    /// What it says. Does not block.
    said: OwnedFd,
}

/// What a stub says.
#[derive(Debug)]
pub(super) enum Said {
    /// The master of the program's terminal.
    Terminal(OwnedFd),
    /// The sandbox is complete, and the program begins.
    Complete,
    /// It could not become the program.
    Failed(Failure),
}

/// Why a stub did not become the program.
#[derive(Debug)]
pub(super) enum Failure {
    /// The kernel refused the program.
    Execute(io::Error),
    /// The working directory cannot be entered.
    Enter(io::Error),
    /// Its filters, restrictions, terminal or descriptors could not be set up; which of them.
    Confine(&'static str, io::Error),
}

impl Stub {
    /// One with these orders, and the supervisor's end of the socket on which both meet.
    pub(super) fn new(orders: &Orders) -> io::Result<(Stub, OwnedFd)> {
        let (supervisor, meeting) = process::socket_pair()?;
        // The supervisor learns from the kernel which process it is.
        set_socket_passcred(&meeting, true)?;
        let (runner, said) = process::socket_pair()?;
        fcntl_setfl(&said, OFlags::NONBLOCK)?;
        let restriction = Restriction::of_kernel();
        let file = orders.file(supervisor.as_raw_fd(), runner.as_raw_fd(), restriction);
        let stub = Stub {
            program: hold_program(&file)?,
            supervisor,
            runner,
            said,
        };
        Ok((stub, meeting))
    }

    /// The path by which bubblewrap executes it.
    pub(super) fn path(&self) -> String {
        let number = self.program.as_raw_fd().to_string();
        let directory = "/proc/self/fd";
        let slashes = "/".repeat(PATH_BYTES - directory.len() - number.len());
        format!("{directory}{slashes}{number}")
    }

    /// What it needs to be handed on.
    pub(super) fn inherited(&self) -> [BorrowedFd<'_>; 3] {
        [
            self.program.as_fd(),
            self.supervisor.as_fd(),
            self.runner.as_fd(),
        ]
    }

    /// Gives up all that was handed on, when it was; gives what the stub says.
    pub(super) fn started(self) -> Voice {
        Voice(Some(self.said))
    }
}

/// What a stub says, after it was started.
#[derive(Debug)]
pub(super) struct Voice(Option<OwnedFd>);

impl Voice {
    /// What to wait for, as long as more may come.
    pub(super) fn socket(&self) -> Option<&OwnedFd> {
        self.0.as_ref()
    }

    /// Takes what is there; nothing where there is nothing more.
    pub(super) fn take(&mut self) -> io::Result<Option<Said>> {
        let Some(socket) = &self.0 else {
            return Ok(None);
        };
        let mut bytes = [0; size_of::<Report>()];
        let (length, descriptor) = match process::receive_bytes(socket, &mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            received => received?,
        };
        if length == 0 {
            // It has become the program, or is gone.
            self.0 = None;
            return Ok(None);
        }
        let number = |at: usize| {
            let number = bytes[at..at + 4].try_into().unwrap_or_default();
            i32::from_ne_bytes(number)
        };
        let (stage, errno) = (number(0) as u32, number(4));
        if errno == 0 {
            return Ok(Some(descriptor.map_or(Said::Complete, Said::Terminal)));
        }
        let error = io::Error::from(Errno::from_raw_os_error(errno));
        Ok(Some(Said::Failed(match stage {
            EXECUTE => Failure::Execute(error),
            ENTER_DIRECTORY => Failure::Enter(error),
            START_PROGRAM => Failure::Confine("start a process", error),
            MEET_SUPERVISOR => Failure::Confine("cover files of /proc", error),
            OPEN_TERMINAL => Failure::Confine("open a terminal", error),
            FILTER_CALLS => Failure::Confine("filter system calls", error),
            _ => Failure::Confine("restrict files, descriptors and processes", error),
        })))
    }
}
