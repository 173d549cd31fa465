//! Single cases of the kinds of limit beyond windows, and of costs, with their arithmetic.

use proptest::prelude::*;

use super::record::framed_as;
use super::{MS, S, concurrent, every, limit, max, set, sliding};
use crate::{
    Ask, At, Because, Cost, Decision, HoldScope, Ledger, Limit, LimitError, LimitSet, PermitId,
    Rule, Sent, Span, decide,
};

fn asked(limits: &LimitSet, ledger: &Ledger, costs: &[Cost], now: i64) -> Decision {
    decide(limits, ledger, ledger.holds(), Ask::new(0).with_costs(costs), At(now))
}

fn wait(at: i64, place: usize) -> Decision {
    Decision::WaitUntil { at: Some(At(at)), because: Because::Limit(place) }
}

/// A call that is let go, answered and over at once.
fn call(limits: &LimitSet, ledger: &mut Ledger, costs: &[Cost], at: i64) {
    let (ask, at, id) = (Ask::new(0).with_costs(costs), At(at), PermitId(u64::MAX));
    ledger.take(limits, id, ask, at);
    assert!(ledger.answered(limits, id, at));
    assert!(ledger.ended(limits, id, at, Sent::Maybe));
}

fn bucket(rate: u32, burst: u32, per: Span) -> LimitSet {
    set([limit("bucket", Rule::Bucket { burst: max(burst), rate: max(rate), per })])
}

/// When calls go that are made as early as they may.
fn as_early_as_may_be(limits: &LimitSet, costs: &[Cost], calls: usize) -> Vec<i64> {
    let (mut ledger, mut now) = (Ledger::new(), 0);
    let mut times = Vec::new();
    while times.len() < calls {
        match asked(limits, &ledger, costs, now) {
            Decision::Go => {
                call(limits, &mut ledger, costs, now);
                times.push(now);
            }
            Decision::WaitUntil { at, .. } => now = at.unwrap().0,
            never @ Decision::Never { .. } => panic!("{never:?}"),
        }
    }
    times
}

#[test]
fn a_bucket_gives_its_burst_at_once_and_then_its_rate() {
    let limits = bucket(50, 100, Span::from_secs(1));
    let times = as_early_as_may_be(&limits, &[], 300);
    assert!(times[..100].iter().all(|at| *at == 0));
    let later: Vec<i64> = (1..=200).map(|call| call * S / 50).collect();
    assert_eq!(times[100..], later);
    // Of three units each: 33 at once, one unit is left, and three flow in within 60 ms.
    let times = as_early_as_may_be(&limits, &[Cost::of(3)], 40);
    assert!(times[..33].iter().all(|at| *at == 0));
    assert_eq!(times[33..36], [40_000, 100_000, 160_000]);
}

#[test]
fn a_rate_that_divides_no_second_is_exact_over_many_calls() {
    // Calls go at whole microseconds; what a bucket of two keeps of that is not lost.
    let times = as_early_as_may_be(&bucket(7, 2, Span::from_secs(1)), &[], 70_002);
    assert!((10_000 * S..=10_000 * S + 1).contains(&times[70_001]), "{}", times[70_001]);
}

#[test]
fn a_bucket_in_steady_use_is_a_few_bytes() {
    let limits = bucket(50, 100, Span::from_secs(1));
    let (mut ledger, mut now) = (Ledger::new(), 0);
    let empty = ledger.encode(&limits, At(0)).len();
    for _ in 0..1_000 {
        if let Decision::WaitUntil { at, .. } = asked(&limits, &ledger, &[], now) {
            now = at.unwrap().0;
        }
        call(&limits, &mut ledger, &[], now);
    }
    let record = ledger.encode(&limits, At(now)).len();
    assert!(record < empty + 40, "{record}");
    // Full again after 2 s, and forgotten then.
    ledger.prune(&limits, At(now + 2 * S));
    assert!(ledger.is_empty());
}

#[test]
fn an_account_of_two_limits_takes_so_many_bytes() {
    // "1 per 5 s and 60 per hour": never called, and after 60 calls 5 s apart.
    let limits = set([limit("gap", every(5)), limit("hourly", sliding(60, 3600))]);
    let limits = limits.with_apis(vec!["reports".into()]).unwrap();
    let (mut ledger, mut now) = (Ledger::new(), 0);
    assert_eq!(ledger.encode(&limits, At(0)).len(), 28);
    for _ in 0..60 {
        call(&limits, &mut ledger, &[], now);
        now += 5 * S + 1_234;
    }
    let record = ledger.encode(&limits, At(now)).len();
    assert!((320..=340).contains(&record), "{record}");
    assert!(size_of::<Ledger>() <= 120);
}

