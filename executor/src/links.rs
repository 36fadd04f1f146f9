//! Symbolic links of a tree, followed in the way of a process whose root directory is the tree: facts that
//! all such resolvers share.

/// Symbolic links that are followed on the way to one file: as many as the kernel follows.
pub(crate) const MAX_LINKS: usize = 40;

/// The names in a path, the last of them first: a stack of what is still to be looked up.
pub(crate) fn names_reversed(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/');
    let names = names.filter(|name| !name.is_empty() && *name != b".");
    names.rev().map(<[u8]>::to_vec).collect()
}
