//! A program of a few hundred bytes that stands before the program of a job.
//!
//! Two things can be done only by a process of the sandbox itself, after bubblewrap has made it. A
//! session of its own has no terminal yet, and only a process of it can take one. And Landlock forbids
//! whom it confines to mount anything. This one does both, and becomes the program. It needs nothing of
//! the root file system that it runs in.

use std::arch::global_asm;
use std::os::fd::RawFd;

/// Puts code, whose parameters stand at label 9, between two symbols in read-only data.
macro_rules! code {
    ($($line:literal),* $(,)?) => {
        global_asm!(
            ".pushsection .rodata.ipfs_exec_opener, \"a\", @progbits",
            ".balign 8",
            ".globl ipfs_exec_opener_start",
            ".hidden ipfs_exec_opener_start",
            "ipfs_exec_opener_start:",
            $($line,)*
            ".balign 8",
            "9:",
            ".globl ipfs_exec_opener_end",
            ".hidden ipfs_exec_opener_end",
            "ipfs_exec_opener_end:",
            ".popsection",
        );
    };
}

// In: the arguments and the environment, as the kernel lays them out, and behind the code `Parameters`.
// 1. Makes descriptor 0 the terminal of the session (`TIOCSCTTY`), where there is one.
// 2. Allows by Landlock to write to `/dev`, which bubblewrap made, and confines itself.
// 3. Has `exec` close all descriptors but the first three.
// 4. Executes the arguments behind its own name.
// Where one of these fails it writes a byte, `NOT_EXECUTED` at the last one, to the descriptor for
// failures, and exits with 126.
#[cfg(target_arch = "x86_64")]
code!(
    "mov rbp, rsp",
    "lea r12, [rip + 9f]",
    // The terminal, if there is one.
    "mov r13d, 1",
    "cmp dword ptr [r12 + 8], 0",
    "je 2f",
    "mov eax, 16", // ioctl
    "xor edi, edi",
    "mov esi, 0x540e",
    "xor edx, edx",
    "syscall",
    "test rax, rax",
    "jnz 8f",
    // Landlock, if the kernel has it, with one rule more.
    "2:",
    "cmp dword ptr [r12 + 4], 0",
    "jl 3f",
    "mov eax, 257", // openat
    "mov edi, -100",
    "lea rsi, [r12 + 24]",
    "mov edx, 0x290000",
    "xor r10d, r10d",
    "syscall",
    "test rax, rax",
    "js 8f",
    "mov rdx, [r12 + 16]",
    "sub rsp, 16",
    "mov [rsp], rdx",
    "mov [rsp + 8], eax",
    "mov eax, 445", // landlock_add_rule
    "mov edi, [r12 + 4]",
    "mov esi, 1",
    "mov rdx, rsp",
    "xor r10d, r10d",
    "syscall",
    "test rax, rax",
    "jnz 8f",
    "mov eax, 446", // landlock_restrict_self
    "mov edi, [r12 + 4]",
    "xor esi, esi",
    "syscall",
    "test rax, rax",
    "jnz 8f",
    "3:",
    "mov eax, 436", // close_range
    "mov edi, 3",
    "mov esi, -1",
    "mov edx, 4",
    "syscall",
    "test rax, rax",
    "jnz 8f",
    "mov r13d, 2",
    "mov rax, [rbp]",
    "lea rsi, [rbp + 16]",
    "lea rdx, [rbp + 8 * rax + 16]",
    "mov rdi, [rsi]",
    "mov eax, 59", // execve
    "syscall",
    "8:",
    "mov [rsp - 8], r13d",
    "lea rsi, [rsp - 8]",
    "mov edi, [r12]",
    "mov edx, 1",
    "mov eax, 1", // write
    "syscall",
    "mov edi, 126",
    "mov eax, 231", // exit_group
    "syscall",
);

