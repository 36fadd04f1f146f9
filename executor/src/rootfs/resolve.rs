//! Following a path as a process will whose root directory is a tree, before the sandbox is there.
//!
//! A tree is on disk or a DAG. The sandbox later mounts the kernel's files at `/proc` and `/dev`, and other
//! directories at `/input`, `/output` and `/tmp`. They hide the entries of the tree at these places.

use super::program::interpreter;
use crate::layout::MOUNT_POINTS;
use crate::links::{MAX_LINKS, names_reversed};

/// Scripts whose interpreter is a script again: one more than the kernel executes.
const MAX_SCRIPTS: usize = 6;

/// Where the kernel shows its own files, among them the program that is running.
const KERNEL_FILES: [&str; 2] = ["proc", "dev"];

/// A tree that can be asked for one entry at a time.
pub(super) trait Tree {
    type Node;
    type Error;

    /// Its root directory.
    fn root(&self) -> Result<Self::Node, Self::Error>;

    /// The entry `name` of a node, which need not be a directory. No link is followed.
    fn entry(&self, node: &Self::Node, name: &[u8]) -> Result<Step<Self::Node>, Self::Error>;

    /// The first bytes of a file; none where it has none to read.
    fn head(&self, node: &Self::Node) -> Result<Vec<u8>, Self::Error>;
}

/// One entry.
pub(super) enum Step<N> {
    Node(N),
    /// With its target.
    Link(Vec<u8>),
    Nothing,
}

/// The end of a path.
pub(super) enum Found<N> {
    Node(N),
    Nothing,
    /// Links lead out of the tree, or to a mount point of the sandbox.
    Dangling,
    Loop,
    /// It is a file of the kernel's.
    Kernel,
}

/// A directory on the way.
enum Place<N> {
    Node(N),
    /// A mount point of the sandbox.
    Mounted {
        is_kernel: bool,
    },
}

/// Looks `path` up. The tree may be read for it.
pub(super) fn find<T: Tree>(tree: &T, path: &[u8]) -> Result<Found<T::Node>, T::Error> {
    Ok(follow(tree, path)?.found)
}

/// The name that the file at `path` has in the end, where that is another because `path` is a link.
pub(super) fn linked_name<T: Tree>(tree: &T, path: &[u8]) -> Result<Option<Vec<u8>>, T::Error> {
    let own = names_reversed(path).into_iter().next();
    let Followed { found, name } = follow(tree, path)?;
    let is_other = matches!(found, Found::Node(_)) && name != own;
    Ok(name.filter(|_| is_other))
}

/// The end of a path, and the last name that was looked up.
struct Followed<N> {
    found: Found<N>,
    name: Option<Vec<u8>>,
}

/// Looks `path` up.
fn follow<T: Tree>(tree: &T, path: &[u8]) -> Result<Followed<T::Node>, T::Error> {
    let mut name = None;
    let found = walk(tree, path, &mut name)?;
    Ok(Followed { found, name })
}

/// Looks `path` up, and notes each name that it passes.
fn walk<T: Tree>(
    tree: &T,
    path: &[u8],
    last: &mut Option<Vec<u8>>,
) -> Result<Found<T::Node>, T::Error> {
    let mut ahead = names_reversed(path);
    let mut behind = vec![Place::Node(tree.root()?)];
    let (mut links, mut is_linked) = (0, false);
    while let Some(name) = ahead.pop() {
        if name == b".." {
            if behind.len() > 1 {
                behind.pop();
            }
            continue;
        }
        if behind.len() == 1
            && let Some(mounted) = mounted_at(&name)
        {
            behind.push(mounted);
            continue;
        }
        let step = match behind.last() {
            Some(Place::Node(node)) => tree.entry(node, &name)?,
            Some(Place::Mounted { is_kernel: true }) => return Ok(Found::Kernel),
            Some(Place::Mounted { is_kernel: false }) | None => return Ok(Found::Dangling),
        };
        match step {
            Step::Node(node) => {
                behind.push(Place::Node(node));
                *last = Some(name);
            }
            Step::Nothing if is_linked => return Ok(Found::Dangling),
            Step::Nothing => return Ok(Found::Nothing),
            Step::Link(target) => {
                links += 1;
                is_linked = true;
                if links > MAX_LINKS {
                    return Ok(Found::Loop);
                }
                if target.starts_with(b"/") {
                    behind.truncate(1);
                }
                ahead.extend(names_reversed(&target));
            }
        }
    }
    Ok(match behind.pop() {
        Some(Place::Node(node)) => Found::Node(node),
        Some(Place::Mounted { is_kernel: true }) => Found::Kernel,
        Some(Place::Mounted { is_kernel: false }) => Found::Dangling,
        None => Found::Nothing,
    })
}

