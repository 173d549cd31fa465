//! One account's walk, and all of them over the threads.

use std::collections::BTreeMap;

use tollgate_gate::{ApiIx, At, LimitSet, Span, Step, WaitedFor, Walk, time_needed};

use super::demand::Demand;
use super::shared::{self, Budgets, PlaceOfBudget, Sets};
use super::{Assumed, Shape};
use crate::plan::Platform;

/// What an account waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    /// Something of its own.
    For(WaitedFor),
    /// A limit of a budget.
    Budget(PlaceOfBudget),
}

/// What a walk of one account came to.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// When its last call had ended.
    pub(crate) finish: At,
    /// When its last call began.
    pub(crate) last: At,
    pub(crate) calls: u64,
    pub(crate) late: u64,
    pub(crate) never: u64,
    /// The longest first.
    pub(crate) waits: Vec<(Waited, Span)>,
    /// Per api: calls, and the end of the last.
    pub(crate) apis: BTreeMap<ApiIx, (u64, At)>,
    /// Per limit: least time its calls need and time they took, over its counters.
    pub(crate) used: BTreeMap<usize, (Span, Span)>,
}

/// What all walks came to; outcomes by the place of their shape.
pub(crate) struct Walked {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) demand: Demand,
    /// Per limit of a budget: least time its calls need and time they took, over the values of its key.
    pub(crate) used: BTreeMap<PlaceOfBudget, (Span, Span)>,
}

/// A walk with what is noted of it on the way.
pub(super) struct Noted<'a> {
    pub(super) walk: Walk<'a>,
    limits: &'a LimitSet,
    latencies: Vec<Span>,
    alike: u64,
    start: At,
    last: At,
    calls: u64,
    uses: BTreeMap<(usize, Option<ApiIx>), (At, At, u64)>,
    apis: BTreeMap<ApiIx, (u64, At)>,
}

impl<'a> Noted<'a> {
    /// One account of a shape at the start, under these limits.
    pub(super) fn new(
        platform: &Platform,
        limits: &'a LimitSet,
        shape: &Shape,
        start: At,
        assumed: &Assumed,
    ) -> Self {
        let ledger = shape.ledger.clone().unwrap_or_default();
        let latencies = (0..platform.apis.len())
            .map(|api| Span::from(assumed.latency(platform, api as ApiIx)))
            .collect();
        Self {
            walk: Walk::new(limits, ledger, &shape.lanes, start, assumed.concurrency),
            limits,
            latencies,
            alike: shape.accounts.len() as u64,
            start,
            last: start,
            calls: 0,
            uses: BTreeMap::new(),
            apis: BTreeMap::new(),
        }
    }

    pub(super) fn latency(&self, api: ApiIx) -> Span {
        self.latencies.get(usize::from(api)).copied().unwrap_or(Span::ZERO)
    }

    /// Goes on to the next call: [`Walk::step`]. Adds it, and those of all accounts like this one, to the demand.
    pub(super) fn step(
        &mut self,
        demand: &mut Demand,
        admit: impl FnMut(ApiIx, u32, At) -> Option<At>,
    ) -> Step {
        let latencies = &self.latencies;
        let latency = |api: ApiIx| latencies.get(usize::from(api)).copied().unwrap_or(Span::ZERO);
        let step = self.walk.step(latency, admit);
        if let Step::Called { api, at, .. } = step {
            self.calls += 1;
            self.last = at;
            demand.add(at.since(self.start), latency(api), self.alike);
            let ends = at.plus(latency(api));
            let of_api = self.apis.entry(api).or_insert((0, ends));
            *of_api = (of_api.0 + 1, ends.max(of_api.1));
            for (place, limit) in self.limits.limits().iter().enumerate() {
                if limit.api.is_none_or(|only| only == api) {
                    let counter = (place, limit.per_api.then_some(api));
                    let used = self.uses.entry(counter).or_insert((at, at, 0));
                    *used = (used.0, at, used.2 + 1);
                }
            }
        }
        step
    }

