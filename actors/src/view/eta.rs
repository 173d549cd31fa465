//! When what waits would be done: the gate's own decision walked forward, as `plan` does, from what the gate knows.
//!
//! So many calls are walked one by one; what is beyond is told by what the rules cost from there on, and told as an
//! estimate. What accounts share ([`Common`]: a limit of the whole platform, free collectors) is not walked through: it is
//! given in fair turns, so an account waits there for its own calls and for as many of each other account, at most.
//! Pure: a snapshot in, moments out.

use std::sync::Arc;

use tollgate_gate::{
    ApiIx, At, Guard, LaneWork, Limit, Run, Sent, Span, Step, Use, WaitedFor, Walk,
};

use super::NEXT_MAX;
use super::account::{LaneNow, Snapshot};
use crate::ids::Priority;

/// Calls of an account that are walked where it is looked at by itself: a few milliseconds.
pub(crate) const WALKED_ALONE: u64 = 4_096;
/// The same of each account of a list, at most.
const WALKED_IN_LIST: u64 = 512;
/// Calls of all accounts of a list.
const WALKED_OF_ALL: u64 = 8_192;
/// Of an account so many are walked however long the list is; and of each that may be the last of all.
pub(crate) const WALKED_LEAST: u64 = 32;

/// Calls of each account of a list of so many that are walked.
pub(crate) fn walked_of(accounts: usize) -> u64 {
    (WALKED_OF_ALL / accounts.max(1) as u64).clamp(WALKED_LEAST, WALKED_IN_LIST)
}

/// What is taken for known beside the gate.
#[derive(Debug, Clone)]
pub(crate) struct Assumed {
    /// From writing to the end of an answer, by the number of the api.
    pub(crate) latencies: Vec<Span>,
    /// Calls in flight at once.
    pub(crate) concurrency: usize,
    /// Calls that a fetch takes: pages, and tries that came to nothing.
    pub(crate) calls_per_fetch: f64,
    /// What the account shares with others.
    pub(crate) common: Arc<[Common]>,
}

/// Accounts by how many fetches wait in them, in powers of two: how many there are, and what waits in them all.
#[derive(Debug, Clone)]
pub(crate) struct Sizes([(u64, u64); 64]);

impl Default for Sizes {
    fn default() -> Self {
        Self([(0, 0); 64])
    }
}

impl Sizes {
    /// One more account.
    pub(crate) fn add(&mut self, waiting: u64) {
        if let Some(log) = waiting.checked_ilog2() {
            let (count, sum) = &mut self.0[log as usize];
            *count += 1;
            *sum = sum.saturating_add(waiting);
        }
    }

    /// Those of both.
    pub(crate) fn join(&mut self, other: &Self) {
        for ((count, sum), (more, sums)) in self.0.iter_mut().zip(&other.0) {
            *count += more;
            *sum = sum.saturating_add(*sums);
        }
    }

    /// Fetches that have had their turn when one account has had so many: of each account as many, at most all of its
    /// own. Accounts of one power of two are taken to be alike.
    pub(crate) fn turns(&self, own: u64) -> u64 {
        let turns = self.0.iter().filter(|(count, _)| *count > 0).map(|(count, sum)| {
            let mean = sum.div_ceil(*count);
            if own >= mean { *sum } else { count.saturating_mul(own) }
        });
        turns.fold(0, u64::saturating_add)
    }
}

/// Something that accounts share in fair turns.
#[derive(Debug, Clone)]
pub(crate) struct Common {
    /// What it is called.
    pub(crate) by: String,
    pub(crate) rule: Sharing,
}

/// How it is shared.
#[derive(Debug, Clone)]
pub(crate) enum Sharing {
    /// A limit, as far as it is used; who takes turns in it, and what part of all who do they are; how long after its
    /// going a call is charged.
    Limit { limit: Box<Limit>, used: Box<Use>, sizes: Box<Sizes>, part: f64, lag: Span },
    /// So many calls at once, and how long each takes, by those who make them.
    Slots { slots: usize, calls: Vec<(Sizes, Span)> },
}

impl Common {
    /// How long it takes until an account has had so many turns.
    pub(crate) fn takes(&self, turns: u64, now: At) -> Span {
        match &self.rule {
            Sharing::Limit { limit, used, sizes, part, lag } => {
                let all = (sizes.turns(turns) as f64 / part.max(1e-3)) as u64;
                used.least(limit, all, *lag, now)
            }
            Sharing::Slots { slots, calls } => {
                let work = calls
                    .iter()
                    .map(|(sizes, each)| u128::from(sizes.turns(turns)) * u128::from(each.0));
                let work = work.sum::<u128>() / (*slots).max(1) as u128;
                Span(u64::try_from(work).unwrap_or(u64::MAX))
            }
        }
    }
}

