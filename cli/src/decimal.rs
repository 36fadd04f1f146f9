//! Numbers with a fraction, in exact arithmetic.

/// Splits off the digits and the decimal point that `text` begins with.
pub(crate) fn split(text: &str) -> (&str, &str) {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
    text.split_at(end.unwrap_or(text.len()))
}

/// `number` times `unit`, rounded down; `None` if it is no number or does not fit.
pub(crate) fn times(number: &str, unit: u64) -> Option<u64> {
    /// More digits cannot change the result.
    const MAX_FRACTION_DIGITS: usize = 18;
    let (whole, fraction) = match number.split_once('.') {
        Some((_, "")) => return None,
        Some((whole, fraction)) => (whole, fraction),
        None => (number, ""),
    };
    let is_number = [whole, fraction]
        .iter()
        .all(|part| part.bytes().all(|digit| digit.is_ascii_digit()));
    if !is_number || fraction.len() > MAX_FRACTION_DIGITS {
        return None;
    }
    let scale = 10_u128.pow(fraction.len() as u32);
    let parts = if fraction.is_empty() {
        0
    } else {
        fraction.parse::<u128>().ok()? * u128::from(unit) / scale
    };
    let total = u128::from(whole.parse::<u64>().ok()?) * u128::from(unit) + parts;
    u64::try_from(total).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_exact() {
        for (number, unit, product) in [
            ("0", 7, Some(0)),
            ("1.5", 1 << 30, Some(3 << 29)),
            ("0.1", 1 << 30, Some(107_374_182)),
            ("18446744073709551615", 1, Some(u64::MAX)),
            ("18446744073709551615", 2, None),
            ("17592186044415.999999999999999999", 1 << 20, Some(u64::MAX)),
            ("1.", 10, None),
            (".5", 10, None),
            ("1.2.3", 10, None),
            ("1.0000000000000000000", 10, None),
            ("+1", 10, None),
            ("", 10, None),
        ] {
            assert_eq!(times(number, unit), product, "{number} times {unit}");
        }
    }
}
