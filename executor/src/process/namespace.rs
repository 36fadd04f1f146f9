//! The user and mount namespace in which a sandbox is prepared.
//!
//! An unprivileged caller becomes user 0 of a user namespace that maps its own uid and gid alone. A
//! caller with `CAP_SETUID`, such as root, gets a user namespace that maps all ids to themselves, so that
//! it reaches the same files as before. In both, limits of the namespace hold for all that is started.

use std::ffi::{CStr, CString, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, WaitOptions, getegid, geteuid, pidfd_open, waitpid};

use super::{borrow, check, exit_now, write_setting};

/// Stack of the process that holds a user namespace until this one has joined it.
const STACK_BYTES: usize = 16 << 10;

/// The kernel wants stacks to begin at such addresses.
const STACK_ALIGNMENT: usize = 16;

/// How ids are mapped into a user namespace. Made before `fork`, since it takes memory.
pub(super) struct Mapping {
    /// The caller's own ids, as 0.
    own: [CString; 2],
    /// All ids of the caller's namespace, as themselves; none where they cannot be read.
    all: Option<[CString; 2]>,
    stack: Vec<MaybeUninit<u8>>,
}

impl Mapping {
    pub(super) fn new() -> Mapping {
        let own = |id: u32| CString::new(format!("0 {id} 1")).expect("digits have no NUL");
        let all = || {
            Some([
                all_ids("/proc/self/uid_map")?,
                all_ids("/proc/self/gid_map")?,
            ])
        };
        Mapping {
            own: [own(geteuid().as_raw()), own(getegid().as_raw())],
            all: geteuid().is_root().then(all).flatten(),
            stack: vec![MaybeUninit::uninit(); STACK_BYTES],
        }
    }

    /// Moves this process, which has one thread, into namespaces of its own. All of its mounts stop to
    /// reach the host.
    pub(super) fn enter(&mut self) -> io::Result<()> {
        let joined = match &self.all {
            Some(all) => join_mapped(all, &mut self.stack),
            None => Err(io::ErrorKind::Unsupported.into()),
        };
        if joined.is_err() {
            // Root of a container may lack the right to map.
            unshare(libc::CLONE_NEWUSER)?;
            write_setting(c"/proc/self/setgroups", c"deny")?;
            write_setting(c"/proc/self/uid_map", &self.own[0])?;
            write_setting(c"/proc/self/gid_map", &self.own[1])?;
        }
        enter_mount_namespace()
    }
}

/// Puts this process into a mount namespace of its own, from which nothing reaches the host.
pub(super) fn enter_mount_namespace() -> io::Result<()> {
    unshare(libc::CLONE_NEWNS)?;
    let none = ptr::null();
    let private = libc::MS_REC | libc::MS_SLAVE;
    // SAFETY: all pointers are null or end in NUL.
    check(unsafe { libc::mount(none, c"/".as_ptr(), none, private, ptr::null()) }.into())
}

fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: the flags ask for new namespaces; memory and descriptors stay as `fork` left them.
    check(unsafe { libc::unshare(flags) }.into())
}

/// The ids that the map of this namespace has, each mapped to itself.
fn all_ids(path: &str) -> Option<CString> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let (inside, count) = (fields.next()?, fields.nth(1)?);
        Some(format!("{inside} {inside} {count}\n"))
    };
    let lines: Option<String> = text.lines().map(line).collect();
    CString::new(lines?).ok()
}

/// Joins a new user namespace with these maps. Only a process outside of it may write maps of many ids,
/// so another one holds the namespace until they are written.
fn join_mapped(maps: &[CString; 2], stack: &mut [MaybeUninit<u8>]) -> io::Result<()> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let top = stack.as_mut_ptr_range().end;
    let top = top.wrapping_sub(top.addr() % STACK_ALIGNMENT);
    let mut ends = [reader.as_raw_fd(), writer.as_raw_fd()];
    let flags = libc::CLONE_NEWUSER | libc::CLONE_VM | libc::SIGCHLD;
    // SAFETY: the stack is the holder's alone, and both live until the holder has been waited for.
    let holder = unsafe { libc::clone(hold, top.cast(), flags, (&raw mut ends).cast()) };
    let Some(holder) = Pid::from_raw(holder.max(0)) else {
        return Err(io::Error::last_os_error());
    };
    let joined = write_maps(holder, maps).and_then(|()| {
        let descriptor = pidfd_open(holder, PidfdFlags::empty())?;
        // SAFETY: takes integers; this process has one thread.
        let result = unsafe { libc::setns(descriptor.as_raw_fd(), libc::CLONE_NEWUSER) };
        check(result.into())
    });
    drop(writer);
    while matches!(
        waitpid(Some(holder), WaitOptions::empty()),
        Err(Errno::INTR)
    ) {}
    joined
}

fn write_maps(holder: Pid, maps: &[CString; 2]) -> io::Result<()> {
    for (map, name) in maps.iter().zip(["uid_map", "gid_map"]) {
        let mut path = [0; 32];
        let path = proc_path(&mut path, holder, name);
        let file = open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(file.as_fd(), map.to_bytes())?;
    }
    Ok(())
}

/// Writes `/proc/PID/NAME` without taking memory from the heap.
fn proc_path<'b>(buffer: &'b mut [u8; 32], pid: Pid, name: &str) -> &'b CStr {
    use std::io::Write;
    let mut rest = &mut buffer[..];
    // It is long enough for every number.
    _ = write!(rest, "/proc/{}/{name}\0", pid.as_raw_nonzero());
    CStr::from_bytes_until_nul(&buffer[..]).unwrap_or_default()
}

/// What the holder does: it waits until its parent has closed the other end, or is gone.
extern "C" fn hold(ends: *mut c_void) -> libc::c_int {
    // SAFETY: `join_mapped` hands over two numbers, which live as long as this process.
    let [reader, writer] = unsafe { ends.cast::<[i32; 2]>().read() };
    // SAFETY: its descriptors are its own: `clone` copied them.
    unsafe { libc::close(writer) };
    while matches!(rustix::io::read(borrow(reader), &mut [0]), Err(Errno::INTR)) {}
    exit_now(0)
}
