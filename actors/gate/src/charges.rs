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

    /// Takes out one call charged at that very moment; false if there is none.
    pub(crate) fn take_back(&mut self, at: At) -> bool {
        let Ok(place) = self.entries.binary_search_by_key(&at, |entry| entry.at) else {
            return false;
        };
        self.entries[place].calls -= 1;
        if self.entries[place].calls == 0 {
            self.entries.remove(place);
        }
        true
    }

    /// Drops all charges up to `left`, which have left every window.
    pub(crate) fn prune(&mut self, left: At) {
        let gone = self.entries.iter().take_while(|entry| entry.at <= left).count();
        self.entries.drain(..gone);
    }

    /// From now on these count, for every moment, as many calls charged after it as the one or the other
    /// did, whichever is more.
    pub(crate) fn stricter(&mut self, other: &[Entry]) {
        let joined = stricter(&self.entries, other);
        self.entries.clear();
        for entry in joined {
            self.add(entry);
        }
    }

    fn join_closest(&mut self) {
        let gap = |i: &usize| self.entries[i + 1].at.since(self.entries[*i].at);
        if let Some(i) = (0..self.entries.len() - 1).min_by_key(gap) {
            let earlier = self.entries.remove(i);
            self.entries[i].calls = self.entries[i].calls.saturating_add(earlier.calls);
        }
    }
}

/// The fewest calls that are, after any moment, at least as many as in each of the two. Whether a call may
/// go depends on nothing else: on how many calls lie after the beginning of the window. In order of time.
pub(crate) fn stricter(one: &[Entry], other: &[Entry]) -> Vec<Entry> {
    let mut times: Vec<At> = one.iter().chain(other).map(|entry| entry.at).collect();
    times.sort_unstable();
    times.dedup();
    let calls_at = |entries: &[Entry], at: At| -> u64 {
        entries.iter().filter(|entry| entry.at == at).map(|entry| u64::from(entry.calls)).sum()
    };
    let (mut after_one, mut after_other, mut after) = (0_u64, 0_u64, 0_u64);
    let mut joined = Vec::with_capacity(times.len());
    for at in times.into_iter().rev() {
        after_one += calls_at(one, at);
        after_other += calls_at(other, at);
        let more = after_one.max(after_other) - after;
        after += more;
        if more > 0 {
            joined.push(Entry { at, calls: u32::try_from(more).unwrap_or(u32::MAX) });
        }
    }
    joined.reverse();
    joined
}
