//! Each fault as its evidence, and the answer.

use super::*;

fn node() -> Evidence {
    Evidence {
        node: "node-a".into(),
        window_s: 30.0,
        slots: 64,
        slots_open: 64,
        cpu: Cpu { cpus: 2.0, used: 0.2, machine: 0.3, starved: 0.0 },
        ..Evidence::default()
    }
}

fn waits(cause: Waits, limit: Option<&str>, seconds: f64) -> Waited {
    let limit = limit.map(str::to_owned);
    Waited { platform: "kakao".into(), api: "report".into(), cause, limit, seconds }
}

/// So many attempts, each with so many milliseconds of that.
fn spends(phase: Phase, count: u64, each_ms: u64) -> Phased {
    let us = count * each_ms * 1000;
    let spent = Spent { us, count, whole_us: us, max_us: each_ms * 1200, ..Spent::default() };
    let best_us = (phase == Phase::FirstByte).then_some(20_000);
    Phased { platform: "kakao".into(), api: "report".into(), phase, spent, best_us }
}

/// What calls take where nothing is slow.
fn well(count: u64) -> Vec<Phased> {
    let each = [1, 2, 30, 3, 4, 1];
    Phase::ALL.into_iter().zip(each).map(|(phase, ms)| spends(phase, count, ms)).collect()
}

fn with(mut phases: Vec<Phased>, slow: Phased) -> Vec<Phased> {
    phases.retain(|one| one.phase != slow.phase);
    phases.push(slow);
    phases
}

#[track_caller]
fn first(evidence: Evidence) -> Finding {
    let report = diagnose(&[evidence]);
    report.findings.first().unwrap_or_else(|| panic!("nothing found: {report:?}")).clone()
}

#[test]
fn nothing_holds_back_a_node_without_work() {
    let report = diagnose(&[node()]);
    assert_eq!(report.findings, []);
    assert!(!report.has_fault());
}

#[test]
fn a_limit_that_is_used_up_is_named_and_is_no_fault() {
    let ends = Ended {
        platform: "kakao".into(),
        api: "report".into(),
        ends: Ends { done: 300, ..Ends::default() },
    };
    let waits = vec![waits(Waits::Limit, Some("gap"), 285.0), waits(Waits::Ledger, None, 15.0)];
    let found = first(Evidence { waits, phases: well(300), ends: vec![ends], ..node() });
    assert_eq!(found.kind, Kind::Limit);
    assert_eq!(found.what, "limit `gap` of kakao is used up");
    assert!((found.share - 0.95).abs() < 1e-9);
    assert!(found.advice.contains("about 19.0 calls/s instead of 10.0"), "{}", found.advice);
    assert!(!found.kind.is_fault());
}

#[test]
fn accounts_that_wait_for_collectors_wait_for_what_is_slow() {
    let waiting = || vec![waits(Waits::Collector, None, 300.0)];
    let cases = [
        (well(3000), Kind::Collectors),
        (with(well(600), spends(Phase::FirstByte, 600, 3000)), Kind::Provider),
        (with(well(600), spends(Phase::Body, 600, 3000)), Kind::Provider),
        (with(well(600), spends(Phase::Connect, 600, 1000)), Kind::Network),
        (with(well(600), spends(Phase::Store, 600, 2000)), Kind::StoreSlow),
        (with(well(600), spends(Phase::Ack, 600, 400)), Kind::Queue),
    ];
    for (phases, kind) in cases {
        let found = first(Evidence { waits: waiting(), phases, slots_open: 0, ..node() });
        assert_eq!(found.kind, kind, "{found:?}");
        assert!(found.share > 0.99 && kind.is_fault());
    }
}

#[test]
fn a_provider_that_always_took_a_second_is_not_called_slow() {
    let mut phases = with(well(600), spends(Phase::FirstByte, 600, 1000));
    for one in &mut phases {
        one.best_us = one.best_us.map(|_| 900_000);
    }
    let waits = vec![waits(Waits::Collector, None, 300.0)];
    assert_eq!(first(Evidence { waits, phases, ..node() }).kind, Kind::Collectors);
}

#[test]
fn connections_that_wait_for_names_are_slow_by_these() {
    let waits = vec![waits(Waits::Collector, None, 300.0)];
    let phases = with(well(100), spends(Phase::Connect, 100, 1000));
    let us = 90_000_000;
    let names = Spent { us, count: 100, whole_us: us, ..Spent::default() };
    assert_eq!(first(Evidence { waits, phases, names, ..node() }).kind, Kind::Dns);
}

#[test]
fn waiting_for_records_is_waiting_for_nats_where_they_are_there() {
    let waits = || vec![waits(Waits::Ledger, None, 250.0), waits(Waits::Limit, Some("gap"), 50.0)];
    let phases = || with(well(100), spends(Phase::Ledger, 100, 400));
    let found = first(Evidence { waits: waits(), phases: phases(), on_nats: true, ..node() });
    assert_eq!(found.kind, Kind::NatsSlow);
    let found = first(Evidence { waits: waits(), phases: phases(), ..node() });
    assert_eq!(found.kind, Kind::Ledger);
}

