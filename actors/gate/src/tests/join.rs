//! What two writers know of one account, in one ledger.

use proptest::prelude::*;

use super::record::{any_at, any_ledger_without_names, permit, slot};
use super::{APIS, S, concurrent, limit, set, sliding};
use crate::charges::Entry;
use crate::ledger::State;
use crate::{Ask, At, Decision, Holds, Ledger, LimitSet, PermitId, Sent, Span, decide};

/// The ledger without what fits no set but its own.
fn of(limits: &LimitSet, ledger: &Ledger) -> Ledger {
    let mut own = Ledger::new();
    own.permits.clone_from(&ledger.permits);
    own.slots.clone_from(&ledger.slots);
    for charges in &ledger.charges {
        if let Some(limit) = limits.limits().get(charges.limit)
            && limit.rule.window().is_some()
        {
            for entry in charges.entries() {
                own.add(charges.limit, limit.bucket(charges.bucket.unwrap_or(0)), *entry);
            }
        }
    }
    own
}

/// When a call may go: now, at a time, or after a report.
fn opens(limits: &LimitSet, ledger: &Ledger, api: u16, now: At) -> At {
    match decide(limits, ledger, &Holds::new(), Ask::new(api), now) {
        Decision::Go => now,
        Decision::WaitUntil { at, .. } => at.unwrap_or(At::MAX),
        Decision::Never { .. } => panic!("a window without room"),
    }
}

/// Places taken in each limit's counter at `now`.
fn taken(limits: &LimitSet, ledger: &Ledger, api: u16, now: At) -> Vec<u64> {
    limits
        .of(api)
        .map(|(place, limit)| {
            let left = match limit.rule.window() {
                Some(_) => limits.left_by(limit, now),
                None => now,
            };
            let charges = ledger.charges_of(place, limit, api);
            let charged = charges.flat_map(|charges| charges.after(left));
            let open = ledger.unfinished(place, limit, api);
            let still = open.filter(|(at, _)| at.is_none_or(|at| at > left));
            charged.map(|entry| u64::from(entry.calls)).sum::<u64>()
                + still.map(|(_, calls)| u64::from(calls)).sum::<u64>()
        })
        .collect()
}

proptest! {
    #[test]
    fn a_joined_ledger_lets_nothing_go_before_either_does(
        (limits, mine) in any_ledger_without_names(),
        (_, other) in any_ledger_without_names(),
        times in prop::collection::vec(any_at(), 1..20),
        known in any::<bool>(),
    ) {
        let mut theirs = of(&limits, &other);
        theirs.permits.clear();
        let mut own = of(&limits, &mine);
        let mut joined = theirs.clone();
        joined.join(&own, known);
        if known {
            // Their charges are in the record of the other already.
            own.permits.iter_mut().for_each(|permit| permit.state = State::Charged);
        }
        for now in times {
            for api in 0..APIS {
                let opens = |ledger: &Ledger| opens(&limits, ledger, api, now);
                prop_assert!(opens(&joined) >= opens(&own).max(opens(&theirs)));
                let taken = |ledger: &Ledger| taken(&limits, ledger, api, now);
                let (joined, own, theirs) = (taken(&joined), taken(&own), taken(&theirs));
                for place in 0..joined.len() {
                    let both = own[place] + theirs[place];
                    let least = if known { own[place].max(theirs[place]) } else { both };
                    // More only where 128 charges of a counter were rounded up.
                    prop_assert!(joined[place] >= least);
                }
            }
        }
        if known {
            // What is known already changes nothing.
            let mut again = joined.clone();
            again.join(&own, true);
            prop_assert_eq!(again, joined);
        }
    }

    #[test]
    fn a_permit_given_back_leaves_no_trace(
        (limits, ledger) in any_ledger_without_names(),
        api in 0..APIS,
        now in any_at(),
    ) {
        let mut ledger = of(&limits, &ledger);
        ledger.permits.retain(|permit| permit.id != PermitId(u64::MAX));
        let ask = Ask::new(api);
        if decide(&limits, &ledger, &Holds::new(), ask, now) == Decision::Go {
            ledger.prune(&limits, now);
            let before = ledger.clone();
            ledger.take(&limits, PermitId(u64::MAX), ask, now);
            prop_assert!(ledger.give_back(&limits, PermitId(u64::MAX)));
            prop_assert_eq!(&ledger, &before);
            prop_assert!(!ledger.give_back(&limits, PermitId(u64::MAX)));
        }
    }
}

#[test]
fn calls_that_both_writers_know_count_once_and_others_twice() {
    let with = |times: &[i64]| {
        let mut ledger = Ledger::new();
        for at in times {
            ledger.add(0, None, Entry { at: At(at * S), calls: 1 });
        }
        ledger
    };
    // The record has the two calls of 1 and 2 s a little later, as a lost writer's, and one of its own.
    let (own, theirs) = (with(&[1, 2]), with(&[3, 3, 4]));
    let mut joined = theirs.clone();
    joined.join(&own, true);
    assert_eq!(joined, theirs);
    // Of a record that knows only one of the two calls, so much is clear: both were made.
    let mut joined = with(&[3]);
    joined.join(&own, true);
    assert_eq!(joined, with(&[1, 3]));
    let mut joined = theirs.clone();
    joined.join(&own, false);
    assert_eq!(joined, with(&[1, 2, 3, 3, 4]));
}

#[test]
fn a_call_in_flight_that_the_record_has_charged_keeps_its_slot_and_is_charged_no_second_time() {
    let limits = set([limit("two", sliding(2, 10)), limit("slots", concurrent(9))]);
    let mut own = Ledger::new();
    own.take(&limits, PermitId(7), Ask::new(0), At(0));
    let mut theirs = own.clone();
    theirs.lost(&limits, At(S), At(60 * S));
    for known in [true, false] {
        let mut joined = theirs.clone();
        joined.join(&own, known);
        assert_eq!(joined.in_flight().collect::<Vec<_>>(), [PermitId(7)]);
        assert_eq!(joined.slots, [slot(0, At(60 * S), 1)]);
        joined.ended(&limits, PermitId(7), At(2 * S), Sent::Maybe);
        assert_eq!(taken(&limits, &joined, 0, At(3 * S)), [if known { 1 } else { 2 }, 1]);
        // And another writer that takes over charges it no second time either.
        let mut next = theirs.clone();
        next.join(&own, known);
        next.lost(&limits, At(2 * S), At(61 * S));
        assert_eq!(taken(&limits, &next, 0, At(3 * S)), [if known { 1 } else { 2 }, 2]);
    }
}

#[test]
fn a_call_that_was_charged_or_is_named_already_is_adopted_as_such() {
    let limits = set([limit("one", sliding(1, 10))]);
    let mut ledger = Ledger::new();
    ledger.adopt(PermitId(1), Ask::new(0), true);
    assert_eq!(opens(&limits, &ledger, 0, At(0)), At(0));
    ledger.adopt(PermitId(1), Ask::new(0), false);
    assert_eq!(ledger.permits, [permit(PermitId(1), 0, State::Charged)]);
    ledger.adopt(PermitId(2), Ask::new(0), false);
    assert_eq!(opens(&limits, &ledger, 0, At(0)), At::MAX);
    ledger.ended(&limits, PermitId(2), At(0), Sent::Never);
    assert_eq!(opens(&limits, &ledger, 0, At(0)), At(0).plus(Span::from_secs(10)));
}
