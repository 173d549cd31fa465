//! Two judges that share no code with the ledger: the provider, and a naive gate.

use super::reset;
use crate::{ApiIx, At, Guard, Limit, LimitSet, NO_ANSWER_BOUND, PermitId, Rule, Sent, Span};

/// What really happened to a call: when it arrived and when it was over.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    pub(super) api: ApiIx,
    pub(super) at: At,
    pub(super) over: At,
    /// When the job that it ordered was done.
    pub(super) job_over: At,
    /// What it cost by each limit.
    pub(super) actual: Vec<u32>,
    /// The same, but no more than it said it would: nobody can know better.
    pub(super) costs: Vec<u32>,
}

/// Whether a limit counts these two calls together.
fn together(limit: &Limit, a: ApiIx, b: ApiIx) -> bool {
    let counts = |api| limit.api.is_none() || limit.api == Some(api);
    counts(a) && counts(b) && (!limit.per_api || a == b)
}

/// The provider: looks at every window that ends with an arrival, and at every moment of one.
pub(super) fn assert_within(limits: &LimitSet, arrivals: &[Arrival]) {
    let mut arrivals = arrivals.to_vec();
    arrivals.sort_by_key(|arrival| arrival.at);
    for (place, limit) in limits.limits().iter().enumerate() {
        let counted: Vec<&Arrival> = arrivals.iter().filter(|a| a.actual[place] > 0).collect();
        for last in &counted {
            let others: Vec<&Arrival> = counted
                .iter()
                .filter(|other| together(limit, last.api, other.api) && other.at <= last.at)
                .copied()
                .collect();
            let sum = |which: &dyn Fn(&Arrival) -> bool| -> u64 {
                let some = others.iter().filter(|arrival| which(arrival));
                some.map(|arrival| u64::from(arrival.costs[place])).sum()
            };
            let recent = |window| sum(&|o| last.at.0 - o.at.0 < window_of(window));
            let (count, max) = match limit.rule {
                Rule::Every { gap } => (recent(gap), 1),
                Rule::Sliding { max, window } | Rule::Score { max, decay: window, .. } => {
                    (recent(window), max.get())
                }
                Rule::Concurrent { max } => (sum(&|o| last.at < o.over), max.get()),
                Rule::Jobs { max, .. } => (sum(&|o| last.at < o.job_over), max.get()),
                Rule::Bucket { burst, rate, per } => {
                    // Filled before each call with what has flowed in since the one before; in units of
                    // 1 / per.
                    let full = i128::from(burst.get()) * i128::from(per.0);
                    let (mut level, mut then) = (full, last.at);
                    for call in &others {
                        let passed = i128::from(call.at.0) - i128::from(then.0);
                        level = (level + passed.max(0) * i128::from(rate.get())).min(full);
                        level -= i128::from(call.costs[place]) * i128::from(per.0);
                        then = call.at;
                    }
                    (u64::from(level < 0), 0)
                }
                Rule::Calendar { max, window, .. } => {
                    let near = last.at.0.div_euclid(window.0 as i64);
                    let resets = (near - 2..near + 3).map(|k| reset(window, k));
                    let began = resets.filter(|reset| *reset <= last.at.0).max().unwrap();
                    (sum(&|o| o.at.0 >= began), max.get())
                }
                Rule::FirstUse { max, window } => {
                    let (mut opened, mut count) = (i64::MIN, 0);
                    for call in &others {
                        if opened == i64::MIN || call.at.0 >= opened + window_of(window) {
                            (opened, count) = (call.at.0, 0);
                        }
                        count += u64::from(call.costs[place]);
                    }
                    (count, max.get())
                }
            };
            assert!(count <= u64::from(max), "{count} units at {:?} under {limit:?}", last.at);
        }
    }
}

fn window_of(window: Span) -> i64 {
    window.0 as i64
}

/// What the call costs under one limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Units {
    pub(super) said: u32,
    pub(super) settled: Option<u32>,
}

/// All that has been reported of a call, kept for ever.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) id: PermitId,
    pub(super) api: ApiIx,
    /// By the provider's limits.
    pub(super) units: Vec<Units>,
    pub(super) written: Option<At>,
    pub(super) answered: Option<At>,
    pub(super) ended: Option<(At, Sent)>,
    pub(super) released: bool,
    /// Charge and end of the slot.
    pub(super) lost: Option<(At, At)>,
}

