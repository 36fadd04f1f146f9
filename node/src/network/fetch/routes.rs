//! Which wants are at the gateways, after bitswap found nobody who has the block.
//!
//! If the root of a wanted DAG goes to the gateways, the whole DAG is asked for as one stream. Pure.

use std::collections::{HashMap, HashSet};

use super::action::Action;
use super::queue::Task;
use crate::block::{Cid, Multihash};

/// Where wants are.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// Roots of DAGs that are wanted as a whole.
    roots: HashSet<Cid>,
    /// Wants that went to the gateways.
    at_gateways: HashMap<Multihash, Cid>,
    /// DAGs that are being streamed. What they may bring is not asked for one by one.
    streaming: HashSet<Cid>,
}

impl Routes {
    /// A block is being asked for, from bitswap.
    pub(super) fn wanted(&mut self, task: &Task) {
        if task.depth == 0 && task.deep {
            self.roots.insert(task.cid);
        }
    }

    /// No peer has the block: gateways are asked, unless they were.
    pub(super) fn ask_gateways(&mut self, cid: &Cid) -> Option<Action> {
        if self.at_gateways.insert(*cid.hash(), *cid).is_some() {
            return None;
        }
        if self.roots.remove(cid) {
            self.streaming.insert(*cid);
            return Some(Action::AskGatewaysForAll(*cid));
        }
        let is_single = self.streaming.is_empty();
        is_single.then(|| Action::AskGateways(vec![*cid]))
    }

    /// The stream of `root` has ended: what it did not bring is asked for block by block.
    pub(super) fn stream_ended(&mut self, root: &Cid) -> Option<Action> {
        self.streaming.remove(root);
        let is_due = self.streaming.is_empty() && !self.at_gateways.is_empty();
        is_due.then(|| Action::AskGateways(self.at_gateways.values().copied().collect()))
    }

    /// A block is no longer wanted.
    pub(super) fn leave(&mut self, cid: &Cid) -> Option<Action> {
        let left = self.at_gateways.remove(cid.hash());
        left.map(|_| Action::LeaveGateways(*cid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{RAW, sha2_256};

    fn cid(name: &str) -> Cid {
        Cid::new_v1(RAW, sha2_256(&[name.as_bytes()]))
    }

    #[test]
    fn gateways_stream_a_dag_and_then_give_what_is_left() {
        let (root, leaf, other) = (cid("root"), cid("leaf"), cid("other"));
        let mut routes = Routes::default();
        assert_eq!(
            routes.ask_gateways(&other),
            Some(Action::AskGateways(vec![other]))
        );
        assert_eq!(routes.ask_gateways(&other), None);
        assert_eq!(routes.leave(&other), Some(Action::LeaveGateways(other)));
        assert_eq!(routes.leave(&other), None);
        routes.wanted(&Task::root(root));
        assert_eq!(
            routes.ask_gateways(&root),
            Some(Action::AskGatewaysForAll(root))
        );
        assert_eq!(routes.leave(&root), Some(Action::LeaveGateways(root)));
        // The stream may bring it.
        assert_eq!(routes.ask_gateways(&leaf), None);
        assert_eq!(
            routes.stream_ended(&root),
            Some(Action::AskGateways(vec![leaf]))
        );
        assert!(routes.leave(&leaf).is_some());
        assert_eq!(routes.stream_ended(&root), None);
    }
}
