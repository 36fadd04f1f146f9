//! Durations as people write them.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::decimal;

/// Units in milliseconds, the largest first.
const UNITS: [(&str, u64); 5] = [
    ("d", 24 * 3600 * 1000),
    ("h", 3600 * 1000),
    ("m", 60 * 1000),
    ("s", 1000),
    ("ms", 1),
];

/// Reads `500ms`, `90s`, `1h30m`, `1.5h`, `1d`, or a number of seconds.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || "give a number with a unit, such as 90s, 10m or 1h30m".to_owned();
    let text = text.trim_end();
    if let (number, "") = decimal::split(text) {
        let milliseconds = decimal::times(number, 1000).ok_or_else(wrong)?;
        return Ok(Duration::from_millis(milliseconds));
    }
    let (mut rest, mut units, mut total) = (text, &UNITS[..], 0_u64);
    while !rest.is_empty() {
        let (number, behind) = decimal::split(rest);
        let behind = behind.trim_start();
        let letters = behind.find(|letter: char| !letter.is_ascii_alphabetic());
        let (name, behind) = behind.split_at(letters.unwrap_or(behind.len()));
        if name == "M" {
            return Err("`M` is no unit of time: write `m` for minutes".to_owned());
        }
        // Each unit once, the larger one first.
        let index = units.iter().position(|(known, _)| *known == name);
        let index = index.ok_or_else(wrong)?;
        let part = decimal::times(number, units[index].1);
        total = part
            .and_then(|part| total.checked_add(part))
            .ok_or_else(wrong)?;
        units = &units[index + 1..];
        rest = behind.trim_start();
    }
    Ok(Duration::from_millis(total))
}

/// The same, where no time at all would be senseless.
pub(crate) fn parse_nonzero(text: &str) -> Result<Duration, String> {
    match parse(text)? {
        Duration::ZERO => Err("it must be more than 0".to_owned()),
        duration => Ok(duration),
    }
}

/// Reads a setting that is a number of seconds or a text with units.
pub(crate) fn setting<'de, D>(deserializer: D) -> Result<Option<Duration>, D::Error>
where
    D: Deserializer<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Setting {
        Seconds(u64),
        Text(String),
    }
    let text = match Setting::deserialize(deserializer) {
        Ok(Setting::Seconds(seconds)) => seconds.to_string(),
        Ok(Setting::Text(text)) => text,
        Err(_) => {
            let message = "give a number of seconds, or a text such as \"90s\"";
            return Err(de::Error::custom(message));
        }
    };
    parse_nonzero(&text).map(Some).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (text, milliseconds) in [
            ("0", 0),
            ("7", 7000),
            ("1.5", 1500),
            ("250ms", 250),
            ("90s", 90_000),
            ("10 m", 600_000),
            ("2h", 7_200_000),
            ("1h30m", 5_400_000),
            ("1h 30m 5s", 5_405_000),
            ("1.5h", 5_400_000),
            ("1d", 86_400_000),
            ("1s500ms", 1500),
        ] {
            assert_eq!(
                parse(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for text in [
            "",
            "s",
            "-1s",
            "1w",
            "1S",
            "30m1h",
            "3s3s",
            "1h30",
            "1h,30m",
            "99999999999999999d",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    /// Some programs read `10M` as ten months, and ours has `M` for mebibytes.
    #[test]
    fn an_upper_case_m_is_refused_with_the_unit_that_was_meant() {
        let error = parse("10M").unwrap_err();
        assert!(error.contains("`m` for minutes"), "{error}");
    }
}
