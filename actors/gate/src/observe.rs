//! What a provider's answers say of a limit, folded into the ledger.
//!
//! A provider knows what others have used up, and it may count otherwise than was declared. So what it says
//! may close the gate earlier than the declared limits would, and never opens it earlier than they do.
//!
//! An answer was written at some moment of its call's flight, and does not know of calls that arrived later.
//! Which those are cannot be seen from here, so what is believed is
//!
//! - of answers that were in flight together, the least that one of them says is left: whichever of their calls
//!   came last, it has counted the others, or more was allowed meanwhile;
//! - less the calls that may not be in any of them, [`Seen::unknown`], and every call that goes from then on;
//! - until an answer to a later call says otherwise. One to an earlier call never raises it, nor does any that
//!   speaks of the same reset: what is left of one window only falls.
//!
//! There are two forms:
//! - with a time at which more is allowed again ([`Seen::until`]): at most so many calls go before it. Right
//!   for every kind of limit;
//! - without one: somebody else has used so many places of the limit, and gives them back one window from now
//!   at the latest. Own calls go on leaving the window at their own times.

use crate::charges::Charges;
use crate::decide::Opens;
use crate::ledger::{Ledger, PermitId};
use crate::limit::{ApiIx, LimitSet, Rule};
use crate::time::{At, Span};

/// Most observations with a reset that are kept for one counter. Beyond them the two that end first are
/// joined: the fewer calls until the later end. That may stop too much for a while, never too little.
pub const OBSERVED_MAX: usize = 4;
/// Two resets that differ by no more, nor by more than a quarter of the window, are the same: they are mostly
/// told in whole seconds.
const SAME_RESET: Span = Span::from_secs(2);

/// What an answer said of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The limit's place in its set.
    pub limit: usize,
    /// The api of the call that was answered: which counter of the limit is meant.
    pub api: ApiIx,
    /// How many further units (calls, mostly) it says are allowed, the answered call not among them.
    pub left: u32,
    /// How many units calls of this account cost that the answer may not know of: those in flight beside it when it came,
    /// and those that ended during its flight without an answer that said what is left.
    pub unknown: u32,
    /// When the answered call was taken: the answer knows of everything that was answered before.
    pub as_of: At,
    /// When more is allowed again; nothing if it does not say.
    pub until: Option<At>,
}

/// What became of an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It stops nothing that the declared limits do not stop.
    None,
    /// It is kept: fewer calls may go than the declared limits allow.
    Kept,
    /// It speaks of no limit of the set, or says nothing of a time for a limit that does not count by
    /// windows: it is not used.
    Unusable,
}

/// Something a provider said that stops calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observed {
    /// Place of the limit in its set.
    pub(crate) limit: usize,
    /// The api it is about; `None`: all that the limit counts.
    pub(crate) bucket: Option<ApiIx>,
    pub(crate) what: What,
    /// It counts before this moment.
    pub(crate) until: At,
    /// The least that was said to be left.
    pub(crate) said: u32,
    /// When that was heard last.
    pub(crate) heard: At,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// So many calls may still go. Below zero: so many too many have gone.
    Left(i64),
    /// Others have taken so many places.
    Others(u32),
}

impl Observed {
    fn is_of(&self, limit: usize, bucket: Option<ApiIx>) -> bool {
        self.limit == limit && (self.bucket.is_none() || self.bucket == bucket)
    }

    fn same_counter(&self, other: &Self) -> bool {
        (self.limit, self.bucket) == (other.limit, other.bucket)
    }

    pub(crate) fn left(&self) -> Option<i64> {
        match self.what {
            What::Left(left) => Some(left),
            What::Others(_) => None,
        }
    }
}

