//! Single cases with their arithmetic.

use proptest::prelude::*;

use super::{MS, S, concurrent, every, limit, max, set, sliding};
use crate::charges::{Charges, ENTRIES_MAX, Entry};
use crate::{
    Ask, At, Because, Decision, Guard, HOLDS_MAX, Hold, HoldScope, Holds, LIMITS_MAX, Ledger,
    Limit, LimitError, LimitSet, Note, PermitId, REASON_BYTES_MAX, Rule, Sent, Span, WINDOW_MAX,
    decide,
};

const ASK: Ask<'static> = Ask::new(0);
/// The guard of [`limit`].
const GUARD: i64 = S / 10;

fn ask(limits: &LimitSet, ledger: &Ledger, api: u16, now: i64) -> Decision {
    decide(limits, ledger, ledger.holds(), Ask::new(api), At(now))
}

fn wait(at: i64, place: usize) -> Decision {
    Decision::WaitUntil { at: Some(At(at)), because: Because::Limit(place) }
}

fn wait_for_report(place: usize) -> Decision {
    Decision::WaitUntil { at: None, because: Because::Limit(place) }
}

/// A ledger of calls that were let go, answered and over at these moments.
fn called(limits: &LimitSet, api: u16, times: impl IntoIterator<Item = i64>) -> Ledger {
    let mut ledger = Ledger::new();
    call(&mut ledger, limits, api, times);
    ledger
}

fn call(ledger: &mut Ledger, limits: &LimitSet, api: u16, times: impl IntoIterator<Item = i64>) {
    for at in times.into_iter().map(At) {
        ledger.take(limits, PermitId(0), Ask::new(api), at);
        assert!(ledger.answered(limits, PermitId(0), at));
        assert!(ledger.ended(limits, PermitId(0), at, Sent::Maybe));
    }
}

#[test]
fn a_set_without_limits_lets_everything_go() {
    let mut ledger = Ledger::new();
    for id in 0..1_000 {
        ledger.take(&LimitSet::default(), PermitId(id), ASK, At(0));
    }
    assert_eq!(ledger.in_flight().len(), 1_000);
    assert!(!LimitSet::default().is_dated());
}

#[test]
fn the_call_after_a_full_window_goes_when_the_first_has_left_it() {
    let limits = set([limit("hourly", sliding(60, 3600))]);
    let ledger = called(&limits, 0, (0..60).map(|i| i * S));
    assert_eq!(ask(&limits, &ledger, 0, 60 * S), wait(3600 * S, 0));
    assert_eq!(ask(&limits, &ledger, 0, 3600 * S - 1), wait(3600 * S, 0));
    assert_eq!(ask(&limits, &ledger, 0, 3600 * S), Decision::Go);
}

#[test]
fn a_call_in_flight_never_leaves_before_it_is_reported() {
    let limits = set([limit("gap", every(5))]);
    let mut ledger = Ledger::new();
    ledger.take(&limits, PermitId(1), ASK, At(0));
    assert_eq!(ask(&limits, &ledger, 0, 1_000_000 * S), wait_for_report(0));
    ledger.written(&limits, PermitId(1), At(S));
    assert_eq!(ask(&limits, &ledger, 0, S), wait(S + GUARD + 5 * S, 0));
    ledger.unwritten(PermitId(1));
    assert_eq!(ask(&limits, &ledger, 0, 1_000_000 * S), wait_for_report(0));
}

#[test]
fn an_answer_makes_a_charge_earlier_and_never_later() {
    let limits = set([limit("gap", every(5))]);
    for (answered, charge) in [(GUARD / 2, GUARD / 2), (GUARD * 2, GUARD)] {
        let mut ledger = Ledger::new();
        ledger.take(&limits, PermitId(1), ASK, At(0));
        ledger.written(&limits, PermitId(1), At(0));
        ledger.answered(&limits, PermitId(1), At(answered));
        assert_eq!(ask(&limits, &ledger, 0, S), wait(charge + 5 * S, 0));
    }
}