#[test]
fn a_restart_and_another_rate_keep_what_is_missing_in_a_bucket() {
    let (old, new) = (bucket(50, 100, Span::from_secs(1)), bucket(1, 100, Span::from_secs(1)));
    let mut ledger = Ledger::new();
    for _ in 0..100 {
        call(&old, &mut ledger, &[], 0);
    }
    // Half a second later 25 units have flowed in, and 75 are missing; all are wanted.
    let record = ledger.encode(&old, At(S / 2));
    let (same, _) = Ledger::decode(&old, &record, At(S / 2)).unwrap();
    assert_eq!(asked(&old, &same, &[Cost::of(100)], S / 2), wait(2 * S, 0));
    // At one a second they take as long as they had been missing from then on: 100 from 0 s.
    let (slower, notes) = Ledger::decode(&new, &record, At(S / 2)).unwrap();
    assert_eq!(notes, []);
    assert_eq!(asked(&new, &slower, &[Cost::of(100)], S / 2), wait(100 * S, 0));
}

#[test]
fn a_window_of_the_first_call_ends_as_a_whole() {
    let window = Rule::FirstUse { max: max(3), window: Span::from_secs(60) };
    let limits = set([limit("window", window)]);
    let mut ledger = Ledger::new();
    for at in [0, 50 * S, 59 * S] {
        call(&limits, &mut ledger, &[], at);
    }
    // A sliding limit would let one go, and the next at 110 s.
    assert_eq!(asked(&limits, &ledger, &[], 59 * S), wait(60 * S, 0));
    assert_eq!(asked(&limits, &ledger, &[Cost::of(3)], 60 * S), Decision::Go);
    for _ in 0..3 {
        call(&limits, &mut ledger, &[], 60 * S);
    }
    assert_eq!(asked(&limits, &ledger, &[], 61 * S), wait(120 * S, 0));
    // The same in a process that put it away for a while; after a restart it is like a sliding limit.
    let mut two = Ledger::new();
    call(&limits, &mut two, &[], 0);
    call(&limits, &mut two, &[Cost::of(2)], 50 * S);
    let record = two.encode(&limits, At(50 * S));
    let (exact, _) = Ledger::decode_exact(&limits, &record, At(50 * S)).unwrap();
    assert_eq!(asked(&limits, &exact, &[Cost::of(3)], 51 * S), wait(60 * S, 0));
    let (read, _) = Ledger::decode(&limits, &record, At(50 * S)).unwrap();
    assert_eq!(asked(&limits, &read, &[Cost::of(3)], 51 * S), wait(110 * S, 0));
}

#[test]
fn a_call_that_may_have_arrived_after_the_window_counts_in_the_next_too() {
    let window = Rule::FirstUse { max: max(2), window: Span::from_secs(60) };
    let limits = set([limit("window", window)]);
    let mut ledger = Ledger::new();
    // Let go at 0 s, answered at 4 s: the window ends between 60 and 64 s.
    ledger.take(&limits, PermitId(1), Ask::new(0), At(0));
    ledger.answered(&limits, PermitId(1), At(4 * S));
    call(&limits, &mut ledger, &[], 61 * S);
    assert_eq!(asked(&limits, &ledger, &[], 62 * S), wait(64 * S, 0));
    assert_eq!(asked(&limits, &ledger, &[], 64 * S), Decision::Go);
    assert_eq!(asked(&limits, &ledger, &[Cost::of(2)], 64 * S), wait(121 * S, 0));
}

#[test]
fn a_window_ends_when_the_provider_says() {
    let window = Rule::FirstUse { max: max(2), window: Span::from_secs(3600) };
    let limits = set([limit("window", window), limit("other", sliding(9, 60))]);
    let mut ledger = Ledger::new();
    call(&limits, &mut ledger, &[], 0);
    call(&limits, &mut ledger, &[], S);
    let slack = Span::from_secs(2);
    let mut ends =
        |place, at: i64| ledger.window_ends(&limits, place, 0, (At(at * S), slack), At(2 * S));
    assert!(!ends(1, 600), "not of that kind");
    assert!(!ends(0, -5), "over already");
    assert!(!ends(0, 2 * 3600), "of another window");
    assert!(ends(0, 600));
    assert_eq!(asked(&limits, &ledger, &[Cost::of(2)], 2 * S), wait(602 * S, 0));
    assert_eq!(asked(&limits, &ledger, &[Cost::of(2)], 602 * S), Decision::Go);
}