    /// What it came to. `shared`: what it waited for in budgets.
    pub(super) fn outcome(
        self,
        shared: impl IntoIterator<Item = (PlaceOfBudget, Span)>,
    ) -> Outcome {
        let mut used: BTreeMap<usize, (Span, Span)> = BTreeMap::new();
        for ((place, _), (first, last, calls)) in self.uses {
            add_use(
                &mut used,
                place,
                time_needed(self.limits.limits()[place].rule, calls),
                first,
                last,
            );
        }
        let (late, never) = (self.walk.late(), self.walk.never());
        // What is shared is told by the budgets themselves.
        let own = self.walk.waits().iter().filter(|(what, _)| *what != WaitedFor::Shared);
        let mut waits: Vec<(Waited, Span)> =
            own.map(|(what, span)| (Waited::For(*what), *span)).collect();
        waits.extend(shared.into_iter().map(|(place, span)| (Waited::Budget(place), span)));
        waits.sort_by_key(|(_, span)| std::cmp::Reverse(*span));
        let (finish, last, calls) = (self.walk.now(), self.last, self.calls);
        Outcome { finish, last, calls, late, never, waits, apis: self.apis, used }
    }
}

/// Adds the calls of one counter to what is used of its limit.
pub(super) fn add_use<K: Ord>(
    used: &mut BTreeMap<K, (Span, Span)>,
    place: K,
    needed: Span,
    first: At,
    last: At,
) {
    if needed > Span::ZERO {
        let sum = used.entry(place).or_default();
        let taken = last.since(first);
        *sum = (Span(sum.0.0.saturating_add(needed.0)), Span(sum.1.0.saturating_add(taken.0)));
    }
}

pub(super) fn walk_all(
    platforms: &[&Platform],
    shapes: &[Shape],
    budgets: &Budgets,
    start: At,
    assumed: &Assumed,
) -> Walked {
    let threads = assumed.threads.clamp(1, 64);
    // Those of one platform that share something go side by side, on one thread.
    let together: Vec<bool> = (0..platforms.len())
        .map(|place| shapes.iter().any(|shape| shape.platform == place && shape.shares()))
        .collect();
    let alone: Vec<usize> =
        (0..shapes.len()).filter(|shape| !together[shapes[*shape].platform]).collect();
    let declared = &Sets::none();
    let part = alone.len().div_ceil(threads).max(1);
    let mut outcomes: Vec<Option<Outcome>> = vec![None; shapes.len()];
    let (mut demand, mut used) = (Demand::default(), BTreeMap::new());
    std::thread::scope(|scope| {
        let alone: Vec<_> = alone
            .chunks(part)
            .map(|places| {
                scope.spawn(move || {
                    let mut demand = Demand::default();
                    let walk_one = |place: &usize| {
                        let shape = &shapes[*place];
                        let platform = platforms[shape.platform];
                        walk(platform, &shape.limits, shape, start, assumed, &mut demand)
                    };
                    let outcomes: Vec<Outcome> = places.iter().map(walk_one).collect();
                    (places, outcomes, demand)
                })
            })
            .collect();
        let together: Vec<_> = (0..platforms.len())
            .filter(|place| together[*place])
            .map(|place| {
                let of: Vec<usize> =
                    (0..shapes.len()).filter(|shape| shapes[*shape].platform == place).collect();
                scope.spawn(move || {
                    let all = of.iter().map(|place| (&shapes[*place], &*shapes[*place].limits));
                    let walked =
                        shared::walk(platforms[place], all, budgets, declared, start, assumed);
                    (of, walked)
                })
            })
            .collect();
        for part in alone {
            let (places, walked, more) = part.join().expect("a walk does not panic");
            for (place, outcome) in places.iter().zip(walked) {
                outcomes[*place] = Some(outcome);
            }
            demand.join(more);
        }
        for part in together {
            let (places, walked) = part.join().expect("a walk does not panic");
            for (place, outcome) in places.iter().zip(walked.outcomes) {
                outcomes[*place] = Some(outcome);
            }
            demand.join(walked.demand);
            used.extend(walked.used);
        }
    });
    Walked { outcomes: outcomes.into_iter().flatten().collect(), demand, used }
}

/// Walks one account of a shape under these limits, and adds its calls, and those of all like it, to the
/// demand.
pub(super) fn walk(
    platform: &Platform,
    limits: &LimitSet,
    shape: &Shape,
    start: At,
    assumed: &Assumed,
    demand: &mut Demand,
) -> Outcome {
    let mut noted = Noted::new(platform, limits, shape, start, assumed);
    while noted.step(demand, |_, _, _| None) != Step::Ended {}
    noted.outcome([])
}
