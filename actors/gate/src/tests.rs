//! What the gate claims, and how it is tried.
//!
//! - `claims`: single cases with their arithmetic.
//! - `judge`: the provider, which knows only arrivals, and a second, naive gate that keeps every call for
//!   ever. Neither uses the ledger.
//! - `simulation`: random limits, calls, reports, crashes and restarts, watched by both.
//! - `kinds`: the same for buckets, windows of the first call, jobs, scores, and costs.
//! - `known_as`: the same for two nodes with different limits of one name.
//! - `record`: the stored form.
//! - `join`: two writers' knowledge of one account.
//! - `amend`: what is learnt of a call after it was charged.
//! - `apis`: the same under a configuration with other apis.
//! - `walk`: a whole account in virtual time, against arithmetic.
//! - `change`: a ledger under another set of limits.
//! - `observe`: what providers say, against a provider that others use too.

mod amend;
mod apis;
mod change;
mod claims;
mod join;
mod judge;
mod kinds;
mod known_as;
mod observe;
mod record;
mod simulation;
mod walk;

use core::cell::Cell;
use core::num::NonZeroU32;
use std::sync::Arc;

use proptest::prelude::*;

use crate::{ApiIx, At, Calendar, Cost, Guard, Limit, LimitSet, Rule, Span};

/// Apis in tests: 0, 1, 2.
const APIS: u16 = 3;
/// Those that a changed configuration may have: two more, that nobody calls.
const APIS_EVER: usize = APIS as usize + 2;
const MS: u64 = 1_000;
const S: i64 = 1_000_000;

fn max(calls: u32) -> NonZeroU32 {
    NonZeroU32::new(calls).unwrap()
}

/// A limit of all calls together with a guard of 100 ms.
fn limit(name: &str, rule: Rule) -> Limit {
    let guard = Guard::After(Span::from_millis(100));
    Limit { name: name.into(), per_api: false, api: None, rule, guard }
}

fn every(secs: u64) -> Rule {
    Rule::Every { gap: Span::from_secs(secs) }
}

fn sliding(calls: u32, secs: u64) -> Rule {
    Rule::Sliding { max: max(calls), window: Span::from_secs(secs) }
}

fn concurrent(calls: u32) -> Rule {
    Rule::Concurrent { max: max(calls) }
}

/// With an irregular calendar for each rule that wants one.
fn set(limits: impl Into<Vec<Limit>>) -> LimitSet {
    let limits = limits.into();
    let mut calendars: Vec<Arc<dyn Calendar>> = Vec::new();
    for number in 0..LIMITS_IN_TESTS {
        let window = limits.iter().find_map(|limit| match limit.rule {
            Rule::Calendar { window, calendar, .. } if usize::from(calendar) == number => {
                Some(window)
            }
            _ => None,
        });
        calendars.push(Arc::new(Irregular(window.unwrap_or(Span::from_secs(1)))));
    }
    LimitSet::new(limits).unwrap().with_calendars(calendars).unwrap()
}

/// Most limits of a random set.
const LIMITS_IN_TESTS: usize = 7;

thread_local! {
    /// How far our wall clock is ahead of the provider's.
    static AHEAD: Cell<i64> = const { Cell::new(0) };
}

/// Resets that are mostly a window apart, but up to half of one more or less; as our clock has them.
#[derive(Debug)]
struct Irregular(Span);

/// The `k`-th reset by the provider's clock.
fn reset(window: Span, k: i64) -> i64 {
    let window = window.0 as i64;
    k * window + (k * 7_919).rem_euclid(13) * window / 26
}

impl Calendar for Irregular {
    fn prev_reset(&self, at: At) -> At {
        let ahead = AHEAD.get();
        let near = at.0.saturating_add(ahead).div_euclid(self.0.0 as i64);
        let resets = (near - 2..near + 3).map(|k| At(reset(self.0, k) - ahead));
        resets.filter(|reset| *reset <= at).max().unwrap_or(At::MIN)
    }

    fn next_reset(&self, at: At) -> At {
        let ahead = AHEAD.get();
        let near = at.0.saturating_add(ahead).div_euclid(self.0.0 as i64);
        let mut resets = (near - 2..near + 3).map(|k| At(reset(self.0, k) - ahead));
        resets.find(|reset| *reset > at).unwrap_or(At::MAX)
    }
}

