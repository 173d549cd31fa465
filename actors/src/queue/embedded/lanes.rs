//! What is known of the lanes without reading the database: counts, and where to begin reading.
//!
//! The database keeps a mark for every row it removed until it has merged its files, and a scan walks
//! over these marks. A scan must not walk over a million finished fetches each time, so each lane has two
//! lower bounds: of its first fetch (everything before was finished in order) and of its second (the
//! first one runs for long and those behind it are finished meanwhile).

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::queue::LANES_MAX;

/// A lane that has waiting fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lane {
    /// How many; at least 1.
    pub(super) waiting: u64,
    /// No fetch of the lane has a smaller number. There may be none of this number either.
    pub(super) first: u64,
    /// No fetch of the lane has a number between `first` and this one, both excluded.
    pub(super) second: u64,
}

impl Lane {
    /// A lane of one fetch.
    pub(super) fn of(seq: u64) -> Self {
        Self { waiting: 1, first: seq, second: u64::MAX }
    }

    /// Counts a fetch that came.
    pub(super) fn add(&mut self, seq: u64) {
        self.waiting += 1;
        if seq < self.first {
            self.second = self.first;
            self.first = seq;
        } else if seq > self.first {
            self.second = self.second.min(seq);
        }
    }

    fn remove(&mut self, seq: u64) {
        self.waiting -= 1;
        if seq == self.first {
            self.first = self.second;
            self.second = self.second.saturating_add(1);
        }
    }

    /// Learns from a scan that `seq` is the lane's first.
    pub(super) fn first_is(&mut self, seq: u64) {
        if seq > self.first {
            self.first = seq;
            self.second = self.second.max(seq.saturating_add(1));
        }
    }

    /// No fetch of the lane lies between `before` and this number, both excluded.
    pub(super) fn second_behind(&self, before: u64) -> u64 {
        if before >= self.first { self.second } else { self.first }
    }

    /// Learns from a scan that `seq` follows the number `before`.
    pub(super) fn follows(&mut self, before: u64, seq: u64) {
        if before >= self.first && before < self.second {
            self.second = self.second.max(seq);
        }
    }
}

/// The lanes that have waiting fetches, in the order of their subjects.
#[derive(Debug, Default)]
pub(crate) struct Lanes(BTreeMap<Box<str>, Lane>);

impl Lanes {
    /// From lanes in order. Built in one go: the tree is packed then, half as large as one grown step by
    /// step.
    pub(super) fn from_sorted(lanes: Vec<(Box<str>, Lane)>) -> Self {
        Self(lanes.into_iter().collect())
    }

    pub(super) fn add(&mut self, lane: &str, seq: u64) {
        match self.0.get_mut(lane) {
            Some(known) => known.add(seq),
            None => {
                self.0.insert(lane.into(), Lane::of(seq));
            }
        }
    }

    pub(super) fn remove(&mut self, lane: &str, seq: u64) {
        let Some(known) = self.0.get_mut(lane) else { return };
        if known.waiting > 1 {
            known.remove(seq);
        } else {
            self.0.remove(lane);
        }
    }

    pub(super) fn get(&self, lane: &str) -> Option<Lane> {
        self.0.get(lane).copied()
    }

    /// Keeps the bounds that a scan found.
    pub(super) fn learn(&mut self, lane: &str, bounds: Lane) {
        if let Some(known) = self.0.get_mut(lane) {
            *known = bounds;
        }
    }

    /// The lanes behind one that need not be there, at most [`LANES_MAX`].
    pub(super) fn behind(&self, after: Option<&str>) -> Vec<(Box<str>, u64)> {
        self.iter_behind(after).take(LANES_MAX).map(|(key, count)| (key.into(), count)).collect()
    }

    /// The same one by one.
    pub(super) fn iter_behind(&self, after: Option<&str>) -> impl Iterator<Item = (&str, u64)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.0.range::<str, _>((from, Bound::Unbounded)).map(|(key, lane)| (&**key, lane.waiting))
    }

    /// The lanes whose subjects start so, at most [`LANES_MAX`]; an account has no more than three for
    /// each of its apis.
    pub(super) fn starting(&self, prefix: &str) -> Vec<(Box<str>, u64)> {
        self.0
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(LANES_MAX)
            .map(|(key, lane)| (key.clone(), lane.waiting))
            .collect()
    }
}
