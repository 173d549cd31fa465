//! How much of what its limits allow an account used: the least time its calls need over the time they
//! took, per limit, over stretches with work waiting.

use std::collections::HashMap;

use tollgate_gate::{ApiIx, At, Cost, LimitSet, Span, time_needed};

use crate::ids::Slug;
use crate::telemetry::Totals;

#[derive(Debug, Clone, Copy)]
struct Stretch {
    first: At,
    last: At,
    units: u64,
}

/// The stretches of one account that are not told yet.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    stretches: HashMap<(usize, Option<ApiIx>), Stretch>,
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
            let stretch =
                self.stretches.entry(key).or_insert(Stretch { first: at, last: at, units: 0 });
            stretch.last = at;
            stretch.units += units;
        }
    }

    /// Nothing waits any more, or the account rests: tells what is there and starts anew.
    pub(crate) fn tell(&mut self, platform: &Slug, limits: &LimitSet, totals: &Totals) {
        for ((place, _), stretch) in self.stretches.drain() {
            let limit = &limits.limits()[place];
            let needed = time_needed(limit.rule, stretch.units);
            if needed > Span(0) {
                let taken = stretch.last.since(stretch.first);
                totals.limit_used(platform, &limit.name, needed, taken);
            }
        }
    }
}
