//! How much of each limit is used: the same counters that [`decide`](crate::decide) asks, for people.

use crate::charges::{Charges, ticks};
use crate::ledger::Ledger;
use crate::limit::{API_GONE, ApiIx, Limit, LimitSet, Rule, TICKS};
use crate::time::{At, Span};

/// One counter of a limit as of a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// Place of the limit in its set.
    pub limit: usize,
    /// Whose calls it counts; `None`: those of all apis of the limit together.
    pub bucket: Option<ApiIx>,
    /// Units whose charges count; of a bucket, what is missing in it, rounded up.
    pub charged: u64,
    /// Units of calls in flight and of jobs, which count as long as they go on.
    pub unfinished: u64,
    /// Charges after this moment count; `None` where they do not count by their age: in a bucket, in flight.
    pub since: Option<At>,
    /// When the first of the charges has left, or a bucket is full again, if there are any.
    pub frees: Option<At>,
    /// When all of them have.
    pub clears: Option<At>,
    /// When a call that was charged now would have.
    pub renews: Option<At>,
    /// The charges in order of time, as they are kept: some are rounded up, and older ones of a bucket left out.
    pub charges: Vec<(At, u32)>,
}

impl Use {
    /// All units that count.
    pub fn used(&self) -> u64 {
        self.charged.saturating_add(self.unfinished)
    }

    /// The least time from `now` until `calls` more units have gone under that limit, if nothing else holds them: what
    /// the rule costs, given what counts already. Calls in flight are taken to be charged now, and each call to be
    /// charged `lag` after it went.
    ///
    /// ```
    /// use core::num::NonZeroU32;
    /// use tollgate_gate::*;
    /// let hourly = Limit {
    ///     name: "hourly".into(),
    ///     per_api: false,
    ///     api: None,
    ///     rule: Rule::Sliding { max: NonZeroU32::new(2).unwrap(), window: Span::from_secs(3600) },
    ///     guard: Guard::After(Span::ZERO),
    /// };
    /// let limits = LimitSet::new(vec![hourly.clone()]).unwrap();
    /// let (mut ledger, s) = (Ledger::new(), 1_000_000);
    /// ledger.take(&limits, PermitId(1), Ask::new(0), At(0));
    /// ledger.answered(&limits, PermitId(1), At(0));
    /// ledger.ended(&limits, PermitId(1), At(0), Sent::Maybe);
    /// let now = At(600 * s);
    /// let used = &ledger.uses(&limits, &[0], now)[0];
    /// assert_eq!((used.used(), used.frees), (1, Some(At(3600 * s))));
    /// assert_eq!(used.least(&hourly, 1, Span::ZERO, now), Span::ZERO);
    /// assert_eq!(used.least(&hourly, 2, Span::ZERO, now), Span::from_secs(3000)); // when the first has left
    /// assert_eq!(used.least(&hourly, 4, Span::ZERO, now), Span::from_secs(3000 + 3600));
    /// ```
    pub fn least(&self, limit: &Limit, calls: u64, lag: Span, now: At) -> Span {
        let max = u64::from(limit.rule.max());
        if let Some(unit) = limit.rule.unit_ticks() {
            let more = self.used().saturating_add(calls).saturating_sub(max);
            let span = unit.saturating_mul(more.into()).div_ceil(TICKS);
            return Span(u64::try_from(span).unwrap_or(u64::MAX));
        }
        let Some(window) = limit.window() else { return Span::ZERO };
        let free = max.saturating_sub(self.used());
        let Some(beyond) = calls.checked_sub(free).filter(|beyond| *beyond > 0) else {
            return Span::ZERO;
        };
        // Of the last window's calls, the one that must leave for the last to go: full windows before it, then
        // its place among what counts now.
        let (windows, place) = ((beyond - 1) / max, (beyond - 1) % max);
        let mut gone = 0;
        let by_age = |at: At| match limit.rule {
            Rule::Calendar { .. } | Rule::FirstUse { .. } => self.frees.unwrap_or(now),
            _ => at.plus(window),
        };
        let first = self.charges.iter().find_map(|(at, units)| {
            gone += u64::from(*units);
            (gone > place).then(|| by_age(*at))
        });
        // What is in flight is charged about now.
        let first = first.unwrap_or_else(|| self.renews.unwrap_or(now).plus(lag));
        Span(
            first
                .since(now)
                .0
                .saturating_add(Span(window.0.saturating_add(lag.0)).times(windows).0),
        )
    }
}

