//! What changing a limit would buy: each taken away, and each doubled, one at a time.

use std::cmp::Reverse;

use tollgate_gate::{At, Limit, LimitSet, Rule, Span};

use super::demand::Demand;
use super::outcome::{Outcome, walk};
use super::report::{ChangeRow, limit_name};
use super::{Assumed, CHANGES_WALKED_MAX, Kind, Shape, seconds};
use crate::plan::Platform;

/// The rows, what buys most first, and how many were left out for want of time.
pub(super) fn of(
    platforms: &[&Platform],
    shapes: &[Shape],
    outcomes: &[Outcome],
    demand: &Demand,
    start: At,
    assumed: &Assumed,
) -> (Vec<ChangeRow>, usize) {
    // The slowest first: an account that was done before the slowest of a change is done need not be
    // walked, for no account takes longer because a limit became wider.
    let mut slowest: Vec<usize> = (0..shapes.len()).collect();
    slowest.sort_by_key(|place| Reverse(outcomes[*place].finish));
    let flow = demand.through(assumed.concurrency);
    let base = all_done(outcomes.iter().map(|one| one.finish), start).max(flow.drained);
    let mut walked = 0_u64;
    let mut left_out = 0;
    let mut rows = Vec::new();
    for (place, platform) in platforms.iter().enumerate() {
        let set = &platform.limits;
        for (index, limit) in set.limits().iter().enumerate() {
            let matters = |shape: &Shape| {
                let counts = |api| limit.api.is_none_or(|only| only == api);
                shape.platform == place && shape.lanes.iter().any(|lane| counts(lane.api))
            };
            if !shapes.iter().any(matters) {
                continue;
            }
            let doubled = doubled(limit.rule).map(|rule| Limit { rule, ..limit.clone() });
            for (kind, with) in [(Kind::Without, Some(None)), (Kind::Doubled, doubled.map(Some))] {
                let Some(changed) = with.and_then(|limit| replaced(set, index, limit)) else {
                    continue;
                };
                if walked > CHANGES_WALKED_MAX {
                    left_out += 1;
                    continue;
                }
                let mut latest = start;
                for shape in &slowest {
                    let known = &outcomes[*shape];
                    if known.finish <= latest {
                        break;
                    }
                    let shape = &shapes[*shape];
                    let finish = if matters(shape) {
                        let ledger = shape.ledger.as_ref();
                        let ledger = ledger.map(|ledger| ledger.under(set, &changed, start).0);
                        let (lanes, accounts) = (shape.lanes.clone(), Vec::new());
                        let shape = Shape { platform: place, lanes, ledger, accounts };
                        let nobody = &mut Demand::default();
                        let outcome = walk(platform, &changed, &shape, start, assumed, nobody);
                        walked = walked.saturating_add(outcome.calls);
                        outcome.finish
                    } else {
                        known.finish
                    };
                    latest = latest.max(finish);
                }
                let done = latest.since(start).max(demand.least(assumed.concurrency));
                rows.push(ChangeRow {
                    limit: Some(limit_name(platform, limit)),
                    kind,
                    seconds: seconds(done),
                    saved_seconds: seconds(Span(base.0.saturating_sub(done.0))),
                });
            }
        }
    }
    if flow.delay_max > Span::ZERO {
        let wider = demand.through(assumed.concurrency.saturating_mul(2)).drained;
        let done = all_done(outcomes.iter().map(|one| one.finish), start).max(wider);
        rows.push(ChangeRow {
            limit: None,
            kind: Kind::Doubled,
            seconds: seconds(done),
            saved_seconds: seconds(Span(base.0.saturating_sub(done.0))),
        });
    }
    rows.sort_by(|a, b| b.saved_seconds.total_cmp(&a.saved_seconds));
    (rows, left_out)
}

pub(super) fn all_done(finishes: impl Iterator<Item = At>, start: At) -> Span {
    finishes.max().unwrap_or(start).since(start)
}

/// The same set with another limit at that place, or without it.
fn replaced(set: &LimitSet, index: usize, by: Option<Limit>) -> Option<LimitSet> {
    let others = set.limits().iter().enumerate();
    let limits = others.filter_map(|(place, limit)| match (place == index, &by) {
        (true, by) => by.clone(),
        (false, _) => Some(limit.clone()),
    });
    set.with_limits(limits.collect()).ok()
}

/// Twice as many calls, where it is known what that means.
fn doubled(rule: Rule) -> Option<Rule> {
    if let Rule::Every { gap } = rule {
        return Some(Rule::Every { gap: Span(gap.0.div_ceil(2)) });
    }
    if let Rule::Sliding { max, window } = rule {
        return Some(Rule::Sliding { max: max.saturating_add(max.get()), window });
    }
    if let Rule::Concurrent { max } = rule {
        return Some(Rule::Concurrent { max: max.saturating_add(max.get()) });
    }
    if let Rule::Calendar { max, window, slack, calendar } = rule {
        return Some(Rule::Calendar {
            max: max.saturating_add(max.get()),
            window,
            slack,
            calendar,
        });
    }
    None
}
