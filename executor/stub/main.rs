//! The program that stands before the program of a job, and becomes it.
//!
//! Some things can be done only by a process of the finished sandbox: to open a terminal of the
//! sandbox's own and take it for the session, and to confine itself by Landlock and filters of system
//! calls, which would keep bubblewrap from its work. The stub needs nothing of the root file system that
//! it runs in: no C library, no file. It is executed from a memfd; what it is told stands at the end of
//! the same memfd (see `layout.rs`).
//!
//! In order: read the parameters; tell the supervisor that the sandbox is complete; limit processes;
//! restrict files; take the right to execute the stub away; filter system calls; wait until the supervisor
//! has covered `/proc`, which it does meanwhile; where the program is not to be process 1, stay as that and
//! go on in a child; open the terminal; enter the working directory; have `execve` close all descriptors
//! above 2; execute. A step that fails is reported with its number and the kernel's error, and ends the
//! process with exit code 126.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::panic::PanicInfo;
use core::ptr::{null, null_mut};

include!("layout.rs");

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {start}",
    start = sym start,
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x0, sp",
    "bl {start}",
    start = sym start,
);

/// Numbers of system calls.
#[cfg(target_arch = "x86_64")]
mod number {
    pub(crate) const CLOSE: usize = 3;
    pub(crate) const LSEEK: usize = 8;
    pub(crate) const MMAP: usize = 9;
    pub(crate) const RT_SIGPROCMASK: usize = 14;
    pub(crate) const IOCTL: usize = 16;
    pub(crate) const SENDTO: usize = 44;
    pub(crate) const RECVFROM: usize = 45;
    pub(crate) const SENDMSG: usize = 46;
    pub(crate) const CLONE: usize = 56;
    pub(crate) const EXECVE: usize = 59;
    pub(crate) const WAIT4: usize = 61;
    pub(crate) const KILL: usize = 62;
    pub(crate) const CHDIR: usize = 80;
    pub(crate) const FCHMOD: usize = 91;
    pub(crate) const SETSID: usize = 112;
    pub(crate) const RT_SIGTIMEDWAIT: usize = 128;
    pub(crate) const PRCTL: usize = 157;
    pub(crate) const EXIT_GROUP: usize = 231;
    pub(crate) const OPENAT: usize = 257;
    pub(crate) const DUP3: usize = 292;
    pub(crate) const PRLIMIT64: usize = 302;
    pub(crate) const SECCOMP: usize = 317;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub(crate) const DUP3: usize = 24;
    pub(crate) const IOCTL: usize = 29;
    pub(crate) const CHDIR: usize = 49;
    pub(crate) const FCHMOD: usize = 52;
    pub(crate) const OPENAT: usize = 56;
    pub(crate) const CLOSE: usize = 57;
    pub(crate) const LSEEK: usize = 62;
    pub(crate) const EXIT_GROUP: usize = 94;
    pub(crate) const KILL: usize = 129;
    pub(crate) const RT_SIGPROCMASK: usize = 135;
    pub(crate) const RT_SIGTIMEDWAIT: usize = 137;
    pub(crate) const SETSID: usize = 157;
    pub(crate) const PRCTL: usize = 167;
    pub(crate) const SENDTO: usize = 206;
    pub(crate) const RECVFROM: usize = 207;
    pub(crate) const SENDMSG: usize = 211;
    pub(crate) const CLONE: usize = 220;
    pub(crate) const EXECVE: usize = 221;
    pub(crate) const MMAP: usize = 222;
    pub(crate) const WAIT4: usize = 260;
    pub(crate) const PRLIMIT64: usize = 261;
    pub(crate) const SECCOMP: usize = 277;
}

/// The same everywhere.
const CLOSE_RANGE: usize = 436;
const LANDLOCK_CREATE_RULESET: usize = 444;
const LANDLOCK_ADD_RULE: usize = 445;
const LANDLOCK_RESTRICT_SELF: usize = 446;

const ENOENT: i32 = 2;
const EINTR: i32 = 4;
const EINVAL: i32 = 22;
const ECONNRESET: i32 = 104;

