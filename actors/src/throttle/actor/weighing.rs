//! What calls cost: before, for the gate's decision, and after, where only the answer tells.

use std::borrow::Cow;

use tollgate_gate::{Cost, PermitId, Rule};

use super::Throttle;
use crate::budget::{ForBudget, Grant, What};
use crate::collector::{Item, Outcome};
use crate::plan::Platform;
use crate::recipe::{self, FetchContext};
use crate::shard::permit::BodyRead;
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

/// The number of the job that a fetch's call is about: its own where the api names none.
pub(super) fn job_of(platform: &Platform, api: u16, item: &Item) -> u64 {
    let declared = platform.apis.get(usize::from(api)).filter(|api| api.job.is_some());
    let Some(api) = declared else { return item.origin.0 };
    let context = FetchContext {
        account: &item.lane.account.account,
        id: &item.id,
        params: &item.fetch.params,
        queued_at: item.queued_at,
    };
    recipe::job(platform, api, &context).unwrap_or(item.origin.0)
}

impl Throttle {
    /// An answer says that the job that its call is about is over: it takes no place any more, neither of the account
    /// nor of a budget. Should that be lost, its time is over some day.
    pub(super) fn job_over(&mut self, id: PermitId, api: u16, item: &Item) {
        let job = job_of(&self.platform, api, item);
        let limits = &self.platform.limits;
        if self.gate.release(limits, job) {
            // Kept at the latest before the account rests.
            self.stale = true;
        } else {
            // The job of a call takes its place when the call is over.
            self.jobs_over.insert(id, job);
        }
        let Some(declared) = self.platform.apis.get(usize::from(api)) else { return };
        let context = FetchContext {
            account: &item.lane.account.account,
            id: &item.id,
            params: &item.fetch.params,
            queued_at: item.queued_at,
        };
        for (place, budget) in (0..).zip(&self.platform.budgets) {
            let mut limits = budget.counted.limits.limits().iter();
            if !limits.any(|limit| matches!(limit.rule, Rule::Jobs { .. })) {
                continue;
            }
            let Some(key) = recipe::budget_of(&self.platform, declared, &context, place) else {
                continue;
            };
            let running = self.shard.running.borrow();
            let mut grants = running.get(&id).into_iter().flat_map(|running| &running.grants);
            let of = grants.find(|grant| *grant.key() == key).map(Grant::id);
            let what = What::JobOver { job, of };
            self.shard.to_budget(ForBudget { key: key.clone(), what });
        }
    }

    /// A call is over in the gate; so is its job, if its answer said so.
    pub(super) fn job_ended(&mut self, id: PermitId) {
        if let Some(job) = self.jobs_over.remove(&id) {
            self.gate.release(&self.platform.limits, job);
        }
    }

    /// The attempt is over: what its call cost is known as well as it will be. `grants`: of its budgets.
    pub(super) fn settle(
        &mut self,
        id: PermitId,
        outcome: &Outcome,
        body: BodyRead,
        grants: Vec<Grant>,
    ) {
        for mut grant in grants {
            grant.settle(outcome, body);
        }
        let limits = &self.platform.limits;
        if !self.platform.costs.are_settled() {
            // Held back under limits that are not in force any more.
            self.gate.end_held_back(limits, id);
            self.job_ended(id);
            return;
        }
        let now = self.shard.clock.now();
        let came = Came::of(outcome, self.gate.held_back(id), body);
        for (place, counts) in &self.platform.costs.counts {
            let guess = self.gate.cost_of(id, *place).map_or(0, |cost| cost.units);
            if let Some(units) = came.units(*counts, guess) {
                self.gate.settle(limits, id, *place, units, now);
            }
        }
        self.gate.end_held_back(limits, id);
        self.job_ended(id);
    }
}
