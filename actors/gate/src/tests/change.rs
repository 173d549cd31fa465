//! A ledger under another set of limits: what counts from then on, and what is known of the past.

use proptest::prelude::*;

use super::{S, concurrent, every, limit, set, sliding};
use crate::{
    Ask, At, Change, ChangeKind, Cost, Decision, Guard, Known, Ledger, Limit, LimitSet, PermitId,
    Rule, Sent, Span, decide,
};

const API: Ask = Ask::new(0);

/// Calls that arrived at these seconds, one after the other, each charged then.
fn called(limits: &LimitSet, at_secs: &[i64]) -> Ledger {
    let mut ledger = Ledger::new();
    for (number, at) in at_secs.iter().enumerate() {
        let id = PermitId(number as u64);
        ledger.take(limits, id, API, At(at * S));
        ledger.ended(limits, id, At(at * S), Sent::Never);
    }
    ledger
}

/// The second at which the next call may go.
fn next(limits: &LimitSet, ledger: &Ledger, now: At) -> Option<i64> {
    match decide(limits, ledger, ledger.holds(), API, now) {
        Decision::Go => Some(now.0 / S),
        Decision::WaitUntil { at, .. } => at.map(|at| at.0 / S),
        Decision::Never { .. } => panic!("no limit of these forbids a call"),
    }
}

fn only(limit: Limit) -> LimitSet {
    set([limit])
}

fn change(kind: ChangeKind, known: Known) -> Vec<Change> {
    vec![Change { name: "l".into(), api: None, kind, known }]
}

#[test]
fn fewer_calls_in_the_same_window_count_all_that_were_made() {
    let (old, new) = (only(limit("l", sliding(10, 60))), only(limit("l", sliding(3, 60))));
    let ledger = called(&old, &[0, 10, 20, 30, 40]);
    let (ledger, notes) = ledger.under(&old, &new, At(41 * S));
    assert!(notes.is_empty());
    // Of the five all but two have to leave: those of 0, 10 and 20 s.
    assert_eq!(next(&new, &ledger, At(41 * S)), Some(80));
    assert_eq!(new.changes_from(&old), change(ChangeKind::Tightened, Known::All));
}

#[test]
fn a_longer_window_counts_what_the_shorter_one_still_did() {
    let (old, new) = (only(limit("l", every(10))), only(limit("l", every(60))));
    let ledger = called(&old, &[0]);
    assert_eq!(next(&new, &ledger.under(&old, &new, At(9 * S)).0, At(9 * S)), Some(60));
    // Forgotten by now: nobody knows of it any more.
    assert_eq!(next(&new, &ledger.under(&old, &new, At(10 * S)).0, At(10 * S)), Some(10));
    let known = Known::For(Span::from_secs(10));
    assert_eq!(new.changes_from(&old), change(ChangeKind::Tightened, known));
}

#[test]
fn a_loosened_limit_lets_go_earlier_and_knows_everything() {
    let (old, new) = (only(limit("l", every(60))), only(limit("l", every(10))));
    let ledger = called(&old, &[0]).under(&old, &new, At(5 * S)).0;
    assert_eq!(next(&new, &ledger, At(5 * S)), Some(10));
    assert_eq!(new.changes_from(&old), change(ChangeKind::Loosened, Known::All));
}

#[test]
fn a_new_limit_takes_over_what_another_remembers_of_the_same_calls() {
    let old = set([limit("gap", every(5)), limit("minute", sliding(30, 60))]);
    let new = set([
        limit("gap", every(5)),
        limit("minute", sliding(30, 60)),
        limit("l", sliding(3, 3600)),
    ]);
    let ledger = called(&old, &[0, 10, 20]).under(&old, &new, At(30 * S)).0;
    assert_eq!(next(&new, &ledger, At(30 * S)), Some(3600));
    assert_eq!(next(&old, &ledger.under(&new, &old, At(30 * S)).0, At(30 * S)), Some(30));
    let known = Known::For(Span::from_secs(60));
    assert_eq!(new.changes_from(&old), change(ChangeKind::Added, known));
    assert_eq!(old.changes_from(&new), change(ChangeKind::Removed, Known::All));
}

#[test]
fn a_limit_that_is_only_renamed_forgets_nothing() {
    let (old, new) = (only(limit("before", every(60))), only(limit("l", every(60))));
    let ledger = called(&old, &[0]).under(&old, &new, At(50 * S)).0;
    assert_eq!(next(&new, &ledger, At(50 * S)), Some(60));
    let kinds: Vec<_> = new.changes_from(&old).iter().map(|c| (c.kind, c.known)).collect();
    assert_eq!(kinds, [(ChangeKind::Added, Known::All), (ChangeKind::Removed, Known::All)]);
}

#[test]
fn a_new_limit_that_nothing_stands_in_for_knows_only_what_is_in_flight() {
    let own = |name, api| Limit { api: Some(api), ..limit(name, every(60)) };
    let (old, new) = (set([own("other", 1)]), only(limit("l", every(60))));
    let mut ledger = called(&old, &[0]);
    ledger.take(&old, PermitId(9), API, At(S));
    let ledger = ledger.under(&old, &new, At(2 * S)).0;
    assert_eq!(next(&new, &ledger, At(2 * S)), None, "it waits for the call in flight");
    assert_eq!(new.changes_from(&old)[0].known, Known::For(Span::ZERO));
}