impl Call {
    pub(super) fn new(id: PermitId, api: ApiIx, units: Vec<Units>) -> Self {
        let (written, answered, ended, lost) = (None, None, None, None);
        Self { id, api, units, written, answered, ended, released: false, lost }
    }

    /// The same call on a timeline that is that much later.
    pub(super) fn later(&self, by: Span) -> Self {
        let later = |at: At| at.plus(by);
        Self {
            units: self.units.clone(),
            written: self.written.map(later),
            answered: self.answered.map(later),
            ended: self.ended.map(|(at, sent)| (later(at), sent)),
            lost: self.lost.map(|(charge, slot)| (later(charge), later(slot))),
            ..*self
        }
    }

    /// When a limit with that guard counts it.
    fn charge(&self, guard: Option<Span>) -> Option<At> {
        let known = self.written.zip(guard).map(|(at, guard)| at.plus(guard));
        match (self.answered, self.ended, self.lost) {
            (Some(at), _, _) => Some(known.map_or(at, |known| known.min(at))),
            (None, Some(_), _) if known.is_some() => known,
            (None, Some((at, Sent::Never)), _) => Some(at),
            (None, Some((at, Sent::Maybe)), _) => Some(at.plus(guard.unwrap_or(NO_ANSWER_BOUND))),
            (None, None, Some((at, _))) => Some(known.map_or(at, |known| known.max(at))),
            (None, None, None) => known,
        }
    }

    fn units(&self, place: usize) -> u32 {
        self.units[place].settled.unwrap_or(self.units[place].said)
    }

    /// When its job is over at the latest.
    fn job_leaves(&self, ttl: Span) -> Due {
        match (self.ended, self.lost) {
            _ if self.released => Due::From(At::MIN),
            (Some((_, Sent::Never)), _) if self.written.is_none() && self.answered.is_none() => {
                Due::From(At::MIN)
            }
            (Some((at, _)), _) => Due::From(at.plus(ttl)),
            (None, Some((charge, slot))) => Due::From(charge.max(slot).plus(ttl)),
            (None, None) => Due::Unknown,
        }
    }
}

/// When a call may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    From(At),
    Unknown,
}

impl Due {
    fn plus(self, span: Span) -> Self {
        match self {
            Self::From(at) => Self::From(at.plus(span)),
            Self::Unknown => Self::Unknown,
        }
    }
}

/// The naive gate's view of one limit: from when a true one may let a call with that many units go, and by
/// when it must. `moved`: charges were moved after they had been rounded.
pub(super) fn due(
    limits: &LimitSet,
    place: usize,
    calls: &[Call],
    (api, units): (ApiIx, u32),
    moved: bool,
) -> (Due, Due) {
    let limit = &limits.limits()[place];
    if units == 0 {
        return (Due::From(At::MIN), Due::From(At::MIN));
    }
    let rounding = |max: u32, window: Span| {
        if max > 64 { Span(window.0.div_ceil(60)) } else { Span::ZERO }
    };
    let charges = |window: Span| {
        let guard = limit.guard.span(window);
        let mine = calls.iter().filter(|call| together(limit, api, call.api));
        mine.filter(|call| call.units(place) > 0)
            .map(move |call| (call.charge(guard), call.units(place)))
    };
    let by = |window: Span| {
        charges(window)
            .map(move |(at, units)| {
                (at.map_or(Due::Unknown, |at| Due::From(at.plus(window))), units)
            })
            .collect()
    };
    let others = |leaves: &dyn Fn(&Call) -> Due| {
        let mine = calls.iter().filter(|call| together(limit, api, call.api));
        mine.map(|call| (leaves(call), call.units(place))).collect()
    };
    let (leaving, max, slack): (Vec<(Due, u32)>, _, _) = match limit.rule {
        Rule::Every { gap } => (by(gap), 1, Span::ZERO),
        Rule::Sliding { max, window } | Rule::FirstUse { max, window } => {
            (by(window), max.get(), rounding(max.get(), window))
        }
        Rule::Score { max, decay, .. } => (by(decay), max.get(), rounding(max.get(), decay)),
        Rule::Concurrent { max } => {
            let leaves = |call: &Call| match (call.ended, call.lost) {
                (Some(_), _) => Due::From(At::MIN),
                (None, Some((_, until))) => Due::From(until),
                (None, None) => Due::Unknown,
            };
            (others(&leaves), max.get(), Span::ZERO)
        }
        Rule::Jobs { max, ttl } => (others(&|call| call.job_leaves(ttl)), max.get(), Span::ZERO),
        Rule::Calendar { max, window, slack, .. } => {
            // The first reset of which it is certain that it came after the call.
            let ours = |k| reset(window, k) - super::AHEAD.get();
            let leaves = |(at, units): (Option<At>, u32)| {
                let reset = at.map(|at| {
                    let at = at.plus(slack).0;
                    let near = at.div_euclid(window.0 as i64);
                    (near - 3..near + 4).map(ours).find(|reset| *reset > at).unwrap()
                });
                (reset.map_or(Due::Unknown, |reset| Due::From(At(reset).plus(slack))), units)
            };
            let late = if max.get() > 64 && moved { window.times(2) } else { Span::ZERO };
            (charges(window).map(leaves).collect(), max.get(), late)
        }
        Rule::Bucket { burst, rate, per } => {
            let fill = Span((u64::from(burst.get()) * per.0).div_ceil(rate.get().into()));
            let all: Vec<_> = charges(fill).collect();
            return bucket_due(&all, units, [burst.get(), rate.get()].map(u64::from), per);
        }
    };
    // As few may stay as leave room for the call.
    let mut leaving: Vec<(Due, u32)> =
        leaving.into_iter().filter(|(_, units)| *units > 0).collect();
    leaving.sort_unstable();
    let mut count: u64 = leaving.iter().map(|(_, units)| u64::from(*units)).sum();
    let mut due = Due::From(At::MIN);
    for (leaves, gone) in leaving {
        if count + u64::from(units) <= u64::from(max) {
            break;
        }
        count -= u64::from(gone);
        due = leaves;
    }
    let earliest = match limit.rule {
        // The provider judges whether it was too early.
        Rule::FirstUse { .. } => Due::From(At::MIN),
        // What has left a window is forgotten, and would now be on this side of its reset.
        Rule::Calendar { .. } if moved => Due::From(At::MIN),
        _ => due,
    };
    (earliest, due.plus(slack))
}

