//! What the gate claims, and how it is tried.
//!
//! - `claims`: single cases with their arithmetic.
//! - `judge`: the provider, which knows only arrivals, and a second, naive gate that keeps every call for
//!   ever. Neither uses the ledger.
//! - `simulation`: random limits, calls, reports, crashes and restarts, watched by both.
//! - `record`: the stored form.
//! - `join`: two writers' knowledge of one account.
//! - `amend`: what is learnt of a call after it was charged.
//! - `apis`: the same under a configuration with other apis.
//! - `walk`: a whole account in virtual time, against arithmetic.
//! - `change`: a ledger under another set of limits.

mod amend;
mod apis;
mod change;
mod claims;
mod join;
mod judge;
mod record;
mod simulation;
mod walk;

use core::num::NonZeroU32;

use proptest::prelude::*;

use crate::{ApiIx, Guard, Limit, LimitSet, Rule, Span};

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

fn set(limits: impl Into<Vec<Limit>>) -> LimitSet {
    LimitSet::new(limits.into()).unwrap()
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

fn any_rule() -> impl Strategy<Value = Rule> {
    let window = || prop_oneof![MS..20 * MS, MS..2_000 * MS].prop_map(Span);
    prop_oneof![
        2 => window().prop_map(|gap| Rule::Every { gap }),
        4 => (1u32..7, window())
            .prop_map(|(calls, window)| Rule::Sliding { max: max(calls), window }),
        1 => (65u32..75, (50 * MS..3_000 * MS).prop_map(Span))
            .prop_map(|(calls, window)| Rule::Sliding { max: max(calls), window }),
        2 => (1u32..6).prop_map(concurrent),
    ]
}

fn any_guard() -> impl Strategy<Value = Guard> {
    prop_oneof![
        3 => (0..40 * MS).prop_map(|span| Guard::After(Span(span))),
        1 => Just(Guard::Default),
        1 => Just(Guard::Never),
    ]
}

/// One to five limits of all kinds.
fn any_limits() -> impl Strategy<Value = LimitSet> {
    let one = (
        any_rule(),
        any_guard(),
        any::<bool>(),
        prop_oneof![3 => Just(None), 1 => (0..APIS).prop_map(Some)],
    );
    prop::collection::vec(one, 1..=5).prop_map(|all| {
        let named = all.into_iter().enumerate().map(|(i, (rule, guard, per_api, api))| Limit {
            name: format!("limit {i}"),
            per_api,
            api,
            rule,
            guard,
        });
        set(named.collect::<Vec<_>>())
    })
}