impl Ledger {
    /// Folds in what the answer to one of this account's calls said of a limit. The gate opens no earlier
    /// than the declared limits let it.
    ///
    /// A moment that has passed says nothing. How far away [`Seen::until`] may be is the caller's to bound.
    ///
    /// ```
    /// use core::num::NonZeroU32;
    /// use tollgate_gate::*;
    /// let hourly = Limit {
    ///     name: "hourly".into(),
    ///     per_api: false,
    ///     api: None,
    ///     rule: Rule::Sliding { max: NonZeroU32::new(60).unwrap(), window: Span::from_secs(3600) },
    ///     guard: Guard::After(Span::ZERO),
    /// };
    /// let limits = LimitSet::new(vec![hourly]).unwrap();
    /// let (mut ledger, ask, s) = (Ledger::new(), Ask::new(0), 1_000_000);
    /// let call = |ledger: &mut Ledger, id, at| {
    ///     ledger.take(&limits, PermitId(id), ask, at);
    ///     ledger.answered(&limits, PermitId(id), at);
    ///     ledger.ended(&limits, PermitId(id), at, Sent::Maybe);
    /// };
    /// call(&mut ledger, 1, At(0));
    /// // Somebody else has used up nearly all of it: one call is left until 600 s.
    /// let until = Some(At(600 * s));
    /// let seen = Seen { limit: 0, api: 0, left: 1, unknown: 0, as_of: At(0), until };
    /// assert_eq!(ledger.observe(&limits, &seen, At(0)), Effect::Kept);
    /// call(&mut ledger, 2, At(s));
    /// let wait = Decision::WaitUntil { at: Some(At(600 * s)), because: Because::Limit(0) };
    /// assert_eq!(decide(&limits, &ledger, ledger.holds(), ask, At(2 * s)), wait);
    /// // One that says more of the same window raises nothing.
    /// let stale = Seen { left: 50, ..seen };
    /// ledger.observe(&limits, &stale, At(2 * s));
    /// assert_eq!(decide(&limits, &ledger, ledger.holds(), ask, At(2 * s)), wait);
    /// ```
    pub fn observe(&mut self, limits: &LimitSet, seen: &Seen, now: At) -> Effect {
        let Some(limit) = limits.limits().get(seen.limit) else { return Effect::Unusable };
        if !limit.matches(seen.api) {
            return Effect::Unusable;
        }
        let max = limit.rule.max();
        let until = match (seen.until, limit.rule) {
            // It flows in by itself: at the latest when all that is missing has.
            (None, Rule::Bucket { rate, per, .. }) => {
                let missing = u64::from(max.saturating_sub(seen.left));
                Some(now.plus(Span(per.times(missing).0.div_ceil(u64::from(rate.get())))))
            }
            (until, _) => until,
        };
        let new = Observed {
            limit: seen.limit,
            bucket: limit.bucket(seen.api),
            what: What::Left(i64::from(seen.left) - i64::from(seen.unknown)),
            until: until.unwrap_or(now),
            said: seen.left,
            heard: now,
        };
        match (until, limit.rule.window()) {
            (Some(until), _) if until <= now => Effect::None,
            (Some(_), window) => {
                let same = window.map_or(SAME_RESET, |window| Span(window.0 / 4).min(SAME_RESET));
                self.observed.retain(|old| old.until > now);
                self.hear_left(new, seen, same, max)
            }
            (None, Some(_)) => {
                let own = self.used(limits, seen.limit, seen.api, now);
                let new = Observed { until: limits.leaves(limit, now), ..new };
                self.hear_others(new, seen, max, own)
            }
            (None, None) => Effect::Unusable,
        }
    }

    fn hear_left(&mut self, mut new: Observed, seen: &Seen, same: Span, max: u32) -> Effect {
        let unknown = i64::from(seen.unknown);
        self.observed.retain_mut(|old| {
            let (true, Some(left)) = (old.same_counter(&new), old.left()) else { return true };
            let same = old.until.since(new.until).max(new.until.since(old.until)) <= same;
            if old.heard <= seen.as_of {
                // The answer is about a later moment. But one window's rest does not grow.
                if same {
                    new.said = new.said.min(old.said);
                    new.what = What::Left(new.left().unwrap_or(left).min(left));
                }
                return false;
            }
            if same || old.until < new.until {
                old.said = old.said.min(seen.left);
            }
            if same || old.until > new.until {
                new.said = new.said.min(old.said);
            }
            // Its call was in flight when that was heard, and so was taken off it; now it has been told.
            old.what = What::Left(i64::from(old.said) - unknown);
            true
        });
        new.what = What::Left(new.left().unwrap_or(0).min(i64::from(new.said) - unknown));
        if i64::from(seen.left) - unknown >= i64::from(max) {
            return Effect::None;
        }
        self.keep(new);
        Effect::Kept
    }

