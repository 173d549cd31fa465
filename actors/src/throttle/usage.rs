//! How much of what its limits allow an account used: the least time its calls need over the time they
//! took, per limit, over stretches with work waiting.

use std::collections::HashMap;

use tollgate_gate::{ApiIx, At, Cost, LimitSet, Span, time_needed};

use crate::ids::Slug;
use crate::telemetry::Totals;

/// How long a stretch goes on before it is told so far.
const TELL_EVERY: Span = Span::from_secs(10);

#[derive(Debug, Clone, Copy)]
struct Stretch {
    first: At,
    last: At,
    units: u64,
    /// What was told of it: the time needed, and taken.
    told: (Span, Span),
}

/// The stretches of one account that are not over.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    stretches: HashMap<(usize, Option<ApiIx>), Stretch>,
    told_at: Option<At>,
}

impl Usage {
    /// A call of this api went out, with these costs.
    pub(crate) fn call(&mut self, limits: &LimitSet, api: ApiIx, costs: &[Cost], at: At) {
        for (place, limit) in limits.limits().iter().enumerate() {
            if limit.api.is_some_and(|only| only != api) {
                continue;
            }
            let units = costs.get(place).map_or(1, |cost| u64::from(cost.units));
            if units == 0 {
                continue;
            }
            let key = (place, limit.per_api.then_some(api));
            let told = (Span::ZERO, Span::ZERO);
            let new = Stretch { first: at, last: at, units: 0, told };
            let stretch = self.stretches.entry(key).or_insert(new);
            stretch.last = at;
            stretch.units += units;
        }
    }

    /// The stretches go on: tells what is there if the last time was long ago.
    pub(crate) fn goes_on(&mut self, platform: &Slug, limits: &LimitSet, totals: &Totals, now: At) {
        if self.told_at.get_or_insert(now).plus(TELL_EVERY) > now {
            return;
        }
        self.told_at = Some(now);
        for ((place, _), stretch) in &mut self.stretches {
            stretch.tell(platform, limits, *place, totals);
        }
    }

    /// Nothing waits any more, or the account rests: tells what is there and starts anew.
    pub(crate) fn tell(&mut self, platform: &Slug, limits: &LimitSet, totals: &Totals) {
        for ((place, _), mut stretch) in self.stretches.drain() {
            stretch.tell(platform, limits, place, totals);
        }
        self.told_at = None;
    }
}

impl Stretch {
    /// Tells what was not told yet.
    fn tell(&mut self, platform: &Slug, limits: &LimitSet, place: usize, totals: &Totals) {
        let limit = &limits.limits()[place];
        let needed = time_needed(limit.rule, self.units);
        if needed == Span::ZERO {
            return;
        }
        // Two stamps of one clock can put the last call a hair before it was due.
        let taken = self.last.since(self.first).max(needed);
        let (told_needed, told_taken) = std::mem::replace(&mut self.told, (needed, taken));
        let more = |now: Span, before: Span| Span(now.0.saturating_sub(before.0));
        totals.limit_used(
            platform,
            &limit.name,
            more(needed, told_needed),
            more(taken, told_taken),
        );
    }
}