const AT_FDCWD: isize = -100;
const SEEK_END: usize = 2;
const PROT_READ_WRITE: usize = 3;
const MAP_PRIVATE: usize = 2;
const MAP_PRIVATE_ANONYMOUS: usize = 0x22;
const O_RDWR: usize = 2;
const O_NOCTTY: usize = 0o400;
const O_CLOEXEC: usize = 0o2_000_000;
const O_PATH: usize = 0o10_000_000;
const RLIMIT_NPROC: usize = 6;
const PR_SET_NO_NEW_PRIVS: usize = 38;
const SECCOMP_SET_MODE_FILTER: usize = 1;
const LANDLOCK_RULE_PATH_BENEATH: usize = 1;
const CLOSE_RANGE_CLOEXEC: usize = 4;
const MSG_NOSIGNAL: usize = 0x4000;
const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const TCSETS: usize = 0x5402;
const TIOCSCTTY: usize = 0x540e;
const TIOCSWINSZ: usize = 0x5414;
const TIOCSPTLCK: usize = 0x4004_5431;
const TIOCGPTPEER: usize = 0x5441;

/// Exit code of a stub that did not become the program.
const FAILED: usize = 126;

type Result<T> = core::result::Result<T, i32>;

/// A failed step, and the kernel's error.
struct Failure(u32, i32);

#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, arguments: [usize; 6]) -> isize {
    let result: isize;
    let [first, second, third, fourth, fifth, sixth] = arguments;
    // SAFETY: the caller hands over what the call asks for.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") first, in("rsi") second, in("rdx") third,
            in("r10") fourth, in("r8") fifth, in("r9") sixth,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, arguments: [usize; 6]) -> isize {
    let result: isize;
    let [first, second, third, fourth, fifth, sixth] = arguments;
    // SAFETY: the caller hands over what the call asks for.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") first => result,
            in("x1") second, in("x2") third, in("x3") fourth, in("x4") fifth, in("x5") sixth,
        );
    }
    result
}

/// A system call that is repeated where a signal interrupted it.
unsafe fn repeat(number: usize, arguments: [usize; 6]) -> Result<usize> {
    loop {
        // SAFETY: as for `call`.
        match unsafe { call(number, arguments) } {
            error if error == -(EINTR as isize) => {}
            error if error < 0 => return Err(-error as i32),
            result => return Ok(result as usize),
        }
    }
}

macro_rules! call {
    ($number:expr, $($argument:expr),+ $(,)?) => {{
        let mut all = [0_usize; 6];
        let mut count = 0;
        $(
            all[count] = $argument as usize;
            count += 1;
        )+
        let _ = count;
        // SAFETY: pointers lead to memory of this process that lives as long as the call, and lengths
        // are theirs.
        unsafe { repeat($number, all) }
    }};
}

// After the macro, which it uses.
mod init;

/// The file that this process executes, mapped, with its parameters.
struct File {
    descriptor: usize,
    start: *mut u8,
    length: usize,
}

impl File {
    /// Maps the file whose descriptor ends the name by which the stub was executed.
    fn map(name: *const u8) -> Result<File> {
        let descriptor = number_at_end(name).ok_or(EINVAL)?;
        let length = call!(number::LSEEK, descriptor, 0, SEEK_END)?;
        let start = call!(number::MMAP, 0, length, PROT_READ_WRITE, MAP_PRIVATE, descriptor, 0)?;
        Ok(File {
            descriptor,
            start: start as *mut u8,
            length,
        })
    }

    /// Keeps the program from being the stub once more: a link or an interpreter can lead to
    /// `/proc/self/exe`, which is the stub up to the program's start.
    fn forbid_execution(&self) -> Result<()> {
        call!(number::FCHMOD, self.descriptor, 0)?;
        Ok(())
    }

    /// A pointer to `length` bytes at `offset`.
    fn at<T>(&self, offset: u64, length: usize) -> Result<*mut T> {
        let offset = usize::try_from(offset).map_err(|_| EINVAL)?;
        let end = offset.checked_add(length).ok_or(EINVAL)?;
        if end > self.length {
            return Err(EINVAL);
        }
        // SAFETY: it lies in the mapping.
        Ok(unsafe { self.start.add(offset) }.cast())
    }