    fn hear_others(&mut self, mut new: Observed, seen: &Seen, max: u32, own: u32) -> Effect {
        self.observed.retain(|old| {
            let others = matches!(old.what, What::Others(_)) && old.same_counter(&new);
            if others && old.heard > seen.as_of {
                new.said = new.said.min(old.said);
            }
            !others
        });
        let used = max.saturating_sub(new.said);
        let known = own.saturating_sub(seen.unknown);
        let Some(others @ 1..) = used.checked_sub(known) else { return Effect::None };
        self.keep(Observed { what: What::Others(others), ..new });
        Effect::Kept
    }

    /// How many units of the limit calls of this account take at `now`, those of `api` being asked about. What
    /// others use ([`Ledger::observe`]) is not among them.
    fn used(&self, limits: &LimitSet, place: usize, api: ApiIx, now: At) -> u32 {
        let Some(limit) = limits.limits().get(place) else { return 0 };
        let left = limits.left_by(limit, now);
        let mut used = 0_u64;
        for charges in self.charges_of(place, limit, api) {
            let opened = charges.opened().and_then(|opened| opened.left_by(now));
            let left = opened.unwrap_or(left).max(left);
            used += charges.after(left).iter().map(|entry| u64::from(entry.calls)).sum::<u64>();
        }
        let open =
            self.unfinished(place, limit, api).filter(|(at, _)| at.is_none_or(|at| at > left));
        used += open.map(|(_, units)| u64::from(units)).sum::<u64>();
        u32::try_from(used).unwrap_or(u32::MAX)
    }

    /// How many units of the limit at that place calls in flight take, beside one of them, as a call of `api`
    /// counts them: what [`Seen::unknown`] is at least.
    pub fn units_in_flight(
        &self,
        limits: &LimitSet,
        place: usize,
        api: ApiIx,
        beside: PermitId,
    ) -> u32 {
        let Some(limit) = limits.limits().get(place) else { return 0 };
        let bucket = limit.bucket(api);
        let others = self.permits.iter().filter(|permit| permit.id != beside);
        let counted =
            others.filter(|permit| limit.matches(permit.api) && limit.bucket(permit.api) == bucket);
        counted.fold(0, |sum, permit| sum.saturating_add(permit.cost(place).units))
    }

    /// When a call may go that may at `opens` by its limit alone, as far as the provider has said something of
    /// it.
    pub(crate) fn opens_observed(
        &self,
        limits: &LimitSet,
        place: usize,
        (api, units): (ApiIx, u32),
        mut opens: Opens,
        now: At,
    ) -> Opens {
        let Some(limit) = limits.limits().get(place).filter(|_| !self.observed.is_empty()) else {
            return opens;
        };
        let alone = opens;
        let bucket = limit.bucket(api);
        for observed in self.observed.iter().filter(|own| own.is_of(place, bucket)) {
            let later = match observed.what {
                _ if observed.until <= now => continue,
                What::Left(left) if left >= i64::from(units) => continue,
                What::Left(_) => Opens::At(observed.until),
                What::Others(others) => {
                    // Beside them, or when they have given their places back.
                    let until = alone.max(Opens::At(observed.until));
                    match units.checked_add(others).filter(|units| *units <= limit.rule.max()) {
                        Some(all) => self.opens(limits, place, limit, (api, all), now).min(until),
                        None => until,
                    }
                }
            };
            opens = opens.max(later);
        }
        opens
    }

    /// Adds an observation. One with a reset goes beside those with another, up to the bound.
    pub(crate) fn keep(&mut self, new: Observed) {
        let Some(left) = new.left() else {
            self.observed.push(new);
            return;
        };
        let of_counter = |old: &&Observed| old.same_counter(&new) && old.left().is_some();
        let covered = |old: &Observed| {
            old.until >= new.until && old.left().is_some_and(|other| other <= left)
        };
        if self.observed.iter().filter(of_counter).any(covered) {
            return;
        }
        self.observed.retain(|old| {
            let idle = old.until <= new.until && old.left().is_some_and(|other| other >= left);
            !(idle && old.same_counter(&new))
        });
        self.observed.push(new);
        let mut ends: Vec<At> =
            self.observed.iter().filter(of_counter).map(|old| old.until).collect();
        if ends.len() > OBSERVED_MAX {
            ends.sort_unstable();
            let mut first: Vec<Observed> = Vec::new();
            self.observed.retain(|old| {
                let joined = of_counter(&old) && old.until <= ends[1];
                if joined {
                    first.push(*old);
                }
                !joined
            });
            let joined = first.into_iter().reduce(|one, other| Observed {
                what: What::Left(one.left().unwrap_or(0).min(other.left().unwrap_or(0))),
                until: one.until.max(other.until),
                said: one.said.min(other.said),
                heard: one.heard.max(other.heard),
                ..one
            });
            self.observed.extend(joined);
        }
    }