#[test]
fn what_is_broken_comes_before_all_else() {
    let waits = || vec![waits(Waits::Limit, Some("gap"), 299.0), waits(Waits::Store, None, 1.0)];
    let why = "store o: the store is full: no space left on device".to_owned();
    let full = first(Evidence { waits: waits(), store_away: Some(why), ..node() });
    assert_eq!(full.kind, Kind::StoreFull);
    let why = "store o: 503 Slow Down".to_owned();
    let away = first(Evidence { waits: waits(), store_away: Some(why.clone()), ..node() });
    assert_eq!((away.kind, &away.evidence), (Kind::StoreAway, &vec![why]));
    assert_eq!(first(Evidence { nats_away: true, ..node() }).kind, Kind::NatsAway);
}

fn blocked(seconds: f64, ran_s: f64, starved_s: f64) -> Vec<Blocked> {
    let (doing, account) = (Doing::Collecting, Some("kakao/a1".to_owned()));
    let (shard, times, longest_s, now) = (1, 9, seconds / 9.0, false);
    vec![Blocked { shard, times, seconds, longest_s, now, doing, account, ran_s, starved_s }]
}

#[test]
fn a_blocked_shard_is_told_with_what_it_ran_and_whether_it_computed() {
    let found = first(Evidence { blocked: blocked(20.0, 19.0, 0.5), ..node() });
    assert_eq!(found.kind, Kind::ShardBlocked);
    assert_eq!(found.what, "shard 1 of node-a does not turn: it computes");
    assert!(found.evidence[1].contains("collecting for kakao/a1"), "{:?}", found.evidence);
    let found = first(Evidence { blocked: blocked(20.0, 0.1, 0.5), ..node() });
    assert!(found.what.contains("a call that blocks"), "{}", found.what);
    let found = first(Evidence { blocked: blocked(20.0, 0.1, 19.0), ..node() });
    assert!(found.what.contains("something else takes its CPU"), "{}", found.what);
    // A few short ones are no finding.
    assert_eq!(diagnose(&[Evidence { blocked: blocked(1.0, 1.0, 0.0), ..node() }]).findings, []);
}

#[test]
fn a_shard_without_a_cpu_is_the_machines_matter() {
    let cpu = Cpu { cpus: 2.0, used: 0.4, machine: 1.0, starved: 0.7 };
    let found = first(Evidence { blocked: blocked(20.0, 0.1, 19.0), cpu, ..node() });
    assert_eq!(found.kind, Kind::Cpu);
    assert!(found.what.contains("others use them"), "{}", found.what);
    // A machine that is busy with what gives way is not too small.
    let cpu = Cpu { starved: 0.01, ..cpu };
    let waits = vec![waits(Waits::Collector, None, 300.0)];
    let phases = well(9000);
    assert_eq!(first(Evidence { waits, phases, cpu, ..node() }).kind, Kind::Collectors);
}

#[test]
fn a_fault_that_costs_a_tenth_comes_before_limits_that_are_used_up() {
    let waits = |late: f64| {
        vec![waits(Waits::Limit, Some("gap"), 300.0 - late), waits(Waits::Turn, None, late)]
    };
    let kinds = |evidence| -> Vec<Kind> {
        diagnose(&[evidence]).findings.iter().map(|found| found.kind).collect()
    };
    let stopped = || blocked(24.0, 0.1, 0.5);
    let found = kinds(Evidence { waits: waits(90.0), blocked: stopped(), ..node() });
    assert_eq!(found, [Kind::ShardBlocked, Kind::Limit]);
    // A shard that had nothing to do while it was stopped is in nobody's way.
    let found = kinds(Evidence { waits: waits(1.0), blocked: stopped(), ..node() });
    assert_eq!(found, [Kind::Limit, Kind::ShardBlocked]);
    // Nor is a machine that is busy while all wait for their limits.
    let cpu = Cpu { cpus: 2.0, used: 0.4, machine: 1.0, starved: 0.9 };
    assert_eq!(kinds(Evidence { waits: waits(1.0), cpu, ..node() }), [Kind::Limit]);
    let found = kinds(Evidence { waits: waits(90.0), cpu, ..node() });
    assert_eq!(found, [Kind::Cpu, Kind::Limit]);
    // Late for a reason that nobody knows.
    let found = kinds(Evidence { waits: waits(90.0), ..node() });
    assert_eq!(found, [Kind::Turn, Kind::Limit]);
}

#[test]
fn a_storm_of_refusals_names_its_account() {
    let held = HeldNow {
        platform: "kakao".into(),
        account: "a7".into(),
        waiting: 40,
        because: "the provider answered 429".into(),
        until: None,
    };
    let waits = vec![waits(Waits::Hold, None, 29.0), waits(Waits::Limit, Some("gap"), 20.0)];
    let found = first(Evidence { waits, held: vec![held], held_count: 1, ..node() });
    assert_eq!(found.kind, Kind::Throttled);
    assert_eq!(found.what, "kakao/a7 is held: the provider answered 429");
}

