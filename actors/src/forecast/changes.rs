//! What changing a limit would buy: each taken away, and each doubled, one at a time.

use std::cmp::Reverse;

use tollgate_gate::{At, Limit, LimitSet, Rule, Span};

use super::demand::{Demand, Flow};
use super::outcome::{Walked, walk};
use super::report::{ChangeRow, limit_name};
use super::shared::{self, Budgets, Sets};
use super::{Assumed, CHANGES_WALKED_MAX, Kind, Shape, seconds};
use crate::ids::Slug;
use crate::plan::Platform;

/// All that was walked.
pub(super) struct All<'a> {
    pub(super) platforms: &'a [&'a Platform],
    pub(super) shapes: &'a [Shape],
    pub(super) budgets: &'a Budgets,
    pub(super) start: At,
    pub(super) assumed: &'a Assumed,
}

/// What the walks of changes have told and cost so far.
struct Told<'a> {
    walked: &'a Walked,
    flow: Flow,
    /// The slowest shapes first.
    slowest: Vec<usize>,
    calls: u64,
    left_out: usize,
    rows: Vec<ChangeRow>,
}

impl All<'_> {
    /// The rows, what buys most first, and how many were left out for want of time.
    pub(super) fn changes(&self, walked: &Walked) -> (Vec<ChangeRow>, usize) {
        let mut slowest: Vec<usize> = (0..self.shapes.len()).collect();
        slowest.sort_by_key(|place| Reverse(walked.outcomes[*place].finish));
        let flow = walked.demand.through(self.assumed.concurrency);
        let mut told = Told { walked, flow, slowest, calls: 0, left_out: 0, rows: Vec::new() };
        for (place, platform) in self.platforms.iter().enumerate() {
            for limit in platform.limits.limits() {
                let counts = |shape: &Shape| shape.platform == place && matters(shape, limit);
                if self.shapes.iter().any(counts) {
                    let name = limit_name(platform, limit);
                    self.look_at(&mut told, (place, limit), &name, |_| Sets::none());
                }
            }
        }
        for (_, slug, limit) in self.budgets.limits() {
            let of = |platform: &&Platform| platform.name == *slug;
            let Some(place) = self.platforms.iter().position(of) else { continue };
            let name = limit_name(self.platforms[place], limit);
            self.look_at(&mut told, (place, limit), &name, |kind| {
                let change = |of: &Slug, set: &LimitSet| {
                    if of == slug { replaced(set, limit, kind) } else { None }
                };
                self.budgets.changed(change)
            });
        }
        if told.flow.delay_max > Span::ZERO {
            let wider = walked.demand.through(self.assumed.concurrency.saturating_mul(2)).drained;
            let finishes = walked.outcomes.iter().map(|one| one.finish);
            let done = all_done(finishes, self.start).max(wider);
            told.add(self, None, Kind::Doubled, done);
        }
        told.rows.sort_by(|a, b| b.saved_seconds.total_cmp(&a.saved_seconds));
        (told.rows, told.left_out)
    }

    /// Walks a platform without that limit, and with twice of it. `sets`: the budgets' limits with that change; none
    /// if the limit is one of the accounts' own.
    fn look_at(
        &self,
        told: &mut Told<'_>,
        (place, limit): (usize, &Limit),
        name: &str,
        sets: impl Fn(Kind) -> Sets,
    ) {
        for kind in [Kind::Without, Kind::Doubled] {
            if kind == Kind::Doubled && doubled(limit.rule).is_none() {
                continue;
            }
            if told.calls > CHANGES_WALKED_MAX {
                told.left_out += 1;
                continue;
            }
            let sets = sets(kind);
            let changed = |set: &LimitSet| {
                if sets.is_none() { replaced(set, limit, kind) } else { Some(set.clone()) }
            };
            let together = self.shapes.iter().any(|s| s.platform == place && s.shares());
            let latest = if together {
                self.side_by_side(told, place, changed, &sets)
            } else {
                self.one_by_one(told, (place, limit), changed)
            };
            if let Some(latest) = latest {
                let least = told.walked.demand.least(self.assumed.concurrency);
                told.add(self, Some(name.to_owned()), kind, latest.since(self.start).max(least));
            }
        }
    }

    /// When the last account is done if the accounts of a platform share something.
    fn side_by_side(
        &self,
        told: &mut Told<'_>,
        place: usize,
        changed: impl Fn(&LimitSet) -> Option<LimitSet>,
        sets: &Sets,
    ) -> Option<At> {
        let of = |shape: &&Shape| shape.platform == place;
        let own: Vec<(Shape, LimitSet)> = self
            .shapes
            .iter()
            .filter(of)
            .map(|shape| {
                let limits = changed(&shape.limits)?;
                Some((shape.under(&limits, self.start), limits))
            })
            .collect::<Option<_>>()?;
        let all = own.iter().map(|(shape, limits)| (shape, limits));
        let (platform, start) = (self.platforms[place], self.start);
        let walked = shared::walk(platform, all, self.budgets, sets, start, self.assumed);
        told.calls += walked.outcomes.iter().map(|one| one.calls).sum::<u64>();
        let others = self.shapes.iter().zip(&told.walked.outcomes);
        let others = others.filter(|(shape, _)| shape.platform != place).map(|(_, one)| one.finish);
        Some(walked.outcomes.iter().map(|one| one.finish).chain(others).max().unwrap_or(start))
    }

    /// The same where each account is alone. The slowest first: an account that was done before the slowest of a
    /// change is done need not be walked, for no account takes longer because a limit became wider.
    fn one_by_one(
        &self,
        told: &mut Told<'_>,
        (place, limit): (usize, &Limit),
        changed: impl Fn(&LimitSet) -> Option<LimitSet>,
    ) -> Option<At> {
        let mut latest = self.start;
        for shape in &told.slowest {
            let known = &told.walked.outcomes[*shape];
            if known.finish <= latest {
                break;
            }
            let shape = &self.shapes[*shape];
            let finish = if shape.platform == place && matters(shape, limit) {
                let limits = changed(&shape.limits)?;
                let shape = shape.under(&limits, self.start);
                let nobody = &mut Demand::default();
                let platform = self.platforms[place];
                let outcome = walk(platform, &limits, &shape, self.start, self.assumed, nobody);
                told.calls = told.calls.saturating_add(outcome.calls);
                outcome.finish
            } else {
                known.finish
            };
            latest = latest.max(finish);
        }
        Some(latest)
    }
}

