//! What calls cost: before, for the gate's decision, and after, where only the answer tells.

use std::borrow::Cow;

use tollgate_gate::{Cost, PermitId};

use super::Throttle;
use crate::budget::Grant;
use crate::collector::{Item, Outcome};
use crate::plan::Platform;
use crate::recipe::FetchContext;
use crate::throttle::came::Came;

/// What a fetch's call costs. Whether it can be told was checked when the fetch was read; if it cannot be any
/// more, it is what calls of its api usually cost. `later`: whether a page of its read was stored before.
pub(super) fn costs_of<'a>(
    platform: &'a Platform,
    api: u16,
    item: &Item,
    later: bool,
) -> Cow<'a, [Cost]> {
    let context = FetchContext {
        account: &item.lane.account.account,
        id: &item.id,
        params: &item.fetch.params,
        queued_at: item.queued_at,
    };
    let costs = platform.costs.of(&platform.limits, platform, api, &context);
    let costs = costs.unwrap_or_else(|_| Cow::Borrowed(platform.costs.usual(api)));
    if later { platform.costs.of_later_page(&platform.limits, costs) } else { costs }
}

impl Throttle {
    /// The attempt is over: what its call cost is known as well as it will be. `grants`: of its budgets.
    pub(super) fn settle(&mut self, id: PermitId, outcome: &Outcome, grants: Vec<Grant>) {
        for mut grant in grants {
            grant.settle(outcome);
        }
        let limits = &self.platform.limits;
        if !self.platform.costs.are_settled() {
            // Held back under limits that are not in force any more.
            self.gate.end_held_back(limits, id);
            return;
        }
        let now = self.shard.clock.now();
        let came = Came::of(outcome, self.gate.held_back(id));
        for (place, counts) in &self.platform.costs.counts {
            if let Some(units) = came.units(*counts) {
                self.gate.settle(limits, id, *place, units, now);
            }
        }
        self.gate.end_held_back(limits, id);
    }
}
