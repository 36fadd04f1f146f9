//! Sets of signals in `/proc/PID/status`, as proc(5) has them.

use rustix::process::Signal;

/// The sets with these names, such as `SigCgt`, one bit for each signal. A set that is missing is left out.
pub(crate) fn signal_sets<const N: usize>(
    status: &str,
    names: [&'static str; N],
) -> impl Iterator<Item = u64> {
    names.into_iter().filter_map(move |name| {
        let mut lines = status.lines();
        let set = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        u64::from_str_radix(set.trim(), 16).ok()
    })
}

/// The bit of a signal in such a set.
pub(crate) const fn signal_bit(signal: Signal) -> u64 {
    1 << (signal.as_raw() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_found_by_their_names() {
        let status = "Name:\tx\nSigBlk:\t0000000000000002\nSigIgn:\tnonsense\nSigCgt:\t10002\n";
        let sets: Vec<_> = signal_sets(status, ["SigCgt", "SigIgn", "SigBlk", "SigPnd"]).collect();
        assert_eq!(sets, [0x10002, 2]);
        assert_eq!(sets[1], signal_bit(Signal::INT));
    }
}
