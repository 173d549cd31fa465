//! Another configuration while calls are made: each goes by the limits in force when it is let through, and by all
//! that is known of those before; nothing is lost.

use std::collections::BTreeMap;

use tollgate_gate::{At, Ledger};

use super::oracle::{Limit, Phase, Rule, assert_earliest_in, consistent_named, some_ms};
use super::*;
use crate::ledger::record::Record;
use crate::testkit::on_points;

/// An hour in milliseconds.
const HOUR: u64 = 3_600_000;

fn phase(from: u64, rules: &[(&str, Rule)]) -> Phase {
    let limits = rules.iter().map(|(name, rule)| ((*name).to_owned(), Limit::new(*rule)));
    Phase { from, limits: limits.collect() }
}

fn setup(phase: &Phase) -> Setup {
    let text: Vec<String> = phase.limits.iter().map(|(name, limit)| limit.toml(name)).collect();
    limits(&text.join("\n"))
}

/// Runs accounts with fetches of both apis through the phases and judges every call.
fn judged(seed: u64, phases: &[Phase], accounts: &[&str], apis: [usize; 2], most: u64) {
    let (phases, accounts) = (phases.to_vec(), accounts.iter().map(|a| (*a).to_owned()));
    let accounts: Vec<String> = accounts.collect();
    paused(|| async move {
        let rig = Rig::start(setup(&phases[0]), move |seen| {
            let sum = id_of(seen).bytes().fold(seed, |sum, b| sum.wrapping_mul(31) + u64::from(b));
            let mut random = fastrand::Rng::with_seed(sum);
            Reply::ok("{}")
                .written_after(some_ms(&mut random, 30))
                .then(some_ms(&mut random, most), " ")
                .head_after(some_ms(&mut random, most))
        });
        for account in &accounts {
            rig.put_many(account, "a", apis[0]).await;
            rig.put_many(account, "b", apis[1]).await;
        }
        for phase in &phases[1..] {
            rig.at(phase.from).await;
            rig.reload(&setup(phase)).await;
        }
        rig.all_end(secs(7200)).await;
        for account in &accounts {
            assert_earliest_in(&rig, account, &phases, &[("a", apis[0]), ("b", apis[1])]);
        }
        rig.log.assert_recorded_before_called();
    });
}

#[test]
fn a_tightened_limit_counts_the_calls_of_its_window() {
    let rules = [phase(0, &[("l", Rule::Max(8, 5000))]), phase(700, &[("l", Rule::Max(3, 5000))])];
    judged(1, &rules, &["x", "y"], [12, 8], 60);
    let gap = [phase(0, &[("l", Rule::Every(100))]), phase(1050, &[("l", Rule::Every(1500))])];
    judged(2, &gap, &["x", "y"], [15, 5], 60);
}

#[test]
fn a_lengthened_limit_counts_what_the_shorter_one_remembered() {
    let rules = [phase(0, &[("l", Rule::Max(4, 1000))]), phase(2300, &[("l", Rule::Max(4, 9000))])];
    judged(3, &rules, &["x", "y"], [20, 4], 60);
}

#[test]
fn a_loosened_limit_lets_go_at_once_what_it_allows() {
    let rules = [phase(0, &[("l", Rule::Max(2, 4000))]), phase(900, &[("l", Rule::Max(5, 4000))])];
    judged(4, &rules, &["x", "y"], [14, 6], 60);
    // Asleep by then: the account rests as a record.
    let gap = [phase(0, &[("l", Rule::Every(HOUR))]), phase(20_000, &[("l", Rule::Every(30_000))])];
    judged(5, &gap, &["x", "y", "z"], [2, 1], 60);
}

#[test]
fn an_account_at_rest_goes_by_a_longer_limit_too() {
    let gap =
        [phase(0, &[("l", Rule::Every(30_000))]), phase(20_000, &[("l", Rule::Every(60_000))])];
    judged(6, &gap, &["x", "y", "z"], [2, 1], 60);
}

#[test]
fn limits_that_come_and_go_count_from_the_moment_they_are_there() {
    let (gap, pair) = (("gap", Rule::Every(300)), ("pair", Rule::Max(2, 2500)));
    let slots = ("slots", Rule::Concurrent(1));
    let rules = [
        phase(0, &[gap]),
        phase(1000, &[gap, pair]),
        phase(6000, &[pair, slots]),
        phase(9000, &[]),
        phase(9002, &[slots]),
    ];
    judged(7, &rules, &["x", "y"], [20, 20], 200);
}

