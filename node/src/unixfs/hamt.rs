//! HAMT directories: a trie of blocks, indexed by the hash of the entry's name.
//!
//! A shard of fanout F has up to F links; the position of a link is log2(F) bits of the hash, the
//! high bits first. A link's name starts with its position in hexadecimal; what follows is the
//! entry's name, and nothing follows where the link leads to a further shard.

use super::data::{Data, InvalidData, MURMUR3_X64_64};
use crate::limits;

/// Bits of the hash of a name.
const HASH_BITS: u32 = 64;

/// The hash of a name: the first half of 128-bit MurmurHash3 for x64, with seed 0.
pub(super) fn hash_name(name: &[u8]) -> u64 {
    let mut name = name;
    murmur3::murmur3_x64_128(&mut name, 0).expect("reading from memory cannot fail") as u64
}

/// What the data of a shard tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ShardShape {
    fanout: u64,
}

impl ShardShape {
    pub(super) fn of(data: &Data<'_>, links: usize) -> Result<ShardShape, InvalidData> {
        let fanout = data
            .fanout
            .ok_or(InvalidData("it is a HAMT shard without a fanout"))?;
        if !fanout.is_power_of_two() || !limits::HAMT_FANOUT.contains(&fanout) {
            return Err(InvalidData(
                "its HAMT fanout is not a power of two from 8 to 1024",
            ));
        }
        if data.hash_type != Some(MURMUR3_X64_64) {
            return Err(InvalidData("its HAMT hash is not murmur3"));
        }
        let ones: u32 = data
            .data
            .unwrap_or_default()
            .iter()
            .map(|byte| byte.count_ones())
            .sum();
        if ones as usize != links {
            return Err(InvalidData("its HAMT bitfield does not match its links"));
        }
        Ok(ShardShape { fanout })
    }

    /// Bits of the hash that one level takes.
    fn bits(self) -> u32 {
        self.fanout.trailing_zeros()
    }

    /// The position that the name of a link starts with, and what follows it.
    pub(super) fn split_name(self, name: &[u8]) -> Result<(u64, &[u8]), InvalidData> {
        let split = name.split_at_checked(prefix_length(self.fanout));
        let (digits, rest) =
            split.ok_or(InvalidData("a HAMT link lacks the prefix of its name"))?;
        digits
            .iter()
            .try_fold(0, |position, digit| {
                let value = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'A'..=b'F' => digit - b'A' + 10,
                    _ => return None,
                };
                Some(position << 4 | u64::from(value))
            })
            .filter(|position| *position < self.fanout)
            .map(|position| (position, rest))
            .ok_or(InvalidData("a HAMT link has a prefix that is no position"))
    }
}

/// The bits of a hash that lead from the root of a trie to a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Trail {
    bits: u32,
    value: u64,
}

impl Trail {
    /// The trail one level further down; `None` below the last bit.
    pub(super) fn down(self, shape: ShardShape, position: u64) -> Option<Trail> {
        let bits = self.bits + shape.bits();
        let value = self.value << shape.bits() | position;
        (bits <= HASH_BITS).then_some(Trail { bits, value })
    }

    /// Whether a search for `hash` comes along here. The root has no trail to leave.
    pub(super) fn leads_to(self, hash: u64) -> bool {
        hash >> (HASH_BITS - self.bits) == self.value
    }
}

fn prefix_length(fanout: u64) -> usize {
    (fanout - 1).ilog(16) as usize + 1
}

pub(super) fn prefix(position: u64, fanout: u64) -> String {
    format!("{position:0width$X}", width = prefix_length(fanout))
}

/// The bits of `hash` that decide at `level`. The last level of a fanout that does not divide 64
/// has too few bits and does not exist.
pub(super) fn position(hash: u64, level: u32, bits: u32) -> Option<u64> {
    let end = (level + 1) * bits;
    (end <= HASH_BITS).then(|| (hash >> (HASH_BITS - end)) & ((1 << bits) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_take_the_high_bits_first() {
        let hash = 0xab_cd_00_00_00_00_00_ef;
        assert_eq!(position(hash, 0, 8), Some(0xab));
        assert_eq!(position(hash, 1, 8), Some(0xcd));
        assert_eq!(position(hash, 7, 8), Some(0xef));
        assert_eq!(position(hash, 8, 8), None);
        assert_eq!(position(hash, 0, 3), Some(0b101));
        assert_eq!(position(hash, 21, 3), None);
    }

    #[test]
    fn names_split_into_position_and_rest() {
        let shape = ShardShape { fanout: 256 };
        assert_eq!(shape.split_name(b"0Fname"), Ok((15, &b"name"[..])));
        assert_eq!(shape.split_name(b"FF"), Ok((255, &b""[..])));
        for name in [&b"F"[..], b"", b"0fname", b"G0name", b"-1"] {
            assert!(shape.split_name(name).is_err(), "{name:?}");
        }
        let shape = ShardShape { fanout: 8 };
        assert_eq!(shape.split_name(b"7a"), Ok((7, &b"a"[..])));
        assert!(shape.split_name(b"8a").is_err());
    }

    #[test]
    fn a_trail_leads_to_the_hashes_that_share_its_bits() {
        let shape = ShardShape { fanout: 256 };
        let first = Trail::default().down(shape, 0xab).unwrap();
        let second = first.down(shape, 0xcd).unwrap();
        assert!(first.leads_to(0xab_00 << 48) && second.leads_to(0xab_cd_ff << 40));
        assert!(!first.leads_to(0xac_00 << 48) && !second.leads_to(0xab_ce << 48));
        let whole = (0..8).try_fold(Trail::default(), |trail, byte| trail.down(shape, byte));
        assert!(whole.unwrap().leads_to(0x00_01_02_03_04_05_06_07));
        assert_eq!(whole.unwrap().down(shape, 0), None);
    }

    #[test]
    fn prefixes_have_the_width_of_the_largest() {
        for (fanout, wanted) in [(8, "5"), (16, "5"), (32, "05"), (256, "05"), (1024, "005")] {
            assert_eq!(prefix(5, fanout), wanted, "{fanout}");
        }
    }
}
