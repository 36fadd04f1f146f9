//! The machine's table of open files, which has room for so many of all users.
//!
//! A program may have thousands of processes, and each of them thousands of files open. No control group
//! counts them, and the kernel refuses files to everybody when the table is full.

use std::fs;

/// Files of the whole machine: fields of `/proc/sys/fs/file-nr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OpenFiles {
    used: u64,
    most: u64,
}

impl OpenFiles {
    /// None where this is not shown here.
    pub(super) fn read() -> Option<OpenFiles> {
        OpenFiles::parse(&fs::read_to_string("/proc/sys/fs/file-nr").ok()?)
    }

    fn parse(text: &str) -> Option<OpenFiles> {
        let mut fields = text.split_whitespace().map(str::parse);
        let used = fields.next()?.ok()?;
        let most = fields.nth(1)?.ok()?;
        Some(OpenFiles { used, most })
    }

    /// Whether less than half of the table is left, and at least a quarter of it was taken since `before`.
    pub(super) fn are_scarce(self, before: OpenFiles) -> bool {
        self.used > self.most / 2 && self.taken_since(before) > self.most / 4
    }

    fn taken_since(self, before: OpenFiles) -> u64 {
        self.used.saturating_sub(before.used)
    }

    /// Whether these processes have at least half of what was taken since `before`. A file that several of
    /// them inherited counts for each.
    pub(super) fn are_of(self, before: OpenFiles, pids: &[u32]) -> bool {
        let much = self.taken_since(before) / 2;
        let mut count = 0;
        for pid in pids {
            // One that ends meanwhile has none.
            let open = fs::read_dir(format!("/proc/{pid}/fd"));
            count += open.map_or(0, |open| open.count() as u64);
            if count >= much {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_a_table_that_is_half_full() {
        let files = |used| OpenFiles { used, most: 1000 };
        assert_eq!(OpenFiles::parse("300\t0\t1000\n"), Some(files(300)));
        for (before, now, wanted) in [
            (100, 500, false),
            (100, 501, true),
            (300, 540, false),
            (300, 551, true),
            (900, 800, false),
        ] {
            assert_eq!(
                files(now).are_scarce(files(before)),
                wanted,
                "{before} {now}"
            );
        }
    }

    #[test]
    fn providers_are_found() {
        let before = OpenFiles { used: 0, most: 100 };
        let now = OpenFiles { used: 4, most: 100 };
        let open = [0; 4].map(|_| fs::File::open("/proc/self/stat").unwrap());
        assert!(now.are_of(before, &[std::process::id()]));
        assert!(!now.are_of(before, &[]));
        drop(open);
    }
}
