//! The least that a FUSE server can do: one file of zeros, `DIR/zeros`, until it is unmounted. What it
//! reaches is the limit of FUSE on a machine.
//!
//! `zero_mount DIR BYTES`

#![expect(clippy::unwrap_used, reason = "a helper of benchmarks")]
#![expect(clippy::print_stdout, reason = "it tells when it is ready")]

use std::ffi::OsStr;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, Request,
};

const VALID: Duration = Duration::from_secs(1 << 20);
const MAX_READ_BYTES: u32 = 1 << 20;

struct Zeros {
    size: u64,
    zeros: Vec<u8>,
}

impl Zeros {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let is_root = inode == INodeNo::ROOT;
        FileAttr {
            ino: inode,
            size: if is_root { 0 } else { self.size },
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_root {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: 0o555,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Zeros {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        config.set_max_write(MAX_READ_BYTES).unwrap();
        config
            .add_capabilities(InitFlags::FUSE_NO_OPEN_SUPPORT)
            .ok();
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "zeros" {
            reply.entry(&VALID, &self.attributes(INodeNo(2)), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&VALID, &self.attributes(inode));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = self.size.saturating_sub(offset).min(u64::from(size));
        reply.data(&self.zeros[..left as usize]);
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let zeros = Zeros {
        size: arguments[2].parse().unwrap(),
        zeros: vec![0; MAX_READ_BYTES as usize],
    };
    let mut config = Config::default();
    config.mount_options = vec![MountOption::RO, MountOption::FSName("zeros".to_owned())];
    config.n_threads = Some(2);
    let session = fuser::Session::new(zeros, &arguments[1], &config).unwrap();
    println!("ready");
    session.run().unwrap();
}
