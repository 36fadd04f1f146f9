//! Open questions and announcements to the DHTs and routers. Pure: it keeps the content that each
//! question belongs to, and says when all answers are in.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use libp2p::kad::QueryId;

use crate::block::Cid;

/// One of the two DHTs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Dht {
    Public,
    Lan,
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Query {
    Dht(Dht, QueryId),
    /// A server, by a number of ours.
    Server(u64),
}

/// All questions about one content.
#[derive(Debug)]
struct Asked {
    cid: Cid,
    open: HashSet<Query>,
    asked: usize,
    succeeded: usize,
}

/// Questions of one kind.
#[derive(Debug, Default)]
pub(super) struct Queries {
    asked: Vec<Asked>,
}

/// All answers about one content are in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) cid: Cid,
    /// How many were asked.
    pub(super) asked: usize,
    /// How many of those that were asked have done what they were asked for.
    pub(super) succeeded: usize,
}

impl Queries {
    /// Notes what was asked about `cid`, beside what was asked before.
    pub(super) fn add(&mut self, cid: Cid, queries: impl IntoIterator<Item = Query>) {
        let queries: HashSet<Query> = queries.into_iter().collect();
        match self.asked.iter_mut().find(|asked| asked.cid == cid) {
            Some(known) => {
                known.asked += queries.len();
                known.open.extend(queries);
            }
            None => self.asked.push(Asked {
                cid,
                asked: queries.len(),
                open: queries,
                succeeded: 0,
            }),
        }
    }

    /// Whether this DHT is being asked about `cid`.
    pub(super) fn asks(&self, cid: &Cid, dht: Dht) -> bool {
        let mut about = self.asked.iter().filter(|asked| asked.cid == *cid);
        let is_there = |query: &Query| matches!(query, Query::Dht(asked, _) if *asked == dht);
        about.any(|asked| asked.open.iter().any(is_there))
    }

    /// Whether answers about `cid` are still to come.
    pub(super) fn is_open(&self, cid: &Cid) -> bool {
        self.asked.iter().any(|asked| asked.cid == *cid)
    }

    /// What `query` is about.
    pub(super) fn about(&self, query: &Query) -> Option<Cid> {
        let asked = self.asked.iter().find(|asked| asked.open.contains(query))?;
        Some(asked.cid)
    }

    /// A query has ended. Says so where it was the last about its content.
    pub(super) fn end(&mut self, query: &Query, succeeded: bool) -> Option<Answered> {
        let position = self
            .asked
            .iter_mut()
            .position(|asked| asked.open.remove(query))?;
        let asked = &mut self.asked[position];
        asked.succeeded += usize::from(succeeded);
        if !asked.open.is_empty() {
            return None;
        }
        let ended = self.asked.swap_remove(position);
        Some(Answered {
            cid: ended.cid,
            asked: ended.asked,
            succeeded: ended.succeeded,
        })
    }
}

/// Values that are given out under one key, one after another. A value that comes while an older one is
/// being given out waits, and replaces one that waits already.
#[derive(Debug, Default)]
pub(super) struct Turns {
    turns: HashMap<Cid, Turn>,
}

#[derive(Debug)]
struct Turn {
    current: Bytes,
    next: Option<Bytes>,
}

impl Turns {
    /// Whether `value` may be given out now; it waits otherwise.
    pub(super) fn begin(&mut self, cid: Cid, value: &Bytes) -> bool {
        match self.turns.entry(cid) {
            Entry::Vacant(free) => {
                free.insert(Turn {
                    current: value.clone(),
                    next: None,
                });
                true
            }
            Entry::Occupied(taken) if taken.get().current == *value => true,
            Entry::Occupied(mut taken) => {
                taken.get_mut().next = Some(value.clone());
                false
            }
        }
    }

    /// The current value of `cid` was given out. Returns the one that has waited, which is to begin.
    pub(super) fn end(&mut self, cid: &Cid) -> Option<Bytes> {
        self.turns.remove(cid)?.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_value_waits_for_its_turn() {
        let (cid, mut turns) = (Cid::default(), Turns::default());
        let [first, second, third] = ["1", "2", "3"].map(Bytes::from);
        assert!(turns.begin(cid, &first));
        // The same may be given to others that have come.
        assert!(turns.begin(cid, &first));
        assert!(!turns.begin(cid, &second));
        assert!(!turns.begin(cid, &third));
        let next = turns.end(&cid);
        assert_eq!(next.as_ref(), Some(&third));
        assert!(turns.begin(cid, &third));
        assert_eq!(turns.end(&cid), None);
        assert!(turns.begin(cid, &second));
    }

    #[test]
    fn the_last_answer_ends_it() {
        let (first, second) = (Query::Server(1), Query::Server(2));
        let cid = Cid::default();
        let mut queries = Queries::default();
        queries.add(cid, [first]);
        queries.add(cid, [second]);
        assert_eq!(queries.about(&second), Some(cid));
        assert_eq!(queries.end(&first, true), None);
        assert_eq!(queries.end(&first, true), None);
        let ended = Answered {
            cid,
            asked: 2,
            succeeded: 1,
        };
        assert_eq!(queries.end(&second, false), Some(ended));
        assert_eq!(queries.about(&second), None);
    }
}
