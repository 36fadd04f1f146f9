//! Whether the kernel can execute a file, told by its first bytes.
//!
//! The kernel has the last word and is asked last. It is not asked alone, because it does not say what
//! is wrong with a file.

use std::fs;
use std::io;
use std::path::Path;

/// What the kernel looks at.
pub(super) const HEAD_BYTES: usize = 256;

/// Formats that the administrator has added to the kernel, such as those of other machines.
const FORMATS: &str = "/proc/sys/fs/binfmt_misc";
/// Files there that are no formats.
const CONTROLS: [&str; 2] = ["register", "status"];

/// ELF identification and header, as in the System V ABI.
const ELF_MAGIC: &[u8] = b"\x7fELF";
const CLASS: usize = 4;
const CLASS_32: u8 = 1;
const CLASS_64: u8 = 2;
const BYTE_ORDER: usize = 5;
const NATIVE_ORDER: u8 = if cfg!(target_endian = "little") { 1 } else { 2 };
const TYPE: usize = 16;
const EXECUTABLE: u16 = 2;
const SHARED: u16 = 3;
const MACHINE: usize = 18;
/// Where class 32 and class 64 have the size of a program header and their number, and that size.
const PROGRAM_HEADERS_32: (usize, u16) = (42, 32);
const PROGRAM_HEADERS_64: (usize, u16) = (54, 56);

/// Machine and class that kernels of this architecture execute.
const MACHINES: &[(u16, u8)] = if cfg!(target_arch = "x86_64") {
    &[(62, CLASS_64), (62, CLASS_32), (3, CLASS_32)]
} else if cfg!(target_arch = "aarch64") {
    &[(183, CLASS_64), (40, CLASS_32)]
} else {
    &[]
};

/// Why a file that starts with `head` cannot be executed; `None` where it may.
pub(super) fn refusal(head: &[u8]) -> Option<&'static str> {
    let reason = if head.starts_with(b"#!") {
        None
    } else if head.starts_with(ELF_MAGIC) {
        elf_refusal(head)
    } else {
        Some("it is neither an ELF program nor a script that starts with `#!`")
    };
    reason.filter(|_| !registered(Path::new(FORMATS), head))
}

/// The path of the program that the kernel executes for a script which starts with `head`.
pub(super) fn interpreter(head: &[u8]) -> Option<&[u8]> {
    let line = head.strip_prefix(b"#!")?;
    let line = line.split(|byte| *byte == b'\n').next()?;
    let is_blank = |byte: &u8| [b' ', b'\t', 0].contains(byte);
    line.split(is_blank).find(|word| !word.is_empty())
}

fn elf_refusal(head: &[u8]) -> Option<&'static str> {
    const DAMAGED: Option<&str> = Some("it is damaged: its ELF header is not that of a program");
    let short = |at: usize| {
        let bytes = head.get(at..at + 2)?;
        Some(u16::from_ne_bytes([bytes[0], bytes[1]]))
    };
    let (headers, size) = match head.get(CLASS) {
        Some(&CLASS_32) => PROGRAM_HEADERS_32,
        Some(&CLASS_64) => PROGRAM_HEADERS_64,
        _ => return DAMAGED,
    };
    let foreign = || {
        let machine = short(MACHINE).unwrap_or_default();
        let known = MACHINES.contains(&(machine, head[CLASS])) || MACHINES.is_empty();
        head.get(BYTE_ORDER) != Some(&NATIVE_ORDER) || !known
    };
    if head.len() < headers + 4 {
        DAMAGED
    } else if foreign() {
        Some("it is made for another machine")
    } else if head[CLASS] == CLASS_32 {
        // The kernel would execute it, and the filter end it at its first call.
        Some("it is a 32-bit program, and a sandbox allows the system calls of 64-bit ones")
    } else if !matches!(short(TYPE), Some(EXECUTABLE | SHARED))
        || short(headers) != Some(size)
        || short(headers + 2) == Some(0)
    {
        DAMAGED
    } else {
        None
    }
}

/// Whether the kernel was taught a format that `head` has.
fn registered(formats: &Path, head: &[u8]) -> bool {
    let entries = match fs::read_dir(formats) {
        Ok(entries) => entries,
        // Most machines have none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
        Err(error) => {
            tracing::debug!(path = %formats.display(), %error, "cannot list executable formats");
            return false;
        }
    };
    entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            !CONTROLS
                .iter()
                .any(|control| path.ends_with(Path::new(control)))
        })
        .filter_map(|path| fs::read_to_string(path).ok())
        .any(|format| matches(&format, head))
}

