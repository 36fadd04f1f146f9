//! Sizes as people write them.

use crate::decimal;

/// Units in lower case. One letter is a power of 1024, as `dd` and `docker` have it; with `b` it is a
/// power of 1000, and with `ib` of 1024, as the IEC has it.
const UNITS: [(&str, u64); 14] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
];

/// Reads `16GiB`, `1.5g`, `500MB`, `64K` or a number of bytes.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    read(text).ok_or_else(|| "give a number with a unit, such as 64KiB, 500MB or 1.5GiB".to_owned())
}

/// The same, for a limit of which zero would allow nothing at all.
pub(crate) fn parse_nonzero(text: &str) -> Result<u64, String> {
    match parse(text)? {
        0 => Err("it must be more than 0".to_owned()),
        bytes => Ok(bytes),
    }
}

fn read(text: &str) -> Option<u64> {
    let (number, suffix) = decimal::split(text);
    let suffix = suffix.trim_start().to_ascii_lowercase();
    let (_, unit) = UNITS.iter().find(|(known, _)| *known == suffix)?;
    let bytes = decimal::times(number, *unit)?;
    // Less than a byte is a mistake, unless it is nothing.
    let is_nothing = number.bytes().all(|digit| matches!(digit, b'0' | b'.'));
    let is_part_of_a_byte = *unit == 1 && number.contains('.');
    ((bytes > 0 || is_nothing) && !is_part_of_a_byte).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (text, bytes) in [
            ("0", 0),
            ("7", 7),
            ("7B", 7),
            ("64K", 65_536),
            ("64k", 65_536),
            ("512m", 512 << 20),
            ("512M", 512 << 20),
            ("2 MiB", 2 << 20),
            ("2mib", 2 << 20),
            ("3MB", 3_000_000),
            ("3mb", 3_000_000),
            ("1.5GiB", 3 << 29),
            ("0.5k", 512),
            ("0.0G", 0),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "K",
            "-1",
            "-1G",
            "+1",
            "1.5",
            "1.G",
            ".5G",
            "0.0001K",
            "1 X",
            "1KiBs",
            "1,5G",
            "99999999999T",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn zero_is_refused_where_it_allows_nothing() {
        for text in ["0", "0G", "0.0G"] {
            assert!(parse_nonzero(text).is_err(), "{text}");
        }
        assert_eq!(parse_nonzero("1"), Ok(1));
    }
}
