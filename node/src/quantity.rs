//! Sizes and times in messages, in the units in which options take them.

use std::fmt;
use std::time::Duration;

/// Bytes: `512 MiB`, `1.5 GiB`; a value that no unit gives with two decimals stays `1000001 bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// Units of sizes, the largest first.
const SIZE_UNITS: [(&str, u64); 4] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths = |unit: u64| {
            let hundredths = u128::from(self.0) * 100;
            let unit = u128::from(unit);
            (hundredths % unit == 0).then_some(hundredths / unit)
        };
        let fitting = SIZE_UNITS
            .into_iter()
            .filter(|(_, unit)| self.0 >= *unit)
            .find_map(|(name, unit)| Some((name, hundredths(unit)?)));
        match fitting {
            Some((name, hundredths)) => write!(formatter, "{} {name}", Decimal(hundredths)),
            None if self.0 == 1 => formatter.write_str("1 byte"),
            None => write!(formatter, "{} bytes", self.0),
        }
    }
}

/// Bytes that were measured: as [`Size`], rounded to a tenth of the largest unit that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured(pub u64);

impl fmt::Display for Measured {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fitting = SIZE_UNITS.into_iter().find(|(_, unit)| self.0 >= *unit);
        match fitting {
            Some((name, unit)) => {
                let tenths = u128::from(self.0) * 10 / u128::from(unit);
                write!(formatter, "{} {name}", Decimal(tenths * 10))
            }
            None => Size(self.0).fmt(formatter),
        }
    }
}

/// Hundredths, without zeros at the end.
struct Decimal(u128);

impl fmt::Display for Decimal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 100, self.0 % 100);
        match part {
            0 => write!(formatter, "{whole}"),
            part if part % 10 == 0 => write!(formatter, "{whole}.{}", part / 10),
            part => write!(formatter, "{whole}.{part:02}"),
        }
    }
}

/// A time: `100 ms`, `1.5 s`, `1 h 30 m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

impl fmt::Display for Time {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        const DAY: u64 = 24 * HOUR;
        let (seconds, milliseconds) = (self.0.as_secs(), self.0.subsec_millis());
        if seconds == 0 && milliseconds > 0 {
            return write!(formatter, "{milliseconds} ms");
        }
        if seconds < MINUTE {
            return write!(formatter, "{} s", self.0.as_secs_f64());
        }
        let parts = [
            (seconds / DAY, "d"),
            (seconds % DAY / HOUR, "h"),
            (seconds % HOUR / MINUTE, "m"),
            (seconds % MINUTE, "s"),
        ];
        let mut space = "";
        for (count, unit) in parts.into_iter().filter(|(count, _)| *count > 0) {
            write!(formatter, "{space}{count} {unit}")?;
            space = " ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text, measured) in [
            (0, "0 bytes", "0 bytes"),
            (1, "1 byte", "1 byte"),
            (1023, "1023 bytes", "1023 bytes"),
            (1024, "1 KiB", "1 KiB"),
            (512 << 20, "512 MiB", "512 MiB"),
            (3 << 29, "1.5 GiB", "1.5 GiB"),
            (1_000_001, "1000001 bytes", "976.5 KiB"),
            ((1 << 30) - 1, "1073741823 bytes", "1023.9 MiB"),
            (5 << 40, "5 TiB", "5 TiB"),
            (u64::MAX, "18446744073709551615 bytes", "16777215.9 TiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
            assert_eq!(Measured(bytes).to_string(), measured);
        }
    }

    #[test]
    fn times() {
        for (milliseconds, text) in [
            (0, "0 s"),
            (100, "100 ms"),
            (1000, "1 s"),
            (1500, "1.5 s"),
            (90_000, "1 m 30 s"),
            (5_400_000, "1 h 30 m"),
            (86_400_000, "1 d"),
        ] {
            assert_eq!(Time(Duration::from_millis(milliseconds)).to_string(), text);
        }
    }
}