impl Assumed {
    fn latency(&self, api: ApiIx) -> Span {
        self.latencies.get(usize::from(api)).copied().unwrap_or(UNKNOWN_LATENCY)
    }
}

/// What a call is taken to last where none was seen: as `plan` does.
pub(crate) const UNKNOWN_LATENCY: Span = Span::from_millis(300);

/// What is to come of an account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// The next calls.
    pub(crate) next: Vec<(At, ApiIx)>,
    /// When the last of what waits is done; nothing where that is at no time that is known.
    pub(crate) done: Option<Done>,
}

/// When it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) at: At,
    pub(crate) about: bool,
    pub(crate) by: Option<String>,
}

/// Walks an account forward, so many calls at most, and adds what it shares with others.
pub(crate) fn outlook(shown: &Snapshot, assumed: &Assumed, walked_max: u64) -> Outlook {
    let mut outlook = alone(shown, assumed, walked_max);
    let turns: u64 = shown.lanes.iter().map(|lane| lane.waiting).sum();
    let latency = shown.lanes.iter().map(|lane| assumed.latency(lane.api)).max();
    for common in assumed.common.iter().filter(|_| turns > 0) {
        let takes = common.takes(turns, shown.now);
        let at = shown.now.plus(takes).plus(latency.unwrap_or(Span::ZERO));
        if let Some(done) = outlook.done.as_mut().filter(|done| takes > Span::ZERO && done.at < at)
        {
            *done = Done { at, about: true, by: Some(common.by.clone()) };
        }
    }
    outlook
}

/// The same as if it were the only one.
fn alone(shown: &Snapshot, assumed: &Assumed, walked_max: u64) -> Outlook {
    let (limits, now) = (&*shown.platform.limits, shown.now);
    let mut lanes: Vec<&LaneNow> = shown.lanes.iter().filter(|lane| lane.waiting > 0).collect();
    let all = lanes.len();
    // A walk to a time that never comes does not end.
    lanes.retain(|lane| shown.held_until(lane.api).is_none_or(|until| until < At::MAX));
    let held_for_ever = lanes.len() < all;
    let mut ledger = shown.ledger.clone();
    // Nobody knows when the calls in flight will be over: they are taken to be now.
    let flying: Vec<_> = ledger.in_flight().collect();
    for id in flying {
        ledger.answered(limits, id, now);
        ledger.ended(limits, id, now, Sent::Maybe);
    }
    let mut left: Vec<u64> = lanes
        .iter()
        .map(|lane| (lane.waiting as f64 * assumed.calls_per_fetch.max(1.0)).ceil() as u64)
        .collect();
    let work: Vec<LaneWork> = (0..)
        .zip(&lanes)
        .zip(&left)
        .map(|((group, lane), calls)| LaneWork {
            api: lane.api,
            rank: match lane.priority {
                Priority::High => 0,
                Priority::Normal => 1,
                Priority::Low => 2,
            },
            costs: shown.platform.costs.usual(lane.api).to_vec(),
            group,
            runs: vec![Run {
                not_before: shown.held_until(lane.api).unwrap_or(now),
                deadline: At::MAX,
                calls: *calls,
            }],
        })
        .collect();
    if work.is_empty() {
        let is_over = shown.in_flight == 0;
        let done = (!is_over && !held_for_ever).then_some(Done { at: now, about: true, by: None });
        return Outlook { next: Vec::new(), done };
    }
    let mut next = Vec::new();
    let mut walk = Walk::new(limits, ledger, &work, now, assumed.concurrency);
    let (mut walked, mut middle) = (0, now);
    let is_over = loop {
        if walked == walked_max {
            break false;
        }
        match walk.step(|api| assumed.latency(api), |_, _, _| None) {
            Step::Called { api, group, at } => {
                walked += 1;
                if walked == walked_max / 2 {
                    middle = at;
                }
                if next.len() < NEXT_MAX && at < At::MAX {
                    next.push((at, api));
                }
                if let Some(left) = left.get_mut(group as usize) {
                    *left = left.saturating_sub(1);
                }
            }
            Step::Kept => {}
            Step::Ended => break true,
        }
    };
    if held_for_ever {
        next.retain(|(at, _)| *at < At::MAX);
        return Outlook { next, done: None };
    }
    let longest = walk.waits().iter().max_by_key(|(_, span)| *span);
    let by = longest.and_then(|(what, _)| match what {
        WaitedFor::Limit(place) => limits.limits().get(*place).map(|limit| limit.name.clone()),
        WaitedFor::Hold => Some("a hold".into()),
        WaitedFor::Slots => Some("collect.concurrency".into()),
        WaitedFor::NotBefore | WaitedFor::Shared => None,
    });
    if is_over {
        // A guess of what a fetch takes makes a guess of all.
        let about = assumed.calls_per_fetch > 1.0;
        return Outlook { next, done: Some(Done { at: walk.now(), about, by }) };
    }
    let from = walk.now();
    let apis: Vec<ApiIx> = lanes.iter().map(|lane| lane.api).collect();
    let mut slowest: Option<(Span, &Limit)> = None;
    for counter in walk.ledger().uses(limits, &apis, from) {
        let Some(limit) = limits.limits().get(counter.limit) else { continue };
        let (units, lag) = rest(shown, assumed, limit, &counter, &lanes, &left);
        let least = counter.least(limit, units, lag, from);
        if slowest.as_ref().is_none_or(|(known, _)| least > *known) {
            slowest = Some((least, limit));
        }
    }
    let dated = longest.is_some_and(|(what, _)| {
        matches!(what, WaitedFor::Limit(place)
            if limits.limits().get(*place).is_some_and(|limit| limit.window().is_some()))
    });
    let (least, limit) = slowest.map_or((Span::ZERO, None), |(span, limit)| (span, Some(limit)));
    // What is no matter of windows goes on as it went in the second half.
    let pace = if dated { Span::ZERO } else { rate(from.since(middle), walked, left.iter().sum()) };
    let (span, by) =
        if least > pace { (least, limit.map(|limit| limit.name.clone())) } else { (pace, by) };
    let last = lanes.iter().map(|lane| assumed.latency(lane.api)).max().unwrap_or(Span::ZERO);
    Outlook { next, done: Some(Done { at: from.plus(span).plus(last), about: true, by }) }
}

