//! Root file systems as archives, honest and hostile.

use std::fs;
use std::io::Write;
use std::path::Path;

use tar::{EntryType, Header};

use crate::requirement;

/// Where `/sbin/init` of the busybox images comes from: it calls busybox with its arguments.
const INIT: &str = "#!/bin/busybox sh\nexec /bin/busybox \"$@\"\n";

/// A tar archive under construction. Names are written as they are given, whatever they lead to.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    name: String,
    target: String,
    kind: EntryType,
    mode: u32,
    content: Vec<u8>,
}

impl Archive {
    /// No entries.
    pub fn new() -> Archive {
        Archive::default()
    }

    /// A static busybox, a few links to it, and an init that calls it with its arguments.
    ///
    /// # Panics
    /// If no busybox is installed.
    pub fn busybox() -> Archive {
        let mut archive = Archive::busybox_without_init();
        archive = archive
            .directory("sbin", 0o755)
            .file("sbin/init", 0o755, INIT);
        archive
    }

    /// A busybox image whose `/sbin/init` is this shell script.
    ///
    /// # Panics
    /// If no busybox is installed.
    pub fn script(script: &str) -> Archive {
        let init = format!("#!/bin/busybox sh\n{script}\n");
        Archive::busybox_without_init()
            .directory("sbin", 0o755)
            .file("sbin/init", 0o755, init)
    }

    /// A busybox image in which nothing can be started.
    ///
    /// # Panics
    /// If no busybox is installed.
    pub fn busybox_without_init() -> Archive {
        const APPLETS: &str = "cat chmod dd echo env expr false find grep hostname head id ip kill ln ls mkdir \
             mkfifo mknod mount mv printf ps pwd readlink rm sh sleep sort stat tail test touch tr \
             true umask unshare wc";
        let busybox = fs::read(requirement::busybox()).expect("busybox is readable");
        let mut archive =
            Archive::new()
                .directory("bin", 0o755)
                .file("bin/busybox", 0o755, busybox);
        for applet in APPLETS.split_whitespace() {
            archive = archive.symlink(&format!("bin/{applet}"), "busybox");
        }
        archive
    }

    /// Adds a file.
    #[must_use]
    pub fn file(self, name: &str, mode: u32, content: impl Into<Vec<u8>>) -> Archive {
        self.entry(name, "", EntryType::Regular, mode, content.into())
    }

