//! Which directory an entry goes to.
//!
//! Archives of systems with a merged `/usr` hold `lib -> usr/lib` and then `lib/x`. Such a path is
//! resolved as a process whose root directory is the tree resolves it: an absolute target starts at
//! the top of the tree, and `..` at the top stays there. The result is a path without links. Writers
//! open it with flags that refuse links, so that no mistake made here leads out of the tree.

use rustix::io::Errno;

use super::error::{ArchiveError, Refusal};
use super::path::EntryPath;
use crate::links::{MAX_LINKS, names_reversed};

/// The kind of entry at a path.
#[derive(Debug)]
pub(super) enum Standing {
    Nothing,
    Directory,
    /// A symbolic link with its target.
    Link(Vec<u8>),
    Other,
}

/// The tree that was unpacked so far.
pub(super) trait Tree {
    /// The kind of the entry at `path`, whose parents are directories.
    fn look(&self, path: &[u8]) -> Result<Standing, Errno>;
}

/// Why a path leads to no directory.
#[derive(Debug)]
pub(super) enum Stray {
    Refused(Refusal),
    Unreadable(Errno),
}

impl From<Refusal> for Stray {
    fn from(reason: Refusal) -> Stray {
        Stray::Refused(reason)
    }
}

impl Stray {
    /// The error of the entry `path`.
    pub(super) fn of(self, path: &EntryPath) -> ArchiveError {
        match self {
            Stray::Refused(reason) => path.refused(reason),
            Stray::Unreadable(errno) => path.unwritten(errno.into()),
        }
    }
}

/// The path without links to which `path` leads. Directories that are missing are part of it.
pub(super) fn follow(tree: &impl Tree, path: &[u8]) -> Result<EntryPath, Stray> {
    let mut ahead = names_reversed(path);
    let mut done: Vec<u8> = Vec::new();
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        let parent = done.len();
        if name == b".." {
            let slash = done.iter().rposition(|byte| *byte == b'/');
            done.truncate(slash.unwrap_or(0));
            continue;
        }
        if parent > 0 {
            done.push(b'/');
        }
        done.extend_from_slice(&name);
        // Checked before the kernel sees it: a target can make the path longer than it takes.
        EntryPath::parse(&done)?;
        match tree.look(&done).map_err(Stray::Unreadable)? {
            Standing::Directory | Standing::Nothing => {}
            Standing::Other => return Err(Refusal::ThroughFile.into()),
            Standing::Link(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Refusal::TooManyLinks.into());
                }
                done.truncate(if target.starts_with(b"/") { 0 } else { parent });
                ahead.extend(names_reversed(&target));
            }
        }
    }
    Ok(EntryPath::parse(&done)?)
}

/// The path without links of `target`, to which a hard link leads. A link in the last place is the target
/// itself.
pub(super) fn target(tree: &impl Tree, target: &[u8]) -> Result<EntryPath, Stray> {
    let target = EntryPath::parse(target).map_err(|_| Refusal::TargetOutside)?;
    let Some((parent, name)) = target.split() else {
        return Err(Refusal::DirectoryTarget.into());
    };
    match follow(tree, parent) {
        Ok(parent) => Ok(parent.join(name)?),
        Err(Stray::Refused(Refusal::ThroughFile)) => Err(Refusal::MissingTarget.into()),
        Err(stray) => Err(stray),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Links by path, directories, and files whose names start with `f`.
    struct Links(HashMap<&'static str, String>);

    impl Tree for Links {
        fn look(&self, path: &[u8]) -> Result<Standing, Errno> {
            let path = std::str::from_utf8(path).unwrap();
            Ok(match self.0.get(path) {
                Some(target) => Standing::Link(target.clone().into_bytes()),
                None if path.rsplit('/').next().unwrap().starts_with('f') => Standing::Other,
                None if path.ends_with("missing") => Standing::Nothing,
                None => Standing::Directory,
            })
        }
    }

    /// Links lead to their targets, and none leads out of the tree.
    #[test]
    fn links_are_followed_inside_the_tree() {
        let links = [
            ("lib", "usr/lib".to_owned()),
            ("absolute", "/usr/lib".to_owned()),
            ("usr/lib/up", "../share".to_owned()),
            ("out", "../../../etc".to_owned()),
            ("top", "/".to_owned()),
            ("loop", "loop".to_owned()),
            ("file", "f".to_owned()),
            ("dangling", "missing/x".to_owned()),
            ("long", "d/".repeat(2000)),
            ("deep", "d/".repeat(513)),
            ("name", "n".repeat(256)),
        ];
        let tree = Links(HashMap::from(links));
        let follow = |path: &str| match follow(&tree, path.as_bytes()) {
            Ok(path) => String::from_utf8(path.as_bytes().to_vec()).unwrap(),
            Err(Stray::Refused(reason)) => format!("{reason:?}"),
            Err(Stray::Unreadable(errno)) => panic!("{errno}"),
        };
        for (path, wanted) in [
            ("", ""),
            ("a/b", "a/b"),
            ("lib", "usr/lib"),
            ("lib/a", "usr/lib/a"),
            ("x/absolute", "x/absolute"),
            ("absolute/a", "usr/lib/a"),
            ("lib/up/a", "usr/share/a"),
            ("out/a", "etc/a"),
            ("top/lib/a", "usr/lib/a"),
            ("dangling/a", "missing/x/a"),
            ("loop", "TooManyLinks"),
            ("file", "ThroughFile"),
            ("f/a", "ThroughFile"),
            ("long", "TooDeep"),
            ("deep", "TooDeep"),
            ("name", "LongName"),
        ] {
            assert_eq!(follow(path), wanted, "{path}");
        }
    }
}