    fn parameters(&self) -> Result<Parameters> {
        let trailer = size_of::<Trailer>();
        let end = self.length.checked_sub(trailer).ok_or(EINVAL)?;
        let offset: *const Trailer = self.at(end as u64, trailer)?;
        // SAFETY: `at` has checked that the bytes are there; any bytes are such values.
        unsafe {
            let offset = offset.read_unaligned();
            let parameters: *const Parameters = self.at(offset, size_of::<Parameters>())?;
            Ok(parameters.read_unaligned())
        }
    }

    /// Fills `pointers` with those of consecutive strings, and a null pointer behind them.
    fn strings(&self, offset: u64, count: u64) -> Result<*const *const u8> {
        let count = count as usize;
        let size = (count + 1) * size_of::<*const u8>();
        let memory = call!(
            number::MMAP,
            0,
            size,
            PROT_READ_WRITE,
            MAP_PRIVATE_ANONYMOUS,
            -1_isize,
            0
        )?;
        let pointers = memory as *mut *const u8;
        let mut next = offset;
        for index in 0..count {
            let string: *mut u8 = self.at(next, 1)?;
            // SAFETY: there is room for `count` and one more.
            unsafe { pointers.add(index).write(string) };
            while self.byte(next)? != 0 {
                next += 1;
            }
            next += 1;
        }
        // SAFETY: as above.
        unsafe { pointers.add(count).write(null()) };
        Ok(pointers)
    }

    fn byte(&self, offset: u64) -> Result<u8> {
        let byte: *const u8 = self.at(offset, 1)?;
        // SAFETY: `at` has checked that it is there.
        Ok(unsafe { byte.read() })
    }
}

/// The number in the last characters of a string.
fn number_at_end(mut text: *const u8) -> Option<usize> {
    let mut number = None;
    loop {
        // SAFETY: the kernel ends arguments with NUL.
        let byte = unsafe { text.read() };
        number = match byte {
            0 => return number,
            b'0'..=b'9' => Some(number.unwrap_or(0) * 10 + usize::from(byte - b'0')),
            _ => None,
        };
        // SAFETY: that was not the last byte.
        text = unsafe { text.add(1) };
    }
}

extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: the kernel puts the number of arguments there, and then their pointers.
    let name = unsafe { stack.add(1).read() } as *mut u8;
    let file = File::map(name).and_then(|file| file.parameters().map(|found| (file, found)));
    if let Ok((file, parameters)) = file {
        let Failure(stage, errno) = execute(&file, &parameters, name);
        tell(parameters.runner, Report { stage, errno });
    }
    exit();
}

/// Tells the runner. Without one there is nobody to tell.
fn tell(runner: i32, report: Report) {
    let size = size_of::<Report>();
    _ = call!(number::SENDTO, runner, &raw const report, size, MSG_NOSIGNAL, 0, 0);
}

fn exit() -> ! {
    exit_with(FAILED)
}

fn exit_with(code: usize) -> ! {
    loop {
        _ = call!(number::EXIT_GROUP, code);
    }
}