#[test]
fn nothing_changes_a_charge_after_the_answer() {
    let limits = set([limit("gap", every(5))]);
    let mut ledger = Ledger::new();
    ledger.take(&limits, PermitId(1), ASK, At(0));
    ledger.answered(&limits, PermitId(1), At(S));
    let before = ledger.clone();
    assert!(ledger.written(&limits, PermitId(1), At(2 * S)));
    assert!(ledger.unwritten(PermitId(1)));
    assert!(ledger.answered(&limits, PermitId(1), At(0)));
    assert_eq!(ledger, before);
    assert!(ledger.ended(&limits, PermitId(1), At(9 * S), Sent::Never));
    assert_eq!(ask(&limits, &ledger, 0, 2 * S), wait(S + 5 * S, 0));
}

#[test]
fn of_two_stamps_the_later_counts() {
    let limits = set([limit("gap", every(5))]);
    for stamps in [[S, 2 * S], [2 * S, S]] {
        let mut ledger = Ledger::new();
        ledger.take(&limits, PermitId(1), ASK, At(0));
        for at in stamps {
            ledger.written(&limits, PermitId(1), At(at));
        }
        assert_eq!(ask(&limits, &ledger, 0, 2 * S), wait(2 * S + GUARD + 5 * S, 0));
    }
}

#[test]
fn a_call_without_answer_is_charged_by_what_may_have_been_sent() {
    let of = |guard| set([Limit { guard, ..limit("gap", every(60)) }]);
    let after = Guard::After(Span(GUARD as u64));
    let cases = [
        (after, Sent::Never, S),
        (after, Sent::Maybe, S + GUARD),
        (Guard::Never, Sent::Never, S),
        (Guard::Never, Sent::Maybe, S + 30 * S),
        (Guard::Default, Sent::Maybe, S + 3 * S / 20), // 60 s / 400 = 150 ms
    ];
    for (guard, sent, charge) in cases {
        let (limits, mut ledger) = (of(guard), Ledger::new());
        ledger.take(&limits, PermitId(1), ASK, At(0));
        ledger.ended(&limits, PermitId(1), At(S), sent);
        assert_eq!(ask(&limits, &ledger, 0, S), wait(charge + 60 * S, 0), "{guard:?} {sent:?}");
    }
}

#[test]
fn guard_never_does_not_charge_what_is_only_written() {
    let limits = set([Limit { guard: Guard::Never, ..limit("gap", every(5)) }]);
    let mut ledger = Ledger::new();
    ledger.take(&limits, PermitId(1), ASK, At(0));
    ledger.written(&limits, PermitId(1), At(0));
    assert_eq!(ask(&limits, &ledger, 0, 1_000 * S), wait_for_report(0));
    assert_eq!(limits.guard_max(), Span::from_secs(30));
}

#[test]
fn reports_of_an_unknown_permit_change_nothing() {
    let limits = set([limit("gap", every(5)), limit("slots", concurrent(1))]);
    let mut ledger = Ledger::new();
    ledger.take(&limits, PermitId(1), ASK, At(0));
    let before = ledger.clone();
    assert!(!ledger.written(&limits, PermitId(2), At(0)));
    assert!(!ledger.unwritten(PermitId(2)));
    assert!(!ledger.answered(&limits, PermitId(2), At(0)));
    assert!(!ledger.ended(&limits, PermitId(2), At(0), Sent::Never));
    assert_eq!(ledger, before);
}

#[test]
#[should_panic(expected = "taken against")]
fn a_permit_against_the_decision_is_a_panic() {
    let limits = set([limit("gap", every(5))]);
    let mut ledger = called(&limits, 0, [0]);
    ledger.take(&limits, PermitId(1), ASK, At(5 * S - 1));
}

#[test]
#[should_panic(expected = "in flight already")]
fn a_permit_of_an_id_in_flight_is_a_panic() {
    let mut ledger = Ledger::new();
    ledger.take(&LimitSet::default(), PermitId(1), ASK, At(0));
    ledger.take(&LimitSet::default(), PermitId(1), ASK, At(0));
}

