//! Taking away a mount that another process serves.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::MountError;
use super::device::SOURCE;

/// The program by which an ordinary user unmounts.
const HELPER: &str = "fusermount3";

/// Takes away what `ipfs-exec mount` mounted at `directory`; the process that serves it ends. `is_lazy` does
/// so while it is in use: open files can be read on.
///
/// # Errors
/// [`MountError::NotMounted`], [`MountError::Unmount`].
pub fn unmount(directory: &Path, is_lazy: bool) -> Result<(), MountError> {
    let failed = |source| MountError::Unmount {
        path: directory.to_owned(),
        source,
    };
    let place = place(directory).map_err(failed)?;
    let mounts = fs::read("/proc/self/mountinfo").map_err(failed)?;
    if !is_mounted(&mounts, &place) {
        let path = directory.to_owned();
        return Err(MountError::NotMounted { path });
    }
    let lazy = match is_lazy {
        true => UnmountFlags::DETACH,
        false => UnmountFlags::empty(),
    };
    match rustix::mount::unmount(&place, lazy | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => with_helper(&place, is_lazy).map_err(failed),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// The place as the kernel lists it. What stands there may not answer.
fn place(directory: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(directory)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => Ok(absolute),
    }
}

/// Whether the last mount at `place` in a `mountinfo` of proc(5) is one of ours.
fn is_mounted(mounts: &[u8], place: &Path) -> bool {
    let mut kinds = mounts.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let point = unescaped(fields.nth(4)?);
        let mut kind = fields.skip_while(|field| *field != b"-").skip(1);
        let (kind, source) = (kind.next()?, kind.next()?);
        // Root mounts without a subtype.
        let is_ours = kind.starts_with(b"fuse") && source == SOURCE.as_bytes();
        (point == place).then_some(is_ours)
    });
    kinds.next_back() == Some(true)
}

/// A path in which blanks and such are octal numbers.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let number = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let number = number.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match number {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

fn with_helper(place: &Path, is_lazy: bool) -> io::Result<()> {
    let mut command = Command::new(HELPER);
    command.arg("-u");
    if is_lazy {
        command.arg("-z");
    }
    let output = command.arg("--").arg(place).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(said.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_their_place() {
        let mounts = b"22 1 0:20 / / rw - ext4 /dev/x rw\n\
            30 22 0:40 / /a\\040b ro,nosuid shared:3 master:1 - fuse.ipfs ipfs-exec ro\n\
            31 22 0:41 / /mnt ro - fuse.ipfs ipfs-exec ro\n\
            32 31 0:42 / /mnt rw - tmpfs tmpfs rw\n\
            33 22 0:43 / /root ro - fuse ipfs-exec ro\n\
            34 22 0:44 / /other ro - fuse.sshfs host:/ ro\n";
        for (place, wanted) in [
            ("/a b", true),
            ("/a\\040b", false),
            ("/", false),
            ("/mnt", false),
            ("/root", true),
            ("/other", false),
            ("/none", false),
        ] {
            assert_eq!(is_mounted(mounts, Path::new(place)), wanted, "{place}");
        }
    }
}