#[test]
fn limits_that_change_by_seed_let_each_call_go_at_the_first_allowed_millisecond() {
    for seed in 0..30 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut phases = vec![Phase { from: 0, limits: Vec::new() }];
        for name in ["l0", "l1", "l2"] {
            if random.u8(0..3) > 0 {
                phases[0].limits.push((name.to_owned(), Limit::new(some_rule(&mut random))));
            }
        }
        for _ in 0..random.usize(1..=4) {
            let mut next = phases[phases.len() - 1].clone();
            next.from += random.u64(1..4000);
            next.limits.retain(|_| random.u8(0..5) > 0);
            for (_, limit) in &mut next.limits {
                if random.bool() {
                    *limit = Limit::new(some_rule(&mut random));
                }
            }
            let new = format!("n{}", phases.len());
            if random.u8(0..3) == 0 {
                next.limits.push((new, Limit::new(some_rule(&mut random))));
            }
            phases.push(next);
        }
        for phase in &mut phases {
            phase.limits = consistent_named(std::mem::take(&mut phase.limits));
        }
        let accounts = &["x", "y", "z"][..random.usize(1..=3)];
        let apis = [random.usize(4..=9), random.usize(0..=6)];
        let most = random.u64(1..400);
        println!("seed {seed}: {phases:?} {accounts:?} {apis:?}");
        judged(seed, &phases, accounts, apis, most);
    }
}

fn some_rule(random: &mut fastrand::Rng) -> Rule {
    match random.u8(0..5) {
        0 => Rule::Every(random.u64(1..1500)),
        1 => Rule::Every(random.u64(5200..6500)),
        2 | 3 => Rule::Max(random.usize(1..=5), random.u64(1..4000)),
        _ => Rule::Concurrent(random.usize(1..=4)),
    }
}

#[test]
fn no_permit_is_given_upon_a_record_of_the_form_before() {
    paused(|| async {
        let (old, new) = (phase(0, &[]), phase(50, &[("l", Rule::Max(2, 60_000))]));
        // Without limits many calls go on one record.
        let rig = Rig::start(setup(&old).concurrency(1), |_| Reply::ok("{}").head_after(ms(10)));
        rig.put_many("x", "a", 20).await;
        rig.at(50).await;
        let before = rig.calls().len();
        assert!((2..19).contains(&before), "{before} calls before the change");
        rig.reload(&setup(&new)).await;
        rig.at(40_000).await;
        let (first, _) = rig.calls().into_iter().find(|(at, _)| *at > 50).unwrap();
        let hash = rig.shared.plan.get().hash.clone();
        let of_now =
            |(at, record): &(Instant, Record)| rig.ms(*at) <= first && record.config == hash;
        assert!(
            rig.log.records("x").iter().any(of_now),
            "a call at {first} ms without a new record"
        );
        // One in flight when it came counts.
        assert!(rig.calls().len() <= before + 2, "{:?}", rig.calls());
        let limits = &rig.shared.plan.get().platforms[&Slug::new("p").unwrap()].limits;
        let records = rig.log.records("x");
        let (_, last) = records.last().unwrap();
        assert!(last.open.is_empty(), "a block lets calls go without a record");
        let (_, notes) = Ledger::decode(limits, &last.gate, At(0)).unwrap();
        assert_eq!(notes, [], "the stored record is of the new form");
        assert_eq!(last.config, rig.shared.plan.get().hash);
        rig.all_end(secs(3600)).await;
        rig.log.assert_recorded_before_called();
    });
}

#[test]
fn a_change_while_the_ledger_is_slow_gives_no_permit_that_only_the_old_limits_allowed() {
    paused(|| async {
        let max = |from, max| phase(from, &[("l", Rule::Max(max, 60_000))]);
        let (old, new) = (max(0, 5), max(150, 1));
        let rig = Rig::start(setup(&old), |_| Reply::ok("{}"));
        rig.put("x", "a", "one").await;
        rig.at(100).await;
        rig.ledger.next_stores([seams::Turn { answer_after: ms(200), ..seams::Turn::default() }]);
        rig.put("x", "a", "two").await;
        rig.at(150).await;
        assert_eq!(rig.calls().len(), 1, "the second waits for its record");
        rig.reload(&setup(&new)).await;
        rig.all_end(secs(600)).await;
        // By the old limits it would have gone at 300 ms, when its record was confirmed.
        assert_eq!(rig.times_of("two"), [60_000]);
        rig.log.assert_recorded_before_called();
    });
}