impl Told<'_> {
    fn add(&mut self, all: &All<'_>, limit: Option<String>, kind: Kind, done: Span) {
        let finishes = self.walked.outcomes.iter().map(|one| one.finish);
        let base = all_done(finishes, all.start).max(self.flow.drained);
        self.rows.push(ChangeRow {
            limit,
            kind,
            seconds: seconds(done),
            saved_seconds: seconds(Span(base.0.saturating_sub(done.0))),
        });
    }
}

impl Shape {
    /// The same work of nobody, with what is known of the past under other limits.
    fn under(&self, limits: &LimitSet, start: At) -> Self {
        let ledger = self.ledger.as_ref();
        Self {
            platform: self.platform,
            limits: self.limits.clone(),
            lanes: self.lanes.clone(),
            ledger: ledger.map(|ledger| ledger.under(&self.limits, limits, start).0),
            accounts: Vec::new(),
        }
    }
}

/// Whether a limit counts some of the work.
fn matters(shape: &Shape, limit: &Limit) -> bool {
    shape.lanes.iter().any(|lane| limit.api.is_none_or(|only| only == lane.api))
}

pub(super) fn all_done(finishes: impl Iterator<Item = At>, start: At) -> Span {
    finishes.max().unwrap_or(start).since(start)
}

/// The same set with that limit changed. An account may have other values for it: a limit is known by its name.
fn replaced(set: &LimitSet, limit: &Limit, kind: Kind) -> Option<LimitSet> {
    let is_it = |known: &Limit| known.name == limit.name && known.api == limit.api;
    let limits = set.limits().iter().filter_map(|known| match (is_it(known), kind) {
        (false, _) => Some(known.clone()),
        (true, Kind::Without) => None,
        (true, Kind::Doubled) => {
            Some(Limit { rule: doubled(known.rule).unwrap_or(known.rule), ..known.clone() })
        }
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
