//! The pace of unpublished limits.

use proptest::prelude::*;
use tollgate_gate::{At, Span};

use super::super::pace::{Pace, PaceRule};

const S: i64 = 1_000_000;

fn rule() -> PaceRule {
    PaceRule { min: 1.0, max: 10.0, step: 0.5, cut: 0.5, per_api: false }
}

#[test]
fn it_begins_slow_rises_by_steps_and_falls_by_half() {
    let mut pace = Pace::new(&rule());
    pace.take(At(0));
    assert_eq!(pace.next(), At(S));
    for _ in 0..4 {
        pace.succeeded(&rule(), At(0));
    }
    assert!((pace.rate() - 3.0).abs() < 1e-9);
    for _ in 0..100 {
        pace.succeeded(&rule(), At(0));
    }
    assert!((pace.rate() - 10.0).abs() < 1e-9, "no further than the cap");
    pace.refused(&rule(), At(5 * S), At(6 * S));
    assert!((pace.rate() - 5.0).abs() < 1e-9);
    // Those that were in flight with it say nothing new, good or bad.
    pace.refused(&rule(), At(5 * S), At(7 * S));
    pace.succeeded(&rule(), At(5 * S));
    assert!((pace.rate() - 5.0).abs() < 1e-9);
    for n in 1..9 {
        pace.refused(&rule(), At((10 + n) * S), At((10 + n) * S));
    }
    assert!((pace.rate() - 1.0).abs() < 1e-9, "no further than the floor");
}

#[test]
fn a_permit_that_goes_back_leaves_no_gap() {
    let mut pace = Pace::new(&rule());
    pace.take(At(0));
    pace.take(At(S));
    pace.give_back();
    assert_eq!(pace.next(), At(S));
}

#[test]
fn a_record_under_a_changed_rule_stays_within_its_bounds() {
    let narrow = PaceRule { min: 2.0, max: 4.0, ..rule() };
    for (rate, wanted) in
        [(9.0, 4.0), (0.1, 2.0), (3.0, 3.0), (f64::NAN, 2.0), (f64::INFINITY, 2.0)]
    {
        let pace = Pace::restored(&narrow, rate, At(7));
        assert!((pace.rate() - wanted).abs() < 1e-9, "{rate}");
        assert_eq!(pace.next(), At(7));
    }
}

/// A provider with an unpublished limit of `really` calls in any second, over ten minutes.
fn converge(really: usize) -> (usize, usize) {
    let rule = PaceRule { min: 1.0, max: 50.0, step: 0.1, cut: 0.5, per_api: false };
    let mut pace = Pace::new(&rule);
    let (mut now, mut good, mut bad) = (At(0), Vec::<At>::new(), 0);
    while now < At(600 * S) {
        now = now.max(pace.next());
        pace.take(now);
        good.retain(|at| now.since(*at) < Span::from_secs(1) || at.0 < 0);
        if good.len() < really {
            good.push(now);
            pace.succeeded(&rule, now);
        } else {
            bad += 1;
            pace.refused(&rule, now, now);
        }
    }
    (pace.rate() as usize, bad)
}

#[test]
fn it_finds_an_unpublished_limit_with_few_refusals() {
    for really in [2, 5, 20, 40] {
        let (rate, refused) = converge(really);
        assert!(rate <= really + 1, "{rate} of {really}");
        assert!(rate * 3 >= really, "{rate} of {really}");
        // About as many as it takes successes to climb back.
        assert!(refused < 600, "{refused} refused at {really}");
    }
}

proptest! {
    #[test]
    fn the_rate_stays_within_its_bounds_and_time_never_runs_back(
        events in prop::collection::vec((0u8..4, 0..S), 1..200),
    ) {
        let mut pace = Pace::new(&rule());
        let mut now = At(0);
        for (event, later) in events {
            now = now.plus(Span(later.unsigned_abs()));
            let before = pace.next();
            match event {
                0 => pace.take(now),
                1 => pace.succeeded(&rule(), now),
                2 => pace.refused(&rule(), now, now),
                _ => pace.refused(&rule(), At(now.0 - S), now),
            }
            prop_assert!((1.0..=10.0).contains(&pace.rate()));
            prop_assert!(pace.next() >= before);
            prop_assert!(pace.next() <= now.max(before).plus(Span::from_secs(1)));
        }
    }
}
