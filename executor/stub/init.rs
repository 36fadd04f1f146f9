//! Process 1 of a sandbox whose program is another process.
//!
//! It hands every signal on to the program, reaps what has no parent any more, and ends as the program
//! does; the kernel then ends all other processes. It holds no descriptor, and its command line is `init`
//! wherever it runs.

use super::{CLOSE_RANGE, Result, exit_with, number, repeat};

const SIG_SETMASK: usize = 2;
const SIGCHLD: usize = 17;
const WNOHANG: usize = 1;
const PR_SET_NAME: usize = 15;

/// Size of the kernel's signal set.
const SET_BYTES: usize = 8;

static ALL: u64 = u64::MAX;
static NONE: u64 = 0;

/// The name of the process, and its only argument.
const NAME: &core::ffi::CStr = c"init";

/// Exit codes of programs that a signal ended begin here.
const SIGNALLED: usize = 128;

/// Splits the process in two. The parent stays as process 1 and never returns; the child leads a session of
/// its own.
pub(crate) fn split(own_name: *mut u8) -> Result<()> {
    // Held back until they can be handed on.
    mask(&raw const ALL)?;
    let child = call!(number::CLONE, SIGCHLD, 0, 0, 0, 0)?;
    if child != 0 {
        rename(own_name);
        // Its descriptors would be open for the program in `/proc/1/fd`.
        _ = call!(CLOSE_RANGE, 0, u32::MAX, 0);
        attend(child)
    }
    mask(&raw const NONE)?;
    call!(number::SETSID, 0)?;
    Ok(())
}

fn mask(set: *const u64) -> Result<()> {
    let none = core::ptr::null::<u64>();
    call!(number::RT_SIGPROCMASK, SIG_SETMASK, set, none, SET_BYTES)?;
    Ok(())
}

/// Overwrites the argument by which the stub was executed, which has the number of a descriptor.
fn rename(own_name: *mut u8) {
    let mut name = NAME.to_bytes().iter();
    let mut next = own_name;
    // SAFETY: the kernel ends arguments with NUL, and they can be written.
    unsafe {
        while next.read() != 0 {
            next.write(name.next().copied().unwrap_or(0));
            next = next.add(1);
        }
    }
    _ = call!(number::PRCTL, PR_SET_NAME, NAME.as_ptr(), 0, 0, 0);
}

/// Waits for signals until the program ends.
fn attend(program: usize) -> ! {
    loop {
        let none = core::ptr::null::<u8>();
        match call!(number::RT_SIGTIMEDWAIT, &raw const ALL, none, none, SET_BYTES) {
            Ok(SIGCHLD) => reap(program),
            Ok(signal) => _ = call!(number::KILL, program, signal),
            Err(_) => {}
        }
    }
}

/// Reaps all that ended; ends with the program.
fn reap(program: usize) {
    loop {
        let mut status = 0_i32;
        let usage = core::ptr::null::<u8>();
        match call!(number::WAIT4, -1_isize, &raw mut status, WNOHANG, usage) {
            Ok(0) | Err(_) => return,
            Ok(ended) if ended == program => exit_with(code(status)),
            Ok(_) => {}
        }
    }
}

/// The exit code for a status of wait(2): that of the program, or 128 and the number of a signal.
fn code(status: i32) -> usize {
    let signal = (status & 0x7f) as usize;
    match signal {
        0 => (status >> 8 & 0xff) as usize,
        signal => SIGNALLED + signal,
    }
}