#[test]
fn apis_are_counted_apart_or_together_as_declared() {
    let apart = set([Limit { per_api: true, ..limit("gap", every(5)) }]);
    let ledger = called(&apart, 1, [0]);
    assert_eq!(ask(&apart, &ledger, 1, S), wait(5 * S, 0));
    assert_eq!(ask(&apart, &ledger, 2, S), Decision::Go);

    let together = set([limit("gap", every(5))]);
    assert_eq!(ask(&together, &called(&together, 1, [0]), 2, S), wait(5 * S, 0));

    let of_one = set([Limit { api: Some(1), ..limit("gap", every(5)) }]);
    assert_eq!(ask(&of_one, &called(&of_one, 2, [0, 1, 2]), 1, S), Decision::Go);
    let ledger = called(&of_one, 1, [0]);
    assert_eq!(ask(&of_one, &ledger, 1, S), wait(5 * S, 0));
    assert_eq!(ask(&of_one, &ledger, 2, S), Decision::Go);
}

#[test]
fn a_slot_is_free_when_the_call_is_over_not_when_it_is_answered() {
    let limits = set([limit("slots", concurrent(1))]);
    let mut ledger = Ledger::new();
    ledger.take(&limits, PermitId(1), ASK, At(0));
    ledger.answered(&limits, PermitId(1), At(S));
    assert_eq!(ask(&limits, &ledger, 0, 2 * S), wait_for_report(0));
    ledger.ended(&limits, PermitId(1), At(2 * S), Sent::Maybe);
    assert_eq!(ask(&limits, &ledger, 0, 2 * S), Decision::Go);
    assert!(ledger.is_empty());
}

#[test]
fn a_dead_writers_calls_are_charged_late_and_keep_their_slots() {
    let limits = set([limit("gap", sliding(3, 60)), limit("slots", concurrent(3))]);
    let mut ledger = Ledger::new();
    for id in 1..=3 {
        ledger.take(&limits, PermitId(id), ASK, At(0));
    }
    ledger.written(&limits, PermitId(2), At(0));
    ledger.answered(&limits, PermitId(3), At(S));
    ledger.lost(&limits, At(10 * S), At(100 * S));
    assert_eq!(ledger.in_flight().len(), 0);
    assert_eq!(ask(&limits, &ledger, 0, S), wait(100 * S, 1));
    assert_eq!(ask(&limits, &ledger, 0, 100 * S), Decision::Go);
    // Without the slots: only the answered one was charged before 10 s.
    let dated = set([limit("gap", sliding(3, 60))]);
    let (mut ledger, _) = ledger.under(&limits, &dated, At(S));
    assert_eq!(ask(&dated, &ledger, 0, S), wait(S + 60 * S, 0));
    call(&mut ledger, &dated, 0, [61 * S]);
    assert_eq!(ask(&dated, &ledger, 0, 62 * S), wait(70 * S, 0));
}

#[test]
fn one_lost_call_among_others_is_charged_late_and_keeps_its_slot() {
    let limits = set([limit("gap", sliding(3, 60)), limit("slots", concurrent(3))]);
    let mut ledger = Ledger::new();
    for id in 1..=3 {
        ledger.take(&limits, PermitId(id), ASK, At(0));
    }
    assert!(ledger.lose(&limits, PermitId(2), At(10 * S), At(100 * S)));
    assert!(!ledger.lose(&limits, PermitId(2), At(10 * S), At(100 * S)), "it is no more in flight");
    assert_eq!(ledger.in_flight().count(), 2);
    for id in [1, 3] {
        ledger.answered(&limits, PermitId(id), At(S));
        ledger.ended(&limits, PermitId(id), At(S), Sent::Maybe);
    }
    assert_eq!(ask(&limits, &ledger, 0, 2 * S), wait(61 * S, 0));
    call(&mut ledger, &limits, 0, [61 * S, 61 * S]);
    assert_eq!(ask(&limits, &ledger, 0, 62 * S), wait(70 * S, 0), "not before 10 s + 60 s");
    let slots = set([limit("slots", concurrent(3))]);
    let (mut ledger, _) = ledger.under(&limits, &slots, At(62 * S));
    ledger.take(&slots, PermitId(4), ASK, At(62 * S));
    ledger.take(&slots, PermitId(5), ASK, At(62 * S));
    assert_eq!(
        ask(&slots, &ledger, 0, 63 * S),
        wait(100 * S, 0),
        "the third place is the lost call's"
    );
}