impl Ledger {
    /// What counts of each limit at `now`, counter by counter: those of `apis`, and those in which something counts.
    pub fn uses(&self, limits: &LimitSet, apis: &[ApiIx], now: At) -> Vec<Use> {
        let mut own = self.clone();
        own.prune(limits, now);
        let mut uses = Vec::new();
        for (place, limit) in limits.limits().iter().enumerate() {
            if limit.per_api && limit.api.is_none() {
                let charged = own.charges.iter().filter(|charges| charges.limit == place);
                let flying = own.permits.iter().map(|permit| permit.api);
                let slots = own.slots.iter().map(|slot| slot.api);
                let mut known: Vec<ApiIx> = charged
                    .filter_map(|charges| charges.bucket)
                    .chain(flying)
                    .chain(slots)
                    .chain(apis.iter().copied())
                    .filter(|api| *api != API_GONE && limit.matches(*api))
                    .collect();
                known.sort_unstable();
                known.dedup();
                uses.extend(
                    known.into_iter().map(|api| own.use_of(limits, place, limit, api, now)),
                );
            } else {
                let api = limit.api.unwrap_or(0);
                uses.push(own.use_of(limits, place, limit, api, now));
            }
        }
        uses
    }

    /// One counter of a ledger that was pruned.
    fn use_of(&self, limits: &LimitSet, place: usize, limit: &Limit, api: ApiIx, now: At) -> Use {
        let unfinished =
            self.unfinished(place, limit, api).map(|(_, units)| u64::from(units)).sum();
        let mut charges: Vec<(At, u32)> = self
            .charges_of(place, limit, api)
            .flat_map(|charges| charges.entries().iter().map(|entry| (entry.at, entry.calls)))
            .collect();
        charges.sort_unstable();
        let bucket = limit.bucket(api);
        let sum = charges.iter().map(|(_, units)| u64::from(*units)).sum();
        let of = Use {
            limit: place,
            bucket,
            charged: sum,
            unfinished,
            since: None,
            frees: None,
            clears: None,
            renews: None,
            charges,
        };
        if let Some(unit) = limit.rule.unit_ticks() {
            return self.used_of_bucket((place, limit, api), of, unit, now);
        }
        if limit.window().is_none() {
            return of;
        }
        let leaves = |at: At| {
            let by_age = limits.leaves(limit, at);
            let opened = self.charges_of(place, limit, api).find_map(Charges::opened);
            opened.map_or(by_age, |opened| opened.leaves(at, by_age))
        };
        let frees = of.charges.first().map(|(at, _)| leaves(*at));
        let clears = of.charges.last().map(|(at, _)| leaves(*at));
        let (since, renews) = (Some(limits.left_by(limit, now)), Some(leaves(now)));
        Use { since, frees, clears, renews, ..of }
    }

    fn used_of_bucket(
        &self,
        (place, limit, api): (usize, &Limit, ApiIx),
        of: Use,
        unit: u128,
        now: At,
    ) -> Use {
        let drained = self.charges_of(place, limit, api).filter_map(Charges::drained);
        let before = drained.map(|drained| drained.at_rate(unit).full_at()).max();
        let flows_in = |units: u32| i128::try_from(unit.saturating_mul(units.into()));
        let full_at = of.charges.iter().fold(before, |full_at, (at, units)| {
            let from = full_at.unwrap_or(i128::MIN).max(ticks(*at));
            Some(from.saturating_add(flows_in(*units).unwrap_or(i128::MAX)))
        });
        let missing = full_at.map_or(0, |full_at| full_at.saturating_sub(ticks(now)).max(0));
        let charged = u64::try_from(missing.unsigned_abs().div_ceil(unit)).unwrap_or(u64::MAX);
        let clears = full_at.filter(|_| charged > 0).and_then(|full_at| {
            i64::try_from(full_at.saturating_add(TICKS as i128 - 1).div_euclid(TICKS as i128)).ok()
        });
        Use { charged, frees: clears.map(At), clears: clears.map(At), ..of }
    }
}
