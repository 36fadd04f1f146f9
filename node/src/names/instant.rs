//! Times in records: RFC 3339 text with nanoseconds.

use std::time::SystemTime;

use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

/// Reads a time; `None` where it is none, or the year is not within 0 to 9999.
pub(super) fn parse(text: &[u8]) -> Option<SystemTime> {
    let text = std::str::from_utf8(text).ok()?;
    let read = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(read.to_offset(UtcOffset::UTC).into())
}

/// Writes a time; `None` where the year is not within 0 to 9999.
pub(super) fn format(time: SystemTime) -> Option<String> {
    const MAX_SECOND: u64 = 253_402_300_799;
    let second = time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    if second > MAX_SECOND {
        return None;
    }
    OffsetDateTime::from(time).format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_round_trip() {
        for text in [
            "2123-05-26T09:03:57.123456789Z",
            "2023-05-26T09:03:57Z",
            "9999-12-31T23:59:59.999999999Z",
            "1970-01-01T00:00:00.5Z",
        ] {
            let time = parse(text.as_bytes()).unwrap();
            assert_eq!(format(time).as_deref(), Some(text));
        }
        let shifted = parse(b"2023-05-26T11:03:57+02:00").unwrap();
        assert_eq!(format(shifted).unwrap(), "2023-05-26T09:03:57Z");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "tomorrow",
            "2023-05-26",
            "2023-13-26T09:03:57Z",
            "\u{0}",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        let late = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800);
        assert_eq!(format(late), None);
    }
}