/// What is left of the lanes that a counter counts, in its units, and how long after its going a call is charged.
fn rest(
    shown: &Snapshot,
    assumed: &Assumed,
    limit: &Limit,
    counter: &Use,
    lanes: &[&LaneNow],
    left: &[u64],
) -> (u64, Span) {
    let (mut units, mut lag) = (0_u64, Span::ZERO);
    for (lane, left) in lanes.iter().zip(left) {
        let counts = limit.api.is_none_or(|api| api == lane.api)
            && counter.bucket.is_none_or(|api| api == lane.api);
        if counts {
            let costs = shown.platform.costs.usual(lane.api);
            let cost = costs.get(counter.limit).map_or(1, |cost| u64::from(cost.units));
            units = units.saturating_add(left.saturating_mul(cost));
            let latency = assumed.latency(lane.api);
            let guard = limit.window().and_then(|window| limit.guard.span(window));
            let charged = match limit.guard {
                Guard::Never => latency,
                _ => guard.map_or(latency, |guard| guard.min(latency)),
            };
            lag = lag.max(charged);
        }
    }
    (units, lag)
}

fn rate(half: Span, walked: u64, left: u64) -> Span {
    let each = u128::from(half.0) * u128::from(left) / u128::from((walked / 2).max(1));
    Span(u64::try_from(each).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_fair_and_nobody_has_more_than_is_his() {
        let mut sizes = Sizes::default();
        (0..10).for_each(|_| sizes.add(100));
        assert_eq!(sizes.turns(100), 1_000);
        assert_eq!(sizes.turns(10), 100);
        assert_eq!(sizes.turns(5_000), 1_000);
        sizes.add(4_000);
        assert_eq!(sizes.turns(4_000), 5_000);
        let mut both = sizes.clone();
        both.join(&sizes);
        assert_eq!(both.turns(4_000), 10_000);
        sizes.add(0);
        assert_eq!(sizes.turns(1), 11, "an account without work takes no turn");
    }

    #[test]
    fn a_long_list_walks_less_of_each() {
        assert_eq!(walked_of(1), WALKED_IN_LIST);
        assert_eq!(walked_of(64), 128);
        assert_eq!(walked_of(1_000), WALKED_LEAST);
    }

    #[test]
    fn few_collectors_are_shared_by_the_time_that_calls_take() {
        let mut sizes = Sizes::default();
        (0..100).for_each(|_| sizes.add(50));
        let calls = vec![(sizes, Span::from_millis(200))];
        let rule = Sharing::Slots { slots: 10, calls };
        let common = Common { by: "collect.concurrency".into(), rule };
        // 5,000 calls of 0.2 s by ten.
        assert_eq!(common.takes(50, At(0)), Span::from_secs(100));
        assert_eq!(common.takes(5, At(0)), Span::from_secs(10));
    }
}
