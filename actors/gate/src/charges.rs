//! The charges of one counter of one limit: when calls that are final were counted, in order.

use crate::limit::ApiIx;
use crate::time::At;

/// Most entries of one counter. A counter that rounds its charges has about 61 of them; more come only
/// from charges far in the future or from several restarts within a window. Then the two that lie closest
/// become one at the later time: bounded, and never too generous.
pub(crate) const ENTRIES_MAX: usize = 128;

/// Calls that are charged at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) at: At,
    pub(crate) calls: u32,
}

/// One counter's charges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Charges {
    /// Place of the limit in its set.
    pub(crate) limit: usize,
    /// The api that is counted; `None`: counted for every api of the limit.
    pub(crate) bucket: Option<ApiIx>,
    /// By time, no two at the same.
    entries: Vec<Entry>,
}

impl Charges {
    pub(crate) fn new(limit: usize, bucket: Option<ApiIx>) -> Self {
        Self { limit, bucket, entries: Vec::new() }
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether these count for a call that the limit counts in `bucket`. What was counted for all apis
    /// together by an earlier configuration counts for each of them.
    pub(crate) fn count_in(&self, bucket: Option<ApiIx>) -> bool {
        self.bucket.is_none() || self.bucket == bucket
    }

    pub(crate) fn add(&mut self, new: Entry) {
        // From the back: a new charge is nearly always the latest.
        let place = self.entries.iter().rposition(|old| old.at <= new.at);
        match place {
            Some(i) if self.entries[i].at == new.at => {
                self.entries[i].calls = self.entries[i].calls.saturating_add(new.calls);
            }
            _ => self.entries.insert(place.map_or(0, |i| i + 1), new),
        }
        if self.entries.len() > ENTRIES_MAX {
            self.join_closest();
        }
    }

    /// Drops all charges up to `left`, which have left every window.
    pub(crate) fn prune(&mut self, left: At) {
        let gone = self.entries.iter().take_while(|entry| entry.at <= left).count();
        self.entries.drain(..gone);
    }

    fn join_closest(&mut self) {
        let gap = |i: &usize| self.entries[i + 1].at.since(self.entries[*i].at);
        if let Some(i) = (0..self.entries.len() - 1).min_by_key(gap) {
            let earlier = self.entries.remove(i);
            self.entries[i].calls = self.entries[i].calls.saturating_add(earlier.calls);
        }
    }
}
