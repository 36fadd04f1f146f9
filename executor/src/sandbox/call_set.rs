//! A filter program that looks at the number of a call alone.
//!
//! The numbers of a set lie in few ranges. The program finds the range by binary search: two instructions
//! a range, of which a call executes about eight. A chain that compares each number has a thousand, which
//! the kernel must compile at each start and execute at each call that another filter looks at.

use std::collections::BTreeSet;

use seccompiler::sock_filter;

/// Offsets in `struct seccomp_data`, see seccomp(2).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// Instructions, see `linux/bpf_common.h`: load a word, jump if equal, jump if greater or equal, jump, return.
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;

/// `AUDIT_ARCH_*` of `linux/audit.h`.
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

/// The program whose value is `inside` for the numbers of the set, `outside` for others, and `foreign` for
/// calls by the table of another architecture; all three are `SECCOMP_RET_*`.
pub(super) fn program(
    numbers: &BTreeSet<u32>,
    inside: u32,
    outside: u32,
    foreign: u32,
) -> Vec<sock_filter> {
    let mut program = vec![
        instruction(LOAD, 0, 0, ARCHITECTURE),
        instruction(JUMP_EQUAL, 1, 0, NATIVE),
        instruction(RETURN, 0, 0, foreign),
        instruction(LOAD, 0, 0, NUMBER),
    ];
    program.extend(search(&borders(numbers), false, [outside, inside]));
    program
}

/// Where ranges begin and end: numbers below the first border are outside, up to the second inside, and so on.
fn borders(numbers: &BTreeSet<u32>) -> Vec<u32> {
    let mut borders: Vec<u32> = Vec::new();
    for number in numbers {
        match borders.last_mut() {
            Some(end) if end == number => *end += 1,
            _ => borders.extend([*number, number + 1]),
        }
    }
    borders
}

/// Finds the number among `borders`, where numbers below the first are inside if `is_inside` says so.
fn search(borders: &[u32], is_inside: bool, values: [u32; 2]) -> Vec<sock_filter> {
    if borders.is_empty() {
        return vec![instruction(RETURN, 0, 0, values[usize::from(is_inside)])];
    }
    let middle = borders.len() / 2;
    let below = search(&borders[..middle], is_inside, values);
    let is_inside_after = is_inside ^ middle.is_multiple_of(2);
    let above = search(&borders[middle + 1..], is_inside_after, values);
    let border = borders[middle];
    let mut program = match u8::try_from(below.len()) {
        Ok(length) => vec![instruction(JUMP_GREATER_OR_EQUAL, length, 0, border)],
        // A condition jumps over 255 instructions at most.
        Err(_) => vec![
            instruction(JUMP_GREATER_OR_EQUAL, 0, 1, border),
            instruction(JUMP, 0, 0, below.len() as u32),
        ],
    };
    program.extend(below);
    program.extend(above);
    program
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSIDE: u32 = 1;
    const OUTSIDE: u32 = 2;
    const FOREIGN: u32 = 3;

    /// The value of a program for a call, and how many instructions that took.
    fn value(program: &[sock_filter], architecture: u32, number: u32) -> (u32, usize) {
        let (mut at, mut loaded, mut steps) = (0, 0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            (at, steps) = (at + 1, steps + 1);
            let mut jump = |is_true: bool| at += usize::from(if is_true { jt } else { jf });
            match code {
                LOAD if k == NUMBER => loaded = number,
                LOAD if k == ARCHITECTURE => loaded = architecture,
                JUMP_EQUAL => jump(loaded == k),
                JUMP_GREATER_OR_EQUAL => jump(loaded >= k),
                JUMP => at += k as usize,
                RETURN => return (k, steps),
                _ => panic!("instruction {code:x}"),
            }
        }
    }

    #[test]
    fn each_number_is_found() {
        let sets: [BTreeSet<u32>; 6] = [
            BTreeSet::new(),
            [0].into(),
            [5, 6, 7, 9].into(),
            (0..460).collect(),
            // Ranges that need jumps over more than 255 instructions.
            (0..1200).filter(|number| number % 2 == 0).collect(),
            (0..1200).filter(|number| number % 3 != 1).collect(),
        ];
        for set in sets {
            let program = program(&set, INSIDE, OUTSIDE, FOREIGN);
            let far = [0x4000_0000, 0x4000_0005, u32::MAX - 1, u32::MAX];
            for number in (0..1300).chain(far) {
                let wanted = if set.contains(&number) {
                    INSIDE
                } else {
                    OUTSIDE
                };
                let (found, steps) = value(&program, NATIVE, number);
                assert_eq!(found, wanted, "{number} of {set:?}");
                assert!(steps < 30, "{steps}");
                assert_eq!(value(&program, NATIVE ^ 1, number).0, FOREIGN);
            }
        }
    }
}