    /// Adds a directory.
    #[must_use]
    pub fn directory(self, name: &str, mode: u32) -> Archive {
        self.entry(
            &format!("{name}/"),
            "",
            EntryType::Directory,
            mode,
            Vec::new(),
        )
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Archive {
        self.entry(name, target, EntryType::Symlink, 0o777, Vec::new())
    }

    /// Adds another name for the file `target` of this archive.
    #[must_use]
    pub fn hard_link(self, name: &str, target: &str) -> Archive {
        self.entry(name, target, EntryType::Link, 0o644, Vec::new())
    }

    /// Adds an entry without content, such as a device.
    #[must_use]
    pub fn special(self, name: &str, kind: EntryType) -> Archive {
        self.entry(name, "", kind, 0o666, Vec::new())
    }

    /// Adds an entry in front of all others.
    #[must_use]
    pub fn first(mut self, entry: impl FnOnce(Archive) -> Archive) -> Archive {
        let mut entries = entry(Archive::new()).entries;
        entries.append(&mut self.entries);
        Archive { entries }
    }

    fn entry(
        mut self,
        name: &str,
        target: &str,
        kind: EntryType,
        mode: u32,
        content: Vec<u8>,
    ) -> Archive {
        let (name, target) = (name.to_owned(), target.to_owned());
        self.entries.push(Entry {
            name,
            target,
            kind,
            mode,
            content,
        });
        self
    }

    /// The archive.
    pub fn tar(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for entry in &self.entries {
            entry.append(&mut builder);
        }
        builder.into_inner().expect("writing to memory cannot fail")
    }

    /// The archive, compressed by gzip.
    pub fn gzip(&self) -> Vec<u8> {
        gzip(&self.tar())
    }

    /// Writes the plain archive to a file and returns its path.
    ///
    /// # Panics
    /// If that fails.
    pub fn write(&self, path: &Path) {
        fs::write(path, self.tar()).expect("cannot write an archive");
    }
}

impl Entry {
    /// Sets the fields of the header directly: the library would refuse hostile names, or shorten
    /// them. What does not fit goes into a PAX header.
    fn append(&self, builder: &mut tar::Builder<Vec<u8>>) {
        let long = [("path", &self.name), ("linkpath", &self.target)];
        let long: Vec<(&str, &[u8])> = long
            .iter()
            .filter(|(_, value)| value.len() > 100)
            .map(|(key, value)| (*key, value.as_bytes()))
            .collect();
        if !long.is_empty() {
            builder
                .append_pax_extensions(long)
                .expect("writing to memory cannot fail");
        }
        let mut header = Header::new_ustar();
        put(&mut header.as_old_mut().name, self.name.as_bytes());
        put(&mut header.as_old_mut().linkname, self.target.as_bytes());
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        header.set_size(self.content.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_device_major(1).expect("the header is ustar");
        header.set_device_minor(3).expect("the header is ustar");
        header.set_cksum();
        builder
            .append(&header, &*self.content)
            .expect("writing to memory cannot fail");
    }
}

fn put(field: &mut [u8; 100], bytes: &[u8]) {
    let length = bytes.len().min(field.len());
    field[..length].copy_from_slice(&bytes[..length]);
}

/// `bytes` as a gzip member.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder
        .write_all(bytes)
        .expect("writing to memory cannot fail");
    encoder.finish().expect("writing to memory cannot fail")
}

/// `bytes` as a zstd frame.
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("writing to memory cannot fail")
}

/// `bytes` as an xz stream.
pub fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
    encoder
        .write_all(bytes)
        .expect("writing to memory cannot fail");
    encoder.finish().expect("writing to memory cannot fail")
}

/// `bytes` as a bzip2 stream.
pub fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder
        .write_all(bytes)
        .expect("writing to memory cannot fail");
    encoder.finish().expect("writing to memory cannot fail")
}

/// An archive of one file `sbin/init` that says it holds `declared_bytes` zeros, and does, but is
/// small itself: the zeros are one compressed member over and over.
pub fn bomb(declared_bytes: u64, compress: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    const MEMBER_BYTES: u64 = 64 << 20;
    let mut header = Header::new_ustar();
    header.set_path("sbin/init").expect("the name is short");
    header.set_size(declared_bytes);
    header.set_mode(0o755);
    header.set_entry_type(EntryType::Regular);
    header.set_cksum();
    let mut archive = compress(header.as_bytes());
    let member = compress(&vec![0; usize::try_from(MEMBER_BYTES).expect("64 MiB fit")]);
    for _ in 0..declared_bytes.div_ceil(MEMBER_BYTES) {
        archive.extend_from_slice(&member);
    }
    archive
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn names_are_written_as_given() {
        let long = format!("../{}", "n".repeat(200));
        let archive = Archive::new()
            .file("../escape", 0o644, "x")
            .symlink(&long, "/etc");
        let bytes = archive.tar();
        let mut reader = tar::Archive::new(&*bytes);
        let names: Vec<Vec<u8>> = reader
            .entries()
            .expect("an archive")
            .map(|entry| entry.expect("an entry").path_bytes().into_owned())
            .collect();
        assert_eq!(names, [b"../escape".to_vec(), long.into_bytes()]);
    }

    #[test]
    fn a_bomb_is_as_large_as_it_says() {
        let bytes = bomb(200 << 20, gzip);
        assert!(bytes.len() < 4 << 20);
        let mut size = 0;
        let mut reader = flate2::read::MultiGzDecoder::new(&*bytes);
        let mut buffer = vec![0; 1 << 20];
        while let count @ 1.. = reader.read(&mut buffer).expect("gzip") {
            size += count;
        }
        assert!(size >= 200 << 20);
    }
}
