//! When a limit has room for a call: what counts now, and when enough of it has left.
//!
//! For all rules but the bucket a call goes when what still counts leaves room for its cost. They differ in
//! when a charge leaves: after a window, at a reset of a calendar, with the window that the first call opened, when a
//! job is over. A bucket is a bound for every stretch of time: what was charged from any moment on, and the
//! cost, is at most what it holds and what has flowed in since. As charges are no earlier than arrivals, this
//! holds for arrivals.

use crate::charges::{Charges, ticks};
use crate::decide::{Cost, Opens};
use crate::ledger::{Ledger, Permit, State};
use crate::limit::{ApiIx, Limit, LimitSet, Rule, TICKS};
use crate::time::{At, Span};

impl Ledger {
    /// When a call of `api` with that many units, not zero and not more than there can be, may go by this limit.
    pub(crate) fn opens(
        &self,
        limits: &LimitSet,
        place: usize,
        limit: &Limit,
        (api, units): (ApiIx, u32),
        now: At,
    ) -> Opens {
        if let Some(unit) = limit.rule.unit_ticks() {
            return self.bucket_opens(place, limit, (api, units), unit, now);
        }
        let left = match limit.rule.window() {
            Some(_) => limits.left_by(limit, now),
            None => now,
        };
        let mut count = u64::from(units);
        for charges in self.charges_of(place, limit, api) {
            let left =
                charges.opened().and_then(|opened| opened.left_by(now)).unwrap_or(left).max(left);
            count += charges.after(left).iter().map(|entry| u64::from(entry.calls)).sum::<u64>();
        }
        for (at, units) in self.unfinished(place, limit, api) {
            if at.is_none_or(|at| at > left) {
                count += u64::from(units);
            }
        }
        match count.checked_sub(u64::from(limit.rule.max())) {
            None | Some(0) => Opens::Now,
            Some(too_many) => self.opens_later(limits, place, limit, api, (left, too_many), now),
        }
    }

    /// When so many of the units that count at `now` have left.
    fn opens_later(
        &self,
        limits: &LimitSet,
        place: usize,
        limit: &Limit,
        api: ApiIx,
        (left, too_many): (At, u64),
        now: At,
    ) -> Opens {
        // By their charges, or, where the charge alone does not tell, by when they leave.
        let is_dated = limit.rule.window().is_some();
        let by_age = |at| limits.leaves(limit, at);
        let ahead = matches!(limit.rule, Rule::FirstUse { .. });
        let mut known: Vec<(At, u32)> = Vec::new();
        for charges in self.charges_of(place, limit, api) {
            let opened = charges.opened();
            let left = opened.and_then(|opened| opened.left_by(now)).unwrap_or(left).max(left);
            known.extend(charges.after(left).iter().map(|entry| {
                let at = match opened {
                    Some(opened) => opened.leaves(entry.at, by_age(entry.at)),
                    None if ahead => by_age(entry.at),
                    None => entry.at,
                };
                (at, entry.calls)
            }));
        }
        for (at, units) in self.unfinished(place, limit, api) {
            if let Some(at) = at.filter(|at| *at > left) {
                known.push((if ahead { by_age(at) } else { at }, units));
            }
        }
        known.sort_unstable();
        let mut gone = 0;
        for (at, units) in known {
            gone += u64::from(units);
            if gone >= too_many {
                let at = if ahead || !is_dated { at } else { by_age(at) };
                // Whatever a calendar answers: a wait is never over already.
                return Opens::At(at.max(now.plus(Span(1))));
            }
        }
        Opens::Unknown
    }

