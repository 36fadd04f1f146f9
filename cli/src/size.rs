//! Sizes as people write them.

/// Units, largest suffix first where one ends another.
const UNITS: [(&str, u64); 12] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
];

/// Reads `16GiB`, `500MB`, `64K` or a number of bytes.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let (digits, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
        .unwrap_or((text, 1));
    let number = digits.trim_end().parse::<u64>().ok();
    number
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| "give a number with a unit, such as 64KiB, 500MB or 16GiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn units() {
        for (text, bytes) in [
            ("0", 0),
            ("7", 7),
            ("64K", 65_536),
            ("2 MiB", 2 << 20),
            ("3MB", 3_000_000),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "K", "-1", "1.5G", "1 X", "99999999999T"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
