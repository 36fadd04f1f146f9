// What the stub is told, as it stands in memory. Both the stub and the library that embeds it include
// this file; integers are in the byte order of the machine.

/// Least bytes of the table of descriptors and flags that the stub reads first. All offsets count from
/// the start of the file.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Parameters {
    /// Socket (`SOCK_SEQPACKET`) to the supervisor: the stub sends one byte and waits for one.
    pub(crate) supervisor: i32,
    /// Socket (`SOCK_SEQPACKET`) to the runner: takes a [`Report`], and the master of a terminal.
    pub(crate) runner: i32,
    /// Most processes that the program's user may have (`RLIMIT_NPROC`); 0 leaves it as it is.
    pub(crate) processes: u64,
    /// `struct landlock_ruleset_attr`; where `access_fs` is 0 there is no ruleset.
    pub(crate) access_fs: u64,
    pub(crate) access_net: u64,
    pub(crate) scoped: u64,
    /// Bytes of that structure that the kernel knows.
    pub(crate) ruleset_bytes: u64,
    /// Offset and number of the paths beneath which the program may write: NUL-terminated strings.
    pub(crate) writable: u64,
    pub(crate) writable_count: u64,
    /// Offset and number of the arguments; the first is also the program.
    pub(crate) arguments: u64,
    pub(crate) argument_count: u64,
    /// Offset and number of the variables of the environment.
    pub(crate) environment: u64,
    pub(crate) variable_count: u64,
    /// Offset and number of the filters. Each is a length in instructions, as a `u64`, and so many
    /// `sock_filter`s of 8 bytes.
    pub(crate) filters: u64,
    pub(crate) filter_count: u64,
    /// Offset of the working directory: a NUL-terminated string.
    pub(crate) working_directory: u64,
    /// Whether the stub stays as process 1, and starts the program as a child.
    pub(crate) is_init: u32,
    /// Whether the program gets a terminal, and with what settings.
    pub(crate) has_terminal: u32,
    pub(crate) terminal: Terminal,
}

/// Settings of a terminal: `struct termios` and `struct winsize` of the kernel.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Terminal {
    pub(crate) modes: [u32; 4],
    pub(crate) codes: [u8; 20],
    pub(crate) size: [u16; 4],
}

/// The last bytes of the file: where the [`Parameters`] stand.
pub(crate) type Trailer = u64;

/// What the stub tells the runner: at what it failed, or without an error that it is about to execute the
/// program.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Report {
    pub(crate) stage: u32,
    /// The error of the kernel; 0 where nothing failed.
    pub(crate) errno: i32,
}

/// Stages of the stub, for [`Report`].
pub(crate) const READ_PARAMETERS: u32 = 1;
pub(crate) const MEET_SUPERVISOR: u32 = 2;
pub(crate) const LIMIT_PROCESSES: u32 = 3;
pub(crate) const OPEN_TERMINAL: u32 = 4;
pub(crate) const RESTRICT_FILES: u32 = 5;
pub(crate) const CLOSE_DESCRIPTORS: u32 = 6;
pub(crate) const FILTER_CALLS: u32 = 7;
pub(crate) const EXECUTE: u32 = 8;
pub(crate) const START_PROGRAM: u32 = 9;
pub(crate) const ENTER_DIRECTORY: u32 = 10;
