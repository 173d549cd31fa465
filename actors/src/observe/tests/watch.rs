//! Alarms, and platforms that are shut for everybody.

use tollgate_gate::{At, Span};

use super::super::{Drift, DriftKind, Place, Pulse, Shuts, Trend};
use crate::ids::{Account, AccountKey, Slug};

const S: i64 = 1_000_000;

fn p() -> Slug {
    Slug::new("p").unwrap()
}

#[test]
fn what_is_told_once_an_hour_must_be_seen_often_enough_within_one() {
    let mut drift = Drift::default();
    let mut note = |limit, kind, secs: i64| drift.note(&p(), limit, kind, At(secs * S));
    assert!(!note(None, DriftKind::Refused, 0));
    assert!(!note(None, DriftKind::Refused, 1));
    assert!(!note(Some(Place::own(1)), DriftKind::Refused, 1), "another limit");
    assert!(note(None, DriftKind::Refused, 2));
    assert!(!note(None, DriftKind::Refused, 3), "told already");
    assert!(!note(None, DriftKind::Refused, 3599));
    assert!(!note(None, DriftKind::Refused, 3601), "the count begins anew");
    assert!(!note(None, DriftKind::Refused, 3602));
    assert!(note(None, DriftKind::Refused, 3603));
    // Two in two hours are nothing.
    assert!(!note(Some(Place::own(2)), DriftKind::Faster, 0));
    assert!(!note(Some(Place::own(2)), DriftKind::Faster, 3000));
    assert!(!note(Some(Place::own(2)), DriftKind::Faster, 6700));
    assert!(
        note(Some(Place::own(2)), DriftKind::Narrower, 0),
        "one word of the provider is enough"
    );
    assert!(!note(Some(Place::own(2)), DriftKind::Narrower, 1));
    assert!(note(Some(Place::own(2)), DriftKind::Narrower, 3600));
}

#[test]
fn what_is_left_is_watched_against_the_calls_that_were_made() {
    let until = Some(At(3600 * S));
    let run = |per_call: u32, in_flight: u64| {
        let mut pulse = Pulse::new(5000, 0, until);
        let told = |n: u64| pulse.beat(5000 - n as u32 * per_call, n, until, in_flight);
        (1..=100).filter_map(told).collect::<Vec<_>>()
    };
    assert_eq!(run(1, 0), []);
    assert_eq!(run(2, 0), [Trend::Faster; 5]);
    assert_eq!(run(0, 0), [Trend::Slower; 5]);
    assert_eq!(run(2, 10), [Trend::Faster; 2], "many in flight: over more calls");
    // Ten in flight may be missing from each, and nothing is said of it.
    let mut pulse = Pulse::new(5000, 0, until);
    assert_eq!(pulse.beat(4950, 40, until, 10), None);
}

#[test]
fn a_new_window_and_what_is_given_back_begin_anew() {
    let mut pulse = Pulse::new(100, 0, Some(At(60 * S)));
    assert_eq!(pulse.beat(99, 30, Some(At(120 * S)), 0), None, "another window");
    assert_eq!(pulse.beat(99, 55, Some(At(121 * S)), 0), Some(Trend::Slower));
    assert_eq!(pulse.beat(100, 80, Some(At(121 * S)), 0), None, "given back");
    assert_eq!(pulse.beat(99, 90, None, 0), None);
}

#[test]
fn a_shut_platform_waits_and_its_accounts_come_back_one_by_one() {
    let shuts = Shuts::default();
    let of = |account: &str, at: i64| {
        let account = Account::new(account).unwrap();
        shuts.of(&AccountKey { platform: p(), account }, At(at)).map(|(until, why)| (until.0, why))
    };
    assert_eq!(of("x", 0), None);
    shuts.set(&p(), At(0), At(10 * S), "429");
    shuts.set(&p(), At(0), At(5 * S), "shorter");
    let mut ends: Vec<i64> = (0..200).map(|n| of(&format!("act_{n}"), 0).unwrap().0).collect();
    assert!(ends.iter().all(|end| (10 * S..=11 * S).contains(end)), "{ends:?}");
    ends.sort_unstable();
    ends.dedup();
    assert!(ends.len() > 190, "{} moments for 200 accounts", ends.len());
    assert_eq!(of("x", 0).unwrap().1.as_ref(), "429");
    assert_eq!(of("x", 1), of("x", 9 * S), "always the same");
    let end = of("x", 0).unwrap().0;
    assert_eq!(of("x", end), None);
    assert_eq!(of("x", 11 * S), None);
    let other =
        AccountKey { platform: Slug::new("q").unwrap(), account: Account::new("x").unwrap() };
    assert_eq!(shuts.of(&other, At(0)), None);
    assert_eq!(Span::from_secs(1).0 as i64, S);
}