    /// A call of `api` goes: what was left is less by its cost.
    pub(crate) fn count_down(
        &mut self,
        limits: &LimitSet,
        api: ApiIx,
        cost: impl Fn(usize) -> i64,
    ) {
        for observed in &mut self.observed {
            let Some(limit) = limits.limits().get(observed.limit) else { continue };
            if limit.matches(api)
                && observed.is_of(observed.limit, limit.bucket(api))
                && let What::Left(left) = &mut observed.what
            {
                *left = left.saturating_sub(cost(observed.limit));
            }
        }
    }

    /// Takes over what the same account's other ledger was told; before anything else of it is. Not `known`:
    /// its calls are not those of this one, so all that each has made are taken off what the other was told is
    /// left.
    pub(crate) fn join_observed(&mut self, own: &Self, known: bool) {
        let calls = |ledger: &Self, observed: &Observed| -> i64 {
            let same = ledger.charges.iter().filter(|charges| charges.limit == observed.limit);
            let entries = same.flat_map(Charges::entries);
            let charged: i64 = entries.map(|entry| i64::from(entry.calls)).sum();
            charged.saturating_add(ledger.permits.len() as i64)
        };
        let less = |observed: &Observed, by: i64| match observed.what {
            What::Left(left) if !known => {
                Observed { what: What::Left(left.saturating_sub(by)), ..*observed }
            }
            _ => *observed,
        };
        let theirs: Vec<Observed> =
            self.observed.iter().map(|observed| less(observed, calls(own, observed))).collect();
        let ours: Vec<Observed> =
            own.observed.iter().map(|observed| less(observed, calls(self, observed))).collect();
        self.observed.clear();
        for new in theirs.into_iter().chain(ours) {
            let others =
                |old: &&mut Observed| old.same_counter(&new) && matches!(old.what, What::Others(_));
            match (new.what, self.observed.iter_mut().find(others)) {
                (What::Others(calls), Some(old)) => {
                    if let What::Others(before) = &mut old.what {
                        *before = calls.max(*before);
                    }
                    old.until = old.until.max(new.until);
                }
                _ => self.keep(new),
            }
        }
    }
}

/// What whoever reads answers asks of a set.
impl LimitSet {
    /// Most calls that the limit at that place allows.
    pub fn max_of(&self, place: usize) -> Option<u32> {
        self.limits().get(place).map(|limit| limit.rule.max())
    }

    /// The window of the limit at that place, if it counts by time.
    pub fn window_of(&self, place: usize) -> Option<Span> {
        self.limits().get(place).and_then(|limit| limit.rule.window())
    }

    /// When what is charged at `at` has left the limit at that place: its next reset, or a window later;
    /// `None` if it does not count by time.
    pub fn boundary(&self, place: usize, at: At) -> Option<At> {
        let limit = self.limits().get(place).filter(|limit| limit.rule.window().is_some())?;
        Some(self.leaves(limit, at))
    }

    /// Whether the limit at that place counts calls of an api.
    pub fn counts(&self, place: usize, api: ApiIx) -> bool {
        self.limits().get(place).is_some_and(|limit| limit.matches(api))
    }

    /// The limit of that name that counts calls of an api, its own before one of all; `None` asks for those of
    /// all only.
    pub fn named(&self, name: &str, api: Option<ApiIx>) -> Option<usize> {
        let of = |api| self.limits().iter().position(|own| own.name == name && own.api == api);
        api.and_then(|api| of(Some(api))).or_else(|| of(None))
    }
}