#[cfg(target_arch = "aarch64")]
code!(
    "mov x19, sp",
    "adr x20, 9f",
    // The terminal, if there is one.
    "mov w21, #1",
    "ldr w0, [x20, #8]",
    "cbz w0, 2f",
    "mov x0, #0",
    "mov x1, #0x540e",
    "mov x2, #0",
    "mov x8, #29", // ioctl
    "svc #0",
    "cbnz x0, 8f",
    // Landlock, if the kernel has it, with one rule more.
    "2:",
    "ldr w22, [x20, #4]",
    "tbnz w22, #31, 3f",
    "mov x0, #-100",
    "add x1, x20, #24",
    "mov x2, #0x4000", // O_DIRECTORY has another number here
    "movk x2, #0x28, lsl #16",
    "mov x3, #0",
    "mov x8, #56", // openat
    "svc #0",
    "tbnz x0, #63, 8f",
    "ldr x1, [x20, #16]",
    "sub sp, sp, #16",
    "str x1, [sp]",
    "str w0, [sp, #8]",
    "mov w0, w22",
    "mov x1, #1",
    "mov x2, sp",
    "mov x3, #0",
    "mov x8, #445", // landlock_add_rule
    "svc #0",
    "cbnz x0, 8f",
    "mov w0, w22",
    "mov x1, #0",
    "mov x8, #446", // landlock_restrict_self
    "svc #0",
    "cbnz x0, 8f",
    "3:",
    "mov w0, #3",
    "mov w1, #-1",
    "mov w2, #4",
    "mov x8, #436", // close_range
    "svc #0",
    "cbnz x0, 8f",
    "mov w21, #2",
    "ldr x3, [x19]",
    "add x1, x19, #16",
    "add x2, x1, x3, lsl #3",
    "ldr x0, [x1]",
    "mov x8, #221", // execve
    "svc #0",
    "8:",
    "str w21, [sp, #-16]!",
    "mov x1, sp",
    "ldr w0, [x20]",
    "mov x2, #1",
    "mov x8, #64", // write
    "svc #0",
    "mov x0, #126",
    "mov x8, #94", // exit_group
    "svc #0",
);

unsafe extern "C" {
    static ipfs_exec_opener_start: u8;
    static ipfs_exec_opener_end: u8;
}

/// What it writes where the last step fails, and not one before.
pub(crate) const NOT_EXECUTED: u8 = 2;

/// What the program is told. The code knows where each of them lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameters {
    /// To which it writes what it fails at.
    pub(crate) failures: RawFd,
    /// The ruleset of Landlock, and what that handles.
    pub(crate) ruleset: Option<(RawFd, u64)>,
    /// Whether descriptor 0 is a terminal.
    pub(crate) has_terminal: bool,
}

impl Parameters {
    fn bytes(self) -> Vec<u8> {
        let (ruleset, handled) = self.ruleset.unwrap_or((-1, 0));
        let numbers = [self.failures, ruleset, self.has_terminal.into(), 0];
        let mut bytes: Vec<u8> = numbers.into_iter().flat_map(i32::to_le_bytes).collect();
        bytes.extend(handled.to_le_bytes());
        bytes.extend(c"/dev".to_bytes_with_nul());
        bytes
    }
}

/// Where it is loaded.
const ADDRESS: u64 = 0x40_0000;

/// Sizes of the headers of ELF, class 64.
const HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;

const MACHINE: u16 = if cfg!(target_arch = "x86_64") {
    62
} else {
    183
};

/// The program, an ELF file.
pub(crate) fn opener(parameters: Parameters) -> Vec<u8> {
    let length = {
        let (start, end) = (
            &raw const ipfs_exec_opener_start,
            &raw const ipfs_exec_opener_end,
        );
        end.addr() - start.addr()
    };
    // SAFETY: the assembler puts the bytes between the two labels there, and nothing writes to them.
    let code = unsafe { std::slice::from_raw_parts(&raw const ipfs_exec_opener_start, length) };
    let start = u64::from(HEADER + PROGRAM_HEADER);
    let parameters = parameters.bytes();
    let whole = start + (code.len() + parameters.len()) as u64;
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    let short = |bytes: &mut Vec<u8>, value: u16| bytes.extend(value.to_le_bytes());
    let word = |bytes: &mut Vec<u8>, value: u32| bytes.extend(value.to_le_bytes());
    let long = |bytes: &mut Vec<u8>, value: u64| bytes.extend(value.to_le_bytes());
    // Executable, of this machine, version 1.
    short(&mut bytes, 2);
    short(&mut bytes, MACHINE);
    word(&mut bytes, 1);
    long(&mut bytes, ADDRESS + start);
    // The program header comes at once; there are no sections, and no flags.
    long(&mut bytes, HEADER.into());
    long(&mut bytes, 0);
    word(&mut bytes, 0);
    for value in [HEADER, PROGRAM_HEADER, 1, 0, 0, 0] {
        short(&mut bytes, value);
    }
    // The whole file, to be read and executed.
    word(&mut bytes, 1);
    word(&mut bytes, 5);
    for value in [0, ADDRESS, ADDRESS, whole, whole, 0x1_0000] {
        long(&mut bytes, value);
    }
    bytes.extend_from_slice(code);
    bytes.extend(parameters);
    bytes
}
