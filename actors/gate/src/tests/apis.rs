//! A record read after apis were added, removed or moved.

use proptest::prelude::*;

use super::record::{any_at, any_ledger_without_names};
use super::{APIS, S, any_order, concurrent, declared, every, limit, name, number, set, sliding};
use crate::{
    APIS_MAX, ApiIx, Ask, At, Decision, DecodeError, Hold, HoldScope, Ledger, Limit, LimitError,
    LimitSet, NAME_BYTES_MAX, Note, PermitId, Sent, Span, decide,
};

fn per_api(limit: Limit) -> Limit {
    Limit { per_api: true, ..limit }
}

fn of_api(api: ApiIx, limit: Limit) -> Limit {
    Limit { api: Some(api), ..limit }
}

fn gone(api: ApiIx) -> Note {
    Note::Gone { api: name(api) }
}

/// A ledger of one call in flight of that number.
fn calling(limits: &LimitSet, api: ApiIx) -> Ledger {
    let mut ledger = Ledger::new();
    ledger.take(limits, PermitId(1), Ask::new(api), At(0));
    ledger
}

/// One of a call that was charged at 0.
fn called(limits: &LimitSet, api: ApiIx) -> Ledger {
    let mut ledger = calling(limits, api);
    ledger.ended(limits, PermitId(1), At(0), Sent::Never);
    ledger
}

/// When a call may go, and what it is that makes it wait.
fn answer(limits: &LimitSet, ledger: &Ledger, api: ApiIx, now: At) -> Option<(Option<At>, String)> {
    match decide(limits, ledger, ledger.holds(), Ask::new(api), now) {
        Decision::Go => None,
        Decision::WaitUntil { at, because } => {
            Some((at, because.text(limits, ledger.holds()).to_owned()))
        }
        never @ Decision::Never { .. } => panic!("{never:?}"),
    }
}

/// Whether a call may go a second after what [`calling`] and [`called`] did.
fn goes(limits: &LimitSet, ledger: &Ledger, api: ApiIx) -> bool {
    answer(limits, ledger, api, At(S)).is_none()
}

#[test]
fn an_apis_charges_its_limits_and_its_holds_move_with_its_name() {
    let limits = set([per_api(limit("gap", every(5))), of_api(1, limit("own", every(9)))]);
    let (old, new) = (declared(&limits, &[0, 1, 2]), declared(&limits, &[3, 2, 1, 0]));
    let mut ledger = called(&old, 1);
    let hold = |api| Hold { scope: HoldScope::Api(api), until: At(7 * S), reason: "429".into() };
    ledger.holds_mut().set(hold(2));
    let (ledger, notes) = ledger.under(&old, &new, At(S));
    assert_eq!(notes, []);
    assert_eq!(ledger.holds().as_slice(), [hold(1)]);
    let wait = |at: i64, by: &str| Some((Some(At(at * S)), by.to_owned()));
    assert_eq!(answer(&new, &ledger, 2, At(S)), wait(9, "own"));
    assert_eq!(answer(&new, &ledger, 1, At(S)), wait(7, "429"));
    assert_eq!(answer(&new, &ledger, 0, At(S)), None);
    assert_eq!(answer(&new, &ledger, 3, At(S)), None);
}

#[test]
fn a_call_in_flight_of_a_vanished_api_still_counts_for_the_account() {
    for rule in [every(5), sliding(1, 5), concurrent(1)] {
        let limits = set([limit("all", rule)]);
        let (old, new) = (declared(&limits, &[0, 1]), declared(&limits, &[0]));
        let (mut ledger, notes) = calling(&old, 1).under(&old, &new, At(0));
        assert_eq!(notes, [gone(1)]);
        assert!(!goes(&new, &ledger, 0), "{rule:?}");
        // Also over a second change, by when its name is forgotten.
        let (again, notes) = ledger.under(&new, &declared(&limits, &[2, 0]), At(0));
        assert_eq!(notes, []);
        assert!(!goes(&new, &again, 1), "{rule:?}");
        // And what is heard of it is heard: it is charged, or its slot is free.
        assert!(ledger.ended(&new, PermitId(1), At(S), Sent::Maybe));
        assert_eq!(goes(&new, &ledger, 0), rule == concurrent(1), "{rule:?}");
    }
}

