//! Observers of a mounted DAG: they learn every access, so that a caller can list the dependencies of a job.

use std::ops::Range;

use ipfs_exec_node::Cid;

/// Learns of every access that the kernel makes on behalf of programs. What it answers by itself
/// later, from what it was told before, is not told again.
pub trait Observer: Send + Sync {
    /// Called before the answer is given. May be called from many threads at once.
    fn accessed(&self, access: &Access<'_>);
}

/// Nobody who wants to know.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn accessed(&self, _: &Access<'_>) {}
}

/// One access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access<'a> {
    /// What was accessed, below the top; empty for the top itself. Names separated by `/`.
    pub path: &'a [u8],
    /// What stands there, if anything does.
    pub cid: Option<Cid>,
    /// What was learnt of it.
    pub what: Learnt,
    /// The blocks that hold what was learnt, and those on the way to them from the directory or
    /// file that was asked.
    pub blocks: &'a [Cid],
}

/// What a program may have learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Learnt {
    /// That there is no such name.
    Absence,
    /// That the name is there, with its type, size, mode and time.
    Attributes,
    /// All names of a directory.
    Names,
    /// The target of a symbolic link.
    Target,
    /// The CID itself.
    Cid,
    /// Bytes of a file.
    Content(Range<u64>),
}