#[test]
fn a_free_call_counts_nowhere_and_waits_for_nothing() {
    let limits = set([limit("gap", every(5)), limit("slots", concurrent(1))]);
    let mut ledger = Ledger::new();
    call(&limits, &mut ledger, &[], 0);
    let free = [Cost::FREE, Cost::FREE];
    ledger.take(&limits, PermitId(1), Ask::new(0), At(5 * S));
    assert_eq!(asked(&limits, &ledger, &free, 5 * S), Decision::Go);
    assert_eq!(
        asked(&limits, &ledger, &free[..1], 5 * S),
        Decision::WaitUntil { at: None, because: Because::Limit(1) }
    );
    ledger.give_back(&limits, PermitId(1));
    call(&limits, &mut ledger, &free, 5 * S);
    assert_eq!(asked(&limits, &ledger, &[], 5 * S), Decision::Go);
}

#[test]
fn a_call_that_costs_more_than_there_ever_is_never_goes() {
    let limits = set([
        limit("few", sliding(3, 60)),
        limit("bucket", Rule::Bucket { burst: max(2), rate: max(9), per: Span::from_secs(1) }),
    ]);
    let never = |place| Decision::Never { because: Because::Limit(place) };
    let ledger = Ledger::new();
    assert_eq!(asked(&limits, &ledger, &[Cost::of(4)], 0), never(0));
    assert_eq!(asked(&limits, &ledger, &[Cost::of(3), Cost::of(3)], 0), never(1));
    assert_eq!(asked(&limits, &ledger, &[Cost::of(3), Cost::of(2)], 0), Decision::Go);
}

#[test]
fn a_guess_is_put_right_up_and_down() {
    let limits = set([limit("points", sliding(10, 60))]);
    let guess = [Cost::about(5)];
    let taken = |when: u8, actual: u32| {
        let (mut ledger, id) = (Ledger::new(), PermitId(1));
        ledger.take(&limits, id, Ask::new(0).with_costs(&guess), At(0));
        if when == 0 {
            assert!(ledger.settle(&limits, id, 0, actual, At(0)));
        }
        ledger.answered(&limits, id, At(S));
        if when == 1 {
            assert!(ledger.settle(&limits, id, 0, actual, At(9 * S)));
        }
        assert!(!ledger.settle(&limits, id, 1, actual, At(9 * S)), "there is no such limit");
        ledger.ended(&limits, id, At(9 * S), Sent::Maybe);
        assert!(!ledger.settle(&limits, id, 0, 1, At(9 * S)), "it is over");
        ledger
    };
    // How much room is left at 10 s, by asking for all that there could be.
    let room = |ledger: &Ledger| {
        (1..=10)
            .rev()
            .find(|units| asked(&limits, ledger, &[Cost::of(*units)], 10 * S) == Decision::Go)
    };
    for when in [0, 1] {
        assert_eq!(room(&taken(when, 2)), Some(8));
        assert_eq!(room(&taken(when, 0)), Some(10));
        assert_eq!(room(&taken(when, 9)), Some(1));
        // More than the limit allows counts until it has left.
        assert_eq!(room(&taken(when, 25)), None);
        assert_eq!(asked(&limits, &taken(when, 25), &[], 10 * S), wait(61 * S, 0));
    }
    assert_eq!(room(&taken(2, 0)), Some(5), "nobody said what it was");
}

#[test]
fn errors_are_counted_only_once_they_are_known() {
    let limits = set([limit("errors", sliding(2, 3600))]);
    let mut ledger = Ledger::new();
    let guess = [Cost::about(1)];
    let ask = Ask::new(0).with_costs(&guess);
    for (id, error) in [(1, 0), (2, 1), (3, 0), (4, 0)] {
        ledger.take(&limits, PermitId(id), ask, At(0));
        ledger.answered(&limits, PermitId(id), At(0));
        ledger.settle(&limits, PermitId(id), 0, error, At(0));
        ledger.ended(&limits, PermitId(id), At(0), Sent::Maybe);
    }
    // One was an error; another in flight may become the second.
    ledger.take(&limits, PermitId(5), ask, At(S));
    assert_eq!(asked(&limits, &ledger, ask.costs, S), wait(3600 * S, 0));
    ledger.settle(&limits, PermitId(5), 0, 0, At(S));
    assert_eq!(asked(&limits, &ledger, ask.costs, S), Decision::Go);
}