#[test]
fn the_slots_of_a_dead_writer_stay_taken_when_its_api_vanishes() {
    let limits = set([limit("slots", concurrent(1))]);
    let (old, new) = (declared(&limits, &[0, 1]), declared(&limits, &[0]));
    let mut ledger = calling(&old, 1);
    ledger.lost(&old, At(0), At(100 * S));
    let (ledger, notes) = ledger.under(&old, &new, At(S));
    assert_eq!(notes, [gone(1)]);
    let expected = Some((Some(At(100 * S)), "slots".to_owned()));
    assert_eq!(answer(&new, &ledger, 0, At(S)), expected);
}

#[test]
fn a_vanished_api_stops_no_other_where_apis_are_counted_apart() {
    let limits = set([
        per_api(limit("gap", every(5))),
        per_api(limit("slots", concurrent(1))),
        of_api(1, limit("own", every(5))),
    ]);
    let (old, new) = (declared(&limits, &[0, 1]), declared(&limits, &[0, 2]));
    let mut ledger = calling(&old, 1);
    let hold = Hold { scope: HoldScope::Api(1), until: At::MAX, reason: "paused".into() };
    ledger.holds_mut().set(hold);
    let (mut ledger, notes) = ledger.under(&old, &new, At(0));
    assert_eq!(notes, [gone(1)]);
    assert!(ledger.holds().is_empty());
    assert!(goes(&new, &ledger, 0) && goes(&new, &ledger, 1));
    assert!(ledger.answered(&new, PermitId(1), At(0)));
    assert!(ledger.ended(&new, PermitId(1), At(0), Sent::Maybe));
    assert!(ledger.is_empty(), "{ledger:?}");
}

#[test]
fn charges_of_a_vanished_api_are_dropped_only_where_apis_are_counted_apart() {
    let apart = set([per_api(limit("gap", every(5)))]);
    let together = set([limit("gap", every(5))]);
    let before = declared(&apart, &[0, 1]);
    for (now, counted) in [(&apart, false), (&together, true)] {
        let new = declared(now, &[0]);
        let (ledger, notes) = called(&before, 1).under(&before, &new, At(S));
        assert_eq!(notes, [gone(1)]);
        assert_eq!(goes(&new, &ledger, 0), !counted);
        assert_eq!(ledger.is_empty(), !counted);
    }
}

#[test]
fn only_apis_that_occur_are_in_a_record() {
    let limits = set([limit("all", every(5)), per_api(limit("gap", every(5)))]);
    let limits = declared(&limits, &[0, 1, 2]);
    let has = |record: &[u8], api| record.windows(5).any(|part| part == name(api).as_bytes());
    for (record, expected) in [
        (Ledger::new().encode(&limits, At(0)), [false, false, false]),
        (called(&limits, 1).encode(&limits, At(0)), [false, true, false]),
        (called(&limits, 1).encode(&limits, At(5 * S)), [false, false, false]),
    ] {
        assert_eq!([0, 1, 2].map(|api| has(&record, api)), expected);
    }
}

#[test]
fn a_hold_of_an_api_that_there_is_not_makes_no_record_unreadable() {
    let limits = declared(&LimitSet::default(), &[0, 1]);
    let mut ledger = Ledger::new();
    let hold = |scope| Hold { scope, until: At::MAX, reason: "paused".into() };
    ledger.holds_mut().set(hold(HoldScope::Api(2)));
    ledger.holds_mut().set(hold(HoldScope::Account));
    let record = ledger.encode(&limits, At(0));
    let (read, _) = Ledger::decode(&limits, &record, At(0)).unwrap();
    assert_eq!(read.holds().as_slice(), [hold(HoldScope::Account)]);
}

#[test]
fn names_are_not_taken_for_numbers_nor_numbers_for_names() {
    let limits = set([per_api(limit("gap", every(5)))]);
    let named = declared(&limits, &[0]);
    for (with, without) in [(&named, &limits), (&limits, &named)] {
        let record = called(with, 0).encode(with, At(S));
        let error = Ledger::decode(without, &record, At(S)).unwrap_err();
        assert_eq!(error, DecodeError::Malformed("apis"));
    }
}

