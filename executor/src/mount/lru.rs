//! A map that forgets what was not used for longest, so that its weight keeps to a limit.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Entries up to a total weight; the least recently used entry leaves first.
#[derive(Debug)]
pub(super) struct Lru<K, V> {
    limit: usize,
    weight: usize,
    /// Value, weight, and when it was used last.
    entries: HashMap<K, (V, usize, u64)>,
    by_use: BTreeMap<u64, K>,
    clock: u64,
}

impl<K: Hash + Eq + Clone, V> Lru<K, V> {
    pub(super) fn new(limit: usize) -> Lru<K, V> {
        Lru {
            limit,
            weight: 0,
            entries: HashMap::new(),
            by_use: BTreeMap::new(),
            clock: 0,
        }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<&V> {
        let (value, _, used) = self.entries.get_mut(key)?;
        self.clock += 1;
        let key = self.by_use.remove(used)?;
        self.by_use.insert(self.clock, key);
        *used = self.clock;
        Some(value)
    }

    pub(super) fn take(&mut self, key: &K) -> Option<V> {
        let (value, weight, used) = self.entries.remove(key)?;
        self.by_use.remove(&used);
        self.weight -= weight;
        Some(value)
    }

    /// Keeps `value`, unless it is heavier than all may be.
    pub(super) fn insert(&mut self, key: K, value: V, weight: usize) {
        self.take(&key);
        if weight > self.limit {
            return;
        }
        while self.weight + weight > self.limit
            && let Some((_, oldest)) = self.by_use.pop_first()
            && let Some((_, freed, _)) = self.entries.remove(&oldest)
        {
            self.weight -= freed;
        }
        self.clock += 1;
        self.weight += weight;
        self.by_use.insert(self.clock, key.clone());
        self.entries.insert(key, (value, weight, self.clock));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_entries_go_first() {
        let mut lru = Lru::new(10);
        for key in 0..3 {
            lru.insert(key, key * 10, 3);
        }
        assert_eq!(lru.get(&0), Some(&0));
        lru.insert(3, 30, 4);
        assert_eq!(
            [0, 1, 2, 3].map(|key| lru.get(&key).is_some()),
            [true, false, true, true]
        );
        assert_eq!(lru.take(&2), Some(20));
        lru.insert(4, 40, 3);
        assert_eq!(
            [0, 3, 4].map(|key| lru.get(&key).copied()),
            [Some(0), Some(30), Some(40)]
        );
    }

    #[test]
    fn heavy_nodes_are_not_kept() {
        let mut lru = Lru::new(10);
        lru.insert(1, "light", 1);
        lru.insert(2, "heavy", 11);
        lru.insert(1, "heavier", 12);
        assert_eq!([1, 2].map(|key| lru.get(&key).is_some()), [false, false]);
        lru.insert(3, "as much as fits", 10);
        assert!(lru.get(&3).is_some());
    }
}