/// For every charge: what was charged from then on has to have flowed in, but for what the bucket holds.
fn bucket_due(
    charges: &[(Option<At>, u32)],
    units: u32,
    [burst, rate]: [u64; 2],
    per: Span,
) -> (Due, Due) {
    let unknown: u64 = charges.iter().filter(|(at, _)| at.is_none()).map(|c| u64::from(c.1)).sum();
    if unknown + u64::from(units) > burst {
        return (Due::Unknown, Due::Unknown);
    }
    let mut due = At::MIN;
    for from in charges.iter().filter_map(|(at, _)| *at) {
        let since = charges.iter().filter(|(at, _)| at.is_none_or(|at| at >= from));
        let taken = since.map(|(_, units)| u64::from(*units)).sum::<u64>() + u64::from(units);
        if let Some(over) = taken.checked_sub(burst).filter(|over| *over > 0) {
            due = due.max(from.plus(Span((over * per.0).div_ceil(rate))));
        }
    }
    (Due::From(due), Due::From(due.plus(Span(1))))
}

/// The earliest moment at which a true gate may let a call go, and the latest at which it must.
pub(super) fn bounds(
    limits: &LimitSet,
    calls: &[Call],
    api: ApiIx,
    units: &[u32],
    moved: bool,
) -> (Due, Due) {
    let start = (Due::From(At::MIN), Due::From(At::MIN));
    let all = limits.limits().iter().enumerate();
    all.filter(|(_, limit)| limit.api.is_none() || limit.api == Some(api))
        .map(|(place, _)| due(limits, place, calls, (api, units[place]), moved))
        .fold(start, |(low, high), (from, by)| (low.max(from), high.max(by)))
}

/// How long the requests of an api may travel: what all guards that have an end allow.
pub(super) fn transit_max(limits: &LimitSet, api: ApiIx) -> Span {
    let guards = limits.limits().iter().filter_map(|limit| {
        let counted = limit.api.is_none() || limit.api == Some(api);
        match limit.rule {
            _ if !counted || limit.guard == Guard::Never => None,
            Rule::Concurrent { .. } | Rule::Jobs { .. } => None,
            Rule::Every { gap: window }
            | Rule::Sliding { window, .. }
            | Rule::Calendar { window, .. }
            | Rule::FirstUse { window, .. }
            | Rule::Score { decay: window, .. } => limit.guard.span(window),
            Rule::Bucket { burst, rate, per } => {
                let fill = (u64::from(burst.get()) * per.0).div_ceil(rate.get().into());
                limit.guard.span(Span(fill))
            }
        }
    });
    guards.min().unwrap_or(Span::from_millis(150))
}