#[test]
fn impossible_apis_are_refused() {
    let apis = |names: &[String]| LimitSet::default().with_apis(names.to_vec());
    let many: Vec<_> = (0..=APIS_MAX as ApiIx).map(name).collect();
    assert_eq!(apis(&many).unwrap_err(), LimitError::TooManyApis(1_001));
    assert_eq!(apis(&many[1..]).unwrap().apis(), &many[1..]);
    for bytes in [0, NAME_BYTES_MAX + 1] {
        let names = [name(0), "n".repeat(bytes)];
        assert_eq!(apis(&names).unwrap_err(), LimitError::ApiName { index: 1, bytes });
    }
    let twice = [name(0), name(1), name(0)];
    assert_eq!(apis(&twice).unwrap_err(), LimitError::DuplicateApi(name(0)));
    let limits = set([of_api(2, limit("own", every(5)))]);
    let refused = limits.clone().with_apis(twice[..2].to_vec()).unwrap_err();
    assert_eq!(refused, LimitError::NoApi("own".into()));
    assert!(limits.with_apis(many[..3].to_vec()).is_ok());
    let reserved = vec![of_api(ApiIx::MAX, limit("own", every(5)))];
    assert_eq!(LimitSet::new(reserved).unwrap_err(), LimitError::NoApi("own".into()));
}

#[test]
#[should_panic(expected = "of no api")]
fn a_permit_of_an_api_that_there_is_not_is_a_panic() {
    calling(&declared(&LimitSet::default(), &[0, 1]), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_change_of_apis_changes_a_decision_about_those_that_stay(
        (limits, ledger) in any_ledger_without_names(),
        changes in prop::collection::vec((any_order(), 1usize..=5), 1..4),
        now in any_at(),
        times in prop::collection::vec(any_at(), 1..6),
        reports in prop::collection::vec((0u8..5, any_at()), 8),
        lost in prop::option::of((any_at(), any_at())),
    ) {
        // The ledger as it was: every api by its old number.
        let old = declared(&limits, &[0, 1, 2]);
        let mut before = ledger.clone();
        before.prune(&old, now);
        let (mut apis, mut new, mut after) = (vec![0, 1, 2], old.clone(), ledger);
        let mut staying = vec![true; APIS.into()];
        for (order, count) in changes {
            let next = order[..count].to_vec();
            // One that was away is another one when it comes back, so only those that never were matter.
            staying.iter_mut().zip(0..).for_each(|(stays, api)| *stays &= next.contains(&api));
            let set = declared(&limits, &next);
            let (ledger, notes) = after.under(&new, &set, now);
            let known = |note: &Note| (0..5).any(|api| *note == gone(api)
                && apis.contains(&api) && !next.contains(&api));
            // An own limit of an api that is back, or came, is new.
            let fresh = |note: &Note| matches!(note, Note::Unknown { api: Some(_), .. });
            prop_assert!(notes.iter().all(|note| known(note) || fresh(note)), "{:?}", notes);
            (apis, new, after) = (next, set, ledger);
        }

        let same = |before: &Ledger, after: &Ledger| {
            for api in (0..APIS).filter(|api| staying[usize::from(*api)]) {
                let Some(moved) = number(&apis, api) else { continue };
                for at in times.iter().map(|time| now.plus(Span(time.0.unsigned_abs()))) {
                    let (old, new) = (answer(&old, before, api, at), answer(&new, after, moved, at));
                    prop_assert_eq!(old, new, "api {} at {:?}", api, at);
                }
            }
            Ok(())
        };
        same(&before, &after)?;
        // What is heard afterwards, of vanished apis too, has the same effect.
        let ids: Vec<_> = before.in_flight().collect();
        for (id, (report, at)) in ids.into_iter().zip(reports) {
            for (ledger, limits) in [(&mut before, &old), (&mut after, &new)] {
                let known = match report {
                    0 => ledger.written(limits, id, at),
                    1 => ledger.unwritten(id),
                    2 => ledger.answered(limits, id, at),
                    3 => ledger.ended(limits, id, at, Sent::Maybe),
                    _ => ledger.ended(limits, id, at, Sent::Never),
                };
                prop_assert!(known);
            }
        }
        same(&before, &after)?;
        if let Some((charge_at, slots_until)) = lost {
            before.lost(&old, charge_at, slots_until);
            after.lost(&new, charge_at, slots_until);
            same(&before, &after)?;
        }
    }
}
