//! One account for people, made of what its owner has of it. Pure but for the clock's wall time.

use std::sync::Arc;

use tollgate_gate::{ApiIx, At, Guard, HoldScope, Ledger, Limit, LimitSet, Rule, Use};

use super::answers::Mark;
use super::eta::Outlook;
use super::{
    AccountState, AccountView, AnswerView, CALLS_MAX, CallView, CounterView, Eta, HoldView, Holder,
    LaneView, LimitKind, LimitView, NextCall,
};
use crate::clock::Clock;
use crate::ids::{AccountKey, Priority};
use crate::plan::{Dim, Platform};
use crate::times::Cause;

/// A lane as it is now.
#[derive(Debug, Clone)]
pub(crate) struct LaneNow {
    pub(crate) api: ApiIx,
    pub(crate) priority: Priority,
    pub(crate) waiting: u64,
}

/// A hold beside those of the gate.
#[derive(Debug, Clone)]
pub(crate) struct Beside {
    /// Nothing: all of the account.
    pub(crate) api: Option<ApiIx>,
    pub(crate) until: At,
    pub(crate) view: HoldView,
}

/// What its owner has of an account, as of a moment.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) key: AccountKey,
    pub(crate) state: AccountState,
    /// As the account knows it.
    pub(crate) platform: Arc<Platform>,
    pub(crate) ledger: Ledger,
    pub(crate) lanes: Vec<LaneNow>,
    pub(crate) in_flight: u32,
    pub(crate) because: Option<String>,
    pub(crate) cause: Option<Cause>,
    pub(crate) until: Option<At>,
    pub(crate) beside: Vec<Beside>,
    pub(crate) answers: Vec<Mark>,
    pub(crate) now: At,
}

impl Snapshot {
    /// Until when what is beside the gate holds an api.
    pub(crate) fn held_until(&self, api: ApiIx) -> Option<At> {
        let holds = self.beside.iter().filter(|hold| hold.api.is_none_or(|only| only == api));
        holds.map(|hold| hold.until).max()
    }
}

/// What people see of it, but for the node.
pub(crate) fn view(shown: &Snapshot, outlook: Outlook, clock: &Clock) -> AccountView {
    let Outlook { next, done } = outlook;
    let platform = &*shown.platform;
    let name = |api: ApiIx| name_of(platform, api);
    let apis: Vec<ApiIx> = shown.lanes.iter().map(|lane| lane.api).collect();
    let uses = shown.ledger.uses(&platform.limits, &apis, shown.now);
    let mut limits: Vec<LimitView> = (0..)
        .zip(platform.limits.limits())
        .map(|(place, limit)| {
            let own = uses.iter().filter(|counter| counter.limit == place);
            let counters = own.map(|counter| counter_view(platform, counter, clock)).collect();
            limit_view(platform, limit, None, counters)
        })
        .collect();
    for budget in &platform.budgets {
        let shared = budget.counted.limits.limits().iter();
        let dims = Some(&*budget.dims);
        limits.extend(shared.map(|limit| limit_view(platform, limit, dims, Vec::new())));
    }
    AccountView {
        platform: shown.key.platform.to_string(),
        account: shown.key.account.to_string(),
        node: None,
        state: shown.state,
        now: clock.wall_at(shown.now),
        waiting: shown.lanes.iter().map(|lane| lane.waiting).sum(),
        in_flight: shown.in_flight,
        lanes: shown
            .lanes
            .iter()
            .map(|lane| LaneView {
                api: name(lane.api),
                priority: lane.priority,
                waiting: lane.waiting,
            })
            .collect(),
        because: shown.because.clone(),
        cause: shown.cause.map(Cause::kind),
        until: shown.until.filter(|at| *at < At::MAX).map(|at| clock.wall_at(at)),
        limits,
        holds: holds(shown, clock),
        answers: shown
            .answers
            .iter()
            .map(|mark| AnswerView {
                at: clock.wall_at(mark.at),
                api: name(mark.api),
                status: mark.status(),
                class: mark.class.to_owned(),
            })
            .collect(),
        next: next
            .into_iter()
            .map(|(at, api)| NextCall { at: clock.wall_at(at), api: name(api) })
            .collect(),
        eta: done.map(|done| eta(done, clock)),
    }
}

