//! Extended headers of the PAX format.
//!
//! Records are `LENGTH KEY=VALUE\n`, LENGTH counting the whole record. Unknown keys are ignored,
//! as the standard asks; a known key that stands twice is refused, because readers differ in which
//! one they take.

use rustix::fs::Timespec;

use super::record::{decimal, set};
use super::sparse::SparseRecords;

/// What an extended header says of the entries that follow.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) mtime: Option<Timespec>,
    pub(super) sparse: SparseRecords,
}

impl Records {
    /// Parses the content of an extended header.
    pub(super) fn parse(mut data: &[u8]) -> Result<Records, &'static str> {
        let mut records = Records::default();
        while !data.is_empty() {
            let (key, value, rest) = record(data).ok_or("a PAX record is malformed")?;
            records.add(key, value)?;
            data = rest;
        }
        Ok(records)
    }

    /// Whether it names or measures one entry, and so cannot hold for all that follow.
    pub(super) fn describes_one_entry(&self) -> bool {
        self.path.is_some()
            || self.link.is_some()
            || self.size.is_some()
            || self.sparse != SparseRecords::default()
    }

    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        match key {
            b"path" => set(&mut self.path, value.to_owned()),
            b"linkpath" => set(&mut self.link, value.to_owned()),
            b"size" => set(
                &mut self.size,
                decimal(value).ok_or("a PAX size is no number")?,
            ),
            b"mtime" => set(
                &mut self.mtime,
                time(value).ok_or("a PAX mtime is no number")?,
            ),
            _ => match key.strip_prefix(b"GNU.sparse.") {
                Some(key) => self.sparse.add(key, value),
                None => Ok(()),
            },
        }
    }
}

/// Splits the first record off: key, value, rest.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&data[..space])?).ok()?;
    let (record, rest) = data.split_at_checked(length)?;
    let text = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    Some((&text[..equals], &text[equals + 1..], rest))
}

/// Parses seconds since 1970 with an optional sign and fraction, of which nanoseconds are kept.
fn time(text: &[u8]) -> Option<Timespec> {
    const NANOSECONDS: i64 = 1_000_000_000;
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let nanoseconds = parts.next().map_or(Some(0), fraction)?;
    Some(match (negative, nanoseconds) {
        (false, _) => Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds,
        },
        (true, 0) => Timespec {
            tv_sec: -seconds,
            tv_nsec: 0,
        },
        (true, _) => Timespec {
            tv_sec: -seconds - 1,
            tv_nsec: NANOSECONDS - nanoseconds,
        },
    })
}

/// The nanoseconds of the digits after a decimal point.
fn fraction(digits: &[u8]) -> Option<i64> {
    const KEPT: usize = 9;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let kept = digits
        .iter()
        .copied()
        .chain(std::iter::repeat(b'0'))
        .take(KEPT);
    Some(kept.fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_may_hold_anything_but_a_wrong_length() {
        let records = Records::parse(b"12 path=a\nb\n21 mtime=-1.25000000\n").unwrap();
        assert_eq!(records.path.unwrap(), b"a\nb");
        let mtime = records.mtime.unwrap();
        assert_eq!((mtime.tv_sec, mtime.tv_nsec), (-2, 750_000_000));
    }

    #[test]
    fn malformed_records() {
        for data in [
            &b"x"[..],
            b"8 path=a\n",
            b"11 path=a\n",
            b"99999999999999999999 path=a\n",
            b"0 path=a\n",
            b"10 path-aa\n",
            b"9 size=x\n",
            b"9 size=+\n",
            b"10 size=-1\n",
            b"9 size=1\n9 size=2\n",
            b"11 mtime=\n\n",
        ] {
            assert!(Records::parse(data).is_err(), "{}", data.escape_ascii());
        }
    }
}