#[test]
fn a_job_keeps_its_place_until_it_is_told_or_too_old() {
    let jobs = Rule::Jobs { max: max(2), ttl: Span::from_secs(3600) };
    let limits = set([limit("jobs", jobs)]);
    let mut ledger = Ledger::new();
    for (id, at) in [(1, 0), (2, 10)] {
        ledger.take(&limits, PermitId(id), Ask::new(0).for_job(100 + id), At(at * S));
        ledger.answered(&limits, PermitId(id), At(at * S));
        ledger.ended(&limits, PermitId(id), At((at + 5) * S), Sent::Maybe);
    }
    assert_eq!(asked(&limits, &ledger, &[], 20 * S), wait(3605 * S, 0));
    // Polls are free here.
    assert_eq!(asked(&limits, &ledger, &[Cost::FREE], 20 * S), Decision::Go);
    // Also after a restart.
    let record = ledger.encode(&limits, At(20 * S));
    let (mut ledger, _) = Ledger::decode(&limits, &record, At(20 * S)).unwrap();
    assert!(!ledger.release(&limits, 7) && !ledger.release(&limits, 0));
    assert!(ledger.release(&limits, 102));
    assert!(!ledger.release(&limits, 102));
    assert_eq!(asked(&limits, &ledger, &[], 20 * S), Decision::Go);
    assert_eq!(asked(&limits, &ledger, &[Cost::of(2)], 20 * S), wait(3605 * S, 0));
    // One that never was sent ordered nothing.
    ledger.take(&limits, PermitId(3), Ask::new(0), At(20 * S));
    ledger.ended(&limits, PermitId(3), At(20 * S), Sent::Never);
    assert_eq!(asked(&limits, &ledger, &[], 20 * S), Decision::Go);
    assert!(limits.is_dated());
    assert_eq!(limits.window_max(), Span::from_secs(3600));
}

#[test]
fn an_exceeded_score_is_a_block() {
    let score =
        Rule::Score { max: max(60), decay: Span::from_secs(300), block: Span::from_secs(60) };
    let limits = set([limit("score", score), Limit { api: Some(1), ..limit("gap", every(5)) }]);
    let mut ledger = Ledger::new();
    call(&limits, &mut ledger, &[Cost::of(58)], 0);
    assert_eq!(asked(&limits, &ledger, &[Cost::of(3)], S), wait(300 * S, 0));
    assert_eq!(ledger.over(&limits, 1, 0, At(S)), None);
    assert_eq!(ledger.over(&limits, 0, 0, At(S)), Some(At(61 * S)));
    let hold = &ledger.holds().as_slice()[0];
    assert_eq!((hold.scope, hold.until), (HoldScope::Account, At(61 * S)));
    let because = Because::Hold(0);
    let blocked = Decision::WaitUntil { at: Some(At(61 * S)), because };
    assert_eq!(asked(&limits, &ledger, &[], S), blocked);
}

#[test]
fn impossible_kinds_are_refused() {
    let refused = |rule| LimitSet::new(vec![limit("x", rule)]).unwrap_err();
    let x = || "x".to_owned();
    let bucket = |burst, rate, per| Rule::Bucket { burst: max(burst), rate: max(rate), per };
    assert_eq!(refused(bucket(1, 1, Span(MS - 1))), LimitError::TooShort(x()));
    assert_eq!(refused(bucket(367, 1, Span::from_secs(86_400))), LimitError::TooLong(x()));
    assert!(LimitSet::new(vec![limit("x", bucket(1, u32::MAX, Span::from_secs(1)))]).is_ok());
    let jobs = |ttl| Rule::Jobs { max: max(1), ttl };
    assert_eq!(refused(jobs(Span::ZERO)), LimitError::TooShort(x()));
    assert_eq!(refused(jobs(Span(u64::MAX))), LimitError::TooLong(x()));
    let score = Rule::Score { max: max(1), decay: Span::from_secs(1), block: Span(u64::MAX) };
    assert_eq!(refused(score), LimitError::TooLong(x()));
    let calendar = |slack, calendar| Rule::Calendar {
        max: max(1),
        window: Span::from_secs(86_400),
        slack: Span::from_secs(slack),
        calendar,
    };
    assert_eq!(refused(calendar(3601, 0)), LimitError::Slack(x()));
    assert_eq!(refused(calendar(2, 32)), LimitError::NoCalendar(x()));
    let limits = LimitSet::new(vec![limit("x", calendar(2, 0))]).unwrap();
    assert_eq!(limits.clone().with_calendars(Vec::new()).unwrap_err(), LimitError::NoCalendar(x()));
    // Nothing ever resets without one.
    let mut ledger = Ledger::new();
    call(&limits, &mut ledger, &[], 0);
    assert_eq!(asked(&limits, &ledger, &[], i64::MAX - 1), wait(i64::MAX, 0));
}

