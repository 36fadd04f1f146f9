//! Telling archives of container images from those of root file systems.
//!
//! `docker save` and the OCI layout put descriptions and the layers, which are archives themselves,
//! into one archive. Unpacked as a root file system such an archive has no program, and the error
//! would not say why.

use std::fmt;

/// The kind of an archive that holds the layers of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Image {
    /// What `docker save` and `podman save` write.
    Docker,
    /// A layout by the OCI image specification.
    Oci,
}

impl fmt::Display for Image {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Image::Docker => "an archive of `docker save`",
            Image::Oci => "an OCI image archive",
        })
    }
}

/// What was seen of the names in an archive.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks {
    has_oci_layout: bool,
    has_index: bool,
    has_manifest: bool,
    has_layers: bool,
    /// A directory that only a root file system has.
    has_programs: bool,
}

impl Marks {
    /// Looks at the path of one entry, without `.` and double slashes.
    pub(super) fn note(&mut self, path: &[u8]) {
        let mut names = path.split(|byte| *byte == b'/');
        let (first, second) = (names.next(), names.next());
        match (first.unwrap_or_default(), second) {
            (b"oci-layout", None) => self.has_oci_layout = true,
            (b"index.json", None) => self.has_index = true,
            (b"manifest.json", None) => self.has_manifest = true,
            (b"repositories", None) | (b"blobs", _) | (_, Some(b"layer.tar")) => {
                self.has_layers = true;
            }
            (b"sbin", _) => self.has_programs = true,
            (name, None) if name.ends_with(b".tar") => self.has_layers = true,
            _ => {}
        }
    }

    /// The image that the archive holds, if it holds one.
    pub(super) fn image(self) -> Option<Image> {
        if self.has_programs {
            None
        } else if self.has_manifest && self.has_layers {
            Some(Image::Docker)
        } else if self.has_oci_layout && self.has_index {
            Some(Image::Oci)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names in archives of Docker 20 and 27, podman, skopeo, and of root file systems that hold
    /// some of them.
    #[test]
    fn archives_of_images_are_told_by_their_names() {
        let cases: [(&[&str], Option<Image>); 7] = [
            (
                &[
                    "1f/VERSION",
                    "1f/json",
                    "1f/layer.tar",
                    "2e.json",
                    "manifest.json",
                    "repositories",
                ],
                Some(Image::Docker),
            ),
            (
                &[
                    "blobs",
                    "blobs/sha256/aa",
                    "index.json",
                    "manifest.json",
                    "oci-layout",
                ],
                Some(Image::Docker),
            ),
            (&["1f.tar", "2e.json", "manifest.json"], Some(Image::Docker)),
            (
                &["blobs/sha256/aa", "index.json", "oci-layout"],
                Some(Image::Oci),
            ),
            (&["sbin/init", "manifest.json", "data.tar"], None),
            (&["sbin", "blobs/x", "index.json", "oci-layout"], None),
            (&["app/layer.tar", "index.json", "bin/sh"], None),
        ];
        for (names, wanted) in cases {
            let mut marks = Marks::default();
            names.iter().for_each(|name| marks.note(name.as_bytes()));
            assert_eq!(marks.image(), wanted, "{names:?}");
        }
    }
}
