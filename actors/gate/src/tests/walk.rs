//! A walk goes as early as limits allow and never earlier; the oracle is arithmetic on lists of moments.

use core::num::NonZeroU32;

use proptest::prelude::*;

use crate::*;

/// `max` calls in `window`; a gap is one.
fn limit(name: usize, max: u32, window: Span, guard: Guard) -> Limit {
    let rule = match NonZeroU32::new(max) {
        Some(max) if max.get() > 1 => Rule::Sliding { max, window },
        _ => Rule::Every { gap: window },
    };
    Limit { name: format!("l{name}"), per_api: false, api: None, rule, guard }
}

fn run(calls: u64) -> Run {
    Run { not_before: At(0), deadline: At::MAX, calls }
}

fn starts(limits: &LimitSet, work: &[LaneWork], latency: Span) -> (Vec<(ApiIx, At)>, At) {
    let mut walk = Walk::new(limits, Ledger::new(), work, At(0), 10_000);
    let mut starts = Vec::new();
    loop {
        match walk.step(|_| latency, |_, _, _| None) {
            Step::Called { api, at, .. } => starts.push((api, at)),
            Step::Kept => unreachable!("nothing keeps it"),
            Step::Ended => return (starts, walk.now()),
        }
    }
}

/// Call i goes when call i - max was charged a window ago, for every limit, and not before call i - 1.
fn greedy(limits: &[(u32, u64, Option<u64>)], calls: usize, latency: u64) -> Vec<i64> {
    let mut starts: Vec<i64> = Vec::new();
    for i in 0..calls {
        let free = limits.iter().filter_map(|(max, window, guard)| {
            let before = starts[i.checked_sub(*max as usize)?];
            let charge = latency.min(guard.unwrap_or(u64::MAX));
            Some(before + (charge + window) as i64)
        });
        let previous = starts.last().copied().unwrap_or(0);
        starts.push(free.max().unwrap_or(0).max(previous));
    }
    starts
}

proptest! {
    #[test]
    fn calls_go_exactly_when_every_limit_lets_them(
        limits in prop::collection::vec(
            (1_u32..12, 1_000_u64..400_000, prop::option::of(0_u64..90_000)), 1..5),
        calls in 1_usize..60,
        latency in 0_u64..150_000,
    ) {
        let set = limits.iter().enumerate().map(|(i, (max, window, guard))| {
            let guard = guard.map_or(Guard::Never, |us| Guard::After(Span(us)));
            limit(i, *max, Span(*window), guard)
        });
        let set = LimitSet::new(set.collect()).unwrap();
        let lane = LaneWork { api: 0, rank: 0, costs: vec![], group: 0, runs: vec![run(calls as u64)] };
        let (walked, end) = starts(&set, &[lane], Span(latency));
        let wanted = greedy(&limits, calls, latency);
        prop_assert_eq!(walked.iter().map(|(_, at)| at.0).collect::<Vec<_>>(), wanted.clone());
        prop_assert_eq!(end.0, wanted.last().unwrap() + latency as i64);
    }

    #[test]
    fn what_was_waited_for_adds_up_to_the_time_until_the_last_call(
        calls in 1_u64..40, every in 1_000_u64..90_000, max in 2_u32..5, later in 0_i64..2_000_000,
    ) {
        let set = LimitSet::new(vec![
            limit(0, 1, Span(every), Guard::Default),
            limit(1, max, Span(1_000_000), Guard::Never),
        ]).unwrap();
        let runs = vec![run(calls), Run { not_before: At(later), ..run(2) }];
        let lane = LaneWork { api: 0, rank: 0, costs: vec![], group: 0, runs };
        let mut walk = Walk::new(&set, Ledger::new(), &[lane], At(0), 3);
        let mut last = At(0);
        let mut made = 0;
        while let Step::Called { at, .. } = walk.step(|_| Span(30_000), |_, _, _| None) {
            last = at;
            made += 1;
        }
        prop_assert_eq!(made, calls + 2);
        let waited: u64 = walk.waits().iter().map(|(_, span)| span.0).sum();
        prop_assert_eq!(waited as i64, last.0);
    }
}