#[test]
fn calls_in_flight_take_slots_of_the_new_number() {
    let (old, new) = (only(limit("l", concurrent(3))), only(limit("l", concurrent(1))));
    let mut ledger = Ledger::new();
    ledger.take(&old, PermitId(1), API, At(0));
    ledger.take(&old, PermitId(2), API, At(0));
    let mut ledger = ledger.under(&old, &new, At(S)).0;
    ledger.ended(&new, PermitId(1), At(S), Sent::Maybe);
    assert_eq!(next(&new, &ledger, At(S)), None);
    ledger.ended(&new, PermitId(2), At(2 * S), Sent::Maybe);
    assert_eq!(next(&new, &ledger, At(2 * S)), Some(2));
    assert_eq!(new.changes_from(&old), change(ChangeKind::Tightened, Known::All));
    assert_eq!(old.changes_from(&new), change(ChangeKind::Loosened, Known::All));
}

#[test]
fn a_shorter_guard_loosens_and_a_longer_one_tightens() {
    let guard = |guard| only(Limit { guard, ..limit("l", every(60)) });
    let (short, never) = (guard(Guard::After(Span::ZERO)), guard(Guard::Never));
    assert_eq!(never.changes_from(&short), change(ChangeKind::Tightened, Known::All));
    assert_eq!(short.changes_from(&never), change(ChangeKind::Loosened, Known::All));
}

#[test]
fn a_limit_that_weighs_calls_otherwise_stands_in_for_none_and_one_that_weighs_them_alike_does() {
    let renamed = |weighing| {
        let old = only(limit("before", sliding(5, 60))).with_weighings(vec![7]);
        let new = only(limit("l", sliding(5, 60))).with_weighings(vec![weighing]);
        let mut ledger = Ledger::new();
        // One that was free, and one of five.
        for (id, cost) in [(1, Cost::FREE), (2, Cost::of(5))] {
            let costs = [cost];
            ledger.take(&old, PermitId(id), API.with_costs(&costs), At(0));
            ledger.ended(&old, PermitId(id), At(0), Sent::Never);
        }
        let ledger = ledger.under(&old, &new, At(S)).0;
        (next(&new, &ledger, At(S)), new.changes_from(&old)[0].known)
    };
    assert_eq!(renamed(7), (Some(60), Known::All));
    // Its units mean nothing to one that counts calls, which therefore knows nothing, and says so.
    assert_eq!(renamed(0), (Some(1), Known::For(Span::ZERO)));
    assert_eq!(renamed(8), (Some(1), Known::For(Span::ZERO)));
}

#[test]
fn a_limit_by_which_calls_cost_otherwise_is_told() {
    let (old, new) = (only(limit("l", every(60))), only(limit("l", every(60))));
    assert_eq!(new.changes_from(&old), []);
    let new = new.with_weighings(vec![3]);
    assert_eq!(new.changes_from(&old), change(ChangeKind::Weighed, Known::All));
    assert_ne!(old, new);
    assert_eq!(old, old.clone().with_weighings(vec![0]));
}

fn any_rule() -> impl Strategy<Value = Rule> {
    prop_oneof![
        (1..30_u64).prop_map(every),
        (1..6_u32, 1..40_u64).prop_map(|(max, secs)| sliding(max, secs)),
        (1..4_u32).prop_map(concurrent),
    ]
}

fn any_set() -> impl Strategy<Value = LimitSet> {
    // Few names, so that some are the same in both sets.
    let names = proptest::sample::subsequence(vec!["a", "b", "c"], 1..=3);
    (names, proptest::collection::vec(any_rule(), 3)).prop_map(|(names, rules)| {
        set(names.into_iter().zip(rules).map(|(name, rule)| limit(name, rule)).collect::<Vec<_>>())
    })
}

proptest! {
    /// A naive list of every call ever made, counted in each new limit as far back as is said to be known: the
    /// ledger lets a call go exactly when that does.
    #[test]
    fn what_is_said_to_be_known_is_what_counts(
        old in any_set(),
        new in any_set(),
        pauses in proptest::collection::vec(0..20_i64, 1..12),
        after in 0..30_i64,
        wait in 0..40_i64,
    ) {
        let mut ledger = Ledger::new();
        let (mut now, mut calls) = (0_i64, Vec::new());
        for (number, pause) in pauses.into_iter().enumerate() {
            now += pause;
            if decide(&old, &ledger, ledger.holds(), API, At(now * S)) == Decision::Go {
                let id = PermitId(number as u64);
                ledger.take(&old, id, API, At(now * S));
                ledger.ended(&old, id, At(now * S), Sent::Never);
                calls.push(now);
            }
        }
        let changed = now + after;
        let changes = new.changes_from(&old);
        let (ledger, _) = ledger.under(&old, &new, At(changed * S));
        let now = changed + wait;
        let goes = new.limits().iter().all(|limit| {
            let (max, window) = match limit.rule {
                Rule::Every { gap } => (1, gap),
                Rule::Sliding { max, window } => (max.get() as usize, window),
                _ => return true,
            };
            let known = changes.iter().find(|c| c.name == limit.name && c.kind != ChangeKind::Removed);
            let from = match known.map(|change| change.known) {
                None | Some(Known::All) => i64::MIN,
                Some(Known::For(span)) => changed - i64::try_from(span.0).unwrap() / S,
            };
            let window = i64::try_from(window.0).unwrap() / S;
            calls.iter().filter(|at| **at > from && **at + window > now).count() < max
        });
        let decision = decide(&new, &ledger, ledger.holds(), API, At(now * S));
        prop_assert_eq!(decision == Decision::Go, goes, "{:?} {:?} {:?}", calls, changes, decision);
    }
}
