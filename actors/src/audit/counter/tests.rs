//! The counters against naive ones that look at every pair, and single cases of what a stamp leaves open.

use proptest::prelude::*;

use super::*;

const S: Ns = 1_000_000_000;
const EXACT: Error = Error { early: 0, late: 0, cut: false, took: 0 };

fn call(at: Ns, line: usize) -> Call {
    Call { at, end: None, line: line as u64 }
}

/// What each call in turn is found to be: 0 kept, 1 open, 2 broken.
fn found(rule: &Rule, calls: &[Call], error: Error) -> Vec<u8> {
    let mut counter = Counter::new(rule);
    let one = |call: &Call| match counter.arrive(rule, *call, error) {
        Finding::Kept => 0,
        Finding::Open(_) => 1,
        Finding::Broken(_) => 2,
    };
    calls.iter().map(one).collect()
}

/// Every call with all before it: O(n^2).
fn naive_window(max: u64, window: Ns, times: &[Ns]) -> Vec<u8> {
    (0..times.len())
        .map(|i| {
            let within = times[..=i].iter().filter(|at| times[i] - **at < window).count();
            if within as u64 > max { 2 } else { 0 }
        })
        .collect()
}

/// Any stretch that ends with this call: at most burst + rate x its length. In calls x `within`.
fn naive_bucket(calls: i64, within: Ns, burst: i64, times: &[Ns]) -> bool {
    (0..times.len()).any(|i| {
        (0..=i).any(|j| {
            let count = i128::from((i - j + 1) as i64) * i128::from(within);
            let allowed = i128::from(burst) * i128::from(within)
                + i128::from(calls) * i128::from(times[i] - times[j]);
            count > allowed
        })
    })
}

fn times() -> impl Strategy<Value = Vec<Ns>> {
    prop::collection::vec(0_i64..4_000, 1..80).prop_map(|mut times| {
        times.sort_unstable();
        times.into_iter().map(|ms| ms * 1_000_000).collect()
    })
}

fn calls(times: &[Ns]) -> Vec<Call> {
    times.iter().enumerate().map(|(line, at)| call(*at, line)).collect()
}