#[test]
fn a_limit_of_calls_in_flight_is_the_providers_matter_where_that_is_slow() {
    let waiting = || vec![waits(Waits::Flight, Some("slots"), 300.0)];
    let phases = with(well(100), spends(Phase::FirstByte, 100, 3000));
    assert_eq!(first(Evidence { waits: waiting(), phases, ..node() }).kind, Kind::Provider);
    let found = first(Evidence { waits: waiting(), phases: well(9000), ..node() });
    assert_eq!(found.kind, Kind::Limit);
}

#[test]
fn nodes_are_examined_together() {
    let one = Evidence { waits: vec![waits(Waits::Limit, Some("gap"), 30.0)], ..node() };
    let other = Evidence {
        node: "node-b".into(),
        waits: vec![waits(Waits::Collector, None, 270.0)],
        phases: well(9000),
        ..node()
    };
    let report = diagnose(&[one, other]);
    let kinds: Vec<Kind> = report.findings.iter().map(|found| found.kind).collect();
    assert_eq!(kinds, [Kind::Collectors, Kind::Limit]);
    assert!((report.accounts - 10.0).abs() < 1e-9);
}

fn of(platform: &str, api: &str, mut phased: Phased, best_us: Option<u64>) -> Phased {
    (phased.platform, phased.api) = (platform.into(), api.into());
    phased.best_us = best_us.filter(|_| phased.phase == Phase::FirstByte);
    phased
}

#[test]
fn each_api_is_slow_or_not_by_itself() {
    // One platform is quick and busy, the other slow: the mean of both would be quick.
    let mut phases: Vec<Phased> = well(30_000);
    phases.push(of("slow", "x", spends(Phase::FirstByte, 150, 10_000), Some(9_000_000)));
    let mut waiting = waits(Waits::Flight, Some("slots"), 300.0);
    waiting.platform = "slow".into();
    let found = first(Evidence { waits: vec![waiting], phases: phases.clone(), ..node() });
    assert_eq!(found.kind, Kind::Provider);
    assert!(found.evidence.iter().any(|line| line.contains("slow/x")), "{:?}", found.evidence);
    // The limit of the quick one waits for calls that are as they should be.
    let waiting = vec![waits(Waits::Flight, Some("slots"), 300.0)];
    assert_eq!(first(Evidence { waits: waiting, phases, ..node() }).kind, Kind::Limit);
    // What always takes so long is not slower for being beside something quick.
    let mut phases = vec![of("quick", "x", spends(Phase::FirstByte, 10, 5), Some(5_000))];
    phases.push(of("usual", "y", spends(Phase::FirstByte, 3_000, 600), Some(580_000)));
    let waiting = vec![waits(Waits::Collector, None, 300.0)];
    assert_eq!(first(Evidence { waits: waiting, phases, ..node() }).kind, Kind::Collectors);
}

#[test]
fn a_store_is_not_blamed_for_collectors_that_calls_take_up_and_is_for_bodies_that_wait_for_it() {
    let waiting = || vec![waits(Waits::Collector, None, 300.0)];
    // 64 collectors for 30 s are 1,920 s: calls of 0.4 s take nearly all of it.
    let phases = with(well(4_500), spends(Phase::FirstByte, 4_500, 400));
    let phases = with(phases, spends(Phase::Store, 4_500, 700));
    assert_eq!(first(Evidence { waits: waiting(), phases, ..node() }).kind, Kind::Collectors);
    // Large bodies, which come as fast as the store takes them.
    let phases = with(well(40), spends(Phase::Body, 40, 40_000));
    let phases = with(phases, spends(Phase::Store, 40, 1_000));
    assert_eq!(first(Evidence { waits: waiting(), phases, ..node() }).kind, Kind::StoreSlow);
}

#[test]
fn a_hold_is_what_its_calls_ended_in() {
    let found = |ends| {
        let ends = Ended { platform: "kakao".into(), api: "report".into(), ends };
        // Another platform's refusals say nothing of this one.
        let other = Ends { throttled: 99, ..Ends::default() };
        let other = Ended { platform: "meta".into(), api: "x".into(), ends: other };
        let waits = vec![waits(Waits::Hold, None, 29.0)];
        first(Evidence { waits, ends: vec![ends, other], ..node() })
    };
    let unreachable = found(Ends { unreachable: 20, done: 3, ..Ends::default() });
    assert_eq!((unreachable.kind, unreachable.kind.is_fault()), (Kind::Network, true));
    assert_eq!(found(Ends { failed: 9, done: 1, ..Ends::default() }).kind, Kind::Failing);
    let told = found(Ends { done: 50, ..Ends::default() });
    assert_eq!((told.kind, told.kind.is_fault()), (Kind::Limit, false));
    assert_eq!(found(Ends { throttled: 1, done: 50, ..Ends::default() }).kind, Kind::Throttled);
    // A long hold, of which the window has only the waiting.
    assert_eq!(found(Ends::default()).kind, Kind::Throttled);
}
