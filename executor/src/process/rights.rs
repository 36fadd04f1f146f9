//! Looking at what belongs to us, whatever its modes say.

use std::fs::File;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitOptions, getpid, waitpid};

use super::{Identity, check, die_with, exit_now, fork};

/// Has a child do `work` which may read all that is ours: in a user namespace with nobody else in it.
///
/// The child is a copy of this process with one thread. `work` may take memory, which the C library keeps
/// in order over `fork`, and must not take a lock that another thread may hold, nor print.
///
/// # Errors
/// Where there can be no user namespace, and those of `work`.
pub(crate) fn with_all_rights<const N: usize>(
    work: impl FnOnce() -> io::Result<[u64; N]>,
) -> io::Result<[u64; N]> {
    let identity = Identity::maps();
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let parent = getpid();
    let Some(child) = fork()? else {
        let work = AssertUnwindSafe(|| {
            die_with(parent)?;
            // SAFETY: the flag asks for a new user namespace; nothing that is shared changes.
            check(unsafe { libc::unshare(libc::CLONE_NEWUSER) }.into())?;
            identity.put_on()?;
            work()
        });
        // Whatever happens, no caller of ours is returned to.
        let written = match catch_unwind(work) {
            Ok(Ok(numbers)) => {
                let bytes: Vec<u8> = numbers.into_iter().flat_map(u64::to_ne_bytes).collect();
                rustix::io::write(&writer, &bytes) == Ok(bytes.len())
            }
            _ => false,
        };
        exit_now(i32::from(!written));
    };
    drop(writer);
    let mut bytes = Vec::new();
    let read = File::from(reader).read_to_end(&mut bytes);
    while matches!(
        waitpid(Some(child), WaitOptions::empty()),
        Err(rustix::io::Errno::INTR)
    ) {}
    read?;
    let mut numbers = bytes.chunks_exact(size_of::<u64>()).map(|chunk| {
        let chunk = chunk.try_into().expect("chunks have this size");
        u64::from_ne_bytes(chunk)
    });
    let mut result = [0; N];
    for number in &mut result {
        *number = numbers
            .next()
            .ok_or_else(|| io::Error::other("nothing can be seen with all rights here"))?;
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_closed_is_read() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("file"), "x").unwrap();
        let close = |mode| fs::set_permissions(place.path(), Permissions::from_mode(mode));
        close(0).unwrap();
        let count = || Ok([fs::read_dir(place.path())?.count() as u64]);
        let counted = with_all_rights(count);
        let plain = count();
        close(0o700).unwrap();
        assert_eq!(counted.unwrap(), [1]);
        assert_eq!(plain.is_ok(), rustix::process::geteuid().is_root());
    }

    #[test]
    fn what_fails_there_fails_here() {
        let fail = || -> io::Result<[u64; 1]> { Err(io::ErrorKind::Other.into()) };
        assert!(with_all_rights(fail).is_err());
    }
}
