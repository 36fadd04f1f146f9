//! Bytes that another process gets as a descriptor, and that are in no file system.

use std::fs::File;
use std::io::{self, Seek, Write};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

/// Holds a program that can be executed.
pub(super) fn hold_program(bytes: &[u8]) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC;
    // Before Linux 6.3 there was no need to say it.
    let file = match memfd_create(c"ipfs-exec", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create(c"ipfs-exec", flags)?,
        result => result?,
    };
    let mut file = File::from(file);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}