/// Whether `head` has the format that a file of `binfmt_misc` describes: `offset`, `magic` and
/// `mask` in hexadecimal, as the kernel documents them.
fn matches(format: &str, head: &[u8]) -> bool {
    let value = |key: &str| {
        format
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
    };
    if !format.starts_with("enabled\n") {
        return false;
    }
    let Some(magic) = value("magic").and_then(bytes) else {
        return false;
    };
    let offset: usize = value("offset")
        .and_then(|offset| offset.parse().ok())
        .unwrap_or(0);
    let mask = value("mask").and_then(bytes).unwrap_or_default();
    let Some(found) = head.get(offset..).and_then(|rest| rest.get(..magic.len())) else {
        return false;
    };
    (0..magic.len()).all(|at| {
        let mask = mask.get(at).copied().unwrap_or(0xff);
        found[at] & mask == magic[at] & mask
    })
}

fn bytes(hexadecimal: &str) -> Option<Vec<u8>> {
    let digits = hexadecimal.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Vec<u8> {
        let own = std::env::current_exe().unwrap();
        fs::read(own).unwrap()[..HEAD_BYTES].to_vec()
    }

    fn changed(at: usize, byte: u8) -> Vec<u8> {
        let mut head = own();
        head[at] = byte;
        head
    }

    /// A program of this machine's own family with addresses of 32 bits.
    fn narrow() -> Vec<u8> {
        let mut head = changed(CLASS, CLASS_32);
        let (machine, _) = MACHINES
            .iter()
            .find(|(_, class)| *class == CLASS_32)
            .unwrap();
        head[MACHINE..MACHINE + 2].copy_from_slice(&machine.to_ne_bytes());
        let (headers, size) = PROGRAM_HEADERS_32;
        head[headers..headers + 2].copy_from_slice(&size.to_ne_bytes());
        head[headers + 2..headers + 4].copy_from_slice(&1u16.to_ne_bytes());
        head
    }

    #[test]
    fn programs_and_scripts_pass() {
        assert_eq!(refusal(&own()), None);
        assert_eq!(refusal(b"#!/bin/sh\n"), None);
    }

    #[test]
    fn everything_else_is_refused_with_the_reason() {
        let cases: [(&[u8], &str); 10] = [
            (b"", "neither"),
            (b"echo hello\n", "neither"),
            (b"\x7fELF", "damaged"),
            (b"\x7fELF\0\0\0", "damaged"),
            (&own()[..57], "damaged"),
            (&changed(CLASS, 9), "damaged"),
            (&changed(TYPE, 1), "damaged"),
            (&changed(MACHINE, 243), "another machine"),
            (&narrow(), "32-bit"),
            (&changed(BYTE_ORDER, 3 - NATIVE_ORDER), "another machine"),
        ];
        for (head, wanted) in cases {
            let reason = refusal(head).unwrap_or("none");
            assert!(reason.contains(wanted), "{reason}: {head:?}");
        }
    }

    #[test]
    fn the_interpreter_of_a_script_is_its_first_word() {
        for (head, wanted) in [
            (&b"#!/bin/sh\n"[..], Some(&b"/bin/sh"[..])),
            (b"#! \t/bin/sh -e x\n", Some(b"/bin/sh")),
            (b"#!/bin/sh", Some(b"/bin/sh")),
            (b"#!\n/bin/sh", None),
            (b"\x7fELF", None),
        ] {
            assert_eq!(interpreter(head), wanted);
        }
    }

    #[test]
    fn formats_that_the_kernel_was_taught_pass() {
        let formats = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(formats.path().join(name), text).unwrap();
        write("status", "enabled\nmagic 23\n");
        write("off", "disabled\ninterpreter /x\nmagic 6162\n");
        write(
            "on",
            "enabled\ninterpreter /x\nflags: F\noffset 1\nmagic 637f65\nmask ff00ff\n",
        );
        write("python", "enabled\ninterpreter /x\nextension .py\n");
        for (head, wanted) in [
            (b"xc?e.".as_slice(), true),
            (b"xc?f.", false),
            (b"xc", false),
            (b"ab", false),
            (b"#!", false),
        ] {
            assert_eq!(registered(formats.path(), head), wanted, "{head:?}");
        }
        assert!(!registered(&formats.path().join("none"), b"ab"));
    }
}