#[test]
fn higher_lanes_go_first_and_equal_ones_take_turns() {
    let set = LimitSet::new(vec![limit(0, 1, Span::from_secs(1), Guard::After(Span::ZERO))]);
    let lane =
        |api, rank, calls| LaneWork { api, rank, costs: vec![], group: 0, runs: vec![run(calls)] };
    let work = [lane(0, 1, 2), lane(1, 1, 3), lane(2, 0, 2), lane(3, 2, 1)];
    let (starts, _) = starts(&set.unwrap(), &work, Span::ZERO);
    let apis: Vec<ApiIx> = starts.iter().map(|(api, _)| *api).collect();
    assert_eq!(apis, [2, 2, 0, 1, 0, 1, 1, 3]);
    assert!(starts.windows(2).all(|pair| pair[1].1.since(pair[0].1) == Span::from_secs(1)));
}

#[test]
fn a_turn_that_comes_after_the_deadline_costs_no_call() {
    let set = LimitSet::new(vec![limit(0, 1, Span::from_secs(1), Guard::After(Span::ZERO))]);
    let set = set.unwrap();
    let until = Run { deadline: At(2_500_000), ..run(5) };
    let lane = LaneWork { api: 0, rank: 0, costs: vec![], group: 0, runs: vec![until, run(1)] };
    let mut walk = Walk::new(&set, Ledger::new(), &[lane], At(0), 9);
    let mut made = 0;
    while walk.step(|_| Span::ZERO, |_, _, _| None) != Step::Ended {
        made += 1;
    }
    assert_eq!((made, walk.late()), (4, 2), "at 0, 1, 2 s, and the last at 3 s");
    assert_eq!(walk.now(), At(3_000_000));
}

#[test]
fn calls_in_flight_stay_within_what_the_walk_allows() {
    let set = LimitSet::default();
    let lane = LaneWork { api: 0, rank: 0, costs: vec![], group: 0, runs: vec![run(10)] };
    let mut walk = Walk::new(&set, Ledger::new(), &[lane], At(0), 4);
    while walk.step(|_| Span::from_secs(1), |_, _, _| None) != Step::Ended {}
    assert_eq!(walk.now(), At(3_000_000), "4, 4 and 2 at once");
    assert_eq!(walk.waits(), &[(WaitedFor::Slots, Span::from_secs(2))]);
}

#[test]
fn what_is_kept_goes_when_it_is_let() {
    let set = LimitSet::default();
    let lane = LaneWork { api: 0, rank: 0, costs: vec![], group: 3, runs: vec![run(1)] };
    let mut walk = Walk::new(&set, Ledger::new(), &[lane], At(0), 4);
    let admit = |_: ApiIx, group: u32, now: At| (group == 3 && now < At(7)).then_some(At(7));
    assert_eq!(walk.step(|_| Span(1), admit), Step::Kept);
    assert_eq!(walk.step(|_| Span(1), admit), Step::Called { api: 0, group: 3, at: At(7) });
    assert_eq!(walk.step(|_| Span(1), admit), Step::Ended);
    assert_eq!(walk.waits(), &[(WaitedFor::Shared, Span(7))]);
}

#[test]
fn a_ledger_and_its_holds_count_from_the_beginning() {
    let set = LimitSet::new(vec![limit(0, 1, Span::from_secs(5), Guard::After(Span::ZERO))]);
    let set = set.unwrap();
    let mut ledger = Ledger::new();
    ledger.take(&set, PermitId(7), Ask::new(0), At(0));
    ledger.ended(&set, PermitId(7), At(0), Sent::Never);
    let lane = LaneWork { api: 0, rank: 0, costs: vec![], group: 0, runs: vec![run(1)] };
    let mut walk = Walk::new(&set, ledger, &[lane], At(1_000_000), 4);
    let step = walk.step(|_| Span::ZERO, |_, _, _| None);
    assert_eq!(step, Step::Called { api: 0, group: 0, at: At(5_000_000) });
}

#[test]
fn calls_weigh_what_they_cost() {
    let rule = Rule::Sliding { max: NonZeroU32::new(10).unwrap(), window: Span::from_secs(60) };
    let points = Limit {
        name: "points".into(),
        per_api: false,
        api: None,
        rule,
        guard: Guard::After(Span::ZERO),
    };
    let set = LimitSet::new(vec![points]).unwrap();
    let lane = |cost, calls| LaneWork {
        api: 0,
        rank: 0,
        costs: vec![Cost::of(cost)],
        group: 0,
        runs: vec![run(calls)],
    };
    // 4 + 4 of the heavy ones fit into a window, and 2 of the light ones beside them.
    let (starts, _) = starts(&set, &[lane(4, 4), lane(1, 2)], Span::ZERO);
    let late = starts.iter().filter(|(_, at)| *at >= At(60_000_000)).count();
    assert_eq!((starts.len(), late), (6, 2));
}