/// For people.
pub(crate) fn eta(done: super::eta::Done, clock: &Clock) -> Eta {
    Eta { at: clock.wall_at(done.at), about: done.about, by: done.by }
}

fn name_of(platform: &Platform, api: ApiIx) -> String {
    let known = platform.apis.get(usize::from(api));
    known.map_or_else(|| "(gone)".to_owned(), |api| api.name.to_string())
}

fn holds(shown: &Snapshot, clock: &Clock) -> Vec<HoldView> {
    let mut holds: Vec<HoldView> = shown.beside.iter().map(|hold| hold.view.clone()).collect();
    let own = shown.ledger.holds().as_slice().iter().filter(|hold| hold.until > shown.now);
    holds.extend(own.map(|hold| {
        let of = match hold.scope {
            HoldScope::Account => shown.key_text(),
            HoldScope::Api(api) => {
                format!("{}/{}", shown.key_text(), name_of(&shown.platform, api))
            }
        };
        HoldView {
            by: Holder::Provider,
            of,
            reason: hold.reason.clone(),
            since: None,
            until: (hold.until < At::MAX).then(|| clock.wall_at(hold.until)),
        }
    }));
    holds
}

impl Snapshot {
    fn key_text(&self) -> String {
        format!("{}/{}", self.key.platform, self.key.account)
    }
}

fn limit_view(
    platform: &Platform,
    limit: &Limit,
    shared: Option<&[Dim]>,
    counters: Vec<CounterView>,
) -> LimitView {
    let mut per: Vec<String> = match shared {
        Some(dims) => dims.iter().map(Dim::to_string).collect(),
        None => vec![Dim::Account.to_string()],
    };
    if shared.is_none() && limit.per_api {
        per.push(Dim::Api.to_string());
    }
    let window = limit.window();
    let guard = match limit.guard {
        Guard::Never => None,
        guard => window.and_then(|window| guard.span(window)),
    };
    LimitView {
        name: limit.name.clone(),
        kind: kind(limit.rule),
        per,
        api: limit.api.map(|api| name_of(platform, api)),
        max: u64::from(limit.rule.max()),
        window_ms: window.map(|window| window.0.div_ceil(1_000)),
        guard_ms: guard.map(|guard| guard.0.div_ceil(1_000)),
        shared: shared.is_some(),
        counters,
    }
}

fn kind(rule: Rule) -> LimitKind {
    match rule {
        Rule::Every { .. } => LimitKind::Every,
        Rule::Sliding { .. } => LimitKind::Sliding,
        Rule::Bucket { .. } => LimitKind::Bucket,
        Rule::Concurrent { .. } => LimitKind::Concurrent,
        Rule::Calendar { .. } => LimitKind::Calendar,
        Rule::FirstUse { .. } => LimitKind::FirstUse,
        Rule::Score { .. } => LimitKind::Score,
        Rule::Jobs { .. } => LimitKind::Jobs,
    }
}

fn counter_view(platform: &Platform, counter: &Use, clock: &Clock) -> CounterView {
    let left_out = counter.charges.len().saturating_sub(CALLS_MAX);
    let wall = |at: At| clock.wall_at(at);
    CounterView {
        api: counter.bucket.map(|api| name_of(platform, api)),
        used: counter.used(),
        reserved: counter.unfinished,
        since: counter.since.filter(|at| *at > At::MIN).map(wall),
        frees: counter.frees.filter(|at| *at < At::MAX).map(wall),
        clears: counter.clears.filter(|at| *at < At::MAX).map(wall),
        calls: counter.charges[left_out..]
            .iter()
            .map(|(at, units)| CallView { at: wall(*at), units: *units })
            .collect(),
        calls_left_out: left_out as u64,
    }
}

/// Calls a second that one account may make of all its apis in the long run, where a limit that counts by time applies
/// to all of them.
pub(crate) fn allowed(limits: &LimitSet) -> Option<f64> {
    let all = limits.limits().iter().filter(|limit| limit.api.is_none() && !limit.per_api);
    all.filter_map(rate_of).min_by(f64::total_cmp)
}

/// Units a second that a limit lets through in the long run, if it counts by time.
pub(crate) fn rate_of(limit: &Limit) -> Option<f64> {
    let window = limit.window().filter(|window| window.0 > 0)?;
    Some(f64::from(limit.rule.max()) * 1e6 / window.0 as f64)
}