proptest! {
    #[test]
    fn windows_are_counted_as_by_looking_at_every_pair(
        times in times(), max in 1_u64..8, window in 1_i64..1_500,
    ) {
        let window = window * 1_000_000;
        let rule = Rule::Window { max, window };
        prop_assert_eq!(found(&rule, &calls(&times), EXACT), naive_window(max, window, &times));
    }

    #[test]
    fn open_calls_are_counted_as_by_looking_at_every_pair(
        spans in prop::collection::vec((0_i64..2_000, 0_i64..300), 1..60), max in 1_u64..5,
    ) {
        let mut spans = spans;
        spans.sort_unstable();
        let calls: Vec<Call> = spans.iter().enumerate()
            .map(|(line, (at, took))| Call { at: *at, end: Some(at + took), line: line as u64 })
            .collect();
        let naive: Vec<u8> = (0..calls.len())
            .map(|i| {
                let open = calls[..i].iter().filter(|other| other.end > Some(calls[i].at)).count();
                if open as u64 >= max { 2 } else { 0 }
            })
            .collect();
        prop_assert_eq!(found(&Rule::Concurrent { max }, &calls, EXACT), naive);
    }

    #[test]
    fn a_bucket_is_exceeded_where_any_stretch_holds_too_many(
        times in times(), rate in 1_i64..20, burst in 1_i64..12,
    ) {
        let rule = Rule::Bucket { calls: rate as u64, within: S, burst: burst as u64 };
        // Up to the first: behind it the two mean different things.
        for end in 1..=times.len() {
            let exceeded = naive_bucket(rate, S, burst, &times[..end]);
            let told = found(&rule, &calls(&times[..end]), EXACT);
            prop_assert!(!told.contains(&1), "nothing is open where stamps are exact");
            prop_assert_eq!(told.contains(&2), exceeded);
            if exceeded { break; }
        }
    }

    #[test]
    fn days_are_counted_as_by_grouping_dates(
        hours in prop::collection::vec(0_i64..400, 1..60), max in 1_u64..6, zone in 0_usize..3,
    ) {
        let zone = ["Asia/Seoul", "America/New_York", "Australia/Lord_Howe"][zone];
        let zone = TimeZone::get(zone).unwrap();
        // From October to November 2025: the clocks change in the last two.
        let base = "2025-10-25T00:00:00Z".parse::<Timestamp>().unwrap().as_nanosecond() as Ns;
        let mut times: Vec<Ns> = hours.iter().map(|hour| base + hour * 3_600 * S + 1).collect();
        times.sort_unstable();
        let rule = Rule::Daily { max, reset: Time::midnight(), zone: zone.clone() };
        let date = |at: Ns| {
            Timestamp::from_nanosecond(i128::from(at)).unwrap().to_zoned(zone.clone()).date()
        };
        let naive: Vec<u8> = (0..times.len())
            .map(|i| {
                let same = times[..=i].iter().filter(|at| date(**at) == date(times[i])).count();
                if same as u64 > max { 2 } else { 0 }
            })
            .collect();
        prop_assert_eq!(found(&rule, &calls(&times), EXACT), naive);
    }

    /// The log cuts stamps off: whatever the true times were, what is called kept is kept and what is called
    /// broken is broken.
    #[test]
    fn coarse_stamps_never_prove_what_is_not_so(
        times in times(), max in 1_u64..6, window in 1_i64..40, rate in 1_i64..9, step in 1_i64..12,
    ) {
        let (window, step) = (window * 50_000_000, step * 100_000_000);
        let error = Error { early: 0, late: step, cut: true, took: 0 };
        let stamps: Vec<Ns> = times.iter().map(|at| at - at % step).collect();
        let coarse = found(&Rule::Window { max, window }, &calls(&stamps), error);
        let truth = naive_window(max, window, &times);
        let exceeded = truth.contains(&2);
        if coarse.iter().all(|one| *one == 0) {
            prop_assert!(!exceeded, "called proved");
        }
        if coarse.contains(&2) {
            prop_assert!(exceeded, "called exceeded");
        }
        let rule = Rule::Bucket { calls: rate as u64, within: S, burst: max };
        let coarse = found(&rule, &calls(&stamps), error);
        let exceeded = naive_bucket(rate, S, max as i64, &times);
        if coarse.iter().all(|one| *one == 0) {
            prop_assert!(!exceeded, "bucket: called proved");
        }
        if coarse.contains(&2) {
            prop_assert!(exceeded, "bucket: called exceeded");
        }
        let zone = TimeZone::UTC;
        let rule = Rule::Daily { max, reset: Time::midnight(), zone: zone.clone() };
        // Around a midnight.
        let midnight = 20_000 * 86_400 * S - 2 * S;
        let stamps: Vec<Ns> = times.iter().map(|at| (at + midnight) - (at + midnight) % step).collect();
        let coarse = found(&rule, &calls(&stamps), error);
        let day = |at: &Ns| (at + midnight) / (86_400 * S);
        let most = times.iter().map(|at| times.iter().filter(|other| day(other) == day(at)).count());
        let exceeded = most.max().unwrap_or(0) as u64 > max;
        if coarse.iter().all(|one| *one == 0) {
            prop_assert!(!exceeded, "day: called proved");
        }
        if coarse.contains(&2) {
            prop_assert!(exceeded, "day: called exceeded");
        }
    }

    #[test]
    fn stamps_that_are_wrong_either_way_never_prove_what_is_not_so(
        times in times(), off in prop::collection::vec(-150_i64..=150, 80), max in 1_u64..5,
        window in 1_i64..30,
    ) {
        let window = window * 50_000_000;
        let slack = 150_000_000;
        let error = Error { early: slack, late: slack, cut: false, took: 0 };
        let mut stamps: Vec<Ns> =
            times.iter().zip(&off).map(|(at, off)| at + off * 1_000_000).collect();
        stamps.sort_unstable();
        let told = found(&Rule::Window { max, window }, &calls(&stamps), error);
        let exceeded = naive_window(max, window, &times).contains(&2);
        if told.iter().all(|one| *one == 0) {
            prop_assert!(!exceeded, "called proved");
        }
        if told.contains(&2) {
            prop_assert!(exceeded, "called exceeded");
        }
    }
}

#[test]
fn whole_seconds_cannot_prove_a_window_of_one_but_can_break_it() {
    let error = Error { early: 0, late: S, cut: true, took: 0 };
    let rule = |secs: Ns| Rule::Window { max: 1, window: secs * S };
    let at = |secs: &[Ns]| -> Vec<Call> { calls(&secs.iter().map(|s| s * S).collect::<Vec<_>>()) };
    assert_eq!(found(&rule(1), &at(&[1, 2, 4]), error), [0, 1, 0], "2 s are over 1 s for certain");
    assert_eq!(found(&rule(1), &at(&[1, 1]), error), [0, 2], "within one second: under 1 s apart");
    assert_eq!(found(&rule(5), &at(&[0, 6, 11, 15]), error), [0, 0, 1, 2]);
}

#[test]
fn the_evidence_is_the_calls_of_the_window() {
    let rule = Rule::Window { max: 2, window: 10 };
    let mut counter = Counter::new(&rule);
    let mut arrive = |at, line| counter.arrive(&rule, call(at, line), EXACT);
    assert_eq!(arrive(0, 1), Finding::Kept);
    assert_eq!(arrive(5, 2), Finding::Kept);
    assert_eq!(arrive(10, 3), Finding::Kept);
    let Finding::Broken(evidence) = arrive(12, 4) else { panic!("5, 10 and 12 are three in ten") };
    assert_eq!((evidence.count, evidence.within), (3, 7));
    assert_eq!(evidence.calls.iter().map(|call| call.line).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(counter.closest(), Some(7));
}