fn with_apis(order: &[&str]) -> Setup {
    let apis =
        order.iter().map(|api| format!("[platforms.p.apis.{api}]\npath = \"{api}/{{id}}\"\n"));
    let platform = format!(
        "[platforms.p.limits]\neach = {{ per = [\"account\", \"api\"], every = \"1s\", guard = \"0ms\" }}\n{}",
        apis.collect::<String>()
    );
    Setup { platform, ..limits("") }
}

#[test]
fn apis_that_change_their_order_keep_their_charges() {
    paused(|| async {
        let rig = Rig::start(with_apis(&["a", "b"]), |_| Reply::ok("{}"));
        rig.put_many("x", "a", 3).await;
        rig.at(500).await;
        rig.put_many("x", "b", 3).await;
        rig.at(700).await;
        rig.reload(&with_apis(&["c", "b", "a"])).await;
        rig.put_many("x", "c", 1).await;
        rig.all_end(secs(60)).await;
        assert_eq!(rig.times_of("x-c-0"), [700]);
        let of = |api| -> Vec<u64> {
            let calls = rig.calls().into_iter();
            calls.filter(|(_, id)| id.starts_with(api)).map(|(at, _)| at).collect()
        };
        assert_eq!(of("x-a"), [0, 1000, 2000]);
        assert_eq!(of("x-b"), [500, 1500, 2500]);
    });
}

#[test]
fn fetches_of_an_api_that_is_removed_wait_until_it_is_back_and_its_calls_in_flight_end() {
    paused(|| async {
        let rig = Rig::start(with_apis(&["a", "b"]), |_| Reply::ok("{}").head_after(ms(300)));
        rig.put_many("x", "a", 4).await;
        rig.put_many("x", "b", 4).await;
        rig.at(1100).await;
        assert_eq!(rig.calls().len(), 4);
        rig.reload(&with_apis(&["b"])).await;
        rig.at(2000).await;
        assert_eq!(rig.done(), 4, "also the call of `a` that was in flight");
        rig.at(30_000).await;
        assert_eq!((rig.done(), rig.dead().await.len()), (6, 0), "all of `b`, two of `a`");
        rig.reload(&with_apis(&["a", "b"])).await;
        rig.all_end(secs(60)).await;
        assert_eq!((rig.done(), rig.dead().await.len()), (8, 0));
        for number in 0..4 {
            assert_eq!(rig.times_of(&format!("x-a-{number}")).len(), 1, "each called once");
        }
    });
}

#[test]
fn a_platform_that_is_removed_makes_no_calls_until_it_is_back() {
    paused(|| async {
        let text = r#"gap = { per = ["account"], every = "1s", guard = "0ms" }"#;
        let rig = Rig::start(limits(text), |_| Reply::ok("{}").head_after(ms(50)));
        rig.put_many("x", "a", 4).await;
        rig.at(1020).await;
        let in_force = rig.shared.plan.get();
        let without = Plan { platforms: BTreeMap::new(), ..Plan::clone(&in_force) };
        rig.shard.send(Reload(Arc::new(without))).await.unwrap();
        rig.discover().await;
        rig.at(60_000).await;
        assert_eq!((rig.done(), rig.calls().len()), (2, 2), "the one in flight ended");
        rig.reload(&limits(text)).await;
        rig.all_end(secs(60)).await;
        assert_eq!((rig.done(), rig.dead().await.len()), (4, 0));
    });
}

