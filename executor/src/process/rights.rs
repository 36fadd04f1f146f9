//! Looking at what belongs to us, whatever its modes say.

use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, getpid, waitpid};

use super::fd_passing::{self, Note};
use super::{Identity, die_with, exit_now};

/// What `work` has to itself.
const STACK_BYTES: usize = 512 << 10;

/// The kernel wants stacks to begin at such addresses.
const STACK_ALIGNMENT: usize = 16;

/// What the child does, and leaves.
struct Task<W, T> {
    work: Option<W>,
    result: Option<io::Result<T>>,
    identity: Identity,
    parent: Pid,
}

/// Does `work` with the right to read all that is ours: in a user namespace with nobody else in it.
///
/// A process of its own does it, in the same memory and with copies of our descriptors, while this thread
/// stands still; others go on, so that no lock which they hold stays held. No signal reaches it but
/// SIGKILL, which ends it with us.
///
/// # Errors
/// Where there can be no user namespace, and those of `work`.
pub(crate) fn with_all_rights<T, W: FnOnce() -> io::Result<T>>(work: W) -> io::Result<T> {
    let mut task = Task {
        work: Some(work),
        result: None,
        identity: Identity::maps(),
        parent: getpid(),
    };
    let mut stack = vec![MaybeUninit::<u8>::uninit(); STACK_BYTES];
    // It grows downwards.
    let top = stack.as_mut_ptr_range().end;
    let top = top.wrapping_sub(top.addr() % STACK_ALIGNMENT);
    let flags = libc::CLONE_NEWUSER | libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let before = block_signals()?;
    // SAFETY: the stack is ours alone and large enough, `run` takes what is handed to it, and this thread
    // goes on, and touches either again, when the child has ended.
    let child = unsafe { libc::clone(run::<T, W>, top.cast(), flags, (&raw mut task).cast()) };
    let cloned = io::Error::last_os_error();
    restore_signals(&before)?;
    let Some(child) = Pid::from_raw(child.max(0)) else {
        return Err(cloned);
    };
    // Nobody may be left to wait for, where the program that we are part of ignores SIGCHLD.
    while matches!(waitpid(Some(child), WaitOptions::empty()), Err(Errno::INTR)) {}
    let nothing = || Err(io::Error::other("the process with all rights was killed"));
    task.result.unwrap_or_else(nothing)
}

/// Calls `open` with the right to read all files of this user.
///
/// # Errors
/// As [`with_all_rights`].
pub(crate) fn open_with_all_rights(
    open: impl FnOnce() -> io::Result<OwnedFd>,
) -> io::Result<OwnedFd> {
    let (sender, receiver) = fd_passing::open()?;
    // What that process opens is its own, until it sends it.
    with_all_rights(|| fd_passing::send(&sender, Note::Descriptor, Some(open()?.as_fd())))?;
    let (_, opened) = fd_passing::receive(&receiver)?;
    opened.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// What the child runs: it never returns into anything of ours.
extern "C" fn run<T, W: FnOnce() -> io::Result<T>>(task: *mut c_void) -> libc::c_int {
    // SAFETY: `with_all_rights` hands over such a task, and leaves it alone meanwhile.
    let task = unsafe { &mut *task.cast::<Task<W, T>>() };
    let work = task.work.take();
    let (identity, parent) = (&task.identity, task.parent);
    let result = catch_unwind(AssertUnwindSafe(|| {
        die_with(parent)?;
        identity.put_on()?;
        work.map_or_else(|| Err(io::ErrorKind::Other.into()), |work| work())
    }));
    task.result = result.ok();
    exit_now(0)
}

fn block_signals() -> io::Result<libc::sigset_t> {
    let mut all = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: both are written before they are read, and belong to this function.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        match libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) {
            0 => Ok(before.assume_init()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn restore_signals(before: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: the set is valid; the one from before is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn closed_directories_are_read() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("file"), "x").unwrap();
        let close = |mode| fs::set_permissions(place.path(), Permissions::from_mode(mode));
        close(0).unwrap();
        let names = || {
            let entries = fs::read_dir(place.path())?;
            entries.map(|entry| Ok(entry?.file_name())).collect()
        };
        let seen: io::Result<Vec<_>> = with_all_rights(names);
        let plain: io::Result<Vec<_>> = names();
        close(0o700).unwrap();
        assert_eq!(seen.unwrap(), ["file"]);
        assert_eq!(plain.is_ok(), rustix::process::geteuid().is_root());
    }

    /// A program may execute a file of mode 0111, and FUSE has to read it for that.
    #[test]
    fn a_file_that_its_owner_cannot_read_is_opened() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        fs::write(&path, "content").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o111)).unwrap();
        let opened = open_with_all_rights(|| Ok(fs::File::open(&path)?.into())).unwrap();
        let content = io::read_to_string(fs::File::from(opened)).unwrap();
        assert_eq!(content, "content");
        assert_eq!(
            fs::File::open(&path).is_ok(),
            rustix::process::geteuid().is_root()
        );
        let missing = || Ok(fs::File::open(place.path().join("missing"))?.into());
        let error = open_with_all_rights(missing).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    /// While other threads take and give back memory, and start such work as well.
    #[test]
    fn many_at_a_time() {
        std::thread::scope(|scope| {
            for number in 0..8_usize {
                scope.spawn(move || {
                    for length in 0..50 {
                        let made = with_all_rights(|| Ok(vec![number; length])).unwrap();
                        assert_eq!(made, vec![number; length]);
                    }
                });
            }
        });
    }

    #[test]
    fn errors_equal_the_errors_of_the_disk() {
        let fail = || -> io::Result<()> { Err(io::ErrorKind::AlreadyExists.into()) };
        let error = with_all_rights(fail).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(with_all_rights(|| -> io::Result<()> { panic!("on purpose") }).is_err());
    }
}