    fn bucket_opens(
        &self,
        place: usize,
        limit: &Limit,
        (api, units): (ApiIx, u32),
        unit: u128,
        now: At,
    ) -> Opens {
        let holds = u64::from(limit.rule.max());
        let mut taken = u64::from(units);
        let mut known: Vec<(At, u32)> = Vec::new();
        for (at, units) in self.unfinished(place, limit, api) {
            match at {
                Some(at) => known.push((at, units)),
                None => taken += u64::from(units),
            }
        }
        if taken > holds {
            return Opens::Unknown;
        }
        let flows_in = |taken: u64| -> i128 {
            let units = i128::from(taken) - i128::from(holds);
            units.saturating_mul(i128::try_from(unit).unwrap_or(i128::MAX))
        };
        let mut opens = i128::MIN;
        let mut count = |at: At, units: u32| {
            taken += u64::from(units);
            if taken > holds {
                opens = opens.max(ticks(at).saturating_add(flows_in(taken)));
            }
        };
        let mut own = self.charges_of(place, limit, api);
        let (first, second) = (own.next(), own.next());
        match (first, second) {
            (Some(only), None) if known.is_empty() => {
                only.entries().iter().rev().for_each(|entry| count(entry.at, entry.calls));
            }
            _ => {
                for charges in self.charges_of(place, limit, api) {
                    known.extend(charges.entries().iter().map(|entry| (entry.at, entry.calls)));
                }
                known.sort_unstable();
                known.into_iter().rev().for_each(|(at, units)| count(at, units));
            }
        }
        // What was folded is older than all of it.
        let mut drained = self
            .charges_of(place, limit, api)
            .filter_map(Charges::drained)
            .map(|own| own.at_rate(unit));
        if let Some(first) = drained.next() {
            let full_at = drained.fold(first.full_at(), |full_at, other| {
                // Two counters of one bucket: as if the one had been emptied after the other.
                full_at.max(other.full_at()).saturating_add_unsigned(first.ticks.min(other.ticks))
            });
            opens = opens.max(full_at.saturating_add(flows_in(taken)));
        }
        // Rounded up to whole microseconds.
        let micros = -(opens.saturating_neg().div_euclid(TICKS as i128));
        let at = At(i64::try_from(micros).unwrap_or(if micros > 0 { i64::MAX } else { i64::MIN }));
        if at > now { Opens::At(at) } else { Opens::Now }
    }

    /// The counters of a limit that count calls of `api`.
    pub(crate) fn charges_of<'a>(
        &'a self,
        place: usize,
        limit: &Limit,
        api: ApiIx,
    ) -> impl Iterator<Item = &'a Charges> + Clone {
        let bucket = limit.bucket(api);
        self.charges
            .iter()
            .filter(move |charges| charges.limit == place && charges.count_in(bucket))
    }

    /// What takes places in the limit's counter for calls of `api` and is not among its charges: calls in
    /// flight, jobs, slots of a dead writer. With each its units and, for a limit that counts by time,
    /// the charge, else when it leaves; `None` if a report must come first.
    pub(crate) fn unfinished<'a>(
        &'a self,
        place: usize,
        limit: &'a Limit,
        api: ApiIx,
    ) -> impl Iterator<Item = (Option<At>, u32)> + 'a {
        let bucket = limit.bucket(api);
        let mine = move |api: ApiIx| limit.matches(api) && limit.bucket(api) == bucket;
        let is_dated = limit.rule.window().is_some();
        let is_concurrent = matches!(limit.rule, Rule::Concurrent { .. });
        let in_flight = self
            .permits
            .iter()
            .filter(move |permit| mine(permit.api))
            .filter_map(move |permit| permit.takes(place, limit, is_dated))
            .filter(|(_, units)| *units > 0);
        let slots = self.slots.iter().filter(move |slot| {
            !is_dated && slot.limit.map_or(is_concurrent, |(of, _)| of == place) && mine(slot.api)
        });
        in_flight.chain(slots.map(|slot| (Some(slot.until), slot.calls)))
    }
}

impl Permit {
    /// What the call takes in a limit's counter beyond its charges there.
    fn takes(&self, place: usize, limit: &Limit, is_dated: bool) -> Option<(Option<At>, u32)> {
        let cost = self.cost(place);
        match (is_dated, self.state) {
            (false, _) | (true, State::Uncharged) => Some((None, cost.units)),
            (true, State::Written(_)) => Some((self.state.charge(limit), cost.units)),
            (true, State::Answered { .. }) if cost.is_estimate => {
                Some((self.state.charge(limit), cost.units))
            }
            (true, State::Answered { .. } | State::Charged) => None,
        }
    }

    pub(crate) fn cost(&self, place: usize) -> Cost {
        let costs = self.costs.as_deref().unwrap_or(&[]);
        costs.get(place).copied().unwrap_or(Cost::ONE)
    }
}

impl State {
    /// When a limit charges the call, as far as it is known.
    pub(crate) fn charge(self, limit: &Limit) -> Option<At> {
        match self {
            Self::Uncharged | Self::Charged => None,
            Self::Written(at) => limit.charge_of(at),
            Self::Answered { at, written } => {
                let known = written.and_then(|written| limit.charge_of(written));
                Some(known.map_or(at, |known| known.min(at)))
            }
        }
    }
}
