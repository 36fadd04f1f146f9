//! The dependencies of a job: a record of every part of its input that it touched.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipfs_exec_node::Cid;
use ipfs_exec_node::path::escape;
use serde_json::{Value, json};

use crate::mount::{Access, Learnt, Observer};

/// Records every first access. What the kernel asked for counts: it reads ahead of a program, so a
/// byte range may be longer than what the program read, and never shorter.
#[derive(Debug, Default)]
pub struct Trace {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By path and kind of access.
    accesses: BTreeMap<(Vec<u8>, &'static str), Recorded>,
    blocks: BTreeSet<Cid>,
    /// Memory that all of it takes, in bytes, roughly.
    bytes: usize,
    is_cut: bool,
}

#[derive(Debug, Default)]
struct Recorded {
    cid: Option<Cid>,
    /// Apart and in order.
    ranges: Vec<Range<u64>>,
    blocks: BTreeSet<Cid>,
}

impl Trace {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there were more accesses than could be kept, so that this is not all.
    pub fn is_cut(&self) -> bool {
        self.lock().is_cut
    }

    /// All blocks that the accesses took, each once.
    pub fn blocks(&self) -> Vec<Cid> {
        self.lock().blocks.iter().copied().collect()
    }

    /// One JSON object an access, ordered by path: `path` below the top of the input, `access` (one
    /// of `absence`, `attributes`, `names`, `target`, `cid`, `content`), `cid` of what stands there,
    /// `blocks` that it took, and for content the `ranges`, as pairs of the first byte and the one
    /// behind the last.
    pub fn lines(&self) -> Vec<Value> {
        let state = self.lock();
        let line = |((path, access), recorded): (&(Vec<u8>, &'static str), &Recorded)| {
            let path = match std::str::from_utf8(path) {
                Ok(path) => path.to_owned(),
                Err(_) => escape(path),
            };
            let blocks: Vec<_> = recorded.blocks.iter().map(ToString::to_string).collect();
            let mut line = json!({ "path": path, "access": access, "blocks": blocks });
            if let Some(cid) = recorded.cid {
                line["cid"] = json!(cid.to_string());
            }
            if *access == CONTENT {
                let pair = |range: &Range<u64>| [range.start, range.end];
                line["ranges"] = recorded.ranges.iter().map(pair).collect();
            }
            line
        };
        state.accesses.iter().map(line).collect()
    }
}

/// Most memory of one trace: a million accesses.
const MAX_BYTES: usize = 512 << 20;

/// What a CID takes.
const CID_BYTES: usize = 256;

const CONTENT: &str = "content";

impl Observer for Trace {
    fn accessed(&self, access: &Access<'_>) {
        let kind = match access.what {
            Learnt::Absence => "absence",
            Learnt::Attributes => "attributes",
            Learnt::Names => "names",
            Learnt::Target => "target",
            Learnt::Cid => "cid",
            Learnt::Content(_) => CONTENT,
        };
        let mut state = self.lock();
        state.bytes += access.path.len() + access.blocks.len() * CID_BYTES;
        if state.bytes > MAX_BYTES {
            state.is_cut = true;
            return;
        }
        state.blocks.extend(access.blocks);
        let recorded = state.accesses.entry((access.path.to_owned(), kind));
        let recorded = recorded.or_default();
        recorded.cid = access.cid;
        recorded.blocks.extend(access.blocks);
        if let Learnt::Content(range) = &access.what {
            unite(&mut recorded.ranges, range.clone());
        }
    }
}

/// Adds a range to others, which stay apart and in order.
fn unite(ranges: &mut Vec<Range<u64>>, mut added: Range<u64>) {
    let first = ranges.partition_point(|range| range.end < added.start);
    let behind = ranges.partition_point(|range| range.start <= added.end);
    if first < behind {
        added.start = added.start.min(ranges[first].start);
        added.end = added.end.max(ranges[behind - 1].end);
    }
    ranges.splice(first..behind, [added]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_unite_where_they_touch() {
        type Pairs = &'static [(u64, u64)];
        let cases: [(Pairs, Pairs); 5] = [
            (&[(0, 1), (2, 3)], &[(0, 1), (2, 3)]),
            (&[(2, 3), (0, 1)], &[(0, 1), (2, 3)]),
            (&[(0, 1), (1, 2)], &[(0, 2)]),
            (&[(0, 1), (4, 5), (8, 9), (1, 8)], &[(0, 9)]),
            (&[(0, 9), (2, 3)], &[(0, 9)]),
        ];
        for (added, expected) in cases {
            let mut ranges = Vec::new();
            for (start, end) in added {
                unite(&mut ranges, *start..*end);
            }
            let pairs: Vec<_> = ranges
                .iter()
                .map(|range| (range.start, range.end))
                .collect();
            assert_eq!(pairs, expected);
        }
    }

    #[test]
    fn accesses_are_told_once() {
        let trace = Trace::default();
        let cid = Cid::default();
        for range in [0..10, 10..20] {
            trace.accessed(&Access {
                path: b"a/b",
                cid: Some(cid),
                what: Learnt::Content(range),
                blocks: &[cid],
            });
        }
        trace.accessed(&Access {
            path: b"a",
            cid: None,
            what: Learnt::Absence,
            blocks: &[],
        });
        let cid = cid.to_string();
        let expected = [
            json!({"path": "a", "access": "absence", "blocks": []}),
            json!({"path": "a/b", "access": "content", "cid": cid, "blocks": [cid], "ranges": [[0, 20]]}),
        ];
        assert_eq!(trace.lines(), expected);
        assert_eq!(trace.blocks().len(), 1);
    }
}