/// Becomes the program, or starts it as a child; gives what kept the stub from that. `own_name` is the name
/// by which the stub was executed.
fn execute(file: &File, parameters: &Parameters, own_name: *mut u8) -> Failure {
    let at = |stage| move |errno| Failure(stage, errno);
    let steps = || {
        let strings = |offset, count| file.strings(offset, count).map_err(at(READ_PARAMETERS));
        let arguments = strings(parameters.arguments, parameters.argument_count)?;
        let environment = strings(parameters.environment, parameters.variable_count)?;
        let directory: *const u8 = file
            .at(parameters.working_directory, 1)
            .map_err(at(READ_PARAMETERS))?;
        call_supervisor(parameters.supervisor).map_err(at(MEET_SUPERVISOR))?;
        limit_processes(parameters.processes).map_err(at(LIMIT_PROCESSES))?;
        call!(number::PRCTL, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).map_err(at(RESTRICT_FILES))?;
        restrict_files(file, parameters).map_err(at(RESTRICT_FILES))?;
        file.forbid_execution().map_err(at(CLOSE_DESCRIPTORS))?;
        filter_calls(file, parameters).map_err(at(FILTER_CALLS))?;
        await_supervisor(parameters.supervisor).map_err(at(MEET_SUPERVISOR))?;
        // The filters hold for both processes.
        if parameters.is_init != 0 {
            init::split(own_name).map_err(at(START_PROGRAM))?;
        }
        if parameters.has_terminal != 0 {
            open_terminal(parameters).map_err(at(OPEN_TERMINAL))?;
        }
        call!(number::CHDIR, directory).map_err(at(ENTER_DIRECTORY))?;
        call!(CLOSE_RANGE, 3, u32::MAX, CLOSE_RANGE_CLOEXEC).map_err(at(CLOSE_DESCRIPTORS))?;
        tell(parameters.runner, Report { stage: EXECUTE, errno: 0 });
        // SAFETY: there is a first argument, or a null pointer, which the kernel refuses.
        let program = unsafe { arguments.read() };
        call!(number::EXECVE, program, arguments, environment).map_err(at(EXECUTE))?;
        Ok(())
    };
    match steps() {
        Err(failure) => failure,
        Ok(()) => Failure(EXECUTE, EINVAL),
    }
}

/// Says that the sandbox is complete.
fn call_supervisor(supervisor: i32) -> Result<()> {
    let byte = 0_u8;
    call!(number::SENDTO, supervisor, &raw const byte, 1, MSG_NOSIGNAL, 0, 0)?;
    Ok(())
}

/// Waits for the supervisor's answer: an error, or 0.
fn await_supervisor(supervisor: i32) -> Result<()> {
    let mut errno = 0_i32;
    let size = size_of::<i32>();
    match call!(number::RECVFROM, supervisor, &raw mut errno, size, 0, 0, 0)? {
        received if received != size => Err(ECONNRESET),
        _ if errno != 0 => Err(errno),
        _ => Ok(()),
    }
}

fn limit_processes(most: u64) -> Result<()> {
    if most == 0 {
        return Ok(());
    }
    let mut limits = [0_u64; 2];
    call!(number::PRLIMIT64, 0, RLIMIT_NPROC, null::<u64>(), limits.as_mut_ptr())?;
    // Nobody may have more than was allowed before.
    let most = most.min(limits[1]);
    limits = [most, most];
    call!(number::PRLIMIT64, 0, RLIMIT_NPROC, limits.as_ptr(), null_mut::<u64>())?;
    Ok(())
}

/// Opens a terminal of the sandbox's own, hands its master out, and makes it that of the session, which
/// has none yet, and the three standard streams.
fn open_terminal(parameters: &Parameters) -> Result<()> {
    let flags = O_RDWR | O_NOCTTY | O_CLOEXEC;
    let master = call!(number::OPENAT, AT_FDCWD, c"/dev/ptmx".as_ptr(), flags, 0)?;
    let unlocked = 0_i32;
    call!(number::IOCTL, master, TIOCSPTLCK, &raw const unlocked)?;
    let slave = call!(number::IOCTL, master, TIOCGPTPEER, flags)?;
    let terminal = parameters.terminal;
    call!(number::IOCTL, slave, TCSETS, &raw const terminal.modes)?;
    call!(number::IOCTL, slave, TIOCSWINSZ, &raw const terminal.size)?;
    call!(number::IOCTL, slave, TIOCSCTTY, 0)?;
    send_descriptor(parameters.runner, master as i32)?;
    call!(number::CLOSE, master)?;
    for stream in 0..3 {
        call!(number::DUP3, slave, stream, 0)?;
    }
    Ok(())
}

/// `struct iovec`, `struct msghdr` and `struct cmsghdr` with one descriptor, of 64-bit Linux.
#[repr(C)]
struct Part {
    start: *const u8,
    length: usize,
}

