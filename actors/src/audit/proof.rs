//! All counters of all limits, and what they found.

use std::collections::HashMap;

use super::counter::{Call, Counter, Error, Evidence, Finding, Ns, Rule};
use super::limits::Limit;

/// A call, by the numbers of its names; in the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) at: Ns,
    /// The number of its log in the upper 16 bits, its line below.
    pub(super) line: u64,
    pub(super) end: Option<Ns>,
    pub(super) account: Option<u32>,
    pub(super) api: Option<u32>,
}

/// What one counter counts together.
type Key = (Option<u32>, Option<u32>);

/// What was found for one limit.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) counters: HashMap<Key, Counter>,
    /// Calls that counted.
    pub(super) calls: u64,
    /// The first that were too many, whose they are, and how often it happened.
    pub(super) broken: Option<(Key, Evidence)>,
    pub(super) broken_times: u64,
    /// The same for what the stamps leave open.
    pub(super) open: Option<(Key, Evidence)>,
    pub(super) open_times: u64,
    /// Calls whose api would have to be known.
    pub(super) without_api: u64,
    /// Calls of which it is not told how long they took.
    pub(super) without_end: u64,
}

impl Found {
    fn arrive(&mut self, limit: &Limit, rule: &Rule, entry: &Entry, error: Error) {
        let account = entry.account.filter(|_| limit.per_account);
        let key = (account, entry.api.filter(|_| limit.per_api));
        let counter = self.counters.entry(key).or_insert_with(|| Counter::new(rule));
        let call = Call { at: entry.at, end: entry.end, line: entry.line };
        match counter.arrive(rule, call, error) {
            Finding::Kept => {}
            Finding::Open(evidence) => {
                self.open_times += 1;
                self.open.get_or_insert((key, evidence));
            }
            Finding::Broken(evidence) => {
                self.broken_times += 1;
                self.broken.get_or_insert((key, evidence));
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Proof {
    pub(super) found: Vec<Found>,
    pub(super) error: Error,
    pub(super) step: Ns,
    pub(super) calls: u64,
    pub(super) first: Option<Ns>,
    pub(super) last: Ns,
    /// Calls that came too late to be sorted in, and the first of them.
    pub(super) unsorted: u64,
    pub(super) unsorted_first: Option<(u64, Ns)>,
    needs_account: bool,
}

impl Proof {
    pub(super) fn new(limits: &[Limit]) -> Self {
        Self {
            found: limits.iter().map(|_| Found::default()).collect(),
            error: Error::default(),
            step: 1,
            calls: 0,
            first: None,
            last: Ns::MIN,
            unsorted: 0,
            unsorted_first: None,
            needs_account: limits.iter().any(|limit| limit.per_account),
        }
    }

    /// Whether a call counts only with its account.
    pub(super) fn needs_account(&self) -> bool {
        self.needs_account
    }

    pub(super) fn stamps(&mut self, step: Ns, error: Error) {
        self.step = step;
        self.error = error;
    }

    /// Counts a call for every limit that it counts for. `apis` are the numbers of the limits' own apis.
    pub(super) fn count(&mut self, limits: &[Limit], apis: &[Vec<u32>], entry: &Entry) {
        self.calls += 1;
        if entry.at < self.last {
            self.unsorted += 1;
            self.unsorted_first.get_or_insert((entry.line, self.last - entry.at));
            return;
        }
        self.first.get_or_insert(entry.at);
        self.last = entry.at;
        for (place, limit) in limits.iter().enumerate() {
            let Ok(rule) = &limit.rule else { continue };
            let found = &mut self.found[place];
            if !apis[place].is_empty() || limit.per_api {
                if entry.api.is_none() {
                    found.without_api += 1;
                    continue;
                }
                let own = &apis[place];
                if !own.is_empty() && entry.api.is_none_or(|api| !own.contains(&api)) {
                    continue;
                }
            }
            found.calls += 1;
            if entry.end.is_none() {
                found.without_end += 1;
            }
            found.arrive(limit, rule, entry, self.error);
        }
    }

    /// Counts a call for the limit at that place only. Calls of one counter come in the order of time.
    pub(super) fn count_one(&mut self, limits: &[Limit], place: usize, entry: &Entry) {
        let (Some(limit), Some(found)) = (limits.get(place), self.found.get_mut(place)) else {
            return;
        };
        let Ok(rule) = &limit.rule else { return };
        found.calls += 1;
        found.arrive(limit, rule, entry, self.error);
    }
}
