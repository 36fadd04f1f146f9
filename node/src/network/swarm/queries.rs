//! Open questions and announcements to the DHTs and routers. Pure: it keeps the content that each
//! question belongs to, and says when all answers are in.

use std::collections::HashSet;

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

#[cfg(test)]
mod tests {
    use super::*;

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