#[repr(C)]
struct Message {
    name: *const u8,
    name_length: u32,
    parts: *const Part,
    part_count: usize,
    control: *const Control,
    control_length: usize,
    flags: i32,
}

#[repr(C)]
struct Control {
    length: usize,
    level: i32,
    kind: i32,
    descriptor: i32,
    padding: i32,
}

fn send_descriptor(socket: i32, descriptor: i32) -> Result<()> {
    let report = Report { stage: OPEN_TERMINAL, errno: 0 };
    let part = Part {
        start: (&raw const report).cast(),
        length: size_of::<Report>(),
    };
    let control = Control {
        // Without the padding at the end.
        length: size_of::<Control>() - size_of::<i32>(),
        level: SOL_SOCKET,
        kind: SCM_RIGHTS,
        descriptor,
        padding: 0,
    };
    let message = Message {
        name: null(),
        name_length: 0,
        parts: &raw const part,
        part_count: 1,
        control: &raw const control,
        control_length: size_of::<Control>(),
        flags: 0,
    };
    call!(number::SENDMSG, socket, &raw const message, MSG_NOSIGNAL)?;
    Ok(())
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent: i32,
}

fn restrict_files(file: &File, parameters: &Parameters) -> Result<()> {
    let access = parameters.access_fs;
    if access == 0 {
        return Ok(());
    }
    let attributes = [access, parameters.access_net, parameters.scoped];
    let size = parameters.ruleset_bytes;
    let ruleset = call!(LANDLOCK_CREATE_RULESET, attributes.as_ptr(), size, 0)?;
    let mut paths = file.strings(parameters.writable, parameters.writable_count)?;
    loop {
        // SAFETY: a null pointer ends the list.
        let path = unsafe { paths.read() };
        if path.is_null() {
            break;
        }
        match call!(number::OPENAT, AT_FDCWD, path, O_PATH | O_CLOEXEC, 0) {
            // A trial of the sandbox has fewer places.
            Err(ENOENT) => {}
            opened => {
                let rule = PathBeneath {
                    allowed_access: access,
                    parent: opened? as i32,
                };
                let kind = LANDLOCK_RULE_PATH_BENEATH;
                call!(LANDLOCK_ADD_RULE, ruleset, kind, &raw const rule, 0)?;
            }
        }
        // SAFETY: this was not the end.
        paths = unsafe { paths.add(1) };
    }
    call!(LANDLOCK_RESTRICT_SELF, ruleset, 0)?;
    Ok(())
}

/// `struct sock_fprog`.
#[repr(C)]
struct Filter {
    length: u16,
    instructions: *const u8,
}

fn filter_calls(file: &File, parameters: &Parameters) -> Result<()> {
    const INSTRUCTION_BYTES: u64 = 8;
    let mut next = parameters.filters;
    for _ in 0..parameters.filter_count {
        let length: *const u64 = file.at(next, size_of::<u64>())?;
        // SAFETY: `at` has checked that it is there.
        let length = unsafe { length.read_unaligned() };
        next += size_of::<u64>() as u64;
        let bytes = length.checked_mul(INSTRUCTION_BYTES).ok_or(EINVAL)?;
        let filter = Filter {
            length: u16::try_from(length).map_err(|_| EINVAL)?,
            instructions: file.at(next, bytes as usize)?,
        };
        call!(number::SECCOMP, SECCOMP_SET_MODE_FILTER, 0, &raw const filter)?;
        next += bytes;
    }
    Ok(())
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit()
}

// The compiler may call these, and there is no C library to have them.

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    let mut index = 0;
    while index < length {
        // SAFETY: both have `length` bytes. Volatile, so that the loop does not become a call of itself.
        unsafe { to.add(index).write_volatile(from.add(index).read_volatile()) };
        index += 1;
    }
    to
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, length: usize) -> *mut u8 {
    let mut index = 0;
    while index < length {
        // SAFETY: there are `length` bytes.
        unsafe { to.add(index).write_volatile(value as u8) };
        index += 1;
    }
    to
}
