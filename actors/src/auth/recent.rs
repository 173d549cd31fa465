//! A map that holds so many entries: the one that was used least recently makes room for the next.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// So many entries are looked at for one that may go.
const TRIES: usize = 16;

/// What may be let go, as it can be had again.
pub(crate) trait Expendable {
    /// Whether somebody needs this very one now: then it stays.
    fn is_in_use(&self) -> bool;
}

/// Entries by key. Where all that are looked at are in use there are more than `max` for as long as that lasts: no
/// more than those that are in use.
pub(crate) struct Recent<K, V> {
    max: usize,
    all: HashMap<K, (u64, V)>,
    /// The keys, by when they were used last.
    order: BTreeMap<u64, K>,
    next: u64,
}

impl<K: Hash + Eq + Clone, V: Expendable> Recent<K, V> {
    pub(super) fn new(max: usize) -> Self {
        Self { max, all: HashMap::new(), order: BTreeMap::new(), next: 0 }
    }

    /// An entry, which is not used by that.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.all.get(key).map(|(_, value)| value)
    }

    /// An entry, which is the last used now; made if there is none.
    pub(super) fn used(&mut self, key: &K, make: impl FnOnce() -> V) -> &mut V {
        match self.all.get(key) {
            Some((before, _)) => _ = self.order.remove(before),
            None => self.make_room(),
        }
        let now = self.next;
        self.next += 1;
        self.order.insert(now, key.clone());
        let entry = self.all.entry(key.clone()).or_insert_with(|| (now, make()));
        entry.0 = now;
        &mut entry.1
    }

    fn make_room(&mut self) {
        let mut tries = 0;
        while self.all.len() >= self.max.max(1) && tries < TRIES {
            tries += 1;
            let Some((_, key)) = self.order.pop_first() else { return };
            match self.all.get_mut(&key) {
                // Behind all others, so that the next one to look finds one that may go.
                Some((used, value)) if value.is_in_use() => {
                    *used = self.next;
                    self.order.insert(self.next, key);
                    self.next += 1;
                }
                _ => _ = self.all.remove(&key),
            }
        }
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.all.values().map(|(_, value)| value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.all.iter().map(|(key, (_, value))| (key, value))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.all.values_mut().map(|(_, value)| value)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.all.len(), self.order.len());
        self.all.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Expendable for bool {
        fn is_in_use(&self) -> bool {
            *self
        }
    }

    #[test]
    fn the_least_recently_used_goes_unless_it_is_in_use() {
        let mut recent = Recent::new(3);
        for key in [1, 2, 3] {
            recent.used(&key, || key == 2);
        }
        recent.used(&1, || false);
        // 2 is the oldest and in use, 3 comes after it.
        recent.used(&4, || false);
        let mut keys: Vec<_> = recent.iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        assert_eq!(keys, [1, 2, 4]);
        assert_eq!(recent.len(), 3);
        for value in recent.values_mut() {
            *value = true;
        }
        recent.used(&5, || false);
        assert_eq!(recent.len(), 4, "all are in use");
        for value in recent.values_mut() {
            *value = false;
        }
        recent.used(&6, || false);
        assert_eq!(recent.len(), 3, "and not any more");
        assert!(recent.get(&6).is_some() && recent.get(&5).is_some());
    }
}