/// Whether the kernel would execute a file of its own for `path`: the path leads there, or the interpreter
/// of a script does. Such a file is the program that is running, or a descriptor of it.
pub(super) fn is_kernel_file<T: Tree>(tree: &T, path: &[u8]) -> Result<bool, T::Error> {
    let mut path = path.to_vec();
    for _ in 0..MAX_SCRIPTS {
        match find(tree, &path)? {
            Found::Kernel => return Ok(true),
            Found::Node(node) => match interpreter(&tree.head(&node)?) {
                Some(interpreter) => path = interpreter.to_vec(),
                None => return Ok(false),
            },
            Found::Nothing | Found::Dangling | Found::Loop => return Ok(false),
        }
    }
    Ok(false)
}

fn mounted_at<N>(name: &[u8]) -> Option<Place<N>> {
    let mut points = MOUNT_POINTS.iter();
    let point = points.find(|point| point.as_bytes() == name)?;
    Some(Place::Mounted {
        is_kernel: KERNEL_FILES.contains(point),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::convert::Infallible;

    /// By path: the target of a link, or the content of a file.
    struct Fake(HashMap<&'static str, &'static str>);

    impl Tree for Fake {
        type Node = String;
        type Error = Infallible;

        fn root(&self) -> Result<String, Infallible> {
            Ok(String::new())
        }

        fn entry(&self, node: &String, name: &[u8]) -> Result<Step<String>, Infallible> {
            let path = format!("{node}/{}", String::from_utf8_lossy(name));
            let below = format!("{path}/");
            Ok(match self.0.get(&*path) {
                Some(content) => match content.strip_prefix("-> ") {
                    Some(target) => Step::Link(target.into()),
                    None => Step::Node(path),
                },
                None if self.0.keys().any(|path| path.starts_with(&below)) => Step::Node(path),
                None => Step::Nothing,
            })
        }

        fn head(&self, node: &String) -> Result<Vec<u8>, Infallible> {
            Ok(self
                .0
                .get(&**node)
                .map_or_else(Vec::new, |text| text.as_bytes().to_vec()))
        }
    }

    #[test]
    fn files_of_the_kernel_are_recognised() {
        let tree = Fake(HashMap::from([
            ("/bin/sh", "\x7fELF"),
            ("/bin/script", "#! /bin/self -x\n"),
            ("/bin/self", "-> ../usr/self"),
            ("/usr/self", "-> /proc/self/exe"),
            ("/bin/out", "-> /proc/../bin/sh"),
            ("/bin/input", "-> /input/x"),
            ("/bin/gone", "-> /nothing"),
            ("/bin/loop", "-> loop"),
            ("/bin/recursive", "#!/bin/recursive\n"),
            ("/bin/descriptor", "-> /dev/fd/3"),
            ("/proc/self/exe", "hidden"),
        ]));
        for (path, wanted) in [
            ("bin/sh", false),
            ("bin/script", true),
            ("bin/self", true),
            ("bin/descriptor", true),
            ("proc/1/exe", true),
            ("proc", true),
            ("bin/out", false),
            ("bin/input", false),
            ("bin/gone", false),
            ("bin/loop", false),
            ("bin/recursive", false),
        ] {
            assert_eq!(is_kernel_file(&tree, path.as_bytes()), Ok(wanted), "{path}");
        }
        let name = |path: &str| linked_name(&tree, path.as_bytes());
        assert_eq!(name("bin/sh"), Ok(None));
        assert_eq!(name("bin/out"), Ok(Some(b"sh".to_vec())));
        assert_eq!(name("bin/gone"), Ok(None));
        let find = |path: &str| find(&tree, path.as_bytes());
        assert!(matches!(find("bin/out"), Ok(Found::Node(_))));
        assert!(matches!(find("bin/input"), Ok(Found::Dangling)));
        assert!(matches!(find("bin/gone"), Ok(Found::Dangling)));
        assert!(matches!(find("bin/none"), Ok(Found::Nothing)));
        assert!(matches!(find("bin/loop"), Ok(Found::Loop)));
    }
}
