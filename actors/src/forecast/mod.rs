//! When would these fetches be done? The same gates, walked in virtual time; no call is made.
//!
//! Decides what `tollgate plan` says: when each account is done, which limit holds it most, how much of each
//! limit is used, and what a change of a limit would buy. Promises that every decision is the gate's own
//! ([`tollgate_gate::Walk`]), so a kind of limit that the gate learns is planned for without a change here.
//! Must not know queues, sockets or files.
//!
//! Accounts with the same work and nothing behind them are walked once. Accounts whose calls count in a budget
//! are walked side by side, in the order of time, and take turns in it (`shared.rs`). The one thing that all
//! accounts share is the number of calls in flight: it is put over the walks as a flow (`demand.rs`), not walked
//! through. What a call costs is what is known before it: guesses stay guesses, and no call fails.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tollgate_gate::{ApiIx, At, Cost, LaneWork, Ledger, LimitSet, Run};

use crate::clock::Clock;
use crate::codes::Code;
use crate::costs::{self, Costs, Counts};
use crate::ids::{AccountKey, Priority, Seq, Slug};
use crate::plan::{Plan, Platform};
use crate::publish::Place;
use crate::recipe::{Accepted, FetchContext, Refusal, budgets};

use shared::Budgets;

mod changes;
mod demand;
mod outcome;
mod report;
mod shared;

#[cfg(test)]
mod tests;

pub use report::{AccountRow, ApiRow, ChangeRow, Forecast, LimitRow, PlatformRow, RefusedRow};

/// Most calls that are walked for what changes would buy; those that come after it are left out.
pub const CHANGES_WALKED_MAX: u64 = 50_000_000;

/// What is not known beforehand.
#[derive(Debug, Clone)]
pub struct Assumed {
    /// From a request's writing to the end of its answer, where nothing else is said.
    pub latency: Duration,
    /// The same of one platform, or of one api of it; the last that fits counts.
    pub latencies: Vec<(Slug, Option<Slug>, Duration)>,
    /// Calls in flight at once, over all accounts.
    pub concurrency: usize,
    /// Threads to walk with.
    pub threads: usize,
    /// Whether to say what changes would buy.
    pub changes: bool,
    /// How many accounts are told one by one.
    pub most: usize,
}

/// Of which lane a fetch is, as far as calls are told apart: its api, its priority, the budgets that it counts in,
/// what it costs.
type LaneOf = (ApiIx, u8, u32, Vec<Cost>);

/// What accounts start from.
pub type Ledgers = HashMap<AccountKey, Ledger>;

/// The fetches, by account: counts, no contents.
#[derive(Debug)]
pub struct Orders<'p> {
    clock: &'p Clock,
    platforms: Vec<&'p Platform>,
    places: HashMap<Slug, usize>,
    accounts: HashMap<AccountKey, BTreeMap<LaneOf, Vec<Run>>>,
    budgets: Budgets,
    /// What dates in costs and keys are taken for.
    queued_at: Timestamp,
    seen: HashSet<u64>,
    fetches: u64,
    duplicates: u64,
    refused: BTreeMap<Code, RefusedRow>,
}

/// Accounts with the same work.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) platform: usize,
    /// The account's own, which may have other values than the platform's.
    pub(crate) limits: Arc<LimitSet>,
    pub(crate) lanes: Vec<LaneWork>,
    pub(crate) ledger: Option<Ledger>,
    pub(crate) accounts: Vec<AccountKey>,
}

impl<'p> Orders<'p> {
    /// No fetches yet, for this configuration. The clock says what a time of a fetch is on the timeline.
    pub fn new(plan: &'p Plan, clock: &'p Clock) -> Self {
        let platforms: Vec<&Platform> = plan.platforms.values().map(Arc::as_ref).collect();
        let places = platforms.iter().enumerate();
        Self {
            clock,
            places: places.map(|(place, platform)| (platform.name.clone(), place)).collect(),
            platforms,
            accounts: HashMap::new(),
            budgets: Budgets::default(),
            queued_at: clock.wall(),
            seen: HashSet::new(),
            fetches: 0,
            duplicates: 0,
            refused: BTreeMap::new(),
        }
    }