#[test]
fn a_record_of_the_version_before_is_read() {
    // One api `a`; limit `gap`, one charge 1 s ago; permit 7 in flight, written 0.5 s ago; two slots of a dead
    // writer for 3 s more; no hold.
    let zigzag = |time: i64| (((time << 1) ^ (time >> 63)) as u64).to_le_bytes();
    let varint = |time: i64| {
        let (mut number, mut bytes) = (u64::from_le_bytes(zigzag(time)), Vec::new());
        while number >= 0x80 {
            bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    };
    let body = [
        vec![1, 1, b'a'],
        vec![1, 0, 3, b'g', b'a', b'p'],
        [vec![1, 0, 0, 1], varint(-S), vec![1]].concat(),
        [vec![1, 7, 1, 1], varint(-S / 2)].concat(),
        [vec![1, 1], varint(3 * S), vec![2]].concat(),
        vec![0],
    ];
    let limits = set([limit("gap", sliding(2, 5)), limit("slots", concurrent(3))]);
    let limits = limits.with_apis(vec!["a".into()]).unwrap();
    let (mut ledger, notes) =
        Ledger::decode(&limits, &framed_as(2, &body.concat()), At(0)).unwrap();
    assert_eq!(notes, []);
    assert_eq!(ledger.in_flight().collect::<Vec<_>>(), [PermitId(7)]);
    // The one charged at -1 s leaves at 4 s; the slots are free at 3 s.
    assert_eq!(
        asked(&limits, &ledger, &[], 0),
        Decision::WaitUntil { at: Some(At(4 * S)), because: Because::Limit(0) }
    );
    ledger.ended(&limits, PermitId(7), At(0), Sent::Maybe);
    assert_eq!(asked(&limits, &ledger, &[Cost::FREE], 0), Decision::Go);
    assert_eq!(asked(&limits, &ledger, &[Cost::FREE, Cost::of(2)], 0), wait(3 * S, 1));
    // Costs are nothing it knows: a permit with them is malformed there.
    let newer = [1, 1, b'a', 0, 0, 1, 7, 1, 4, 0, 0, 0, 0];
    assert!(Ledger::decode(&limits, &framed_as(2, &newer), At(0)).is_err());
}

proptest! {
    #[test]
    fn a_release_frees_one_place_of_its_number(jobs in prop::collection::vec(0u64..4, 1..20), told in prop::collection::vec(0u64..5, 0..30)) {
        let limits = set([limit("jobs", Rule::Jobs { max: max(100), ttl: Span::from_secs(60) })]);
        let (mut ledger, mut left) = (Ledger::new(), jobs.clone());
        for (id, job) in jobs.iter().enumerate() {
            ledger.take(&limits, PermitId(id as u64), Ask::new(0).for_job(*job), At(0));
            ledger.ended(&limits, PermitId(id as u64), At(id as i64), Sent::Maybe);
        }
        for job in told {
            let known = left.iter().position(|left| *left == job).filter(|_| job > 0);
            prop_assert_eq!(ledger.release(&limits, job), known.is_some());
            known.map(|place| left.swap_remove(place));
            let room = Cost::of(100 - left.len() as u32);
            prop_assert_eq!(asked(&limits, &ledger, &[room], S), Decision::Go);
            let more = Cost::of(room.units + 1);
            prop_assert_ne!(asked(&limits, &ledger, &[more], S), Decision::Go);
        }
    }
}