#[test]
fn no_loss_makes_a_charge_earlier() {
    let limits = set([limit("gap", every(60))]);
    let mut ledger = Ledger::new();
    ledger.take(&limits, PermitId(1), ASK, At(0));
    ledger.written(&limits, PermitId(1), At(9 * S));
    ledger.lost(&limits, At(S), At(0));
    assert_eq!(ask(&limits, &ledger, 0, 9 * S), wait(9 * S + GUARD + 60 * S, 0));
}

#[test]
fn a_lowered_limit_waits_until_enough_have_left() {
    let (old, new) =
        (set([limit("hourly", sliding(5, 100))]), set([limit("hourly", sliding(2, 100))]));
    let ledger = called(&old, 0, (0..5).map(|i| i * S));
    let (ledger, notes) = ledger.under(&old, &new, At(10 * S));
    assert_eq!(notes, []);
    // Calls at 0, 1, 2, 3, 4 s: four of them must have left before another is the second.
    assert_eq!(ask(&new, &ledger, 0, 10 * S), wait(103 * S, 0));
}

#[test]
fn a_limit_that_begins_to_count_apis_apart_counts_the_old_calls_for_each() {
    let together = set([limit("gap", every(5))]);
    let apart = set([Limit { per_api: true, ..limit("gap", every(5)) }]);
    let (ledger, _) = called(&together, 0, [0]).under(&together, &apart, At(S));
    assert_eq!(ask(&apart, &ledger, 0, S), wait(5 * S, 0));
    assert_eq!(ask(&apart, &ledger, 2, S), wait(5 * S, 0));

    let mut ledger = called(&apart, 0, [0]);
    call(&mut ledger, &apart, 1, [S]);
    let (ledger, _) = ledger.under(&apart, &together, At(2 * S));
    assert_eq!(ask(&together, &ledger, 2, 2 * S), wait(6 * S, 0));
}

#[test]
fn limits_that_come_and_go_are_noted() {
    let (old, new) =
        (set([limit("a", every(5))]), set([limit("b", every(5)), limit("c", concurrent(1))]));
    let mut ledger = called(&old, 0, [0]);
    ledger.take(&old, PermitId(7), ASK, At(6 * S));
    let (ledger, notes) = ledger.under(&old, &new, At(6 * S));
    let (a, b) = ("a".to_owned(), "b".to_owned());
    assert_eq!(notes, [Note::Dropped { name: a, api: None }, Note::Unknown { name: b, api: None }]);
    assert_eq!(ask(&new, &ledger, 0, 7 * S), wait_for_report(0));
    assert_eq!(ledger.in_flight().collect::<Vec<_>>(), [PermitId(7)]);
}

#[test]
fn up_to_64_calls_are_kept_exactly_and_more_are_rounded_up() {
    // Charges at 1 us; with 65 calls in 60 s they are rounded up to 1 s.
    for (calls, opens) in [(64, 60 * S + 1), (65, 61 * S)] {
        let limits = set([limit("many", sliding(calls, 60))]);
        let ledger = called(&limits, 0, (0..calls).map(|_| 1));
        assert_eq!(ask(&limits, &ledger, 0, S), wait(opens, 0));
    }
}

#[test]
fn a_long_full_window_takes_a_few_hundred_bytes() {
    let limits = set([limit("daily", sliding(10_000, 86_400))]);
    let mut ledger = called(&limits, 0, (0..10_000).map(|i| i * 86_399 * S / 9_999));
    ledger.prune(&limits, At(86_399 * S));
    let entries = ledger.charges[0].entries().len();
    assert!(entries <= 61, "{entries}");
    let record = ledger.encode(&limits, At(86_399 * S)).len();
    assert!(record < 500, "{record}");
}