    /// Adds a fetch, or the parts that take its place where no limit ever allows it. One whose id its account and api
    /// has had already is counted and not called again.
    pub fn add(&mut self, accepted: &Accepted) {
        self.fetches += 1;
        let Accepted { lane, id, fetch, .. } = accepted;
        let mut hasher = DefaultHasher::new();
        (&lane.account, &lane.api, id).hash(&mut hasher);
        if !self.seen.insert(hasher.finish()) {
            self.duplicates += 1;
            return;
        }
        let Some(place) = self.places.get(&lane.account.platform) else { return };
        let platform = self.platforms[*place];
        let own = platform.special_of(&lane.account.account).map_or(platform, Arc::as_ref);
        let Some((number, api)) = own.api(lane.api.as_str()) else { return };
        let context = FetchContext {
            account: &lane.account.account,
            id: id.as_str(),
            params: &fetch.params,
            queued_at: self.queued_at,
        };
        // Both could be told when the fetch was read.
        let costs = own.costs.of(&own.limits, own, number, &context).unwrap_or_default();
        let costs = without_errors(costs.into_owned(), &own.costs, &own.limits);
        let keys = budgets(own, api, &context).unwrap_or_default();
        let too_heavy = costs::too_much(&own.limits, number, &costs).is_some()
            || keys.iter().any(|key| costs::too_much(key.limits(), number, key.costs()).is_some());
        if too_heavy && let Some(split) = &api.answers.split {
            let of = (id.as_str(), Seq(0));
            if let Ok(parts) = split.parts(fetch, of, &api.params.defaults) {
                // It is not called: they are.
                self.fetches -= 1;
                for part in parts {
                    let Some(id) = part.id.clone() else { continue };
                    self.add(&Accepted { id, fetch: part, ..accepted.clone() });
                }
                return;
            }
        }
        let group = self.budgets.group(&keys);
        let rank = match lane.priority {
            Priority::High => 0,
            Priority::Normal => 1,
            Priority::Low => 2,
        };
        let moment = |time, otherwise| self.clock.at_wall_or(time, otherwise);
        let run = Run {
            not_before: moment(fetch.not_before, At::MIN),
            deadline: moment(fetch.deadline, At::MAX),
            calls: 1,
        };
        if !self.accounts.contains_key(&lane.account) {
            self.accounts.insert(lane.account.clone(), BTreeMap::new());
        }
        let Some(lanes) = self.accounts.get_mut(&lane.account) else { return };
        let runs = lanes.entry((number, rank, group, costs)).or_default();
        match runs.last_mut() {
            Some(last) if (last.not_before, last.deadline) == (run.not_before, run.deadline) => {
                last.calls += 1;
            }
            _ => runs.push(run),
        }
    }

    /// Notes a record that is no fetch that can be called: it would be dead at once.
    pub fn refuse(&mut self, place: &Place, refusal: &Refusal) {
        self.fetches += 1;
        let row = self.refused.entry(refusal.code).or_insert_with(|| RefusedRow {
            code: refusal.code,
            fetches: 0,
            first: place.to_string(),
            reason: refusal.reason.clone(),
        });
        row.fetches += 1;
    }

    /// The accounts that have work.
    pub fn accounts(&self) -> impl ExactSizeIterator<Item = &AccountKey> {
        self.accounts.keys()
    }

