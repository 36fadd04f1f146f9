//! A program of a hundred bytes that gives what it executes a terminal.
//!
//! Bubblewrap puts the program into a session of its own, so that what is typed reaches nothing but the
//! program, and such a session has no terminal yet. Only a process of it can take one: this one does,
//! before it becomes the program. It needs nothing of the root file system that it runs in.

use std::arch::global_asm;
use std::os::fd::RawFd;

// In: the arguments and the environment, as the kernel lays them out. Makes descriptor 0 the terminal
// of the session (`TIOCSCTTY`), has `exec` close all descriptors but the first three, and executes the
// arguments behind its own name. Where one of these fails it writes a byte to the descriptor whose
// number stands behind it, and exits with 126.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".pushsection .rodata.ipfs_exec_opener, \"a\", @progbits",
    ".globl ipfs_exec_opener_start",
    ".hidden ipfs_exec_opener_start",
    "ipfs_exec_opener_start:",
    "mov eax, 16", // ioctl
    "xor edi, edi",
    "mov esi, 0x540e",
    "xor edx, edx",
    "syscall",
    "test rax, rax",
    "jnz 2f",
    "mov eax, 436", // close_range
    "mov edi, 3",
    "mov esi, -1",
    "mov edx, 4",
    "syscall",
    "test rax, rax",
    "jnz 2f",
    "mov rax, [rsp]",
    "lea rsi, [rsp + 16]",
    "lea rdx, [rsp + 8 * rax + 16]",
    "mov rdi, [rsi]",
    "mov eax, 59", // execve
    "syscall",
    "2:",
    "lea rsi, [rip + 3f]",
    "mov edi, [rsi]",
    "mov edx, 1",
    "mov eax, 1", // write
    "syscall",
    "mov edi, 126",
    "mov eax, 231", // exit_group
    "syscall",
    "3:",
    ".globl ipfs_exec_opener_end",
    ".hidden ipfs_exec_opener_end",
    "ipfs_exec_opener_end:",
    ".popsection",
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".pushsection .rodata.ipfs_exec_opener, \"a\", @progbits",
    ".balign 4",
    ".globl ipfs_exec_opener_start",
    ".hidden ipfs_exec_opener_start",
    "ipfs_exec_opener_start:",
    "mov x0, #0",
    "mov x1, #0x540e",
    "mov x2, #0",
    "mov x8, #29", // ioctl
    "svc #0",
    "cbnz x0, 2f",
    "mov w0, #3",
    "mov w1, #-1",
    "mov w2, #4",
    "mov x8, #436", // close_range
    "svc #0",
    "cbnz x0, 2f",
    "ldr x3, [sp]",
    "add x1, sp, #16",
    "add x2, x1, x3, lsl #3",
    "ldr x0, [x1]",
    "mov x8, #221", // execve
    "svc #0",
    "2:",
    "adr x1, 3f",
    "ldr w0, [x1]",
    "mov x2, #1",
    "mov x8, #64", // write
    "svc #0",
    "mov x0, #126",
    "mov x8, #94", // exit_group
    "svc #0",
    "3:",
    ".globl ipfs_exec_opener_end",
    ".hidden ipfs_exec_opener_end",
    "ipfs_exec_opener_end:",
    ".popsection",
);

unsafe extern "C" {
    static ipfs_exec_opener_start: u8;
    static ipfs_exec_opener_end: u8;
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

/// The program, an ELF file, which writes a byte to `failure` where it cannot do what it is for.
pub(crate) fn opener(failure: RawFd) -> Vec<u8> {
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
    let whole = start + code.len() as u64 + size_of::<RawFd>() as u64;
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
    bytes.extend(failure.to_le_bytes());
    bytes
}