#[test]
fn calls_in_flight_of_a_rounded_limit_stay_exact() {
    let limits = set([limit("many", sliding(65, 60))]);
    let mut ledger = Ledger::new();
    for id in 0..65 {
        ledger.take(&limits, PermitId(id), ASK, At(0));
        ledger.written(&limits, PermitId(id), At(0));
    }
    assert_eq!(ask(&limits, &ledger, 0, 0), wait(GUARD + 60 * S, 0));
}

proptest! {
    #[test]
    fn a_full_counter_is_bounded_and_never_too_generous(times in prop::collection::vec(0..5_000i64, 1..400)) {
        let mut charges = Charges::new(0, None);
        for at in &times {
            charges.add(Entry { at: At(*at), calls: 1 });
            prop_assert!(charges.entries().len() <= ENTRIES_MAX);
        }
        prop_assert!(charges.entries().windows(2).all(|pair| pair[0].at < pair[1].at));
        for left in 0..5_000i64 {
            let kept = charges.entries().iter().filter(|entry| entry.at.0 > left);
            let kept: u32 = kept.map(|entry| entry.calls).sum();
            prop_assert!(kept as usize >= times.iter().filter(|at| **at > left).count());
        }
        let all: u32 = charges.entries().iter().map(|entry| entry.calls).sum();
        prop_assert_eq!(all as usize, times.len());
    }
}

#[test]
fn of_several_reasons_the_longest_is_named() {
    let limits =
        set([limit("gap", every(5)), limit("slow", every(9)), limit("slots", concurrent(2))]);
    let mut ledger = called(&limits, 0, [0]);
    assert_eq!(ask(&limits, &ledger, 0, S), wait(9 * S, 1));
    let until = |secs: i64, scope| Hold { scope, until: At(secs * S), reason: format!("{secs}") };
    ledger.holds_mut().set(until(8, HoldScope::Account));
    ledger.holds_mut().set(until(20, HoldScope::Api(1)));
    assert_eq!(ask(&limits, &ledger, 0, S), wait(9 * S, 1));
    let because = Because::Hold(1);
    assert_eq!(because.text(&limits, ledger.holds()), "20");
    assert_eq!(Because::Limit(1).text(&limits, ledger.holds()), "slow");
    assert_eq!(ask(&limits, &ledger, 1, S), Decision::WaitUntil { at: Some(At(20 * S)), because });
    assert_eq!(ask(&limits, &ledger, 1, 20 * S), Decision::Go);
    // What waits for a report waits longest.
    ledger.take(&limits, PermitId(1), ASK, At(9 * S));
    assert_eq!(ask(&limits, &ledger, 1, 9 * S), wait_for_report(0));
}

#[test]
fn too_many_holds_stop_more_never_less() {
    // The later ones end before all that are there when they come.
    let hold = |i: u16| Hold {
        scope: HoldScope::Api(i),
        until: At(if i < 64 { 1_000 + i64::from((i * 7) % 40) } else { 900 }),
        reason: "429".into(),
    };
    let mut holds = Holds::new();
    for i in 0..200 {
        holds.set(hold(i));
        assert!(holds.as_slice().len() <= HOLDS_MAX);
        for old in (0..=i).map(hold) {
            let HoldScope::Api(api) = old.scope else { unreachable!() };
            let stops = |h: &Hold| h.scope.stops(api) && h.until >= old.until;
            assert!(holds.as_slice().iter().any(stops), "{old:?} forgotten after {i}");
        }
    }
    holds.prune(At(2_000));
    assert!(holds.is_empty());
}