/// What is declared once only these apis are, in this order: `limits` with their numbers changed and
/// without those of other apis. The names say who they were.
fn declared(limits: &LimitSet, apis: &[ApiIx]) -> LimitSet {
    let all = limits.limits().iter().filter_map(|limit| {
        let api = match limit.api {
            Some(api) => Some(number(apis, api)?),
            None => None,
        };
        Some(Limit { api, ..limit.clone() })
    });
    set(all.collect::<Vec<_>>()).with_apis(apis.iter().map(|api| name(*api)).collect()).unwrap()
}

fn name(api: ApiIx) -> String {
    format!("api {api}")
}

/// The number of an api among those declared, if it is.
fn number(apis: &[ApiIx], api: ApiIx) -> Option<ApiIx> {
    apis.iter().position(|other| *other == api).map(|place| place as ApiIx)
}

/// All apis that there ever are, in any order.
fn any_order() -> impl Strategy<Value = [ApiIx; APIS_EVER]> {
    Just([0, 1, 2, 3, 4]).prop_shuffle()
}

/// `calendar` is its place among the limits.
fn any_rule(calendar: u16) -> impl Strategy<Value = Rule> {
    let window = || prop_oneof![MS..20 * MS, MS..2_000 * MS].prop_map(Span);
    let few_or_many = || prop_oneof![4 => 1u32..7, 1 => 65u32..75].prop_map(max);
    let longer = || (50 * MS..3_000 * MS).prop_map(Span);
    prop_oneof![
        2 => window().prop_map(|gap| Rule::Every { gap }),
        4 => (1u32..7, window())
            .prop_map(|(calls, window)| Rule::Sliding { max: max(calls), window }),
        1 => (65u32..75, longer())
            .prop_map(|(calls, window)| Rule::Sliding { max: max(calls), window }),
        2 => (1u32..6).prop_map(concurrent),
        3 => (1u32..8, 1u32..12, window()).prop_map(|(burst, rate, per)| {
            Rule::Bucket { burst: max(burst), rate: max(rate), per }
        }),
        2 => (few_or_many(), longer(), 0..10 * MS).prop_map(move |(max, window, slack)| {
            let slack = Span(slack.min(window.0 / 8));
            Rule::Calendar { max, window, slack, calendar }
        }),
        2 => (few_or_many(), longer()).prop_map(|(max, window)| Rule::FirstUse { max, window }),
        1 => (1u32..7, window()).prop_map(|(calls, decay)| {
            Rule::Score { max: max(calls), decay, block: Span(3) }
        }),
        1 => (1u32..6, window()).prop_map(|(jobs, ttl)| Rule::Jobs { max: max(jobs), ttl }),
    ]
}

/// What a call costs under one limit: mostly one.
fn any_cost() -> impl Strategy<Value = Cost> {
    prop_oneof![
        6 => Just(Cost::ONE),
        2 => (0u32..5).prop_map(Cost::of),
        1 => (0u32..5).prop_map(Cost::about),
    ]
}

fn any_guard() -> impl Strategy<Value = Guard> {
    prop_oneof![
        3 => (0..40 * MS).prop_map(|span| Guard::After(Span(span))),
        1 => Just(Guard::Default),
        1 => Just(Guard::Never),
    ]
}

/// One to seven limits of all kinds.
fn any_limits() -> impl Strategy<Value = LimitSet> {
    let one = |place: usize| {
        (
            any_rule(place as u16),
            any_guard(),
            any::<bool>(),
            prop_oneof![3 => Just(None), 1 => (0..APIS).prop_map(Some)],
        )
    };
    let all: Vec<_> = (0..LIMITS_IN_TESTS).map(one).collect();
    (all, 1..=LIMITS_IN_TESTS).prop_map(|(all, count)| {
        let some = all.into_iter().take(count).enumerate();
        let named = some.map(|(i, (rule, guard, per_api, api))| Limit {
            name: format!("limit {i}"),
            per_api,
            api,
            rule,
            guard,
        });
        set(named.collect::<Vec<_>>())
    })
}
