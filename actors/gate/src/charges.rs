//! The charges of one counter of one limit: when calls that are final were counted, in order.

use crate::limit::{ApiIx, TICKS};
use crate::time::{At, Span};

/// Most entries of one counter. A counter that rounds its charges has about 61 of them; more come only
/// from charges far in the future or from several restarts within a window. Then the two that lie closest
/// become one at the later time: bounded, and never too generous.
pub(crate) const ENTRIES_MAX: usize = 128;

/// What is charged at one moment, in units.
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
    /// What is known beyond single charges.
    pub(crate) kept: Option<Box<Kept>>,
}

/// What some rules keep beyond single charges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kept {
    Drained(Drained),
    Opened(Opened),
}

/// The older charges of a bucket, in one: what was missing in it at a moment, as if it had been taken out then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drained {
    pub(crate) at: At,
    /// The time in which that much flows in, in [`TICKS`] parts of a microsecond.
    pub(crate) ticks: u128,
    /// The time in which one unit did when this was computed.
    pub(crate) unit: u128,
}

impl Drained {
    /// When the bucket is full again, in [`TICKS`] parts of a microsecond.
    pub(crate) fn full_at(&self) -> i128 {
        ticks(self.at).saturating_add_unsigned(self.ticks)
    }

    /// The same for a bucket into which one unit flows within `unit`, rounded up.
    pub(crate) fn at_rate(self, unit: u128) -> Self {
        if self.unit == unit || self.unit == 0 {
            return Self { unit, ..self };
        }
        let units = (self.ticks / self.unit).saturating_mul(unit);
        let part = (self.ticks % self.unit).checked_mul(unit);
        let part = part.map_or(unit, |part| part.div_ceil(self.unit));
        Self { ticks: units.saturating_add(part), unit, ..self }
    }
}

/// A moment in [`TICKS`] parts of a microsecond.
pub(crate) fn ticks(at: At) -> i128 {
    i128::from(at.0) * TICKS as i128
}

/// What is known of the window that the first call opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opened {
    /// It does not end before, if that is known: a call that arrived before is in no later window.
    pub(crate) ends_from: Option<At>,
    /// It has ended by then, if that is known.
    pub(crate) ends_by: Option<At>,
    /// A call that was let go from here on is in no window before it.
    pub(crate) sure_from: At,
}

impl Opened {
    /// Nothing is known, but that all before `sure_from` is over.
    pub(crate) const fn unknown(sure_from: At) -> Self {
        Self { ends_from: None, ends_by: None, sure_from }
    }

    /// The latest charge that is in no window open at `now`, if the window is over.
    pub(crate) fn left_by(&self, now: At) -> Option<At> {
        let ended = self.ends_by.is_some_and(|at| at <= now);
        self.ends_from.filter(|_| ended).map(|at| at.minus(Span(1)))
    }

    /// When a charge at `at` no longer counts, given when it would by its age alone.
    pub(crate) fn leaves(&self, at: At, by_age: At) -> At {
        match (self.ends_from, self.ends_by) {
            (Some(from), Some(by)) if at < from => by_age.min(by),
            _ => by_age,
        }
    }

    /// Goes on to the next window, if this one is over.
    pub(crate) fn roll(&mut self, now: At, window: Span) {
        if let (Some(from), Some(by)) = (self.ends_from, self.ends_by)
            && by <= now
        {
            self.ends_from = Some(from.plus(window));
            self.sure_from = self.sure_from.max(by);
            self.ends_by = None;
        }
    }
}

impl Charges {
    pub(crate) fn new(limit: usize, bucket: Option<ApiIx>) -> Self {
        Self { limit, bucket, entries: Vec::new(), kept: None }
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The charges after `left`.
    pub(crate) fn after(&self, left: At) -> &[Entry] {
        let gone = self.entries.partition_point(|entry| entry.at <= left);
        &self.entries[gone..]
    }

    pub(crate) fn drained(&self) -> Option<Drained> {
        match self.kept.as_deref() {
            Some(Kept::Drained(drained)) => Some(*drained),
            _ => None,
        }
    }

    pub(crate) fn opened(&self) -> Option<&Opened> {
        match self.kept.as_deref() {
            Some(Kept::Opened(opened)) => Some(opened),
            _ => None,
        }
    }

    pub(crate) fn set_opened(&mut self, opened: Opened) {
        self.kept = Some(Box::new(Kept::Opened(opened)));
    }

    /// Adds to what is missing in a bucket, as of an earlier ledger.
    pub(crate) fn drain(&mut self, more: Drained) {
        let drained = match self.drained() {
            None => more,
            Some(own) => {
                let (first, last) = if own.at <= more.at { (own, more) } else { (more, own) };
                let left = first.at_rate(last.unit).full_at().saturating_sub(ticks(last.at)).max(0);
                let ticks = last.ticks.saturating_add(left.unsigned_abs());
                Drained { ticks, ..last }
            }
        };
        self.kept = Some(Box::new(Kept::Drained(drained)));
    }

    /// Puts the charges up to `until` of a bucket into one, and forgets them once it is full again.
    /// Charges that come later and are of before then count from `until`: too strict, never too generous.
    pub(crate) fn fold(&mut self, until: At, unit: u128) {
        let gone = self.entries.partition_point(|entry| entry.at <= until);
        for entry in self.entries.drain(..gone).collect::<Vec<_>>() {
            let ticks = unit.saturating_mul(entry.calls.into());
            self.drain(Drained { at: entry.at, ticks, unit });
        }
        if self.drained().is_some_and(|drained| drained.at_rate(unit).full_at() <= ticks(until)) {
            self.kept = None;
        }
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

    /// Takes out what was charged at that very moment; false if so much is not there.
    pub(crate) fn take_back(&mut self, at: At, units: u32) -> bool {
        let Ok(place) = self.entries.binary_search_by_key(&at, |entry| entry.at) else {
            return false;
        };
        let Some(left) = self.entries[place].calls.checked_sub(units) else { return false };
        self.entries[place].calls = left;
        if left == 0 {
            self.entries.remove(place);
        }
        true
    }

    /// Drops all charges up to `left`, which have left every window.
    pub(crate) fn prune(&mut self, left: At) {
        let gone = self.entries.partition_point(|entry| entry.at <= left);
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