    /// Walks all of it from `start`, and says what came out. An account that `ledgers` has starts from that,
    /// the others as if they had never made a call.
    pub fn forecast(self, start: At, mut ledgers: Ledgers, assumed: &Assumed) -> Forecast {
        let from_ledger = ledgers.len();
        let mut shapes: Vec<Shape> = Vec::new();
        let mut alike: HashMap<(usize, *const LimitSet, Vec<LaneWork>), usize> = HashMap::new();
        let mut accounts: Vec<_> = self.accounts.into_iter().collect();
        // The same input is told in the same order.
        accounts.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (account, lanes) in accounts {
            let Some(&platform) = self.places.get(&account.platform) else { continue };
            let of_start = |run: Run| Run { not_before: run.not_before.max(start), ..run };
            let lanes: Vec<LaneWork> = lanes
                .into_iter()
                .map(|((api, rank, group, costs), runs)| {
                    let runs = merged(runs.into_iter().map(of_start));
                    LaneWork { api, rank, costs, group, runs }
                })
                .collect();
            let own = self.platforms[platform];
            let own = own.special_of(&account.account).map_or(own, Arc::as_ref);
            let limits = Arc::clone(&own.limits);
            let ledger = ledgers.remove(&account).filter(|ledger| !ledger.is_empty());
            // What is shared makes accounts differ in their turns.
            if ledger.is_some() || lanes.iter().any(|lane| lane.group > 0) {
                shapes.push(Shape { platform, limits, lanes, ledger, accounts: vec![account] });
                continue;
            }
            let of = (platform, Arc::as_ptr(&limits), lanes);
            let place = *alike.entry(of).or_insert_with_key(|(_, _, lanes)| {
                let lanes = lanes.clone();
                shapes.push(Shape { platform, limits, lanes, ledger, accounts: Vec::new() });
                shapes.len() - 1
            });
            shapes[place].accounts.push(account);
        }
        let walked = outcome::walk_all(&self.platforms, &shapes, &self.budgets, start, assumed);
        let mut report = report::of(&report::Walked {
            clock: self.clock,
            platforms: &self.platforms,
            shapes: &shapes,
            budgets: &self.budgets,
            all: &walked,
            start,
            assumed,
        });
        report.fetches = self.fetches;
        report.duplicates = self.duplicates;
        report.refused = self.refused.into_values().collect();
        report.from_ledger = from_ledger;
        if assumed.changes {
            let all = changes::All {
                platforms: &self.platforms,
                shapes: &shapes,
                budgets: &self.budgets,
                start,
                assumed,
            };
            (report.changes, report.changes_left_out) = all.changes(&walked);
        }
        report
    }
}

/// What is counted only where a call fails costs nothing here.
fn without_errors(mut costs: Vec<Cost>, known: &Costs, limits: &LimitSet) -> Vec<Cost> {
    for (place, counts) in &known.counts {
        if *counts == Counts::Errors {
            costs.resize(limits.limits().len(), Cost::ONE);
            costs[*place] = Cost::FREE;
        }
    }
    costs
}

/// Neighbours that are alike, as one.
fn merged(runs: impl Iterator<Item = Run>) -> Vec<Run> {
    let mut merged: Vec<Run> = Vec::new();
    for run in runs {
        match merged.last_mut() {
            Some(last) if (last.not_before, last.deadline) == (run.not_before, run.deadline) => {
                last.calls += run.calls;
            }
            _ => merged.push(run),
        }
    }
    merged
}

impl Assumed {
    /// From writing to answer, for one api.
    fn latency(&self, platform: &Platform, api: ApiIx) -> Duration {
        let name = platform.apis.get(usize::from(api)).map(|api| &api.name);
        let fits = |(of, only, _): &&(Slug, Option<Slug>, Duration)| {
            *of == platform.name && (only.is_none() || only.as_ref() == name)
        };
        let told = self.latencies.iter().rev().find(fits);
        told.map_or(self.latency, |(_, _, latency)| *latency)
    }
}

impl Clock {
    fn at_wall_or(&self, time: Option<jiff::Timestamp>, otherwise: At) -> At {
        time.map_or(otherwise, |time| self.at_wall(time))
    }
}

/// A length of time as a user writes it: `3h 10m`, `12m 5s`, `3.25s`.
pub fn shown(span: Duration) -> impl std::fmt::Display {
    report::Shown(span)
}

pub(crate) fn seconds(span: tollgate_gate::Span) -> f64 {
    (Duration::from(span).as_secs_f64() * 1000.0).round() / 1000.0
}

// What is told of one account is told of thousands.
const _: () = assert!(size_of::<Run>() == 24, "a run of fetches is three words");

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Without,
    Doubled,
}
