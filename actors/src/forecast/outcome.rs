//! One account's walk, and all of them over the threads.

use std::collections::BTreeMap;

use tollgate_gate::{ApiIx, At, LimitSet, Span, Step, WaitedFor, Walk, time_needed};

use super::demand::Demand;
use super::{Assumed, Shape};
use crate::plan::Platform;

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
    pub(crate) waits: Vec<(WaitedFor, Span)>,
    /// Per api: calls, and the end of the last.
    pub(crate) apis: BTreeMap<ApiIx, (u64, At)>,
    /// Per limit: least time its calls need and time they took, over its counters.
    pub(crate) used: BTreeMap<usize, (Span, Span)>,
}

/// What all walks came to; outcomes by the place of their shape.
pub(crate) struct Walked {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) demand: Demand,
}

pub(super) fn walk_all(
    platforms: &[&Platform],
    shapes: &[Shape],
    start: At,
    assumed: &Assumed,
) -> Walked {
    let threads = assumed.threads.clamp(1, 64);
    let part = shapes.len().div_ceil(threads).max(1);
    let walk = |shapes: &[Shape]| {
        let mut demand = Demand::default();
        let walk_one = |shape: &Shape| {
            let platform = platforms[shape.platform];
            walk(platform, &platform.limits, shape, start, assumed, &mut demand)
        };
        let outcomes: Vec<Outcome> = shapes.iter().map(walk_one).collect();
        (outcomes, demand)
    };
    let mut walked =
        Walked { outcomes: Vec::with_capacity(shapes.len()), demand: Demand::default() };
    std::thread::scope(|scope| {
        let parts: Vec<_> =
            shapes.chunks(part).map(|shapes| scope.spawn(move || walk(shapes))).collect();
        for part in parts {
            let (outcomes, demand) = part.join().expect("a walk does not panic");
            walked.outcomes.extend(outcomes);
            walked.demand.join(demand);
        }
    });
    walked
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
    let ledger = shape.ledger.clone().unwrap_or_default();
    let latencies: Vec<Span> = (0..platform.apis.len())
        .map(|api| Span::from(assumed.latency(platform, api as ApiIx)))
        .collect();
    let latency = |api: ApiIx| latencies.get(usize::from(api)).copied().unwrap_or(Span::ZERO);
    let alike = shape.accounts.len() as u64;
    let mut walk = Walk::new(limits, ledger, &shape.lanes, start, assumed.concurrency);
    let mut uses: BTreeMap<(usize, Option<ApiIx>), (At, At, u64)> = BTreeMap::new();
    let mut apis: BTreeMap<ApiIx, (u64, At)> = BTreeMap::new();
    let (mut calls, mut last) = (0, start);
    loop {
        match walk.step(latency, |_, _| None) {
            Step::Called { api, at } => {
                calls += 1;
                last = at;
                demand.add(at.since(start), latency(api), alike);
                let ends = at.plus(latency(api));
                let of_api = apis.entry(api).or_insert((0, ends));
                *of_api = (of_api.0 + 1, ends.max(of_api.1));
                for (place, limit) in limits.limits().iter().enumerate() {
                    if limit.api.is_none_or(|only| only == api) {
                        let counter = (place, limit.per_api.then_some(api));
                        let used = uses.entry(counter).or_insert((at, at, 0));
                        *used = (used.0, at, used.2 + 1);
                    }
                }
            }
            Step::Kept => {}
            Step::Ended => break,
        }
    }
    let mut used: BTreeMap<usize, (Span, Span)> = BTreeMap::new();
    for ((place, _), (first, last, calls)) in uses {
        let needed = time_needed(limits.limits()[place].rule, calls);
        if needed > Span::ZERO {
            let sum = used.entry(place).or_default();
            let taken = last.since(first);
            *sum = (Span(sum.0.0.saturating_add(needed.0)), Span(sum.1.0.saturating_add(taken.0)));
        }
    }
    let (late, never) = (walk.late(), walk.never());
    let mut waits = walk.waits().to_vec();
    waits.sort_by_key(|(_, span)| std::cmp::Reverse(*span));
    Outcome { finish: walk.now(), last, calls, late, never, waits, apis, used }
}