#[test]
fn only_the_holds_that_are_meant_are_cleared() {
    let mut holds = Holds::new();
    let hold = |scope, reason: &str| Hold { scope, until: At::MAX, reason: reason.into() };
    holds.set(hold(HoldScope::Account, "paused"));
    holds.set(hold(HoldScope::Api(1), "paused"));
    holds.set(hold(HoldScope::Account, "429"));
    let paused = |hold: &Hold| hold.reason == "paused" && hold.scope == HoldScope::Account;
    assert_eq!(holds.clear(paused), 1);
    assert_eq!(
        holds.as_slice(),
        [hold(HoldScope::Api(1), "paused"), hold(HoldScope::Account, "429")]
    );
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let mut holds = Holds::new();
    holds.set(Hold { scope: HoldScope::Account, until: At(1), reason: "ü€".repeat(100) });
    assert_eq!(holds.as_slice()[0].reason, "ü€".repeat(REASON_BYTES_MAX / 5));
}

#[test]
fn impossible_limits_are_refused() {
    let refused = |limit: Limit| LimitSet::new(vec![limit]).unwrap_err();
    let x = || "x".to_owned();
    let span = |micros| Rule::Every { gap: Span(micros) };
    let long = Rule::Sliding { max: max(1), window: Span(WINDOW_MAX.0 + 1) };
    assert_eq!(refused(limit("x", span(0))), LimitError::TooShort(x()));
    assert_eq!(refused(limit("x", span(MS - 1))), LimitError::TooShort(x()));
    assert_eq!(refused(limit("x", long)), LimitError::TooLong(x()));
    let endless = Limit { guard: Guard::After(Span(WINDOW_MAX.0 + 1)), ..limit("x", every(1)) };
    assert_eq!(refused(endless), LimitError::TooLong(x()));
    assert_eq!(refused(limit("", every(1))), LimitError::Name { index: 0, bytes: 0 });
    let name = "n".repeat(129);
    assert_eq!(refused(limit(&name, every(1))), LimitError::Name { index: 0, bytes: 129 });

    let many: Vec<_> = (0..=LIMITS_MAX).map(|i| limit(&i.to_string(), every(1))).collect();
    assert_eq!(LimitSet::new(many.clone()).unwrap_err(), LimitError::TooMany(33));
    assert!(LimitSet::new(many[1..].to_vec()).is_ok());
    let of_api = Limit { api: Some(1), ..limit("x", every(1)) };
    let twice = vec![of_api.clone(), limit("x", every(1)), of_api.clone()];
    assert_eq!(LimitSet::new(twice.clone()).unwrap_err(), LimitError::Duplicate(x()));
    assert!(LimitSet::new(twice[..2].to_vec()).is_ok());
    assert!(LimitSet::new(vec![limit("x", span(MS)), limit("y", span(WINDOW_MAX.0))]).is_ok());
}

#[test]
fn a_call_that_is_given_up_is_charged_as_a_lost_one_and_keeps_its_slot_until_it_is_told_of() {
    let rules = [limit("gap", every(1)), limit("slots", concurrent(1))];
    let limits = set(rules);
    let ask = Ask::new(0);
    let mut ledger = Ledger::new();
    ledger.take(&limits, PermitId(7), ask, At(0));
    assert!(!ledger.give_up(&limits, PermitId(8), At(S)));
    assert!(ledger.give_up(&limits, PermitId(7), At(S)));
    let next = |ledger: &Ledger, at: i64| decide(&limits, ledger, ledger.holds(), ask, At(at));
    // As long as nothing is heard of it.
    assert!(matches!(next(&ledger, 100 * S), Decision::WaitUntil { at: None, .. }));
    // What is told now does not make its charge earlier, nor is it charged twice.
    ledger.answered(&limits, PermitId(7), At(1));
    let read = Ledger::decode_exact(&limits, &ledger.encode(&limits, At(S)), At(S)).unwrap().0;
    for mut ledger in [ledger, read] {
        assert!(ledger.ended(&limits, PermitId(7), At(S / 2), Sent::Maybe));
        let Decision::WaitUntil { at, .. } = next(&ledger, S) else { panic!() };
        assert_eq!(at, Some(At(2 * S)));
        assert_eq!(ledger.charged().map(|(.., calls)| calls).sum::<u32>(), 1);
        assert_eq!(next(&ledger, 2 * S), Decision::Go);
    }
}