#[test]
fn a_hold_stays_over_a_change() {
    paused(|| async {
        let text =
            |gap: &str| limits(&format!(r#"gap = {{ per = ["account"], every = "{gap}" }}"#));
        let rig = Rig::start(text("1s"), |_| Reply::status(429).header("retry-after", "40"));
        rig.put("x", "a", "one").await;
        rig.at(1000).await;
        rig.answer(|_| Reply::ok("{}"));
        rig.reload(&text("10ms")).await;
        rig.all_end(secs(600)).await;
        assert_eq!(rig.times_of("one"), [0, 40_000]);
    });
}

#[test]
fn an_actor_that_dies_after_a_change_goes_by_the_new_limits() {
    paused(|| async {
        let text =
            |gap: &str| limits(&format!(r#"gap = {{ per = ["account"], every = "{gap}" }}"#));
        let rig = Rig::start(text("2s"), |_| Reply::ok("{}").head_after(ms(100)));
        rig.put_many("x", "a", 5).await;
        rig.at(2050).await;
        rig.reload(&text("4s")).await;
        let left = std::cell::Cell::new(1);
        let _hooked = on_points(move |name, who| {
            assert!((name, who) != ("step", "x") || left.replace(0) == 0, "it panics on purpose");
        });
        rig.all_end(secs(600)).await;
        let times: Vec<u64> = rig.calls().iter().map(|(at, _)| *at).collect();
        assert!(times.windows(2).skip(1).all(|pair| pair[1] - pair[0] >= 4000), "{times:?}");
        assert_eq!(times.len(), 5);
    });
}

#[test]
fn a_hundred_changes_in_a_row_lose_nothing_and_exceed_nothing() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut phases = vec![phase(0, &[("l", Rule::Max(3, 800)), ("g", Rule::Every(40))])];
    for change in 1..=100_u64 {
        let (max, window) = (random.usize(1..=5), random.u64(300..2000));
        let gap = ("g", Rule::Every(random.u64(1..200)));
        let rules = [("l", Rule::Max(max, window)), gap];
        phases.push(phase(change * 97, &rules[..random.usize(1..=2)]));
    }
    judged(8, &phases, &["x", "y", "z"], [30, 20], 150);
}

/// All accounts together, so many in a window.
fn together(max: usize, window: &str, more: &str) -> Setup {
    let platform = format!(
        "[platforms.p.limits]\n\
         all = {{ per = [\"platform\"], max = {max}, in = \"{window}\", guard = \"0ms\" }}\n\
         [platforms.p.apis.a]\npath = \"a/{{id}}\"\n{more}\n"
    );
    Setup { platform, ..limits("") }
}

#[test]
fn what_comes_back_from_a_call_counts_in_the_budgets_of_now() {
    paused(|| async {
        let rig = Rig::start(together(100, "100s", ""), |_| Reply::status(500).head_after(ms(300)));
        rig.put_many("x", "a", 3).await;
        rig.at(100).await;
        assert_eq!(rig.calls().len(), 3);
        rig.reload(&together(1, "100s", "")).await;
        rig.answer(|_| Reply::ok("{}"));
        rig.all_end(secs(3600)).await;
        let again: Vec<u64> = rig.calls().iter().skip(3).map(|(at, _)| *at).collect();
        assert_eq!(again.len(), 3);
        // Those before count too, and the three that come back are a window apart.
        assert!(again[0] >= 100_000, "{again:?}");
        assert!(again.windows(2).all(|pair| pair[1] - pair[0] >= 100_000), "{again:?}");
    });
}

#[test]
fn those_that_waited_for_another_ones_answer_count_in_the_budgets_of_now() {
    paused(|| async {
        let together = |max| {
            let mut setup = together(max, "100s", "query = { q = \"{q}\" }");
            setup.platform = setup.platform.replace("a/{id}", "a/x");
            setup
        };
        let rig = Rig::start(together(100), |_| Reply::status(404).head_after(ms(500)));
        for id in ["leader", "one", "two"] {
            let fields = r#""params":{"q":"1"},"fresh_for":"10m""#;
            rig.put_as("x", "a", id, Priority::Normal, fields).await;
        }
        rig.at(100).await;
        assert_eq!(rig.calls().len(), 1, "the others wait for its answer");
        rig.reload(&together(1)).await;
        rig.all_end(secs(3600)).await;
        let times: Vec<u64> = rig.calls().iter().map(|(at, _)| *at).collect();
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 100_000), "{times:?}");
        assert_eq!(times.len(), 3);
    });
}

#[test]
fn a_key_that_cannot_be_filled_in_any_more_refuses_what_is_at_hand() {
    paused(|| async {
        let of = |key: &str| {
            let mut setup = together(1, "100s", "params = [\"app\"]");
            setup.platform = setup.platform.replace("\"platform\"", "\"app\"");
            setup.platform = format!("keys = {{ app = \"{key}\" }}\n{}", setup.platform);
            setup
        };
        let rig = Rig::start(of("main"), |_| Reply::ok("{}"));
        rig.put_many("x", "a", 3).await;
        rig.at(50_000).await;
        assert_eq!(rig.calls().len(), 1);
        rig.reload(&of("{app}")).await;
        rig.all_end(secs(3600)).await;
        assert_eq!(rig.calls().len(), 1);
        assert_eq!(rig.dead().await.len(), 2);
    });
}
